//! Scheduled runs in which something refuses: a destination, a source, an owner's list, or an image that can't be copied.

use serde_json::{Value, json};
use support::aws::in_twelve_hours;
use support::deployment::{DEAD_LETTER_QUEUE, Deployment, JOB_QUEUE};
use support::ecr::Ecr;
use support::http::Fault;
use support::image::Blob;
use support::webhook;

use crate::scenario::{BINARY, DESTINATION, Image, REPOSITORY, Scenario, difference, small_image};

/// Another account in another Region.
const ELSEWHERE: &str = "210987654321.dkr.ecr.us-east-1.amazonaws.com";

/// Plays on every request that a test can make.
const ALWAYS: usize = 10_000;

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

fn with_outcome(reply: &Value, outcome: &str) -> Vec<Value> {
    let mut reports = reports(reply);
    reports.retain(|report| report["outcome"] == outcome);
    reports
}

/// An error in the distribution specification's envelope.
fn refusal(status: u16, code: &str) -> Fault {
    Fault::Status {
        status,
        headers: Vec::new(),
        body: json!({"errors": [{"code": code, "message": "as the test says"}]}).to_string(),
    }
}

fn put_tags(deployment: &Deployment, count: usize) {
    let image = Image::single(&[Blob::bytes("a layer")]);
    for number in 0..count {
        deployment
            .ghcr
            .put_image(REPOSITORY, &format!("t{number}"), &image);
    }
}

/// The organisation's policy forbids one Region.
#[tokio::test]
async fn a_region_that_refuses_its_token_stops_no_other_destination_and_is_asked_once() {
    let rules = json!([{"source": REPOSITORY, "destination": [format!("{ELSEWHERE}/dr/api"), DESTINATION]}]);
    let scenario = Scenario::start_with_queue(&[("RULES", &rules.to_string())]).await;
    put_tags(&scenario, 100);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(with_outcome(&reply, "queued").len(), 100, "{reply}");
    let failed = with_outcome(&reply, "failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["error_kind"], "Denied");
    let error = failed[0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("GetAuthorizationToken us-east-1"), "{error}");
    assert_eq!(failed[0]["destination"], format!("{ELSEWHERE}/dr/api"));
    let messages = scenario.sqs.messages(JOB_QUEUE);
    assert!(
        messages
            .iter()
            .all(|message| !message.body.contains(ELSEWHERE))
    );
    // Those that were under way at once, and the one for the own Region.
    let calls = scenario.aws.calls("GetAuthorizationToken");
    assert!(calls < 20, "{calls}");
}

#[tokio::test]
async fn a_registry_that_refuses_stops_no_other_destination_and_is_asked_once() {
    let rules = json!([{"source": REPOSITORY, "destination": [format!("{ELSEWHERE}/dr/api"), DESTINATION]}]);
    let (deployment, registries) = Deployment::start_with_registries(
        BINARY.as_ref(),
        &[ELSEWHERE],
        &[("RULES", &rules.to_string())],
    )
    .await;
    registries[0].create_repository("dr/api");
    registries[0].deny("BatchGetImage");
    put_tags(&deployment, 60);
    let reply = deployment.function.invoke(&webhook::scheduler()).await;
    let reply = reply.reply();
    assert_eq!(with_outcome(&reply, "copied").len(), 60, "{reply}");
    let failed = with_outcome(&reply, "failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    let error = failed[0]["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("allow the function's role") && error.contains("dr/api"),
        "{error}"
    );
    assert!(registries[0].server.count("*", "/v2/dr/api/") < 40);
    assert_eq!(deployment.ecr.repository(DESTINATION).tags.len(), 60);
}

#[tokio::test]
async fn a_source_that_refuses_is_reported_once_and_asked_no_more() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 200);
    scenario
        .ghcr
        .server
        .fault("*", "/manifests/", ALWAYS, refusal(403, "DENIED"));
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["error_kind"], "Denied", "one report: {reply}");
    assert_eq!(reply["package"], REPOSITORY);
    let reason = reply["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("200 of 200 tags were not compared"),
        "{reply}"
    );
    let requests = scenario.ghcr.server.count("*", "/manifests/");
    assert!(requests < 100, "{requests}");
}

