//! A scheduled run: from the rules to the tags that differ between the registries.
//!
//! GitHub never repeats a webhook by itself, so this is what makes sure that nothing is lost. It only looks: a tag that is up to
//! date costs one HEAD request to each registry, and one that is not becomes a job. Jobs are enqueued as they are found, so a run
//! that meets its deadline has done something; and every run begins elsewhere, so that no package is always the last.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use futures_util::{StreamExt, future, stream};
use secrecy::SecretString;
use tokio::sync::OnceCell;

use crate::aws::queue::BATCH_SIZE;
use crate::copy::report::{Figures, Outcome, Report, Subject};
use crate::error::{Error, Kind, Result};
use crate::invocation::Invocation;
use crate::job::{Job, Options, Origin};
use crate::manifest::Digest;
use crate::observer::{Counts, Observer};
use crate::reference::{Destination, Source, is_package};
use crate::registry::Repository;
use crate::reports::Reports;
use crate::retry::retry;
use crate::rules::glob::is_glob;
use crate::rules::{Glob, Rule};

/// Tags of one package that are compared at once.
const CONCURRENCY: usize = 16;

/// Jobs that are copied together where there is no queue.
const COPIED_TOGETHER: usize = 64;

/// So many packages are named that a run did not reach.
const NAMED: usize = 20;

/// What a run looks at.
#[derive(Debug, Default)]
pub struct Scope {
    /// Only packages that one of these matches; all that have a rule if there is none.
    pub packages: Option<Vec<Glob>>,
    /// Plan the copies only.
    pub dry_run: bool,
}

impl Scope {
    fn admits(&self, package: &str) -> bool {
        let globs = self.packages.as_ref();
        globs.is_none_or(|globs| globs.iter().any(|glob| glob.is_match(package)))
    }

    /// Whether a package of `owner` may be in the scope, so that it is worth listing them.
    fn may_admit(&self, owner: &str) -> bool {
        let globs = self.packages.as_ref();
        globs.is_none_or(|globs| globs.iter().any(|glob| may_match_owner(glob, owner)))
    }
}

/// The owner of a glob is nearly always written out.
fn may_match_owner(glob: &Glob, owner: &str) -> bool {
    let written = glob.as_str().split('/').next().unwrap_or_default();
    is_glob(written) || written == owner
}

/// A package to compare, and its rule: the first one that matches it.
struct Compared<'a> {
    rule: &'a Rule,
    package: String,
}

/// Compares all packages in scope, and makes copies or jobs of what differs.
pub async fn run(invocation: &Invocation<'_>, scope: &Scope, reports: &mut Reports) {
    let mut packages = packages(invocation, scope, reports).await;
    let start = elsewhere(invocation, packages.len());
    packages.rotate_left(start);
    let mut packages = packages.into_iter();
    while let Some(compared) = packages.next() {
        if invocation.shared.deadline.is_over() {
            let left = std::iter::once(compared).chain(packages);
            return not_reached(left, reports);
        }
        // Boxed, as it is large.
        Box::pin(compare(invocation, &compared, scope.dry_run, reports)).await;
    }
    if reports.is_empty() {
        let reason = match &scope.packages {
            Some(globs) => {
                let globs: Vec<&str> = globs.iter().map(Glob::as_str).collect();
                format!("no package that has a rule matches {}", globs.join(", "))
            }
            None => "no package that has a rule has a tag that the rule admits".to_owned(),
        };
        reports.add(Report::ignored(None, reason));
    }
}

/// The packages that were not looked at, named as far as there is room.
fn not_reached<'a>(left: impl Iterator<Item = Compared<'a>>, reports: &mut Reports) {
    let left: Vec<String> = left.map(|compared| compared.package).collect();
    let named = left
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = match left.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let subject = left.first().map(|package| Subject::package(package));
    let mut report = Report::failed(subject, Error::Deadline);
    report.reason = Some(format!("not compared in this run: {named}{more}"));
    reports.add(report);
}

/// A position that differs from run to run.
fn elsewhere(invocation: &Invocation<'_>, length: usize) -> usize {
    let digits = Digest::of(invocation.nonce.as_bytes()).encoded();
    let number = usize::from_str_radix(&digits[..8], 16).unwrap_or_default();
    number.checked_rem(length).unwrap_or_default()
}

