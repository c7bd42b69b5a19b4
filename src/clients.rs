//! What lives as long as the process: the settings, the rules in force, and the clients of every service. The function and the
//! laptop's command are made of the same.

use std::sync::Arc;
use std::time::SystemTime;

use crate::aws::SdkConfig;
use crate::aws::ecr::Ecr;
use crate::aws::events::EventBus;
use crate::aws::queue::Queue;
use crate::aws::repositories::RepositoryApi;
use crate::aws::secrets::Secrets;
use crate::check::Check;
use crate::config::{GHCR_TOKEN, Settings};
use crate::copier::Copier;
use crate::copy::Shared;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::github::GitHub;
use crate::invocation::Invocation;
use crate::publisher::Publisher;
use crate::redaction::KnownSecrets;
use crate::registries::Registries;
use crate::repositories::Repositories;
use crate::rules_in_force::RulesInForce;

/// Everything that is kept between one invocation and the next.
pub struct Clients {
    /// The settings; their rules are in `rules`.
    pub settings: Settings,
    /// The rules in force.
    pub rules: RulesInForce,
    /// Carries out jobs.
    pub copier: Copier,
    /// For the webhook's secret.
    pub secrets: Arc<Secrets>,
    /// Without a queue, every job is copied in the invocation that asks for it.
    pub queue: Option<Queue>,
    /// Tells the event bus, if there is one.
    pub publisher: Option<Publisher>,
}

impl Clients {
    /// Makes the clients, which send everything through `http`. No request is made, unless the rules are in a secret.
    ///
    /// # Errors
    /// What the rules can't be read or used for.
    pub async fn new(
        mut settings: Settings,
        http: reqwest::Client,
        configuration: &SdkConfig,
    ) -> Result<Self> {
        let mut secrets = Secrets::new(configuration);
        if let Some(token) = settings.ghcr_token.take() {
            secrets = secrets.holding(GHCR_TOKEN, token);
        }
        let secrets = Arc::new(secrets);
        let ecr = Arc::new(Ecr::new(configuration));
        let queue = settings.job_queue_url.clone().map(|url| {
            let dead_letter_url = settings.dead_letter_queue_url.clone();
            Queue::new(configuration, url, dead_letter_url)
        });
        let event_bus = settings.event_bus.clone();
        let event_bus = event_bus.map(|name| EventBus::new(configuration, name));
        let repository_api = Arc::new(RepositoryApi::new(configuration));
        let known_secrets = KnownSecrets::default();
        let github_api = settings.github_api_url.clone();
        Ok(Clients {
            rules: RulesInForce::new(&mut settings, secrets.clone()).await?,
            copier: Copier {
                registries: Registries::new(
                    &settings,
                    http.clone(),
                    secrets.clone(),
                    ecr,
                    repository_api.clone(),
                    known_secrets.clone(),
                ),
                github: GitHub::new(http, github_api, known_secrets),
                repositories: Arc::new(Repositories::new(repository_api, settings.hosts.clone())),
            },
            publisher: event_bus.map(Publisher::new),
            secrets,
            queue,
            settings,
        })
    }

    /// What one invocation works with. Its copies share `shared`.
    ///
    /// # Errors
    /// What the rules can't be read for, where there are none yet.
    pub async fn invocation(&self, request_id: &str, shared: Shared) -> Result<Invocation<'_>> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Invocation {
            copier: &self.copier,
            rules: shared.deadline.bound(self.rules.get()).await?,
            queue: self.queue.as_ref(),
            publisher: self.publisher.as_ref(),
            is_repeated: false,
            shared,
            // Lambda repeats a failed invocation under the same request id.
            nonce: format!("{request_id} {}", now.as_nanos()),
        })
    }

    /// What a check looks at.
    pub fn check(&self, deadline: Deadline) -> Check<'_> {
        Check {
            settings: &self.settings,
            rules: &self.rules,
            copier: &self.copier,
            secrets: &self.secrets,
            queue: self.queue.as_ref(),
            event_bus: self.publisher.as_ref().map(Publisher::bus),
            deadline,
        }
    }
}
