//! What the whole-invocation tests share: the deployment on loopback, its one package `acme/api`, and what it must look like after.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::Deployment;
use support::ecr::Repository;
use support::function::Outcome;
use support::http::Certificate;
use support::image::Blob;

pub(crate) use support::image::Image;

/// The real binary, as cargo built it for these tests.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bootstrap");

/// The package that the rule admits.
pub(crate) const REPOSITORY: &str = "acme/api";

/// Where the rule sends it.
pub(crate) const DESTINATION: &str = "prod/api";

/// A deployment that copies `acme/api` to `prod/api`, which exists.
pub(crate) struct Scenario(Deployment);

impl Deref for Scenario {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.0
    }
}

impl DerefMut for Scenario {
    fn deref_mut(&mut self) -> &mut Deployment {
        &mut self.0
    }
}

impl Scenario {
    pub(crate) async fn start() -> Scenario {
        Scenario::start_with(&[]).await
    }

    /// With `environment` in place of the deployment's own values.
    pub(crate) async fn start_with(environment: &[(&str, &str)]) -> Scenario {
        let binary = Path::new(BINARY);
        Scenario(Deployment::start_with(binary, environment).await)
    }

    /// As [`Scenario::start_with`], with a queue for jobs and one for dead letters.
    pub(crate) async fn start_with_queue(environment: &[(&str, &str)]) -> Scenario {
        Scenario(Deployment::start_with_queue(Path::new(BINARY), environment).await)
    }

    /// With HTTPS to both registries; see [`Deployment::start_tls`].
    pub(crate) async fn start_tls(
        source: &Certificate,
        destination: &Certificate,
        trusted: &Certificate,
    ) -> Scenario {
        let binary = Path::new(BINARY);
        Scenario(Deployment::start_tls(binary, source, destination, trusted).await)
    }

    /// With a small two-platform image under `tag`.
    pub(crate) async fn with_image(tag: &str) -> Scenario {
        let scenario = Scenario::start().await;
        scenario.push(REPOSITORY, tag, &small_image());
        scenario
    }

    pub(crate) async fn invoke(&self, event: &Value) -> Outcome {
        self.function.invoke(event).await
    }

    /// The report of a direct copy of `tag`, which must not be a function error.
    pub(crate) async fn copy(&self, tag: &str) -> Value {
        self.invoke(&direct(tag)).await.reply()
    }

    /// `errorType` and `errorMessage` of a direct copy of `tag`, which must be a function error.
    pub(crate) async fn fail(&self, tag: &str) -> (String, String) {
        self.invoke(&direct(tag)).await.error()
    }

    /// The outcome of a direct copy of `tag` with this much time until Lambda would kill the function.
    pub(crate) async fn copy_within(&self, tag: &str, remaining: Duration) -> Outcome {
        let event = direct(tag);
        self.function.invoke_with_deadline(&event, remaining).await
    }

    /// The destination holds `image` under `tag`, whole and byte for byte.
    pub(crate) fn assert_stored(&self, name: &str, tag: &str, image: &Image) {
        let repository = self.ecr.repository(DESTINATION);
        assert_eq!(difference(&repository, tag, image), None, "{name}");
    }

    /// Nothing was written under `tag`.
    pub(crate) fn assert_untouched(&self, name: &str, tag: &str) {
        assert_eq!(
            self.ecr.repository(DESTINATION).tags.get(tag),
            None,
            "{name}"
        );
    }
}

/// In what a repository does not hold `image` under `tag`, whole and byte for byte.
pub(crate) fn difference(repository: &Repository, tag: &str, image: &Image) -> Option<String> {
    let tagged = repository.tags.get(tag);
    if tagged != Some(&image.top) {
        return Some(format!("the tag has {tagged:?} instead of {}", image.top));
    }
    let missing = repository.missing_from(&image.top);
    if !missing.is_empty() {
        return Some(format!("{missing:?} are missing"));
    }
    image.manifests.iter().find_map(|manifest| {
        let stored = repository.manifests.get(&manifest.digest);
        let is_same = stored.is_some_and(|stored| {
            (&stored.bytes, &stored.media_type) == (&manifest.bytes, &manifest.media_type)
        });
        (!is_same).then(|| format!("{} is stored as {stored:?}", manifest.digest))
    })
}

/// A direct event for a tag of the package.
pub(crate) fn direct(tag: &str) -> Value {
    json!({"source": format!("ghcr.io/{REPOSITORY}:{tag}")})
}

/// Three different layers.
pub(crate) fn layers() -> [Blob; 3] {
    [
        Blob::pseudorandom(1, 300_000),
        Blob::pseudorandom(2, 40_000),
        Blob::bytes("a third layer"),
    ]
}

/// Two platforms with attestations.
pub(crate) fn small_image() -> Image {
    let [a, b, c] = layers();
    Image::buildx(&[("linux/amd64", &[a.clone(), b]), ("linux/arm64", &[a, c])])
}

/// Status and body of the HTTP reply to an event.
pub(crate) async fn http_reply(scenario: &Scenario, event: &Value) -> (i64, Value) {
    let reply = scenario.invoke(event).await.reply();
    let status = reply["statusCode"].as_i64().expect("a status");
    let body = reply["body"].as_str().expect("a body");
    (
        status,
        serde_json::from_str(body).expect("JSON in the body"),
    )
}
