//! One error type, classified once.
//!
//! Whatever reacts to an error (retry, HTTP status, the fate of a message, log level) reads [`Error::kind`] and nothing else.
//! The text is for a person: it names the side, the operation and the reference, and says what to do next.
//! It never holds a secret, a bearer token or the query of a signed URL.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What an error means to the code that has to react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// The event, a setting or the image itself can't be processed; trying again changes nothing.
    Invalid,
    /// A credential or a permission is missing, wrong or expired.
    Denied,
    /// The image, the repository or the secret does not exist, or may not be seen.
    NotFound,
    /// The tag exists with another digest, and the repository does not let it move.
    Immutable,
    /// It may work in a moment: throttling, a server fault, a broken connection.
    Transient,
    /// Stopped on purpose before Lambda would have; what is done stays done.
    Deadline,
    /// A fault of this program.
    Internal,
}

impl Kind {
    /// Whether the same work may succeed later although nobody changes anything.
    pub fn may_pass(self) -> bool {
        matches!(self, Kind::Transient | Kind::Deadline | Kind::Internal)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Which of the two registries a call went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The registry that is read: GHCR.
    Source,
    /// The registry that is written: Amazon ECR.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Side::Source => "source",
            Side::Destination => "destination",
        })
    }
}

/// What was being done at a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Learning how to authenticate, or exchanging the credential for a bearer token.
    Authorize,
    /// Asking which digest a tag or digest stands for.
    ResolveManifest,
    /// Reading the bytes of a manifest.
    FetchManifest,
    /// Asking whether a blob is there.
    HasBlob,
    /// Reading the bytes of a blob.
    FetchBlob,
    /// Opening an upload session.
    StartUpload,
    /// Giving up an upload session.
    CancelUpload,
    /// Writing a blob.
    PushBlob,
    /// Writing a manifest.
    PushManifest,
    /// Reading the list of tags.
    ListTags,
    /// Asking what refers to a manifest.
    ListReferrers,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Operation::Authorize => "authorize",
            Operation::ResolveManifest => "resolve manifest",
            Operation::FetchManifest => "fetch manifest",
            Operation::HasBlob => "look for blob",
            Operation::FetchBlob => "fetch blob",
            Operation::StartUpload => "start upload",
            Operation::CancelUpload => "cancel upload",
            Operation::PushBlob => "push blob",
            Operation::PushManifest => "push manifest",
            Operation::ListTags => "list tags",
            Operation::ListReferrers => "list referrers",
        })
    }
}