#[tokio::test]
async fn an_ecr_token_that_expires_in_mid_run_is_renewed() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 40);
    scenario
        .ecr
        .server
        .fault("HEAD", "/manifests/", 1, Fault::Hold);
    let renewal = async {
        scenario.ecr.server.wait_for("HEAD", "/manifests/").await;
        scenario.ecr.renew_password("renewed");
        let url = scenario.ecr.server.url();
        scenario.aws.authorize("renewed", &url, in_twelve_hours());
        scenario.ecr.server.release();
    };
    let event = webhook::scheduler();
    let (outcome, ()) = tokio::join!(scenario.invoke(&event), renewal);
    let reply = outcome.reply();
    assert_eq!(with_outcome(&reply, "queued").len(), 40, "{reply}");
    assert_eq!(reports(&reply).len(), 40);
    assert_eq!(scenario.aws.calls("GetAuthorizationToken"), 2);
}

#[tokio::test]
async fn an_owner_outside_the_scope_is_not_asked_for() {
    let rules = r#"[{"source":"gone/*","destination":"gone/{name}"},{"source":"acme/*","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario
        .invoke(&json!({"reconcile": ["acme/*"]}))
        .await
        .reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(scenario.github.server.count("*", "gone"), 0);
}

#[tokio::test]
async fn an_owner_of_several_rules_is_listed_once() {
    let rule = |name: &str| json!({"source": format!("acme/{name}*"), "destination": DESTINATION});
    let rules = json!(["a", "b", "c", "d", "e"].map(rule)).to_string();
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(with_outcome(&reply, "copied").len(), 1, "{reply}");
    // The rules without a package say so.
    assert_eq!(with_outcome(&reply, "ignored").len(), 4, "{reply}");
    assert_eq!(scenario.github.server.count("*", ""), 1);
}

#[tokio::test]
async fn whatever_is_not_found_is_said() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api","tags":{"include":["v*"]}},
                    {"source":"acme/api","destination":"prod/other"},
                    {"source":"acme/web-*","destination":"prod/{name}"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "ignored", "{reply}");
    let reasons: Vec<String> = reports(&reply)
        .iter()
        .map(|report| report["reason"].as_str().unwrap_or_default().to_owned())
        .collect();
    for part in ["no tag that the rule admits", "a rule before it does"] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{reasons:?}"
        );
    }
    assert_eq!(reports(&reply).len(), 3, "{reply}");
    let reply = scenario
        .invoke(&json!({"reconcile": ["acme/x*"]}))
        .await
        .reply();
    let reason = reply["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("acme/x*"), "{reply}");
}

/// Several hundred tags, and one answer: the command that makes the repository.
#[tokio::test]
async fn a_missing_repository_is_found_once_and_nothing_is_enqueued_for_it() {
    let rules = r#"[{"source":"acme/api","destination":["prod/none","prod/api"]}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 300);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "failed", "no function error: {reply}");
    let failed = with_outcome(&reply, "failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    let error = failed[0]["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("aws ecr create-repository --repository-name prod/none"),
        "{error}"
    );
    assert_eq!(failed[0]["source"], REPOSITORY);
    assert_eq!(with_outcome(&reply, "queued").len(), 300);
    let messages = scenario.sqs.messages(JOB_QUEUE);
    assert_eq!(messages.len(), 300);
    assert!(
        messages
            .iter()
            .all(|message| !message.body.contains("prod/none"))
    );
    assert_eq!(scenario.ecr.server.count("GET", "/v2/prod/none/"), 1);
    assert_eq!(scenario.ecr.server.count("POST", "/v2/prod/none/"), 1);
    assert!(scenario.ecr.server.count("*", "/v2/prod/none/") < 40);
}

#[tokio::test]
async fn where_no_destination_has_a_repository_the_tags_are_not_compared() {
    let rules = r#"[{"source":"acme/api","destination":"prod/none"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 300);
    for event in [
        webhook::scheduler(),
        json!({"reconcile": true, "dry_run": true}),
    ] {
        scenario.clear_requests();
        let reply = scenario.invoke(&event).await.reply();
        assert_eq!(reply["error_kind"], "NotFound", "one report: {reply}");
        assert!(scenario.ghcr.server.count("HEAD", "/manifests/") < 40);
    }
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
}

/// ECR makes the repository at the first step of a push, and until then says that there is none.
#[tokio::test]
async fn a_repository_that_ecr_creates_on_push_gets_its_jobs() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 20);
    for method in ["HEAD", "GET"] {
        let server = &scenario.ecr.server;
        server.fault(method, "/manifests/", ALWAYS, refusal(404, "NAME_UNKNOWN"));
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 20);
    assert_eq!(scenario.ecr.server.count("POST", "/blobs/uploads/"), 1);
}

/// A role without the right to push is found out as early as a missing repository is.
#[tokio::test]
async fn a_missing_repository_that_nobody_may_create_is_found_once() {
    let rules = r#"[{"source":"acme/api","destination":"prod/none"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    scenario.ecr.deny("InitiateLayerUpload");
    put_tags(&scenario, 50);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["error_kind"], "Denied", "one report: {reply}");
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
}

