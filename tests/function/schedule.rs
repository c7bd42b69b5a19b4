//! Scheduled runs, events from a bus, and rules from a secret.

use serde_json::{Value, json};
use support::deployment::{JOB_QUEUE, RULES, image_requests};
use support::http::Fault;
use support::image::Blob;
use support::webhook;

use crate::scenario::{Image, REPOSITORY, Scenario, layers, small_image};

fn outcomes(reply: &Value) -> Vec<(String, String)> {
    let reports = match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    };
    let mut outcomes: Vec<_> = reports
        .iter()
        .map(|report| {
            let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
            let tag = text("source")
                .rsplit_once(':')
                .map(|(_, tag)| tag.to_owned());
            (tag.unwrap_or_default(), text("outcome"))
        })
        .collect();
    outcomes.sort();
    outcomes
}

/// A thousand tags, three of them changed: three copies, and for every tag one request to each registry.
#[tokio::test]
async fn a_thousand_tags_cost_a_thousand_looks_and_three_copies() {
    let scenario = Scenario::start_with(&[(
        "RULES",
        r#"[{"source":"acme/api","destination":"prod/api"}]"#,
    )])
    .await;
    let image = small_image();
    for number in 0..1000 {
        scenario
            .ghcr
            .put_image(REPOSITORY, &format!("t{number}"), &image);
    }
    assert_eq!(scenario.copy("t0").await["outcome"], "copied");
    for number in 1..1000 {
        scenario
            .ecr
            .put_tag("prod/api", &format!("t{number}"), &image.top);
    }
    let changed = Image::single(&[Blob::bytes("changed")]);
    for tag in ["t7", "t500", "t999"] {
        scenario.ghcr.put_image(REPOSITORY, tag, &changed);
    }
    scenario.clear_requests();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let outcomes = outcomes(&reply);
    let copied: Vec<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome == "copied")
        .map(|(tag, _)| tag.as_str())
        .collect();
    assert_eq!(copied, ["t500", "t7", "t999"]);
    assert_eq!(
        outcomes
            .iter()
            .filter(|(_, outcome)| outcome == "current")
            .count(),
        997
    );
    assert_eq!(reply["outcome"], "copied");
    // One page of tags, a look at each tag, and for each changed one the manifest that is copied.
    assert_eq!(
        image_requests(&scenario.ghcr.server)
            .iter()
            .filter(|it| it.path.contains("/tags/list"))
            .count(),
        1
    );
    assert_eq!(scenario.ghcr.server.count("HEAD", "/manifests/"), 1000);
    assert_eq!(scenario.ghcr.server.count("GET", "/manifests/"), 3);
    assert_eq!(
        scenario.ecr.server.count("HEAD", "/manifests/"),
        1000 + 2 * 3
    );
    assert_eq!(scenario.ecr.server.count("PUT", "/manifests/"), 3);
    assert_eq!(
        scenario.ghcr.server.count("GET", "/token"),
        0,
        "the token of the copies before is still good"
    );
}

#[tokio::test]
async fn a_schedule_finds_packages_and_hands_over_what_differs() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api","tags":{"semver":">=1"}},
                    {"source":"acme/**","destination":"prod/{basename}","tags":{"exclude":["pr-*"],"newest":2}}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    scenario.ecr.create_repository("prod/web");
    let [a, b, c] = layers();
    let images = [
        Image::single(&[a]),
        Image::single(&[b]),
        Image::single(&[c]),
    ];
    for (tag, image) in ["0.9.0", "1.0.0", "latest"].into_iter().zip(&images) {
        scenario.push(REPOSITORY, tag, image);
    }
    for (tag, image) in ["1", "2", "3"].into_iter().zip(&images) {
        scenario.push("acme/group/web", tag, image);
    }
    scenario.push("acme/group/web", "pr-7", &images[0]);
    // A signature's tag is no image.
    scenario.push(
        "acme/group/web",
        &images[0].top.replace(':', "-"),
        &images[1],
    );
    for event in [
        webhook::scheduled_rule(),
        webhook::scheduler(),
        json!({"reconcile": true}),
    ] {
        let reply = scenario.invoke(&event).await.reply();
        let queued = [("1.0.0", "queued"), ("2", "queued"), ("3", "queued")]
            .map(|(tag, outcome)| (tag.to_owned(), outcome.to_owned()));
        assert_eq!(outcomes(&reply), queued, "{event}");
    }
    assert_eq!(
        scenario.sqs.messages(JOB_QUEUE).len(),
        9,
        "each run is a cause of its own"
    );
    scenario.process_queue().await;
    scenario.assert_stored("by semver", "1.0.0", &images[1]);
    assert_eq!(scenario.ecr.repository("prod/api").tags.len(), 1);
    let tags = scenario.ecr.repository("prod/web").tags;
    assert_eq!(
        tags.keys().collect::<Vec<_>>(),
        ["2", "3"],
        "the newest two"
    );
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    assert_eq!(reply["outcome"], "current");
}

