//! GitHub's deliveries as the function receives them, which is a signed payload inside an API Gateway event or an unsigned one inside
//! an EventBridge event; and the events of schedules.
//!
//! The payloads have the fields of real `package` deliveries with all their oddities: empty strings where an index has no config,
//! the zero time, `CONTAINER` in upper case, the owner both in lower case and with its own case.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::function::{ACCOUNT, REGION};
use crate::image::{DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_INDEX};

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The value of `X-Hub-Signature-256`: HMAC-SHA256 of the raw body.
/// (GitHub documentation, "Validating webhook deliveries")
pub fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let code = hmac::sign(&key, body);
    code.as_ref()
        .iter()
        .fold("sha256=".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        })
}

/// The kind of hook that a payload comes from, which decides what the payload leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A repository's hook, an index from a build with attestations.
    Index,
    /// A GitHub App's hook: the payload's field and the event are called `registry_package`; a single Docker manifest.
    RegistryPackage,
    /// An organisation's hook: no `repository`, `package_type`, `version` or `package_url`.
    Organization,
    /// A child of an index: no tag, and a `package_url` that ends with a colon.
    Untagged,
}

/// The body of a `package` delivery for `ghcr.io/<owner>/<name>:<tag>`, an index. `owner` may be in mixed case.
pub fn package_event(owner: &str, name: &str, tag: &str, digest: &str) -> String {
    package_event_of(Shape::Index, owner, name, tag, digest)
}

/// As [`package_event`], from another kind of hook.
pub fn package_event_of(shape: Shape, owner: &str, name: &str, tag: &str, digest: &str) -> String {
    let namespace = owner.to_lowercase();
    let tag = if shape == Shape::Untagged { "" } else { tag };
    let account = json!({
        "login": owner, "id": 21031067, "node_id": "MDQ6VXNlcjIxMDMxMDY3", "type": "Organization", "site_admin": false,
        "html_url": format!("https://github.com/{owner}"),
    });
    let version = json!({
        "id": 57755790, "version": digest, "name": digest, "description": "", "summary": "", "body": "", "manifest": "",
        "html_url": format!("https://github.com/orgs/{owner}/packages/container/{name}/57755790"),
        "target_commitish": "main", "target_oid": "6c62fb45fe66bfb1ea9a66abc38f6a0cc974292b",
        "created_at": ZERO_TIME, "updated_at": ZERO_TIME, "metadata": [], "author": account,
        "container_metadata": {
            "tag": {"name": tag, "digest": digest},
            "labels": labels(shape, owner, name),
            "manifest": manifest(shape, name, digest),
        },
        "package_url": format!("ghcr.io/{namespace}/{name}:{tag}"),
        "installation_command": format!("docker pull ghcr.io/{namespace}/{name}:{tag}"),
    });
    let mut package = json!({
        "id": 10696, "name": name, "namespace": namespace, "description": "", "ecosystem": "CONTAINER",
        "package_type": "CONTAINER", "html_url": format!("https://github.com/{owner}/packages/10696"),
        "created_at": "2026-11-20T08:00:00Z", "updated_at": "2026-11-21T08:00:00Z", "owner": account,
        "package_version": version,
        "registry": {
            "about_url": "https://docs.github.com/packages", "name": "GitHub CONTAINER registry", "type": "CONTAINER",
            "url": format!("https://CONTAINER.pkg.github.com/{owner}"), "vendor": "GitHub Inc",
        },
    });
    // The linked repository of the source code may have another name than the package, as here.
    let repository = json!({"id": 185882436, "name": "Source", "full_name": format!("{owner}/Source"), "private": true});
    let remove = |object: &mut Value, names: &[&str]| {
        let object = object.as_object_mut().expect("an object");
        names.iter().for_each(|name| drop(object.remove(*name)));
    };
    let payload = match shape {
        Shape::Index | Shape::Untagged => {
            json!({"action": "published", "package": package, "repository": repository, "sender": account})
        }
        Shape::RegistryPackage => {
            let installation = json!({"id": 375706, "node_id": "MDIzOkludGVncmF0aW9u"});
            json!({
                "action": "published", "registry_package": package, "repository": repository, "sender": account,
                "installation": installation,
            })
        }
        Shape::Organization => {
            remove(&mut package, &["package_type", "registry"]);
            remove(
                &mut package["package_version"],
                &["version", "package_url", "installation_command"],
            );
            json!({"action": "published", "package": package, "organization": account, "sender": account})
        }
    };
    payload.to_string()
}

fn labels(shape: Shape, owner: &str, name: &str) -> Value {
    let source = format!("https://github.com/{owner}/Source");
    let mut all =
        json!({"org.opencontainers.image.source": source, "org.opencontainers.image.title": name});
    if shape == Shape::Index {
        // The value is a JSON text, and attestations appear as a platform.
        let platform = |architecture: &str, os: &str| json!({"digest": "", "architecture": architecture, "os": os});
        let platforms = [
            platform("amd64", "linux"),
            platform("arm64", "linux"),
            platform("unknown", "unknown"),
        ];
        all["github.internal.platforms"] =
            Value::String(Value::from(platforms.to_vec()).to_string());
    }
    json!({
        "description": "", "source": source, "revision": "6c62fb45fe66bfb1ea9a66abc38f6a0cc974292b", "image_url": "",
        "licenses": "", "all_labels": all,
    })
}

