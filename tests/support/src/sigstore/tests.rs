use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::{Bundle, DerPublicKey, Sha256Hash, SignatureContent};
use sigstore_verify::{
    Policy, PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult, Verifier,
};

use super::*;
use crate::image::digest;

const ISSUER: &str = "https://token.actions.githubusercontent.com";
const MATERIAL: &str = "/verificationMaterial";
const ENTRY: &str = "/verificationMaterial/tlogEntries/0";

/// Verifies a bundle of `digest` as a user of the trusted root does.
fn verify(
    trusted_root: &str,
    bundle: &Value,
    digest: &str,
    policy: &impl Policy,
) -> Result<VerificationResult, String> {
    let trusted_root = TrustedRoot::from_json(trusted_root).expect("a trusted root");
    let verifier = Verifier::new(&trusted_root).expect("authorities and logs");
    let bundle = Bundle::from_json(&bundle.to_string()).map_err(|error| error.to_string())?;
    let digest = Sha256Hash::from_hex(&digest["sha256:".len()..]).expect("a digest");
    let verified = verifier.verify(digest, &bundle, policy);
    verified.map_err(|error| error.to_string())
}

/// Both kinds of authority, with what is to be asked of their bundles.
fn authorities() -> [(Authority, VerificationPolicy); 2] {
    let policy = || {
        VerificationPolicy::any_identity()
            .require_issuer(ISSUER)
            .skip_sct()
    };
    [
        (Authority::new(), policy()),
        (Authority::without_log(), policy().skip_tlog_unsafe()),
    ]
}

#[test]
fn an_attestation_verifies_and_its_certificate_names_the_workflow() {
    let image = digest(b"image");
    for (authority, policy) in authorities() {
        let root = authority.trusted_root();
        let bundle = authority.attest(&Attestation::of(&image));
        let verified = verify(&root, &bundle, &image, &policy).expect("a valid bundle");
        assert_eq!(verified.tlog_verified(), policy.verifies_tlog());
        let workflow = "https://github.com/acme/api/.github/workflows/release.yml@refs/tags/v1.2.3";
        assert_eq!(verified.identity().map(|it| it.as_str()), Some(workflow));
        let claims = &verified.certificate().expect("a certificate").ci_claims;
        for (claim, expected) in [
            (&claims.build_signer_uri, workflow),
            (&claims.build_config_uri, workflow),
            (&claims.runner_environment, "github-hosted"),
            (&claims.source_repository_uri, "https://github.com/acme/api"),
            (&claims.source_repository_ref, "refs/tags/v1.2.3"),
            (&claims.source_repository_identifier, "245765716"),
            (
                &claims.source_repository_owner_uri,
                "https://github.com/acme",
            ),
            (&claims.source_repository_owner_identifier, "21031067"),
            (
                &claims.run_invocation_uri,
                "https://github.com/acme/api/actions/runs/1/attempts/1",
            ),
            (&claims.source_repository_visibility_at_signing, "public"),
        ] {
            assert_eq!(claim.as_deref(), Some(expected));
        }
    }
}

#[test]
fn a_test_changes_what_is_attested_and_by_whom() {
    let (authority, policy) = (Authority::new(), authorities()[0].1.clone());
    let [first, second, other] = ["a", "b", "c"].map(|name| digest(name.as_bytes()));
    let bundle = authority.attest(&Attestation {
        subjects: vec![first.clone(), second.clone()],
        signer: Some("acme/workflows/.github/workflows/build.yml@refs/heads/main".into()),
        claims: vec![(11, None), (14, Some("refs/heads/fork".into()))],
        ..Attestation::default()
    });
    let verify = |digest: &str| verify(&authority.trusted_root(), &bundle, digest, &policy);
    for digest in [&first, &second] {
        let verified = verify(digest).expect("a valid bundle");
        let claims = &verified.certificate().expect("a certificate").ci_claims;
        let signer =
            "https://github.com/acme/workflows/.github/workflows/build.yml@refs/heads/main";
        assert_eq!(claims.build_signer_uri.as_deref(), Some(signer));
        assert_eq!(claims.runner_environment, None);
        let reference = claims.source_repository_ref.as_deref();
        assert_eq!(reference, Some("refs/heads/fork"));
    }
    assert!(verify(&other).is_err());
}