/// The next run finds it again, so as a dead letter it would only pile up.
#[tokio::test]
async fn what_a_scheduled_job_can_never_copy_is_reported_and_not_dead_lettered() {
    let index = small_image();
    let child = index.manifests[0].digest.clone();
    let rules = r#"[{"source":"acme/api","destination":"prod/api"},{"source":"acme/fixed","destination":"prod/fixed"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    // Otherwise the run itself would know of the immutable tag.
    scenario.aws.deny("DescribeRepositories");
    scenario.push(REPOSITORY, "1", &index);
    scenario.ghcr.delete_manifest(REPOSITORY, &child);
    scenario.ecr.create_immutable_repository("prod/fixed");
    let before = Image::single(&[Blob::bytes("before")]);
    scenario.ecr.put_image("prod/fixed", "latest", &before);
    let now = Image::single(&[Blob::bytes("now")]);
    scenario.push("acme/fixed", "latest", &now);
    for _ in 0..2 {
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        assert_eq!(with_outcome(&reply, "queued").len(), 2, "{reply}");
        let processed = scenario.process_queue().await;
        assert_eq!(processed.len(), 2, "each once: {processed:?}");
    }
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0);
    let log = scenario.function.log();
    for kind in ["NotFound", "Immutable"] {
        let part = format!("\"error_kind\":\"{kind}\"");
        assert_eq!(log.matches(&part).count(), 2, "{log}");
    }
    scenario.assert_untouched("a child is missing", "1");
}

/// One that fails for good is told in the reply; one that may pass makes Lambda run again.
#[tokio::test]
async fn only_what_may_pass_makes_a_run_a_function_error() {
    let rules = r#"[{"source":"acme/none","destination":"prod/none"},{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.push("acme/none", "1", &small_image());
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "failed");
    scenario.sqs.fail_entries("acme/api", usize::MAX);
    let outcome = scenario.invoke(&webhook::scheduler()).await;
    assert_eq!(outcome.error().0, "Transient");
}

#[tokio::test]
async fn a_tag_that_is_deleted_while_it_is_compared_is_ignored() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api"}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    put_tags(&scenario, 2);
    let gone = refusal(404, "MANIFEST_UNKNOWN");
    let server = &scenario.ghcr.server;
    server.fault("HEAD", "/manifests/t0", 1, gone);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let ignored = with_outcome(&reply, "ignored");
    assert_eq!(ignored.len(), 1, "{reply}");
    let reason = ignored[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("deleted"), "{reason}");
    assert_eq!(with_outcome(&reply, "queued").len(), 1);
}

/// Every connection is a file, of which Lambda allows 1,024.
#[tokio::test]
async fn many_destinations_are_not_all_asked_for_many_tags_at_once() {
    let destinations: Vec<String> = (0..64).map(|number| format!("prod/p{number}")).collect();
    let rules = json!([{"source": REPOSITORY, "destination": destinations}]);
    let scenario = Scenario::start_with_queue(&[("RULES", &rules.to_string())]).await;
    let image = Image::single(&[Blob::bytes("a layer")]);
    for destination in &destinations {
        scenario.ecr.put_image(destination, "t0", &image);
    }
    for number in 0..8 {
        let tag = format!("t{number}");
        scenario.ghcr.put_image(REPOSITORY, &tag, &image);
        for destination in &destinations {
            scenario.ecr.put_tag(destination, &tag, &image.top);
        }
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(with_outcome(&reply, "current").len(), 8 * 64, "{reply}");
    let connections = scenario.ecr.server.connections();
    assert!(connections < 100, "{connections}");
}

/// The caller's own Region has a token that this registry does not take.
#[tokio::test]
async fn the_configured_registry_gets_the_token_of_its_own_region() {
    let registry = format!("https://{ELSEWHERE}");
    let (deployment, registries) = Deployment::start_with_registries(
        BINARY.as_ref(),
        &[ELSEWHERE],
        &[("DESTINATION_REGISTRY", &registry)],
    )
    .await;
    let [elsewhere]: [Ecr; 1] = registries.try_into().unwrap_or_else(|_| panic!("one"));
    elsewhere.create_repository(DESTINATION);
    deployment.push(REPOSITORY, "1", &small_image());
    let reply = deployment.function.invoke(&webhook::scheduler()).await;
    let reply = reply.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let stored = elsewhere.repository(DESTINATION);
    assert_eq!(difference(&stored, "1", &small_image()), None);
    assert_eq!(deployment.aws.calls("GetAuthorizationToken"), 1);
}
