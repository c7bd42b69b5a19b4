//! The check of a deployment: what it looks at when all is well, what it leaves alone, and what it can't be asked.

mod broken;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::ecr::{Ecr, Settings};
use support::function::{ACCOUNT, Outcome, REGION};
use support::ghcr::Ghcr;
use support::http::Fault;

use crate::scenario::{DESTINATION, REPOSITORY, Scenario, small_image};

const BUS: &str = "images";

const RULES: &str = r#"[{"source":"acme/api","destination":"prod/{name}","token_secret_id":"ghcr/acme"},
                        {"source":"acme/*","destination":["prod/{name}:{tag}-{digest8}","prod/{name}"]}]"#;

/// Every line of a deployment in which all is well, in this order.
const LINES: [&str; 16] = [
    "rules",
    "secret webhook-secret",
    "authorization",
    "secret ghcr-token",
    "token in ghcr-token",
    "secret ghcr/acme",
    "token in ghcr/acme",
    "package acme/api",
    "destination prod/api",
    "tag mutability of prod/api",
    "lifecycle policy of prod/api",
    "packages of acme/*",
    "package acme/worker",
    "destination prod/worker",
    "tag mutability of prod/worker",
    "lifecycle policy of prod/worker",
];
const QUEUES: [&str; 3] = ["job queue", "dead-letter queue", "event bus"];

/// A deployment with everything that can be set, in which all is well.
async fn healthy() -> Scenario {
    let mut scenario = Scenario::start_with_queue(&[]).await;
    scenario.aws.create_event_bus(BUS);
    scenario.aws.put_secret("rules", RULES);
    scenario.aws.put_secret("ghcr/acme", Ghcr::TOKEN);
    scenario.ecr.create_repository("prod/worker");
    for (repository, tag) in [(REPOSITORY, "1.2.3"), ("acme/worker", "latest")] {
        scenario.push(repository, tag, &small_image());
    }
    restart(&mut scenario, &[]).await;
    scenario
}

/// A new process with these settings in place of those of the healthy deployment.
async fn restart(scenario: &mut Scenario, settings: &[(&str, &str)]) {
    let mut all = vec![
        ("RULES", "secret:rules"),
        ("EVENT_BUS", BUS),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
    ];
    all.extend(settings);
    scenario.restart_with(&all).await;
    assert!(scenario.function.ready().await, "{settings:?}");
}

async fn check(scenario: &Scenario) -> Value {
    scenario.invoke(&json!({"check": true})).await.reply()
}

/// Name, status, and the rest as one text, of each line.
fn lines(checklist: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let line = |line: &Value| {
        assert_eq!(
            line.as_object().map(|fields| fields.len()),
            Some(4),
            "{line}"
        );
        let said = format!("{} | {}", text(&line["detail"]), text(&line["remedy"]));
        (text(&line["check"]), text(&line["status"]), said)
    };
    let lines = checklist["checks"].as_array().expect("lines");
    lines.iter().map(line).collect()
}

#[tokio::test]
async fn all_is_well_and_nothing_is_changed() {
    let scenario = healthy().await;
    let checklist = check(&scenario).await;
    assert_eq!(checklist["outcome"], "current", "{checklist:#}");
    let lines = lines(&checklist);
    let names: Vec<&str> = lines.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(names, [&LINES[..], &QUEUES].concat(), "{checklist:#}");
    for (name, status, said) in &lines {
        assert_eq!(status, "ok", "{name}: {said}");
    }
    for repository in [DESTINATION, "prod/worker"] {
        let stored = scenario.ecr.repository(repository);
        assert!(stored.tags.is_empty() && stored.manifests.is_empty());
        assert_eq!(scenario.ecr.settings(repository), Some(Settings::default()));
    }
    assert!(scenario.ecr.uploads().is_empty());
    let count = |method| scenario.ecr.server.count(method, "/blobs/uploads/");
    assert_eq!((count("POST"), count("DELETE"), count("PUT")), (2, 2, 0));
    for queue in [JOB_QUEUE, DEAD_LETTER_QUEUE] {
        assert!(scenario.sqs.messages(queue).is_empty());
    }
    assert!(scenario.aws.events(BUS).is_empty());
    let calls: Vec<String> = scenario
        .aws
        .repository_calls()
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(calls, ["DescribeRepositories", "GetLifecyclePolicy"]);
}

/// A session is given up where its location says, with the query that belongs to it.
#[tokio::test]
async fn an_upload_is_given_up_at_its_own_location() {
    let scenario = healthy().await;
    let form = support::ecr::UploadLocation::WithQuery;
    scenario.ecr.set_upload_location(form);
    assert_eq!(check(&scenario).await["outcome"], "current");
    let requests = scenario.ecr.server.requests().into_iter();
    let given_up = requests.filter(|request| request.method == "DELETE");
    let paths: Vec<String> = given_up.map(|request| request.path).collect();
    assert_eq!(paths.len(), 2);
    for path in paths {
        assert!(
            path.contains("?_state=") && !path.contains("digest"),
            "{path}"
        );
    }
}

