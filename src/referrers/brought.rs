//! What came of it at one destination, and how that is told in a report.

use std::time::Duration;

use crate::copy::report::{Figures, Outcome, Report};
use crate::error::{Error, Kind, Result, Side};

/// So many warnings are written out.
const WARNINGS_LIMIT: usize = 20;

/// What was brought to one destination.
#[derive(Default)]
pub(super) struct Brought {
    copied: u64,
    refused: u64,
    warnings: Vec<String>,
    /// How many more there were.
    unwritten: usize,
    /// Of a dry run.
    planned: Figures,
    is_planned: bool,
    /// The first failure that may pass.
    error: Option<Error>,
}

/// Something that stood in the way.
#[derive(Clone)]
pub(super) enum Trouble {
    /// A person should know.
    Warning(String),
    /// Something could not be copied or looked at.
    Failure {
        what: String,
        /// Whether an event told of it, so that it is expected to be there.
        is_announced: bool,
        error: Error,
    },
}

impl Brought {
    /// One is there now.
    pub(super) fn arrived(&mut self, report: &Report) {
        match report.outcome {
            Outcome::Copied => self.copied += 1,
            Outcome::Planned => {
                self.copied += 1;
                self.is_planned = true;
                if let Some(figures) = &report.figures {
                    self.planned.plan_also(&figures.plan);
                    self.planned.blobs.copied += figures.blobs.copied;
                    self.planned.bytes.copied += figures.bytes.copied;
                }
            }
            _ => {}
        }
    }

    pub(super) fn warn(&mut self, warning: String) {
        match self.warnings.len() < WARNINGS_LIMIT {
            true => self.warnings.push(warning),
            false => self.unwritten += 1,
        }
    }

    /// Judges what stood in the way. The image is complete without what refers to it: so what fails for good is a warning, and the
    /// job fails only for what may pass, since it is done again then.
    pub(super) fn trouble(&mut self, trouble: Trouble) {
        let (what, is_announced, error) = match trouble {
            Trouble::Warning(warning) => return self.warn(warning),
            Trouble::Failure {
                what,
                is_announced,
                error,
            } => (what, is_announced, error),
        };
        let is_gone = error.kind() == Kind::NotFound && error.side() == Some(Side::Source);
        if error.kind().may_pass() || is_gone && is_announced {
            self.error.get_or_insert(error);
            return;
        }
        // Clean-up jobs delete what has no tag, and leave it in the lists.
        if !is_gone {
            self.refused += 1;
        }
        self.warn(format!("{what} is not copied: {error}"));
    }

    /// The work has ended, perhaps before it was complete.
    pub(super) fn end(&mut self, ended: &Result<()>) {
        if let Err(error) = ended {
            self.error.get_or_insert(error.clone());
        }
    }

    /// Adds all this to the report of the image, with the figures of what it took.
    pub(super) fn add_to(self, report: &mut Report, took: Figures, elapsed: Duration) {
        let mut figures = report.figures.take().unwrap_or_default();
        figures.referrers.copied += self.copied;
        figures.referrers.refused += self.refused;
        figures.warnings.extend(self.warnings);
        if self.unwritten > 0 {
            figures
                .warnings
                .push(format!("and {} more such warnings", self.unwritten));
        }
        figures.plan_also(&self.planned.plan);
        for more in [&took, &self.planned] {
            figures.spent_also(more);
        }
        figures.elapsed_ms += elapsed.as_millis() as u64;
        if report.outcome == Outcome::Current && self.copied > 0 {
            report.outcome = match self.is_planned {
                true => Outcome::Planned,
                false => Outcome::Copied,
            };
        }
        if let Some(error) = self.error.filter(|_| report.error.is_none()) {
            *report = Report::failed(report.subject.take(), error);
        }
        report.figures = Some(figures);
    }
}
