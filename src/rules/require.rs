//! A rule's `require`: who has to have signed an image before it is copied.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::glob::{self, Glob};
use crate::public_key::PublicKey;

/// What GitHub's `attest-build-provenance` writes, and what is asked for unless a rule names another.
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// What begins a setting that names a secret.
const SECRET: &str = "secret:";

/// One of the ways in which an image may be signed; any one of a rule's is enough.
#[derive(Debug)]
pub enum Requirement {
    /// A GitHub artifact attestation.
    Attestation(Box<Attestation>),
    /// A cosign signature by a key.
    CosignKey(CosignKey),
}

/// What has to hold in the certificate of an attestation, as far as each is given.
#[derive(Debug)]
pub struct Attestation {
    /// `owner/repository` in lower case; any repository of the package's owner where it is not given.
    pub repository: Option<Glob>,
    /// The workflow that has attested: its path in that repository, or with another repository before it.
    pub workflow: Option<Glob>,
    /// The git ref that the workflow ran for, such as `refs/tags/v1`.
    pub git_ref: Option<Glob>,
    /// `github-hosted` or `self-hosted`.
    pub runner: Option<String>,
    /// The type of what is attested.
    pub predicate: String,
}

/// A key that has to have signed.
#[derive(Debug)]
pub enum CosignKey {
    /// As the rule has it.
    Written(PublicKey),
    /// The id of the secret that holds it.
    Secret(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequirementFields {
    attestation: Option<AttestationFields>,
    cosign_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestationFields {
    repository: Option<String>,
    workflow: Option<String>,
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    runner: Option<String>,
    predicate: Option<String>,
}

/// Reads the field: one requirement, or a list of them.
///
/// # Errors
/// Says what was expected.
pub(super) fn read(value: Value) -> Result<Vec<Requirement>, String> {
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    if values.is_empty() {
        return Err("`require` is an empty list, which nothing could meet: name what is required, or leave it out".to_owned());
    }
    let requirements = values.into_iter().map(|value| {
        let fields: RequirementFields =
            serde_json::from_value(value).map_err(|error| format!("`require`: {error}"))?;
        requirement(fields).map_err(|reason| format!("`require`: {reason}"))
    });
    requirements.collect()
}

fn requirement(fields: RequirementFields) -> Result<Requirement, String> {
    match (fields.attestation, fields.cosign_key) {
        (Some(fields), None) => {
            Attestation::new(fields).map(|it| Requirement::Attestation(Box::new(it)))
        }
        (None, Some(key)) => CosignKey::new(&key).map(Requirement::CosignKey),
        (Some(_), Some(_)) => Err(
            "`attestation` and `cosign_key` in one object: a list of two objects means either"
                .to_owned(),
        ),
        (None, None) => Err("expected `attestation` or `cosign_key`".to_owned()),
    }
}

impl Attestation {
    fn new(fields: AttestationFields) -> Result<Self, String> {
        let glob = |text: Option<String>, name: &str| {
            let glob = text.map(|text| glob::packages(&text));
            glob.transpose()
                .map_err(|reason| format!("`{name}` {reason}"))
        };
        let expected_repository = || {
            "`repository`: expected `owner/repository`, such as \"acme/api\" or \"acme/*\""
                .to_owned()
        };
        let repository = match fields.repository {
            Some(text) => {
                let (owner, name) = text.split_once('/').ok_or_else(expected_repository)?;
                if owner.is_empty() || name.is_empty() || glob::is_glob(owner) {
                    return Err(expected_repository());
                }
                Some(text.to_ascii_lowercase())
            }
            None => None,
        };
        let is_known =
            |runner: &&String| ["github-hosted", "self-hosted"].contains(&runner.as_str());
        if let Some(runner) = fields.runner.as_ref().filter(|runner| !is_known(runner)) {
            return Err(format!(
                "`runner` {runner:?}: expected \"github-hosted\" or \"self-hosted\""
            ));
        }
        let predicate = fields.predicate.unwrap_or_else(|| PROVENANCE.to_owned());
        if predicate.is_empty() {
            return Err(
                "`predicate` is empty: expected a type such as \"https://slsa.dev/provenance/v1\""
                    .to_owned(),
            );
        }
        Ok(Attestation {
            repository: glob(repository, "repository")?,
            workflow: glob(fields.workflow.map(with_lower_repository), "workflow")?,
            git_ref: glob(fields.git_ref, "ref")?,
            runner: fields.runner,
            predicate,
        })
    }
}

/// A workflow's path with a repository before it: names of repositories are compared in lower case.
fn with_lower_repository(workflow: String) -> String {
    match workflow.find("/.github/workflows/") {
        Some(at) => workflow[..at].to_ascii_lowercase() + &workflow[at..],
        None => workflow,
    }
}

/// As a sentence about what is expected has it.
impl fmt::Display for Attestation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "an attestation {}", self.predicate)?;
        let globs = [
            ("of repository", &self.repository),
            ("by workflow", &self.workflow),
            ("for ref", &self.git_ref),
        ];
        for (what, glob) in globs {
            if let Some(glob) = glob {
                write!(formatter, " {what} {}", glob.as_str())?;
            }
        }
        match &self.runner {
            Some(runner) => write!(formatter, " on a runner that is {runner}"),
            None => Ok(()),
        }
    }
}

impl CosignKey {
    fn new(text: &str) -> Result<Self, String> {
        match text.strip_prefix(SECRET) {
            Some("") => {
                Err("`cosign_key` \"secret:\": expected the secret's id after it".to_owned())
            }
            Some(id) => Ok(CosignKey::Secret(id.to_owned())),
            None => {
                let key = PublicKey::parse(text);
                let key = key.map_err(|reason| format!("`cosign_key`: {reason}, or \"secret:\" and the id of a secret that holds one"));
                key.map(CosignKey::Written)
            }
        }
    }
}
