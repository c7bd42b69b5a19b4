//! One job, from its references to its reports: opens the repositories, has the engine copy, brings signatures and attestations where
//! the job asks for them, and finds the other tags that were pushed with the one that GitHub named.

mod creating;
mod left_out;
mod packages;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{FutureExt, future};
use secrecy::SecretString;

pub use self::left_out::Held;

use crate::copy::report::{Report, Subject};
use crate::copy::{Copy, Gate, Shared, Target};
use crate::destination::{Destination, two_forms};
use crate::error::{Error, Kind, Result};
use crate::github::{GitHub, Named};
use crate::job::{Job, Options};
use crate::manifest::Digest;
use crate::observer::Observer;
use crate::platform::Form;
use crate::reference::{ReferrerTag, Source, Version};
use crate::referrers::Referrers;
use crate::registries::Registries;
use crate::registry::Repository;
use crate::repositories::Repositories;
use crate::retry::Retry;
use crate::rules::{Rule, Rules, not_an_image};
use crate::token::Token;

/// So often GitHub is asked again for the other tags of a push. A stalled answer takes fifteen seconds each time.
const LOOKUP_RETRIES: usize = 2;

/// What it takes to carry out jobs. Lives as long as the process.
pub struct Copier {
    /// How the registries are reached.
    pub registries: Registries,
    /// GitHub's API.
    pub github: GitHub,
    /// Creates and puts right the destinations' repositories.
    pub repositories: Arc<Repositories>,
}

impl Copier {
    /// The same with a token that was lent for one copy: everything is read with it, and nothing that it lets see is kept.
    pub fn with_lent_token(&self, token: SecretString) -> Self {
        Copier {
            registries: self.registries.with_lent_token(token),
            github: self.github.anew(),
            repositories: self.repositories.clone(),
        }
    }

    /// Makes the copy that a job asks for, and gives a report for each destination. One that can't be opened or fails stops none of
    /// the others.
    ///
    /// A job of a webhook or of a schedule is ignored if the rule does not admit its tag; a direct event is not filtered.
    ///
    /// Where the job asks for them, signatures and attestations come along; one that is about nothing else brings those alone.
    pub async fn copy(&self, job: &Job, rules: &Rules, shared: &Shared) -> Vec<Report> {
        if let Some(tag) = job.referrer_tag() {
            return Box::pin(self.copy_referrers(job, tag, rules, shared)).await;
        }
        if let Some(reason) = self.refusal(job, rules) {
            let source = self.source_name(job);
            return vec![Report::ignored(Some(Subject::Image { source }), reason)];
        }
        let rule = rules.find(&job.source.package);
        match rule.and_then(|rule| Some((rule, rule.repository()?))) {
            Some(ruled) if ruled.1.create => {
                Box::pin(self.copy_creating(job, rules, shared, ruled)).await
            }
            _ => self.copy_to_existing(job, rules, shared).await,
        }
    }

    /// Makes the copy to repositories that exist, or that ECR creates on push.
    async fn copy_to_existing(&self, job: &Job, rules: &Rules, shared: &Shared) -> Vec<Report> {
        let opened = job.destinations.iter().map(async |destination| {
            let tag = destination.tag.fill(&job.source.version);
            let target = Target {
                tag: tag.map_err(Error::Rule)?,
                form: destination.form.clone(),
            };
            let opened = self.registries.destination(destination);
            Ok((target, shared.deadline.bound(opened).await?))
        });
        let opened = future::join_all(opened).await;
        let mut copy = Copy {
            source: self
                .registries
                .source(&job.source.package, token_of(job, rules)),
            version: &job.source.version,
            destinations: Vec::new(),
            targets: Vec::new(),
            dry_run: job.options.dry_run,
            force: job.options.force,
            subject: None,
            gate: self.gate(job, rules),
        };
        let mut failed = Vec::new();
        for (position, (opened, destination)) in
            opened.into_iter().zip(&job.destinations).enumerate()
        {
            let reference = destination.reference(&job.source.version);
            let opened = opened.and_then(|(target, repository)| {
                match is_in_another_form(&copy, &target, &repository) {
                    true => Err(Error::Rule(two_forms(&reference))),
                    false => Ok((target, repository)),
                }
            });
            match opened {
                Ok((target, repository)) => {
                    copy.destinations.push(repository);
                    copy.targets.push(target);
                }
                Err(error) => {
                    let subject = self.subject(job, destination);
                    failed.push((position, Report::failed(Some(subject), error)));
                }
            }
        }
        // Boxed, as a copy is a large future inside several others.
        let mut reports = match copy.destinations.is_empty() {
            true => Vec::new(),
            false => Box::pin(copy.run(shared)).await,
        };
        if job.options.referrers {
            let forms: Vec<Form> = copy.targets.iter().map(|it| it.form.clone()).collect();
            let referrers = referrers(job, &copy.source, &copy.destinations, shared);
            Box::pin(referrers.of_image(&forms, &mut reports)).await;
        }
        for (position, report) in failed {
            reports.insert(position, report);
        }
        reports
    }

