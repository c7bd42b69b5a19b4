//! A scheduled run: from the rules to the tags that differ between the registries.
//!
//! GitHub never repeats a webhook by itself, so this is what makes sure that nothing is lost. It only looks: a tag that is up to
//! date costs one HEAD request to each registry, and one that is not becomes a job.

use futures_util::{StreamExt, future, stream};
use globset::GlobMatcher;

use crate::access::{Access, Credentials};
use crate::error::{Error, Result};
use crate::github::GitHub;
use crate::job::{Destination, Job, is_repository};
use crate::registry::Repository;
use crate::report::{Copy, Outcome, Report};
use crate::retry::retry;
use crate::rules::Rule;
use crate::tally::Requests;

/// Tags of one package that are compared at once.
const CONCURRENCY: usize = 16;

/// What a run looks at.
#[derive(Debug, Default)]
pub struct Scope {
    /// Only packages that one of these matches; all that have a rule if there is none.
    pub packages: Option<Vec<GlobMatcher>>,
    /// Plan the copies only.
    pub dry_run: bool,
}

/// What was found of a package.
#[derive(Debug, Default)]
pub struct Findings {
    /// Tags that are up to date, and what could not be looked at.
    pub reports: Vec<Report>,
    /// Copies to make.
    pub jobs: Vec<Job>,
}

/// The packages to compare, each with its rule: the first one that matches it. Rules whose packages can't be listed become reports.
pub async fn packages<'a>(
    access: &'a Access,
    github: &GitHub,
    scope: &Scope,
) -> (Vec<(&'a Rule, String)>, Vec<Report>) {
    let rules = &access.settings.rules;
    let is_in_scope = |package: &String| match &scope.packages {
        Some(globs) => globs.iter().any(|glob| glob.is_match(package)),
        None => true,
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for rule in rules.iter() {
        match packages_of(access, github, rule).await {
            Ok(packages) => {
                let is_first = |package: &String| {
                    rules
                        .find(package)
                        .is_some_and(|first| std::ptr::eq(first, rule))
                };
                let packages = packages.into_iter().filter(is_first).filter(is_in_scope);
                found.extend(packages.map(|package| (rule, package)));
            }
            Err(error) => failures.push(Report::failed(error)),
        }
    }
    (found, failures)
}

/// The packages of a rule: the one that it names, or those of its owner that its glob matches.
async fn packages_of(access: &Access, github: &GitHub, rule: &Rule) -> Result<Vec<String>> {
    let (owner, name) = rule.owner_and_name();
    if let Some(name) = name {
        return Ok(vec![format!("{owner}/{name}")]);
    }
    let token_secret_id = rule.token_secret_id();
    let names = access
        .with_token(token_secret_id.as_deref(), async |token| {
            retry(|_| github.packages(token, owner)).await
        })
        .await?;
    let packages = names.iter().map(|name| format!("{owner}/{name}"));
    let (mut packages, odd): (Vec<String>, Vec<String>) =
        packages.partition(|package| is_repository(package));
    if !odd.is_empty() {
        tracing::warn!(?odd, "packages whose names no registry takes are left out");
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// Compares every tag of a package that its rule admits. A tag that can't be looked at is reported, and stops none of the others.
///
/// # Errors
/// What concerns the whole package: its credentials, its list of tags.
pub async fn compare(
    access: &Access,
    rule: &Rule,
    package: &str,
    dry_run: bool,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let token_secret_id = rule.token_secret_id();
    // The repositories are the same for all tags; only their tags differ.
    let places = rule.destinations(package, "tag").map_err(Error::Rule)?;
    let Some(first) = places.first() else {
        return Ok(findings);
    };
    let requests = Requests::default();
    let source_and_tags = async |credentials: &Credentials| {
        let source = access.source(credentials, package, &requests);
        let tags = retry(|_| source.tags()).await?;
        Ok((source, tags))
    };
    let token = token_secret_id.as_deref();
    let (source, tags) = access
        .with_credentials(token, first, source_and_tags)
        .await?;
    let tags = rule.admitted(tags);

    let mut destinations = Vec::new();
    for place in places {
        let credentials = access.kept_credentials(token, &place).await?;
        destinations.push((
            access.destination(&credentials, &place.repository, &requests),
            place,
        ));
    }
    let compared: Vec<Vec<Compared>> = stream::iter(tags)
        .map(|tag| compare_tag(&source, &destinations, tag))
        .buffered(CONCURRENCY)
        .collect()
        .await;
    for compared in compared.into_iter().flatten() {
        match compared {
            Compared::Same(report) => findings.reports.push(*report),
            Compared::Differs { tag, destination } => findings.jobs.push(Job {
                source: source.tagged(&tag),
                destination,
                token_secret_id: token_secret_id.clone(),
                all_tags: false,
                force: false,
                dry_run,
            }),
        }
    }
    Ok(findings)
}

enum Compared {
    Same(Box<Report>),
    Differs {
        tag: String,
        destination: Destination,
    },
}

/// One tag against each of its destinations.
async fn compare_tag(
    source: &Repository,
    destinations: &[(Repository, Destination)],
    tag: String,
) -> Vec<Compared> {
    let tag = &tag;
    let at_source = retry(|_| source.resolve(tag));
    let at_destinations = future::join_all(
        destinations
            .iter()
            .map(|(destination, _)| retry(|_| destination.resolve(tag))),
    );
    let (at_source, at_destinations) = future::join(at_source, at_destinations).await;
    let mut compared = Vec::new();
    for ((destination, place), at_destination) in destinations.iter().zip(at_destinations) {
        let mut copy = Copy::new(source.reference(tag), destination.reference(tag));
        let result = match (&at_source, at_destination) {
            (Ok(None), _) => {
                let reason = format!("{} was deleted meanwhile", source.reference(tag));
                compared.push(Compared::Same(Box::new(Report::ignored(reason))));
                continue;
            }
            (Err(error), _) => Err(error.clone()),
            (_, Err(error)) => Err(error),
            (Ok(Some(wanted)), Ok(found)) if found.as_ref() == Some(wanted) => {
                copy.compared(wanted);
                Ok(Outcome::Current)
            }
            _ => {
                compared.push(Compared::Differs {
                    tag: tag.clone(),
                    destination: Destination {
                        tag: tag.clone(),
                        ..place.clone()
                    },
                });
                continue;
            }
        };
        compared.push(Compared::Same(Box::new(Report::copy(result, copy))));
    }
    compared
}
