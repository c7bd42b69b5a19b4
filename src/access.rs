//! How both registries are reached for a job: which credential, which host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use crate::aws::{Aws, Freshness};
use crate::budget::Budget;
use crate::config::Settings;
use crate::error::{Error, Kind, Result, Side};
use crate::job::{Destination, Endpoint};
use crate::registry::{self, Credential, Repository};
use crate::rules::ecr_region;
use crate::tally::Requests;

/// Settings and clients, and what the clients keep: what lives across invocations.
pub struct Access {
    /// The settings.
    pub settings: Settings,
    /// The AWS APIs.
    pub aws: Aws,
    /// The HTTP client for registries and for GitHub's API.
    pub http: reqwest::Client,
    /// By repository: with which credential it was last read, and what keeps its bearer token.
    sources: Mutex<HashMap<String, (Option<Credential>, Repository)>>,
    /// By registry host.
    budgets: Mutex<HashMap<String, Arc<Budget>>>,
}

/// So many source repositories are remembered, so that a warm process does not grow.
const SOURCES_LIMIT: usize = 200;

/// What it takes to speak to both registries.
#[derive(Clone)]
pub struct Credentials {
    source: Option<Credential>,
    registry: Endpoint,
    destination: Credential,
}

impl Access {
    /// Puts together what lives across invocations.
    ///
    /// # Errors
    /// [`Error::Internal`] if there can be no HTTP client.
    pub fn new(settings: Settings, aws: Aws) -> Result<Self> {
        Ok(Access {
            settings,
            aws,
            http: registry::client()?,
            sources: Mutex::default(),
            budgets: Mutex::default(),
        })
    }

    /// Does something with the credentials at hand; if a registry refuses one that has meanwhile been replaced, once more with the
    /// new one. The token is the one in `token_secret_id`, or else the general one.
    ///
    /// # Errors
    /// What the credentials or `attempt` failed with.
    pub async fn with_credentials<T>(
        &self,
        token_secret_id: Option<&str>,
        destination: &Destination,
        mut attempt: impl AsyncFnMut(&Credentials) -> Result<T>,
    ) -> Result<T> {
        let kept = self.kept_credentials(token_secret_id, destination).await?;
        let result = attempt(&kept).await;
        let Err(Some(side)) = result.as_ref().map_err(Error::denied_side) else {
            return result;
        };
        // Permissions may have changed since the token was given.
        lock(&self.sources).clear();
        let fresh = self
            .credentials(token_secret_id, destination, Freshness::AfterRefusal)
            .await?;
        match kept.is_same(&fresh, side) {
            true => result,
            false => attempt(&fresh).await,
        }
    }

    /// The credentials at hand.
    pub async fn kept_credentials(
        &self,
        token_secret_id: Option<&str>,
        destination: &Destination,
    ) -> Result<Credentials> {
        self.credentials(token_secret_id, destination, Freshness::Kept)
            .await
    }

    /// Does something with the GHCR token at hand; if it is refused and has meanwhile been replaced, once more with the new one.
    ///
    /// # Errors
    /// What the secret or `attempt` failed with.
    pub async fn with_token<T>(
        &self,
        token_secret_id: Option<&str>,
        mut attempt: impl AsyncFnMut(Option<&SecretString>) -> Result<T>,
    ) -> Result<T> {
        let token = async |freshness| {
            let credential = self.source_credential(token_secret_id, freshness).await?;
            Ok(credential.map(|credential| credential.password))
        };
        let kept = token(Freshness::Kept).await?;
        let result = attempt(kept.as_ref()).await;
        if !result
            .as_ref()
            .is_err_and(|error| error.kind() == Kind::Denied)
        {
            return result;
        }
        let fresh = token(Freshness::AfterRefusal).await?;
        let text = |token: &Option<SecretString>| {
            token.as_ref().map(|token| token.expose_secret().to_owned())
        };
        match text(&kept) == text(&fresh) {
            true => result,
            false => attempt(fresh.as_ref()).await,
        }
    }

