//! The AWS calls of the function on one endpoint: `GetSecretValue` of Secrets Manager, those of the ECR API, and those of
//! EventBridge.
//!
//! These services speak AWS JSON 1.1: POST to `/`, the operation in `X-Amz-Target`, errors as 400 with `__type`.
//! Names, shapes and texts are those of the services' API references.

mod events;
mod images;
mod repositories;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use crate::ecr::Ecr;
use crate::function::{ACCOUNT, REGION};
use crate::http::{self, Reply, Server, lock};

/// The most bytes of a secret's value (Secrets Manager quotas).
const SECRET_LIMIT_BYTES: usize = 65_536;

/// Bytes that are no UTF-8, for a secret without text.
const BINARY: [u8; 4] = [0xff, 0xfe, 0x00, 0x80];

/// Secrets Manager and the ECR API behind one URL, the one for `AWS_ENDPOINT_URL`. Secrets are in [`REGION`]; the ECR API answers
/// in every Region.
#[derive(Clone)]
pub struct Aws {
    /// URL, request log and faults. In [`Server::fault`] and [`Server::count`] the operation, such as `GetSecretValue`, counts as
    /// part of the path.
    pub server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Secret>,
    denied: BTreeSet<String>,
    /// By Region.
    authorizations: BTreeMap<String, Authorization>,
    calls: BTreeMap<String, usize>,
    /// By Region and account.
    registries: BTreeMap<(String, String), Ecr>,
    scripts: repositories::Scripts,
    buses: events::Buses,
}

#[derive(Default)]
struct Secret {
    current: Option<SecretValue>,
    previous: Option<SecretValue>,
    undecipherable: bool,
}

enum SecretValue {
    Text(String),
    /// [`BINARY`].
    Binary,
}

struct Authorization {
    password: String,
    registry_url: String,
    expires_at: SystemTime,
}

impl Aws {
    /// Starts with no secrets, and without an ECR authorization in any Region.
    pub async fn start() -> Aws {
        let state = Arc::new(Mutex::new(State::default()));
        let server = {
            let state = state.clone();
            Server::start(move |request| {
                let state = state.clone();
                async move {
                    let (head, body) = request.into_parts();
                    // A fault may have cut the body short, and then the answer is not sent.
                    let body = body.bytes().await.unwrap_or_default();
                    answer(&head, &body, &mut lock(&state))
                }
            })
            .await
        };
        Aws { server, state }
    }

    /// Creates a secret, or gives it a new value as `PutSecretValue` does: what was `AWSCURRENT` becomes `AWSPREVIOUS`.
    pub fn put_secret(&self, name: &str, value: &str) {
        assert!(
            value.len() <= SECRET_LIMIT_BYTES,
            "a secret has at most {SECRET_LIMIT_BYTES} bytes"
        );
        self.put_value(name, SecretValue::Text(value.to_owned()));
    }

    /// As [`Aws::put_secret`], with a value that is not text: `GetSecretValue` answers `SecretBinary` instead of `SecretString`.
    pub fn put_binary_secret(&self, name: &str) {
        self.put_value(name, SecretValue::Binary);
    }

    /// Makes `value` the secret's `AWSPREVIOUS`, whatever its earlier values were. The secret must exist.
    pub fn put_previous(&self, name: &str, value: &str) {
        self.change(name, |secret| {
            secret.previous = Some(SecretValue::Text(value.to_owned()));
        });
    }

    /// The ARN under which the secret `name` is found too.
    pub fn secret_arn(name: &str) -> String {
        format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-a1B2c3")
    }

    /// From now on the secret's key can't be used: `DecryptionFailure`.
    pub fn fail_decryption(&self, name: &str) {
        self.change(name, |secret| secret.undecipherable = true);
    }

    /// From now on the caller has no permission for `operation` (`GetSecretValue` or `GetAuthorizationToken`) in any Region.
    pub fn deny(&self, operation: &str) {
        self.state().denied.insert(operation.to_owned());
    }

    /// [`Aws::authorize_in`] the function's own Region.
    pub fn authorize(&self, password: &str, registry_url: &str, expires_at: SystemTime) {
        self.authorize_in(REGION, password, registry_url, expires_at);
    }

    /// What `GetAuthorizationToken` answers in `region`: user `AWS` with `password`, good for the registry at `registry_url`
    /// (`proxyEndpoint`) until `expires_at`. A Region without an authorization is one that the organisation's service control
    /// policies forbid.
    pub fn authorize_in(
        &self,
        region: &str,
        password: &str,
        registry_url: &str,
        expires_at: SystemTime,
    ) {
        let authorization = Authorization {
            password: password.to_owned(),
            registry_url: registry_url.to_owned(),
            expires_at,
        };
        let mut state = self.state();
        state
            .authorizations
            .insert(region.to_owned(), authorization);
    }