#[test]
fn nothing_of_an_attestation_can_be_changed() {
    let image = digest(b"image");
    let of_both = [
        "/dsseEnvelope/payload".to_owned(),
        "/dsseEnvelope/payloadType".to_owned(),
        "/dsseEnvelope/signatures/0/sig".to_owned(),
        format!("{MATERIAL}/certificate/rawBytes"),
    ];
    let of_log = [
        "logId/keyId",
        "integratedTime",
        "inclusionPromise/signedEntryTimestamp",
        "inclusionProof/rootHash",
        "inclusionProof/hashes/0",
        "inclusionProof/checkpoint/envelope",
        "canonicalizedBody",
    ]
    .map(|name| format!("{ENTRY}/{name}"));
    let timestamp =
        format!("{MATERIAL}/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp");
    let own = [of_log.to_vec(), vec![timestamp]];
    for ((authority, policy), own) in authorities().into_iter().zip(own) {
        let root = authority.trusted_root();
        let bundle = authority.attest(&Attestation::of(&image));
        verify(&root, &bundle, &image, &policy).expect("a valid bundle");
        for pointer in of_both.iter().chain(&own) {
            let changed = flipped(&bundle, pointer);
            let verified = verify(&root, &changed, &image, &policy);
            assert!(verified.is_err(), "{pointer} is not protected");
        }
        let other = Authority::new().trusted_root();
        assert!(verify(&other, &bundle, &image, &policy).is_err());
    }
}

#[test]
fn the_log_signs_the_checkpoint_and_its_own_signature_is_looked_at() {
    let image = digest(b"image");
    let (authority, policy) = (Authority::new(), &authorities()[0].1);
    let mut bundle = authority.attest(&Attestation::of(&image));
    let checkpoint = format!("{ENTRY}/inclusionProof/checkpoint/envelope");
    let checkpoint = bundle.pointer_mut(&checkpoint).expect("a checkpoint");
    let text = checkpoint.as_str().expect("a text").to_owned();
    let (before, signature) = text.trim_end().rsplit_once(' ').expect("a signature");
    let mut signature = STANDARD.decode(signature).expect("base64");
    *signature.last_mut().expect("bytes") ^= 1;
    let forged = format!("{before} {}\n", STANDARD.encode(signature));
    for changed in [text.replace("\n2\n", "\n3\n"), forged] {
        assert_ne!(changed, text);
        *bundle
            .pointer_mut(&format!("{ENTRY}/inclusionProof/checkpoint/envelope"))
            .expect("a checkpoint") = changed.into();
        let verified = verify(&authority.trusted_root(), &bundle, &image, policy);
        let error = verified.expect_err("a forged checkpoint");
        assert!(error.contains("heckpoint"), "{error}");
    }
}

#[test]
fn a_signature_counts_only_while_its_certificate_is_valid() {
    let image = digest(b"image");
    let signed_at = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    let minute = Duration::from_secs(60);
    for (authority, policy) in authorities() {
        for (recorded_at, valid) in [
            (signed_at, true),
            (signed_at + 9 * minute, true),
            (signed_at + 11 * minute, false),
            (signed_at - minute, false),
        ] {
            let bundle = authority.attest(&Attestation {
                signed_at,
                recorded_at: Some(recorded_at),
                ..Attestation::of(&image)
            });
            let verified = verify(&authority.trusted_root(), &bundle, &image, &policy);
            assert_eq!(verified.is_ok(), valid, "{verified:?}");
        }
    }
}

