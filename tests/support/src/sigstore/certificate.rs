//! A certificate authority: for signers (Fulcio) and for timestamp authorities.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

use super::seconds;

/// A root certificate, and its key.
pub(super) struct CertificateAuthority {
    name: &'static str,
    root: CertifiedIssuer<'static, KeyPair>,
}

impl CertificateAuthority {
    pub(super) fn new(name: &'static str) -> CertificateAuthority {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.not_before = date_time_ymd(2021, 1, 1);
        parameters.not_after = date_time_ymd(2100, 1, 1);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let root = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        CertificateAuthority { name, root }
    }

    /// Certifies `key`.
    pub(super) fn issue(&self, parameters: &CertificateParams, key: &KeyPair) -> Certificate {
        let certificate = parameters.signed_by(key, &self.root);
        certificate.expect("a certificate")
    }

    /// As a trusted root names it, with the certificates below the root.
    pub(super) fn trusted(&self, below: &[&Certificate]) -> Value {
        let root = self.root.as_ref();
        let chain = below.iter().copied().chain([root]);
        let chain: Vec<_> = chain
            .map(|certificate| json!({"rawBytes": STANDARD.encode(certificate.der())}))
            .collect();
        json!({
            "subject": {"organization": "support", "commonName": self.name},
            "uri": format!("https://{}.example", self.name),
            "certChain": {"certificates": chain},
            "validFor": {"start": "2021-01-01T00:00:00Z"},
        })
    }
}

/// Of a certificate without a subject that is valid for so long from `start` on.
pub(super) fn parameters(start: SystemTime, valid: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds(start));
    parameters.not_after = parameters.not_before + valid;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    parameters
}
