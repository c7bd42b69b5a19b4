//! Events of EventBridge: GitHub's, passed on by a bus, and schedules.

use serde_json::Value;

use super::Event;
use super::direct::token_refused;
use super::webhook::{self, Delivery};
use crate::error::{Error, Result};
use crate::reconcile::Scope;

/// One of GitHub's events on a bus. Nothing is signed there: IAM decides who may put events on the bus.
#[derive(Debug)]
pub struct BusEvent {
    /// The bus's id for the event.
    pub id: Option<String>,
    source: String,
    /// GitHub's name of the event.
    name: String,
    payload: Value,
}

/// A scheduled run comes from a rule (`aws.events`) or from EventBridge Scheduler (`aws.scheduler`), whose `detail` is a text.
pub(super) fn read(payload: Value) -> Result<Event> {
    if payload.get("token").is_some() {
        return Err(token_refused("an event of EventBridge"));
    }
    let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
    let expected = || {
        Error::Event(
            "an event of EventBridge, but `source` or `detail-type` is not a text".to_owned(),
        )
    };
    let source = text("source").ok_or_else(expected)?;
    if ["aws.events", "aws.scheduler"].contains(&source.as_str()) {
        return Ok(Event::Reconcile(Scope::default()));
    }
    let detail = payload.get("detail").cloned().unwrap_or_default();
    Ok(Event::GitHub(BusEvent {
        id: text("id"),
        source,
        name: text("detail-type").ok_or_else(expected)?,
        payload: detail,
    }))
}

impl BusEvent {
    /// What the event reports.
    ///
    /// # Errors
    /// [`Error::Event`] for an event that can't be understood.
    pub fn delivery(&self, accepted_sources: &[String]) -> Result<Delivery> {
        if !accepted_sources.contains(&self.source) {
            return Ok(Delivery::Ignored(format!(
                "the `source` of the event is {:?}, and EVENT_SOURCES accepts {}",
                self.source,
                accepted_sources.join(",")
            )));
        }
        // Some senders write the payload as a text.
        let payload = match &self.payload {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|error| Error::Event(format!("`detail` is not JSON: {error}")))?,
            payload => payload.clone(),
        };
        webhook::read(&self.name, payload.to_string().as_bytes()).map_err(Error::Event)
    }
}