    /// The referrers of the manifest that a tag is made of, as something was pushed under that tag.
    async fn copy_referrers(
        &self,
        job: &Job,
        tag: ReferrerTag,
        rules: &Rules,
        shared: &Shared,
    ) -> Vec<Report> {
        let opened = job.destinations.iter().map(|destination| {
            let opened = self.registries.destination(destination);
            shared.deadline.bound(opened)
        });
        let (mut destinations, mut failed) = (Vec::new(), Vec::new());
        for (position, opened) in future::join_all(opened).await.into_iter().enumerate() {
            match opened {
                Ok(repository) => destinations.push(repository),
                Err(error) => {
                    let subject = self.subject(job, &job.destinations[position]);
                    failed.push((position, Report::failed(Some(subject), error)));
                }
            }
        }
        let source = self
            .registries
            .source(&job.source.package, token_of(job, rules));
        let referrers = referrers(job, &source, &destinations, shared);
        let name = self.source_name(job);
        let announced = job.source.version.announced();
        let mut reports = referrers.of_tag(tag, announced, &name).await;
        for (position, report) in failed {
            reports.insert(position, report);
        }
        reports
    }

    /// What a job is about, before its repositories are opened.
    pub fn subject(&self, job: &Job, destination: &Destination) -> Subject {
        Subject::Copy {
            source: self.source_name(job),
            destination: destination.reference(&job.source.version),
        }
    }

    /// The source's reference at the host where it is read.
    pub fn source_name(&self, job: &Job) -> String {
        job.source.reference(&self.registries.hosts.source)
    }

    fn refusal(&self, job: &Job, rules: &Rules) -> Option<String> {
        let tag = job
            .source
            .version
            .tag()
            .filter(|_| job.options.origin.is_some())?;
        rules.find(&job.source.package)?.refusal(tag)
    }

    /// Keeps back what is not old enough for the rule, or of an unknown age. As with its tag, a direct event is not asked.
    fn gate<'a>(&'a self, job: &'a Job, rules: &'a Rules) -> Option<Gate<'a>> {
        let rule = rules.find(&job.source.package)?;
        let min_age = rule.min_age().filter(|_| job.options.origin.is_some())?;
        let package = &job.source.package;
        Some(Box::new(move |digest| {
            let refusal = async move {
                let named = Named::Digest(&digest);
                match self.age_refusal(rule, package, named).await {
                    Ok(refusal) => refusal,
                    Err(error) => Some(min_age.refusal_of_unknown(error)),
                }
            };
            refusal.boxed()
        }))
    }

    /// Why a version of a package is not copied because of its age: it is too young for the rule, or GitHub does not list it with its
    /// time.
    ///
    /// # Errors
    /// What GitHub's API refuses: then the age is not known either.
    pub async fn age_refusal(
        &self,
        rule: &Rule,
        package: &str,
        named: Named<'_>,
    ) -> Result<Option<String>> {
        let Some(min_age) = rule.min_age() else {
            return Ok(None);
        };
        let created_at =
            self.registries
                .with_token(rule.token_secret_id(), |token: Option<Token>| async move {
                    let token = token.ok_or_else(|| without_token(package))?;
                    persistently(|| self.github.created_at(Some(&token), package, named)).await
                });
        Ok(match created_at.await? {
            Some(created_at) => min_age.refusal(created_at, SystemTime::now()),
            None => Some(min_age.refusal_of_unknown("it does not list the version with a time")),
        })
    }

    /// The jobs for the other tags of the digest that was announced, and of the one that the tag had when it was copied: to the same
    /// destinations, with the same options, as far as the rule admits them. GitHub names any one of several tags that were pushed
    /// together. (docker/metadata-action#300)
    ///
    /// # Errors
    /// What GitHub's API refuses.
    pub async fn other_tags(
        &self,
        job: &Job,
        rules: &Rules,
        copied: Option<Digest>,
    ) -> Result<Vec<Job>> {
        let package = &job.source.package;
        let Some(named) = job.source.version.tag() else {
            let exact = match job.source.version {
                Version::Digest(digest) => vec![digest],
                Version::Tag { .. } => Vec::new(),
            };
            return self.jobs_for_tags(job, rules, exact, None, false).await;
        };
        let digests: BTreeSet<Digest> = job
            .source
            .version
            .announced()
            .into_iter()
            .chain(copied)
            .collect();
        let digests = digests.into_iter().collect();
        tracing::debug!(package, named, "looking for other tags");
        self.jobs_for_tags(job, rules, digests, Some(named), copied.is_none())
            .await
    }

    /// `is_left` says that the destinations with one tag for all have not got the image yet: the first of the jobs is for them as well.
    async fn jobs_for_tags(
        &self,
        job: &Job,
        rules: &Rules,
        digests: Vec<Digest>,
        named: Option<&str>,
        is_left: bool,
    ) -> Result<Vec<Job>> {
        let package = &job.source.package;
        let rule = rules.find(package);
        let mut jobs: Vec<Job> = Vec::new();
        for digest in digests {
            let version = self
                .registries
                .with_token(token_of(job, rules), |token| async move {
                    match token {
                        Some(_) => {
                            let github = &self.github;
                            persistently(|| github.version_of(token.as_ref(), package, &digest))
                                .await
                        }
                        None => Err(without_token(package)),
                    }
                })
                .await?;
            for tag in version.map(|version| version.tags).unwrap_or_default() {
                let refusal = rule.map_or_else(|| not_an_image(&tag), |rule| rule.refusal(&tag));
                let destinations = followed(job, named, is_left && jobs.is_empty());
                let is_known = Some(tag.as_str()) == named
                    || jobs
                        .iter()
                        .any(|job| job.source.version.tag() == Some(&tag));
                if refusal.is_none() && !is_known && !destinations.is_empty() {
                    let version = Version::Tag {
                        tag,
                        announced: Some(digest),
                    };
                    jobs.push(Job {
                        source: Source {
                            package: package.clone(),
                            version,
                        },
                        destinations,
                        options: Options {
                            all_tags: false,
                            ..job.options.clone()
                        },
                    });
                }
            }
        }
        Ok(jobs)
    }
}

