//! Repositories as the rule says: created where they are missing, and put right by scheduled runs, with every call of the ECR API
//! counted.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::deployment::{Deployment, JOB_QUEUE};
use support::ecr::{Ecr, Settings};
use support::image::Image;
use support::webhook;

use crate::scenario::{BINARY, REPOSITORY, Scenario, difference, direct, small_image};

/// Where the rule sends the package; it does not exist at first.
const NEW: &str = "prod/new";

const KEY: &str = "arn:aws:kms:eu-west-3:123456789012:key/1234abcd";

/// A repository in another account and Region.
const ABROAD: &str = "210987654321.dkr.ecr.us-east-1.amazonaws.com";

/// One in the caller's own account, in another Region.
const OTHER_REGION: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";

fn rules(destination: &str, repository: &Value) -> String {
    json!([{"source": REPOSITORY, "destination": destination, "repository": repository}])
        .to_string()
}

/// With a rule to [`NEW`], whose `repository` this is, and an image to copy.
async fn start(repository: &Value) -> Scenario {
    let scenario = Scenario::start_with(&[("RULES", &rules(NEW, repository))]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
}

/// The same, with [`NEW`] in place.
async fn start_with_repository(repository: &Value) -> Scenario {
    let scenario = start(repository).await;
    scenario.ecr.create_repository(NEW);
    scenario
}

fn pull_policy() -> Value {
    json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "LambdaPulls", "Effect": "Allow", "Principal": {"AWS": ["210987654321"], "Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]}]})
}

/// Everything that a rule may name.
fn everything() -> Value {
    json!({"create": true, "scan_on_push": true, "tag_mutability": "IMMUTABLE_WITH_EXCLUSION",
        "tag_mutability_exclusions": ["latest*"], "lifecycle_keep": 10, "encryption": {"kms_key": KEY},
        "policy": pull_policy(), "resource_tags": {"team": "platform"}})
}

/// The calls of the ECR API so far, as `operation` or `operation x2`.
fn calls(scenario: &Deployment) -> Vec<String> {
    let calls = scenario.aws.repository_calls().into_iter();
    calls
        .map(|(operation, count)| match count {
            1 => operation,
            _ => format!("{operation} x{count}"),
        })
        .collect()
}

/// How often something was written through the ECR API.
fn writes(scenario: &Scenario) -> usize {
    let is_write = |operation: &str| {
        ["Put", "Set", "Tag", "Create"]
            .iter()
            .any(|start| operation.starts_with(start))
    };
    let calls = scenario.aws.repository_calls().into_iter();
    calls
        .filter(|(operation, _)| is_write(operation))
        .map(|(_, count)| count)
        .sum()
}

fn settings(scenario: &Scenario) -> Settings {
    scenario.ecr.settings(NEW).expect("the repository exists")
}

fn assert_stored(scenario: &Scenario, tag: &str) {
    let stored = scenario.ecr.repository(NEW);
    assert_eq!(difference(&stored, tag, &small_image()), None, "{tag}");
}

fn reports(reply: &Value) -> Vec<Value> {
    match reply["reports"].as_array() {
        Some(reports) => reports.clone(),
        None => vec![reply.clone()],
    }
}

/// The report about the repository itself.
fn of_repository(reply: &Value) -> Value {
    let reports = reports(reply).into_iter();
    let mut about: Vec<Value> = reports
        .filter(|report| report["source"] == REPOSITORY)
        .collect();
    assert_eq!(about.len(), 1, "{reply}");
    about.remove(0)
}

#[tokio::test]
async fn a_missing_repository_is_created_with_all_that_the_rule_names() {
    let scenario = start(&everything()).await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(
        reply["repository"]["created"],
        json!([
            "scan_on_push: true",
            "tag_mutability: IMMUTABLE_WITH_EXCLUSION (latest*)",
            "lifecycle_policy",
            "policy",
            "resource_tags: team=platform",
            "encryption: KMS",
        ])
    );
    assert_eq!(reply["warnings"], json!([]));
    assert_stored(&scenario, "1");
    let settings = settings(&scenario);
    let lifecycle = settings.lifecycle_policy.expect("a lifecycle policy");
    assert_eq!(lifecycle["rules"][0]["selection"]["countNumber"], 10);
    assert_eq!(
        (settings.scan_on_push, settings.tag_mutability.as_str()),
        (true, "IMMUTABLE_WITH_EXCLUSION")
    );
    assert_eq!(settings.exclusions, ["latest*"]);
    assert_eq!(settings.kms_key.as_deref(), Some(KEY));
    assert_eq!(settings.policy, Some(pull_policy()));
    assert_eq!(settings.resource_tags["team"], "platform");
    assert_eq!(
        calls(&scenario),
        [
            "CreateRepository",
            "DescribeRepositories",
            "DescribeRepositoryCreationTemplates",
            "PutLifecyclePolicy",
            "SetRepositoryPolicy",
        ]
    );
}

/// The exclusions do what they say: the tags that they match may move.
#[tokio::test]
async fn each_tag_mutability_is_created() {
    let other = Image::single(&[support::image::Blob::bytes("another image")]);
    for (mode, exclusions, [fixed, latest]) in [
        ("MUTABLE", None, [true, true]),
        ("IMMUTABLE", None, [false, false]),
        ("MUTABLE_WITH_EXCLUSION", Some(["latest*"]), [true, false]),
        ("IMMUTABLE_WITH_EXCLUSION", Some(["latest*"]), [false, true]),
    ] {
        let scenario = start(
            &json!({"create": true, "tag_mutability": mode, "tag_mutability_exclusions": exclusions}),
        )
        .await;
        for (tag, moves) in [("1", fixed), ("latest", latest)] {
            scenario.push(REPOSITORY, tag, &small_image());
            assert_eq!(scenario.copy(tag).await["outcome"], "copied", "{mode}");
            scenario.push(REPOSITORY, tag, &other);
            let outcome = scenario.invoke(&direct(tag)).await;
            match moves {
                true => assert_eq!(outcome.reply()["outcome"], "copied", "{mode} {tag}"),
                false => assert_eq!(outcome.error().0, "Immutable", "{mode} {tag}"),
            }
        }
        assert_eq!(settings(&scenario).tag_mutability, mode);
    }
}

#[tokio::test]
async fn creation_alone_costs_no_call_while_the_repository_is_there() {
    let scenario = start_with_repository(&json!({"create": true})).await;
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied");
    assert_eq!(reply["repository"], Value::Null);
    assert_eq!(calls(&scenario), [""; 0]);
    // And where it is gone, although it was just there: it is created, and that destination copied to again.
    scenario.ecr.delete_repository(NEW);
    let reply = scenario.copy("1").await;
    assert_eq!(reply["repository"], json!({"created": []}), "{reply}");
    assert_stored(&scenario, "1");
    assert_eq!(settings(&scenario), Settings::default());
    assert_eq!(
        calls(&scenario),
        ["CreateRepository", "DescribeRepositoryCreationTemplates"]
    );
}

/// A warm process that has seen a repository looks again when it is told that there is none.
#[tokio::test]
async fn a_repository_that_is_deleted_meanwhile_is_created_again() {
    let scenario = start(&json!({"create": true, "scan_on_push": true})).await;
    for _ in 0..3 {
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        assert!(settings(&scenario).scan_on_push);
        assert_eq!(scenario.copy("1").await["outcome"], "current");
        scenario.ecr.delete_repository(NEW);
    }
    assert_eq!(
        calls(&scenario),
        [
            "CreateRepository x3",
            "DescribeRepositories",
            "DescribeRepositoryCreationTemplates x3"
        ]
    );
}

#[tokio::test]
async fn one_destination_is_created_while_the_others_are_copied_once() {
    let rules = json!([{"source": REPOSITORY, "destination": ["prod/api", NEW],
        "repository": {"create": true}}]);
    let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let reply = scenario.copy("1").await;
    let reports = reports(&reply);
    let outcomes: Vec<_> = reports.iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, ["copied", "copied"], "{reply}");
    assert_eq!(reports[0]["repository"], Value::Null);
    assert_eq!(reports[1]["repository"], json!({"created": []}));
    assert!(
        reports[1]["destination"]
            .as_str()
            .is_some_and(|it| it.contains(NEW))
    );
    assert_stored(&scenario, "1");
    assert_eq!(scenario.ecr.server.count("PUT", "/prod/api/manifests/1"), 1);
}

/// Somebody else was faster: ECR says so, and that is as good.
#[tokio::test]
async fn losing_the_race_to_create_a_repository_is_a_success() {
    for repository in [json!({"create": true}), everything()] {
        let scenario = start(&repository).await;
        scenario.aws.race_creation(NEW);
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        assert_eq!(reply["repository"], Value::Null, "not created here");
        assert_eq!(writes(&scenario), 1);
        assert_stored(&scenario, "1");
    }
}

#[tokio::test]
async fn copies_side_by_side_create_a_repository_once() {
    for repository in [
        json!({"create": true}),
        json!({"create": true, "scan_on_push": true}),
    ] {
        let scenario = start(&repository).await;
        let tags: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
        for tag in &tags {
            scenario.push(REPOSITORY, tag, &small_image());
        }
        let event = json!({"image": format!("ghcr.io/{REPOSITORY}"), "tags": tags});
        let reply = scenario.invoke(&event).await.reply();
        let created: Vec<Value> = reports(&reply)
            .into_iter()
            .filter(|report| !report["repository"].is_null())
            .collect();
        assert_eq!(created.len(), 1, "{reply}");
        assert_eq!(scenario.aws.calls("CreateRepository"), 1);
        tags.iter().for_each(|tag| assert_stored(&scenario, tag));
    }
}

/// The template with the longest prefix counts, `ROOT` last, and what the rule names goes before it. One that is for something
/// else than pushes does not count.
#[tokio::test]
async fn what_the_rule_does_not_name_comes_from_ecrs_creation_template() {
    let template = |prefix: &str, applied_for: &str, team: &str| {
        json!({"prefix": prefix, "appliedFor": [applied_for], "imageTagMutability": "IMMUTABLE",
            "resourceTags": [{"Key": "team", "Value": team}, {"Key": "cost", "Value": "1"}],
            "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": KEY},
            "lifecyclePolicy": json!({"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any",
                "countType": "imageCountMoreThan", "countNumber": 7}, "action": {"type": "expire"}}]}).to_string(),
            "repositoryPolicy": pull_policy().to_string()})
    };
    for (templates, team) in [
        (
            vec![
                ("ROOT", "CREATE_ON_PUSH", "root"),
                ("prod", "CREATE_ON_PUSH", "prod"),
                ("pro", "CREATE_ON_PUSH", "other"),
                ("prod/new", "CREATE_ON_PUSH", "below"),
            ],
            Some("prod"),
        ),
        (
            vec![
                ("prod", "PULL_THROUGH_CACHE", "cache"),
                ("ROOT", "CREATE_ON_PUSH", "root"),
            ],
            Some("root"),
        ),
        (vec![("prod", "REPLICATION", "replication")], None),
    ] {
        let rule =
            json!({"create": true, "tag_mutability": "MUTABLE", "resource_tags": {"cost": "2"}});
        let scenario = start(&rule).await;
        for (prefix, applied_for, team) in templates {
            let template = template(prefix, applied_for, team);
            scenario.aws.put_creation_template(template);
        }
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        let settings = settings(&scenario);
        let expected_tags = team.map(|team| ("team".to_owned(), team.to_owned()));
        let expected_tags: BTreeMap<_, _> = expected_tags
            .into_iter()
            .chain([("cost".to_owned(), "2".to_owned())])
            .collect();
        assert_eq!(settings.resource_tags, expected_tags);
        assert_eq!(settings.tag_mutability, "MUTABLE", "the rule's");
        assert_eq!(settings.kms_key.as_deref(), team.map(|_| KEY));
        assert_eq!(settings.policy.is_some(), team.is_some());
        let count = settings
            .lifecycle_policy
            .map(|policy| policy["rules"][0]["selection"]["countNumber"].clone());
        assert_eq!(count, team.map(|_| json!(7)));
    }
}