/// The packages to compare. Rules whose packages can't be listed become reports, and so do rules without a package.
async fn packages<'a>(
    invocation: &'a Invocation<'_>,
    scope: &Scope,
    reports: &mut Reports,
) -> Vec<Compared<'a>> {
    let rules = &invocation.rules;
    let mut listed: HashMap<(&str, Option<&str>), Listing> = HashMap::new();
    let mut found = Vec::new();
    for rule in rules.iter() {
        let (owner, name) = rule.owner_and_name();
        if !scope.may_admit(owner) {
            continue;
        }
        let packages = match name {
            Some(name) => Ok(Arc::new(vec![format!("{owner}/{name}")])),
            // Several rules may be about one owner.
            None => match listed.entry((owner, rule.token_secret_id())) {
                Entry::Occupied(listing) => listing.get().clone(),
                Entry::Vacant(place) => {
                    let listing = invocation
                        .shared
                        .deadline
                        .bound(list(invocation, rule, owner));
                    let listing = listing.await;
                    if let Err(error) = &listing {
                        let subject = Subject::Owner {
                            owner: owner.to_owned(),
                        };
                        reports.add(Report::failed(Some(subject), error.clone()));
                    }
                    place.insert(listing).clone()
                }
            },
        };
        let Ok(packages) = packages else {
            continue;
        };
        let is_rules = |package: &&String| {
            rules
                .find(package)
                .is_some_and(|first| std::ptr::eq(first, rule))
        };
        let mut of_rule = packages.iter().filter(is_rules).peekable();
        if of_rule.peek().is_none() && scope.packages.is_none() {
            let subject = Subject::Rule {
                rule: rule.source().to_owned(),
            };
            let reason = "no package that the token can see is this rule's: either none matches it, or a rule before it does";
            reports.add(Report::ignored(Some(subject), reason.to_owned()));
        }
        for package in of_rule.filter(|package| scope.admits(package)) {
            match is_package(package) {
                true => found.push(Compared {
                    rule,
                    package: package.clone(),
                }),
                false => reports.add(Report::ignored(
                    Some(Subject::package(package)),
                    "its name is not one that registries take".to_owned(),
                )),
            }
        }
    }
    found
}

/// The packages of an owner, in order, as far as a token can see them.
type Listing = Result<Arc<Vec<String>>>;

async fn list(invocation: &Invocation<'_>, rule: &Rule, owner: &str) -> Listing {
    let copier = invocation.copier;
    let observer = &Observer::default();
    let list = |token: Option<SecretString>| async move {
        retry(observer, || copier.github.packages(token.as_ref(), owner)).await
    };
    let names = copier
        .registries
        .with_token(rule.token_secret_id(), list)
        .await?;
    let mut packages: Vec<String> = names.iter().map(|name| format!("{owner}/{name}")).collect();
    packages.sort();
    packages.dedup();
    Ok(Arc::new(packages))
}

/// A destination of a package, whose tags are compared.
struct Place {
    /// With any tag.
    destination: Destination,
    repository: Repository,
    /// Whether the repository is there, or made when something is pushed: found out once, when a tag is not there.
    exists: OnceCell<Result<()>>,
}

/// Compares every tag of a package that its rule admits, and copies or enqueues what differs as it is found. A tag that can't be
/// looked at is reported, and stops none of the others.
async fn compare(
    invocation: &Invocation<'_>,
    compared: &Compared<'_>,
    dry_run: bool,
    reports: &mut Reports,
) {
    let Compared { rule, package } = compared;
    let subject = || Some(Subject::package(package));
    let copier = invocation.copier;
    let deadline = invocation.shared.deadline;
    let destinations = match rule.destinations(&Source::tagged(package, "tag")) {
        Ok(destinations) => destinations,
        Err(reason) => return reports.add(Report::ignored(subject(), reason)),
    };
    let mut places = Vec::new();
    for destination in destinations {
        match deadline
            .bound(copier.registries.destination(&destination))
            .await
        {
            Ok(repository) => {
                let repository = repository.observed();
                places.push(Place {
                    destination,
                    repository,
                    exists: OnceCell::new(),
                });
            }
            Err(error) => {
                let source = package.clone();
                let destination = Destination {
                    tag: None,
                    ..destination
                }
                .to_string();
                reports.add(Report::failed(
                    Some(Subject::Copy {
                        source,
                        destination,
                    }),
                    error,
                ));
            }
        }
    }
    let source = copier.registries.source(package, rule.token_secret_id());
    let tags = deadline
        .bound(retry(source.observer(), || source.tags()))
        .await;
    let mut tags = match tags {
        Ok(tags) => rule.admitted(tags),
        Err(error) => return reports.add(Report::failed(subject(), error)),
    };
    let start = elsewhere(invocation, tags.len());
    tags.rotate_left(start);
    let count = tags.len();
    let chunk = match invocation.queue {
        Some(_) if !dry_run => BATCH_SIZE,
        _ => COPIED_TOGETHER,
    };
    let mut found = Vec::new();
    let mut looks = stream::iter(tags)
        .map(|tag| compare_tag(&source, &places, tag, dry_run))
        .buffered(CONCURRENCY);
    let mut done = 0;
    loop {
        match deadline.bound(async { Ok(looks.next().await) }).await {
            Ok(Some((looked, job))) => {
                done += 1;
                reports.extend(looked);
                found.extend(job.map(|job| named(job, package)));
            }
            Ok(None) => break,
            Err(error) => {
                let mut report = Report::failed(subject(), error);
                report.reason = Some(format!(
                    "{} of {count} tags were not compared in this run",
                    count - done
                ));
                reports.add(report);
                break;
            }
        }
        if found.len() >= chunk {
            reports.extend(carry_out(invocation, std::mem::take(&mut found), dry_run).await);
        }
    }
    drop(looks);
    reports.extend(carry_out(invocation, found, dry_run).await);
    for place in &places {
        if let Some(Err(error)) = place.exists.get() {
            let source = package.clone();
            let destination = Destination {
                tag: None,
                ..place.destination.clone()
            }
            .to_string();
            let subject = Subject::Copy {
                source,
                destination,
            };
            reports.add(Report::failed(Some(subject), error.clone()));
        }
    }
}