/// Whether another destination of the copy gets another form of the image under the same tag.
fn is_in_another_form(copy: &Copy<'_>, target: &Target, repository: &Repository) -> bool {
    let mut others = copy.destinations.iter().zip(&copy.targets);
    others.any(|(other, of)| {
        target.tag.is_some()
            && (other.prefix(), &of.tag) == (repository.prefix(), &target.tag)
            && of.form != target.form
    })
}

/// What brings the referrers for a job, with observers of its own.
fn referrers<'a>(
    job: &Job,
    source: &Repository,
    destinations: &[Repository],
    shared: &'a Shared,
) -> Referrers<'a> {
    let destinations = destinations.iter().cloned();
    Referrers {
        source: source.clone().observed(),
        destinations: destinations.map(Repository::observed).collect(),
        dry_run: job.options.dry_run,
        force: job.options.force,
        shared,
    }
}

/// Asks GitHub once more after a fault of a moment, as nobody tells of the other tags again. A rate limit is not waited for: no copy
/// depends on it.
async fn persistently<T, A>(ask: impl Fn() -> A) -> Result<T>
where
    A: Future<Output = Result<T>>,
{
    let observer = Observer::default();
    let mut retry = Retry::default();
    loop {
        match ask().await {
            Err(error)
                if error.retry_after().is_none()
                    && retry.tries() < LOOKUP_RETRIES
                    && retry.is_worth_it(&error) =>
            {
                retry.wait(&error, &observer).await;
            }
            result => return result,
        }
    }
}

/// GitHub tells nobody without a token, so neither the other tags nor a version's time are known.
fn without_token(package: &str) -> Error {
    Error::Api {
        operation: "list versions",
        subject: package.to_owned(),
        kind: Kind::Denied,
        detail: "no token is configured".to_owned(),
        advice: "GitHub lists versions for nobody without a token: set GHCR_TOKEN_SECRET_ID",
        retry_after: None,
    }
}

/// The same destinations for another tag. One whose tag does not follow the source's has the digest already, unless it `is_left`; a
/// tag that is written as the source's own follows it.
fn followed(job: &Job, named: Option<&str>, is_left: bool) -> Vec<Destination> {
    let destinations = job.destinations.iter();
    let follow = destinations.filter_map(|destination| {
        let left = || is_left.then(|| destination.clone());
        destination.followed(named).or_else(left)
    });
    follow.collect()
}

/// The secret with the token for a job's package, if its rule names one.
fn token_of<'a>(job: &Job, rules: &'a Rules) -> Option<&'a str> {
    rules.find(&job.source.package)?.token_secret_id()
}