/// ECR would create it at the push with its own settings, of which the encryption could never be changed.
#[tokio::test]
async fn a_repository_that_ecr_creates_on_push_is_created_by_the_rule_before() {
    let scenario = start(&everything()).await;
    scenario.ecr.create_on_push(Settings::default());
    let reply = scenario.copy("1").await;
    assert!(!reply["repository"]["created"].is_null(), "{reply}");
    assert_eq!(settings(&scenario).kms_key.as_deref(), Some(KEY));
    // A rule that names nothing leaves it to ECR.
    let scenario = start(&json!({"create": true})).await;
    scenario.ecr.create_on_push(Settings {
        scan_on_push: true,
        ..Settings::default()
    });
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied");
    assert_eq!(calls(&scenario), [""; 0]);
    assert!(settings(&scenario).scan_on_push);
}

#[tokio::test]
async fn no_repository_is_created_for_an_image_that_is_not_there() {
    for repository in [json!({"create": true}), everything()] {
        let scenario = start(&repository).await;
        let (kind, message) = scenario.fail("none").await;
        assert_eq!(kind, "NotFound", "{message}");
        assert_eq!(scenario.ecr.settings(NEW), None);
        assert_eq!(writes(&scenario), 0);
    }
}

/// Only the rule's own repositories.
#[tokio::test]
async fn a_destination_that_an_event_names_is_not_created() {
    let scenario = start(&everything()).await;
    let event = json!({"source": format!("ghcr.io/{REPOSITORY}:1"), "destination": "prod/mine"});
    let (kind, message) = scenario.invoke(&event).await.error();
    assert_eq!(kind, "NotFound");
    assert!(
        message.contains("create-repository --repository-name prod/mine"),
        "{message}"
    );
    assert_eq!(scenario.ecr.settings("prod/mine"), None);
    assert_eq!(calls(&scenario), [""; 0]);
}

