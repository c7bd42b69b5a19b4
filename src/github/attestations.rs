//! Attestations that GitHub keeps beside the package. (GitHub's documentation, "REST API endpoints for artifact attestations")

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{Answer, Call, GitHub, PAGE_SIZE, broken, limited_body};
use crate::error::{Kind, Result};
use crate::manifest::Digest;
use crate::token::Token;

/// The most bytes of a bundle, compressed or not.
const BUNDLE_LIMIT: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Attestations {
    #[serde(default)]
    attestations: Vec<Item>,
}

/// GitHub gives the bundle itself no longer, whatever version of the API is asked for, only where it is.
/// (aaif-goose/goose#10557)
#[derive(Deserialize)]
struct Item {
    bundle: Option<Box<RawValue>>,
    bundle_url: Option<String>,
}

impl GitHub {
    /// The bundles of what is attested of `digest` by a repository of the package's owner: at most `limit`, none if there are none.
    ///
    /// # Errors
    /// As [`GitHub::packages`], but for an owner who has none.
    pub async fn attestations(
        &self,
        token: Option<&Token>,
        package: &str,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let owner = package.split('/').next().unwrap_or_default();
        let call = Call {
            operation: "list attestations",
            subject: package,
            token,
        };
        let mut page = None;
        for account in ["orgs", "users"] {
            match self
                .get::<Attestations>(&call, self.attested(account, owner, digest))
                .await
            {
                Err(error) if error.kind() == Kind::NotFound => {}
                result => {
                    page = Some(result?);
                    break;
                }
            }
        }
        let mut bundles = Vec::new();
        while let Some(Answer { body, next, .. }) = page {
            for item in body.attestations.into_iter().take(limit - bundles.len()) {
                bundles.push(match (item.bundle, item.bundle_url) {
                    (Some(bundle), _) => bundle.get().as_bytes().to_vec(),
                    (None, Some(url)) => self.stored_bundle(&call, &url).await?,
                    // Nothing to verify, and so it does not count.
                    (None, None) => Vec::new(),
                });
            }
            page = match call.trusted(next)? {
                Some(next) if bundles.len() < limit => Some(self.get(&call, next).await?),
                _ => None,
            };
        }
        Ok(bundles)
    }

    /// A bundle in GitHub's storage, compressed as one Snappy block. Its address is signed: no credential goes there, and it is never
    /// shown. (cli/cli, `pkg/cmd/attestation/api/client.go`)
    async fn stored_bundle(&self, call: &Call<'_>, url: &str) -> Result<Vec<u8>> {
        let url = Url::parse(url).ok();
        let is_secure = |url: &Url| url.scheme() == "https" || url.scheme() == self.api.scheme();
        let url = url.filter(|url| is_secure(url) && url.has_host());
        let url = url.ok_or_else(|| call.transient("a bundle's address is none".to_owned()))?;
        let response = self.http.get(url).timeout(self.timeout).send().await;
        let response = response.map_err(|error| call.transient(broken(error)))?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(call.transient(format!("GitHub's storage of bundles answers {status}")));
        }
        let is_compressed = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes() == b"application/x-snappy");
        let body = limited_body(response, BUNDLE_LIMIT).await;
        let body = body.map_err(|detail| call.transient(detail))?;
        if !is_compressed {
            return Ok(body);
        }
        match snap::raw::decompress_len(&body) {
            Ok(length) if length <= BUNDLE_LIMIT => snap::raw::Decoder::new()
                .decompress_vec(&body)
                .map_err(|_| call.transient("a bundle can't be decompressed".to_owned())),
            // It does not count, and why is said where it is looked at.
            _ => Ok(Vec::new()),
        }
    }

    fn attested(&self, account: &str, owner: &str, digest: &Digest) -> Url {
        let mut url = self.api.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            segments.extend([account, owner, "attestations", &digest.to_string()]);
        }
        url.query_pairs_mut().append_pair("per_page", PAGE_SIZE);
        url
    }
}
