//! What a tag stands for: it moves last, never backwards, and what is said of it is true, though the registry shows it late.

use serde_json::{Value, json};
use support::deployment::{JOB_QUEUE, WEBHOOK_SECRET};
use support::http::Fault;
use support::webhook;

use crate::scenario::{
    DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, layers, small_image,
};

fn images() -> (Image, Image) {
    let [a, b, _] = layers();
    (Image::single(&[a]), Image::single(&[b]))
}

/// The registry asks for so much patience that the copy takes longer than a few seconds.
fn slow() -> Fault {
    Fault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "3".to_owned())],
        body: String::new(),
    }
}

fn written(scenario: &Scenario, tag: &str) -> Vec<String> {
    let writes = scenario.ecr.tag_writes().into_iter();
    writes
        .filter(|write| write.tag == tag)
        .map(|write| write.digest)
        .collect()
}

fn delivery(tag: &str, image: &Image) -> Value {
    let body = webhook::package_event("acme", "api", tag, &image.top);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// A slow copy of an old image, beside a quick one of the new image that ends first: in another execution environment, as each has
/// one event at a time.
#[tokio::test]
async fn a_slow_copy_of_an_old_image_does_not_move_the_tag_back() {
    let events = [
        ("direct", direct("latest")),
        ("webhook", delivery("latest", &images().0)),
    ];
    let runs = events.map(async |(name, event)| {
        let scenario = Scenario::start().await;
        let (old, new) = images();
        scenario.push(REPOSITORY, "latest", &old);
        let server = &scenario.ecr.server;
        server.fault("POST", "/blobs/uploads/", 2, slow());
        let (outcome, ()) = tokio::join!(scenario.invoke(&event), async {
            server.wait_for("POST", "/blobs/uploads/").await;
            scenario.push(REPOSITORY, "latest", &new);
            scenario.ecr.put_image(DESTINATION, "latest", &new);
        });
        let reply = outcome.reply();
        assert!(
            !written(&scenario, "latest").contains(&old.top),
            "{name}: {reply}"
        );
        scenario.assert_stored(name, "latest", &new);
        assert!(reply.to_string().contains("current"), "{name}: {reply}");
    });
    futures_util::future::join_all(runs).await;
}

/// Nobody else copies the new image: then this copy does, as the event of it may have been the one that was lost.
#[tokio::test]
async fn a_slow_copy_that_is_overtaken_copies_the_new_image() {
    let scenario = Scenario::start().await;
    let (old, new) = images();
    scenario.push(REPOSITORY, "latest", &old);
    let server = &scenario.ecr.server;
    server.fault("POST", "/blobs/uploads/", 2, slow());
    let (report, ()) = tokio::join!(scenario.copy("latest"), async {
        server.wait_for("POST", "/blobs/uploads/").await;
        scenario.push(REPOSITORY, "latest", &new);
    });
    assert_eq!(
        (&report["outcome"], &report["digest"]),
        (&json!("copied"), &json!(new.top))
    );
    assert_eq!(written(&scenario, "latest"), [new.top]);
}

/// ECR refuses to write an immutable tag again, be it with the digest that it has.
#[tokio::test]
async fn an_immutable_tag_with_the_right_digest_is_a_success_after_a_lost_answer() {
    // ECR may show the tag late, too.
    for reads in [0, 3] {
        let scenario = Scenario::with_image("1").await;
        scenario.ecr.create_immutable_repository(DESTINATION);
        scenario.ecr.lag_reads(DESTINATION, "1", reads + 1);
        let server = &scenario.ecr.server;
        server.fault("PUT", "/manifests/1", 1, Fault::DropReply);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_eq!(written(&scenario, "1"), [small_image().top]);
    }
}

#[tokio::test]
async fn an_immutable_tag_that_a_twin_copy_has_written_is_a_success() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.create_immutable_repository(DESTINATION);
    let server = &scenario.ecr.server;
    server.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let (report, ()) = tokio::join!(scenario.copy("1"), async {
        server.wait_for("PUT", "/manifests/1").await;
        scenario.ecr.put_image(DESTINATION, "1", &small_image());
        server.release();
    });
    assert_eq!(report["outcome"], "copied", "{report}");
}