#[tokio::test]
async fn without_create_the_error_shows_the_command_and_nothing_is_called() {
    for repository in [
        json!({}),
        json!({"scan_on_push": true, "lifecycle_keep": 3}),
    ] {
        let scenario = start(&repository).await;
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "NotFound");
        let command = format!("aws ecr create-repository --repository-name {NEW}");
        assert!(message.contains(&command), "{message}");
        assert_eq!(calls(&scenario), [""; 0]);
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        let report = of_repository(&reply);
        assert_eq!(report["error_kind"], "NotFound", "{reply}");
        assert!(
            report["error"]
                .as_str()
                .is_some_and(|error| error.contains(&command))
        );
        assert_eq!(writes(&scenario), 0);
        assert_eq!(scenario.ecr.settings(NEW), None);
    }
}

/// Each difference once, and nothing that the rule does not name; then nothing more, although ECR writes policies in its own way.
#[tokio::test]
async fn a_scheduled_run_puts_right_what_differs_and_the_next_one_writes_nothing() {
    let mut rule = everything();
    rule["create"] = json!(false);
    rule["encryption"] = json!("AES256");
    let scenario = start_with_repository(&rule).await;
    scenario.ecr.change_settings(NEW, |settings| {
        settings.resource_tags = [("team", "other"), ("owner", "me")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    });
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let report = of_repository(&reply);
    assert_eq!(report["outcome"], "current");
    assert_eq!(
        report["repository"]["changed"],
        json!([
            "scan_on_push: true (was scan_on_push: false)",
            "tag_mutability: IMMUTABLE_WITH_EXCLUSION (latest*) (was tag_mutability: MUTABLE)",
            "lifecycle_policy (was none)",
            "policy (was none)",
            "resource_tags: team=platform (was resource_tags: team=other)",
        ])
    );
    // The image is missing, so it is asked once whether it is archived.
    let expected = [
        "DescribeImages",
        "DescribeRepositories",
        "GetLifecyclePolicy",
        "GetRepositoryPolicy",
        "ListTagsForResource",
        "PutImageScanningConfiguration",
        "PutImageTagMutability",
        "PutLifecyclePolicy",
        "SetRepositoryPolicy",
        "TagResource",
    ];
    assert_eq!(calls(&scenario), expected);
    let after = settings(&scenario);
    assert_eq!(after.resource_tags["owner"], "me", "not the rule's");
    assert_eq!(after.policy, Some(pull_policy()));

    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reports(&reply).len(), 1, "nothing to tell: {reply}");
    assert_eq!(reply["outcome"], "current");
    assert_eq!(writes(&scenario), 5, "those of the first run");
    assert_eq!(settings(&scenario), after);
    // Somebody changes one thing, and a run by hand counts as a scheduled one.
    scenario
        .ecr
        .change_settings(NEW, |settings| settings.scan_on_push = false);
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    assert_eq!(
        of_repository(&reply)["repository"],
        json!({"changed": ["scan_on_push: true (was scan_on_push: false)"]})
    );
    assert_eq!(writes(&scenario), 6);
}

