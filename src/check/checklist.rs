//! The lines of a checklist, and what stands for all of them.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::error::{Error, Kind};

/// The most characters of a text in a line: names come from outside, and may be long.
const TEXT_LIMIT: usize = 1000;

/// Lambda takes no reply of more than 6 MB; what is left out of it is counted. (AWS Lambda developer guide, "Lambda quotas")
const REPLY_LIMIT: usize = 5_000_000;

/// How a test ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is as it should be.
    Ok,
    /// It works, but a person should look at it; or it can't be known.
    Warning,
    /// It does not work, or was not tested.
    Failed,
}

/// One thing that was tested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was tested.
    pub check: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

/// All lines, in the order of the tests.
#[derive(Debug)]
pub struct Checklist(Vec<Line>);

impl Line {
    /// All is as it should be.
    pub fn ok(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Line::new(check, Status::Ok, detail, "")
    }

    /// It works, but.
    pub fn warning(
        check: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Line::new(check, Status::Warning, detail, remedy)
    }

    /// It does not work.
    pub fn failed(
        check: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Line::new(check, Status::Failed, detail, remedy)
    }

    /// It does not work, or was not tested, as an error says.
    pub fn of_error(check: impl Into<String>, error: &Error) -> Self {
        let (detail, remedy) = texts(error);
        Line::failed(check, detail, remedy)
    }

    /// It can't be known, as an error says. What was not tested for lack of time failed all the same.
    pub fn unknown(check: impl Into<String>, error: &Error) -> Self {
        if error.kind() == Kind::Deadline {
            return Line::of_error(check, error);
        }
        let (detail, remedy) = texts(error);
        Line::warning(check, format!("not known: {detail}"), remedy)
    }

    /// The same, with a setting or place named before what was found.
    pub fn at(self, place: &str) -> Self {
        Line::new(
            self.check,
            self.status,
            format!("{place}: {}", self.detail),
            self.remedy,
        )
    }

    fn new(
        check: impl Into<String>,
        status: Status,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Line {
            check: limited(check.into()),
            status,
            detail: limited(detail.into()),
            remedy: limited(remedy.into()),
        }
    }

    /// About as many bytes as it has in JSON.
    fn size(&self) -> usize {
        serde_json::to_string(self).map_or(TEXT_LIMIT, |text| text.len() + 1)
    }
}

impl Checklist {
    pub(super) fn of(lines: Vec<Line>) -> Self {
        Checklist(with_room(lines))
    }

    /// The worst of all lines.
    pub fn status(&self) -> Status {
        let worst = self.0.iter().map(|line| line.status).max();
        worst.unwrap_or(Status::Ok)
    }

    /// Logs what is not as it should be.
    pub(super) fn log(&self) {
        for line in self.0.iter().filter(|line| line.status != Status::Ok) {
            let Line {
                check,
                detail,
                remedy,
                ..
            } = line;
            tracing::warn!(%check, status = ?line.status, %detail, %remedy);
        }
        tracing::info!(lines = self.0.len(), status = ?self.status(), "the check has ended");
    }
}

/// The contract's form: a warning leaves the outcome as it is.
impl Serialize for Checklist {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let outcome = match self.status() {
            Status::Failed => "failed",
            Status::Ok | Status::Warning => "current",
        };
        let mut body = serializer.serialize_struct("Checklist", 2)?;
        body.serialize_field("outcome", outcome)?;
        body.serialize_field("checks", &self.0)?;
        body.end()
    }
}