    /// Lets the ECR API see to the repositories of `registry`, which is the one of `account` in `region`. Another account than the
    /// caller's own refuses every call about its repositories; see [`Aws::open_account`].
    pub fn serve_registry(&self, region: &str, account: &str, registry: &Ecr) {
        let key = (region.to_owned(), account.to_owned());
        self.state().registries.insert(key, registry.clone());
    }

    /// From now on the registry policy of another account lets the caller create repositories, and no more.
    /// (aws/containers-roadmap, issue 2460)
    pub fn open_account(&self, account: &str) {
        self.state().scripts.open_accounts.push(account.to_owned());
    }

    /// Adds a repository creation template, as `DescribeRepositoryCreationTemplates` shows it, to the caller's registry in every
    /// Region.
    pub fn put_creation_template(&self, template: Value) {
        self.state().scripts.templates.push(template);
    }

    /// Adds a rule of the pull-through cache to the caller's registry in every Region: repositories under `prefix` are filled from the
    /// registry at `upstream`.
    pub fn put_cache_rule(&self, prefix: &str, upstream: &str) {
        self.state().scripts.cache_rules.push(json!({
            "ecrRepositoryPrefix": prefix,
            "upstreamRegistryUrl": upstream,
            "registryId": ACCOUNT,
            "createdAt": 1_563_223_656.0,
        }));
    }

    /// Somebody else creates the repository right before the caller's next `CreateRepository` for it.
    pub fn race_creation(&self, repository: &str) {
        self.state().scripts.raced.push(repository.to_owned());
    }

    /// How often each operation of the ECR API about repositories was called, in the order of their names. That about the rules of the
    /// pull-through cache is not among them: it is one call for a whole registry, see [`Aws::calls`].
    pub fn repository_calls(&self) -> Vec<(String, usize)> {
        let state = self.state();
        let is_about_repositories = |operation: &&String| {
            repositories::OPERATIONS.contains(&operation.as_str())
                && *operation != repositories::CACHE_RULES
        };
        let calls = state.calls.keys().filter(is_about_repositories);
        calls
            .map(|operation| (operation.clone(), state.calls[operation]))
            .collect()
    }

    /// Creates an event bus.
    pub fn create_event_bus(&self, name: &str) {
        self.state().buses.create(name);
    }

    /// The events that were put on a bus: each an event as EventBridge delivers it to a rule's target.
    pub fn events(&self, bus: &str) -> Vec<Value> {
        self.state().buses.events(bus)
    }

    /// EventBridge refuses the next `count` entries of `PutEvents` with `InternalFailure`, in answers that are successes.
    pub fn fail_events(&self, count: usize) {
        self.state().buses.fail(count);
    }

    /// From now on the caller has again every permission that [`Aws::deny`] took.
    pub fn allow_all(&self) {
        self.state().denied.clear();
    }

    /// How often `operation` was called since the start, whether it was answered or refused; calls on which a fault was played
    /// instead are left out.
    pub fn calls(&self, operation: &str) -> usize {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }

