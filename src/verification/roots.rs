//! Whom a Sigstore certificate is believed from: the public-good instance for public repositories, GitHub's own for private ones, or
//! whom `TRUSTED_ROOT` names.

use std::sync::OnceLock;

use sigstore_verify::trust_root::{SigstoreInstance, TrustedRoot};
use sigstore_verify::types::Bundle;
use sigstore_verify::types::Sha256Hash;
use sigstore_verify::{
    CertificateError, Error, TimestampError, TransparencyLogError, VerificationPolicy,
    VerificationResult, Verifier,
};

use super::attestation::{self, GitHubHost};
use super::{Flaw, Subject, Verified, shown};
use crate::rules::require::Attestation;

/// The instances whose attestations GitHub hands out.
const BUILT_IN: [SigstoreInstance; 2] = [SigstoreInstance::PublicGood, SigstoreInstance::GitHub];

/// Trusted roots, made ready when they are used first: a function without `require` does not pay for them.
pub struct TrustedRoots {
    host: GitHubHost,
    /// Those of the setting; the built-in ones where it is not set.
    configured: Option<Vec<TrustedRoot>>,
    ready: OnceLock<Vec<Root>>,
}

struct Root {
    verifier: Verifier,
    policy: VerificationPolicy,
}

impl TrustedRoots {
    /// Those of `configured`, one JSON document a line, or the built-in ones.
    ///
    /// # Errors
    /// Says which line is no trusted root.
    pub fn new(host: GitHubHost, configured: Option<&str>) -> Result<Self, String> {
        let configured = configured.map(read_lines).transpose()?;
        Ok(TrustedRoots {
            host,
            configured,
            ready: OnceLock::new(),
        })
    }

    pub(super) fn verify(
        &self,
        expected: &Attestation,
        bundle: &[u8],
        subject: Subject<'_>,
    ) -> Result<Verified, Flaw> {
        let bundle = super::cosign::read_bundle(bundle)?;
        if bundle.signing_certificate().is_none() {
            let reason = "it is signed with a key, and an attestation has a certificate";
            return Err(Flaw::another_kind(reason));
        }
        let result = self.verified(&bundle, subject)?;
        attestation::judge(expected, &bundle, &result, subject, &self.host)
    }

    /// What one of the roots vouches for. Where none does, the reason of the one that came furthest is told.
    fn verified(
        &self,
        bundle: &Bundle,
        subject: Subject<'_>,
    ) -> Result<VerificationResult, String> {
        let digest = Sha256Hash::from_hex(&subject.digest.encoded());
        let digest = digest.map_err(|error| error.to_string())?;
        let mut reasons: Vec<(usize, String)> = Vec::new();
        for root in self.ready() {
            match root.verifier.verify(digest, bundle, &root.policy) {
                Ok(result) if result.certificate_verified() => return Ok(result),
                Ok(_) => reasons.push((0, "its certificate was not checked".to_owned())),
                Err(error) => reasons.push((distance(&error), reason(&error))),
            }
        }
        let furthest = reasons.into_iter().max_by_key(|(distance, _)| *distance);
        Err(furthest.map_or_else(
            || "there is no trusted root".to_owned(),
            |(_, reason)| reason,
        ))
    }

    fn ready(&self) -> &[Root] {
        self.ready.get_or_init(|| match &self.configured {
            Some(roots) => roots
                .iter()
                .filter_map(|root| Root::new(root).ok())
                .collect(),
            None => {
                let roots = BUILT_IN.into_iter();
                let roots = roots.filter_map(|instance| instance.embedded_trusted_root().ok());
                roots.filter_map(|root| Root::new(&root).ok()).collect()
            }
        })
    }
}

impl Root {
    /// What a root has, it vouches for: where it names logs, an entry in one is asked for, and where it names logs of certificates,
    /// the proof of that too. GitHub's own instance has neither. (GitHub documentation, "Verifying attestations offline")
    fn new(root: &TrustedRoot) -> Result<Self, String> {
        if root.certificate_authorities.is_empty() {
            return Err("it names no certificate authority".to_owned());
        }
        let verifier = Verifier::new(root).map_err(|error| shown(&error.to_string()))?;
        let mut policy = VerificationPolicy::any_identity();
        if root.tlogs.is_empty() {
            policy = policy.skip_tlog_unsafe();
        }
        if root.ctlogs.is_empty() {
            policy = policy.skip_sct();
        }
        Ok(Root { verifier, policy })
    }
}

/// Whether `text` holds trusted roots, one JSON document a line.
///
/// # Errors
/// Says which line is none.
pub fn check_roots(text: &str) -> Result<(), String> {
    read_lines(text).map(|_| ())
}

fn read_lines(text: &str) -> Result<Vec<TrustedRoot>, String> {
    let whole = TrustedRoot::from_json(text);
    if let Ok(root) = whole {
        Root::new(&root)?;
        return Ok(vec![root]);
    }
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let roots = lines.map(|(number, line)| {
        let wrong =
            |reason: String| format!("line {}: no trusted root of Sigstore: {reason}", number + 1);
        let root =
            TrustedRoot::from_json(line).map_err(|error| wrong(shown(&error.to_string())))?;
        Root::new(&root).map_err(wrong)?;
        Ok(root)
    });
    let roots: Vec<TrustedRoot> = roots.collect::<Result<_, String>>()?;
    match roots.is_empty() {
        true => Err("there is no trusted root".to_owned()),
        false => Ok(roots),
    }
}

/// How far a bundle came with a root: that of another instance fails at once.
fn distance(error: &Error) -> usize {
    match error {
        Error::Certificate(
            CertificateError::ChainInvalid(_) | CertificateError::NoValidAuthority { .. },
        )
        | Error::TransparencyLog(TransparencyLogError::UnknownLog { .. })
        | Error::Timestamp(_) => 0,
        Error::TransparencyLog(_) | Error::Certificate(_) => 1,
        _ => 2,
    }
}

/// What a person has to know of it.
fn reason(error: &Error) -> String {
    let text = shown(&error.to_string());
    match error {
        Error::ArtifactMismatch(_) => "it is about another image".to_owned(),
        Error::SignatureInvalid(_) => format!("its signature is wrong: {text}"),
        Error::Certificate(
            CertificateError::ChainInvalid(_) | CertificateError::NoValidAuthority { .. },
        )
        | Error::TransparencyLog(
            TransparencyLogError::UnknownLog { .. } | TransparencyLogError::InclusionPromise(_),
        )
        | Error::Timestamp(TimestampError::Invalid(_)) => {
            format!(
                "no trusted root vouches for it ({text}); where Sigstore's roots have changed, set TRUSTED_ROOT"
            )
        }
        _ => text,
    }
}
