//! GitHub's REST API for artifact attestations, and the storage that has their bundles.
//! (GitHub documentation, "REST API endpoints for artifact attestations")
//!
//! API version 2026-03-10 gives no bundle, only the URL of one; since July 2026 earlier versions mostly give `null` for it.
//! (GitHub documentation, "Breaking changes" of the REST API; aaif-goose/goose#10557, terraform-linters/tflint#2593)
//! What is at the URL is compressed as one Snappy block, without frames. (cli/cli, `pkg/cmd/attestation/api/client.go`)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request};
use serde_json::{Value, json};

use super::{Admitted, GitHub, Kind, Owner, PAGE, State, error};
use crate::ghcr::storage_error;
use crate::http::{Reply, RequestBody, json, lock, percent_decoded, query, reply};

/// The API version since which lists have no bundles.
const WITHOUT_BUNDLES: &str = "2026-03-10";

#[derive(Default)]
pub(super) struct Attestations {
    repositories: Vec<Repository>,
    /// In the order in which they were put.
    all: Vec<Attestation>,
    is_inline: bool,
    storage_url: String,
}

struct Repository {
    number: usize,
    owner: String,
    name: String,
    is_private: bool,
}

struct Attestation {
    repository: usize,
    digest: String,
    bundle: Value,
}

impl GitHub {
    /// Stores a bundle, whether it is one or not, as an attestation of `digest` by this repository. The owner must exist; the repository
    /// is created if necessary, and is public.
    pub fn put_attestation(&self, owner: &str, repository: &str, digest: &str, bundle: &Value) {
        let mut state = lock(&self.state);
        let repository = state.repository(owner, repository).number;
        state.attestations.all.push(Attestation {
            repository,
            digest: digest.to_owned(),
            bundle: bundle.clone(),
        });
    }

    /// Whether a repository is private. Then its attestations are shown only to an accepted token with the scope `repo`, or of a kind
    /// without scopes; those of a personal account only to a token of that account.
    /// (GitHub documentation, "Scopes for OAuth apps": a token reads private repositories only with `repo`)
    pub fn set_repository_private(&self, owner: &str, repository: &str, private: bool) {
        lock(&self.state).repository(owner, repository).is_private = private;
    }

    /// Whether lists contain the bundles, for clients that ask for an API version before 2026-03-10. At first they don't.
    pub fn set_inline(&self, inline: bool) {
        lock(&self.state).attestations.is_inline = inline;
    }
}

/// Whether a path is one of attestations, which need no token where the repository is public.
pub(super) fn is_of_attestations(path: &str) -> bool {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    matches!(
        segments.as_slice(),
        [_, _, "attestations", _] | ["repos", _, _, "attestations", _]
    )
}

impl Attestations {
    pub(super) fn set_storage(&mut self, url: String) {
        self.storage_url = url;
    }

    fn repository_of(&self, attestation: &Attestation) -> &Repository {
        let number = attestation.repository;
        let repository = self.repositories.iter().find(|it| it.number == number);
        repository.expect("the repository that it was put for")
    }

    /// The path of a bundle in the storage, and the signature of its URL.
    fn place(&self, index: usize, repository: usize) -> (String, String) {
        let number = 36_201_957 + index;
        (
            format!("/attestations/{repository}/2026/11/21/{number}.json.sn"),
            format!("signature-of-bundle-{number}"),
        )
    }

    fn item(&self, index: usize, version: Option<&str>) -> Value {
        let attestation = &self.all[index];
        let (path, signature) = self.place(index, attestation.repository);
        let storage = &self.storage_url;
        let mut item = json!({
            "repository_id": attestation.repository,
            "bundle_url": format!("{storage}{path}?se=2099-12-31T23%3A59%3A59Z&sig={signature}&sp=r&sr=b&sv=2025-01-05"),
            "initiator": "user",
        });
        if version != Some(WITHOUT_BUNDLES) {
            item["bundle"] = match self.is_inline {
                true => attestation.bundle.clone(),
                false => Value::Null,
            };
        }
        item
    }

