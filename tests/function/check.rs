//! The check of a deployment: all is well, and then each thing broken in turn: which lines say so, and what they advise.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
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

/// Something that is broken: settings, what is done to the deployment, and each line that is not ok any more, with its status and
/// words of its detail or remedy.
struct Broken {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    breaking: fn(&Scenario),
    lines: &'static [(&'static str, &'static str, &'static str)],
}

const fn broken(
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    breaking: fn(&Scenario),
    lines: &'static [(&'static str, &'static str, &'static str)],
) -> Broken {
    Broken {
        name,
        settings,
        breaking,
        lines,
    }
}

fn unchanged(_: &Scenario) {}

/// Whatever is asked of these servers, the connection is cut.
fn cut(server: &support::http::Server, path: &str) {
    for method in ["GET", "POST", "HEAD"] {
        server.fault(method, path, usize::MAX, Fault::DropReply);
    }
}

async fn assert_broken(it: &Broken) {
    let mut scenario = healthy().await;
    if !it.settings.is_empty() {
        restart(&mut scenario, it.settings).await;
    }
    (it.breaking)(&scenario);
    let checklist = check(&scenario).await;
    let found = lines(&checklist);
    let not_ok: Vec<_> = found
        .iter()
        .filter(|(_, status, _)| status != "ok")
        .collect();
    let names: Vec<(&str, &str)> = not_ok
        .iter()
        .map(|line| (line.0.as_str(), line.1.as_str()))
        .collect();
    let expected: Vec<(&str, &str)> = it.lines.iter().map(|line| (line.0, line.1)).collect();
    assert_eq!(names, expected, "{}: {checklist:#}", it.name);
    for ((name, _, said), (_, _, words)) in not_ok.iter().zip(it.lines) {
        assert!(said.contains(words), "{}: {name}: {said}", it.name);
        let remedy = said.rsplit(" | ").next().unwrap_or_default();
        assert!(!remedy.is_empty(), "{}: {name} has no remedy", it.name);
    }
    let has_failed = expected.iter().any(|(_, status)| *status == "failed");
    let outcome = if has_failed { "failed" } else { "current" };
    assert_eq!(checklist["outcome"], outcome, "{}", it.name);
    let said = scenario.function.log() + &checklist.to_string();
    for secret in [
        Ghcr::TOKEN,
        WEBHOOK_SECRET,
        Ecr::PASSWORD,
        "github_pat_x",
        "hunter2",
    ] {
        assert!(!said.contains(secret), "{}: {secret} was printed", it.name);
    }
}

async fn assert_all_broken(all: &[Broken]) {
    // A few at a time, each with a process and servers of its own.
    for some in all.chunks(6) {
        join_all(some.iter().map(assert_broken)).await;
    }
}

