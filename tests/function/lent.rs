//! A token that is lent for one copy: it reads what is copied, and then nobody has it any more.

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE};
use support::ghcr::Ghcr;

use crate::scenario::{DESTINATION, REPOSITORY, Scenario, direct, small_image};

/// As GitHub makes them for a workflow.
const LENT: &str = "ghs_lentForOneCopyAlone0123456789abcdef";

/// Everything that the function logs, at its finest level.
const TRACE: (&str, &str) = ("AWS_LAMBDA_LOG_LEVEL", "TRACE");

fn lending(tag: &str) -> Value {
    let mut event = direct(tag);
    event["token"] = json!(LENT);
    event
}

fn assert_not_logged(scenario: &Scenario) {
    assert!(!scenario.function.log().contains("lentForOneCopy"));
}

/// Neither in the log nor in a queue.
fn assert_not_said(scenario: &Scenario) {
    assert_not_logged(scenario);
    for queue in [JOB_QUEUE, DEAD_LETTER_QUEUE] {
        for message in scenario.sqs.messages(queue) {
            let attributes: String = message.attributes.into_values().collect();
            let said = message.body + &attributes;
            assert!(!said.contains("lentForOneCopy"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_lent_token_copies_where_no_token_is_configured() {
    let scenario = Scenario::start_with(&[("GHCR_TOKEN_SECRET_ID", ""), TRACE]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.ghcr.accept_tokens(&[LENT]);
    let reply = scenario.invoke(&lending("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert!(!reply.to_string().contains(LENT));
    scenario.assert_stored("lent", "1", &image);
    assert_eq!(scenario.aws.calls("GetSecretValue"), 0);
    assert_not_logged(&scenario);
}

/// Also where the rule has a token of its own, which is not even read.
#[tokio::test]
async fn a_lent_token_is_used_in_place_of_every_configured_one() {
    let rules =
        r#"[{"source": "acme/*", "destination": "prod/{name}", "token_secret_id": "gone"}]"#;
    let scenario = Scenario::start_with(&[("RULES", rules), TRACE]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.ghcr.accept_tokens(&[LENT]);
    let reply = scenario.invoke(&lending("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let mut event = lending("1");
    event["destination"] = json!("prod/api:named");
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(scenario.aws.calls("GetSecretValue"), 0);
}

/// Neither the token nor the bearer token that GHCR gave for it serves the next invocation, and the configured one does not serve
/// the one that brings a token.
#[tokio::test]
async fn what_is_lent_is_not_kept() {
    let scenario = Scenario::start().await;
    for tag in ["1", "2", "3"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    scenario.ghcr.accept_tokens(&[LENT]);
    let reply = scenario.invoke(&lending("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let (kind, message) = scenario.fail("2").await;
    assert_eq!(kind, "Denied", "{message}");
    scenario.ghcr.accept_tokens(&[Ghcr::TOKEN]);
    assert_eq!(scenario.copy("2").await["outcome"], "copied");
    let (kind, message) = scenario.invoke(&lending("3")).await.error();
    assert_eq!(kind, "Denied", "{message}");
    assert!(message.contains("GITHUB_TOKEN"), "{message}");
    assert!(!message.contains(LENT), "{message}");
}

/// The other tags are copied with it too, in the same invocation: the queue would have to hold it.
#[tokio::test]
async fn a_lent_token_is_never_enqueued() {
    let scenario = Scenario::start_with_queue(&[TRACE]).await;
    let image = small_image();
    for tag in ["1.2.3", "latest"] {
        scenario.push(REPOSITORY, tag, &image);
    }
    scenario
        .github
        .put_version("acme", "api", &image.top, &["1.2.3", "latest"]);
    scenario.ghcr.accept_tokens(&[LENT]);
    scenario.github.accept_tokens(&[LENT]);
    let mut event = lending("1.2.3");
    event["all_tags"] = json!(true);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    scenario.assert_stored("named", "1.2.3", &image);
    scenario.assert_stored("other", "latest", &image);
    assert!(scenario.sqs.messages(JOB_QUEUE).is_empty());
    assert_not_said(&scenario);
}

/// Somebody who sends a token in a message is told, and the dead letter, which is kept for days, is without it.
#[tokio::test]
async fn a_message_with_a_token_is_refused_and_its_dead_letter_is_without_it() {
    let scenario = Scenario::start_with_queue(&[TRACE]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.ghcr.accept_tokens(&[LENT, Ghcr::TOKEN]);
    let body = lending("1").to_string();
    scenario.sqs.send(JOB_QUEUE, "group", &body);
    scenario.process_queue().await;
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters.len(), 1);
    let error = &letters[0].attributes["error"];
    assert!(error.contains("`token`"), "{error}");
    let left: Value = serde_json::from_str(&letters[0].body).unwrap();
    assert_eq!(left["source"], "ghcr.io/acme/api:1");
    assert_not_said(&scenario);
    let repository = scenario.ecr.repository(DESTINATION);
    assert!(repository.tags.is_empty(), "nothing was copied");
}

#[tokio::test]
async fn schedules_buses_and_other_events_can_not_bring_a_token() {
    let scenario = Scenario::start_with(&[TRACE]).await;
    for event in [
        json!({"reconcile": true, "token": LENT}),
        json!({"check": true, "token": LENT}),
        json!({"source": "aws.scheduler", "detail-type": "Scheduled Event", "detail": "{}", "token": LENT}),
        json!({"source": "github.com", "detail-type": "package", "detail": {}, "token": LENT}),
    ] {
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Invalid", "{message}");
        assert!(message.contains("`token`"), "{message}");
        assert!(!message.contains(LENT), "{message}");
    }
    assert_eq!(scenario.ghcr.server.requests().len(), 0);
    assert_not_logged(&scenario);
}

#[tokio::test]
async fn what_is_no_token_is_refused_without_being_quoted() {
    let scenario = Scenario::start_with(&[TRACE]).await;
    for token in [
        json!(""),
        json!(" "),
        json!(null),
        json!(7_654_321),
        json!({"token": LENT}),
        json!([LENT]),
        json!(format!("{LENT} {LENT}")),
        json!(format!("{LENT}\r\nx: y")),
        json!("ghs_lentForOneCopyé"),
    ] {
        let mut event = direct("1");
        event["token"] = token;
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Invalid", "{message}");
        assert!(message.contains("`token`"), "{message}");
        for part in ["ghs_", "7654321"] {
            assert!(!message.contains(part), "{message}");
        }
    }
    assert_not_logged(&scenario);
    // A line's end belongs to no token.
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.ghcr.accept_tokens(&[LENT]);
    let mut event = direct("1");
    event["token"] = json!(format!("{LENT}\n"));
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
}
