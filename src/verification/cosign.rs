//! cosign signatures by a key. No transparency log is asked for: whoever names a key trusts the key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sigstore_verify::types::{Bundle, SignatureContent, Statement};

use super::{Flaw, Subject, Verified, shown};
use crate::public_key::PublicKey;

/// (cosign's SIGNATURE_SPEC.md, "Simple Signing")
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// What a bundle of cosign's is about that is a signature of an image, and no attestation of something else about it.
/// (cosign's BUNDLE_SPEC.md)
const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

const STATEMENT: &str = "application/vnd.in-toto+json";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The form that cosign keeps under the tag `sha256-….sig`.
pub(super) fn verify_signature(
    key: &PublicKey,
    payload: &[u8],
    signature: &str,
    subject: Subject<'_>,
) -> Result<Verified, Flaw> {
    let signature = STANDARD.decode(signature.trim());
    let signature = signature.map_err(|_| "its signature is not base64".to_owned())?;
    expect_signed(key, payload, &signature)?;
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|_| "what is signed is not cosign's payload".to_owned())?;
    let Critical { image, kind } = payload.critical;
    if kind != PAYLOAD_TYPE {
        let reason = format!(
            "what is signed is {:?}, and no {PAYLOAD_TYPE:?}",
            shown(&kind)
        );
        return Err(reason.into());
    }
    if image.digest != subject.digest.to_string() {
        let reason = format!(
            "it is a signature of another image: {}",
            shown(&image.digest)
        );
        return Err(reason.into());
    }
    Ok(verified(key))
}

/// The form of a Sigstore bundle.
pub(super) fn verify_bundle(
    key: &PublicKey,
    bundle: &[u8],
    subject: Subject<'_>,
) -> Result<Verified, Flaw> {
    let bundle = read_bundle(bundle)?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        let reason = "it is a signature of a file, and not of an image";
        return Err(Flaw::another_kind(reason));
    };
    if bundle.signing_certificate().is_some() {
        let reason = "it is signed with a certificate, and not with a key";
        return Err(Flaw::another_kind(reason));
    }
    expect_signed(key, &envelope.pae(), envelope.signature.sig.as_bytes())?;
    if envelope.payload_type != STATEMENT {
        let signed = shown(&envelope.payload_type);
        return Err(format!("what is signed is {signed:?}, and no in-toto statement").into());
    }
    let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
        .map_err(|_| "what is signed is not an in-toto statement".to_owned())?;
    if statement.predicate_type != SIGNATURE_PREDICATE {
        let attested = shown(&statement.predicate_type);
        let reason =
            format!("the key has attested {attested:?}, which is no signature of the image");
        return Err(Flaw::another_kind(reason));
    }
    expect_subject(&statement, subject)?;
    Ok(verified(key))
}

pub(super) fn read_bundle(bundle: &[u8]) -> Result<Bundle, String> {
    let text = std::str::from_utf8(bundle).map_err(|_| "the bundle is not text".to_owned())?;
    Bundle::from_json(text)
        .map_err(|error| format!("it is no Sigstore bundle: {}", shown(&error.to_string())))
}

/// One of the statement's subjects is the image.
pub(super) fn expect_subject(statement: &Statement, subject: Subject<'_>) -> Result<(), String> {
    let expected = subject.digest.encoded();
    let mut subjects = statement.subject.iter();
    let is_image = |digest: &sigstore_verify::types::Sha256Hash| digest.to_hex() == expected;
    match subjects.any(|subject| subject.digest.sha256.as_ref().is_some_and(is_image)) {
        true => Ok(()),
        false => Err("it is about another image".to_owned()),
    }
}

/// What another key has signed keeps nobody from signing with this one.
fn expect_signed(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<(), Flaw> {
    match key.has_signed(message, signature) {
        true => Ok(()),
        false => Err(Flaw::another_kind("it was not made with the key")),
    }
}

fn verified(key: &PublicKey) -> Verified {
    Verified::CosignKey {
        key: key.fingerprint(),
    }
}