/// The lines that a reply has room for, what failed before all others, and one line for those that are left out.
fn with_room(lines: Vec<Line>) -> Vec<Line> {
    let mut room = REPLY_LIMIT;
    let mut is_kept = vec![false; lines.len()];
    for status in [Status::Failed, Status::Warning, Status::Ok] {
        let of_status = lines.iter().enumerate();
        for (position, line) in of_status.filter(|(_, line)| line.status == status) {
            let size = line.size();
            is_kept[position] = size <= room;
            room = room.saturating_sub(size);
        }
    }
    let left_out = lines.iter().zip(&is_kept).filter(|(_, is_kept)| !**is_kept);
    let (count, worst) = left_out.fold((0, Status::Ok), |(count, worst), (line, _)| {
        (count + 1, worst.max(line.status))
    });
    let kept = lines.into_iter().zip(&is_kept);
    let mut kept: Vec<Line> = kept
        .filter_map(|(line, is_kept)| is_kept.then_some(line))
        .collect();
    if count > 0 {
        let detail = format!("{count} more lines have no room in a reply");
        let remedy = "read the function's log, which has those that are not ok";
        kept.push(Line::new("checklist", worst, detail, remedy));
    }
    kept
}

/// What an error found, and what to do about it.
fn texts(error: &Error) -> (String, String) {
    if error.kind() == Kind::Deadline {
        let detail = "not tested: the time of the invocation ended first".to_owned();
        return (
            detail,
            "give the function more time, and check again".to_owned(),
        );
    }
    let text = error.to_string();
    let advice = error.advice();
    let detail = text.strip_suffix(advice).unwrap_or(&text);
    let detail = detail.trim_end_matches("; ").to_owned();
    let usual = match error.kind() {
        Kind::Transient => {
            "check again; if it stays, look at the way there: names, routes, firewalls and proxies"
        }
        Kind::Internal => "report it as a fault of this program",
        _ => "correct what the detail names",
    };
    let remedy = match advice.is_empty() {
        true => usual,
        false => advice,
    };
    (detail, remedy.to_owned())
}

/// At most so many characters, on one line.
fn limited(text: String) -> String {
    let printable = text.chars().map(|character| match character.is_control() {
        true => ' ',
        false => character,
    });
    let mut limited: String = printable.take(TEXT_LIMIT).collect();
    if limited.len() < text.len() {
        limited.push('…');
    }
    limited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_leaves_the_outcome_current_and_a_failure_does_not() {
        let outcome = |lines: &[Line]| {
            let checklist = Checklist::of(lines.to_vec());
            serde_json::to_value(&checklist).unwrap()["outcome"].clone()
        };
        let ok = Line::ok("a", "fine");
        let warning = Line::warning("b", "so so", "look");
        let failed = Line::failed("c", "broken", "mend");
        assert_eq!(outcome(&[ok.clone(), warning.clone()]), "current");
        assert_eq!(outcome(&[ok, failed, warning]), "failed");
    }

    #[test]
    fn a_reply_has_an_end_and_keeps_what_failed() {
        let mut lines: Vec<Line> = (0..10_000)
            .map(|number| Line::ok(format!("{number}"), "x".repeat(2 * TEXT_LIMIT)))
            .collect();
        lines.push(Line::failed("the last", "broken", "mend"));
        let text = serde_json::to_string(&Checklist::of(lines)).unwrap();
        assert!((4_000_000..6_000_000).contains(&text.len()));
        assert!(text.contains("the last") && text.contains("have no room"));
    }

    #[test]
    fn an_error_is_told_apart_from_its_advice() {
        let error = |kind, advice| Error::Api {
            operation: "GetSecretValue",
            subject: "ghcr-token".to_owned(),
            kind,
            detail: "it is not there; really".to_owned(),
            advice,
            retry_after: None,
        };
        let line = Line::of_error("secret", &error(Kind::NotFound, "create it"));
        assert_eq!(
            line.detail,
            "GetSecretValue ghcr-token: it is not there; really"
        );
        assert_eq!(line.remedy, "create it");
        let line = Line::unknown("secret", &error(Kind::Transient, ""));
        assert_eq!(line.status, Status::Warning);
        assert!(line.remedy.contains("check again"), "{line:?}");
        let line = Line::unknown("secret", &Error::Deadline);
        assert_eq!(line.status, Status::Failed);
        assert!(line.detail.contains("not tested"), "{line:?}");
    }
}
