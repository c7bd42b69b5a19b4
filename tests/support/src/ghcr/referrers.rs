//! What refers to an image: the fallback tag that pushers keep, and what GHCR answers in place of the referrers API.

use serde_json::{Value, json};

use super::{Ghcr, Repository};
use crate::http::{Reply, json, lock, oci_error, reply};
use crate::image::{Image, OCI_INDEX, StoredManifest};

/// How `GET /v2/<name>/referrers/<digest>` is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReferrersAnswer {
    /// 303 to a page of the web site, which answers 404 (artifacthub/hub#4785).
    #[default]
    Redirect,
    /// 404 (NVIDIA/aicr#1957).
    NotFound,
    /// 429, as the page of the web site does under load (artifacthub/hub#4785).
    TooManyRequests,
    /// 200 with an index of nothing.
    Empty,
    /// As a registry does that has the API. GHCR has none.
    Listed,
}

impl Ghcr {
    /// Sets how requests for referrers are answered.
    pub fn set_referrers_answer(&self, answer: ReferrersAnswer) {
        lock(&self.state).referrers_answer = answer;
    }

    /// Pushes what refers to `subject`, and adds it to the index under the fallback tag, as clients do where there is no referrers API.
    /// (OCI distribution specification 1.1, "Pushing Manifests with Subject")
    pub fn put_referrer(&self, repository: &str, subject: &str, referrer: &Image) {
        self.put_untagged(repository, referrer);
        let mut entries = Vec::new();
        self.change(repository, |repository| {
            entries = repository.fallback_entries(subject);
        });
        let manifest = referrer.top_manifest();
        entries.push(descriptor(manifest));
        self.put_fallback(repository, subject, &entries);
    }

    /// Puts an index of these entries under the fallback tag of `subject`, whether they are true or not. Gives its digest.
    pub fn put_fallback(&self, repository: &str, subject: &str, entries: &[Value]) -> String {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let image = Image::raw(OCI_INDEX, index.to_string());
        self.put_image(repository, &fallback_tag(subject), &image);
        image.top
    }
}

/// The fallback tag of a digest.
pub fn fallback_tag(subject: &str) -> String {
    subject.replace(':', "-")
}

/// An entry of an index of referrers.
fn descriptor(manifest: &StoredManifest) -> Value {
    json!({"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len()})
}

impl Repository {
    fn fallback_entries(&self, subject: &str) -> Vec<Value> {
        let tag = fallback_tag(subject);
        let tagged = self.tags.iter().find(|(name, _)| *name == tag);
        let index = tagged.and_then(|(_, digest)| self.manifests.get(digest));
        let index: Value = index
            .and_then(|index| serde_json::from_slice(&index.bytes).ok())
            .unwrap_or_default();
        index["manifests"].as_array().cloned().unwrap_or_default()
    }

    pub(super) fn referrers(
        &self,
        answer: ReferrersAnswer,
        name: &str,
        subject: &str,
        web_site: &str,
    ) -> Reply {
        let entries = match answer {
            ReferrersAnswer::Redirect => {
                let location = format!("{web_site}/-/v2/packages/container/package/{name}");
                return reply(303, &[("location", location)], "");
            }
            ReferrersAnswer::NotFound => {
                return oci_error(404, "MANIFEST_UNKNOWN", "manifest unknown");
            }
            ReferrersAnswer::TooManyRequests => {
                return reply(429, &[("retry-after", "30".to_owned())], "");
            }
            ReferrersAnswer::Empty => Vec::new(),
            ReferrersAnswer::Listed => {
                let refers = |manifest: &&StoredManifest| {
                    let value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
                    value["subject"]["digest"] == subject
                };
                let manifests = self.manifests.values();
                manifests.filter(refers).map(descriptor).collect()
            }
        };
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let mut answer = json(200, &index);
        let media_type = OCI_INDEX.parse().expect("a valid header");
        answer.headers_mut().insert("content-type", media_type);
        answer
    }
}
