//! The webhook's secret as it is rotated, and as people store it.

use serde_json::Value;
use support::deployment::WEBHOOK_SECRET;
use support::webhook;

use crate::scenario::{Scenario, http_reply};

async fn status(scenario: &Scenario, secret: &str) -> i64 {
    let ping: Value = webhook::api_gateway_v2("ping", "{}", secret);
    http_reply(scenario, &ping).await.0
}

/// Without text, empty, of another form, or encrypted with a key that is gone.
#[tokio::test]
async fn an_unusable_previous_version_counts_as_none() {
    for previous in ["", " \n", r#"{"password": "x"}"#, r#"{"secret": 7}"#] {
        let scenario = Scenario::start().await;
        scenario.aws.put_previous("webhook-secret", previous);
        assert_eq!(status(&scenario, "another").await, 401, "{previous:?}");
        assert_eq!(status(&scenario, WEBHOOK_SECRET).await, 200, "{previous:?}");
    }
    let scenario = Scenario::start().await;
    scenario.aws.put_binary_secret("webhook-secret");
    scenario.aws.put_secret("webhook-secret", "the next");
    assert_eq!(status(&scenario, "another").await, 401, "binary");
    assert_eq!(status(&scenario, "the next").await, 200, "binary");
}

/// The value before the last one was a mistake, and the rotation that mends it must lose no delivery.
#[tokio::test]
async fn a_rotation_over_an_unusable_version_loses_no_delivery() {
    let scenario = Scenario::start().await;
    assert_eq!(status(&scenario, WEBHOOK_SECRET).await, 200);
    scenario.aws.put_binary_secret("webhook-secret");
    scenario.aws.put_secret("webhook-secret", "the next");
    assert_eq!(status(&scenario, "the next").await, 200);
    assert_eq!(status(&scenario, "the next").await, 200, "kept");
}

#[tokio::test]
async fn a_bare_secret_may_begin_with_a_brace() {
    for secret in ["{begins like JSON", "{}}", "{\"secret\": \"x\"", "[1, 2]"] {
        let scenario = Scenario::start().await;
        scenario.aws.put_secret("webhook-secret", secret);
        assert_eq!(status(&scenario, secret).await, 200, "{secret}");
        assert_eq!(status(&scenario, "another").await, 401, "{secret}");
    }
}