/// To find out what a push would create must not create it.
#[tokio::test]
async fn a_repository_that_would_be_created_is_not() {
    let rule = r#"[{"source":"acme/api","destination":"made/{name}","repository":{"create":true,"tag_mutability":"IMMUTABLE"}}]"#;
    let plain = r#"[{"source":"acme/api","destination":"made/{name}"}]"#;
    let template = json!({"prefix": "made", "appliedFor": ["CREATE_ON_PUSH"], "imageTagMutability": "MUTABLE"});
    let mut scenario = healthy().await;
    scenario.ecr.create_on_push(Settings::default());
    scenario.aws.put_creation_template(template);
    for (rules, words) in [
        (rule, "`repository.create` makes it"),
        (plain, "creation template makes it"),
    ] {
        restart(&mut scenario, &[("RULES", rules)]).await;
        let checklist = check(&scenario).await;
        assert_eq!(checklist["outcome"], "current", "{checklist:#}");
        let lines = lines(&checklist);
        let line = lines.iter().find(|line| line.0 == "destination made/api");
        let (_, status, said) = line.expect("a line for the destination");
        assert!(status == "ok" && said.contains(words), "{said}");
        assert!(said.contains("not tested"), "{said}");
        assert_eq!(scenario.ecr.settings("made/api"), None);
    }
    assert_eq!(scenario.aws.calls("CreateRepository"), 0);
}

/// As the template's function for webhooks is set up: it may read its secret and send to the queue.
#[tokio::test]
async fn a_function_that_only_takes_webhooks_says_what_it_can_not_test() {
    let mut scenario = healthy().await;
    restart(
        &mut scenario,
        &[
            ("GHCR_TOKEN_SECRET_ID", ""),
            ("EVENT_BUS", ""),
            ("DEAD_LETTER_QUEUE_URL", ""),
        ],
    )
    .await;
    scenario.aws.deny("GetAuthorizationToken");
    scenario.sqs.deny("GetQueueAttributes");
    let checklist = check(&scenario).await;
    assert_eq!(checklist["outcome"], "current", "{checklist:#}");
    let lines = lines(&checklist);
    let found: Vec<(&str, &str)> = lines
        .iter()
        .map(|it| (it.0.as_str(), it.1.as_str()))
        .collect();
    let expected = [
        ("rules", "ok"),
        ("secret webhook-secret", "ok"),
        ("authorization", "warning"),
        ("job queue", "warning"),
    ];
    assert_eq!(found, expected, "{checklist:#}");
    assert!(lines[2].2.contains("check the function that copies"));
}

/// Nothing is said to be well that was not looked at, and an answer comes before Lambda's end.
#[tokio::test]
async fn a_check_that_runs_out_of_time_says_what_was_not_tested() {
    let scenario = healthy().await;
    for server in [&scenario.github.server, &scenario.ghcr.server] {
        server.fault("GET", "/", usize::MAX, Fault::Hold);
    }
    let event = json!({"check": true});
    let limit = Duration::from_secs(6);
    let checklist = scenario
        .function
        .invoke_with_deadline(&event, limit)
        .await
        .reply();
    for server in [&scenario.github.server, &scenario.ghcr.server] {
        server.release();
    }
    assert_eq!(checklist["outcome"], "failed");
    let lines = lines(&checklist);
    for name in [
        "token in ghcr-token",
        "package acme/api",
        "packages of acme/*",
    ] {
        let line = lines.iter().find(|line| line.0 == name);
        let (_, status, said) = line.unwrap_or_else(|| panic!("no line {name}: {checklist:#}"));
        assert_eq!(status, "failed", "{name}");
        assert!(
            said.contains("not tested") && said.contains("more time"),
            "{said}"
        );
    }
    let queue = lines.iter().find(|line| line.0 == "job queue");
    assert_eq!(
        queue.map(|line| line.1.as_str()),
        Some("ok"),
        "side by side"
    );
}

/// A registry of another Region is tested with the authorization of that Region.
#[tokio::test]
async fn destinations_in_other_regions_are_tested_there() {
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    let rules = json!([{"source": REPOSITORY, "destination": [format!("{host}/dr/{{name}}"), "prod/{name}"]}]);
    let (deployment, registries) = support::deployment::Deployment::start_with_registries(
        std::path::Path::new(crate::scenario::BINARY),
        &[&host],
        &[("RULES", &rules.to_string())],
    )
    .await;
    deployment.push(REPOSITORY, "1.2.3", &small_image());
    let check = async || {
        let outcome = deployment.function.invoke(&json!({"check": true})).await;
        outcome.reply()
    };
    let checklist = check().await;
    let line = |checklist: &Value, name: &str| {
        let line = lines(checklist).into_iter().find(|line| line.0 == name);
        line.unwrap_or_else(|| panic!("no line {name}: {checklist:#}"))
    };
    let there = format!("destination {host}/dr/api");
    assert_eq!(line(&checklist, &there).1, "failed", "{checklist:#}");
    assert_eq!(
        line(&checklist, "destination prod/api").1,
        "ok",
        "{checklist:#}"
    );
    registries[0].create_repository("dr/api");
    let checklist = check().await;
    assert_eq!(checklist["outcome"], "current", "{checklist:#}");
    assert!(line(&checklist, &there).2.contains(&host));
    assert!(!there.contains(REGION));
}

