//! What happened to a job: outcome, counts, bytes, digest, elapsed time. Knows nothing of Lambda.

use serde::{Serialize, Serializer};

use super::plan::Plan;
use crate::error::{Error, Kind};
use crate::manifest::Digest;
use crate::observer::Counts;
use crate::verification::Verified;

/// The most lines of a plan that a report shows.
const PLAN_LINES: usize = 500;

/// How a job ended. In the order in which one stands for a run of several: the first that occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did not work; `error` says why.
    Failed,
    /// The deadline came; what is done stays done.
    Deferred,
    /// The destination has it now, and did not before.
    Copied,
    /// A dry run: what would be copied.
    Planned,
    /// Enqueued.
    Queued,
    /// The destination had it already.
    Current,
    /// Not to be copied; `reason` says why.
    Ignored,
}

impl Outcome {
    /// As it is written in a report.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Failed => "failed",
            Outcome::Deferred => "deferred",
            Outcome::Copied => "copied",
            Outcome::Planned => "planned",
            Outcome::Queued => "queued",
            Outcome::Current => "current",
            Outcome::Ignored => "ignored",
        }
    }
}

/// What a report is about.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Subject {
    /// A copy: `host/owner/name:tag` to `host/repository:tag`.
    Copy {
        /// What is read.
        source: String,
        /// What is written.
        destination: String,
    },
    /// All images of a package, to one of its destinations: `owner/name` to `host/repository` with the tag as the rule writes it.
    Place {
        /// What is read.
        source: String,
        /// What is written.
        destination: String,
    },
    /// An image of the source: `host/owner/name:tag`.
    Image {
        /// What is read.
        source: String,
    },
    /// A package: `owner/name`.
    Package {
        /// Its name.
        package: String,
    },
    /// A rule, by its `source`.
    Rule {
        /// The glob.
        rule: String,
    },
    /// An owner whose packages are listed.
    Owner {
        /// Its name.
        owner: String,
    },
}

impl Subject {
    /// The package `owner/name`.
    pub fn package(package: &str) -> Self {
        Subject::Package {
            package: package.to_owned(),
        }
    }
}

/// What happened to one event or job.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What it is about; nothing for an event that names nothing.
    #[serde(flatten)]
    pub subject: Option<Subject>,
    /// Why it was ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it failed; its sentence and, as `error_kind`, its class.
    #[serde(flatten, serialize_with = "serialize_error")]
    pub error: Option<Error>,
    /// The figures of a copy.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// What was created or put right of the destination's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryReport>,
    /// Tags that were deleted at the destination as the source no longer has them; in a dry run, that would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pruned: Vec<String>,
}

/// What was done about a repository, with the settings that it was done with.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RepositoryReport {
    /// It was missing.
    Created(Vec<String>),
    /// What differed from the rule.
    Changed(Vec<String>),
    /// A dry run: it is missing.
    WouldCreate(Vec<String>),
    /// A dry run: what differs from the rule.
    WouldChange(Vec<String>),
}

/// The figures of a copy. Bytes are of blobs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The digest that the destination's tag has, or was to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The digest that the source's tag had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
    /// By whom it is signed, where the rule requires that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Manifests and indexes.
    pub manifests: Manifests,
    /// Configs and layers.
    pub blobs: Blobs,
    /// Their lengths.
    pub bytes: Bytes,
    /// Signatures and the like.
    pub referrers: Referrers,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The steps of a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// HTTP requests, authorization left aside.
    pub requests: Requests,
    /// Further tries after a passing failure.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
    /// Answers 429.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled: u64,
    /// Milliseconds from the job's begin to its end.
    pub elapsed_ms: u64,
    /// What another report of the same job says as well, as the source is read once for several destinations.
    #[serde(skip)]
    pub shared: SharedCounts,
}

/// Counts that are in several reports.
#[derive(Clone, Debug, Default)]
pub struct SharedCounts {
    /// Of the further tries.
    pub retries: u64,
    /// Of the answers 429.
    pub throttled: u64,
}

/// Counts of manifests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Manifests {
    /// Written.
    pub pushed: u64,
    /// There already.
    pub present: u64,
}

/// Counts of blobs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Blobs {
    /// Sent.
    pub copied: u64,
    /// Mounted from another repository of the destination.
    pub mounted: u64,
    /// There already.
    pub present: u64,
}

/// Bytes of blobs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bytes {
    /// Sent.
    pub copied: u64,
    /// There already.
    pub present: u64,
}

/// Counts of the manifests that refer to the image.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Referrers {
    /// Written.
    pub copied: u64,
    /// Found, but not copied for good, mostly as the destination does not accept them; a warning names each.
    pub refused: u64,
}

/// Counts of HTTP requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Requests {
    /// To the source, and to the storage that it redirects to.
    pub source: u64,
    /// To the destination.
    pub destination: u64,
}

impl Report {
    /// Nothing was to be done, because of `reason`.
    pub fn ignored(subject: Option<Subject>, reason: String) -> Self {
        Report {
            reason: Some(reason),
            ..Report::new(Outcome::Ignored, subject)
        }
    }

