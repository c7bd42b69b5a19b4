//! Events of EventBridge: GitHub's, passed on by a bus, and schedules.

use serde_json::Value;

use super::{Event, Request};
use crate::config::Settings;
use crate::error::{Error, Result};

/// One of GitHub's events on a bus. Nothing is signed there: who may put events on the bus is IAM's to say.
#[derive(Debug)]
pub struct BusEvent {
    /// The bus's id of it.
    pub id: Option<String>,
    source: String,
    /// GitHub's name of the event.
    name: String,
    payload: Value,
}

/// A scheduled run comes from a rule (`aws.events`) or from EventBridge Scheduler (`aws.scheduler`), whose `detail` is a text.
pub(super) fn read(payload: Value) -> Result<Event> {
    let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
    let wanted = || {
        Error::Event(
            "an event of EventBridge whose `source` and `detail-type` are texts is wanted"
                .to_owned(),
        )
    };
    let source = text("source").ok_or_else(wanted)?;
    if ["aws.events", "aws.scheduler"].contains(&source.as_str()) {
        return Ok(Event::Schedule);
    }
    let detail = payload.get("detail").cloned().unwrap_or_default();
    let detail = match detail {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| Error::Event(format!("`detail` is no JSON: {error}")))?,
        detail => detail,
    };
    Ok(Event::Bus(BusEvent {
        id: text("id"),
        source,
        name: text("detail-type").ok_or_else(wanted)?,
        payload: detail,
    }))
}

impl BusEvent {
    /// What the event asks for.
    ///
    /// # Errors
    /// As [`HttpRequest::request`](super::HttpRequest::request).
    pub fn request(&self, settings: &Settings) -> Result<Request> {
        if !settings.event_sources.contains(&self.source) {
            return Ok(Request::Ignore(format!(
                "events of {:?} are not taken for GitHub's: EVENT_SOURCES is {}",
                self.source,
                settings.event_sources.join(",")
            )));
        }
        super::delivery(&self.name, self.payload.to_string().as_bytes(), settings)
    }
}