/// Everything that can go wrong, by where it was noticed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The function does not process such an event, or can't understand one of its fields.
    #[error("event not understood: {0}")]
    Event(String),

    /// The laptop's command can't use one of its arguments.
    #[error("{0}")]
    Arguments(String),

    /// An HTTP request does not carry a valid signature. The text is the same whatever was wrong, and says nothing of the secret.
    #[error(
        "signature refused: `X-Hub-Signature-256` is missing or does not match the body; set the same secret in the GitHub webhook and in the secret that WEBHOOK_SECRET_ID names"
    )]
    Signature,

    /// A setting is malformed. Only met at start-up.
    #[error("setting {name} is {value:?}: {reason}")]
    Setting {
        /// Name of the environment variable.
        name: &'static str,
        /// Its value, which is never a secret.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },

    /// No rule says where to, or whether, an image may be copied.
    #[error("{0}")]
    Rule(String),

    /// A call of an API of AWS or GitHub failed.
    #[error("{operation} {subject}: {detail}{}", with_advice(.advice))]
    Api {
        /// The name of the API operation.
        operation: &'static str,
        /// What it was called for: a secret's id, a Region, a queue, an owner.
        subject: String,
        /// The class of the failure.
        kind: Kind,
        /// The API's own words.
        detail: String,
        /// What to do about it.
        advice: &'static str,
        /// How long the API asks not to be called.
        retry_after: Option<Duration>,
    },

    /// A registry refused, failed or broke off.
    #[error("{side} {reference}: {operation}: {detail}{}", with_advice(.advice))]
    Registry {
        /// Which registry.
        side: Side,
        /// What was asked of it.
        operation: Operation,
        /// What it was asked for: `host/repository:tag` or `host/repository@digest`.
        reference: String,
        /// The class of the failure.
        kind: Kind,
        /// The registry's own words, or what broke.
        detail: String,
        /// What to do about it; may be empty.
        advice: String,
        /// How long the registry asks not to be called.
        retry_after: Option<Duration>,
    },

    /// The destination refused a manifest because a blob or manifest that it refers to is not there (any more). ECR deletes layers
    /// that no image refers to, at a time of its own.
    #[error(
        "destination {reference}: push manifest: {detail}; a part of the image vanished from the destination while it was copied"
    )]
    PartMissing {
        /// The manifest: `host/repository:tag` or `host/repository@digest`.
        reference: String,
        /// The registry's own words.
        detail: String,
    },

    /// What a registry sent is not what it was said to be, or can't be copied.
    #[error("{side} {reference}: {reason}")]
    Content {
        /// Which registry.
        side: Side,
        /// The manifest or blob: `host/repository@digest`.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },

    /// An image is not signed as its rule requires.
    #[error("source {reference}: {expected} is required, and {found}{}", waiting(*.is_awaited))]
    Unsigned {
        /// The image: `host/repository@digest`.
        reference: String,
        /// Whether it was pushed so lately that what is required may still come.
        is_awaited: bool,
        /// What the rule requires.
        expected: String,
        /// What was found, and why it does not count.
        found: String,
    },

    /// The time of the invocation ran out.
    #[error(
        "the deadline came before the work was complete: what is copied stays, and the next invocation resumes from there; give the function more time or memory if this happens again"
    )]
    Deadline,

    /// A person has stopped the laptop's command.
    #[error(
        "interrupted: blobs that have arrived stay; a tag is written last, so it is as it was, unless its copy was just about to end; give the same command again: it resumes, or says that the image is there"
    )]
    Interrupted,

    /// A fault of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The one classification that everything else follows.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Event(_)
            | Error::Arguments(_)
            | Error::Setting { .. }
            | Error::Rule(_)
            | Error::Content { .. } => Kind::Invalid,
            Error::Signature => Kind::Denied,
            Error::Api { kind, .. } | Error::Registry { kind, .. } => *kind,
            Error::PartMissing { .. } => Kind::Transient,
            Error::Unsigned {
                is_awaited: true, ..
            } => Kind::Transient,
            Error::Unsigned { .. } => Kind::Denied,
            Error::Deadline | Error::Interrupted => Kind::Deadline,
            Error::Internal(_) => Kind::Internal,
        }
    }

    /// How long the other side asked not to be called, if it did: `Retry-After`, a 429 without it, or a rate limit's reset.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Registry { retry_after, .. } | Error::Api { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What to do about it, as far as the error says so; the text of the error ends with it.
    pub fn advice(&self) -> &str {
        match self {
            Error::Api { advice, .. } => advice,
            Error::Registry { advice, .. } => advice,
            _ => "",
        }
    }

    /// Which registry the error is about, if it is about one.
    pub fn side(&self) -> Option<Side> {
        match self {
            Error::Registry { side, .. } | Error::Content { side, .. } => Some(*side),
            Error::Unsigned { .. } => Some(Side::Source),
            Error::PartMissing { .. } => Some(Side::Destination),
            _ => None,
        }
    }
}

fn waiting(is_awaited: bool) -> &'static str {
    match is_awaited {
        true => "; it may follow: for ten minutes after the push the image is looked at again",
        false => "; sign the image as the rule requires, or change the rule's `require`",
    }
}

fn with_advice(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("; {text}")
    }
}
