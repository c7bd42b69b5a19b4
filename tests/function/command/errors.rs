//! What goes wrong the first time: each error says what to do, and the exit status says whose fault it is.

use support::ghcr::Ghcr;
use support::image::{Blob, Child};

use super::{SOURCE, command, ended, run};
use crate::scenario::{Image, REPOSITORY, Scenario};

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

/// A registry's texts may not move the cursor, name the window or turn the direction of what is read.
#[tokio::test]
async fn hostile_text_is_no_command_to_the_terminal() {
    const PLATFORM: &str = "linux/\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}46mra";
    let scenario = Scenario::start().await;
    let child = Child {
        platform: Some(PLATFORM.to_owned()),
        ..Child::from(Image::single(&[Blob::bytes("layer")]))
    };
    scenario.push(REPOSITORY, "1", &Image::index(vec![child]));
    let platform = [&COPY[..], &["--platform", "linux/arm64"]].concat();
    let json = run(&scenario, &platform, &[("AWS_LAMBDA_LOG_LEVEL", "TRACE")]).await;
    assert_eq!(json.status, Some(1));
    for text in [&json.output, &json.errors] {
        assert!(text.contains("owned"), "{text:?}");
        let hostile = |character: char| "\u{1b}\u{7}\u{9b}\u{202e}".contains(character);
        assert!(!text.contains(hostile), "{text:?}");
    }
    let report = json.json();
    let error = report["error"].as_str().expect("an error");
    assert!(
        error.contains("\u{9b}31m\u{202e}"),
        "JSON has it escaped: {error:?}"
    );
}

/// Templates and scripts leave no variable out, but set it to nothing.
#[tokio::test]
async fn what_can_not_be_a_setting_is_named() {
    let scenario = Scenario::with_image("1").await;
    for (name, value) in [
        ("AWS_REGION", ""),
        ("AWS_REGION", "eu west 3"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL", "localhost:4566"),
        ("AWS_ENDPOINT_URL_ECR", ""),
        ("GHCR_TOKEN", "ghp_one\nghp_two"),
        ("GHCR_TOKEN", r#"{"token":"ghp_one"}"#),
    ] {
        let mut copy = command(&scenario, &COPY);
        copy.env(name, value);
        let ended = ended(copy).await;
        assert_eq!(ended.status, Some(2), "{name}={value}: {}", ended.errors);
        let words = format!("setting {name} is ");
        assert!(ended.errors.contains(&words), "{}", ended.errors);
        assert!(!ended.errors.contains("ghp_"), "{}", ended.errors);
    }
    assert!(scenario.aws.server.requests().is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn a_setting_that_is_no_text_is_not_taken_to_be_absent() {
    use std::os::unix::ffi::OsStrExt;
    let scenario = Scenario::with_image("1").await;
    let mut copy = command(&scenario, &COPY);
    copy.env("GHCR_TOKEN", std::ffi::OsStr::from_bytes(b"ghp_\xff"));
    let ended = ended(copy).await;
    assert_eq!(ended.status, Some(2), "{}", ended.errors);
    assert!(ended.errors.contains("GHCR_TOKEN"), "{}", ended.errors);
}

/// A name with a typing error is found where it is shown.
#[tokio::test]
async fn a_profile_that_is_not_there_is_named() {
    let scenario = Scenario::with_image("1").await;
    let words = ["the profile \"nobody\" (AWS_PROFILE)"];
    let unsigned = [
        ("AWS_PROFILE", "nobody"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ];
    assert_fails(&scenario, &unsigned, 1, &words).await;
    let nowhere = [("AWS_PROFILE", "nobody"), ("AWS_REGION", "")];
    assert_fails(&scenario, &nowhere, 2, &words).await;
}

#[tokio::test]
async fn certificates_that_can_not_be_read_are_traced_to_their_setting() {
    let scenario = Scenario::with_image("1").await;
    let environment = [("SSL_CERT_FILE", "/no/such/file")];
    let words = ["No CA certificates", "SSL_CERT_FILE"];
    assert_fails(&scenario, &environment, 1, &words).await;
}

#[tokio::test]
async fn malformed_rules_are_a_wrong_setting_wherever_they_are() {
    let scenario = Scenario::with_image("1").await;
    scenario.aws.put_secret("rules", r#"[{"source":1}]"#);
    for rules in [r#"[{"source":1}]"#, "secret:rules"] {
        assert_fails(&scenario, &[("RULES", rules)], 2, &["RULES", "rule 0"]).await;
    }
}

/// There is no function here, whose role the errors speak of.
#[tokio::test]
async fn whose_role_lacks_a_right_is_said() {
    const WORDS: &str = "here the function's role is whoever you are at AWS";
    let scenario = Scenario::with_image("1").await;
    let of_secret = [("GHCR_TOKEN", ""), ("GHCR_TOKEN_SECRET_ID", "ghcr-token")];
    scenario.aws.deny("GetSecretValue");
    assert_fails(&scenario, &of_secret, 1, &[WORDS]).await;
    scenario.aws.deny("GetAuthorizationToken");
    assert_fails(&scenario, &[], 1, &[WORDS]).await;
    let check = run(&scenario, &["check"], &[]).await;
    assert_eq!(check.status, Some(1));
    assert!(check.errors.contains(WORDS), "{}", check.errors);
    scenario.aws.allow_all();
    scenario.ecr.deny("InitiateLayerUpload");
    assert_fails(&scenario, &[], 1, &[WORDS]).await;
}

#[tokio::test]
async fn arguments_are_not_called_an_event() {
    let scenario = Scenario::start().await;
    for arguments in [
        &["copy", "ghcr.io/acme/api", "prod/api"][..],
        &["copy", SOURCE, "prod/api", "--platform", "arm"],
        &["reconcile", "ac[me/*"],
    ] {
        let rules = r#"[{"source":"acme/*","destination":"{name}"}]"#;
        let ended = run(&scenario, arguments, &[("RULES", rules)]).await;
        assert_eq!(ended.status, Some(2), "{arguments:?}: {}", ended.errors);
        assert!(!ended.errors.contains("event"), "{}", ended.errors);
    }
}
