//! What a workflow attests, and what its certificate says of the workflow.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use der::Encode;
use der::asn1::Utf8StringRef;
use rcgen::{CustomExtension, SanType};
use serde_json::{Value, json};

use super::{PROVENANCE, envelope};

const GITHUB: &str = "https://github.com";

/// The parent of all of Fulcio's extensions, 1.3.6.1.4.1.57264.1. (sigstore/fulcio, `docs/oid-info.md`)
const FULCIO: [u64; 8] = [1, 3, 6, 1, 4, 1, 57264, 1];

/// An attestation by a GitHub Actions workflow. All fields are as a test wishes, true or not:
/// `Attestation { runner: "self-hosted".into(), ..Attestation::of(&digest) }`.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// Digests of what is attested.
    pub subjects: Vec<String>,
    pub predicate_type: String,
    pub predicate: Value,
    /// Who vouched for the workflow's identity.
    pub issuer: String,
    /// `owner/name`.
    pub repository: String,
    /// The workflow's path in its repository.
    pub workflow: String,
    /// The Git reference that it ran for.
    pub reference: String,
    /// The workflow that signed, as `owner/name/path@reference`, if it is not the one that ran: a reusable workflow.
    pub signer: Option<String>,
    /// `github-hosted` or `self-hosted`.
    pub runner: String,
    /// `public`, `private` or `internal`.
    pub visibility: String,
    /// GitHub's numbers of the repository and its owner.
    pub repository_id: u64,
    pub owner_id: u64,
    /// The number of the run.
    pub run: u64,
    /// Extensions of the certificate, by the last number of their object identifier, that have another value, or with `None` are left
    /// out.
    pub claims: Vec<(u64, Option<String>)>,
    /// The URI that the certificate names as its subject, if it is not that of the workflow.
    pub identity: Option<String>,
    /// When it was signed. The certificate is valid for the ten minutes from then.
    pub signed_at: SystemTime,
    /// The time that the log or the timestamp authority gives, if it is another.
    pub recorded_at: Option<SystemTime>,
}

/// Provenance of nothing, by a release workflow of `acme/api`, signed an hour ago: so the certificate has expired since, as it has
/// whenever an attestation is verified.
impl Default for Attestation {
    fn default() -> Attestation {
        Attestation {
            subjects: Vec::new(),
            predicate_type: PROVENANCE.into(),
            predicate: json!({"buildDefinition": {"buildType": "https://actions.github.io/buildtypes/workflow/v1"}}),
            issuer: "https://token.actions.githubusercontent.com".into(),
            repository: "acme/api".into(),
            workflow: ".github/workflows/release.yml".into(),
            reference: "refs/tags/v1.2.3".into(),
            signer: None,
            runner: "github-hosted".into(),
            visibility: "public".into(),
            repository_id: 245_765_716,
            owner_id: 21_031_067,
            run: 1,
            claims: Vec::new(),
            identity: None,
            signed_at: SystemTime::now() - Duration::from_secs(60 * 60),
            recorded_at: None,
        }
    }
}

impl Attestation {
    /// The default, of the image with this digest.
    pub fn of(digest: &str) -> Attestation {
        Attestation {
            subjects: vec![digest.into()],
            ..Attestation::default()
        }
    }

    pub(super) fn statement(&self) -> Vec<u8> {
        let subjects = self.subjects.iter().map(|digest| {
            let name = format!("ghcr.io/{}", self.repository);
            json!({"name": name, "digest": envelope::digest_set(digest)})
        });
        envelope::statement(subjects.collect(), &self.predicate_type, &self.predicate)
    }

    /// The workflow that ran, with its reference.
    fn workflow_uri(&self) -> String {
        let Attestation {
            repository,
            workflow,
            reference,
            ..
        } = self;
        format!("{GITHUB}/{repository}/{workflow}@{reference}")
    }

    /// The workflow that signed, with its reference.
    fn signer_uri(&self) -> String {
        let of_other = self.signer.as_ref();
        of_other.map_or_else(
            || self.workflow_uri(),
            |signer| format!("{GITHUB}/{signer}"),
        )
    }

    pub(super) fn subject_alternative_name(&self) -> SanType {
        let uri = self.identity.clone().unwrap_or_else(|| self.signer_uri());
        SanType::URI(uri.try_into().expect("an identity in ASCII"))
    }

    /// Fulcio's extensions, each a UTF8String.
    pub(super) fn extensions(&self) -> Vec<CustomExtension> {
        let repository = format!("{GITHUB}/{}", self.repository);
        let owner = repository.rsplit_once('/').map_or("", |(owner, _)| owner);
        let commit = "8a7d1c0e5b3f42961f0d8e7c6b5a493827160f5e";
        let mut claims = BTreeMap::from([
            (8, self.issuer.clone()),
            (9, self.signer_uri()),
            (10, commit.into()),
            (11, self.runner.clone()),
            (12, repository.clone()),
            (13, commit.into()),
            (14, self.reference.clone()),
            (15, self.repository_id.to_string()),
            (16, owner.into()),
            (17, self.owner_id.to_string()),
            (18, self.workflow_uri()),
            (19, commit.into()),
            (20, "push".into()),
            (
                21,
                format!("{repository}/actions/runs/{}/attempts/1", self.run),
            ),
            (22, self.visibility.clone()),
        ]);
        for (number, claim) in &self.claims {
            match claim {
                Some(value) => claims.insert(*number, value.clone()),
                None => claims.remove(number),
            };
        }
        let extension = |(number, value): (u64, String)| {
            let identifier = [&FULCIO[..], &[number]].concat();
            let value = Utf8StringRef::new(&value).and_then(|value| value.to_der());
            CustomExtension::from_oid_content(&identifier, value.expect("a text"))
        };
        claims.into_iter().map(extension).collect()
    }
}
