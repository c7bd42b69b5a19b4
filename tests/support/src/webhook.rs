//! GitHub's deliveries as the function receives them, a signed payload inside an API Gateway event or a bare one inside
//! EventBridge's, and the events of schedules.
//!
//! The payloads have the fields of real `package` deliveries, oddities included: empty strings where an index has no config,
//! the zero time, `CONTAINER` in upper case, the owner once in lower case and once as it is written.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::function::{ACCOUNT, REGION};

/// The media type of the manifests that [`Shape::Index`] speaks of.
const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
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

/// What kind of hook a payload comes from; they leave out different things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A repository's hook, an index from a build with attestations.
    Index,
    /// A GitHub App: the wrapper is `registry_package` and the event's name too; a single Docker manifest.
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
    // The linked repository of the source code may be called otherwise than the package, and here is.
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
        // A JSON text inside JSON, and attestations show as a platform.
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
            INDEX_MEDIA_TYPE,
            json!({"digest": "", "media_type": "", "size": 0}),
            json!([]),
        ),
        _ => {
            let blob = |media_type: &str, size: u64| json!({"digest": format!("sha256:{size:064x}"), "media_type": media_type, "size": size});
            (
                IMAGE_MEDIA_TYPE,
                blob("application/vnd.docker.container.image.v1+json", 1469),
                json!([blob(
                    "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    2807
                )]),
            )
        }
    };
    json!({
        "digest": digest, "media_type": media_type, "uri": format!("repositories/{name}/manifests/{digest}"), "size": 1609,
        "config": config, "layers": layers,
    })
}

/// The name of the event that goes with a shape, the value of `X-GitHub-Event`.
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

/// An event as EventBridge passes it on. A GitHub delivery has its payload as `detail`, and the event's name as `detail_type`.
/// (AWS documentation, "Receiving SaaS events from AWS Lambda function URLs in Amazon EventBridge")
pub fn eventbridge(source: &str, detail_type: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": detail_type, "source": source,
        "account": ACCOUNT, "time": "2026-11-21T08:00:00Z", "region": REGION, "resources": [], "detail": detail,
    })
}

/// What a scheduled rule of EventBridge sends.
pub fn scheduled_rule() -> Value {
    let mut event = eventbridge("aws.events", "Scheduled Event", json!({}));
    event["resources"] = json!([format!(
        "arn:aws:events:{REGION}:{ACCOUNT}:rule/ghcr-to-ecr"
    )]);
    event
}

/// What EventBridge Scheduler sends to a target without an input of its own: `detail` is a text.
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

    const SECRET: &str = "It's a Secret to Everybody";
    const DIGEST: &str = "sha256:3da1996a8115d7616457760d9920b815241d0a03b34cf5f04e9a0e9d8de37498";

    /// The vector that GitHub's documentation publishes.
    #[test]
    fn the_signature_is_githubs() {
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(sign(SECRET, b"Hello, World!"), expected);
    }

    #[test]
    fn shapes_leave_out_what_their_hooks_leave_out() {
        let read = |shape| -> Value {
            serde_json::from_str(&package_event_of(
                shape, "Acme", "team/api", "1.2.3", DIGEST,
            ))
            .expect("JSON")
        };
        let index = read(Shape::Index);
        assert_eq!(index["package"]["namespace"], "acme");
        assert_eq!(index["package"]["owner"]["login"], "Acme");
        assert_eq!(
            index["package"]["package_version"]["package_url"],
            "ghcr.io/acme/team/api:1.2.3"
        );
        assert!(read(Shape::RegistryPackage)["registry_package"]["name"].is_string());
        let organization = read(Shape::Organization);
        assert!(
            organization["repository"].is_null()
                && organization["package"]["package_type"].is_null()
        );
        assert_eq!(
            organization["package"]["package_version"]["container_metadata"]["tag"]["name"],
            "1.2.3"
        );
        let untagged = read(Shape::Untagged);
        assert_eq!(
            untagged["package"]["package_version"]["package_url"],
            "ghcr.io/acme/team/api:"
        );
    }

    #[test]
    fn both_payload_formats_carry_the_same_body_and_signature() {
        let body = package_event("acme", "api", "1.2.3", DIGEST);
        let new = api_gateway_v2("package", &body, SECRET);
        let old = api_gateway_v1("package", &body, SECRET);
        assert_eq!(
            new["headers"]["x-hub-signature-256"],
            sign(SECRET, body.as_bytes())
        );
        assert_eq!(
            old["headers"]["X-Hub-Signature-256"],
            new["headers"]["x-hub-signature-256"]
        );
        assert_eq!(
            old["multiValueHeaders"]["X-GitHub-Event"],
            json!(["package"])
        );
        let encoded = in_base64(new);
        assert_eq!(
            STANDARD
                .decode(encoded["body"].as_str().expect("text"))
                .expect("base64"),
            body.as_bytes()
        );
        assert_eq!(encoded["isBase64Encoded"], true);
    }

    #[test]
    fn schedules_differ_in_source_and_in_the_type_of_their_detail() {
        let (rule, schedule) = (scheduled_rule(), scheduler());
        assert_eq!(
            (&rule["source"], &rule["detail"]),
            (&json!("aws.events"), &json!({}))
        );
        assert_eq!(
            (&schedule["source"], &schedule["detail"]),
            (&json!("aws.scheduler"), &json!("{}"))
        );
        assert_eq!(rule["detail-type"], schedule["detail-type"]);
        let delivery = eventbridge("github.com", "package", json!({"action": "published"}));
        assert_eq!(delivery["detail-type"], "package");
        assert_eq!(delivery["detail"]["action"], "published");
    }
}