#[tokio::test]
async fn a_check_has_no_options() {
    let scenario = Scenario::start().await;
    for event in [
        json!({"check": false}),
        json!({"check": "true"}),
        json!({"check": ["secrets"]}),
        json!({"check": true, "dry_run": true}),
        json!({"check": true, "source": "ghcr.io/acme/api:1"}),
    ] {
        match scenario.invoke(&event).await {
            Outcome::Error {
                error_type,
                message,
            } => {
                assert_eq!(error_type, "Invalid", "{event}: {message}");
                assert!(
                    message.contains("check") || message.contains("unknown field"),
                    "{message}"
                );
            }
            other => panic!("{event}: {other:?}"),
        }
    }
}

/// Whoever may send to the queue may not invoke the function.
#[tokio::test]
async fn a_message_can_not_ask_for_a_check() {
    let scenario = healthy().await;
    scenario.clear_requests();
    scenario.sqs.send(JOB_QUEUE, "group", r#"{"check": true}"#);
    scenario.process_queue().await;
    let given_up = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].attributes["error_kind"], "Invalid");
    assert!(scenario.ecr.server.requests().is_empty());
}

/// Whatever GitHub, a registry or AWS echoes, no line shows a secret.
#[tokio::test]
async fn no_line_shows_a_secret_that_is_echoed() {
    let scenario = healthy().await;
    let basic = STANDARD.encode(format!("AWS:{}", Ecr::PASSWORD));
    let secrets = [Ghcr::TOKEN, WEBHOOK_SECRET, Ecr::PASSWORD, &basic];
    let refusal = |status, text: &str| Fault::Status {
        status,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: json!({"message": text, "errors": [{"code": text, "message": text}]}).to_string(),
    };
    let (github, ghcr) = (&scenario.github.server, &scenario.ghcr.server);
    let ecr = &scenario.ecr.server;
    let mut said = String::new();
    for (server, method, path, secret) in [
        // The first, as a token of GHCR's is kept.
        (ghcr, "GET", "/token", Ghcr::TOKEN),
        (github, "GET", "/rate_limit", Ghcr::TOKEN),
        (github, "GET", "/orgs/", Ghcr::TOKEN),
        (ghcr, "GET", "/tags/list", Ghcr::TOKEN),
        (ecr, "GET", "/manifests/", &basic),
        (ecr, "POST", "/blobs/uploads/", Ecr::PASSWORD),
    ] {
        for status in [400, 403] {
            let echo = format!("you sent {secret}");
            server.fault(method, path, usize::MAX, refusal(status, &echo));
            let checklist = check(&scenario).await;
            server.clear_faults();
            let is_told = checklist.to_string().contains(&status.to_string());
            assert!(is_told, "{path} {status}: {checklist:#}");
            said += &checklist.to_string();
        }
    }
    let whole = r#"{"SecretString": ""#.to_owned() + WEBHOOK_SECRET;
    let damaged = Fault::Status {
        status: 200,
        headers: vec![(
            "content-type".to_owned(),
            "application/x-amz-json-1.1".to_owned(),
        )],
        body: whole,
    };
    let mut fresh = healthy().await;
    restart(&mut fresh, &[("RULES", RULES)]).await;
    fresh
        .aws
        .server
        .fault("POST", "GetSecretValue", usize::MAX, damaged);
    let checklist = check(&fresh).await;
    assert_eq!(checklist["outcome"], "failed", "{checklist:#}");
    said += &(checklist.to_string() + &scenario.function.log() + &fresh.function.log());
    for secret in secrets {
        assert!(!said.contains(secret), "{secret} was printed");
    }
}

/// Whoever has put something right asks again at once, and whoever has broken something too.
#[tokio::test]
async fn a_warm_process_looks_anew() {
    let scenario = healthy().await;
    assert_eq!(check(&scenario).await["outcome"], "current");
    let not_ok = async || {
        let lines = lines(&check(&scenario).await).into_iter();
        let not_ok = lines.filter(|line| line.1 != "ok");
        not_ok.map(|line| line.0).collect::<Vec<_>>()
    };
    scenario.ghcr.accept_tokens(&[]);
    assert_eq!(not_ok().await, ["package acme/api", "package acme/worker"]);
    scenario.ghcr.accept_tokens(&[Ghcr::TOKEN, "ghp_new"]);
    for (token, expected) in [
        (
            "ghp_revoked",
            &["token in ghcr/acme", "package acme/api"][..],
        ),
        ("ghp_new", &["token in ghcr/acme"]),
        (Ghcr::TOKEN, &[]),
    ] {
        scenario.aws.put_secret("ghcr/acme", token);
        assert_eq!(not_ok().await, expected, "{token}");
    }
    scenario.aws.put_secret("webhook-secret", "short");
    assert_eq!(not_ok().await, ["secret webhook-secret"]);
    scenario.aws.deny("GetAuthorizationToken");
    assert!(not_ok().await.contains(&"authorization".to_owned()));
}
