//! Three AWS calls of the function, on one endpoint: `GetSecretValue` of Secrets Manager, `GetParameter` of Systems Manager
//! and `GetAuthorizationToken` of ECR.
//!
//! The services speak AWS JSON 1.1: POST to `/`, the operation in `X-Amz-Target`, errors as 400 with `__type`.
//! Names, shapes and texts are those of the services' API references.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::function::{ACCOUNT, REGION};
use crate::http::{self, Reply, Server, lock};

/// The most bytes of an advanced parameter; a standard one has half of that.
const PARAMETER_LIMIT: usize = 8 * 1024;

/// Secrets Manager, Systems Manager and the ECR API behind one URL, the one for `AWS_ENDPOINT_URL`.
#[derive(Clone)]
pub struct Aws {
    /// URL, request log and faults.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Secret>,
    parameters: BTreeMap<String, Parameter>,
    denied: BTreeSet<String>,
    authorization: Option<Authorization>,
    calls: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Secret {
    current: String,
    previous: Option<String>,
    undecipherable: bool,
}

#[derive(Default)]
struct Parameter {
    value: String,
    version: u64,
}

struct Authorization {
    password: String,
    registry_url: String,
    expires_at: SystemTime,
}

impl Aws {
    /// No secrets, no parameters and no ECR authorization to begin with.
    pub async fn start() -> Aws {
        let state = Arc::new(Mutex::new(State::default()));
        let server = {
            let state = state.clone();
            Server::start(move |request| {
                let state = state.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.bytes().await.expect("the body of an AWS call");
                    answer(&head, &body, &mut lock(&state))
                }
            })
            .await
        };
        Aws { server, state }
    }

    /// Creates a secret, or gives it a new value as `PutSecretValue` does: what was `AWSCURRENT` becomes `AWSPREVIOUS`.
    pub fn put_secret(&self, name: &str, value: &str) {
        let mut state = self.state();
        let secret = state.secrets.entry(name.to_owned()).or_default();
        let replaced = std::mem::replace(&mut secret.current, value.to_owned());
        if !replaced.is_empty() {
            secret.previous = Some(replaced);
        }
    }

    /// The ARN under which the secret `name` is found too.
    pub fn secret_arn(name: &str) -> String {
        format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-a1B2c3")
    }

    /// From now on the secret's key can't be used: `DecryptionFailure`.
    pub fn fail_decryption(&self, name: &str) {
        self.state()
            .secrets
            .get_mut(name)
            .expect("a secret that was put")
            .undecipherable = true;
    }

    /// Creates a parameter of type `String`, or gives it a new value and version.
    pub fn put_parameter(&self, name: &str, value: &str) {
        assert!(
            value.len() <= PARAMETER_LIMIT,
            "a parameter has at most {PARAMETER_LIMIT} bytes"
        );
        let mut state = self.state();
        let parameter = state.parameters.entry(name.to_owned()).or_default();
        parameter.value = value.to_owned();
        parameter.version += 1;
    }

    /// The ARN under which the parameter `name` is found too.
    pub fn parameter_arn(name: &str) -> String {
        let path = name.trim_start_matches('/');
        format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{path}")
    }

    /// From now on the caller has no permission for `operation` (`GetSecretValue`, `GetParameter` or `GetAuthorizationToken`).
    pub fn deny(&self, operation: &str) {
        self.state().denied.insert(operation.to_owned());
    }

    /// What `GetAuthorizationToken` answers: user `AWS` with `password`, good for the registry at `registry_url`
    /// (`proxyEndpoint`) until `expires_at`.
    pub fn authorize(&self, password: &str, registry_url: &str, expires_at: SystemTime) {
        let (password, registry_url) = (password.to_owned(), registry_url.to_owned());
        self.state().authorization = Some(Authorization {
            password,
            registry_url,
            expires_at,
        });
    }

