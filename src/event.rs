//! The trigger boundary: JSON becomes one of a closed set of events.
//!
//! An event is recognised by its outer shape alone. What an HTTP request has in its body goes to the signature check and then to
//! the webhook's own reader; nothing in it can look like another trigger.

mod bus;
mod direct;
mod http;
mod sqs;
pub mod webhook;

use serde_json::Value;

pub use self::bus::BusEvent;
pub use self::direct::Direct;
pub use self::http::HttpRequest;
pub use self::sqs::batch_reply;
use crate::aws::queue::Message;
use crate::error::{Error, Result};
use crate::reconcile::Scope;

/// Everything that can invoke the function.
#[derive(Debug)]
pub enum Event {
    /// API Gateway (REST or HTTP API) or a function URL.
    Http(HttpRequest),
    /// One of GitHub's events, forwarded by an event bus.
    GitHub(BusEvent),
    /// Lambda delivers messages of the queue.
    Queue(Vec<Message>),
    /// Somebody who may invoke the function names what to copy.
    Direct(Direct),
    /// A schedule, or somebody who may invoke the function, asks to compare the registries.
    Reconcile(Scope),
    /// Somebody who may invoke the function asks whether it has all that it needs.
    Check,
}

impl Event {
    /// Recognises an event.
    ///
    /// # Errors
    /// [`Error::Event`] says what was expected.
    pub fn read(payload: Value) -> Result<Self> {
        let has = |pointer: &str| payload.pointer(pointer).is_some();
        if has("/requestContext/http") {
            Ok(Event::Http(HttpRequest::from_version_2(payload)))
        } else if has("/requestContext/httpMethod") {
            Ok(Event::Http(HttpRequest::from_version_1(payload)))
        } else if has("/detail-type") {
            bus::read(payload)
        } else if has("/Records") {
            sqs::read(payload).map(Event::Queue)
        } else if has("/reconcile") {
            direct::read_reconcile(payload).map(Event::Reconcile)
        } else if has("/check") {
            direct::read_check(payload).map(|()| Event::Check)
        } else if has("/source") || has("/image") {
            Direct::read(payload).map(Event::Direct)
        } else {
            Err(Error::Event(
                "neither an HTTP request (`requestContext`), an event of EventBridge (`detail-type`), messages of SQS (`Records`), nor a direct event: {\"source\": \"ghcr.io/owner/name:tag\"}, {\"image\": \"ghcr.io/owner/name\", \"tags\": [\"tag\"]}, {\"reconcile\": true} or {\"check\": true}".to_owned(),
            ))
        }
    }
}