#[tokio::test]
async fn what_the_rule_does_not_name_is_neither_looked_at_nor_touched() {
    let scenario = start_with_repository(&json!({"create": true, "scan_on_push": true})).await;
    scenario.ecr.change_settings(NEW, |settings| {
        settings.tag_mutability = "IMMUTABLE".to_owned();
        settings.policy = Some(pull_policy());
        settings.lifecycle_policy = Some(json!({"rules": []}));
        settings
            .resource_tags
            .insert("owner".to_owned(), "me".to_owned());
    });
    let mut expected = settings(&scenario);
    expected.scan_on_push = true;
    // A template is for new repositories.
    scenario.aws.put_creation_template(
        json!({"prefix": "ROOT", "appliedFor": ["CREATE_ON_PUSH"], "imageTagMutability": "MUTABLE"}),
    );
    scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(settings(&scenario), expected);
    assert_eq!(
        calls(&scenario),
        [
            "DescribeImages",
            "DescribeRepositories",
            "PutImageScanningConfiguration"
        ]
    );
}

#[tokio::test]
async fn another_encryption_is_a_warning() {
    let scenario = start_with_repository(&json!({"encryption": {"kms_key": KEY}})).await;
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let report = of_repository(&reply);
    assert_eq!(report["outcome"], "current");
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(
        warning.contains("encryption KMS with arn:aws:kms") && warning.contains("has AES256"),
        "{report}"
    );
    assert_eq!(report["repository"], Value::Null);
    assert_eq!(writes(&scenario), 0);
}

