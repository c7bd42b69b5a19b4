//! `PutEvents` and `DescribeEventBus` of Amazon EventBridge.
//!
//! As the real service, it answers success to events for a bus that does not exist.
//! (Amazon EventBridge API reference; Amazon EventBridge user guide, "Calculating PutEvents event entry size")

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{State, denial, refusal, success};
use crate::function::{ACCOUNT, REGION};
use crate::http::Reply;

/// The most entries of a call, and the most bytes of them all.
const ENTRIES: usize = 10;
const BYTES: usize = 256 * 1024;

/// The buses of the account, and what came to each.
#[derive(Default)]
pub(super) struct Buses {
    events: BTreeMap<String, Vec<Value>>,
    failing: usize,
}

impl Buses {
    pub(super) fn create(&mut self, name: &str) {
        self.events.entry(name.to_owned()).or_default();
    }

    pub(super) fn events(&self, name: &str) -> Vec<Value> {
        self.events.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn fail(&mut self, entries: usize) {
        self.failing = entries;
    }
}

pub(super) fn answer(operation: &'static str, input: &Value, state: &mut State) -> Reply {
    if state.denied.contains(operation) {
        let message = denial(&format!("events:{operation}"), &arn("*"));
        return refusal("AccessDeniedException", &message);
    }
    match operation {
        "DescribeEventBus" => describe(input, &state.buses),
        _ => put(input, &mut state.buses),
    }
}

fn describe(input: &Value, buses: &Buses) -> Reply {
    let name = name(input["Name"].as_str().unwrap_or("default"));
    match buses.events.contains_key(&name) {
        true => success(&json!({"Name": name, "Arn": arn(&name)})),
        false => {
            let message = format!("Event bus {name} does not exist.");
            refusal("ResourceNotFoundException", &message)
        }
    }
}

fn put(input: &Value, buses: &mut Buses) -> Reply {
    let entries = input["Entries"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let size = |entry: &Value| -> usize {
        let fields = ["Source", "DetailType", "Detail"];
        fields.iter().map(|field| text(entry, field).len()).sum()
    };
    if entries.is_empty() || entries.len() > ENTRIES {
        let message = format!("entries: expected 1 to {ENTRIES}, found {}", entries.len());
        return refusal("ValidationException", &message);
    }
    let bytes: usize = entries.iter().map(size).sum();
    if bytes > BYTES {
        let message =
            format!("Total size of the entries in the request is over the limit: {bytes}");
        return refusal("ValidationException", &message);
    }
    let mut results = Vec::new();
    for entry in &entries {
        let detail = serde_json::from_str::<Value>(&text(entry, "Detail"));
        let result = match detail {
            _ if buses.failing > 0 => {
                buses.failing -= 1;
                json!({"ErrorCode": "InternalFailure", "ErrorMessage": "try again"})
            }
            Ok(detail @ Value::Object(_)) => {
                let event = json!({
                    "version": "0",
                    "id": "7bf73129-1428-4cd3-a780-95db273d1602",
                    "detail-type": text(entry, "DetailType"),
                    "source": text(entry, "Source"),
                    "account": ACCOUNT,
                    "time": "2026-11-21T08:15:00Z",
                    "region": REGION,
                    "resources": entry["Resources"].as_array().cloned().unwrap_or_default(),
                    "detail": detail,
                });
                let name = name(entry["EventBusName"].as_str().unwrap_or("default"));
                if let Some(events) = buses.events.get_mut(&name) {
                    events.push(event);
                }
                json!({"EventId": "11710aed-b79e-4468-a20b-bb3c0c3b4860"})
            }
            _ => json!({"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}),
        };
        results.push(result);
    }
    let is_failed = |result: &&Value| result.get("ErrorCode").is_some();
    let failed = results.iter().filter(is_failed).count();
    success(&json!({"FailedEntryCount": failed, "Entries": results}))
}

/// A bus may be written as its ARN.
fn name(written: &str) -> String {
    let name = written.split_once(":event-bus/").map(|(_, name)| name);
    name.unwrap_or(written).to_owned()
}

fn arn(name: &str) -> String {
    format!("arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{name}")
}
