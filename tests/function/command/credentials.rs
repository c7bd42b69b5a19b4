//! AWS credentials as people have them on a laptop: in profiles, of AWS IAM Identity Center (SSO), of a process.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use support::http::{Server, json as answer};

use super::{Ended, SOURCE, run};
use crate::scenario::{Scenario, small_image};

/// The SHA-1 of `acme`, the name of the session below: so the AWS CLI names the file of the session's token.
const TOKEN_FILE: &str = ".aws/sso/cache/293abb6b76d7791c0732cc517d38c4b5c734b87f.json";

/// Somebody's home, with a profile `laptop`. Removed when this value is dropped.
struct Home(PathBuf);

impl Home {
    fn with_profile(test: &str, profile: &str) -> Home {
        let name = format!("ghcr-to-ecr-{test}-{}", std::process::id());
        let home = Home(std::env::temp_dir().join(name));
        let profile = format!("[profile laptop]\nregion = eu-west-3\n{profile}\n");
        home.write(".aws/config", &profile);
        home
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Copies with nothing but the profile, and `more`.
    async fn copy(&self, scenario: &Scenario, more: (&str, &str)) -> Ended {
        let environment = [
            ("HOME", self.0.to_str().expect("UTF-8")),
            ("AWS_PROFILE", "laptop"),
            ("PATH", "/usr/bin:/bin"),
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_REGION", ""),
            more,
        ];
        run(scenario, &["copy", SOURCE, "prod/api"], &environment).await
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left in a folder for temporary files does no harm.
        _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_process_of_a_profile_gives_credentials() {
    let scenario = Scenario::with_image("1").await;
    let process =
        r#"printf '{"Version":1,"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"x"}'"#;
    let home = Home::with_profile("process", &format!("credential_process = {process}"));
    let ended = home.copy(&scenario, ("TERM", "dumb")).await;
    assert_eq!(ended.status, Some(0), "{}", ended.errors);
    scenario.assert_stored("copied", "1", &small_image());
}

/// The token of `aws sso login` is exchanged for the role's credentials; one that has expired asks for a new login.
#[tokio::test]
async fn a_session_of_sso_gives_credentials_until_it_expires() {
    let scenario = Scenario::with_image("1").await;
    let portal = Server::start(async |request| {
        let token = request.headers().get("x-amz-sso_bearer_token");
        match token.is_some_and(|token| token == "session-token") {
            true => answer(
                200,
                &json!({"roleCredentials": {
                    "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": "x",
                    "sessionToken": "y", "expiration": 4_102_444_800_000_u64,
                }}),
            ),
            false => answer(
                401,
                &json!({"message": "Session token not found or invalid"}),
            ),
        }
    })
    .await;
    let home = Home::with_profile(
        "sso",
        "sso_session = acme\nsso_account_id = 123456789012\nsso_role_name = Developer\n\n[sso-session acme]\nsso_region = eu-west-3\nsso_start_url = https://acme.awsapps.com/start",
    );
    let url = portal.url();
    for (expires_at, status) in [("2020-01-01T00:00:00Z", 1), ("2099-01-01T00:00:00Z", 0)] {
        let token = json!({"accessToken": "session-token", "expiresAt": expires_at});
        home.write(TOKEN_FILE, &token.to_string());
        let ended = home.copy(&scenario, ("AWS_ENDPOINT_URL_SSO", &url)).await;
        assert_eq!(ended.status, Some(status), "{}", ended.errors);
        assert!(!ended.errors.contains("session-token"), "{}", ended.errors);
        match status {
            0 => scenario.assert_stored("copied", "1", &small_image()),
            _ => assert!(ended.errors.contains("aws sso login"), "{}", ended.errors),
        }
    }
    assert_eq!(portal.count("GET", "/federation/credentials"), 1);
}
