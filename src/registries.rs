//! How the registries and GitHub are reached: which host, and which credential.

mod immutability;
mod pull_through_cache;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;

use self::immutability::Immutabilities;
use self::pull_through_cache::CacheRules;
use crate::aws::ecr::Ecr;
use crate::aws::repositories::RepositoryApi;
use crate::aws::secrets::Secrets;
use crate::config::Settings;
use crate::destination::Destination;
use crate::endpoint::{Endpoint, Hosts, ecr_region};
use crate::error::{Error, Result};
use crate::kept::Freshness;
use crate::redaction::KnownSecrets;
use crate::registry::{Budget, Credential, Credentials, Repository};

/// So many source repositories are remembered, so that a warm process does not grow.
const SOURCES_LIMIT: usize = 200;

/// By package and its rule's secret. Each keeps its bearer token, as a token serves many requests.
type Sources = HashMap<(String, Option<String>), Repository>;

/// Opens repositories, and keeps what they share across invocations: connections, bearer tokens, budgets. Clones share it.
#[derive(Clone)]
pub struct Registries {
    /// The registry hosts that may be written in rules and events.
    pub hosts: Hosts,
    http: reqwest::Client,
    secrets: Arc<Secrets>,
    ecr: Arc<Ecr>,
    source_registry: Endpoint,
    destination_registry: Option<Endpoint>,
    ghcr_token_secret_id: Option<String>,
    /// A token for everything that is read, in place of the configured ones.
    lent_token: Option<SecretString>,
    known_secrets: KnownSecrets,
    sources: Arc<Mutex<Sources>>,
    immutabilities: Arc<Immutabilities>,
    cache_rules: Arc<CacheRules>,
    /// By registry host.
    budgets: Arc<Mutex<HashMap<String, Arc<Budget>>>>,
}

impl Registries {
    /// Makes no request yet.
    pub fn new(
        settings: &Settings,
        http: reqwest::Client,
        secrets: Arc<Secrets>,
        ecr: Arc<Ecr>,
        repositories: Arc<RepositoryApi>,
        known_secrets: KnownSecrets,
    ) -> Self {
        Registries {
            hosts: settings.hosts.clone(),
            http,
            secrets,
            ecr,
            source_registry: settings.source_registry.clone(),
            destination_registry: settings.destination_registry.clone(),
            ghcr_token_secret_id: settings.ghcr_token_secret_id.clone(),
            lent_token: None,
            known_secrets,
            immutabilities: Arc::new(Immutabilities::new(repositories.clone())),
            cache_rules: Arc::new(CacheRules::new(repositories)),
            sources: Arc::default(),
            budgets: Arc::default(),
        }
    }

    /// The same with a token that was lent for one copy: everything is read with it, and what it is exchanged for is not kept.
    pub fn with_lent_token(&self, token: SecretString) -> Self {
        Registries {
            lent_token: Some(token),
            sources: Arc::default(),
            ..self.clone()
        }
    }

    /// The repository of a package at the source, observed by an observer of its own. The token is the one in `token_secret_id`, else
    /// the general one, else none: public images are read anonymously.
    pub fn source(&self, package: &str, token_secret_id: Option<&str>) -> Repository {
        let key = (package.to_owned(), token_secret_id.map(str::to_owned));
        let mut sources = lock(&self.sources);
        if sources.len() >= SOURCES_LIMIT && !sources.contains_key(&key) {
            sources.clear();
        }
        let repository = sources
            .entry(key)
            .or_insert_with(|| self.new_source(package, token_secret_id));
        repository.clone().observed()
    }

    /// As [`Registries::source`], but without the authorization that is kept, so that it shows whether a new one can be had.
    pub fn new_source(&self, package: &str, token_secret_id: Option<&str>) -> Repository {
        let credentials = self.ghcr_credentials(token_secret_id);
        let (http, registry) = (self.http.clone(), self.source_registry.clone());
        let known_secrets = self.known_secrets.clone();
        Repository::source(http, registry, package, credentials, known_secrets)
    }

    /// A repository to write to, observed by an observer of its own: on the registry that the destination names, else on the
    /// configured one, else on the caller's own ECR.
    ///
    /// # Errors
    /// What ECR's authorization failed with, which says where the caller's own registry is.
    pub async fn destination(&self, destination: &Destination) -> Result<Repository> {
        let host = destination.registry.as_deref();
        let configured = self.destination_registry.as_ref();
        let named = match (host, configured) {
            (Some(host), Some(configured)) if configured.host() == host => Some(configured.clone()),
            (Some(host), _) => Some(Endpoint::parse(host).map_err(Error::Event)?),
            (None, configured) => configured.cloned(),
        };
        let region = named
            .as_ref()
            .and_then(|registry| ecr_region(&registry.host()).map(str::to_owned));
        let registry = match named {
            Some(registry) => registry,
            None => {
                self.ecr
                    .authorization(None, Freshness::Kept)
                    .await?
                    .registry
            }
        };
        let budget = lock(&self.budgets)
            .entry(registry.host())
            .or_default()
            .clone();
        let ecr = self.ecr.clone();
        let credentials: Credentials = Arc::new(move |freshness| {
            let (ecr, region) = (ecr.clone(), region.clone());
            Box::pin(async move {
                let authorization = ecr.authorization(region.as_deref(), freshness).await?;
                let (username, password) = (authorization.username, authorization.password);
                Ok(Credential { username, password })
            })
        });
        let name = &destination.repository;
        let (http, known_secrets) = (self.http.clone(), self.known_secrets.clone());
        let repository =
            Repository::destination(http, registry, name, credentials, budget, known_secrets);
        // The ECR API knows nothing of other registries.
        Ok(match repository.is_in_ecr() {
            true => {
                let immutability = self.immutabilities.of(repository.host(), name);
                let upstream = self.cache_rules.of(repository.host(), name);
                repository
                    .with_immutability(immutability)
                    .with_upstream(upstream)
            }
            false => repository,
        })
    }

    /// Asks ECR anew for the authorization in the function's own Region, and gives the host of the registry there.
    ///
    /// # Errors
    /// [`Error::Api`] names the Region.
    pub async fn authorize(&self) -> Result<String> {
        let authorization = self.ecr.authorization(None, Freshness::Anew).await?;
        Ok(authorization.registry.host())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
