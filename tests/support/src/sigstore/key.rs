//! Keys that their owner keeps, as `cosign generate-key-pair` and key management services make them.

use aws_lc_rs::digest::{Digest, SHA384};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use serde_json::{Value, json};

use super::envelope::{self, Envelope};
use super::{bundle, public_key, sha256, sign};

/// A private key with its public one.
pub struct Key {
    pair: KeyPair,
    /// For a P-384 key: it signs with SHA-256.
    pub(super) sha256: bool,
}

impl Key {
    /// ECDSA on the curve P-256, which is what cosign generates.
    pub fn p256() -> Key {
        Key::generate(&PKCS_ECDSA_P256_SHA256)
    }

    /// ECDSA on the curve P-384, with SHA-384.
    pub fn p384() -> Key {
        Key::generate(&PKCS_ECDSA_P384_SHA384)
    }

    /// ECDSA on the curve P-384, with SHA-256: cosign up to version 2 signs so with every ECDSA key.
    pub fn p384_with_sha256() -> Key {
        Key {
            sha256: true,
            ..Key::p384()
        }
    }

    /// RSA of 2048 bits, PKCS #1 version 1.5 with SHA-256.
    pub fn rsa() -> Key {
        Key::generate(&PKCS_RSA_SHA256)
    }

    /// Ed25519.
    pub fn ed25519() -> Key {
        Key::generate(&PKCS_ED25519)
    }

    fn generate(algorithm: &'static SignatureAlgorithm) -> Key {
        Key {
            pair: KeyPair::generate_for(algorithm).expect("a key"),
            sha256: false,
        }
    }

    /// The public key, as in `cosign.pub`.
    pub fn pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The signature of any bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        if !self.sha256 {
            return sign(&self.pair, message);
        }
        // AWS-LC's P-384 keys sign digests of 48 bytes only. ECDSA takes a digest as a number, so that zeros before it change nothing.
        // (FIPS 186-5, 6.4.1)
        let digest = [&[0; 16], &sha256(message)[..]].concat();
        let digest = Digest::import_less_safe(&digest, &SHA384).expect("48 bytes");
        let pair = self.pair.serialized_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pair);
        let signature = pair.expect("a P-384 key").sign_digest(&digest);
        signature.expect("a signature").as_ref().to_vec()
    }

    /// The payload that `cosign sign` up to version 2 signs, and its signature in base64.
    pub fn sign_payload(&self, digest: &str) -> (Vec<u8>, String) {
        let payload = image_payload(digest);
        let signature = STANDARD.encode(self.sign(&payload));
        (payload, signature)
    }

    /// The bundle that `cosign sign` (predicate [`super::IMAGE_SIGNATURE`]) and `cosign attest` of version 3 make when they use neither
    /// a log nor a timestamp authority; with one, it is [`super::Authority::record_key`].
    pub fn bundle(&self, digest: &str, predicate_type: &str) -> Value {
        bundle(self.material(), &self.envelope(digest, predicate_type))
    }

    /// Which key it is.
    pub(super) fn material(&self) -> Value {
        let hint = STANDARD.encode(sha256(&public_key(&self.pair)));
        json!({"publicKey": {"hint": hint}})
    }

    pub(super) fn envelope(&self, digest: &str, predicate_type: &str) -> Envelope {
        let subject = json!({"digest": envelope::digest_set(digest), "annotations": {}});
        let statement = envelope::statement(vec![subject], predicate_type, &json!({}));
        Envelope::sign(statement, |message| self.sign(message))
    }
}

/// What `cosign sign` up to version 2 signs for an image. (cosign, `specs/SIGNATURE_SPEC.md`)
pub(crate) fn image_payload(digest: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": "ghcr.io/acme/api"},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}