    /// The answer of the storage.
    pub(super) fn stored(&self, request: &Request<RequestBody>) -> Reply {
        if request.headers().contains_key(AUTHORIZATION) {
            let message = "Authentication information is not given in the correct format.";
            return storage_error(400, "InvalidAuthenticationInfo", message);
        }
        let mut stored = self.all.iter().enumerate().map(|(index, attestation)| {
            let (path, signature) = self.place(index, attestation.repository);
            (path, signature, attestation)
        });
        let found = stored.find(|(path, _, _)| path == request.uri().path());
        let Some((_, signature, attestation)) = found else {
            return storage_error(404, "BlobNotFound", "The specified blob does not exist.");
        };
        let parameters = query(&request.uri().to_string());
        if request.method() != Method::GET || parameters.get("sig") != Some(&signature) {
            let message = "Server failed to authenticate the request. Signature did not match or has expired.";
            return storage_error(403, "AuthenticationFailed", message);
        }
        let bundle = attestation.bundle.to_string();
        let compressed = snap::raw::Encoder::new().compress_vec(bundle.as_bytes());
        let media_type = ("content-type", "application/x-snappy".to_owned());
        reply(200, &[media_type], compressed.expect("below 4 GiB"))
    }
}

impl State {
    /// The repository, created if it does not exist.
    fn repository(&mut self, owner: &str, name: &str) -> &mut Repository {
        let login = self.owner_named(owner).map(|owner| owner.login.clone());
        let login = login.unwrap_or_else(|| panic!("there is no owner {owner:?}"));
        let repositories = &mut self.attestations.repositories;
        let known = repositories
            .iter()
            .position(|it| it.owner == login && it.name.eq_ignore_ascii_case(name));
        let position = known.unwrap_or_else(|| {
            repositories.push(Repository {
                number: 245_765_716 + repositories.len(),
                owner: login,
                name: name.to_owned(),
                is_private: false,
            });
            repositories.len() - 1
        });
        &mut repositories[position]
    }

    /// The list of attestations at this path.
    pub(super) fn list_attestations(&self, request: &Admitted) -> Reply {
        let not_found = || error(404, "Not Found");
        let path = request.uri.path();
        let segments: Vec<_> = path.split('/').skip(1).map(percent_decoded).collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        let Some((owner, of_repository)) = self.asked(&segments) else {
            return not_found();
        };
        if request.method != Method::GET {
            return not_found();
        }
        let digest = segments.last().copied().unwrap_or_default();
        if !is_sha256(digest) {
            return error(422, "Validation Failed: the subject digest is invalid");
        }

        let parameters = query(&request.uri.to_string());
        let predicate_type = parameters.get("predicate_type");
        let is_listed = |attestation: &Attestation| {
            let repository = self.attestations.repository_of(attestation);
            attestation.digest == digest
                && repository.owner == owner.login
                && of_repository.is_none_or(|it| it.number == repository.number)
                && (!repository.is_private || self.may_read(owner, request.has_token))
                && predicate_type.is_none_or(|filter| is_of_type(&attestation.bundle, filter))
        };
        let all = self.attestations.all.iter().enumerate().rev();
        let listed = all.filter(|(_, attestation)| is_listed(attestation));
        let newest_first: Vec<_> = listed.map(|(index, _)| index).collect();
        if newest_first.is_empty() && !self.endless {
            return not_found();
        }
        let item = |index: usize| match newest_first.get(index) {
            Some(index) => self.attestations.item(*index, request.version),
            // Of an endless list.
            None => {
                json!({"repository_id": 1, "bundle_url": "", "initiator": "user", "bundle": null})
            }
        };
        let count = match self.endless {
            true => usize::MAX,
            false => newest_first.len(),
        };
        // Links between pages name owners and repositories by number.
        let (kind, number) = match of_repository {
            Some(repository) => ("repositories", repository.number),
            None => (owner.kind.by_number(), owner.number),
        };
        let resource = format!("{}/{kind}/{number}/attestations/{digest}", self.url);
        self.page_by_cursor(request, &resource, count, item)
    }

