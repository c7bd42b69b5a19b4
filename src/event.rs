//! The trigger boundary, both ways: JSON becomes one of a closed set of events, and a report becomes the reply that the trigger
//! expects.
//!
//! An event is recognised by its outer shape alone. What an HTTP request has in its body goes to the signature check and then to
//! the webhook's own reader; nothing in it can look like another trigger.

use aws_lambda_events::apigw::{
    ApiGatewayProxyRequest, ApiGatewayProxyResponse, ApiGatewayV2httpRequest,
};
use aws_lambda_events::encodings::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::Reference;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::job::{Destination, Job, is_repository, is_tag, parse_source};
use crate::manifest::Digest;
use crate::report::{Outcome, Report};
use crate::webhook::{self, Delivery, Published};

/// Everything that can invoke the function.
#[derive(Debug)]
pub enum Event {
    /// API Gateway (REST or HTTP API) or a function URL.
    Http(HttpRequest),
    /// Somebody who may invoke the function names what to copy.
    Direct(Direct),
}

/// What matters of an HTTP request.
#[derive(Debug)]
pub struct HttpRequest {
    /// `X-GitHub-Event`.
    pub event_name: Option<String>,
    /// `X-Hub-Signature-256`.
    pub signature: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// The body as it was sent, decoded if the gateway encoded it.
    pub body: Vec<u8>,
}

/// A direct event: one image, or one image under several tags.
#[derive(Debug)]
pub struct Direct {
    sources: Vec<Reference>,
    destination: Option<String>,
    dry_run: bool,
    force: bool,
}

