//! Pushes and what GitHub tells of them: it names any one of the tags, late, twice, or in a form of its own, and none may be lost.

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::function::Outcome;
use support::webhook::{self, Shape};

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, http_reply, layers, small_image};

const RULES: &str =
    r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"exclude":["pr-*"]}}]"#;

fn delivery(tag: &str, image: &Image) -> Value {
    let body = webhook::package_event("acme", "api", tag, &image.top);
    webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET)
}

/// Two images, neither of which shares a layer with the other.
fn images() -> (Image, Image) {
    let [a, b, _] = layers();
    (Image::single(&[a]), Image::single(&[b]))
}

/// Pushes an image under several tags.
fn push(scenario: &Scenario, tags: &[&str], image: &Image) {
    for tag in tags {
        scenario.push(REPOSITORY, tag, image);
    }
}

/// Delivers and, if the job was enqueued, has the queue processed.
async fn deliver(scenario: &Scenario, event: &Value) -> (i64, Value) {
    let reply = http_reply(scenario, event).await;
    if reply.0 != 202 {
        return reply;
    }
    for outcome in scenario.process_queue().await {
        assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
    }
    reply
}

fn digest(scenario: &Scenario, tag: &str) -> Option<String> {
    let repository = scenario.ecr.repository(DESTINATION);
    repository.tags.get(tag).cloned()
}

#[tokio::test]
async fn the_other_tags_are_copied_although_the_named_one_is_excluded() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[("RULES", RULES)]).await,
            false => Scenario::start_with(&[("RULES", RULES)]).await,
        };
        let image = small_image();
        push(&scenario, &["1.2.3", "latest", "pr-7"], &image);
        deliver(&scenario, &delivery("pr-7", &image)).await;
        scenario.assert_stored("excluded", "1.2.3", &image);
        scenario.assert_stored("excluded", "latest", &image);
        scenario.assert_untouched("excluded", "pr-7");
        let log = scenario.function.log();
        assert!(log.contains("the rule excludes tag pr-7"), "{log}");
    }
}

#[tokio::test]
async fn the_other_tags_are_copied_although_one_destination_fails() {
    let rules = r#"[{"source":"acme/*","destination":["gone/{name}","prod/{name}"]}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    let image = small_image();
    push(&scenario, &["1.2.3", "latest"], &image);
    deliver(&scenario, &delivery("latest", &image)).await;
    scenario.assert_stored("one destination fails", "latest", &image);
    scenario.assert_stored("one destination fails", "1.2.3", &image);
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters.len(), 2, "{letters:?}");
    // What can be tried again by hand is what is left to do.
    for letter in letters {
        let body: Value = serde_json::from_str(&letter.body).expect("JSON");
        assert_eq!(body["destination"], "gone/api");
    }
}

#[tokio::test]
async fn the_other_tags_are_copied_although_the_named_one_is_immutable() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let (old, new) = images();
    scenario.ecr.put_image(DESTINATION, "latest", &old);
    scenario.ecr.create_immutable_repository(DESTINATION);
    push(&scenario, &["1.2.3", "latest"], &new);
    deliver(&scenario, &delivery("latest", &new)).await;
    scenario.assert_stored("immutable", "1.2.3", &new);
    assert_eq!(digest(&scenario, "latest").as_ref(), Some(&old.top));
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters[0].attributes["error_kind"], "Immutable");
}

/// Although GitHub's API has a bad moment just then, too.
#[tokio::test]
async fn the_other_tags_are_not_given_up_with_the_named_one() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let (old, new) = images();
    scenario.ecr.put_image(DESTINATION, "latest", &old);
    scenario.ecr.create_immutable_repository(DESTINATION);
    push(&scenario, &["1.2.3", "latest"], &new);
    let page = support::http::Fault::html(502);
    scenario.github.server.fault("GET", "/", 3, page);
    deliver(&scenario, &delivery("latest", &new)).await;
    scenario.assert_stored("immutable", "1.2.3", &new);
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 1);
}

#[tokio::test]
async fn the_other_tags_of_a_push_that_was_overtaken_are_copied() {
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[]).await,
            false => Scenario::start().await,
        };
        let (old, new) = images();
        push(&scenario, &["1.0", "latest"], &old);
        push(&scenario, &["1.1", "latest"], &new);
        // GitHub's event of the first push, which names the tag that has moved on since.
        deliver(&scenario, &delivery("latest", &old)).await;
        scenario.assert_stored("overtaken", "1.0", &old);
        scenario.assert_stored("overtaken", "latest", &new);
        scenario.assert_stored("overtaken", "1.1", &new);
    }
}