    fn put_value(&self, name: &str, value: SecretValue) {
        let mut state = self.state();
        let secret = state.secrets.entry(name.to_owned()).or_default();
        if let Some(replaced) = secret.current.replace(value) {
            secret.previous = Some(replaced);
        }
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Secret)) {
        let mut state = self.state();
        let secret = state.secrets.get_mut(name);
        change(secret.unwrap_or_else(|| panic!("the secret {name} was not put")));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Twelve hours from now, as long as a real ECR authorization lasts.
pub fn in_twelve_hours() -> SystemTime {
    SystemTime::now() + Duration::from_secs(12 * 60 * 60)
}

/// The error, as code and message, of a call to `service` that is malformed or not signed for it. The signature must be
/// for that service and for [`REGION`], or for any Region if the service is `ecr`.
pub(crate) fn frame_error(
    head: &Parts,
    service: &str,
    content_type: &str,
) -> Option<(&'static str, String)> {
    if head.method != "POST"
        || head.uri.path() != "/"
        || header(head, "content-type") != content_type
    {
        let message = format!("expected POST / with {content_type}");
        return Some(("SerializationException", message));
    }
    let Some((region, signed_service)) = credential_scope(head) else {
        let message = "Missing Authentication Token".to_owned();
        return Some(("MissingAuthenticationTokenException", message));
    };
    let is_valid = signed_service == service && (region == REGION || service == "ecr");
    (!is_valid).then(|| {
        let message = format!("Credential should be scoped to {REGION} and {service}");
        ("InvalidSignatureException", message)
    })
}

/// Region and service of a Signature Version 4, which says `Credential=<access key>/<date>/<Region>/<service>/aws4_request`.
fn credential_scope(head: &Parts) -> Option<(&str, &str)> {
    let signature = header(head, "authorization").strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
    let (credential, rest) = signature.split_once(',')?;
    let mut parts = credential.split('/').skip(2);
    let scope = (parts.next()?, parts.next()?);
    (parts.next() == Some("aws4_request") && rest.contains("Signature=")).then_some(scope)
}

/// What IAM says to a caller whose role lacks `action`.
pub(crate) fn denial(action: &str, resource: &str) -> String {
    let reason = format!("because no identity-based policy allows the {action} action");
    denial_because(action, resource, &reason)
}

fn denial_because(action: &str, resource: &str, reason: &str) -> String {
    format!(
        "User: arn:aws:sts::{ACCOUNT}:assumed-role/ghcr-to-ecr/ghcr-to-ecr is not authorized to perform: \
         {action} on resource: {resource} {reason}"
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
        "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" => {
            ("ecr", "GetAuthorizationToken")
        }
        "AWSEvents.PutEvents" => ("events", "PutEvents"),
        "AWSEvents.DescribeEventBus" => ("events", "DescribeEventBus"),
        other if repository_operation(other).is_some() => {
            ("ecr", repository_operation(other).unwrap_or_default())
        }
        other => {
            let message = format!("The operation {other:?} is not known");
            return refusal("UnknownOperationException", &message);
        }
    };
    *state.calls.entry(operation.to_owned()).or_default() += 1;
    if let Some((kind, message)) = frame_error(head, service, CONTENT_TYPE) {
        return refusal(kind, &message);
    }
    let Ok(input) = serde_json::from_slice::<Value>(body) else {
        return refusal("SerializationException", "the body is not JSON");
    };
    if repositories::OPERATIONS.contains(&operation) {
        let region = credential_scope(head).map_or(REGION, |(region, _)| region);
        return repositories::answer(operation, region, &input, state);
    }
    if service == "events" {
        return events::answer(operation, &input, state);
    }
    if state.denied.contains(operation) {
        let resource = input["SecretId"].as_str().unwrap_or("*");
        let message = denial(&format!("{service}:{operation}"), resource);
        return refusal("AccessDeniedException", &message);
    }
    match credential_scope(head) {
        Some((region, "ecr")) => authorization_token(region, state),
        _ => secret_value(&input, state),
    }
}

fn repository_operation(target: &str) -> Option<&'static str> {
    let operation = target.strip_prefix("AmazonEC2ContainerRegistry_V20150921.")?;
    let known = repositories::OPERATIONS.iter();
    known.copied().find(|known| *known == operation)
}

fn secret_value(input: &Value, state: &State) -> Reply {
    let id = input["SecretId"].as_str().unwrap_or_default();
    let stage = input["VersionStage"].as_str().unwrap_or("AWSCURRENT");
    let is_asked_for = |name: &str| id == name || id == Aws::secret_arn(name);
    let Some((name, secret)) = state.secrets.iter().find(|(name, _)| is_asked_for(name)) else {
        let message = "Secrets Manager can't find the specified secret.";
        return refusal("ResourceNotFoundException", message);
    };
    let value = match stage {
        "AWSCURRENT" => secret.current.as_ref(),
        "AWSPREVIOUS" => secret.previous.as_ref(),
        _ => None,
    };
    let Some(value) = value else {
        let message = format!(
            "Secrets Manager can't find the specified secret value for staging label: {stage}"
        );
        return refusal("ResourceNotFoundException", &message);
    };
    if secret.undecipherable {
        let message =
            "Secrets Manager can't decrypt the protected secret text using the provided KMS key.";
        return refusal("DecryptionFailure", message);
    }
    let (field, value) = match value {
        SecretValue::Text(text) => ("SecretString", text.clone()),
        SecretValue::Binary => ("SecretBinary", STANDARD.encode(BINARY)),
    };
    success(&json!({
        "ARN": Aws::secret_arn(name),
        "Name": name,
        "VersionId": "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111",
        field: value,
        "VersionStages": [stage],
        "CreatedDate": 1_523_477_145.713,
    }))
}

fn authorization_token(region: &str, state: &State) -> Reply {
    let Some(authorization) = state.authorizations.get(region) else {
        let reason = "with an explicit deny in a service control policy";
        let message = denial_because("ecr:GetAuthorizationToken", "*", reason);
        return refusal("AccessDeniedException", &message);
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
