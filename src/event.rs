//! The trigger boundary, both ways: JSON becomes one of a closed set of events, and reports become the reply that the trigger
//! expects.
//!
//! An event is recognised by its outer shape alone. What an HTTP request has in its body goes to the signature check and then to
//! the webhook's own reader; nothing in it can look like another trigger.

mod bus;
mod direct;
mod http;
mod records;

use serde_json::{Value, json};

pub use self::bus::BusEvent;
pub use self::direct::{Direct, Reconcile};
pub use self::http::HttpRequest;
pub use self::records::batch_reply;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::queue::Message;
use crate::reconcile::Scope;
use crate::report::{Outcome, Report};
use crate::webhook::{self, Delivery};

/// More reports than this are no longer given one by one: a report has some 600 bytes.
const REPORTS_LIMIT: usize = 5_000;

/// Everything that can invoke the function.
#[derive(Debug)]
pub enum Event {
    /// API Gateway (REST or HTTP API) or a function URL.
    Http(HttpRequest),
    /// An event bus passes one of GitHub's events on.
    Bus(BusEvent),
    /// A schedule: a rule's or EventBridge Scheduler's.
    Schedule,
    /// Lambda brings messages of the queue.
    Queue(Vec<Message>),
    /// Somebody who may invoke the function names what to copy.
    Direct(Direct),
    /// Somebody who may invoke the function wants the registries compared.
    Reconcile(Reconcile),
}

/// What an event comes to.
#[derive(Debug)]
pub enum Request {
    /// Copies to make.
    Copy(Vec<Job>),
    /// Copies that the queue takes, if there is one.
    HandOver(Vec<Job>),
    /// Registries to compare.
    Reconcile(Scope),
    /// Messages to work off, which have a reply of their own.
    WorkOff(Vec<Message>),
    /// Nothing to do, because of this.
    Ignore(String),
}

impl Event {
    /// Recognises an event.
    ///
    /// # Errors
    /// [`Error::Event`] says what was looked for.
    pub fn read(payload: Value) -> Result<Self> {
        let has = |pointer: &str| payload.pointer(pointer).is_some();
        if has("/requestContext/http") {
            Ok(Event::Http(HttpRequest::from_version_2(payload)))
        } else if has("/requestContext/httpMethod") {
            Ok(Event::Http(HttpRequest::from_version_1(payload)))
        } else if has("/detail-type") {
            bus::read(payload)
        } else if has("/Records") {
            records::read(payload).map(Event::Queue)
        } else if has("/reconcile") {
            Reconcile::read(payload).map(Event::Reconcile)
        } else if has("/source") || has("/image") {
            Direct::read(payload).map(Event::Direct)
        } else {
            Err(Error::Event(
                "neither an HTTP request (`requestContext`), an event of EventBridge (`detail-type`), messages of SQS (`Records`), nor a direct event: {\"source\": \"ghcr.io/owner/name:tag\"}, {\"image\": \"ghcr.io/owner/name\", \"tags\": [\"tag\"]} or {\"reconcile\": true}".to_owned(),
            ))
        }
    }

    /// What tells this event from others that ask for the same: the id of GitHub's delivery or of the bus's event.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Event::Http(request) => request.delivery.as_deref(),
            Event::Bus(event) => event.id.as_deref(),
            _ => None,
        }
    }

    /// The reply that the trigger expects. An HTTP client always gets an answer; any other invocation that failed or was cut off is
    /// a function error, so that alarms see it and Lambda's own retry of asynchronous invocations goes on with the copy.
    ///
    /// # Errors
    /// The error of the report that stands for all, unless the trigger is HTTP.
    pub fn reply(&self, reports: Vec<Report>) -> Result<Value> {
        let body = short_summary(&reports);
        let outcome = outcome(&reports);
        let error = reports
            .into_iter()
            .filter(|report| report.error.is_some())
            .min_by_key(|report| report.outcome)
            .and_then(|report| report.error);
        match (self, error) {
            (Event::Http(_), error) => http::reply(outcome, error.as_ref(), &body),
            (_, Some(error)) => Err(error),
            (_, None) => Ok(body),
        }
    }
}

/// One report as it is, several under the outcome that stands for all.
pub fn summary(reports: &[Report]) -> Value {
    match reports {
        [report] => json!(report),
        reports => json!({"outcome": outcome(reports), "reports": reports}),
    }
}

/// Lambda takes no reply of more than 6 MB; a run over very many tags leaves out those that were up to date, and says how many.
fn short_summary(reports: &[Report]) -> Value {
    let (current, rest): (Vec<_>, Vec<_>) = reports
        .iter()
        .partition(|report| report.outcome == Outcome::Current);
    match reports.len() {
        0..=REPORTS_LIMIT => summary(reports),
        _ => json!({"outcome": outcome(reports), "current": current.len(), "reports": rest}),
    }
}

/// The first that occurs, in the order of [`Outcome`].
fn outcome(reports: &[Report]) -> Outcome {
    let outcomes = reports.iter().map(|report| report.outcome);
    outcomes.min().unwrap_or(Outcome::Ignored)
}

/// What one of GitHub's events asks for, once it is known to be GitHub's.
fn delivery(event_name: &str, payload: &[u8], settings: &Settings) -> Result<Request> {
    let published = match webhook::read(event_name, payload).map_err(Error::Event)? {
        Delivery::Published(published) => published,
        Delivery::Ignored(reason) => return Ok(Request::Ignore(reason)),
    };
    let Some(rule) = settings.rules.find(&published.repository) else {
        let reason = format!("no rule matches {}", published.repository);
        return Ok(Request::Ignore(reason));
    };
    if let Some(reason) = rule.refusal(&published.tag) {
        return Ok(Request::Ignore(reason));
    }
    let source = published.reference(settings.source_registry.host());
    let mut jobs = rule.jobs(&source).map_err(Error::Rule)?;
    // GitHub names only one of several tags that were pushed together, and one look for the others is enough.
    if let Some(first) = jobs.first_mut() {
        first.all_tags = source.digest().is_some();
    }
    Ok(Request::HandOver(jobs))
}
