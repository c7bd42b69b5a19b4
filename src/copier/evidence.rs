//! Who signed an image: looks where GitHub and cosign keep signatures and attestations, one place after the other, until one counts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Copier;
use crate::allowance::Allowance;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Descriptor, Digest, Manifest};
use crate::reference::{ReferrerKind, ReferrerTag};
use crate::registry::Repository;
use crate::retry::retry;
use crate::token::Token;
use crate::verification::{
    EVIDENCE_LIMIT, Evidence, Required, Subject, TrustedRoots, Verified, verify,
};

/// What a manifest of GitHub's or cosign's says that it is begins so, and ends with the version. (cosign's BUNDLE_SPEC.md)
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

/// What cosign signs, and where it keeps the signature. (cosign's SIGNATURE_SPEC.md)
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// So many attestations and signatures of one image are looked at in each place. Anybody who may push can add more.
const LOOKED_AT: usize = 100;

/// Why GitHub may list nothing. (GitHub's documentation, "REST API endpoints for artifact attestations", "Scopes for OAuth apps")
const NOT_LISTED: &str = "GitHub's API lists none either; those of a private repository it lists only for a classic token with the scope `repo` or another token with the permission `attestations: read`";

/// So many different reasons are told.
const REASONS: usize = 3;

/// A search for one piece of evidence that counts.
pub(super) struct Search<'a> {
    required: &'a [Required<'a>],
    subject: Subject<'a>,
    package: &'a str,
    roots: &'a TrustedRoots,
    /// Pieces of evidence, and how many of them are such as was required.
    looked_at: usize,
    candidates: usize,
    left_out: usize,
    /// Why they don't count, with how often.
    reasons: BTreeMap<String, usize>,
    /// What could not be asked.
    troubles: Vec<String>,
    /// Whether GitHub's API was asked and lists nothing.
    is_unlisted: bool,
    /// Whether it lists more than was looked at.
    are_more_listed: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        required: &'a [Required<'a>],
        package: &'a str,
        digest: &'a Digest,
        roots: &'a TrustedRoots,
    ) -> Self {
        let owner = package.split('/').next().unwrap_or_default();
        Search {
            required,
            subject: Subject { digest, owner },
            package,
            roots,
            looked_at: 0,
            candidates: 0,
            left_out: 0,
            reasons: BTreeMap::new(),
            troubles: Vec::new(),
            is_unlisted: false,
            are_more_listed: false,
        }
    }

    fn wants_attestation(&self) -> bool {
        let mut required = self.required.iter();
        required.any(|it| matches!(it, Required::Attestation(_)))
    }

    fn wants_key(&self) -> bool {
        let mut required = self.required.iter();
        required.any(|it| matches!(it, Required::Key(_)))
    }

    fn consider(&mut self, evidence: &Evidence) -> Option<Verified> {
        self.looked_at += 1;
        let mut is_candidate = false;
        for required in self.required {
            match verify(*required, evidence, self.subject, self.roots) {
                Ok(verified) => return Some(verified),
                Err(flaw) => {
                    is_candidate |= !flaw.is_of_another_kind;
                    *self.reasons.entry(flaw.reason).or_default() += 1;
                }
            }
        }
        self.candidates += usize::from(is_candidate);
        None
    }

    /// Something that can't be evidence.
    fn dismiss(&mut self, reason: String) {
        self.looked_at += 1;
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// Whether something was there that was made to meet the requirement, and does not.
    pub(super) fn has_candidate(&self) -> bool {
        self.candidates > 0
    }

    pub(super) fn expected(&self) -> String {
        let expected: Vec<String> = self.required.iter().map(ToString::to_string).collect();
        expected.join(", or ")
    }

    pub(super) fn found(&self) -> String {
        let mut found = match self.looked_at {
            0 => "there is no signature and no attestation of it".to_owned(),
            1 => "there is one signature or attestation of it".to_owned(),
            count => format!("there are {count} signatures and attestations of it"),
        };
        let mut reasons: Vec<(&String, &usize)> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (place, (reason, count)) in reasons.iter().take(REASONS).enumerate() {
            let separator = if place == 0 { ": " } else { "; " };
            let times = if **count > 1 {
                format!(" ({count} times)")
            } else {
                String::new()
            };
            found.push_str(&format!("{separator}{reason}{times}"));
        }
        if reasons.len() > REASONS {
            found.push_str(&format!("; and {} other reasons", reasons.len() - REASONS));
        }
        if self.left_out > 0 {
            found.push_str(&format!("; {} more were not looked at", self.left_out));
        }
        if self.are_more_listed {
            found.push_str(&format!(
                "; GitHub lists more than the {LOOKED_AT} that were looked at"
            ));
        }
        if self.is_unlisted && self.looked_at == 0 {
            found.push_str(&format!("; {NOT_LISTED}"));
        }
        for trouble in &self.troubles {
            found.push_str(&format!("; {trouble}"));
        }
        found
    }
}