/// A release that is rolled back at once: SQS takes a message with the same de-duplication id for the same message for five minutes.
#[tokio::test]
async fn tags_that_move_there_and_back_are_followed() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let (good, bad) = images();
    for image in [&good, &bad, &good, &bad, &good] {
        push(&scenario, &["latest", "stable"], image);
        deliver(&scenario, &delivery("latest", image)).await;
        for tag in ["latest", "stable"] {
            assert_eq!(digest(&scenario, tag).as_ref(), Some(&image.top), "{tag}");
        }
    }
}

/// GHCR shows a tag later than GitHub's API does: longer than one invocation waits for it.
#[tokio::test]
async fn another_tag_that_lags_behind_is_waited_for() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    scenario.ghcr.put_untagged(REPOSITORY, &image);
    scenario.ghcr.lag_reads(REPOSITORY, "1.2.3", 7);
    push(&scenario, &["latest", "1.2.3"], &image);
    deliver(&scenario, &delivery("latest", &image)).await;
    scenario.assert_stored("lagging", "1.2.3", &image);
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 0);
}

/// Whoever mends what was wrong presses "Redeliver", and must not be told 202 for nothing.
#[tokio::test]
async fn a_delivery_that_is_repeated_after_a_failure_is_done_again() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    push(&scenario, &["1"], &image);
    scenario.ecr.delete_repository(DESTINATION);
    let event = delivery("1", &image);
    assert_eq!(deliver(&scenario, &event).await.0, 202);
    assert_eq!(scenario.sqs.messages(DEAD_LETTER_QUEUE).len(), 1);
    scenario.ecr.create_repository(DESTINATION);
    assert_eq!(deliver(&scenario, &event).await.0, 202);
    scenario.assert_stored("redelivered", "1", &image);
}

/// Lambda answers the webhook with an error, and GitHub's own record of it is all there is: nothing was enqueued.
#[tokio::test]
async fn a_delivery_that_is_repeated_after_an_answer_of_sqs_was_lost_is_done() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let image = small_image();
    push(&scenario, &["1"], &image);
    let lost = support::http::Fault::DropReply;
    scenario
        .sqs
        .server
        .fault("POST", "SendMessageBatch", 1, lost);
    assert_eq!(http_reply(&scenario, &delivery("1", &image)).await.0, 202);
    // The SDK's own second try is the same call, which SQS recognises.
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 1);
}

#[tokio::test]
async fn a_null_package_beside_the_registry_package_is_none() {
    let scenario = Scenario::start().await;
    let image = small_image();
    push(&scenario, &["1"], &image);
    let body = webhook::package_event_of(Shape::RegistryPackage, "acme", "api", "1", &image.top);
    let mut payload: Value = serde_json::from_str(&body).expect("JSON");
    payload["package"] = Value::Null;
    let event = webhook::api_gateway_v2("registry_package", &payload.to_string(), WEBHOOK_SECRET);
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["outcome"]),
        (200, &json!("copied")),
        "{report}"
    );
}

/// Whoever may create packages may give them any name: none sets off an alarm with each push.
#[tokio::test]
async fn a_package_whose_name_the_rule_can_not_place_is_ignored_with_the_reason() {
    let rules = r#"[{"source":"acme/x/**","destination":"{basename}"},
                    {"source":"acme/**","destination":"{name}"}]"#;
    let long = "n".repeat(240);
    let names = [
        "x/y".to_owned(),
        "210987654321.dkr.ecr.us-east-1.amazonaws.com/api".to_owned(),
        "a".to_owned(),
    ];
    for has_queue in [true, false] {
        let scenario = match has_queue {
            true => Scenario::start_with_queue(&[("RULES", rules)]).await,
            false => Scenario::start_with(&[("RULES", rules)]).await,
        };
        for name in &names {
            let body = webhook::package_event("acme", name, "1", &small_image().top);
            let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
            let (status, report) = http_reply(&scenario, &event).await;
            assert_eq!(
                (status, &report["outcome"]),
                (200, &json!("ignored")),
                "{report}"
            );
            let reason = report["reason"].as_str().unwrap_or_default();
            assert!(reason.starts_with("destination "), "{reason}");
            // By way of a bus it is no function error either, which Lambda would try twice more.
            let detail = serde_json::from_str(&body).expect("JSON");
            let event = webhook::eventbridge("github.com", "package", detail);
            let report = scenario.invoke(&event).await.reply();
            assert_eq!(report["outcome"], "ignored", "{report}");
        }
    }
    let rules = format!(r#"[{{"source":"acme/*","destination":"prod/{long}/{{name}}"}}]"#);
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    let body = webhook::package_event("acme", &"a".repeat(200), "1", &small_image().top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    let (status, report) = http_reply(&scenario, &event).await;
    assert_eq!(
        (status, &report["outcome"]),
        (200, &json!("ignored")),
        "{report}"
    );
}