/// What an event comes to.
#[derive(Debug)]
pub enum Request {
    /// Copies to make.
    Copy(Vec<Job>),
    /// Nothing to do, because of this.
    Ignore(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSource {
    source: String,
    destination: Option<String>,
    platform: Option<Value>,
    platforms: Option<Value>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeveralTags {
    image: String,
    tags: Vec<String>,
    digest: Option<String>,
    destination: Option<String>,
    platform: Option<Value>,
    platforms: Option<Value>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

impl Event {
    /// Recognises an event.
    ///
    /// # Errors
    /// [`Error::Event`] says what was looked for.
    pub fn read(payload: Value) -> Result<Self> {
        let has = |pointer: &str| payload.pointer(pointer).is_some();
        let unsupported = |trigger: &str| {
            Err(Error::Event(format!(
                "{trigger} is not supported by this version yet"
            )))
        };
        if has("/requestContext/http") {
            HttpRequest::from_version_2(payload).map(Event::Http)
        } else if has("/requestContext/httpMethod") {
            HttpRequest::from_version_1(payload).map(Event::Http)
        } else if has("/detail-type") {
            unsupported("an event from EventBridge")
        } else if has("/Records") {
            unsupported("a batch of records from a queue or a topic")
        } else if has("/reconcile") {
            unsupported("`reconcile`")
        } else if has("/source") {
            OneSource::read(payload).map(Event::Direct)
        } else if has("/image") {
            SeveralTags::read(payload).map(Event::Direct)
        } else {
            Err(Error::Event(
                "neither an HTTP request (`requestContext`), nor a direct copy: {\"source\": \"ghcr.io/owner/name:tag\"} or {\"image\": \"ghcr.io/owner/name\", \"tags\": [\"tag\"]}".to_owned(),
            ))
        }
    }

    /// The reply that the trigger expects. An HTTP client always gets an answer; a direct invocation that failed or was cut off
    /// is a function error, so that alarms see it and Lambda's own retry of asynchronous invocations goes on with the copy.
    ///
    /// # Errors
    /// The error of the first report that has one, for a direct invocation.
    pub fn reply(&self, reports: Vec<Report>) -> Result<Value> {
        let body = summary(&reports);
        let error = reports
            .into_iter()
            .filter(|report| report.error.is_some())
            .min_by_key(|report| report.outcome)
            .and_then(|report| report.error);
        match (self, error) {
            (Event::Http(_), error) => http_reply(status(error.as_ref()), &body),
            (Event::Direct(_), Some(error)) => Err(error),
            (Event::Direct(_), None) => Ok(body),
        }
    }
}

/// One report as it is, several under the first outcome that occurs in the order of [`Outcome`].
pub fn summary(reports: &[Report]) -> Value {
    match reports {
        [report] => json!(report),
        reports => {
            let outcome = reports.iter().map(|report| report.outcome).min();
            json!({"outcome": outcome.unwrap_or(Outcome::Ignored), "reports": reports})
        }
    }
}

/// GitHub shows the status of each delivery: 4xx is the sender's to mend, 5xx is ours.
fn status(error: Option<&Error>) -> i64 {
    match error {
        None => 200,
        Some(Error::Event(_)) => 400,
        Some(Error::Signature) => 401,
        Some(error) => match error.kind() {
            Kind::Transient | Kind::Deadline => 503,
            Kind::Internal | Kind::Invalid => 500,
            Kind::Denied | Kind::NotFound | Kind::Immutable => 502,
        },
    }
}

fn http_reply(status: i64, body: &Value) -> Result<Value> {
    let mut response = ApiGatewayProxyResponse::default();
    response.status_code = status;
    response.headers.insert(
        "content-type",
        "application/json"
            .parse()
            .map_err(|_| Error::Internal("no content type".to_owned()))?,
    );
    response.body = Some(Body::Text(body.to_string()));
    serde_json::to_value(response).map_err(|error| Error::Internal(error.to_string()))
}

impl HttpRequest {
    /// HTTP API and function URL: header names in lower case, repeated ones joined by commas.
    fn from_version_2(payload: Value) -> Result<Self> {
        let request: ApiGatewayV2httpRequest = serde_json::from_value(payload).map_err(not_http)?;
        let header = |name: &str| request.headers.get(name)?.to_str().ok().map(str::to_owned);
        let body = request.body.as_deref();
        Ok(HttpRequest::new(header, body, request.is_base64_encoded))
    }

    /// REST API: header names as they were sent, and perhaps only in `multiValueHeaders`.
    fn from_version_1(payload: Value) -> Result<Self> {
        let request: ApiGatewayProxyRequest = serde_json::from_value(payload).map_err(not_http)?;
        let header = |name: &str| {
            let value = request.headers.get(name);
            let value = value.or(request.multi_value_headers.get(name));
            value?.to_str().ok().map(str::to_owned)
        };
        let body = request.body.as_deref();
        Ok(HttpRequest::new(header, body, request.is_base64_encoded))
    }

    fn new(
        header: impl Fn(&str) -> Option<String>,
        body: Option<&str>,
        is_base64_encoded: bool,
    ) -> Self {
        let body = body.unwrap_or_default();
        let body = match is_base64_encoded {
            // What is not the base64 it is said to be can't be signed either.
            true => STANDARD.decode(body).unwrap_or_default(),
            false => body.as_bytes().to_vec(),
        };
        HttpRequest {
            event_name: header("x-github-event"),
            signature: header("x-hub-signature-256"),
            content_type: header("content-type"),
            body,
        }
    }

    /// What the delivery asks for. The signature must have been checked before.
    ///
    /// # Errors
    /// [`Error::Event`] for a delivery that can't be understood, [`Error::Rule`] for a rule that can't be carried out.
    pub fn request(&self, settings: &Settings) -> Result<Request> {
        let event_name = self
            .event_name
            .as_deref()
            .ok_or_else(|| Error::Event("the header X-GitHub-Event is missing".to_owned()))?;
        let payload =
            webhook::payload(self.content_type.as_deref(), &self.body).map_err(Error::Event)?;
        let published = match webhook::read(event_name, &payload).map_err(Error::Event)? {
            Delivery::Published(published) => published,
            Delivery::Ignored(reason) => return Ok(Request::Ignore(reason)),
        };
        let Published {
            repository,
            tag,
            digest,
        } = published;
        let Some(rule) = settings.rules.find(&repository) else {
            return Ok(Request::Ignore(format!("no rule matches {repository}")));
        };
        if let Some(reason) = rule.refusal(&tag) {
            return Ok(Request::Ignore(reason));
        }
        let host = settings.source_registry.host();
        let source = match digest {
            Some(digest) => {
                Reference::with_tag_and_digest(host, repository, tag, digest.to_string())
            }
            None => Reference::with_tag(host, repository, tag),
        };
        jobs(&source, None, settings, false, false).map(Request::Copy)
    }
}

fn not_http(error: serde_json::Error) -> Error {
    Error::Event(format!(
        "not an HTTP request as API Gateway or a function URL sends it: {error}"
    ))
}

impl Direct {
    /// The copies that are asked for.
    ///
    /// # Errors
    /// [`Error::Event`] for a registry other than the source, or a destination that can't be understood; [`Error::Rule`] where no
    /// destination is named and no rule gives one.
    pub fn request(&self, settings: &Settings) -> Result<Request> {
        let own = settings.source_registry.host();
        let mut all = Vec::new();
        for source in &self.sources {
            if source.registry() != "ghcr.io" && source.registry() != own {
                return Err(Error::Event(format!(
                    "the source's registry is {:?}, but images are only read from ghcr.io, which is {own} here",
                    source.registry()
                )));
            }
            let source = on_host(source, &own);
            let destination = self.destination.as_deref();
            all.extend(jobs(
                &source,
                destination,
                settings,
                self.force,
                self.dry_run,
            )?);
        }
        Ok(Request::Copy(all))
    }

    fn new(
        sources: Vec<Reference>,
        destination: Option<String>,
        platforms: [Option<Value>; 2],
        dry_run: bool,
        force: bool,
    ) -> Result<Self> {
        if platforms.iter().any(Option::is_some) {
            return Err(Error::Event(
                "`platform` and `platforms` are not supported by this version yet".to_owned(),
            ));
        }
        Ok(Direct {
            sources,
            destination,
            dry_run,
            force,
        })
    }
}

impl OneSource {
    fn read(payload: Value) -> Result<Direct> {
        let event: OneSource = serde_json::from_value(payload).map_err(not_direct)?;
        let source = parse_source(&event.source)
            .map_err(|reason| Error::Event(format!("source {reason}")))?;
        let platforms = [event.platform, event.platforms];
        Direct::new(
            vec![source],
            event.destination,
            platforms,
            event.dry_run,
            event.force,
        )
    }
}

impl SeveralTags {
    fn read(payload: Value) -> Result<Direct> {
        let event: SeveralTags = serde_json::from_value(payload).map_err(not_direct)?;
        let digest = match event.digest {
            Some(digest) => {
                let digest = Digest::parse(&digest)
                    .map_err(|reason| Error::Event(format!("digest: {reason}")))?;
                format!("@{digest}")
            }
            None => String::new(),
        };
        if event.tags.is_empty() {
            return Err(Error::Event("`tags` is empty".to_owned()));
        }
        let sources = event
            .tags
            .iter()
            .map(|tag| parse_source(&format!("{}:{tag}{digest}", event.image)))
            .collect::<Result<_, _>>()
            .map_err(|reason| Error::Event(format!("image {reason}")))?;
        let platforms = [event.platform, event.platforms];
        Direct::new(
            sources,
            event.destination,
            platforms,
            event.dry_run,
            event.force,
        )
    }
}

fn not_direct(error: serde_json::Error) -> Error {
    Error::Event(format!("a direct event, but {error}"))
}

/// The jobs for one source: to the destination that is named, or to those of the first rule that matches.
fn jobs(
    source: &Reference,
    destination: Option<&str>,
    settings: &Settings,
    force: bool,
    dry_run: bool,
) -> Result<Vec<Job>> {
    let rule = settings.rules.find(source.repository());
    let destinations = match (destination, rule) {
        (Some(text), _) => vec![named_destination(text, source, settings)?],
        (None, Some(rule)) => {
            let tag = source.tag().ok_or_else(|| {
                Error::Event(
                    "a source with a digest alone needs a `destination` with a tag".to_owned(),
                )
            })?;
            rule.destinations(source.repository(), tag)
                .map_err(Error::Rule)?
        }
        (None, None) => {
            return Err(Error::Rule(format!(
                "no rule matches {}, and no `destination` is named: add a rule for it to RULES, or name the destination",
                source.repository()
            )));
        }
    };
    Ok(destinations
        .into_iter()
        .map(|destination| Job {
            source: source.clone(),
            destination,
            token_secret_id: rule.and_then(|rule| rule.token_secret_id()),
            force,
            dry_run,
        })
        .collect())
}

/// `[<registry host>/]<repository>[:<tag>]`; the tag is the source's if none is written.
fn named_destination(text: &str, source: &Reference, settings: &Settings) -> Result<Destination> {
    let (registry, rest) = settings.registries.split(text);
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, source.tag()),
    };
    let tag = tag.ok_or_else(|| {
        Error::Event(format!(
            "destination {text:?}: a source with a digest alone needs a destination with a tag"
        ))
    })?;
    if !is_repository(repository) || !is_tag(tag) {
        return Err(Error::Event(format!(
            "destination {text:?}: `repository`, `repository:tag`, or the same behind the host of an ECR registry is wanted"
        )));
    }
    Ok(Destination {
        registry: registry.map(str::to_owned),
        repository: repository.to_owned(),
        tag: tag.to_owned(),
    })
}

fn on_host(source: &Reference, host: &str) -> Reference {
    let host = host.to_owned();
    let repository = source.repository().to_owned();
    match (source.tag(), source.digest()) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(host, repository, tag.to_owned(), digest.to_owned())
        }
        (Some(tag), None) => Reference::with_tag(host, repository, tag.to_owned()),
        (None, digest) => {
            Reference::with_digest(host, repository, digest.unwrap_or_default().to_owned())
        }
    }
}
