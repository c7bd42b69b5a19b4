//! Signatures and attestations as known signers lay them out. What is signed is made up: nothing here is ever verified.

use serde_json::json;

use super::{Blob, Image, ImageBuilder, OCI_EMPTY, StoredManifest};

/// cosign's payload of a signature. (cosign, `specs/SIGNATURE_SPEC.md`)
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// A signed statement. (cosign, `specs/ATTESTATION_SPEC.md`)
const DSSE: &str = "application/vnd.dsse.envelope.v1+json";
/// What cosign 3 and GitHub's attest action push. (cosign, `specs/BUNDLE_SPEC.md`)
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Notary Project signatures. (notaryproject/specifications, `specs/signature-specification.md`)
const NOTATION: &str = "application/vnd.cncf.notary.signature";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

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
        let bundle = Blob::bytes(
            json!({"mediaType": BUNDLE, "dsseEnvelope": {"payload": statement}}).to_string(),
        );
        let annotated = |media_type, blob, annotations: &[(&str, &str)]| {
            let annotations = annotations
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()));
            ImageBuilder::oci().layer_annotated(media_type, blob, annotations.collect())
        };
        match self {
            Signer::Cosign2Signature => {
                let payload = json!({
                    "critical": {
                        "identity": {"docker-reference": "ghcr.io/acme/api"},
                        "image": {"docker-manifest-digest": subject.digest},
                        "type": "cosign container image signature",
                    },
                    "optional": null,
                });
                let annotations = [("dev.cosignproject.cosign/signature", "MEUCIQ==")];
                annotated(
                    SIMPLE_SIGNING,
                    Blob::bytes(payload.to_string()),
                    &annotations,
                )
            }
            Signer::Cosign2Attestation => {
                let envelope = json!({"payloadType": "application/vnd.in-toto+json", "payload": statement, "signatures": []});
                let annotations = [
                    ("dev.cosignproject.cosign/signature", ""),
                    ("predicateType", PROVENANCE),
                ];
                annotated(DSSE, Blob::bytes(envelope.to_string()), &annotations)
            }
            Signer::Cosign2Sbom => {
                let sbom = json!({"spdxVersion": "SPDX-2.3", "name": subject.digest});
                ImageBuilder::oci().layer("text/spdx+json", Blob::bytes(sbom.to_string()))
            }
            Signer::Cosign3 => ImageBuilder::artifact(BUNDLE)
                .layer(BUNDLE, bundle)
                .subject(subject)
                .annotation("dev.sigstore.bundle.content", "dsse-envelope")
                .annotation(
                    "dev.sigstore.bundle.predicateType",
                    "https://sigstore.dev/cosign/sign/v1",
                ),
            Signer::GitHub => ImageBuilder::artifact(BUNDLE)
                .layer(BUNDLE, bundle)
                .subject(subject)
                .annotation("org.opencontainers.image.created", "2026-11-21T08:00:00Z")
                .annotation("dev.sigstore.bundle.content", "dsse-envelope")
                .annotation("dev.sigstore.bundle.predicateType", PROVENANCE),
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

impl Image {
    /// What refers to `subject` and has an `artifactType` with a parameter, which ECR refuses (aws/containers-roadmap#2306). Earlier
    /// Sigstore bundles have such a type.
    pub fn refused_referrer(subject: &StoredManifest) -> Image {
        ImageBuilder::artifact("application/vnd.dev.sigstore.bundle+json;version=0.2")
            .layer(OCI_EMPTY, Blob::bytes("{}"))
            .subject(subject)
            .build()
    }
}
