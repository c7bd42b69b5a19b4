//! What goes wrong the first time: each error says what to do, and the exit status says whose fault it is.

use support::ghcr::Ghcr;

use super::{SOURCE, run};
use crate::scenario::Scenario;

const COPY: [&str; 4] = ["copy", SOURCE, "prod/api", "--json"];

/// The error says `words`, on standard error and in the report; nothing was written.
async fn assert_fails(scenario: &Scenario, more: &[(&str, &str)], status: i32, words: &[&str]) {
    let ended = run(scenario, &COPY, more).await;
    assert_eq!(ended.status, Some(status), "{}", ended.errors);
    let report = ended.json();
    assert_eq!(report["outcome"], "failed");
    let error = report["error"].as_str().expect("an error");
    assert!(ended.errors.contains(error), "{}", ended.errors);
    for word in words {
        assert!(ended.errors.contains(word), "{word}: {}", ended.errors);
    }
    scenario.assert_untouched("failed", "1");
}

#[tokio::test]
async fn without_aws_credentials_it_says_how_to_sign_in() {
    let scenario = Scenario::with_image("1").await;
    let environment = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    let words = ["no credentials", "aws sso login", "AWS_PROFILE"];
    assert_fails(&scenario, &environment, 1, &words).await;
}

#[tokio::test]
async fn without_a_region_it_says_where_to_name_one() {
    let scenario = Scenario::with_image("1").await;
    let words = ["AWS_REGION", "aws configure set region"];
    assert_fails(&scenario, &[("AWS_REGION", "")], 2, &words).await;
}

/// A Region that does not have the repository looks as if nobody had made it.
#[tokio::test]
async fn without_the_repository_it_says_how_to_create_it_and_names_the_region() {
    let scenario = Scenario::with_image("1").await;
    scenario.ecr.delete_repository("prod/api");
    let ended = run(&scenario, &COPY, &[]).await;
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.json()["error_kind"], "NotFound");
    for words in [
        "aws ecr create-repository --repository-name prod/api",
        "AWS_REGION",
    ] {
        assert!(ended.errors.contains(words), "{words}: {}", ended.errors);
    }
}

#[tokio::test]
async fn a_private_package_without_a_token_asks_for_one() {
    let scenario = Scenario::with_image("1").await;
    let words = ["private or missing", "GHCR_TOKEN may hold", "gh auth token"];
    assert_fails(&scenario, &[("GHCR_TOKEN", "")], 1, &words).await;
}

#[tokio::test]
async fn an_unknown_tag_is_named() {
    let scenario = Scenario::with_image("2").await;
    let words = ["acme/api:1", "no such tag", "lists its tags"];
    assert_fails(&scenario, &[], 1, &words).await;
}

#[tokio::test]
async fn a_region_that_does_not_answer_is_named() {
    let scenario = Scenario::with_image("1").await;
    let host = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_REGION", "eu-west-33"),
    ];
    let words = [
        "GetAuthorizationToken eu-west-33",
        "not the name of a Region",
    ];
    assert_fails(&scenario, &host, 1, &words).await;
}

#[tokio::test]
async fn what_is_written_wrong_is_refused_before_anybody_is_asked() {
    let scenario = Scenario::with_image("1").await;
    let cases: [(&[&str], &str); 9] = [
        (&["copy", "api:1", "prod/api"], "ghcr.io/owner/name:tag"),
        (&["copy", "docker.io/acme/api:1", "prod/api"], "docker.io"),
        (&["copy", SOURCE, "Prod/API"], "Prod/API"),
        (
            &["copy", SOURCE, "prod/api", "--platform", "arm"],
            "platform",
        ),
        (&["copy", SOURCE], "name a DESTINATION"),
        (&["reconcile"], "RULES"),
        (&["reconcile", "ac[me/*"], "ac[me/*"),
        (&["copy"], "<SOURCE>"),
        (&["copy", SOURCE, "prod/api", "--dryrun"], "--dry-run"),
    ];
    for (arguments, words) in cases {
        let ended = run(&scenario, arguments, &[]).await;
        assert_eq!(ended.status, Some(2), "{arguments:?}: {}", ended.errors);
        assert!(
            ended.errors.contains(words),
            "{arguments:?}: {}",
            ended.errors
        );
        assert_eq!(ended.output, "", "{arguments:?}");
    }
    assert!(scenario.ghcr.server.requests().is_empty());
    assert!(scenario.aws.server.requests().is_empty());
}

/// Neither a token that is refused nor one that is accepted is shown, however much is logged. It beats the secret of the setting,
/// for which Secrets Manager is not asked at all.
#[tokio::test]
async fn the_token_is_used_before_any_secret_and_never_shown() {
    const REFUSED: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
    let scenario = Scenario::with_image("1").await;
    for (token, status) in [(REFUSED, 1), (Ghcr::TOKEN, 0)] {
        let environment = [
            ("GHCR_TOKEN", token),
            ("GHCR_TOKEN_SECRET_ID", "no-such-secret"),
            ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
            (
                "RULES",
                r#"[{"source":"acme/api","destination":"prod/{name}"}]"#,
            ),
        ];
        for arguments in [&COPY[..], &["reconcile"], &["check"]] {
            let ended = run(&scenario, arguments, &environment).await;
            assert_eq!(
                ended.status,
                Some(status),
                "{arguments:?}: {}",
                ended.errors
            );
            for text in [&ended.output, &ended.errors] {
                assert!(!text.contains(token), "{arguments:?}: {text}");
            }
        }
    }
    assert_eq!(scenario.aws.server.count("POST", "GetSecretValue"), 0);
}
