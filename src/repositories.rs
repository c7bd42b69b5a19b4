//! Makes sure that destinations' repositories are as their rule says.
//!
//! Looks, decides, acts: what there is and what the rule names give a list of changes, which is carried out. What was seen is
//! remembered for some minutes, so that nothing is asked for each tag.

pub mod difference;
mod images;
mod inspection;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;

use self::difference::{Difference, Looked, difference};
use crate::aws::repositories::{Address, Change, Found, RepositoryApi};
use crate::copy::report::{Report, RepositoryReport};
use crate::destination::Destination;
use crate::endpoint::{Hosts, ecr_account, ecr_region};
use crate::error::{Error, Kind, Result};
use crate::rules::repository::{RepositoryRule, RepositorySettings};

/// How long a repository that was seen is not looked for again.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// So many repositories are remembered, so that a warm process does not grow.
const REMEMBERED_LIMIT: usize = 1000;

/// Creates and puts right the repositories of destinations. Lives as long as the process.
pub struct Repositories {
    api: Arc<RepositoryApi>,
    hosts: Hosts,
    /// By registry host and name. The lock of one makes those who want to create it wait for the first.
    seen: Mutex<HashMap<Key, Arc<AsyncMutex<Seen>>>>,
}

/// A repository, by its registry host as it was written, and its name.
pub type Key = (Option<String>, String);

#[derive(Default)]
struct Seen {
    /// When it was looked for last, and was there or is unknown to be missing.
    looked_at: Option<Instant>,
    /// When it was last created, by this process or by somebody else at the same time.
    created_at: Option<Instant>,
}

/// What was done about a repository, or in a dry run, what would be.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was created or put right; nothing if all agrees.
    pub report: Option<RepositoryReport>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The first of what failed.
    pub error: Option<Error>,
    /// Whether the repository is there now, or would be; `None` if that could not be learnt.
    pub exists: Option<bool>,
}

impl Outcome {
    /// Nothing came of it.
    pub fn failed(error: Error) -> Self {
        Outcome {
            error: Some(error),
            ..Outcome::default()
        }
    }

    fn missing(error: Option<Error>) -> Self {
        Outcome {
            error,
            exists: Some(false),
            ..Outcome::default()
        }
    }