impl Copier {
    /// Looks at what the package has under the digest's tags, then at what GitHub's API knows.
    pub(super) async fn search(
        &self,
        search: &mut Search<'_>,
        source: &Repository,
        token_secret_id: Option<&str>,
        allowance: &Allowance,
    ) -> Result<Option<Verified>> {
        if let Some(verified) = bundles(search, source, allowance).await? {
            return Ok(Some(verified));
        }
        if search.wants_key()
            && let Some(verified) = signatures(search, source, allowance).await?
        {
            return Ok(Some(verified));
        }
        if !search.wants_attestation() {
            return Ok(None);
        }
        let (package, digest) = (search.package, *search.subject.digest);
        let look = |token: Option<Token>| async move {
            let ask = || {
                self.github
                    .attestations(token.as_ref(), package, &digest, LOOKED_AT)
            };
            super::persistently(ask).await
        };
        let attestations = match self.registries.with_token(token_secret_id, look).await {
            Ok(attestations) => attestations,
            Err(error) if error.kind().may_pass() => return Err(error),
            // Whether GitHub has one is not clear then.
            Err(error) => {
                search
                    .troubles
                    .push(format!("GitHub's API was of no help: {error}"));
                return Ok(None);
            }
        };
        search.is_unlisted = attestations.listed.is_empty();
        search.are_more_listed = attestations.are_more;
        // One after the other, so that only one bundle is held at a time.
        for attestation in &attestations.listed {
            let fetch = || self.github.bundle(package, attestation);
            match super::persistently(fetch).await {
                Ok(bundle) => {
                    if let Some(verified) = search.consider(&Evidence::Bundle(bundle)) {
                        return Ok(Some(verified));
                    }
                }
                Err(error) if error.kind().may_pass() => return Err(error),
                Err(error) => search.dismiss(error.to_string()),
            }
        }
        Ok(None)
    }
}

/// What is listed under the fallback tag, newest first.
async fn bundles(
    search: &mut Search<'_>,
    source: &Repository,
    allowance: &Allowance,
) -> Result<Option<Verified>> {
    let Some(index) = tagged(search, source, ReferrerKind::Index, allowance).await? else {
        return Ok(None);
    };
    let entries = index.entries();
    let length = index.bytes.len() as u64;
    // It may be large, and what follows takes a while.
    drop(index);
    allowance.give_back(length);
    let mut entries = match entries {
        Ok(entries) => entries.listed,
        Err(reason) => {
            search.dismiss(format!("what is listed of it: {reason}"));
            return Ok(None);
        }
    };
    let older = entries.len().saturating_sub(LOOKED_AT);
    search.left_out += older;
    let newest = entries.split_off(older);
    drop(entries);
    for entry in newest.iter().rev() {
        let digest = entry.digest.to_string();
        let fetch = || source.fetch_manifest(&digest, allowance);
        let manifest = match retry(source.observer(), fetch).await {
            Ok(manifest) => manifest,
            Err(error) if error.kind().may_pass() => return Err(error),
            Err(error) => {
                search.dismiss(error.to_string());
                continue;
            }
        };
        let fields = Fields::read(&manifest);
        allowance.give_back(manifest.bytes.len() as u64);
        let is_bundle = |fields: &Fields| {
            let kind = fields.artifact_type.as_deref();
            kind.is_some_and(|kind| kind.starts_with(BUNDLE))
        };
        let Some(fields) = fields.filter(is_bundle) else {
            continue;
        };
        for layer in fields.layers.into_iter().take(1) {
            if let Some(bundle) = blob(search, source, &layer).await?
                && let Some(verified) = search.consider(&Evidence::Bundle(bundle))
            {
                return Ok(Some(verified));
            }
        }
    }
    Ok(None)
}

