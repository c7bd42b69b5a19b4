//! What happened to a job: outcome, counts, bytes, digest, elapsed time. Knows nothing of Lambda.

use serde::{Serialize, Serializer};

use crate::error::{Error, Kind};
use crate::manifest::Digest;
use crate::plan::{Plan, Present};
use crate::tally::Tally;

/// How a job ended. In the order in which one stands for a run of several: the first that occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    /// Handed over to the queue.
    Queued,
    /// The destination had it already.
    Current,
    /// Not to be copied; `reason` says why.
    Ignored,
}

/// What happened to one event or job.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it failed; its sentence and, as `error_kind`, its class.
    #[serde(flatten, serialize_with = "serialize_error")]
    pub error: Option<Error>,
    /// What was copied, or was to be.
    #[serde(flatten)]
    pub copy: Option<Copy>,
}

/// The figures of a copy. Bytes are of blobs.
#[derive(Debug, Serialize)]
pub struct Copy {
    /// `host/owner/name:tag` of the source.
    pub source: String,
    /// `host/repository:tag` of the destination.
    pub destination: String,
    /// The digest that the destination's tag has, or was to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The digest that the source's tag had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_digest: Option<Digest>,
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
    pub requests: RequestCounts,
    /// Milliseconds from the job's begin to its end.
    pub elapsed_ms: u64,
}

/// Counts of manifests.
#[derive(Debug, Default, Serialize)]
pub struct Manifests {
    /// Written.
    pub pushed: u64,
    /// There already.
    pub present: u64,
}

/// Counts of blobs.
#[derive(Debug, Default, Serialize)]
pub struct Blobs {
    /// Sent.
    pub copied: u64,
    /// Taken over from another repository of the destination.
    pub mounted: u64,
    /// There already.
    pub present: u64,
}

/// Bytes of blobs.
#[derive(Debug, Default, Serialize)]
pub struct Bytes {
    /// Sent.
    pub copied: u64,
    /// There already.
    pub present: u64,
}

/// Counts of the manifests that refer to the image.
#[derive(Debug, Default, Serialize)]
pub struct Referrers {
    /// Written.
    pub copied: u64,
    /// Not accepted by the destination.
    pub refused: u64,
}

/// Counts of HTTP requests.
#[derive(Debug, Default, Serialize)]
pub struct RequestCounts {
    /// To the source, and to the storage that it redirects to.
    pub source: u64,
    /// To the destination.
    pub destination: u64,
}

impl Report {
    /// Nothing was to be done, because of `reason`.
    pub fn ignored(reason: String) -> Self {
        Report {
            outcome: Outcome::Ignored,
            reason: Some(reason),
            error: None,
            copy: None,
        }
    }

    /// Somebody else will do it.
    pub fn queued(source: String, destination: String) -> Self {
        Report::copy(Ok(Outcome::Queued), Copy::new(source, destination))
    }

    /// It did not come to a copy.
    pub fn failed(error: Error) -> Self {
        Report {
            outcome: outcome_of(&error),
            reason: None,
            error: Some(error),
            copy: None,
        }
    }

    /// A copy ended, or was cut off, with these figures.
    pub fn copy(result: Result<Outcome, Error>, copy: Copy) -> Self {
        let (outcome, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => (outcome_of(&error), Some(error)),
        };
        Report {
            outcome,
            reason: None,
            error,
            copy: Some(copy),
        }
    }
}

impl Copy {
    /// The figures of a copy that has not begun.
    pub fn new(source: String, destination: String) -> Self {
        Copy {
            source,
            destination,
            digest: None,
            source_digest: None,
            manifests: Manifests::default(),
            blobs: Blobs::default(),
            bytes: Bytes::default(),
            referrers: Referrers::default(),
            warnings: Vec::new(),
            plan: Vec::new(),
            requests: RequestCounts::default(),
            elapsed_ms: 0,
        }
    }

    /// Takes over what was planned: what is there, and for a dry run what would be done.
    pub fn planned(&mut self, plan: &Plan, dry_run: bool) {
        let Present {
            manifests,
            blobs,
            bytes,
        } = plan.present;
        self.digest = Some(plan.digest.clone());
        self.source_digest = Some(plan.digest.clone());
        self.manifests.present = manifests;
        self.blobs.present = blobs;
        self.bytes.present = bytes;
        self.warnings = plan.warnings.clone();
        if dry_run {
            self.plan = plan.to_string().lines().map(str::to_owned).collect();
            self.manifests.pushed = plan.manifests.len() as u64 + u64::from(plan.top.is_some());
            self.blobs.copied = plan.blobs.len() as u64;
            self.bytes.copied = plan.bytes();
        }
    }

    /// Both sides were found to have `digest`, with one request to each.
    pub fn compared(&mut self, digest: &Digest) {
        self.digest = Some(digest.clone());
        self.source_digest = Some(digest.clone());
        self.manifests.present = 1;
        self.requests = RequestCounts {
            source: 1,
            destination: 1,
        };
    }

    /// Whether anything was written.
    pub fn has_progress(&self) -> bool {
        self.manifests.pushed + self.blobs.copied > 0
    }

    /// Takes over what was done.
    pub fn done(&mut self, tally: &Tally) {
        self.manifests.pushed += tally.manifests();
        self.blobs.copied += tally.blobs();
        self.bytes.copied += tally.bytes();
        let (blobs, bytes) = tally.present();
        self.blobs.present += blobs;
        self.bytes.present += bytes;
        self.requests.source = tally.requests.source();
        self.requests.destination = tally.requests.destination();
    }
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