    /// The owner that a path names, and the repository if it names one: by name, or by number as in the links between pages.
    fn asked(&self, segments: &[&str]) -> Option<(&Owner, Option<&Repository>)> {
        let is_asked = |it: &&Repository| match segments {
            ["repos", owner, name, ..] => {
                it.owner.eq_ignore_ascii_case(owner) && it.name.eq_ignore_ascii_case(name)
            }
            ["repositories", number, ..] => it.number.to_string() == *number,
            _ => false,
        };
        match segments {
            ["repos" | "repositories", ..] => {
                let repository = self.attestations.repositories.iter().find(is_asked)?;
                let mut owners = self.owners.iter();
                let owner = owners.find(|it| it.login == repository.owner)?;
                Some((owner, Some(repository)))
            }
            [kind, id, ..] => Some((self.owner(kind, id)?, None)),
            _ => None,
        }
    }

    /// Whether the token may read the owner's private repositories.
    fn may_read(&self, owner: &Owner, has_token: bool) -> bool {
        let is_member =
            owner.kind == Kind::Organization || owner.login.eq_ignore_ascii_case(&self.token_owner);
        has_token && is_member && self.grant.has("repo")
    }

    /// One page of `count` items, with links to its neighbours at `resource`. A cursor is the position of an item.
    fn page_by_cursor(
        &self,
        request: &Admitted,
        resource: &str,
        count: usize,
        item: impl Fn(usize) -> Value,
    ) -> Reply {
        let mut parameters = query(&request.uri.to_string());
        let size = parameters.get("per_page");
        let size = size
            .and_then(|size| size.parse().ok())
            .filter(|size| *size > 0);
        let size = size.unwrap_or(PAGE).min(self.page_limit);
        let [after, before] = ["after", "before"].map(|name| parameters.remove(name));
        let positions = [&after, &before].map(|cursor| cursor.as_deref().map(position));
        let (first, end) = match positions {
            [None, None] => (0, size),
            [Some(Some(after)), None] => (after + 1, after + 1 + size),
            [None, Some(Some(before))] => (before.saturating_sub(size), before),
            _ => return error(422, "Validation Failed: the cursor is invalid"),
        };
        let page: Vec<_> = (first..end.min(count)).map(item).collect();
        let mut answer = json(200, &json!({ "attestations": page }));

        let kept: String = parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}&"))
            .collect();
        let link = |cursor: &str, position: usize, relation: &str| {
            let position = STANDARD.encode(format!("cursor:{position}"));
            let position = position.replace('=', "%3D").replace('+', "%2B");
            format!(r#"<{resource}?{kept}{cursor}={position}>; rel="{relation}""#)
        };
        let mut links = Vec::new();
        if let Some(url) = &self.next_link {
            links.push(format!(r#"<{url}>; rel="next""#));
        } else if end < count {
            links.push(link("after", end - 1, "next"));
        }
        if first > 0 {
            links.push(link("before", first, "prev"));
        }
        if !links.is_empty() {
            let value = links.join(", ").parse().expect("a valid header");
            answer.headers_mut().insert("link", value);
        }
        answer
    }
}

fn position(cursor: &str) -> Option<usize> {
    let text = String::from_utf8(STANDARD.decode(cursor).ok()?).ok()?;
    text.strip_prefix("cursor:")?.parse().ok()
}

fn is_sha256(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a bundle's statement is of this type: one of GitHub's names of types, or the type itself.
fn is_of_type(bundle: &Value, filter: &str) -> bool {
    let statement = || {
        let payload = bundle["dsseEnvelope"]["payload"].as_str()?;
        serde_json::from_slice::<Value>(&STANDARD.decode(payload).ok()?).ok()
    };
    let statement = statement().unwrap_or_default();
    let predicate_type = statement["predicateType"].as_str().unwrap_or_default();
    match filter {
        "provenance" => predicate_type.starts_with("https://slsa.dev/provenance/"),
        "sbom" => ["https://spdx.dev/Document", "https://cyclonedx.org/bom"]
            .iter()
            .any(|sbom| predicate_type.starts_with(sbom)),
        _ => predicate_type == filter,
    }
}