async fn carry_out(invocation: &Invocation<'_>, jobs: Vec<Job>, dry_run: bool) -> Vec<Report> {
    match dry_run {
        true => invocation.copy_all(jobs).await,
        false => invocation.enqueue(jobs).await,
    }
}

/// The job for what was found.
fn named((tag, destinations, dry_run): Differs, package: &str) -> Job {
    let options = Options {
        dry_run,
        origin: Some(Origin::Schedule),
        ..Options::default()
    };
    Job {
        source: Source::tagged(package, &tag),
        destinations,
        options,
    }
}

/// A tag, and the destinations where it stands for something else than at the source.
type Differs = (String, Vec<Destination>, bool);

/// One tag against each of its destinations.
async fn compare_tag(
    source: &Repository,
    places: &[Place],
    tag: String,
    dry_run: bool,
) -> (Vec<Report>, Option<Differs>) {
    let name = &tag;
    let at_source = retry(source.observer(), || source.resolve(name));
    let at_destinations = places.iter().map(|place| {
        retry(place.repository.observer(), || {
            place.repository.resolve(name)
        })
    });
    let (at_source, at_destinations) =
        future::join(at_source, future::join_all(at_destinations)).await;
    let (mut reports, mut differs) = (Vec::new(), Vec::new());
    for (place, at_destination) in places.iter().zip(at_destinations) {
        let subject = Subject::Copy {
            source: source.reference(name),
            destination: place.repository.reference(name),
        };
        match (&at_source, at_destination) {
            (Ok(None), _) => {
                let reason = "the tag was deleted at the source meanwhile".to_owned();
                reports.push(Report::ignored(Some(subject), reason));
            }
            (Err(error), _) => reports.push(Report::failed(Some(subject), error.clone())),
            (_, Err(error)) => reports.push(Report::failed(Some(subject), error)),
            (Ok(Some(digest)), Ok(found)) if found == Some(*digest) => {
                reports.push(Report::copy(
                    subject,
                    Ok(Outcome::Current),
                    current(*digest),
                ));
            }
            (_, Ok(found)) => {
                if found.is_some() || place.exists(name, dry_run).await {
                    differs.push(Destination {
                        tag: Some(tag.clone()),
                        ..place.destination.clone()
                    });
                }
            }
        }
    }
    let differs = (!differs.is_empty()).then_some((tag, differs, dry_run));
    (reports, differs)
}

impl Place {
    /// Whether something can be pushed there. A HEAD request does not tell a repository that is not there from a tag that is not, and
    /// hundreds of jobs that fail for the same reason help nobody; so this is found out once, and reported once.
    ///
    /// ECR may make a repository on push, by a creation template; so the answer is that to the first step of a push, or in a dry
    /// run that to a read. What can't be found out now is left to the copies.
    async fn exists(&self, tag: &str, dry_run: bool) -> bool {
        let observer = self.repository.observer();
        let exists = self.exists.get_or_init(async || {
            let expected = || self.repository.expect_exists(tag);
            match (retry(observer, expected).await, dry_run) {
                (Err(error), false) if error.kind() == Kind::NotFound => {
                    match self.repository.takes_pushes().await {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(error),
                        Err(_) => Ok(()),
                    }
                }
                (Err(error), true) if error.kind() == Kind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        exists.await.is_ok()
    }
}

/// Both sides were found to have `digest`, with one request to each.
fn current(digest: Digest) -> Figures {
    let at_source = Counts {
        requests: 1,
        ..Counts::default()
    };
    let at_destination = Counts {
        requests: 1,
        manifests_present: 1,
        ..Counts::default()
    };
    Figures {
        digest: Some(digest),
        source_digest: Some(digest),
        ..Figures::of(at_source, at_destination)
    }
}
