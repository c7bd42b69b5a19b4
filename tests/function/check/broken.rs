//! Each thing broken in turn: which lines say so, and what they advise. All others stay as they are.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use support::deployment::{JOB_QUEUE, WEBHOOK_SECRET};
use support::ecr::Ecr;
use support::ghcr::Ghcr;
use support::http::Fault;

use super::{check, healthy, lines, restart};
use crate::scenario::{DESTINATION, REPOSITORY, Scenario, small_image};

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
            "repositories that ECR fills itself",
            &[],
            |it| it.aws.put_cache_rule("prod", "ghcr.io"),
            &[
                ("destination prod/api", "failed", "pull-through cache"),
                ("destination prod/worker", "failed", "another prefix"),
            ],
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
