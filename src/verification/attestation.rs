//! GitHub artifact attestations: what has to hold beyond the signature.

use sigstore_verify::VerificationResult;
use sigstore_verify::types::{Bundle, SignatureContent, Statement};
use url::Url;

use super::{Flaw, Subject, Verified, cosign, shown};
use crate::rules::glob::Glob;
use crate::rules::require::Attestation;

/// A host of GitHub's: its web site, which stands in certificates, and who vouches for its workflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubHost {
    /// `https://github.com/`, or `https://<tenant>.ghe.com/`.
    site: String,
    /// The issuer of its workflows' identity tokens.
    issuer: String,
}

impl GitHubHost {
    /// The host whose REST API is at `api`: `https://api.github.com`, or `https://api.<tenant>.ghe.com`. Any other one, such as a proxy
    /// or a stand-in, passes on github.com's.
    /// (GitHub documentation, "About GitHub Enterprise Cloud with data residency"; cli/cli, `expandToGitHubURL`)
    pub fn of_api(api: &Url) -> Self {
        let host = api.host_str().unwrap_or_default();
        let tenant = host
            .strip_prefix("api.")
            .filter(|host| host.ends_with(".ghe.com"));
        match tenant {
            Some(tenant) => GitHubHost {
                site: format!("https://{tenant}/"),
                issuer: format!("https://token.actions.{tenant}"),
            },
            None => GitHubHost {
                site: "https://github.com/".to_owned(),
                issuer: "https://token.actions.githubusercontent.com".to_owned(),
            },
        }
    }

    /// Whether `issuer` vouches for its workflows. An enterprise may have its own name behind the address, which is GitHub's all the same.
    /// (GitHub documentation, "OpenID Connect reference", "Customizing the issuer value for an enterprise")
    fn issues(&self, issuer: &str) -> bool {
        let rest = issuer.strip_prefix(self.issuer.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Compares what a verified certificate says with what is expected.
pub(super) fn judge(
    expected: &Attestation,
    bundle: &Bundle,
    result: &VerificationResult,
    subject: Subject<'_>,
    host: &GitHubHost,
) -> Result<Verified, Flaw> {
    let statement = statement(bundle)?;
    cosign::expect_subject(&statement, subject)?;
    if statement.predicate_type != expected.predicate {
        let found = Some(statement.predicate_type.as_str());
        return Err(mismatched("predicate", &expected.predicate, found));
    }
    if !result.issuer().is_some_and(|issuer| host.issues(issuer)) {
        return Err(mismatched("issuer", &host.issuer, result.issuer()));
    }
    let claims = result
        .certificate()
        .map(|certificate| &certificate.ci_claims);
    let claims = claims.ok_or_else(|| "it has no certificate".to_owned())?;
    let on_host = |uri: &Option<String>| {
        let uri = uri.as_deref()?;
        uri.strip_prefix(host.site.as_str()).map(str::to_owned)
    };
    let repository = on_host(&claims.source_repository_uri);
    let repository = repository.ok_or_else(|| {
        mismatched(
            "repository",
            &host.site,
            claims.source_repository_uri.as_deref(),
        )
    })?;
    let lower = repository.to_ascii_lowercase();
    match &expected.repository {
        Some(glob) if !glob.is_match(&lower) => {
            return Err(mismatched("repository", glob.as_str(), Some(&repository)));
        }
        None if lower.split('/').next() != Some(subject.owner) => {
            let owner = format!("{}/*", subject.owner);
            return Err(mismatched("repository", &owner, Some(&repository)));
        }
        _ => {}
    }
    let identity = result
        .identity()
        .map(|identity| identity.as_str().to_owned());
    if let Some(glob) = &expected.workflow {
        let signer = on_host(&claims.build_signer_uri);
        // A certificate's name is derived from its signer, and both are compared, so that neither may be missing.
        let signer = signer.filter(|_| claims.build_signer_uri == identity);
        if !signer
            .as_deref()
            .is_some_and(|signer| is_workflow(glob, signer, &lower))
        {
            return Err(mismatched(
                "workflow",
                glob.as_str(),
                claims.build_signer_uri.as_deref(),
            ));
        }
    }
    let git_ref = claims.source_repository_ref.clone();
    if let Some(glob) = &expected.git_ref
        && !git_ref.as_deref().is_some_and(|it| glob.is_match(it))
    {
        return Err(mismatched("ref", glob.as_str(), git_ref.as_deref()));
    }
    if let Some(runner) = &expected.runner
        && claims.runner_environment.as_ref() != Some(runner)
    {
        return Err(mismatched(
            "runner",
            runner,
            claims.runner_environment.as_deref(),
        ));
    }
    Ok(Verified::Attestation {
        identity: shown(&identity.unwrap_or_default()),
        repository: shown(&repository),
        git_ref: git_ref.map(|it| shown(&it)),
        run: claims.run_invocation_uri.as_deref().map(shown),
    })
}

fn statement(bundle: &Bundle) -> Result<Statement, String> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("it is a signature of a file, and no attestation".to_owned());
    };
    serde_json::from_slice(envelope.payload.as_bytes())
        .map_err(|_| "what is attested is not an in-toto statement".to_owned())
}

/// Whether `signer`, such as `acme/api/.github/workflows/release.yml@refs/tags/v1`, is the workflow that `glob` stands for: a path in
/// the repository that it ran for, or with a repository before it where the workflow is another one's.
fn is_workflow(glob: &Glob, signer: &str, repository: &str) -> bool {
    let Some((signers, file)) = workflow_file(signer) else {
        return false;
    };
    match glob.as_str().starts_with('.') {
        true => signers == repository && glob.is_match(&file),
        false => glob.is_match(&format!("{signers}/{file}")),
    }
}

/// The repository of a workflow, in lower case, and its path there. Both may be called `.github`, and the file's name and the ref may
/// hold an `@`, but no file below `.github/workflows` is in a directory of its own. So the `@` between them is the last one before the
/// next `/`. (GitHub documentation, "Workflow syntax for GitHub Actions")
fn workflow_file(signer: &str) -> Option<(String, String)> {
    const DIRECTORY: &str = ".github/workflows/";
    let mut parts = signer.splitn(3, '/');
    let (owner, name, path) = (parts.next()?, parts.next()?, parts.next()?);
    let file = path.strip_prefix(DIRECTORY)?.split('/').next()?;
    let (file, _) = file.rsplit_once('@')?;
    let repository = format!("{owner}/{name}").to_ascii_lowercase();
    Some((repository, format!("{DIRECTORY}{file}")))
}

/// It is sound, but somebody else's, or of something else: the one that is required may still come.
fn mismatched(what: &str, expected: &str, found: Option<&str>) -> Flaw {
    Flaw::another_kind(mismatch(what, expected, found))
}

fn mismatch(what: &str, expected: &str, found: Option<&str>) -> String {
    match found {
        Some(found) => format!("its {what} is {}, and {expected} is required", shown(found)),
        None => format!("it names no {what}, and {expected} is required"),
    }
}