/// The newest two of half a list would be the wrong two.
#[tokio::test]
async fn tags_are_not_chosen_from_half_a_list() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api","tags":{"newest":2}}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    for tag in ["1", "2", "3"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    let page = Fault::Status {
        status: 200,
        headers: vec![(
            "link".to_owned(),
            "<https://evil.example/v2/acme/api/tags/list?last=2>; rel=\"next\"".to_owned(),
        )],
        body: json!({"name": REPOSITORY, "tags": ["1", "2"]}).to_string(),
    };
    scenario.ghcr.server.fault("GET", "/tags/list", 1, page);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["error_kind"], "Invalid", "{reply}");
    let error = reply["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("another host, https://evil.example"),
        "{error}"
    );
    assert!(scenario.ecr.repository("prod/api").tags.is_empty());
}

#[tokio::test]
async fn a_run_may_be_narrowed_and_only_planned() {
    let scenario = Scenario::start().await;
    scenario.ecr.create_repository("prod/web");
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.push("acme/web", "1", &small_image());
    let event = json!({"reconcile": ["acme/w*"], "dry_run": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "planned", "{reply}");
    assert!(
        reply["source"]
            .as_str()
            .is_some_and(|source| source.contains("acme/web:1"))
    );
    assert!(
        scenario
            .ecr
            .server
            .requests()
            .iter()
            .all(|request| ["HEAD", "GET"].contains(&request.method.as_str()))
    );
    let reply = scenario
        .invoke(&json!({"reconcile": ["acme/x*"]}))
        .await
        .reply();
    assert_eq!(reply["outcome"], "ignored", "nothing in scope: {reply}");
}

/// A package that fails stops none of the others. What fails for good is reported and no function error: run again, it would fail
/// again.
#[tokio::test]
async fn one_failure_stops_nothing_else() {
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"},{"source":"gone/*","destination":"gone/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    for name in ["acme/aaa", "acme/api", "acme/zzz"] {
        scenario.push(name, "1", &small_image());
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "failed", "{reply}");
    scenario.assert_stored("between two without a repository", "1", &small_image());
    let log = scenario.function.log();
    for part in ["prod/aaa", "prod/zzz", "list packages gone"] {
        assert!(log.contains(part), "{part} is not in the log");
    }
}

/// A user's packages are listed elsewhere than an organisation's.
#[tokio::test]
async fn a_user_owns_packages_too() {
    let rules = r#"[{"source":"octocat/*","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.github.put_user("octocat");
    scenario.push("octocat/api", "1", &small_image());
    assert_eq!(
        scenario.invoke(&webhook::scheduler()).await.reply()["outcome"],
        "copied"
    );
    scenario.assert_stored("a user's", "1", &small_image());
}

/// Events of GitHub's that a bus passes on; nothing is signed there, and only named sources are believed.
#[tokio::test]
async fn an_event_bus_may_pass_githubs_events_on() {
    let scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    let body = webhook::package_event("acme", "api", "1", &small_image().top);
    let detail: Value = serde_json::from_str(&body).expect("JSON");
    let cases = [
        ("github.com", detail.clone(), "copied"),
        ("github", json!(body), "current"),
        ("runners.webhook", detail.clone(), "ignored"),
    ];
    for (source, detail, outcome) in cases {
        let reply = scenario
            .invoke(&webhook::eventbridge(source, "package", detail))
            .await
            .reply();
        assert_eq!(reply["outcome"], outcome, "{source}: {reply}");
    }
    let reply = scenario
        .invoke(&webhook::eventbridge("github.com", "push", json!({})))
        .await
        .reply();
    assert_eq!(reply["outcome"], "ignored");
}

#[tokio::test]
async fn rules_may_be_in_a_secret() {
    let mut scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.aws.put_secret("ghcr-to-ecr/rules", RULES);
    scenario
        .restart_with(&[("RULES", "secret:ghcr-to-ecr/rules")])
        .await;
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    scenario
        .restart_with(&[("RULES", "secret:forgotten")])
        .await;
    scenario.invoke(&json!({})).await;
    let error = scenario
        .function
        .initialization_error()
        .expect("told through the Runtime API");
    assert_eq!(error["errorType"], "NotFound");
    assert!(
        error["errorMessage"]
            .as_str()
            .is_some_and(|text| text.contains("GetSecretValue forgotten")),
        "{error}"
    );
}
