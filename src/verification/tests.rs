//! Real bundles with the built-in roots: `tests/payloads/sigstore/SOURCE.md` says where they are from.

use url::Url;

use super::*;
use crate::rules::glob;

const PACKAGE: &[u8] = include_bytes!("../../tests/payloads/sigstore/package.json");
const STAGING: &[u8] = include_bytes!("../../tests/payloads/sigstore/package.staging.json");
const RELEASE: &[u8] = include_bytes!("../../tests/payloads/sigstore/release.json");
const PROVENANCE_OF_NPM: &[u8] =
    include_bytes!("../../tests/payloads/sigstore/provenance.npm.json");

/// What [`PACKAGE`] and [`STAGING`] are about, and one of the files that [`RELEASE`] is about.
const PACKAGE_DIGEST: &str =
    "sha256:54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f";
const RELEASED_DIGEST: &str =
    "sha256:76f1fe8593bf227cca2c089e3c16dc95014a8d3e89c5dd220530469ca043c428";

const PACKAGE_PREDICATE: &str = "https://schemas.conda.org/attestations-publish-1.schema.json";
const RELEASE_PREDICATE: &str = "https://in-toto.io/attestation/release/v0.2";

fn expected(predicate: &str) -> Attestation {
    Attestation {
        repository: None,
        workflow: None,
        git_ref: None,
        runner: None,
        predicate: predicate.to_owned(),
    }
}

fn host() -> GitHubHost {
    GitHubHost::of_api(&Url::parse("https://api.github.com").unwrap())
}

fn judged(
    expected: &Attestation,
    bundle: &[u8],
    digest: &str,
    owner: &str,
) -> Result<Verified, Flaw> {
    let roots = TrustedRoots::new(host(), None).unwrap();
    let digest = Digest::parse(digest).unwrap();
    let subject = Subject {
        digest: &digest,
        owner,
    };
    let bundle = Evidence::Bundle(bundle.to_vec());
    verify(Required::Attestation(expected), &bundle, subject, &roots)
}

fn refusal(expected: &Attestation, bundle: &[u8], digest: &str, owner: &str) -> String {
    let judged = judged(expected, bundle, digest, owner);
    judged.expect_err("it is refused").reason
}

#[test]
fn what_a_workflow_of_github_attested_is_verified_with_all_that_is_required() {
    let glob = |text: &str| Some(glob::packages(text).unwrap());
    let expected = Attestation {
        repository: glob("prefix-dev/sigstore-example"),
        workflow: glob(".github/workflows/action.yaml"),
        git_ref: glob("refs/heads/main"),
        runner: Some("github-hosted".to_owned()),
        ..expected(PACKAGE_PREDICATE)
    };
    let verified = judged(&expected, PACKAGE, PACKAGE_DIGEST, "acme").unwrap();
    let repository = "prefix-dev/sigstore-example";
    let site = "https://github.com";
    let expected = Verified::Attestation {
        identity: format!("{site}/{repository}/.github/workflows/action.yaml@refs/heads/main"),
        repository: repository.to_owned(),
        git_ref: Some("refs/heads/main".to_owned()),
        run: Some(format!(
            "{site}/{repository}/actions/runs/17377272645/attempts/1"
        )),
    };
    assert_eq!(verified, expected);
}

#[test]
fn it_is_refused_for_any_other_image_owner_or_predicate() {
    let of_package = expected(PACKAGE_PREDICATE);
    let judged = judged(&of_package, PACKAGE, PACKAGE_DIGEST, "prefix-dev");
    assert!(judged.is_ok(), "{judged:?}");
    assert_eq!(
        refusal(&of_package, PACKAGE, RELEASED_DIGEST, "prefix-dev"),
        "it is about another image"
    );
    assert_eq!(
        refusal(&of_package, PACKAGE, PACKAGE_DIGEST, "prefix"),
        "its repository is prefix-dev/sigstore-example, and prefix/* is required"
    );
    let of_provenance = expected("https://slsa.dev/provenance/v1");
    assert_eq!(
        refusal(&of_provenance, PACKAGE, PACKAGE_DIGEST, "prefix-dev"),
        format!(
            "its predicate is {PACKAGE_PREDICATE}, and https://slsa.dev/provenance/v1 is required"
        )
    );
    // Its subject has a digest of SHA-512 alone.
    let of_npm = refusal(
        &of_provenance,
        PROVENANCE_OF_NPM,
        PACKAGE_DIGEST,
        "sigstore",
    );
    assert_eq!(of_npm, "it is about another image");
}

