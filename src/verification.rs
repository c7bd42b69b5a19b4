//! Whether an image is signed as a rule requires: bytes in, a verdict out. Nothing here speaks to anybody.
//!
//! Whatever is not clear does not count, and why it does not is said.

mod attestation;
mod cosign;
mod roots;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use self::attestation::GitHubHost;
pub use self::roots::{TrustedRoots, check_roots};
use crate::manifest::Digest;
use crate::public_key::PublicKey;
use crate::rules::require::Attestation;

/// The largest bundle or payload that is looked at, in bytes. Those of GitHub have about 12,000.
pub const EVIDENCE_LIMIT: u64 = 1024 * 1024;

/// Something that was found about an image and may show who made it.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// A Sigstore bundle. (cosign's BUNDLE_SPEC.md)
    Bundle(Vec<u8>),
    /// What cosign keeps under the tag `sha256-….sig`. (cosign's SIGNATURE_SPEC.md)
    Signature {
        /// What is signed.
        payload: Vec<u8>,
        /// The signature, in base64.
        signature: String,
    },
}

/// What is required, with the key at hand where there is one.
#[derive(Clone, Copy, Debug)]
pub enum Required<'a> {
    /// An attestation of GitHub's.
    Attestation(&'a Attestation),
    /// A signature by this key.
    Key(&'a PublicKey),
}

/// The image that is to be copied.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its digest at the source.
    pub digest: &'a Digest,
    /// The owner of its package.
    pub owner: &'a str,
}

/// By what, and by whom, an image was found to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Verified {
    /// An attestation of GitHub's.
    Attestation {
        /// The workflow that has attested, with its ref: the certificate's name.
        identity: String,
        /// The repository that it ran for: `owner/name`.
        repository: String,
        /// The git ref that it ran for.
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        git_ref: Option<String>,
        /// The page of the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        run: Option<String>,
    },
    /// A cosign signature.
    CosignKey {
        /// SHA-256 of the key's DER.
        key: Digest,
    },
}

/// Whom a person would name.
impl fmt::Display for Verified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verified::Attestation { identity, .. } => identity.fmt(formatter),
            Verified::CosignKey { key } => write!(formatter, "the key {key}"),
        }
    }
}

/// Why a piece of evidence does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What is wrong with it, for a person.
    pub reason: String,
    /// Whether it was made for something else than what is required, so that the right one may still come.
    pub is_of_another_kind: bool,
}

impl From<String> for Flaw {
    fn from(reason: String) -> Self {
        Flaw {
            reason,
            is_of_another_kind: false,
        }
    }
}

impl Flaw {
    fn another_kind(reason: impl Into<String>) -> Self {
        Flaw {
            reason: reason.into(),
            is_of_another_kind: true,
        }
    }
}

/// As a sentence about what is expected has it.
impl fmt::Display for Required<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Required::Attestation(expected) => expected.fmt(formatter),
            Required::Key(key) => {
                write!(
                    formatter,
                    "a cosign signature by the key {}",
                    key.fingerprint()
                )
            }
        }
    }
}

/// Looks at one piece of evidence.
///
/// # Errors
/// Why it does not count.
pub fn verify(
    required: Required<'_>,
    evidence: &Evidence,
    subject: Subject<'_>,
    roots: &TrustedRoots,
) -> Result<Verified, Flaw> {
    match (required, evidence) {
        (Required::Attestation(expected), Evidence::Bundle(bundle)) => {
            roots.verify(expected, bundle, subject)
        }
        (Required::Key(key), Evidence::Bundle(bundle)) => {
            cosign::verify_bundle(key, bundle, subject)
        }
        (Required::Key(key), Evidence::Signature { payload, signature }) => {
            cosign::verify_signature(key, payload, signature, subject)
        }
        (Required::Attestation(_), Evidence::Signature { .. }) => {
            let reason = "it is a cosign signature, and an attestation is required";
            Err(Flaw::another_kind(reason))
        }
    }
}

/// Foreign text for a sentence: short, and on one line.
fn shown(text: &str) -> String {
    let printable = text
        .chars()
        .map(|character| match character.is_control() {
            true => ' ',
            false => character,
        })
        .take(200);
    printable.collect()
}