    async fn credentials(
        &self,
        token_secret_id: Option<&str>,
        destination: &Destination,
        freshness: Freshness,
    ) -> Result<Credentials> {
        let (source, (registry, destination)) = futures_util::try_join!(
            self.source_credential(token_secret_id, freshness),
            self.destination_access(destination, freshness),
        )?;
        Ok(Credentials {
            source,
            registry,
            destination,
        })
    }

    /// The source repository `name`, whose requests are counted. Its bearer token is kept, as a token serves many requests; until a
    /// registry refuses something.
    pub fn source(&self, credentials: &Credentials, name: &str, requests: &Requests) -> Repository {
        let credential = &credentials.source;
        let mut sources = lock(&self.sources);
        let kept = sources.get(name);
        let kept = kept.filter(|(kept, _)| is_same(kept.as_ref(), credential.as_ref()));
        let repository = match kept {
            Some((_, repository)) => repository.clone(),
            None => {
                let registry = self.settings.source_registry.clone();
                let repository =
                    Repository::source(self.http.clone(), registry, name, credential.clone());
                if sources.len() >= SOURCES_LIMIT {
                    sources.clear();
                }
                sources.insert(name.to_owned(), (credential.clone(), repository.clone()));
                repository
            }
        };
        repository.counted_in(requests.source_counter())
    }

    /// The destination repository `name`, whose requests are counted.
    pub fn destination(
        &self,
        credentials: &Credentials,
        name: &str,
        requests: &Requests,
    ) -> Repository {
        let host = credentials.registry.host();
        let budget = lock(&self.budgets).entry(host).or_default().clone();
        Repository::destination(
            self.http.clone(),
            credentials.registry.clone(),
            name,
            credentials.destination.clone(),
            budget,
        )
        .counted_in(requests.destination_counter())
    }

    /// The rule's token, else the general one, else none: public images are read anonymously.
    async fn source_credential(
        &self,
        token_secret_id: Option<&str>,
        freshness: Freshness,
    ) -> Result<Option<Credential>> {
        let general = self.settings.ghcr_token_secret_id.as_deref();
        let Some(id) = token_secret_id.or(general) else {
            return Ok(None);
        };
        let (password, username) = self.aws.ghcr_token(id, freshness).await?;
        let username = username.unwrap_or_else(|| "token".to_owned());
        Ok(Some(Credential { username, password }))
    }

    /// The registry that the destination names, else the configured one, else the caller's own ECR.
    async fn destination_access(
        &self,
        destination: &Destination,
        freshness: Freshness,
    ) -> Result<(Endpoint, Credential)> {
        let host = destination.registry.as_deref();
        let region = host.and_then(ecr_region);
        let authorization = self.aws.ecr_authorization(region, freshness).await?;
        let configured = self.settings.destination_registry.as_ref();
        let registry = match (host, configured) {
            (Some(host), Some(configured)) if configured.host() == host => configured.clone(),
            (Some(host), _) => Endpoint::parse(host).map_err(Error::Event)?,
            (None, Some(configured)) => configured.clone(),
            (None, None) => authorization.registry,
        };
        let credential = Credential {
            username: authorization.username,
            password: authorization.password,
        };
        Ok((registry, credential))
    }
}

impl Credentials {
    /// Whether `other` has the same secret for one side.
    fn is_same(&self, other: &Credentials, side: Side) -> bool {
        match side {
            Side::Source => is_same(self.source.as_ref(), other.source.as_ref()),
            Side::Destination => is_same(Some(&self.destination), Some(&other.destination)),
        }
    }
}

fn is_same(one: Option<&Credential>, other: Option<&Credential>) -> bool {
    let secret = |credential: &Credential| credential.password.expose_secret().to_owned();
    one.map(secret) == other.map(secret)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