fn manifest(shape: Shape, name: &str, digest: &str) -> Value {
    let (media_type, config, layers) = match shape {
        Shape::Index => (
            OCI_INDEX,
            json!({"digest": "", "media_type": "", "size": 0}),
            json!([]),
        ),
        _ => {
            let blob = |media_type: &str, size: u64| json!({"digest": format!("sha256:{size:064x}"), "media_type": media_type, "size": size});
            (
                DOCKER_MANIFEST,
                blob(DOCKER_CONFIG, 1469),
                json!([blob(DOCKER_LAYER_GZIP, 2807)]),
            )
        }
    };
    json!({
        "digest": digest, "media_type": media_type, "uri": format!("repositories/{name}/manifests/{digest}"), "size": 1609,
        "config": config, "layers": layers,
    })
}

/// The name of a shape's event, the value of `X-GitHub-Event`.
pub fn event_name(shape: Shape) -> &'static str {
    if shape == Shape::RegistryPackage {
        "registry_package"
    } else {
        "package"
    }
}

/// A signed delivery as an HTTP API or a function URL passes it on (payload format 2.0): header names in lower case.
pub fn api_gateway_v2(event_name: &str, body: &str, secret: &str) -> Value {
    let headers: serde_json::Map<String, Value> = headers(event_name, body, secret)
        .into_iter()
        .map(|(name, value)| (name.to_lowercase(), value.into()))
        .collect();
    json!({
        "version": "2.0", "routeKey": "POST /webhook", "rawPath": "/webhook", "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1b2c3d4e5", "domainName": HOST, "domainPrefix": "a1b2c3d4e5",
            "http": {
                "method": "POST", "path": "/webhook", "protocol": "HTTP/1.1", "sourceIp": "140.82.115.1", "userAgent": USER_AGENT,
            },
            "requestId": "JKJaXmPLvHcESHA=", "routeKey": "POST /webhook", "stage": "$default",
            "time": "21/Nov/2026:08:00:00 +0000", "timeEpoch": 1_795_248_000_000_u64,
        },
        "body": body, "isBase64Encoded": false,
    })
}

/// A signed delivery as a REST API passes it on (payload format 1.0): header names as GitHub writes them.
pub fn api_gateway_v1(event_name: &str, body: &str, secret: &str) -> Value {
    let headers = headers(event_name, body, secret);
    let single: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    let several: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!([value])))
        .collect();
    json!({
        "resource": "/webhook", "path": "/webhook", "httpMethod": "POST", "headers": single, "multiValueHeaders": several,
        "queryStringParameters": null, "multiValueQueryStringParameters": null, "pathParameters": null, "stageVariables": null,
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1b2c3d4e5", "domainName": HOST, "httpMethod": "POST",
            "identity": {"sourceIp": "140.82.115.1", "userAgent": USER_AGENT}, "path": "/prod/webhook", "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "requestTimeEpoch": 1_795_248_000_000_u64,
            "resourceId": "123456", "resourcePath": "/webhook", "stage": "prod",
        },
        "body": body, "isBase64Encoded": false,
    })
}

/// The same event with its body in base64, as a gateway sends it for binary media types.
pub fn in_base64(mut event: Value) -> Value {
    let body = event["body"].as_str().expect("a body").to_owned();
    event["body"] = STANDARD.encode(body).into();
    event["isBase64Encoded"] = true.into();
    event
}

/// An event as EventBridge passes it on. For a GitHub delivery, `detail` is the payload and `detail_type` the event's name.
/// (AWS documentation, "Receiving SaaS events from AWS Lambda function URLs in Amazon EventBridge")
pub fn eventbridge(source: &str, detail_type: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": detail_type, "source": source,
        "account": ACCOUNT, "time": "2026-11-21T08:00:00Z", "region": REGION, "resources": [], "detail": detail,
    })
}

/// The event of a scheduled rule of EventBridge.
pub fn scheduled_rule() -> Value {
    let mut event = eventbridge("aws.events", "Scheduled Event", json!({}));
    event["resources"] = json!([format!(
        "arn:aws:events:{REGION}:{ACCOUNT}:rule/ghcr-to-ecr"
    )]);
    event
}

/// The event of EventBridge Scheduler for a target without an input of its own: `detail` is a text.
pub fn scheduler() -> Value {
    let mut event = eventbridge("aws.scheduler", "Scheduled Event", json!("{}"));
    let schedule = format!("arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/ghcr-to-ecr");
    event["resources"] = json!([schedule]);
    event
}

const HOST: &str = "a1b2c3d4e5.execute-api.eu-west-3.amazonaws.com";
const USER_AGENT: &str = "GitHub-Hookshot/044aadd";

fn headers(event_name: &str, body: &str, secret: &str) -> Vec<(&'static str, String)> {
    vec![
        ("Accept", "*/*".to_owned()),
        ("Content-Length", body.len().to_string()),
        ("Content-Type", "application/json".to_owned()),
        ("Host", HOST.to_owned()),
        ("User-Agent", USER_AGENT.to_owned()),
        ("X-Forwarded-For", "140.82.115.1".to_owned()),
        ("X-Forwarded-Port", "443".to_owned()),
        ("X-Forwarded-Proto", "https".to_owned()),
        (
            "X-GitHub-Delivery",
            "72d3162e-cc78-11e3-81ab-4c9367dc0958".to_owned(),
        ),
        ("X-GitHub-Event", event_name.to_owned()),
        ("X-GitHub-Hook-ID", "292430182".to_owned()),
        (
            "X-GitHub-Hook-Installation-Target-ID",
            "79929171".to_owned(),
        ),
        (
            "X-GitHub-Hook-Installation-Target-Type",
            "repository".to_owned(),
        ),
        ("X-Hub-Signature-256", sign(secret, body.as_bytes())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector in GitHub's documentation.
    #[test]
    fn the_signature_is_githubs() {
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let secret = "It's a Secret to Everybody";
        assert_eq!(sign(secret, b"Hello, World!"), expected);
    }
}
