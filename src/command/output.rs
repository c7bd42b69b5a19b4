//! The result, for a person or as JSON: on standard output what was asked for, on standard error why it failed. Nobody may be there
//! to read either, which is no failure.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::Value;

use super::advice;
use super::progress::Arrived;
use crate::check::Checklist;
use crate::reports::Reports;

/// Prints the completions for a shell. False if they could not be written.
pub(super) fn completions(shell: Shell, command: &mut Command) -> bool {
    let mut text = Vec::new();
    clap_complete::generate(shell, command, "ghcr-to-ecr", &mut text);
    write(&String::from_utf8_lossy(&text))
}

/// Says what is kept of a command that was interrupted.
pub(super) fn interrupted(arrived: Arrived) {
    let Arrived { blobs, bytes } = arrived;
    let bytes = HumanBytes(bytes);
    _ = writeln!(io::stderr(), "kept: {blobs} blobs, {bytes}");
}

/// Prints the reports, and what to do if one of them is of a failure. False if the result could not be written.
pub(super) fn reports(reports: &Reports, is_json: bool) -> bool {
    let answer = value(reports);
    let mut is_written = !is_json || write(&json(&answer));
    let list = answer["reports"].as_array();
    for report in list.unwrap_or(&vec![answer.clone()]) {
        let is_failure = report["error"].is_string();
        let text = printable(&text(report));
        match (is_failure, is_json) {
            (true, _) => _ = io::stderr().write_all(text.as_bytes()),
            (false, true) => {}
            (false, false) => is_written = is_written && write(&text),
        }
    }
    if !is_json {
        is_written = is_written && write(&printable(&summary(&answer)));
    }
    if let Some(advice) = reports.error().and_then(advice::of) {
        hint(advice);
    }
    is_written
}

/// Prints what was tested. False if that could not be written.
pub(super) fn checklist(checklist: &Checklist, is_json: bool) -> bool {
    let answer = value(checklist);
    if is_json {
        return write(&json(&answer));
    }
    let word = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for line in answer["checks"].as_array().into_iter().flatten() {
        let [status, check, detail, remedy] =
            ["status", "check", "detail", "remedy"].map(|name| word(line, name));
        text += &format!("{status:8} {check}: {detail}\n");
        if !remedy.is_empty() {
            text += &format!("         to do: {remedy}\n");
        }
    }
    let is_written = write(&printable(&text));
    if let Some(advice) = advice::of_role(&text) {
        hint(advice);
    }
    is_written
}

/// What a terminal would take for a command to itself, or would hide, in a text that others have written: control characters, and
/// those that turn the direction of writing or have no width. Each is shown as U+FFFD. (Unicode Technical Report 36, section 3.7)
pub(super) fn printable(text: &str) -> String {
    text.replace(is_hidden, "\u{fffd}")
}

fn is_hidden(character: char) -> bool {
    let is_mark = matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    is_mark || (character.is_control() && character != '\n')
}

/// One line of JSON, in which such characters are written as JSON's escapes.
fn json(answer: &Value) -> String {
    let mut line = String::new();
    for character in answer.to_string().chars() {
        match is_hidden(character) {
            true => line += &format!("\\u{:04x}", u32::from(character)),
            false => line.push(character),
        }
    }
    line.push('\n');
    line
}

/// Writes a part of the result. A reader who has gone is no failure; a disk that is full is one.
fn write(text: &str) -> bool {
    let mut output = io::stdout();
    let result = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            _ = writeln!(io::stderr(), "the result could not be written: {error}");
            false
        }
        _ => true,
    }
}

fn hint(advice: &str) {
    _ = writeln!(io::stderr(), "hint: {advice}");
}

fn value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

/// A report as lines for a person.
fn text(report: &Value) -> String {
    let word = |name: &str| report[name].as_str();
    let outcome = word("outcome").unwrap_or_default();
    let subject = ["source", "package", "rule", "owner"];
    let subject = subject.iter().find_map(|name| word(name));
    let mut text = outcome.to_owned();
    if let Some(subject) = subject {
        text += &format!(" {subject}");
    }
    if let Some(destination) = word("destination") {
        text += &format!(" to {destination}");
    }
    if let Some(reason) = word("error").or(word("reason")) {
        text += &format!(": {reason}");
    }
    text.push('\n');
    let digest = word("digest");
    if let (Some(digest), true) = (digest, matches!(outcome, "copied" | "current" | "planned")) {
        text += &format!("  {digest}\n  {}\n", figures(report, outcome));
    }
    for (name, mark) in [
        ("plan", ""),
        ("pruned", "pruned "),
        ("warnings", "warning: "),
    ] {
        for line in report[name].as_array().into_iter().flatten() {
            text += &format!("  {mark}{}\n", line.as_str().unwrap_or_default());
        }
    }
    if let Some(repository) = report.get("repository") {
        text += &format!("  repository {repository}\n");
    }
    text
}

/// What was moved, or is to be.
fn figures(report: &Value, outcome: &str) -> String {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let bytes = |pointer: &str| HumanBytes(number(pointer));
    let moved = if outcome == "planned" {
        "to send"
    } else {
        "sent"
    };
    format!(
        "{} blobs {moved} ({}), {} mounted, {} there before, in {:.1} s",
        number("/blobs/copied"),
        bytes("/bytes/copied"),
        number("/blobs/mounted"),
        number("/blobs/present"),
        number("/elapsed_ms") as f64 / 1000.0,
    )
}

/// What stands for several reports.
fn summary(answer: &Value) -> String {
    let Some(reports) = answer["reports"].as_array() else {
        return String::new();
    };
    let mut text = format!(
        "{} reports: {}\n",
        reports.len(),
        answer["outcome"].as_str().unwrap_or_default()
    );
    for name in ["left_out", "sum"] {
        if let Some(more) = answer.get(name) {
            text += &format!("{name}: {more}\n");
        }
    }
    text
}
