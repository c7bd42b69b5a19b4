//! What scheduled runs leave alone and what they delete: archived images, and tags that the source no longer has.

use serde_json::{Value, json};
use support::deployment::JOB_QUEUE;
use support::http::Fault;
use support::webhook;

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, direct, small_image};

const TAGS: [&str; 5] = ["1", "2", "3", "4", "5"];

fn rule(destination: &Value) -> Value {
    json!({"source": REPOSITORY, "destination": destination, "prune": true})
}

/// Five tags at both sides, pushed long ago.
async fn start(rules: &[Value]) -> Scenario {
    let rules = json!(rules).to_string();
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    let image = small_image();
    for tag in TAGS {
        scenario.push(REPOSITORY, tag, &image);
        scenario.ecr.put_image(DESTINATION, tag, &image);
    }
    scenario
}

async fn run(scenario: &Scenario) -> Value {
    scenario.invoke(&webhook::scheduler()).await.reply()
}

fn pruned(reply: &Value) -> Vec<Value> {
    let one = [reply.clone()];
    let reports = reply["reports"].as_array().map_or(&one[..], Vec::as_slice);
    let pruned = reports
        .iter()
        .filter_map(|report| report["pruned"].as_array());
    pruned.flatten().cloned().collect()
}

fn errors(reply: &Value) -> String {
    let one = [reply.clone()];
    let reports = reply["reports"].as_array().map_or(&one[..], Vec::as_slice);
    let errors = reports.iter().filter_map(|report| report["error"].as_str());
    errors.collect::<Vec<_>>().join("\n")
}

fn tags(scenario: &Scenario) -> Vec<String> {
    scenario
        .ecr
        .repository(DESTINATION)
        .tags
        .into_keys()
        .collect()
}

fn deletions(scenario: &Scenario) -> usize {
    scenario.aws.calls("BatchDeleteImage")
}

#[tokio::test]
async fn a_tag_that_is_gone_at_the_source_is_deleted_and_reported() {
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let plan = scenario
        .invoke(&json!({"reconcile": true, "dry_run": true}))
        .await
        .reply();
    assert_eq!(pruned(&plan), ["2"], "{plan}");
    assert_eq!(deletions(&scenario), 0, "a dry run shows the list");
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), ["2"], "{reply}");
    assert_eq!(tags(&scenario), ["1", "3", "4", "5"]);
    let reply = run(&scenario).await;
    assert!(pruned(&reply).is_empty(), "{reply}");
    assert_eq!(deletions(&scenario), 1);
}

#[tokio::test]
async fn without_prune_nothing_is_listed_or_deleted() {
    let scenario = start(&[json!({"source": REPOSITORY, "destination": DESTINATION})]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    run(&scenario).await;
    assert_eq!(tags(&scenario).len(), TAGS.len());
    assert_eq!(scenario.aws.calls("DescribeImages"), 0);
}

#[tokio::test]
async fn in_doubt_a_tag_stays() {
    // More than half would go.
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    for tag in ["1", "2", "3"] {
        scenario.ghcr.delete_tag(REPOSITORY, tag);
    }
    let reply = run(&scenario).await;
    assert!(
        errors(&reply)
            .contains("3 of 5 tags in prod/api are gone at the source, which is more than half"),
        "{reply}"
    );
    assert_eq!(
        (tags(&scenario).len(), deletions(&scenario)),
        (TAGS.len(), 0)
    );

    // The list of the source can't be read.
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let path = format!("/v2/{REPOSITORY}/tags/list");
    scenario.ghcr.server.fault(
        "GET",
        &path,
        usize::MAX,
        Fault::Status {
            status: 404,
            headers: Vec::new(),
            body: String::new(),
        },
    );
    scenario.invoke(&webhook::scheduler()).await;
    assert_eq!(
        (tags(&scenario).len(), deletions(&scenario)),
        (TAGS.len(), 0)
    );

    // The list leaves out a tag that is there.
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    scenario.ghcr.hide_tag(REPOSITORY, "2");
    let reply = run(&scenario).await;
    assert!(pruned(&reply).is_empty(), "{reply}");
    assert_eq!(
        (tags(&scenario).len(), deletions(&scenario)),
        (TAGS.len(), 0)
    );

    // It was pushed within the last day.
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    let new = Image::single(&[support::image::Blob::bytes("new")]);
    scenario.push(REPOSITORY, "6", &new);
    assert_eq!(scenario.copy("6").await["outcome"], "copied");
    scenario.ghcr.delete_tag(REPOSITORY, "6");
    let reply = run(&scenario).await;
    assert!(pruned(&reply).is_empty(), "{reply}");
    scenario.ecr.grow_old(DESTINATION);
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), ["6"], "{reply}");
}

/// After the list was read, and after a first look.
#[tokio::test]
async fn a_tag_that_comes_back_before_it_is_deleted_stays() {
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    for tag in ["1", "2"] {
        scenario.ghcr.delete_tag(REPOSITORY, tag);
    }
    scenario.ghcr.lag_reads(REPOSITORY, "2", 1);
    scenario.ghcr.put_tag(REPOSITORY, "2", &small_image().top);
    scenario.ghcr.hide_tag(REPOSITORY, "2");
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), ["1"], "{reply}");
    assert_eq!(tags(&scenario), ["2", "3", "4", "5"]);
}

