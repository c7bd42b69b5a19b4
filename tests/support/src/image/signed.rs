//! Signatures and attestations as known signers lay them out. Those of a [`Signer`] are made up and never verify; the module
//! [`crate::sigstore`] makes real ones, for [`Image::sigstore_bundle`] and [`Image::cosign_signatures`].

use bytes::Bytes;
use serde_json::json;

use super::{Blob, Image, ImageBuilder, OCI_EMPTY, StoredManifest};
use crate::sigstore::{BUNDLE, IMAGE_SIGNATURE, PROVENANCE, image_payload};

/// cosign's payload of a signature. (cosign, `specs/SIGNATURE_SPEC.md`)
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// A signed statement. (cosign, `specs/ATTESTATION_SPEC.md`)
const DSSE: &str = "application/vnd.dsse.envelope.v1+json";
/// The annotation of a payload's layer with its signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Notary Project signatures. (notaryproject/specifications, `specs/signature-specification.md`)
const NOTATION: &str = "application/vnd.cncf.notary.signature";

/// The layout of a signer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signer {
    /// `cosign sign` up to version 2: under the tag `sha256-<digits>.sig`.
    Cosign2Signature,
    /// `cosign attest` up to version 2: under `sha256-<digits>.att`.
    Cosign2Attestation,
    /// `cosign attach sbom`: under `sha256-<digits>.sbom`.
    Cosign2Sbom,
    /// `cosign sign` and `cosign attest` of version 3: a Sigstore bundle that refers to the image.
    Cosign3,
    /// GitHub's `actions/attest` with `push-to-registry`: a Sigstore bundle that refers to the image.
    GitHub,
    /// `notation sign`: a signature that refers to the image.
    Notation,
    /// As [`Signer::Notation`], from earlier versions: the type is that of the config.
    NotationEarlier,
}

impl Signer {
    /// All of them.
    pub const ALL: [Signer; 7] = [
        Signer::Cosign2Signature,
        Signer::Cosign2Attestation,
        Signer::Cosign2Sbom,
        Signer::Cosign3,
        Signer::GitHub,
        Signer::Notation,
        Signer::NotationEarlier,
    ];

    /// The tag under which it is found, made of the digest of what is signed; none for an OCI referrer.
    pub fn tag(self, subject: &str) -> Option<String> {
        let ending = match self {
            Signer::Cosign2Signature => "sig",
            Signer::Cosign2Attestation => "att",
            Signer::Cosign2Sbom => "sbom",
            _ => return None,
        };
        Some(format!("{}.{ending}", subject.replace(':', "-")))
    }

    /// What it pushes for `subject`.
    pub fn sign(self, subject: &StoredManifest) -> Image {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "image", "digest": {"sha256": &subject.digest[7..]}}],
            "predicateType": PROVENANCE, "predicate": {"by": format!("{self:?}")},
        });
        let bundle =
            || json!({"mediaType": BUNDLE, "dsseEnvelope": {"payload": statement}}).to_string();
        match self {
            Signer::Cosign2Signature => {
                cosign_image(&[(image_payload(&subject.digest), "MEUCIQ==".to_owned())])
            }
            Signer::Cosign2Attestation => {
                let envelope = json!({"payloadType": "application/vnd.in-toto+json", "payload": statement, "signatures": []});
                let annotations = [(SIGNATURE, ""), ("predicateType", PROVENANCE)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                ImageBuilder::oci().layer_annotated(
                    DSSE,
                    Blob::bytes(envelope.to_string()),
                    annotations.into(),
                )
            }
            Signer::Cosign2Sbom => {
                let sbom = json!({"spdxVersion": "SPDX-2.3", "name": subject.digest});
                ImageBuilder::oci().layer("text/spdx+json", Blob::bytes(sbom.to_string()))
            }
            Signer::Cosign3 => bundle_artifact(subject, bundle(), IMAGE_SIGNATURE),
            Signer::GitHub => bundle_artifact(subject, bundle(), PROVENANCE)
                .annotation("org.opencontainers.image.created", "2026-11-21T08:00:00Z"),
            Signer::Notation | Signer::NotationEarlier => {
                let builder = match self {
                    Signer::Notation => ImageBuilder::artifact(NOTATION),
                    _ => ImageBuilder::oci().config(NOTATION, Blob::bytes("{}")),
                };
                builder
                    .layer("application/jose+json", Blob::bytes(statement.to_string()))
                    .subject(subject)
                    .annotation("io.cncf.notary.x509chain.thumbprint#S256", "[]")
            }
        }
        .build()
    }
}

/// An image whose layers are payloads, with their signatures.
fn cosign_image(signatures: &[(Vec<u8>, String)]) -> ImageBuilder {
    let add = |builder: ImageBuilder, (payload, signature): &(Vec<u8>, String)| {
        let annotations = vec![(SIGNATURE.to_owned(), signature.clone())];
        builder.layer_annotated(SIMPLE_SIGNING, Blob::bytes(payload.clone()), annotations)
    };
    signatures.iter().fold(ImageBuilder::oci(), add)
}

/// A Sigstore bundle that refers to an image, as GitHub and cosign 3 push it.
fn bundle_artifact(
    subject: &StoredManifest,
    bundle: impl Into<Bytes>,
    predicate_type: &str,
) -> ImageBuilder {
    ImageBuilder::artifact(BUNDLE)
        .layer(BUNDLE, Blob::bytes(bundle))
        .subject(subject)
        .annotation("dev.sigstore.bundle.content", "dsse-envelope")
        .annotation("dev.sigstore.bundle.predicateType", predicate_type)
}

impl Image {
    /// What `actions/attest` with `push-to-registry`, and cosign 3, push for `subject`: this bundle, whether it is one or not. The
    /// predicate type is in an annotation, which nobody signs.
    pub fn sigstore_bundle(
        subject: &StoredManifest,
        bundle: impl Into<Bytes>,
        predicate_type: &str,
    ) -> Image {
        bundle_artifact(subject, bundle, predicate_type).build()
    }

    /// What `cosign sign` up to version 2 pushes under the tag of [`Signer::Cosign2Signature`]: payloads, each with its signature in
    /// base64, as [`crate::sigstore::Key::sign_payload`] gives them.
    pub fn cosign_signatures(signatures: &[(Vec<u8>, String)]) -> Image {
        cosign_image(signatures).build()
    }

    /// What refers to `subject` and has an `artifactType` with a parameter, which ECR refuses (aws/containers-roadmap#2306). Earlier
    /// Sigstore bundles have such a type.
    pub fn refused_referrer(subject: &StoredManifest) -> Image {
        ImageBuilder::artifact("application/vnd.dev.sigstore.bundle+json;version=0.2")
            .layer(OCI_EMPTY, Blob::bytes("{}"))
            .subject(subject)
            .build()
    }
}
