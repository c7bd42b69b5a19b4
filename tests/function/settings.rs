//! Settings: what a process is started with, and what it reads from Secrets Manager.

use std::path::Path;

use serde_json::json;
use support::function::{Function, Outcome};

use crate::scenario::{BINARY, REPOSITORY, Scenario, direct, small_image};

const RULES: &str = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;

/// SQS is called by URL, and every push would be lost in a queue that an ARN names.
#[tokio::test]
async fn an_arn_in_place_of_a_queues_url_stops_the_start() {
    let arn = "arn:aws:sqs:eu-west-3:123456789012:jobs.fifo";
    for name in ["JOB_QUEUE_URL", "DEAD_LETTER_QUEUE_URL"] {
        for value in [
            arn,
            "jobs.fifo",
            "sqs.eu-west-3.amazonaws.com/123456789012/jobs.fifo",
        ] {
            let environment = [("RULES", RULES), (name, value)];
            let function = Function::start(Path::new(BINARY), &environment).await;
            let outcome = function.invoke(&direct("1")).await;
            assert!(
                matches!(outcome, Outcome::Exited { .. }),
                "{name}={value}: {outcome:?}"
            );
            let error = function.initialization_error().unwrap_or_default();
            let message = error["errorMessage"].as_str().unwrap_or_default();
            assert!(
                message.contains(&format!("setting {name} is {value:?}")),
                "{message}"
            );
            assert!(message.contains("https://sqs."), "{message}");
        }
    }
}

/// Lambda's highest level, above the last one that other programs have.
#[tokio::test]
async fn the_log_level_fatal_means_error() {
    let scenario = Scenario::start_with(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    let log = scenario.function.log();
    let is_metric = |line: &str| line.contains(r#""_aws":"#);
    assert!(log.lines().all(is_metric), "{log}");
    scenario.fail("2").await;
    let log = scenario.function.log();
    assert!(log.contains("ERROR") && !log.contains("INFO"), "{log}");
}

#[tokio::test]
async fn rules_may_be_in_a_secret() {
    let mut scenario = Scenario::start().await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.aws.put_secret("rules", RULES);
    scenario.restart_with(&[("RULES", "secret:rules")]).await;
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    // Larger than the environment of a function may be.
    let others = r#"{"source":"acme/another","destination":"prod/another"},"#.repeat(1000);
    let many = format!("[{others}{}]", &RULES[1..RULES.len() - 1]);
    scenario.aws.put_secret("rules", &many);
    scenario.restart_with(&[("RULES", "secret:rules")]).await;
    assert_eq!(scenario.copy("1").await["outcome"], "current");
}

/// It may be another secret, whose value is not for the log.
#[tokio::test]
async fn a_secret_that_holds_no_rules_stops_the_start_and_is_not_shown() {
    let mut scenario = Scenario::start().await;
    let token = support::ghcr::Ghcr::TOKEN;
    let values = [
        token.to_owned(),
        json!({"token": token}).to_string(),
        json!([token]).to_string(),
        json!([{"source": "acme/*", "destination": "x", token: 1}]).to_string(),
    ];
    for value in values {
        scenario.aws.put_secret("rules", &value);
        scenario.restart_with(&[("RULES", "secret:rules")]).await;
        let outcome = scenario.invoke(&direct("1")).await;
        assert!(
            matches!(outcome, Outcome::Exited { .. }),
            "{value}: {outcome:?}"
        );
        let error = scenario.function.initialization_error().unwrap_or_default();
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(
            message.contains("setting RULES is \"secret:rules\""),
            "{message}"
        );
        if value.contains(&format!("[\"{token}\"]")) || !value.starts_with("[{") {
            assert!(
                !scenario.function.log().contains(token),
                "{}",
                scenario.function.log()
            );
        }
    }
    scenario
        .restart_with(&[("RULES", "secret:forgotten")])
        .await;
    assert!(matches!(
        scenario.invoke(&direct("1")).await,
        Outcome::Exited { .. }
    ));
    let error = scenario.function.initialization_error().unwrap_or_default();
    assert_eq!(error["errorType"], "NotFound", "{error}");
}