/// One look for all tags, in a run and in the copies that follow from it.
#[tokio::test]
async fn a_thousand_tags_cost_no_more_calls_than_one() {
    let scenario = start(&everything()).await;
    scenario.copy("1").await;
    let image = small_image();
    for number in 0..1000 {
        let tag = format!("t{number}");
        scenario.ghcr.put_image(REPOSITORY, &tag, &image);
        if number % 100 != 0 {
            scenario.ecr.put_tag(NEW, &tag, &image.top);
        }
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied");
    assert_eq!(scenario.ecr.repository(NEW).tags.len(), 1001);
    let once = [
        "CreateRepository",
        "DescribeImages",
        "DescribeRepositories x2",
        "DescribeRepositoryCreationTemplates",
        "GetLifecyclePolicy",
        "GetRepositoryPolicy",
        "ListTagsForResource",
        "PutLifecyclePolicy",
        "SetRepositoryPolicy",
    ];
    assert_eq!(calls(&scenario), once);
    for number in 0..20 {
        let reply = scenario.copy(&format!("t{number}")).await;
        assert_eq!(reply["outcome"], "current");
    }
    assert_eq!(calls(&scenario), once);
}

#[tokio::test]
async fn a_run_looks_once_at_a_repository_that_several_packages_share() {
    let rules =
        json!([{"source": "acme/*", "destination": NEW, "repository": {"scan_on_push": true}}]);
    let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
    scenario.ecr.create_repository(NEW);
    for (package, tag) in [("acme/api", "1"), ("acme/web", "2"), ("acme/docs", "3")] {
        scenario.push(package, tag, &small_image());
    }
    scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(
        calls(&scenario),
        [
            "DescribeImages x3",
            "DescribeRepositories",
            "PutImageScanningConfiguration"
        ]
    );
}

/// The run creates it, so that its jobs find it.
#[tokio::test]
async fn a_scheduled_run_creates_a_missing_repository_and_enqueues_its_jobs() {
    let rules = rules(NEW, &everything());
    let scenario = Scenario::start_with_queue(&[("RULES", &rules)]).await;
    for number in 0..20 {
        let tag = format!("t{number}");
        scenario.push(REPOSITORY, &tag, &small_image());
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    assert!(!of_repository(&reply)["repository"]["created"].is_null());
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 20);
    scenario.process_queue().await;
    assert_eq!(scenario.ecr.repository(NEW).tags.len(), 20);
    assert_eq!(scenario.aws.calls("CreateRepository"), 1);
    assert_eq!(scenario.aws.calls("DescribeRepositories"), 1);
}

/// A message names its destination, as the rule does.
#[tokio::test]
async fn a_webhooks_job_creates_its_repository() {
    let rules = rules(NEW, &json!({"create": true, "scan_on_push": true}));
    let scenario = Scenario::start_with_queue(&[("RULES", &rules)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let event = json!({"source": "github.com", "detail-type": "package",
        "detail": webhook::package_event("acme", "api", "1", &small_image().top), "id": "1"});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    scenario.process_queue().await;
    assert_stored(&scenario, "1");
    assert!(settings(&scenario).scan_on_push);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let scenario = start(&everything()).await;
    let mut event = direct("1");
    event["dry_run"] = json!(true);
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "planned", "{reply}");
    let would = &reply["repository"]["would_create"];
    assert_eq!(would.as_array().map(Vec::len), Some(6), "{reply}");

    let run = json!({"reconcile": true, "dry_run": true});
    let reply = scenario.invoke(&run).await.reply();
    assert_eq!(reply["outcome"], "planned", "{reply}");
    assert_eq!(of_repository(&reply)["repository"]["would_create"], *would);
    assert_eq!(reports(&reply).len(), 2, "the tag is planned too: {reply}");

    scenario.ecr.create_repository(NEW);
    let reply = scenario.invoke(&run).await.reply();
    let report = of_repository(&reply);
    assert_eq!(report["outcome"], "planned");
    let would = report["repository"]["would_change"].as_array();
    assert_eq!(would.map(Vec::len), Some(5), "{report}");
    assert_eq!(writes(&scenario), 0);
    assert_eq!(settings(&scenario), Settings::default());
}

#[tokio::test]
async fn without_the_right_to_create_the_error_names_it() {
    for repository in [json!({"create": true}), everything()] {
        let scenario = start(&repository).await;
        scenario.aws.deny("CreateRepository");
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Denied");
        for part in [
            "CreateRepository prod/new",
            "ecr:CreateRepository",
            "aws ecr create-repository",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let reply = scenario.invoke(&webhook::scheduler()).await.reply();
        assert_eq!(of_repository(&reply)["error_kind"], "Denied", "{reply}");
        assert_eq!(reports(&reply).len(), 1, "once for all tags: {reply}");
    }
}

/// Where looking is refused, ECR is believed: creation is tried all the same, and what can't be compared is not written.
#[tokio::test]
async fn without_the_right_to_look_creation_is_tried_all_the_same() {
    for event in [direct("1"), webhook::scheduler()] {
        let scenario = start(&everything()).await;
        scenario.aws.deny("DescribeRepositories");
        scenario.aws.deny("DescribeRepositoryCreationTemplates");
        let reply = scenario.invoke(&event).await.reply();
        assert_eq!(reply["outcome"], "copied", "{reply}");
        assert_stored(&scenario, "1");
        assert_eq!(settings(&scenario).kms_key.as_deref(), Some(KEY));
        let created = reports(&reply).into_iter();
        let created = created.filter(|report| !report["repository"].is_null());
        let created: Vec<Value> = created.collect();
        assert_eq!(created.len(), 1, "{reply}");
        let warning = created[0]["warnings"][0].as_str().unwrap_or_default();
        assert!(
            warning.contains("creation templates could not be read"),
            "{reply}"
        );
    }
    let scenario = start_with_repository(&everything()).await;
    scenario.aws.deny("DescribeRepositories");
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let report = of_repository(&reply);
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(
        warning.contains("not compared") && warning.contains("ecr:DescribeRepositories"),
        "{report}"
    );
    assert_eq!(settings(&scenario), Settings::default());
    assert_eq!(scenario.copy("1").await["outcome"], "current");
}

/// What can't be put right is a failure that stops neither the rest nor the copies.
#[tokio::test]
async fn a_right_that_is_missing_for_one_setting_stops_no_other() {
    let mut rule = everything();
    rule["encryption"] = json!("AES256");
    let scenario = start_with_repository(&rule).await;
    scenario.aws.deny("PutImageTagMutability");
    scenario.aws.deny("GetLifecyclePolicy");
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let report = of_repository(&reply);
    assert_eq!(
        (&report["outcome"], &report["error_kind"]),
        (&json!("failed"), &json!("Denied"))
    );
    let changed = report["repository"]["changed"].as_array();
    assert_eq!(changed.map(Vec::len), Some(3), "{report}");
    let warning = report["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("GetLifecyclePolicy"), "{report}");
    assert_stored(&scenario, "1");
    assert_eq!(
        settings(&scenario).lifecycle_policy,
        None,
        "not written blindly"
    );

    // At the creation itself it is a warning, as the image has arrived; the next run puts it right.
    let scenario = start(&everything()).await;
    scenario.aws.deny("PutLifecyclePolicy");
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let warning = reply["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("PutLifecyclePolicy"), "{reply}");
    assert!(
        !reply["repository"]["created"]
            .to_string()
            .contains("lifecycle")
    );
    scenario.aws.allow_all();
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let report = of_repository(&reply);
    assert_eq!(
        report["repository"]["changed"],
        json!(["lifecycle_policy (was none)"]),
        "{reply}"
    );
}

async fn start_abroad(host: &str) -> (Deployment, Ecr) {
    let rules = rules(&format!("{host}/{NEW}"), &everything());
    let settings = [("RULES", rules.as_str())];
    let (deployment, registries) =
        Deployment::start_with_registries(BINARY.as_ref(), &[host], &settings).await;
    let [registry] = <[Ecr; 1]>::try_from(registries).unwrap_or_else(|_| panic!("one"));
    deployment.push(REPOSITORY, "1", &small_image());
    (deployment, registry)
}

#[tokio::test]
async fn a_repository_in_another_region_is_created_by_the_api_of_that_region() {
    let (deployment, registry) = start_abroad(OTHER_REGION).await;
    let reply = deployment.function.invoke(&direct("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let stored = registry.repository(NEW);
    assert_eq!(difference(&stored, "1", &small_image()), None);
    assert!(stored.settings.scan_on_push);
    assert_eq!(
        deployment.ecr.settings(NEW),
        None,
        "not in the function's own Region"
    );
    registry.change_settings(NEW, |settings| settings.scan_on_push = false);
    let reply = deployment
        .function
        .invoke(&webhook::scheduler())
        .await
        .reply();
    assert_eq!(reply["outcome"], "current", "{reply}");
    assert!(registry.repository(NEW).settings.scan_on_push);
}

/// The account's number goes along, and ECR decides: other accounts' repositories are theirs to create, unless their registry
/// policy says otherwise, and even then their settings are not the caller's.
#[tokio::test]
async fn a_repository_in_another_account_is_that_accounts_to_create() {
    let (deployment, registry) = start_abroad(ABROAD).await;
    let (kind, message) = deployment.function.invoke(&direct("1")).await.error();
    assert_eq!(kind, "Denied");
    for part in [
        "prod/new in 210987654321, us-east-1",
        "no resource-based policy",
        "another account's repositories are created by that account",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(registry.settings(NEW), None);

    deployment.aws.open_account("210987654321");
    let reply = deployment.function.invoke(&direct("1")).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(
        reply["repository"]["created"].as_array().map(Vec::len),
        Some(4),
        "{reply}"
    );
    let warnings = reply["warnings"].to_string();
    assert!(warnings.contains("SetRepositoryPolicy"), "{reply}");
    assert_eq!(
        difference(&registry.repository(NEW), "1", &small_image()),
        None
    );
}

#[tokio::test]
async fn a_mistake_in_the_rule_stops_the_start() {
    let rules = rules(
        NEW,
        &json!({"lifecycle_keep": 3, "lifecycle_policy": {"rules": [{}]}}),
    );
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    scenario.invoke(&json!({})).await;
    let error = scenario.function.initialization_error().expect("told");
    let message = error["errorMessage"].as_str().unwrap_or_default();
    assert!(
        message.contains("rule 0: `repository`: `lifecycle_keep` and `lifecycle_policy`"),
        "{error}"
    );
}
