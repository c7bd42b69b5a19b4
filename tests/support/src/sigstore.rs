//! Signatures and attestations that really verify, made with authorities and keys of our own.
//!
//! An [`Authority`] is a Sigstore instance: it certifies who signed, and when. A [`Key`] is what `cosign generate-key-pair` makes.
//! Both give Sigstore bundles; `Image::sigstore_bundle` and `Image::cosign_signatures` lay them out in a registry.
//! (sigstore/protobuf-specs, `protos/sigstore_bundle.proto` and `protos/sigstore_trustroot.proto`)

mod attestation;
mod certificate;
mod envelope;
mod key;
mod log;
#[cfg(test)]
mod tests;
mod timestamp;

pub use attestation::Attestation;
pub use key::Key;
pub(crate) use key::image_payload;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use certificate::CertificateAuthority;
use envelope::Envelope;
use log::Log;
use timestamp::TimestampAuthority;

/// The type of a bundle, and of the OCI artifact and the layer that hold it. (cosign, `specs/BUNDLE_SPEC.md`)
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What `actions/attest-build-provenance` states of an image.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// What `cosign sign` states of an image from version 3 on. (cosign, `cmd/cosign/cli/sign/sign.go`)
pub const IMAGE_SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

/// How long a certificate is valid. (sigstore/fulcio, `docs/how-certificate-issuing-works.md`)
const TEN_MINUTES: Duration = Duration::from_secs(10 * 60);

/// A Sigstore instance.
pub struct Authority {
    certificates: CertificateAuthority,
    witness: Witness,
}

/// Who says when a signature was made.
enum Witness {
    Log(Log),
    Timestamps(Box<TimestampAuthority>),
}

impl Authority {
    /// An instance with a transparency log (Rekor, version 1), as the public one that attests for public repositories.
    /// It has no log of certificates, so certificates have no timestamps of such a log.
    #[expect(
        clippy::new_without_default,
        reason = "each authority has keys of its own, so there is no default one"
    )]
    pub fn new() -> Authority {
        Authority::with(Witness::Log(Log::new()))
    }

    /// An instance with a timestamp authority (RFC 3161) in place of a log, as GitHub's own one that attests for private repositories.
    /// (GitHub documentation, "Verifying attestations offline")
    pub fn without_log() -> Authority {
        Authority::with(Witness::Timestamps(Box::new(TimestampAuthority::new())))
    }

    fn with(witness: Witness) -> Authority {
        Authority {
            certificates: CertificateAuthority::new("fulcio"),
            witness,
        }
    }

    /// What a verifier has to trust, as one line of JSON.
    pub fn trusted_root(&self) -> String {
        let (logs, timestamp_authorities) = match &self.witness {
            Witness::Log(log) => (vec![log.trusted()], vec![]),
            Witness::Timestamps(authority) => (vec![], vec![authority.trusted()]),
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": logs,
            "certificateAuthorities": [self.certificates.trusted(&[])],
            "ctlogs": [],
            "timestampAuthorities": timestamp_authorities,
        })
        .to_string()
    }

    /// The bundle of an attestation: it is signed with a new key, which a certificate binds to the workflow.
    pub fn attest(&self, attestation: &Attestation) -> Value {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = certificate::parameters(attestation.signed_at, TEN_MINUTES);
        parameters.subject_alt_names = vec![attestation.subject_alternative_name()];
        parameters.custom_extensions = attestation.extensions();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let certificate = self.certificates.issue(&parameters, &key);

        let envelope = Envelope::sign(attestation.statement(), |message| sign(&key, message));
        let material = json!({"certificate": {"rawBytes": STANDARD.encode(certificate.der())}});
        let recorded_at = attestation.recorded_at.unwrap_or(attestation.signed_at);
        self.record(material, &envelope, &certificate.pem(), recorded_at)
    }

    /// As [`Key::bundle`], recorded by the log or the timestamp authority an hour ago.
    pub fn record_key(&self, key: &Key, digest: &str, predicate_type: &str) -> Value {
        let envelope = key.envelope(digest, predicate_type);
        let recorded_at = SystemTime::now() - Duration::from_secs(60 * 60);
        self.record(key.material(), &envelope, &key.pem(), recorded_at)
    }

    /// The bundle of an envelope, with what proves that it existed at that time. `verifier` is the certificate or public key in PEM.
    fn record(
        &self,
        mut material: Value,
        envelope: &Envelope,
        verifier: &str,
        recorded_at: SystemTime,
    ) -> Value {
        match &self.witness {
            Witness::Log(log) => {
                let entry = log.entry(envelope, verifier, seconds(recorded_at));
                material["tlogEntries"] = json!([entry]);
            }
            Witness::Timestamps(authority) => {
                let response = authority.timestamp(envelope.signature(), recorded_at);
                let timestamp = json!({"signedTimestamp": STANDARD.encode(response)});
                material["timestampVerificationData"] = json!({"rfc3161Timestamps": [timestamp]});
            }
        }
        bundle(material, envelope)
    }
}

/// The bundle with one bit changed, in the middle of what is at this JSON pointer: a base64 string, or any other.
pub fn flipped(bundle: &Value, pointer: &str) -> Value {
    let mut changed = bundle.clone();
    let value = changed
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("the bundle has no {pointer}"));
    let text = value.as_str().expect("a string");
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    *value = match STANDARD.decode(text) {
        Ok(bytes) => STANDARD.encode(flip(bytes)),
        Err(_) => String::from_utf8(flip(text.into())).expect("ASCII in the middle"),
    }
    .into();
    changed
}

fn bundle(material: Value, envelope: &Envelope) -> Value {
    json!({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope.json()})
}

fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(message).expect("a signature")
}

/// The public key as X.509 has it (SubjectPublicKeyInfo).
fn public_key(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("32 bytes")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs()
}