/// Each call deletes a hundred; what went before the one that fails is gone, and said to be.
#[tokio::test]
async fn what_was_deleted_before_a_failure_is_told() {
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    let image = small_image();
    for number in 100..400 {
        let tag = number.to_string();
        scenario.ecr.put_tag(DESTINATION, &tag, &image.top);
        if number >= 250 {
            scenario.ghcr.put_tag(REPOSITORY, &tag, &image.top);
        }
    }
    let aws = &scenario.aws.server;
    aws.fault("POST", "BatchDeleteImage", 1, Fault::OmitHeader("x-none"));
    let body = r#"{"__type": "AccessDeniedException", "message": "not now"}"#;
    let refusal = Fault::Status {
        status: 400,
        headers: vec![(
            "content-type".to_owned(),
            "application/x-amz-json-1.1".to_owned(),
        )],
        body: body.to_owned(),
    };
    aws.fault("POST", "BatchDeleteImage", 1, refusal);
    let reply = run(&scenario).await;
    assert!(errors(&reply).contains("BatchDeleteImage"), "{reply}");
    assert_eq!(pruned(&reply).len(), 100, "{reply}");
    assert_eq!(tags(&scenario).len(), TAGS.len() + 200);
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply).len(), 50, "{reply}");
}

/// Several destinations of a repository may stand for it.
#[tokio::test]
async fn a_dry_run_names_a_tag_once() {
    let destination = json!(["prod/api", "prod/api:{tag}-{digest8}"]);
    let scenario = start(&[rule(&destination)]).await;
    run(&scenario).await;
    scenario.ecr.grow_old(DESTINATION);
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let event = json!({"reconcile": true, "dry_run": true});
    let plan = pruned(&scenario.invoke(&event).await.reply());
    let by_digest = format!("2-{}", &small_image().top[7..15]);
    assert_eq!(plan, ["2", &by_digest]);
    assert_eq!(pruned(&run(&scenario).await), plan);
}

#[tokio::test]
async fn what_others_write_to_the_repository_stays() {
    // The rule would not have copied it.
    let excluding = json!({"source": REPOSITORY, "destination": DESTINATION, "prune": true, "tags": {"exclude": ["2"]}});
    let scenario = start(&[excluding]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    assert!(pruned(&run(&scenario).await).is_empty());

    // Another rule writes there, too.
    let other = json!({"source": "octo/x", "destination": "prod/api"});
    let scenario = start(&[rule(&json!(DESTINATION)), other]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let event = json!({"reconcile": [REPOSITORY]});
    let reply = scenario.invoke(&event).await.reply();
    assert!(
        errors(&reply).contains("several packages may share it"),
        "{reply}"
    );

    // A constant, and what a tag left behind while it is still there.
    let destination = json!(["prod/api", "prod/api:stable", "prod/api:{tag}-{digest8}"]);
    let scenario = start(&[rule(&destination)]).await;
    let image = small_image();
    for tag in ["stable", "1-0a1b2c3d", "2-0a1b2c3d"] {
        scenario.ecr.put_tag(DESTINATION, tag, &image.top);
    }
    run(&scenario).await;
    scenario.ecr.grow_old(DESTINATION);
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let reply = run(&scenario).await;
    let mut gone = pruned(&reply);
    gone.sort_by_key(Value::to_string);
    gone.dedup();
    let kept = format!("2-{}", &image.top[7..15]);
    assert_eq!(gone, ["2", "2-0a1b2c3d", &kept], "{reply}");
    let tags = tags(&scenario);
    for tag in ["stable", "1-0a1b2c3d", "1"] {
        assert!(tags.iter().any(|it| it == tag), "{tag}: {tags:?}");
    }
}

#[tokio::test]
async fn a_missing_right_to_delete_is_named() {
    let scenario = start(&[rule(&json!(DESTINATION))]).await;
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    scenario.aws.deny("BatchDeleteImage");
    let reply = run(&scenario).await;
    assert!(
        errors(&reply).contains("BatchDeleteImage prod/api"),
        "{reply}"
    );
    assert_eq!(tags(&scenario).len(), TAGS.len());
}

/// A pull of it answers as if it were not there, and a push restores it: a schedule that copied it anew would undo what a lifecycle
/// rule does, every hour.
#[tokio::test]
async fn an_archived_image_is_left_to_a_person_by_scheduled_runs() {
    let scenario = Scenario::start_with_queue(&[(
        "RULES",
        r#"[{"source":"acme/api","destination":"prod/api"}]"#,
    )])
    .await;
    let (image, other) = (
        small_image(),
        Image::single(&[support::image::Blob::bytes("x")]),
    );
    for tag in ["1", "2"] {
        scenario.push(REPOSITORY, tag, &image);
    }
    scenario.ecr.put_image(DESTINATION, "1", &image);
    scenario.ecr.put_tag(DESTINATION, "2", &image.top);
    scenario.ecr.archive(DESTINATION, "1");
    let reply = run(&scenario).await;
    assert_eq!(reply["outcome"], "ignored", "{reply}");
    assert!(
        reply.to_string().contains("ECR has archived this image"),
        "{reply}"
    );
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    assert_eq!(
        scenario.aws.calls("DescribeImages"),
        1,
        "once for the repository"
    );

    // A tag that moved on is another image.
    scenario.push(REPOSITORY, "2", &other);
    run(&scenario).await;
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1);

    // Whoever asks for it gets it.
    let reply = scenario.invoke(&direct("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    scenario.assert_stored("restored", "1", &image);
}

/// Without the right to look, it is copied as what is missing.
#[tokio::test]
async fn where_ecr_can_not_be_asked_what_is_archived_is_copied() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.put_image(DESTINATION, "1", &image);
    scenario.ecr.archive(DESTINATION, "1");
    scenario.aws.deny("DescribeImages");
    assert_eq!(run(&scenario).await["outcome"], "copied");
    scenario.assert_stored("restored", "1", &image);
}