/// Every kind of key, with the algorithm that its signatures are of.
fn keys() -> [(Key, &'static dyn VerificationAlgorithm); 5] {
    [
        (Key::p256(), &signature::ECDSA_P256_SHA256_ASN1),
        (Key::p384(), &signature::ECDSA_P384_SHA384_ASN1),
        (Key::p384_with_sha256(), &signature::ECDSA_P384_SHA256_ASN1),
        (Key::rsa(), &signature::RSA_PKCS1_2048_8192_SHA256),
        (Key::ed25519(), &signature::ED25519),
    ]
}

/// The bytes between the lines that begin and end a PEM document.
fn der(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).expect("base64")
}

#[test]
fn a_key_signs_the_payload_of_cosign() {
    let image = digest(b"image");
    for (key, algorithm) in keys() {
        let (mut payload, signature) = key.sign_payload(&image);
        let mut signature = STANDARD.decode(signature).expect("base64");
        let public_key = UnparsedPublicKey::new(algorithm, der(&key.pem()));
        let verified = public_key.verify(&payload, &signature);
        verified.unwrap_or_else(|_| panic!("{algorithm:?}"));
        let critical = &serde_json::from_slice::<Value>(&payload).expect("JSON")["critical"];
        assert_eq!(critical["image"]["docker-manifest-digest"], image);
        payload[40] ^= 1;
        assert!(public_key.verify(&payload, &signature).is_err());
        payload[40] ^= 1;
        let middle = signature.len() / 2;
        signature[middle] ^= 1;
        assert!(public_key.verify(&payload, &signature).is_err());
    }
}

#[test]
fn a_key_signs_statements_in_bundles() {
    let image = digest(b"image");
    for (key, algorithm) in keys() {
        let bundle = key.bundle(&image, IMAGE_SIGNATURE);
        assert!(bundle["verificationMaterial"]["publicKey"]["hint"].is_string());
        let public_key = UnparsedPublicKey::new(algorithm, der(&key.pem()));
        let is_signed = |bundle: &Value| {
            let bundle = Bundle::from_json(&bundle.to_string()).expect("a bundle");
            let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
                panic!("no envelope");
            };
            let signature = envelope.signature.sig.as_bytes();
            public_key.verify(&envelope.pae(), signature).is_ok()
        };
        assert!(is_signed(&bundle), "{algorithm:?}");
        for pointer in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig"] {
            assert!(!is_signed(&flipped(&bundle, pointer)), "{pointer}");
        }
        let statement = bundle["dsseEnvelope"]["payload"].as_str().expect("base64");
        let statement = STANDARD.decode(statement).expect("base64");
        let statement: Value = serde_json::from_slice(&statement).expect("JSON");
        assert_eq!(statement["predicateType"], IMAGE_SIGNATURE);
        let subject = &statement["subject"][0]["digest"]["sha256"];
        assert_eq!(*subject, image["sha256:".len()..]);
    }
}

#[test]
fn the_bundle_of_a_key_verifies_as_a_whole_when_it_was_recorded() {
    let image = digest(b"image");
    let policy = |key: &Key| PublicKeyVerificationPolicy::new(DerPublicKey::new(der(&key.pem())));
    for (key, algorithm) in keys() {
        // The verifier expects SHA-384 of every P-384 key.
        let is_known = !key.sha256;
        for (authority, has_log) in [(Authority::new(), true), (Authority::without_log(), false)] {
            let root = authority.trusted_root();
            let policy = |key: &Key| match has_log {
                true => policy(key),
                false => policy(key).skip_tlog_unsafe(),
            };
            let bundle = authority.record_key(&key, &image, IMAGE_SIGNATURE);
            let verified = verify(&root, &bundle, &image, &policy(&key));
            assert_eq!(verified.is_ok(), is_known, "{algorithm:?}: {verified:?}");
            let of_other = verify(&root, &bundle, &image, &policy(&Key::p256()));
            assert!(of_other.is_err());
            assert!(verify(&root, &bundle, &digest(b"other"), &policy(&key)).is_err());
        }
        // Without a record there is nothing for it to verify.
        let bundle = key.bundle(&image, IMAGE_SIGNATURE);
        let policy = policy(&key).skip_tlog_unsafe();
        let root = Authority::new().trusted_root();
        assert!(verify(&root, &bundle, &image, &policy).is_err());
    }
}
