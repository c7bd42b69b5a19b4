//! A transparency log: Rekor, version 1. (sigstore/rekor, `types.md` and `pkg/types/dsse`; RFC 6962, 2.1;
//! transparency-dev/formats, `log/README.md`)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::envelope::Envelope;
use super::{hexadecimal, public_key, sha256, sign};

const HOST: &str = "rekor.example";

/// Where an entry is in the log as a whole. Its place in the tree is another, since Rekor's log consists of several trees.
const LOG_INDEX: u64 = 25_579;

/// Signs every entry as the second one of a tree of two.
pub(super) struct Log {
    key: KeyPair,
}

impl Log {
    pub(super) fn new() -> Log {
        Log {
            key: KeyPair::generate().expect("a key"),
        }
    }

    fn id(&self) -> [u8; 32] {
        sha256(&public_key(&self.key))
    }

    /// As a trusted root names it.
    pub(super) fn trusted(&self) -> Value {
        json!({
            "baseUrl": format!("https://{HOST}"),
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(public_key(&self.key)),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2021-01-01T00:00:00Z"},
            },
            "logId": {"keyId": STANDARD.encode(self.id())},
        })
    }

    /// The entry of an envelope, and the proofs that the log has it. `verifier` is the certificate or public key in PEM, `time` in
    /// seconds since 1970.
    pub(super) fn entry(&self, envelope: &Envelope, verifier: &str, time: u64) -> Value {
        let hash =
            |bytes: &[u8]| json!({"algorithm": "sha256", "value": hexadecimal(&sha256(bytes))});
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": hash(envelope.json().to_string().as_bytes()),
                "payloadHash": hash(envelope.payload()),
                "signatures": [{
                    "signature": STANDARD.encode(envelope.signature()),
                    "verifier": STANDARD.encode(verifier),
                }],
            },
        })
        .to_string();
        json!({
            "logIndex": LOG_INDEX.to_string(),
            "logId": {"keyId": STANDARD.encode(self.id())},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": time.to_string(),
            "inclusionPromise": {"signedEntryTimestamp": STANDARD.encode(self.promise(&body, time))},
            "inclusionProof": self.proof(&body),
            "canonicalizedBody": STANDARD.encode(&body),
        })
    }

    /// The signature over the entry and its time, in canonical JSON: sorted names, no white space. (RFC 8785)
    fn promise(&self, body: &str, time: u64) -> Vec<u8> {
        let (body, id) = (STANDARD.encode(body), hexadecimal(&self.id()));
        let signed = format!(
            r#"{{"body":"{body}","integratedTime":{time},"logID":"{id}","logIndex":{LOG_INDEX}}}"#
        );
        sign(&self.key, signed.as_bytes())
    }

    /// That a tree with a signed root has the entry. Leaves are hashed after a byte 0, nodes after a byte 1.
    fn proof(&self, body: &str) -> Value {
        let first = sha256(b"\0the first entry");
        let second = sha256(&[b"\0", body.as_bytes()].concat());
        let root = sha256(&[&[1], &first[..], &second].concat());
        json!({
            "logIndex": "1",
            "treeSize": "2",
            "rootHash": STANDARD.encode(root),
            "hashes": [STANDARD.encode(first)],
            "checkpoint": {"envelope": self.checkpoint(&root)},
        })
    }

    /// The root of a tree of two, signed. The signature follows the first four bytes of the log's identifier.
    fn checkpoint(&self, root: &[u8]) -> String {
        let text = format!(
            "{HOST} - 1193050959916656506\n2\n{}\n",
            STANDARD.encode(root)
        );
        let signature = sign(&self.key, text.as_bytes());
        let signature = STANDARD.encode([&self.id()[..4], &signature].concat());
        format!("{text}\n— {HOST} {signature}\n")
    }
}
