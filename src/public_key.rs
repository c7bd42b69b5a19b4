//! A public key, as `cosign public-key` or `aws kms get-public-key` gives it, and what it signed.

use aws_lc_rs::rsa::PublicEncryptingKey;
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
        let expected = "expected a public key in PEM (`-----BEGIN PUBLIC KEY-----`) for ECDSA on P-256 or P-384, RSA of 2,048 bits or more, or Ed25519";
        let expected = || expected.to_owned();
        // Of several blocks only the first would count.
        if pem.len() > LENGTH_LIMIT || pem.matches("-----BEGIN").count() != 1 {
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
            // A shorter one is refused here.
            KeyAlgorithm::Rsa if PublicEncryptingKey::from_der(der.as_bytes()).is_ok() => {
                &[SigningScheme::RsaPkcs1Sha256]
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgL7YSyOombezWPxfWi8imtKUZIh/\n\
        XStK4OApj4hJqIp12HhRdBI9TEaDeYtwnhg9Az5tSKqrR4ZtEFzu10DBNg==\n\
        -----END PUBLIC KEY-----";
    const P521: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAload6jWC1CZpjEHN6GpJiAnhnL0y\n\
        TNBc369aqOQ4KAErY0TkyjQMq4BtRVJT/szMEvH0fvElQGy0+bWeMYYOk7IA/dxU\n\
        CBHnIm1pQUiRovN+WjLJQEsmuDZj0QX1Wub2Gmwpi5kFNqBoRjImHqeApbmUfFzP\n\
        6xPc/IW3ZC/7fIAcD2s=\n\
        -----END PUBLIC KEY-----";
    const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCn7cCsOVfabkK6ZHmtlrnWeKU6\n\
        4P+QHze5dwVVlDIt5Zite4VZys7T9+q+NT4nMkGgOmKdDHhPeuPv5mQyZWP9Ddud\n\
        VEcxOf0BkuHlwsbaqx6aqXVI5Ka673i12zBGcdeaRwBO9bzmH9bZxSKGDAgY68US\n\
        k78zwVa6AywwyuHfPwIDAQAB\n\
        -----END PUBLIC KEY-----";

    #[test]
    fn ends_of_lines_and_space_around_a_key_do_not_matter() {
        let fingerprint = PublicKey::parse(P256).unwrap().fingerprint();
        for text in [
            format!("{P256}\n"),
            format!("\n {P256} \n\n"),
            P256.replace('\n', "\r\n"),
        ] {
            assert_eq!(
                PublicKey::parse(&text).unwrap().fingerprint(),
                fingerprint,
                "{text:?}"
            );
        }
    }

    /// Nothing is believed of a text that is not one key of a kind that can be relied on; and none of it is quoted.
    #[test]
    fn anything_but_one_strong_public_key_is_refused() {
        let relabelled = |label: &str| P256.replace("PUBLIC KEY", label);
        for text in [
            String::new(),
            "{}".to_owned(),
            P521.to_owned(),
            RSA_1024.to_owned(),
            relabelled("PRIVATE KEY"),
            relabelled("CERTIFICATE"),
            relabelled("RSA PUBLIC KEY"),
            format!("{P256}\n{P256}"),
            format!("{P256}\n{}", relabelled("PRIVATE KEY")),
            P256.replacen("MFkw", "MFkx", 1),
            P256.to_lowercase(),
            format!("{P256}{}", " ".repeat(LENGTH_LIMIT)),
        ] {
            let refused = PublicKey::parse(&text).expect_err(&text);
            assert!(
                refused.starts_with("expected a public key in PEM"),
                "{refused}"
            );
            assert!(!refused.contains("MFkw"), "{refused}");
        }
    }
}