#[tokio::test]
async fn the_same_tag_twice_is_one_copy() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.create_immutable_repository(DESTINATION);
    let event = json!({"image": "ghcr.io/acme/api", "tags": ["1", "1"]});
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    let event =
        json!({"source": "ghcr.io/acme/api:1", "destination": ["prod/api:2", "prod/api:2"]});
    let report = scenario.invoke(&event).await.reply();
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(
        written(&scenario, "1").len() + written(&scenario, "2").len(),
        2
    );
}

/// For a moment ECR shows what was there before.
#[tokio::test]
async fn a_tag_that_the_destination_shows_late_is_waited_for() {
    let scenario = Scenario::start().await;
    let (old, new) = images();
    scenario.push(REPOSITORY, "1", &new);
    for reads in [1, 5] {
        scenario.ecr.put_image(DESTINATION, "1", &old);
        scenario.ecr.lag_reads(DESTINATION, "1", reads);
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        scenario.assert_stored("late", "1", &new);
    }
    scenario.push(REPOSITORY, "2", &new);
    scenario.ecr.lag_reads(DESTINATION, "2", 5);
    assert_eq!(
        scenario.copy("2").await["outcome"],
        "copied",
        "404 at first"
    );
}

/// For about ten seconds; after that it is not known, and may be looked at again.
#[tokio::test]
async fn a_tag_that_the_destination_does_not_show_may_be_looked_at_again() {
    let scenario = Scenario::start().await;
    let (old, new) = images();
    scenario.push(REPOSITORY, "1", &new);
    scenario.ecr.put_image(DESTINATION, "1", &old);
    scenario.ecr.lag_reads(DESTINATION, "1", usize::MAX);
    let begin = std::time::Instant::now();
    let (kind, message) = scenario.fail("1").await;
    let elapsed = begin.elapsed().as_secs_f64();
    assert_eq!(kind, "Transient", "{message}");
    assert!((8.0..15.0).contains(&elapsed), "{elapsed} s");
    // The tag was written, and nothing may claim that it was not.
    for claim in ["has not moved", "was not written", "stays where it was"] {
        assert!(!message.contains(claim), "{message}");
    }
    assert!(
        message.contains(&old.top) && message.contains(&new.top),
        "{message}"
    );
}

#[tokio::test]
async fn a_dry_run_of_all_tags_plans_each_and_changes_nothing() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        for tag in ["1", "2", "3"] {
            scenario.push(REPOSITORY, tag, &small_image());
        }
        let event = json!({"source": "ghcr.io/acme/api:1", "all_tags": true, "dry_run": true});
        let reply = scenario.invoke(&event).await.reply();
        let reports = reply["reports"].as_array().expect("reports");
        assert_eq!(
            (&reply["outcome"], reports.len()),
            (&json!("planned"), 3),
            "{reply}"
        );
        assert!(
            reports.iter().all(|report| report["outcome"] == "planned"),
            "{reply}"
        );
        assert!(!scenario.function.log().contains("queued"));
        let repository = scenario.ecr.repository(DESTINATION);
        assert!(repository.tags.is_empty() && repository.manifests.is_empty());
        assert_eq!(scenario.ecr.server.count("POST", "/"), 0);
        assert_eq!(scenario.ecr.server.count("PUT", "/"), 0);
        assert_eq!(scenario.sqs.server.requests().len(), 0);
    }
}

