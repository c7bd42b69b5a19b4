//! Attestations that GitHub keeps beside the package. (GitHub's documentation, "REST API endpoints for artifact attestations")

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{Answer, Call, GitHub, PAGE_SIZE, broken, limited_body};
use crate::error::{Kind, Result};
use crate::manifest::Digest;
use crate::token::Token;

/// The most bytes of a bundle, compressed or not.
const BUNDLE_LIMIT: usize = 1024 * 1024;

/// Pages of a list that are looked at: GitHub leaves out what a token may not see, so that one may have less than it has room for.
const PAGES_LIMIT: usize = 10;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    attestations: Vec<Attestation>,
}

/// An attestation as it is listed. GitHub gives the bundle itself no longer, whatever version of the API is asked for, only where it is:
/// at an address that is signed, so that it is never shown. (aaif-goose/goose#10557)
#[derive(Deserialize)]
pub struct Attestation {
    bundle: Option<Box<RawValue>>,
    bundle_url: Option<String>,
}

/// What is attested of an image.
pub struct Attestations {
    /// At most as many as were asked for.
    pub listed: Vec<Attestation>,
    /// Whether there are more.
    pub are_more: bool,
}

impl GitHub {
    /// What is attested of `digest` by the repositories of the package's owner: at most `limit`, none if there are none.
    ///
    /// # Errors
    /// As [`GitHub::packages`], but for an owner who has none.
    pub async fn attestations(
        &self,
        token: Option<&Token>,
        package: &str,
        digest: &Digest,
        limit: usize,
    ) -> Result<Attestations> {
        let owner = package.split('/').next().unwrap_or_default();
        let call = attestations_of(package, token);
        let mut page = None;
        for account in ["orgs", "users"] {
            let url = self.attested(account, owner, digest);
            match self.get::<Page>(&call, url).await {
                Err(error) if error.kind() == Kind::NotFound => {}
                result => {
                    page = Some(result?);
                    break;
                }
            }
        }
        let (mut listed, mut are_more) = (Vec::new(), false);
        let mut pages = 0;
        while let Some(Answer { body, next, .. }) = page {
            let room = limit - listed.len();
            are_more = body.attestations.len() > room;
            listed.extend(body.attestations.into_iter().take(room));
            pages += 1;
            page = match call.trusted(next)? {
                Some(next) if listed.len() < limit && pages < PAGES_LIMIT => {
                    Some(self.get(&call, next).await?)
                }
                next => {
                    are_more |= next.is_some();
                    None
                }
            };
        }
        Ok(Attestations { listed, are_more })
    }

    /// The bundle of an attestation of `package`. One in GitHub's storage is compressed as one Snappy block; no credential goes there.
    /// (cli/cli, `pkg/cmd/attestation/api/client.go`)
    ///
    /// # Errors
    /// What may pass, or why there is no bundle that can be looked at.
    pub async fn bundle(&self, package: &str, attestation: &Attestation) -> Result<Vec<u8>> {
        let call = attestations_of(package, None);
        if let Some(bundle) = &attestation.bundle {
            return Ok(bundle.get().as_bytes().to_vec());
        }
        let url = attestation.bundle_url.as_deref();
        let url = url.and_then(|url| Url::parse(url).ok());
        let is_secure = |url: &Url| url.scheme() == "https" || url.scheme() == self.api.scheme();
        let url = url.filter(|url| is_secure(url) && url.has_host());
        let unusable = |detail: String| call.error(Kind::Invalid, detail, "");
        let url = url.ok_or_else(|| unusable("a bundle has no address with https".to_owned()))?;
        let response = self.http.get(url).timeout(self.timeout).send().await;
        let response = response.map_err(|error| call.transient(broken(error)))?;
        let status = response.status();
        let answered = || format!("GitHub's storage of bundles answers {status}");
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(unusable(answered())),
            _ => return Err(call.transient(answered())),
        }
        let too_large = || unusable(format!("a bundle has more than {BUNDLE_LIMIT} bytes"));
        let length = response.content_length().unwrap_or_default();
        if length > BUNDLE_LIMIT as u64 {
            return Err(too_large());
        }
        let body = limited_body(response, BUNDLE_LIMIT).await;
        let body = body.map_err(|detail| call.transient(detail))?;
        // A block of more than 127 bytes begins with none of ASCII's characters. (google/snappy, `format_description.txt`)
        if body.first() == Some(&b'{') {
            return Ok(body);
        }
        match snap::raw::decompress_len(&body) {
            Ok(length) if length > BUNDLE_LIMIT => Err(too_large()),
            _ => snap::raw::Decoder::new()
                .decompress_vec(&body)
                .map_err(|_| unusable("a bundle can't be decompressed".to_owned())),
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

fn attestations_of<'a>(package: &'a str, token: Option<&'a Token>) -> Call<'a> {
    Call {
        operation: "list attestations",
        subject: package,
        token,
    }
}