#[tokio::test]
async fn rules_and_secrets_that_can_not_be_used_are_told() {
    assert_all_broken(&[
        broken(
            "rules that became malformed",
            &[],
            |it| it.aws.put_secret("rules", r#"[{"source":"acme/*"}]"#),
            &[("rules", "failed", "missing field `destination`")],
        ),
        broken(
            "a rule that no package can reach",
            &[("RULES", r#"[{"source":"acme/*","destination":"prod/{name}"},{"source":"acme/api","destination":"prod/{name}"}]"#)],
            unchanged,
            &[("rule 1", "warning", "put the more exact rule first")],
        ),
        broken(
            "no such secret with a token",
            &[("GHCR_TOKEN_SECRET_ID", "nowhere")],
            unchanged,
            &[
                ("secret nowhere", "failed", "create the secret"),
                ("packages of acme/*", "failed", "create the secret"),
                ("destinations of acme/*", "warning", "no package of the rule is known"),
            ],
        ),
        broken(
            "a rule's secret that is not text",
            &[],
            |it| it.aws.put_binary_secret("ghcr/acme"),
            &[
                ("secret ghcr/acme", "failed", "`token_secret_id` of the rule for acme/api"),
                ("package acme/api", "failed", "store the bare text"),
            ],
        ),
        broken(
            "a key that may not be used",
            &[],
            |it| it.aws.fail_decryption("webhook-secret"),
            &[("secret webhook-secret", "failed", "kms:Decrypt")],
        ),
        broken(
            "a webhook's secret without its field",
            &[],
            |it| it.aws.put_secret("webhook-secret", r#"{"token":"hunter2hunter2hunter2"}"#),
            &[("secret webhook-secret", "failed", "WEBHOOK_SECRET_ID")],
        ),
        broken(
            "a short webhook's secret",
            &[],
            |it| it.aws.put_secret("webhook-secret", "hunter2"),
            &[("secret webhook-secret", "warning", "openssl rand")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told_as_far_as_github_lets_one_know() {
    const REMEDY: &str = "classic personal access token with the scope read:packages";
    assert_all_broken(&[
        broken(
            "expired or revoked",
            &[],
            |it| {
                it.aws.put_secret("ghcr/acme", "ghp_revoked");
            },
            &[
                (
                    "token in ghcr/acme",
                    "failed",
                    "it is expired, revoked or mistyped",
                ),
                ("package acme/api", "failed", "expired"),
            ],
        ),
        broken(
            "without a scope",
            &[],
            |it| it.github.set_scopes(Some("gist")),
            &[
                ("token in ghcr-token", "failed", REMEDY),
                (
                    "token in ghcr/acme",
                    "failed",
                    "without the scope read:packages",
                ),
            ],
        ),
        broken(
            "about to expire",
            &[],
            |it| {
                it.github
                    .expire_in(Duration::from_secs(10 * 24 * 60 * 60 + 60))
            },
            &[
                ("token in ghcr-token", "warning", "expires in 10 days"),
                ("token in ghcr/acme", "warning", REMEDY),
            ],
        ),
        broken(
            "fine-grained",
            &[],
            |it| {
                it.aws.put_secret("ghcr/acme", "github_pat_x");
                it.github.accept_tokens(&[Ghcr::TOKEN, "github_pat_x"]);
            },
            &[
                ("token in ghcr/acme", "failed", "fine-grained"),
                ("package acme/api", "failed", "GHCR token"),
            ],
        ),
        broken(
            "not authorised for SSO",
            &[],
            |it| {
                let refusal = Fault::Status {
                    status: 403,
                    headers: vec![(
                        "x-github-sso".to_owned(),
                        "required; url=https://github.com/orgs/acme/sso?authorization_request=A1"
                            .to_owned(),
                    )],
                    body: r#"{"message":"Resource protected by organization SAML enforcement."}"#
                        .to_owned(),
                };
                it.github.server.fault("GET", "/orgs/", usize::MAX, refusal);
            },
            &[
                (
                    "packages of acme/*",
                    "failed",
                    "authorise the GHCR token for the organisation's SSO",
                ),
                ("destinations of acme/*", "warning", "check again"),
            ],
        ),
        broken(
            "GitHub can't be reached",
            &[],
            |it| cut(&it.github.server, "/"),
            &[
                ("token in ghcr-token", "warning", "not known"),
                ("token in ghcr/acme", "warning", "not known"),
                ("packages of acme/*", "failed", "check again"),
                ("destinations of acme/*", "warning", "not tested"),
            ],
        ),
        broken(
            "no token at all, and a glob",
            &[("GHCR_TOKEN_SECRET_ID", "")],
            unchanged,
            &[
                ("packages of acme/*", "failed", "set GHCR_TOKEN_SECRET_ID"),
                ("destinations of acme/*", "warning", "not tested"),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn packages_that_can_not_be_seen_are_told() {
    assert_all_broken(&[
        broken(
            "the registry refuses",
            &[],
            |it| it.ghcr.accept_tokens(&[]),
            &[
                (
                    "package acme/api",
                    "failed",
                    "classic personal access token",
                ),
                (
                    "package acme/worker",
                    "failed",
                    "classic personal access token",
                ),
            ],
        ),
        broken(
            "the registry can't be reached",
            &[(
                "RULES",
                r#"[{"source":"acme/api","destination":"prod/{name}"}]"#,
            )],
            |it| cut(&it.ghcr.server, "/"),
            &[("package acme/api", "failed", "check again")],
        ),
        broken(
            "no such package",
            &[(
                "RULES",
                r#"[{"source":"acme/none","destination":"prod/api"}]"#,
            )],
            unchanged,
            &[("package acme/none", "failed", "acme/none")],
        ),
        broken(
            "no package of a glob",
            &[(
                "RULES",
                r#"[{"source":"acme/x*","destination":"prod/api"}]"#,
            )],
            unchanged,
            &[
                ("packages of acme/x*", "warning", "none is this rule's"),
                ("destinations of acme/x*", "warning", "not tested"),
            ],
        ),
        broken(
            "an age that GitHub does not tell",
            &[("RULES", r#"[{"source":"acme/api","destination":"prod/api","tags":{"min_age":"1h"}}]"#)],
            |it| it.github.set_created_at("acme", "api", &small_image().top, None),
            &[("age of acme/api", "warning", "keeps it back")],
        ),
        broken(
            "an age, and no token to ask for it",
            &[
                ("GHCR_TOKEN_SECRET_ID", ""),
                ("RULES", r#"[{"source":"acme/api","destination":"prod/api","tags":{"min_age":"1h"}}]"#),
            ],
            |it| it.ghcr.set_public(REPOSITORY, true),
            &[("age of acme/api", "failed", "set GHCR_TOKEN_SECRET_ID")],
        ),
        broken(
            "nothing but that the first package of a glob has nothing to copy",
            &[("RULES", r#"[{"source":"acme/*","destination":"prod/{name}","tags":{"include":["latest"]}}]"#)],
            unchanged,
            &[],
        ),
        broken(
            "no tag that is admitted",
            &[(
                "RULES",
                r#"[{"source":"acme/api","destination":"prod/api","tags":{"include":["v*"]}}]"#,
            )],
            unchanged,
            &[("package acme/api", "warning", "the rule admits 0")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn repositories_that_do_not_take_pushes_are_told() {
    assert_all_broken(&[
        broken(
            "no such repository",
            &[],
            |it| it.ecr.delete_repository("prod/worker"),
            &[("destination prod/worker", "failed", "aws ecr create-repository")],
        ),
        broken(
            "no such repository, and no right to look at creation templates",
            &[],
            |it| {
                it.ecr.delete_repository("prod/worker");
                it.aws.deny("DescribeRepositoryCreationTemplates");
            },
            &[("destination prod/worker", "failed", "unless ECR has a creation template")],
        ),
        broken(
            "no right to push",
            &[],
            |it| it.ecr.deny("InitiateLayerUpload"),
            &[
                ("destination prod/api", "failed", "ecr:InitiateLayerUpload"),
                ("destination prod/worker", "failed", "ecr:InitiateLayerUpload"),
            ],
        ),
        broken(
            "no right to read",
            &[],
            |it| it.ecr.deny("BatchGetImage"),
            &[
                ("destination prod/api", "failed", "ecr:BatchGetImage"),
                ("destination prod/worker", "failed", "ecr:BatchGetImage"),
            ],
        ),
        broken(
            "no authorization",
            &[("WEBHOOK_SECRET_ID", ""), ("RULES", r#"[{"source":"acme/api","destination":"prod/{name}"}]"#)],
            |it| it.aws.deny("GetAuthorizationToken"),
            &[
                ("authorization", "failed", "ecr:GetAuthorizationToken"),
                ("destination prod/api", "failed", "ecr:GetAuthorizationToken"),
            ],
        ),
        broken(
            "immutable tags that move at the source",
            &[],
            |it| it.ecr.change_settings("prod/worker", |settings| settings.tag_mutability = "IMMUTABLE".to_owned()),
            &[("tag mutability of prod/worker", "warning", "let latest move")],
        ),
        broken(
            "one immutable tag for all",
            &[("RULES", r#"[{"source":"acme/api","destination":"prod/api:stable"}]"#)],
            |it| it.ecr.change_settings(DESTINATION, |settings| settings.tag_mutability = "IMMUTABLE".to_owned()),
            &[("tag mutability of prod/api", "warning", "let stable move")],
        ),
        broken(
            "no right to look at settings",
            &[],
            |it| ["DescribeRepositories", "GetLifecyclePolicy"].map(|call| it.aws.deny(call)).into_iter().collect(),
            &[
                ("tag mutability of prod/api", "warning", "allow the function's role"),
                ("lifecycle policy of prod/api", "warning", "not known"),
                ("tag mutability of prod/worker", "warning", "not known"),
                ("lifecycle policy of prod/worker", "warning", "allow the function's role"),
            ],
        ),
        broken(
            "a lifecycle policy that keeps less than is copied",
            &[],
            |it| {
                it.push(REPOSITORY, "1.2.4", &small_image());
                it.ecr.change_settings(DESTINATION, |settings| settings.lifecycle_policy = Some(json!({"rules": [{
                    "rulePriority": 1,
                    "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1},
                    "action": {"type": "expire"},
                }]})));
            },
            &[("lifecycle policy of prod/api", "warning", "keeps 1 images, and the rule admits 2 tags")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn queues_and_buses_that_do_not_do_are_told() {
    assert_all_broken(&[
        broken(
            "no right to look at queues",
            &[],
            |it| it.sqs.deny("GetQueueAttributes"),
            &[
                ("job queue", "warning", "sqs:GetQueueAttributes"),
                ("dead-letter queue", "warning", "not known"),
            ],
        ),
        broken(
            "a visibility timeout that is too short",
            &[],
            |it| it.sqs.set_visibility_timeout(JOB_QUEUE, 30),
            &[("job queue", "warning", "twice the function's timeout")],
        ),
        broken(
            "no redrive policy",
            &[],
            |it| it.sqs.remove_redrive(JOB_QUEUE),
            &[("job queue", "warning", "redrive policy")],
        ),
        broken(
            "no such event bus",
            &[("EVENT_BUS", "nowhere")],
            unchanged,
            &[("event bus", "failed", "check EVENT_BUS")],
        ),
        broken(
            "no right to look at the event bus",
            &[],
            |it| it.aws.deny("DescribeEventBus"),
            &[("event bus", "warning", "events:DescribeEventBus")],
        ),
    ])
    .await;
    // The URL has the port of a server that is there by then.
    let mut scenario = healthy().await;
    let missing = scenario.sqs.queue_url("nowhere.fifo");
    for (setting, name) in [
        ("JOB_QUEUE_URL", "job queue"),
        ("DEAD_LETTER_QUEUE_URL", "dead-letter queue"),
    ] {
        restart(&mut scenario, &[(setting, &missing)]).await;
        let checklist = check(&scenario).await;
        let lines = lines(&checklist);
        let failed: Vec<_> = lines.iter().filter(|line| line.1 != "ok").collect();
        assert_eq!(failed.len(), 1, "{checklist:#}");
        assert_eq!(
            (failed[0].0.as_str(), failed[0].1.as_str()),
            (name, "failed")
        );
        assert!(
            failed[0]
                .2
                .contains("check JOB_QUEUE_URL and DEAD_LETTER_QUEUE_URL")
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
