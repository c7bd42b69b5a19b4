//! The log's lines: flat JSON, as Lambda filters it by level and CloudWatch Logs Insights queries it, or text for a person.
//!
//! A report stays an object in its line, so that `report.outcome` or `report.bytes.copied` can be asked for. Metrics are lines of
//! their own, in CloudWatch's embedded metric format, whichever form the others have.

use std::fmt;

use lambda_runtime::tracing::subscriber::filter::LevelFilter;
use lambda_runtime::tracing::subscriber::fmt::format::{Format, Full, JsonFields, Writer};
use lambda_runtime::tracing::subscriber::fmt::time::{FormatTime, SystemTime};
use lambda_runtime::tracing::subscriber::fmt::{
    FmtContext, FormatEvent, FormatFields, FormattedFields,
};
use lambda_runtime::tracing::subscriber::registry::LookupSpan;
#[cfg(feature = "cli")]
use lambda_runtime::tracing::subscriber::{
    filter::Targets,
    fmt::{MakeWriter, layer},
    prelude::*,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};

use crate::metrics;

/// A level by Lambda's name for it, of which there is one above the last one here.
pub fn read_level(name: &str) -> Option<LevelFilter> {
    match name {
        "FATAL" => Some(LevelFilter::ERROR),
        name => name.parse().ok(),
    }
}

/// Logs lines of text to `writer` as the laptop's command does: from warnings on, unless `level` says otherwise. What the
/// modules in `silent` log is left out.
#[cfg(feature = "cli")]
pub fn start_for_command<W>(level: Option<&str>, silent: &[&str], writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = level.and_then(read_level).unwrap_or(LevelFilter::WARN);
    let silent = silent.iter().copied().chain([metrics::TARGET]);
    let levels = Targets::new()
        .with_target("ghcr_to_ecr", level)
        .with_targets(silent.map(|target| (target, LevelFilter::OFF)));
    let lines = layer().with_ansi(false).with_writer(writer);
    lambda_runtime::tracing::subscriber::registry()
        .with(levels)
        .with(lines.event_format(TextLines::default()))
        .init();
}

/// Fields whose text is JSON.
const JSON_FIELDS: [&str; 2] = ["report", "counts"];

/// One JSON object in each line.
pub struct JsonLines;

/// Text, but for metrics.
pub struct TextLines(Format<Full, ()>);

/// The fields of an event.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Default for TextLines {
    fn default() -> Self {
        let format = Format::default().without_time().with_target(false);
        TextLines(format.with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match metrics_of(event) {
            Some(metrics) => write_metrics(writer, &metrics),
            None => self.0.format_event(context, writer, event),
        }
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if let Some(metrics) = metrics_of(event) {
            return write_metrics(writer, &metrics);
        }
        let level = event.metadata().level();
        write!(writer, r#"{{"timestamp":"{}","level":"{level}""#, now()?)?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        for (name, value) in &fields.0 {
            write!(writer, ",{}:", quoted(name))?;
            match (JSON_FIELDS.contains(name), value) {
                (true, Value::String(text)) => writer.write_str(&embedded(text))?,
                _ => write!(writer, "{value}")?,
            }
        }
        // The request id is in the runtime's own span.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(formatted) = extensions.get::<FormattedFields<JsonFields>>() else {
                continue;
            };
            let of_span: Map<String, Value> = serde_json::from_str(formatted).unwrap_or_default();
            for (name, value) in &of_span {
                if fields.0.iter().all(|(known, _)| known != name) {
                    write!(writer, ",{}:{value}", quoted(name))?;
                }
            }
        }
        writeln!(writer, "}}")
    }
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.push((field.name(), value.into()));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// The metrics in an event, if it is one of those.
fn metrics_of(event: &Event<'_>) -> Option<String> {
    if event.metadata().target() != metrics::TARGET {
        return None;
    }
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut fields = fields.0.into_iter();
    let (_, value) = fields.find(|(name, _)| *name == metrics::FIELD)?;
    value.as_str().map(str::to_owned)
}

/// Lambda takes a line without a level, or without a time, for one of the level `INFO`, and drops it where the function's log level is
/// higher. No level silences metrics, so they have the highest one. (AWS Lambda developer guide, "Log-level filtering")
fn write_metrics(mut writer: Writer<'_>, metrics: &str) -> fmt::Result {
    let members = metrics.strip_prefix('{').unwrap_or_default();
    writeln!(
        writer,
        r#"{{"timestamp":"{}","level":"FATAL",{members}"#,
        now()?
    )
}

/// JSON as it is; anything else as a text.
fn embedded(text: &str) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => value.get().to_owned(),
        Err(_) => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The time in RFC 3339.
fn now() -> Result<String, fmt::Error> {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text))?;
    Ok(text)
}
