//! The verb of the referrers API: which manifests refer to another one.

use std::collections::HashSet;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};

use super::{Repository, refusal, suffix};
use crate::error::{Kind, Operation, Result};
use crate::link::next_page;
use crate::manifest::{Digest, Entries, MANIFEST_LIMIT, MANIFEST_MEDIA_TYPES};

/// The most pages that are read of one list.
const PAGES_LIMIT: usize = 20;

/// The most referrers of one list.
const REFERRERS_LIMIT: usize = 1000;

impl Repository {
    /// The manifests that refer to `subject`, as far as the registry lists them; `None` if it has no referrers API. One GET request for
    /// each page. (distribution-spec v1.1, "Listing Referrers")
    ///
    /// GHCR has none. It was seen to redirect to a page of its web site, which answers 404 or, under load, 429, and to answer 404
    /// itself; the redirect is not followed, and no credential goes there. (artifacthub/hub#4785, NVIDIA/aicr#1957)
    ///
    /// # Errors
    /// What may pass, for callers who know that the registry has the API.
    pub async fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Digest>>> {
        let digest = subject.to_string();
        let suffix = suffix(&digest);
        let place = self.place(Operation::ListReferrers, &suffix);
        let mut url = self.url(&format!("referrers/{digest}"))?;
        let mut seen = HashSet::new();
        let mut referrers = Vec::new();
        loop {
            let request = || self.http.get(url.clone()).header(ACCEPT, INDEX_MEDIA_TYPE);
            let response = self.send(&place, request).await?;
            let status = response.status();
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(refusal::of(response, &place).await);
            }
            if status != StatusCode::OK || !is_index(response.headers()) {
                return Ok(None);
            }
            let next = next_page(response.headers(), &url).ok().flatten();
            let body = refusal::limited_body(response, MANIFEST_LIMIT as usize).await;
            let entries = body.as_deref().map(Entries::read);
            let Some(Ok(entries)) = entries else {
                let detail = "the list of referrers broke off, or is none".to_owned();
                return Err(place.error(Kind::Transient, detail));
            };
            referrers.extend(entries.listed.iter().map(|entry| entry.digest));
            seen.insert(Digest::of(url.as_str().as_bytes()));
            match next {
                Some(next)
                    if seen.len() < PAGES_LIMIT
                        && referrers.len() < REFERRERS_LIMIT
                        && !seen.contains(&Digest::of(next.as_str().as_bytes())) =>
                {
                    url = next;
                }
                _ => {
                    referrers.truncate(REFERRERS_LIMIT);
                    return Ok(Some(referrers));
                }
            }
        }
    }
}

/// What the API answers with: an OCI image index.
const INDEX_MEDIA_TYPE: &str = MANIFEST_MEDIA_TYPES[0];

fn is_index(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim() == INDEX_MEDIA_TYPE)
}