    fn exists() -> Self {
        Outcome {
            exists: Some(true),
            ..Outcome::default()
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_silent(&self) -> bool {
        self.report.is_none() && self.warnings.is_empty() && self.error.is_none()
    }

    /// Adds what was done to the report of a copy.
    pub fn attach(self, report: &mut Report) {
        report.repository = self.report;
        for warning in self.warnings {
            report.warn(warning);
        }
    }
}

/// What tells a repository from the others.
pub fn key(destination: &Destination) -> Key {
    (destination.registry.clone(), destination.repository.clone())
}

impl Repositories {
    /// Makes no call yet.
    pub fn new(api: Arc<RepositoryApi>, hosts: Hosts) -> Self {
        Repositories {
            api,
            hosts,
            seen: Mutex::default(),
        }
    }

    /// Whether the repository is known to be missing: one call, and none for some minutes once it is there. A repository whose
    /// looking is refused counts as there; the copy tells.
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn is_missing(&self, destination: &Destination) -> Result<bool> {
        let seen = self.seen(destination);
        let mut seen = seen.lock().await;
        if seen.looked_at.is_some_and(|at| at.elapsed() < REMEMBERED) {
            return Ok(false);
        }
        let is_missing = match self.api.find(&self.address(destination)).await {
            Ok(found) => found.is_none(),
            Err(error) if error.kind() == Kind::Denied => {
                tracing::debug!(%error, "not looked for");
                false
            }
            Err(error) => return Err(error),
        };
        if !is_missing {
            seen.looked_at = Some(Instant::now());
        }
        Ok(is_missing)
    }

    /// What a dry run says of the creation of a repository.
    ///
    /// # Errors
    /// [`Error::Api`]
    pub async fn plan(&self, destination: &Destination, rule: &RepositoryRule) -> Result<Outcome> {
        if !self.is_missing(destination).await? {
            return Ok(Outcome::exists());
        }
        let (settings, warnings) = self.complete(&self.address(destination), rule).await;
        Ok(would_create(&settings, warnings))
    }

    /// Creates a repository that was found to be missing since `since`. Somebody else may have created it meanwhile: that is a
    /// success, of which there is nothing to report.
    pub async fn create(
        &self,
        destination: &Destination,
        rule: &RepositoryRule,
        since: Instant,
    ) -> Outcome {
        let seen = self.seen(destination);
        let mut seen = seen.lock().await;
        if seen.created_at.is_some_and(|at| at >= since) {
            return Outcome::exists();
        }
        let at = self.address(destination);
        let (settings, mut warnings) = self.complete(&at, rule).await;
        let created = match self.api.create(&at, &settings).await {
            Ok(created) => created,
            Err(error) => {
                return Outcome::missing(Some(error));
            }
        };
        let now = Instant::now();
        (seen.looked_at, seen.created_at) = (Some(now), Some(now));
        let Some(created) = created else {
            return Outcome::exists();
        };
        let lifecycle_policy = settings.lifecycle_policy.clone();
        let policies = lifecycle_policy
            .map(Change::LifecyclePolicy)
            .into_iter()
            .chain(settings.policy.clone().map(Change::Policy));
        let mut done = settings;
        for change in policies {
            if let Err(error) = self.api.change(&at, &created.arn, &change).await {
                match change {
                    Change::LifecyclePolicy(_) => done.lifecycle_policy = None,
                    _ => done.policy = None,
                }
                // The image can arrive all the same.
                warnings.push(format!(
                    "the repository was created, but not all of it is as the rule says; a scheduled run tries again: {error}"
                ));
            }
        }
        Outcome {
            report: Some(RepositoryReport::Created(names(&done))),
            warnings,
            error: None,
            exists: Some(true),
        }
    }

    /// Compares a repository with its rule and puts right what differs, or says in a dry run what it would; creates it if it is
    /// missing, the rule says so, and `is_needed`, which is asked only then.
    pub async fn put_right(
        &self,
        destination: &Destination,
        rule: &RepositoryRule,
        dry_run: bool,
        is_needed: impl AsyncFn() -> Result<bool>,
    ) -> Outcome {
        let since = Instant::now();
        let at = self.address(destination);
        let found = match self.api.find(&at).await {
            Ok(Some(found)) => found,
            Ok(None) if !rule.create => return Outcome::default(),
            Ok(None) => match is_needed().await {
                Err(error) => return Outcome::missing(Some(error)),
                Ok(false) => return Outcome::missing(None),
                Ok(true) if dry_run => {
                    let (settings, warnings) = self.complete(&at, rule).await;
                    return would_create(&settings, warnings);
                }
                Ok(true) => return self.create(destination, rule, since).await,
            },
            Err(error) if error.kind() == Kind::Denied => {
                return self
                    .put_right_blindly(destination, rule, dry_run, is_needed, error)
                    .await;
            }
            Err(error) => return Outcome::failed(error),
        };
        self.seen(destination).lock().await.looked_at = Some(Instant::now());
        let (looked, mut warnings) = self.look(&at, found, &rule.settings).await;
        let Difference { changes, warning } = difference(&rule.settings, &looked);
        warnings.extend(warning);
        let (mut done, mut error) = (Vec::new(), None);
        for (change, before) in changes {
            let shown = format!("{change} (was {before})");
            if dry_run {
                done.push(shown);
                continue;
            }
            match self.api.change(&at, &looked.found.arn, &change).await {
                Ok(()) => done.push(shown),
                Err(refusal) => _ = error.get_or_insert(refusal),
            }
        }
        let report = match dry_run {
            true => RepositoryReport::WouldChange(done.clone()),
            false => RepositoryReport::Changed(done.clone()),
        };
        Outcome {
            report: (!done.is_empty()).then_some(report),
            warnings,
            error,
            exists: Some(true),
        }
    }

    /// Without the right to look: whether the repository is missing is learnt by creating it, and what it is like not at all.
    async fn put_right_blindly(
        &self,
        destination: &Destination,
        rule: &RepositoryRule,
        dry_run: bool,
        is_needed: impl AsyncFn() -> Result<bool>,
        refusal: Error,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if rule.create && !dry_run && matches!(is_needed().await, Ok(true)) {
            outcome = self.create(destination, rule, Instant::now()).await;
            // Perhaps it is there: the copies tell.
            if outcome.error.take().is_some() {
                outcome.exists = None;
            }
        }
        if outcome.report.is_none() && !rule.settings.is_empty() {
            let warning = format!("the repository was not compared with the rule: {refusal}");
            outcome.warnings.push(warning);
        }
        outcome
    }

    /// Looks at what the rule names. What can't be looked at is a warning.
    async fn look(
        &self,
        at: &Address,
        found: Found,
        expected: &RepositorySettings,
    ) -> (Looked, Vec<String>) {
        let mut warnings = Vec::new();
        let mut warn = |error: Error| {
            warnings.push(format!("not compared with the rule: {error}"));
        };
        let lifecycle_policy = match expected.lifecycle_policy {
            Some(_) => self.api.lifecycle_policy(at).await.map_err(&mut warn).ok(),
            None => None,
        };
        let policy = match expected.policy {
            Some(_) => self.api.policy(at).await.map_err(&mut warn).ok(),
            None => None,
        };
        let resource_tags = match expected.resource_tags.is_empty() {
            false => {
                let tags = self.api.resource_tags(at, &found).await;
                tags.map_err(&mut warn).ok()
            }
            true => None,
        };
        let looked = Looked {
            found,
            lifecycle_policy,
            policy,
            resource_tags,
        };
        (looked, warnings)
    }

    /// What the repository is created with: what the rule names, and for the rest what ECR's creation template says. Without the
    /// right to read the templates, the rest is ECR's default, with a warning.
    async fn complete(
        &self,
        at: &Address,
        rule: &RepositoryRule,
    ) -> (RepositorySettings, Vec<String>) {
        match self.api.template(at).await {
            Ok(template) => (rule.settings.or(template.unwrap_or_default()), Vec::new()),
            Err(error) => {
                let warning = format!(
                    "ECR's creation templates could not be read, so they don't count: {error}"
                );
                (rule.settings.clone(), vec![warning])
            }
        }
    }

    fn address(&self, destination: &Destination) -> Address {
        let host = destination.registry.as_deref();
        let host = host.or(self.hosts.destination.as_deref());
        Address {
            region: host.and_then(ecr_region).map(str::to_owned),
            account: host.and_then(ecr_account).map(str::to_owned),
            repository: destination.repository.clone(),
        }
    }

    fn seen(&self, destination: &Destination) -> Arc<AsyncMutex<Seen>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(destination);
        if seen.len() >= REMEMBERED_LIMIT && !seen.contains_key(&key) {
            seen.clear();
        }
        seen.entry(key).or_default().clone()
    }
}

fn would_create(settings: &RepositorySettings, warnings: Vec<String>) -> Outcome {
    Outcome {
        report: Some(RepositoryReport::WouldCreate(names(settings))),
        warnings,
        error: None,
        exists: Some(true),
    }
}

/// What a repository was created with, as its report names it.
fn names(settings: &RepositorySettings) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |change: Change| names.push(change.to_string());
    if let Some(scan) = settings.scan_on_push {
        add(Change::ScanOnPush(scan));
    }
    if let Some(mutability) = &settings.tag_mutability {
        add(Change::TagMutability(mutability.clone()));
    }
    if let Some(policy) = &settings.lifecycle_policy {
        add(Change::LifecyclePolicy(policy.clone()));
    }
    if let Some(policy) = &settings.policy {
        add(Change::Policy(policy.clone()));
    }
    if !settings.resource_tags.is_empty() {
        add(Change::ResourceTags(settings.resource_tags.clone()));
    }
    if let Some(encryption) = &settings.encryption {
        names.push(format!("encryption: {}", encryption.kind));
    }
    names
}
