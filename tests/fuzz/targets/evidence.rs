//! Bundles and cosign's payloads, as anybody may push them: nothing but what was signed counts, and why is said in one line.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fuzz::assert_one_line;
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::public_key::PublicKey;
use ghcr_to_ecr::rules::require::Attestation;
use ghcr_to_ecr::verification::{
    Evidence, GitHubHost, Required, Subject, TrustedRoots, Verified, verify,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use url::Url;

/// What the bundle below and the payload in `seeds` are about.
const IMAGE: &str = "sha256:54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f";
const SOUND: &[u8] = include_bytes!("../../payloads/sigstore/package.json");

struct World {
    roots: TrustedRoots,
    expected: Attestation,
    image: Digest,
    key: EcdsaKeyPair,
    public_key: PublicKey,
    /// Of the bundle that every input may become.
    verdict: Option<Verified>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let api = Url::parse("https://api.github.com").expect("a URL");
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let der = key.public_key().as_der().expect("a public key");
    let der = STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n");
    let mut world = World {
        roots: TrustedRoots::new(GitHubHost::of_api(&api), None).expect("roots"),
        expected: Attestation {
            repository: None,
            workflow: None,
            git_ref: None,
            runner: None,
            predicate: "https://schemas.conda.org/attestations-publish-1.schema.json".to_owned(),
        },
        image: Digest::parse(IMAGE).expect("a digest"),
        key,
        public_key: PublicKey::parse(&pem).expect("a public key"),
        verdict: None,
    };
    let sound = Evidence::Bundle(SOUND.to_vec());
    world.verdict = world.judged(Required::Attestation(&world.expected), &sound);
    assert!(world.verdict.is_some());
    world
});

impl World {
    fn judged(&self, required: Required<'_>, evidence: &Evidence) -> Option<Verified> {
        let subject = Subject {
            digest: &self.image,
            owner: "prefix-dev",
        };
        let judged = verify(required, evidence, subject, &self.roots);
        judged.map_err(|flaw| assert_one_line(&flaw.reason)).ok()
    }

    /// As cosign signs.
    fn signature(&self, payload: &[u8]) -> String {
        let signature = self.key.sign(&SystemRandom::new(), payload);
        STANDARD.encode(signature.expect("a signature").as_ref())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let world = &*WORLD;
    let key = Required::Key(&world.public_key);
    let bundle = Evidence::Bundle(bytes.to_vec());
    // The same attestation in other JSON is still the same.
    let attested = world.judged(Required::Attestation(&world.expected), &bundle);
    assert!(attested.is_none() || attested == world.verdict);
    assert_eq!(world.judged(key, &bundle), None);

    let payload = bytes.to_vec();
    let text = String::from_utf8_lossy(bytes).into_owned();
    let unsigned = Evidence::Signature {
        payload: SOUND.to_vec(),
        signature: text,
    };
    assert_eq!(world.judged(key, &unsigned), None);
    let signature = world.signature(bytes);
    let signed = Evidence::Signature { payload, signature };
    if world.judged(key, &signed).is_some() {
        let payload: Value = serde_json::from_slice(bytes).expect("JSON");
        let critical = &payload["critical"];
        assert_eq!(critical["image"]["docker-manifest-digest"], IMAGE);
        assert_eq!(critical["type"], "cosign container image signature");
    }
});