/// What cosign keeps under its tag.
async fn signatures(
    search: &mut Search<'_>,
    source: &Repository,
    allowance: &Allowance,
) -> Result<Option<Verified>> {
    let Some(manifest) = tagged(search, source, ReferrerKind::Signature, allowance).await? else {
        return Ok(None);
    };
    let layers = Fields::read(&manifest).map(|fields| fields.layers);
    allowance.give_back(manifest.bytes.len() as u64);
    let layers = layers.unwrap_or_default();
    let layers = layers
        .into_iter()
        .filter(|layer| layer.media_type == PAYLOAD);
    for (place, layer) in layers.enumerate() {
        if place >= LOOKED_AT {
            search.left_out += 1;
            continue;
        }
        let Some(signature) = layer.annotations.get(SIGNATURE) else {
            search.dismiss("a payload has no signature".to_owned());
            continue;
        };
        if let Some(payload) = blob(search, source, &layer).await? {
            let signature = signature.clone();
            let evidence = Evidence::Signature { payload, signature };
            if let Some(verified) = search.consider(&evidence) {
                return Ok(Some(verified));
            }
        }
    }
    Ok(None)
}

/// The manifest under a tag that is made of the digest; `None` if there is none.
async fn tagged(
    search: &mut Search<'_>,
    source: &Repository,
    kind: ReferrerKind,
    allowance: &Allowance,
) -> Result<Option<Manifest>> {
    let subject = *search.subject.digest;
    let tag = ReferrerTag { subject, kind }.to_string();
    let fetch = || source.fetch_manifest(&tag, allowance);
    match retry(source.observer(), fetch).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) if error.kind().may_pass() || !matches!(error, Error::Content { .. }) => {
            Err(error)
        }
        Err(error) => {
            search.dismiss(error.to_string());
            Ok(None)
        }
    }
}

async fn blob(
    search: &mut Search<'_>,
    source: &Repository,
    layer: &Layer,
) -> Result<Option<Vec<u8>>> {
    let Ok(digest) = Digest::parse(&layer.digest) else {
        search.dismiss("one has no digest that can be read".to_owned());
        return Ok(None);
    };
    if layer.size > EVIDENCE_LIMIT {
        let size = layer.size;
        search.dismiss(format!(
            "one has {size} bytes, and at most {EVIDENCE_LIMIT} are read"
        ));
        return Ok(None);
    }
    let descriptor = Descriptor {
        digest,
        size: layer.size,
    };
    let fetch = || source.fetch_small_blob(&descriptor, EVIDENCE_LIMIT);
    match retry(source.observer(), fetch).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind().may_pass() => Err(error),
        Err(error) => {
            search.dismiss(error.to_string());
            Ok(None)
        }
    }
}

/// What counts of a manifest here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    artifact_type: Option<String>,
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Fields {
    fn read(manifest: &Manifest) -> Option<Self> {
        serde_json::from_slice(&manifest.bytes).ok()
    }
}