    /// Another invocation will do it.
    pub fn queued(subject: Subject) -> Self {
        Report {
            figures: Some(Figures::default()),
            ..Report::new(Outcome::Queued, Some(subject))
        }
    }

    /// It did not come to a copy.
    pub fn failed(subject: Option<Subject>, error: Error) -> Self {
        Report {
            error: Some(error.clone()),
            ..Report::new(outcome_of(&error), subject)
        }
    }

    /// A copy ended, or was cut off, with these figures.
    pub fn copy(subject: Subject, result: Result<Outcome, Error>, figures: Figures) -> Self {
        let report = match result {
            Ok(outcome) => Report::new(outcome, Some(subject)),
            Err(error) => Report::failed(Some(subject), error),
        };
        Report {
            figures: Some(figures),
            ..report
        }
    }

    fn new(outcome: Outcome, subject: Option<Subject>) -> Self {
        Report {
            outcome,
            subject,
            reason: None,
            error: None,
            figures: None,
            repository: None,
            pruned: Vec::new(),
        }
    }

    /// A repository, apart from any image in it.
    pub fn repository(subject: Subject, outcome: Outcome) -> Self {
        Report::new(outcome, Some(subject))
    }

    /// Adds a warning to the figures of a copy.
    pub fn warn(&mut self, warning: String) {
        self.figures.get_or_insert_default().warnings.push(warning);
    }

    /// Whether it says of something that is up to date what was done about it, or what a person should know.
    pub fn tells_more(&self) -> bool {
        let warns = |figures: &Figures| !figures.warnings.is_empty();
        let has_warnings = self.figures.as_ref().is_some_and(warns);
        self.repository.is_some() || !self.pruned.is_empty() || has_warnings
    }

    /// Whether anything was written.
    pub fn has_progress(&self) -> bool {
        let wrote = |figures: &Figures| {
            let Blobs {
                copied, mounted, ..
            } = figures.blobs;
            figures.manifests.pushed + copied + mounted + figures.referrers.copied > 0
        };
        self.outcome != Outcome::Planned && self.figures.as_ref().is_some_and(wrote)
    }
}

impl Figures {
    /// What the observers of source and destination have counted.
    pub fn of(source: Counts, destination: Counts) -> Self {
        Figures {
            manifests: Manifests {
                pushed: destination.manifests_pushed,
                present: destination.manifests_present,
            },
            blobs: Blobs {
                copied: destination.blobs_copied,
                mounted: destination.blobs_mounted,
                present: destination.blobs_present,
            },
            bytes: Bytes {
                copied: destination.bytes_copied,
                present: destination.bytes_present,
            },
            requests: Requests {
                source: source.requests,
                destination: destination.requests,
            },
            retries: source.retries + destination.retries,
            throttled: source.throttled + destination.throttled,
            ..Figures::default()
        }
    }

    /// The same for one of several destinations, which all say what the source took.
    pub fn of_several(source: Counts, destination: Counts, is_first: bool) -> Self {
        let shared = match is_first {
            true => SharedCounts::default(),
            false => SharedCounts {
                retries: source.retries,
                throttled: source.throttled,
            },
        };
        Figures {
            shared,
            ..Figures::of(source, destination)
        }
    }

    /// Takes over what a dry run would do.
    pub fn planned(&mut self, plan: &Plan) {
        self.manifests.pushed = plan.pushes();
        self.blobs.copied = plan.blobs.len() as u64;
        self.bytes.copied = plan.bytes();
        let text = plan.to_string();
        self.plan = text.lines().take(PLAN_LINES).map(str::to_owned).collect();
        let left_out = text.lines().count().saturating_sub(PLAN_LINES);
        if left_out > 0 {
            self.plan.push(format!("and {left_out} more"));
        }
    }
}

impl Figures {
    /// Adds steps of a dry run, as far as there is room.
    pub fn plan_also(&mut self, steps: &[String]) {
        let room = (PLAN_LINES + 1).saturating_sub(self.plan.len());
        self.plan.extend(steps.iter().take(room).cloned());
    }

    /// Adds what something beside the image took: blobs, bytes and requests, but no manifests.
    pub fn spent_also(&mut self, more: &Figures) {
        self.blobs.copied += more.blobs.copied;
        self.blobs.present += more.blobs.present;
        self.bytes.copied += more.bytes.copied;
        self.bytes.present += more.bytes.present;
        self.requests.source += more.requests.source;
        self.requests.destination += more.requests.destination;
        self.retries += more.retries;
        self.throttled += more.throttled;
        self.shared.retries += more.shared.retries;
        self.shared.throttled += more.shared.throttled;
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Running out of time is no failure: what is done stays done.
fn outcome_of(error: &Error) -> Outcome {
    match error.kind() {
        Kind::Deadline => Outcome::Deferred,
        _ => Outcome::Failed,
    }
}

fn serialize_error<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error_kind: Option<Kind>,
    }
    Fields {
        error: error.as_ref().map(Error::to_string),
        error_kind: error.as_ref().map(Error::kind),
    }
    .serialize(serializer)
}
