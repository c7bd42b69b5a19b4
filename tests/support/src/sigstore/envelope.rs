//! Signed statements: in-toto statements in DSSE envelopes.
//! (in-toto/attestation, `spec/v1/statement.md`; secure-systems-lab/dsse, `protocol.md`)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A digest as a statement has it.
pub(super) fn digest_set(digest: &str) -> Value {
    let (algorithm, hexadecimal) = digest.split_once(':').expect("an algorithm and digits");
    json!({algorithm: hexadecimal})
}

/// The bytes of a statement about these subjects.
pub(super) fn statement(subjects: Vec<Value>, predicate_type: &str, predicate: &Value) -> Vec<u8> {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": predicate_type,
        "predicate": predicate,
    })
    .to_string()
    .into_bytes()
}

/// A statement, and the signature over it and its type.
pub(super) struct Envelope {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Envelope {
    pub(super) fn sign(payload: Vec<u8>, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Envelope {
        let head = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), payload.len());
        let signature = sign(&[head.as_bytes(), &payload].concat());
        Envelope { payload, signature }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "payload": STANDARD.encode(&self.payload),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": STANDARD.encode(&self.signature)}],
        })
    }
}
