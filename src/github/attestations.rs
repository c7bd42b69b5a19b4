//! Attestations that GitHub keeps beside the package. (GitHub's documentation, "REST API endpoints for artifact attestations")

use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{Answer, Call, GitHub, PAGE_SIZE};
use crate::error::{Kind, Result};
use crate::manifest::Digest;
use crate::token::Token;

#[derive(Deserialize)]
struct Attestations {
    #[serde(default)]
    attestations: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    bundle: Option<Box<RawValue>>,
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
            let inline = body.attestations.into_iter().filter_map(|item| item.bundle);
            bundles.extend(inline.map(|bundle| bundle.get().as_bytes().to_vec()));
            page = match call.trusted(next)? {
                Some(next) if bundles.len() < limit => Some(self.get(&call, next).await?),
                _ => None,
            };
        }
        bundles.truncate(limit);
        Ok(bundles)
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
