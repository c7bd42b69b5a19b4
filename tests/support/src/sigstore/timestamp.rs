//! A timestamp authority. (RFC 3161; RFC 5652 for the signature; RFC 5816 for the signer's certificate)

use std::time::{Duration, SystemTime};

use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use der::asn1::{GeneralizedTime, ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Decode, Encode, Sequence, Tag};
use rcgen::{Certificate, CustomExtension, DnType, KeyPair};
use serde_json::Value;
use x509_cert::attr::Attribute;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::certificate::{self, CertificateAuthority};
use super::{seconds, sha256, sign};

const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const ECDSA_WITH_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const TIMESTAMP_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const SIGNING_CERTIFICATE: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
/// Sigstore's policy for timestamps. (sigstore/timestamp-authority)
const POLICY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.2");

const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
const EXTENDED_KEY_USAGE: [u64; 4] = [2, 5, 29, 37];

/// A key that is certified for timestamps, and by whom.
pub(super) struct TimestampAuthority {
    certificates: CertificateAuthority,
    certificate: Certificate,
    key: KeyPair,
}

/// `TimeStampResp`.
#[derive(Sequence)]
struct Response {
    status: Status,
    token: ContentInfo,
}

/// `PKIStatusInfo`.
#[derive(Sequence)]
struct Status {
    /// 0 is "granted".
    status: u8,
}

/// `TSTInfo`.
#[derive(Sequence)]
struct TimestampInfo {
    version: u8,
    policy: ObjectIdentifier,
    imprint: Imprint,
    serial_number: u8,
    time: GeneralizedTime,
}

/// `MessageImprint`.
#[derive(Sequence)]
struct Imprint {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

/// `SigningCertificateV2`.
#[derive(Sequence)]
struct SigningCertificate {
    certificates: Vec<CertificateDigest>,
}

/// `ESSCertIDv2`; the digest is SHA-256 where none is named.
#[derive(Sequence)]
struct CertificateDigest {
    digest: OctetString,
}

impl TimestampAuthority {
    pub(super) fn new() -> TimestampAuthority {
        let certificates = CertificateAuthority::new("timestamp");
        let key = KeyPair::generate().expect("a key");
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let start = SystemTime::UNIX_EPOCH + century / 2;
        let mut parameters = certificate::parameters(start, century);
        let subject = &mut parameters.distinguished_name;
        subject.push(DnType::CommonName, "timestamp signer");
        parameters.custom_extensions = vec![usage()];
        TimestampAuthority {
            certificate: certificates.issue(&parameters, &key),
            certificates,
            key,
        }
    }

    /// As a trusted root names it.
    pub(super) fn trusted(&self) -> Value {
        self.certificates.trusted(&[&self.certificate])
    }

    /// The signed answer that `message` existed at `time`.
    pub(super) fn timestamp(&self, message: &[u8], time: SystemTime) -> Vec<u8> {
        self.response(message, time).expect("a timestamp in DER")
    }

    fn response(&self, message: &[u8], time: SystemTime) -> der::Result<Vec<u8>> {
        let info = TimestampInfo {
            version: 1,
            policy: POLICY,
            imprint: Imprint {
                algorithm: algorithm(SHA_256),
                digest: OctetString::new(sha256(message))?,
            },
            serial_number: 1,
            time: GeneralizedTime::from_unix_duration(Duration::from_secs(seconds(time)))?,
        }
        .to_der()?;
        let signed = SignedData {
            version: CmsVersion::V3,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(SHA_256)])?,
            signer_infos: SignerInfos(SetOfVec::try_from(vec![self.signature(&info)?])?),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: TIMESTAMP_INFO,
                econtent: Some(Any::new(Tag::OctetString, info)?),
            },
            certificates: None,
            crls: None,
        };
        let token = ContentInfo {
            content_type: SIGNED_DATA,
            content: Any::encode_from(&signed)?,
        };
        let status = Status { status: 0 };
        Response { status, token }.to_der()
    }

    fn signature(&self, info: &[u8]) -> der::Result<SignerInfo> {
        let certificate = self.certificate.der();
        let signing_certificate = SigningCertificate {
            certificates: vec![CertificateDigest {
                digest: OctetString::new(sha256(certificate))?,
            }],
        };
        let attributes = SetOfVec::try_from(vec![
            attribute(CONTENT_TYPE, &TIMESTAMP_INFO)?,
            attribute(MESSAGE_DIGEST, &OctetString::new(sha256(info))?)?,
            attribute(SIGNING_CERTIFICATE, &signing_certificate)?,
        ])?;
        let certificate = x509_cert::Certificate::from_der(certificate)?.tbs_certificate;
        Ok(SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: certificate.issuer,
                serial_number: certificate.serial_number,
            }),
            digest_alg: algorithm(SHA_256),
            signature_algorithm: algorithm(ECDSA_WITH_SHA_256),
            signature: OctetString::new(sign(&self.key, &attributes.to_der()?))?,
            signed_attrs: Some(attributes),
            unsigned_attrs: None,
        })
    }
}

/// The extended key usage, which must be this alone and critical. (RFC 3161, 2.3)
fn usage() -> CustomExtension {
    let usages = vec![TIME_STAMPING].to_der().expect("identifiers in DER");
    let mut extension = CustomExtension::from_oid_content(&EXTENDED_KEY_USAGE, usages);
    extension.set_criticality(true);
    extension
}

fn algorithm(identifier: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned {
        oid: identifier,
        parameters: None,
    }
}

fn attribute(
    identifier: ObjectIdentifier,
    value: &(impl der::EncodeValue + der::Tagged),
) -> der::Result<Attribute> {
    Ok(Attribute {
        oid: identifier,
        values: SetOfVec::try_from(vec![Any::encode_from(value)?])?,
    })
}
