//! A public key, as `cosign public-key` or `aws kms get-public-key` gives it, and what it signed.

use serde::{Serialize, Serializer};
use sigstore_verify::crypto::{KeyAlgorithm, SigningScheme, VerificationKey};
use sigstore_verify::types::{DerPublicKey, SignatureBytes};

use crate::manifest::Digest;

/// The longest text of a key. That of RSA with 4,096 bits has 800 bytes.
const LENGTH_LIMIT: usize = 16 * 1024;

/// An ECDSA key on P-256 or P-384, an RSA key, or an Ed25519 key.
pub struct PublicKey {
    /// SHA-256 of its `SubjectPublicKeyInfo`, by which people tell keys apart.
    fingerprint: Digest,
    /// In each of the ways in which it may have signed.
    ways: Vec<VerificationKey>,
}

impl PublicKey {
    /// Reads a key in PEM: `-----BEGIN PUBLIC KEY-----` and so on. (RFC 7468 section 13)
    ///
    /// # Errors
    /// Says what was expected, without quoting the text: it may be a private key.
    pub fn parse(pem: &str) -> Result<Self, String> {
        let expected = "expected a public key in PEM (`-----BEGIN PUBLIC KEY-----`) for ECDSA on P-256 or P-384, RSA or Ed25519";
        let expected = || expected.to_owned();
        if pem.len() > LENGTH_LIMIT {
            return Err(expected());
        }
        let der = DerPublicKey::from_pem(pem.trim()).map_err(|_| expected())?;
        let default = VerificationKey::from_spki(&der).map_err(|_| expected())?;
        let schemes: &[SigningScheme] = match default.scheme().key_algorithm() {
            KeyAlgorithm::EcdsaP256 => &[SigningScheme::EcdsaP256Sha256],
            // cosign signs with SHA-256 whatever the curve; a key in AWS KMS signs with SHA-384.
            // (cosign `LoadVerifier`; AWS KMS developer guide, "Key spec reference")
            KeyAlgorithm::EcdsaP384 => &[
                SigningScheme::EcdsaP384Sha256,
                SigningScheme::EcdsaP384Sha384,
            ],
            KeyAlgorithm::Rsa => &[SigningScheme::RsaPkcs1Sha256],
            KeyAlgorithm::Ed25519 => &[SigningScheme::Ed25519],
            _ => return Err(expected()),
        };
        let way =
            |scheme: &SigningScheme| VerificationKey::from_spki_with_scheme(&der, *scheme).ok();
        Ok(PublicKey {
            fingerprint: Digest::of(der.as_bytes()),
            ways: schemes.iter().filter_map(way).collect(),
        })
    }

    /// Whether `signature` is this key's over `message`.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let signature = SignatureBytes::from_bytes(signature);
        let mut ways = self.ways.iter();
        ways.any(|way| way.verify(message, &signature).is_ok())
    }

    /// SHA-256 of the key's DER.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PublicKey({})", self.fingerprint)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fingerprint.serialize(serializer)
    }
}