/// GitHub's own instance vouches for its releases too, which no workflow has signed.
#[test]
fn what_no_workflow_attested_is_refused_although_it_is_sound() {
    let issuer = "https://token.actions.githubusercontent.com";
    let of_release = expected(RELEASE_PREDICATE);
    assert_eq!(
        refusal(&of_release, RELEASE, RELEASED_DIGEST, "jdx"),
        format!("it names no issuer, and {issuer} is required")
    );
    assert_eq!(
        refusal(&of_release, RELEASE, PACKAGE_DIGEST, "jdx"),
        "it is about another image"
    );
}

#[test]
fn no_built_in_root_vouches_for_another_instance() {
    let reason = refusal(
        &expected(PACKAGE_PREDICATE),
        STAGING,
        PACKAGE_DIGEST,
        "prefix-dev",
    );
    assert!(
        reason.starts_with("no trusted root vouches for it ("),
        "{reason}"
    );
    assert!(reason.contains("set TRUSTED_ROOT"), "{reason}");
}

/// The host whose API is asked says whose workflows count.
#[test]
fn another_host_of_githubs_has_another_issuer() {
    let api = Url::parse("https://api.acme.ghe.com").unwrap();
    let roots = TrustedRoots::new(GitHubHost::of_api(&api), None).unwrap();
    let digest = Digest::parse(PACKAGE_DIGEST).unwrap();
    let subject = Subject {
        digest: &digest,
        owner: "prefix-dev",
    };
    let expected = expected(PACKAGE_PREDICATE);
    let flaw = verify(
        Required::Attestation(&expected),
        &Evidence::Bundle(PACKAGE.to_vec()),
        subject,
        &roots,
    );
    let reason = flaw.unwrap_err().reason;
    assert!(
        reason.ends_with("and https://token.actions.acme.ghe.com is required"),
        "{reason}"
    );
}

/// One byte anywhere in what proves an attestation makes it worthless; a changed name of a field, or JSON's white space, may not matter.
#[test]
fn no_changed_byte_leads_to_another_verdict() {
    let expected = expected(PACKAGE_PREDICATE);
    let roots = TrustedRoots::new(host(), None).unwrap();
    let digest = Digest::parse(PACKAGE_DIGEST).unwrap();
    let subject = Subject {
        digest: &digest,
        owner: "prefix-dev",
    };
    let judge = |bundle: Vec<u8>| {
        let required = Required::Attestation(&expected);
        verify(required, &Evidence::Bundle(bundle), subject, &roots)
    };
    let sound = judge(PACKAGE.to_vec()).unwrap();
    let mut accepted = 0;
    for place in (0..PACKAGE.len()).step_by(37) {
        let mut bundle = PACKAGE.to_vec();
        bundle[place] ^= 1;
        if let Ok(verified) = judge(bundle) {
            assert_eq!(verified, sound, "byte {place}");
            accepted += 1;
        }
    }
    assert!(accepted < 10, "{accepted} changes do not matter");
}

#[test]
fn trusted_roots_are_read_whole_or_not_at_all() {
    let public = sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;
    let line = public.replace(['\n', '\r'], "");
    for text in [
        public.to_owned(),
        line.clone(),
        format!("{line}\r\n\r\n{line}\n"),
    ] {
        assert_eq!(check_roots(&text), Ok(()));
    }
    let without_authorities = r#"{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [], "certificateAuthorities": [], "ctlogs": [], "timestampAuthorities": []}"#;
    let none = without_authorities.replace('\n', "");
    for (text, part) in [
        (String::new(), "there is no trusted root"),
        ("\n \n".to_owned(), "there is no trusted root"),
        ("[]".to_owned(), "line 1: no trusted root of Sigstore"),
        (
            format!("{line}\n\n{{}}\n"),
            "line 3: no trusted root of Sigstore",
        ),
        (none, "it names no certificate authority"),
    ] {
        let reason = check_roots(&text).unwrap_err();
        assert!(reason.contains(part), "{text:.80}: {reason}");
        assert!(!reason.contains('\n'), "{reason}");
    }
}