#[tokio::test]
async fn all_tags_go_to_the_destination_that_the_event_names() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        scenario.ecr.create_repository("team/other");
        for tag in ["1", "2"] {
            scenario.push(REPOSITORY, tag, &small_image());
        }
        let event = json!({
            "source": "ghcr.io/acme/api:1", "destination": "team/other", "all_tags": true, "force": true,
        });
        let reply = scenario.invoke(&event).await.reply();
        assert_eq!(reply["outcome"], "copied", "{reply}");
        if has_queue {
            let messages = scenario.sqs.messages(JOB_QUEUE);
            let body: Value = serde_json::from_str(&messages[0].body).expect("JSON");
            assert_eq!(body["force"], true, "{body}");
            scenario.process_queue().await;
        }
        let tags = scenario.ecr.repository("team/other").tags;
        assert_eq!(tags.into_keys().collect::<Vec<_>>(), ["1", "2"]);
        assert!(scenario.ecr.repository(DESTINATION).tags.is_empty());
    }
}

/// The other tags are looked at as closely as the named one.
#[tokio::test]
async fn force_heals_the_other_tags_too() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    for tag in ["1", "2"] {
        scenario.push(REPOSITORY, tag, &image);
        scenario.ecr.put_image(DESTINATION, tag, &image);
    }
    let event = json!({"source": "ghcr.io/acme/api:1", "all_tags": true, "force": true});
    scenario.invoke(&event).await.reply();
    scenario.ecr.delete_blob(DESTINATION, &image.blobs[0].0);
    scenario.process_queue().await;
    scenario.assert_stored("healed", "2", &image);
}

/// To the repository of the first rule that matches, or to the one that is named; without a tag, unless one is named.
#[tokio::test]
async fn a_source_with_a_digest_alone_arrives_untagged() {
    let image = small_image();
    let source = format!("ghcr.io/acme/api@{}", image.top);
    let cases = [
        (json!({"source": source}), "prod/api", None),
        (
            json!({"source": source, "destination": "team/x"}),
            "team/x",
            None,
        ),
        (
            json!({"source": source, "destination": "team/x:7"}),
            "team/x",
            Some("7"),
        ),
    ];
    for (event, repository, tag) in cases {
        let scenario = Scenario::start().await;
        scenario.ecr.create_repository("team/x");
        scenario.ghcr.put_untagged(REPOSITORY, &image);
        let report = scenario.invoke(&event).await.reply();
        assert_eq!(report["outcome"], "copied", "{report}");
        let stored = scenario.ecr.repository(repository);
        assert_eq!(stored.missing_from(&image.top), Vec::<String>::new());
        let tags: Vec<&str> = stored.tags.keys().map(String::as_str).collect();
        assert_eq!(tags, tag.into_iter().collect::<Vec<_>>());
        let destination = report["destination"].as_str().unwrap_or_default();
        let suffix = tag.map_or(format!("@{}", image.top), |tag| format!(":{tag}"));
        assert!(
            destination.ends_with(&format!("{repository}{suffix}")),
            "{report}"
        );
        let again = scenario.invoke(&event).await.reply();
        assert_eq!(again["outcome"], "current", "{again}");
    }
    let scenario = Scenario::start().await;
    let event = json!({"source": format!("ghcr.io/other/api@{}", image.top)});
    let (kind, message) = scenario.invoke(&event).await.error();
    assert!(
        kind == "Invalid" && message.contains("no rule matches other/api"),
        "{message}"
    );
}

/// A push that was overtaken may also be told of by an event that comes inline, and then has nothing left to do.
#[tokio::test]
async fn a_late_event_of_an_old_push_writes_nothing_old() {
    let scenario = Scenario::start().await;
    let (old, new) = images();
    scenario.push(REPOSITORY, "latest", &old);
    scenario.push(REPOSITORY, "latest", &new);
    scenario.ecr.put_image(DESTINATION, "latest", &new);
    let (status, report) = http_reply(&scenario, &delivery("latest", &old)).await;
    assert_eq!(status, 200, "{report}");
    assert_eq!(written(&scenario, "latest"), Vec::<String>::new());
}