    /// How often `operation` was asked for, answered or refused.
    pub fn calls(&self, operation: &str) -> usize {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Twelve hours from now, as long as a real ECR authorization lasts.
pub fn in_twelve_hours() -> SystemTime {
    SystemTime::now() + Duration::from_secs(12 * 60 * 60)
}

/// What is wrong with a call to `service`, before its operation is looked at: the error's code and message.
pub(crate) fn frame_error(
    head: &Parts,
    service: &str,
    content_type: &str,
) -> Option<(&'static str, String)> {
    if head.method != "POST"
        || head.uri.path() != "/"
        || header(head, "content-type") != content_type
    {
        let message = format!("POST / with {content_type} is wanted");
        return Some(("SerializationException", message));
    }
    let authorization = header(head, "authorization");
    if !authorization.starts_with("AWS4-HMAC-SHA256 Credential=")
        || !authorization.contains("Signature=")
    {
        let message = "Missing Authentication Token".to_owned();
        return Some(("MissingAuthenticationTokenException", message));
    }
    let scope = format!("/{REGION}/{service}/aws4_request,");
    (!authorization.contains(&scope)).then(|| {
        let message = format!("Credential should be scoped to {scope}");
        ("InvalidSignatureException", message)
    })
}

/// What IAM says to a caller whose role lacks `action`.
pub(crate) fn denial(action: &str, resource: &str) -> String {
    format!(
        "User: arn:aws:sts::{ACCOUNT}:assumed-role/ghcr-to-ecr/ghcr-to-ecr is not authorized to perform: \
         {action} on resource: {resource} because no identity-based policy allows the {action} action"
    )
}

/// A header's value; empty if there is none.
pub(crate) fn header<'a>(head: &'a Parts, name: &str) -> &'a str {
    head.headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn answer(head: &Parts, body: &Bytes, state: &mut State) -> Reply {
    let target = header(head, "x-amz-target");
    let (service, operation) = match target {
        "secretsmanager.GetSecretValue" => ("secretsmanager", "GetSecretValue"),
        "AmazonSSM.GetParameter" => ("ssm", "GetParameter"),
        "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" => {
            ("ecr", "GetAuthorizationToken")
        }
        other => {
            return refusal(
                "UnknownOperationException",
                &format!("The operation {other:?} is not known"),
            );
        }
    };
    *state.calls.entry(operation.to_owned()).or_default() += 1;
    if let Some((kind, message)) = frame_error(head, service, CONTENT_TYPE) {
        return refusal(kind, &message);
    }
    let Ok(input) = serde_json::from_slice::<Value>(body) else {
        return refusal("SerializationException", "the body is no JSON");
    };
    if state.denied.contains(operation) {
        let resource = match service {
            "secretsmanager" => input["SecretId"].as_str().unwrap_or("*").to_owned(),
            "ssm" => Aws::parameter_arn(input["Name"].as_str().unwrap_or("*")),
            _ => "*".to_owned(),
        };
        let message = denial(&format!("{service}:{operation}"), &resource);
        return refusal("AccessDeniedException", &message);
    }
    match service {
        "secretsmanager" => secret_value(&input, state),
        "ssm" => parameter(&input, state),
        _ => authorization_token(state),
    }
}

fn secret_value(input: &Value, state: &State) -> Reply {
    let id = input["SecretId"].as_str().unwrap_or_default();
    let stage = input["VersionStage"].as_str().unwrap_or("AWSCURRENT");
    let Some((name, secret)) = state
        .secrets
        .iter()
        .find(|(name, _)| id == *name || id == Aws::secret_arn(name))
    else {
        return refusal(
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret.",
        );
    };
    let value = match stage {
        "AWSCURRENT" => Some(&secret.current),
        "AWSPREVIOUS" => secret.previous.as_ref(),
        _ => None,
    };
    let Some(value) = value else {
        return refusal(
            "ResourceNotFoundException",
            &format!(
                "Secrets Manager can't find the specified secret value for staging label: {stage}"
            ),
        );
    };
    if secret.undecipherable {
        return refusal(
            "DecryptionFailure",
            "Secrets Manager can't decrypt the protected secret text using the provided KMS key.",
        );
    }
    success(&json!({
        "ARN": Aws::secret_arn(name),
        "Name": name,
        "VersionId": "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111",
        "SecretString": value,
        "VersionStages": [stage],
        "CreatedDate": 1_523_477_145.713,
    }))
}

/// `WithDecryption` is for values that are encrypted, and of no effect on others.
fn parameter(input: &Value, state: &State) -> Reply {
    let id = input["Name"].as_str().unwrap_or_default();
    if id.is_empty() || !matches!(input["WithDecryption"], Value::Null | Value::Bool(_)) {
        return refusal(
            "ValidationException",
            "a Name, and for WithDecryption a boolean, is wanted",
        );
    }
    let Some((name, parameter)) = state
        .parameters
        .iter()
        .find(|(name, _)| id == *name || id == Aws::parameter_arn(name))
    else {
        // The service itself has no words for it.
        return refusal("ParameterNotFound", "");
    };
    success(&json!({
        "Parameter": {
            "ARN": Aws::parameter_arn(name),
            "DataType": "text",
            "LastModifiedDate": 1_582_657_288.819,
            "Name": name,
            "Type": "String",
            "Value": parameter.value,
            "Version": parameter.version,
        }
    }))
}

fn authorization_token(state: &State) -> Reply {
    let Some(authorization) = &state.authorization else {
        return refusal("ServerException", "this test gave no ECR authorization");
    };
    let expires_at = authorization
        .expires_at
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_secs_f64();
    success(&json!({
        "authorizationData": [{
            "authorizationToken": STANDARD.encode(format!("AWS:{}", authorization.password)),
            "expiresAt": expires_at,
            "proxyEndpoint": authorization.registry_url,
        }]
    }))
}

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

fn success(output: &Value) -> Reply {
    http::reply(
        200,
        &[("content-type", CONTENT_TYPE.to_owned())],
        output.to_string(),
    )
}

/// Services differ in the case of the message's name; the SDKs read either.
fn refusal(kind: &str, message: &str) -> Reply {
    let body = json!({"__type": kind, "message": message}).to_string();
    http::reply(400, &[("content-type", CONTENT_TYPE.to_owned())], body)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const SECRET: &str = "secretsmanager.GetSecretValue";
    const PARAMETER: &str = "AmazonSSM.GetParameter";
    const TOKEN: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";

    fn call(aws: &Aws, target: &str, input: Value) -> (String, Value) {
        let service = match target {
            SECRET => "secretsmanager",
            PARAMETER => "ssm",
            _ => "ecr",
        };
        let signature = format!(
            "AWS4-HMAC-SHA256 Credential=AKIA/20261121/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=00",
        );
        call_with(aws, target, &signature, input)
    }

    fn call_with(aws: &Aws, target: &str, signature: &str, input: Value) -> (String, Value) {
        let request = hyper::Request::post("/")
            .header("content-type", CONTENT_TYPE)
            .header("x-amz-target", target)
            .header("authorization", signature)
            .body(())
            .expect("a request");
        let (head, ()) = request.into_parts();
        let reply = answer(&head, &Bytes::from(input.to_string()), &mut aws.state());
        let body = futures_util::FutureExt::now_or_never(reply.into_body().collect())
            .expect("a body at hand");
        let body: Value = serde_json::from_slice(&body.expect("a body").to_bytes()).expect("JSON");
        (body["__type"].as_str().unwrap_or_default().to_owned(), body)
    }

    #[tokio::test]
    async fn secrets_are_found_by_name_or_arn_in_both_versions() {
        let aws = Aws::start().await;
        aws.put_secret("webhook", "old");
        let previous = json!({"SecretId": "webhook", "VersionStage": "AWSPREVIOUS"});
        assert_eq!(
            call(&aws, SECRET, previous.clone()).0,
            "ResourceNotFoundException"
        );
        aws.put_secret("webhook", "new");
        assert_eq!(call(&aws, SECRET, previous).1["SecretString"], "old");
        assert_eq!(
            call(&aws, SECRET, json!({"SecretId": "webhook"})).1["SecretString"],
            "new"
        );
        assert_eq!(
            call(
                &aws,
                SECRET,
                json!({"SecretId": Aws::secret_arn("webhook")})
            )
            .1["SecretString"],
            "new"
        );
        assert_eq!(
            call(&aws, SECRET, json!({"SecretId": "other"})).0,
            "ResourceNotFoundException"
        );
        assert_eq!(aws.calls("GetSecretValue"), 5);
    }

    #[tokio::test]
    async fn refusals_have_the_services_names() {
        let aws = Aws::start().await;
        aws.put_secret("webhook", "text");
        let input = json!({"SecretId": "webhook"});
        assert_eq!(
            call(&aws, "secretsmanager.PutSecretValue", input.clone()).0,
            "UnknownOperationException"
        );
        assert_eq!(
            call_with(&aws, SECRET, "", input.clone()).0,
            "MissingAuthenticationTokenException"
        );
        let foreign = "AWS4-HMAC-SHA256 Credential=A/20261121/us-east-1/ecr/aws4_request, SignedHeaders=host, Signature=00";
        assert_eq!(
            call_with(&aws, SECRET, foreign, input.clone()).0,
            "InvalidSignatureException"
        );
        aws.fail_decryption("webhook");
        assert_eq!(call(&aws, SECRET, input.clone()).0, "DecryptionFailure");
        aws.deny("GetSecretValue");
        let (kind, body) = call(&aws, SECRET, input);
        assert_eq!(kind, "AccessDeniedException");
        assert!(
            body["message"]
                .as_str()
                .expect("a message")
                .contains("secretsmanager:GetSecretValue")
        );
    }

    #[tokio::test]
    async fn the_authorization_names_user_registry_and_end() {
        let aws = Aws::start().await;
        aws.authorize(
            "password",
            "http://127.0.0.1:1",
            UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        );
        let (_, body) = call(&aws, TOKEN, json!({}));
        let data = &body["authorizationData"][0];
        assert_eq!(data["authorizationToken"], STANDARD.encode("AWS:password"));
        assert_eq!(data["expiresAt"], 1_800_000_000.0);
        assert_eq!(data["proxyEndpoint"], "http://127.0.0.1:1");
    }

    #[tokio::test]
    async fn parameters_are_found_by_name_or_arn() {
        let aws = Aws::start().await;
        let input = json!({"Name": "/ghcr-to-ecr/rules", "WithDecryption": true});
        assert_eq!(call(&aws, PARAMETER, input.clone()).0, "ParameterNotFound");
        aws.put_parameter("/ghcr-to-ecr/rules", "[]");
        aws.put_parameter("/ghcr-to-ecr/rules", "[1]");
        let parameter = call(&aws, PARAMETER, input.clone()).1["Parameter"].clone();
        assert_eq!(
            (&parameter["Value"], &parameter["Version"]),
            (&json!("[1]"), &json!(2))
        );
        let arn = Aws::parameter_arn("/ghcr-to-ecr/rules");
        assert_eq!(
            arn,
            "arn:aws:ssm:eu-west-3:123456789012:parameter/ghcr-to-ecr/rules"
        );
        let by_arn = call(&aws, PARAMETER, json!({"Name": arn})).1;
        assert_eq!(by_arn["Parameter"], parameter);
        assert_eq!(
            call(&aws, PARAMETER, json!({"Name": ""})).0,
            "ValidationException"
        );
        aws.deny("GetParameter");
        let (kind, body) = call(&aws, PARAMETER, input);
        assert_eq!(kind, "AccessDeniedException");
        let message = body["message"].as_str().expect("a message");
        assert!(message.contains("ssm:GetParameter on resource: arn:aws:ssm:"));
    }
}
