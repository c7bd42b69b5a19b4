//! A scheduled run: from the rules to the tags that differ between the registries.
//!
//! GitHub never repeats a webhook by itself, so this is what makes sure that nothing is lost. It only looks: a tag that is up to
//! date costs one HEAD request to each registry, and one that is not becomes a job. Jobs are enqueued as they are found, so a run
//! that meets its deadline has done something; and every run has an order of its own, so that no package is always the last. What
//! fails for every tag of a package alike is found out once and reported once.
//!
//! Where a rule asks for signatures and attestations, those that came after their image are brought in the run itself.

mod ages;
mod immutable;
mod packages;
mod prune;
mod repositories;
mod signatures;
mod signed;
mod tags;
mod tokens;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use tokio::sync::OnceCell;

use self::ages::Ages;
use self::immutable::ImmutableTags;
use self::packages::Compared;
use self::prune::Pruned;
use self::signed::Verdicts;
use self::tags::{Comparison, Differs, Place};
use crate::copy::report::{Outcome, Report, Subject};
use crate::deadline::Deadline;
use crate::destination::Destination;
use crate::error::Error;
use crate::invocation::Invocation;
use crate::job::{Job, Options, Origin};
use crate::manifest::Digest;
use crate::reference::Source;
use crate::referrers::ReferrerTags;
use crate::registry::Repository;
use crate::reports::{Cause, Reports};
use crate::repositories::Key;
use crate::retry::retry;
use crate::rules::Glob;
use crate::rules::glob::is_glob;

/// HEAD requests under way at once, to both sides together. A process on Lambda may have 1,024 files open, sockets among them, and a
/// rule may have 64 destinations. (AWS Lambda developer guide, "Lambda quotas")
const REQUESTS: usize = 32;

/// So many tags are compared before what differs among them is handed over.
const COMPARED_TOGETHER: usize = 256;

/// So many jobs are handed over before their reports are written.
const HANDED_OVER_TOGETHER: usize = 60;

/// Comparing ends so long before the deadline, so that what was found can still be handed over.
const HANDING_OVER: Duration = Duration::from_secs(2);

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

/// What the parts of a run share.
struct Run<'a> {
    invocation: &'a Invocation<'a>,
    /// When comparing has to end.
    deadline: Deadline,
    dry_run: bool,
    /// Repositories that were put right.
    looked_at: Mutex<HashSet<Key>>,
    immutable: ImmutableTags,
    /// Whether the tags of any package could be listed.
    has_looked: AtomicBool,
}

/// Compares all packages in scope, and makes copies or jobs of what differs.
pub async fn run(invocation: &Invocation<'_>, scope: &Scope, reports: &mut Reports) {
    let deadline = invocation.shared.deadline;
    let begin = SystemTime::now();
    reports.caused_by(Cause {
        origin: Some(Origin::Schedule),
        dry_run: scope.dry_run,
        ..Cause::default()
    });
    let run = Run {
        invocation,
        deadline: deadline.within(deadline.remaining().saturating_sub(HANDING_OVER)),
        dry_run: scope.dry_run,
        looked_at: Mutex::default(),
        immutable: ImmutableTags::default(),
        has_looked: AtomicBool::new(false),
    };
    let mut packages = run.packages(scope, reports).await;
    // Were they only rotated, whatever comes right behind a package that takes a whole run would hardly ever be reached.
    packages.sort_by_cached_key(|compared| {
        Digest::of(format!("{} {}", invocation.nonce, compared.package).as_bytes())
    });
    let mut packages = packages.into_iter();
    while let Some(compared) = packages.next() {
        if run.deadline.is_over() {
            let left = std::iter::once(compared).chain(packages.by_ref());
            not_reached(left, reports);
            break;
        }
        // Boxed, as it is large.
        Box::pin(run.compare(&compared, reports)).await;
    }
    run.look_at_tokens(begin).await;
    let has_looked = run.has_looked.into_inner();
    reports.extend(run.immutable.reports());
    if reports.is_empty() {
        let reason = match &scope.packages {
            Some(globs) => {
                let globs: Vec<&str> = globs.iter().map(Glob::as_str).collect();
                format!("no package that has a rule matches {}", globs.join(", "))
            }
            None => "there is no rule".to_owned(),
        };
        reports.add(Report::ignored(None, reason));
    }
    // With a token that is refused, for one, a run gets to its end and has seen nothing. What fails for one package or owner alone may
    // do so for ever, and says nothing of the others.
    let is_blind = !has_looked && reports.has(Outcome::Failed);
    let is_whole = scope.packages.is_none() && !reports.has(Outcome::Deferred);
    if is_whole && !scope.dry_run && !is_blind {
        reports.completed_run();
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

impl Run<'_> {
    /// Compares every tag of a package that its rule admits, and hands over what differs as it is found. A tag that can't be looked
    /// at is reported, and stops none of the others.
    async fn compare(&self, compared: &Compared<'_>, reports: &mut Reports) {
        let Compared { rule, package } = compared;
        let subject = || Some(Subject::package(package));
        let places = self.places(compared, reports).await;
        if places.is_empty() {
            return;
        }
        let registries = &self.invocation.copier.registries;
        let source = registries.source(package, rule.token_secret_id());
        let listed = retry(source.observer(), || source.tags());
        let listed = match self.deadline.bound(listed).await {
            Ok(tags) => tags,
            Err(error) => return reports.add(Report::failed(subject(), error)),
        };
        self.has_looked.store(true, Ordering::Relaxed);
        let all: HashSet<String> = match rule.prune() {
            true => listed.iter().cloned().collect(),
            false => HashSet::new(),
        };
        let signatures = rule.referrers().then(|| ReferrerTags::among(&listed));
        let tags = rule.tags().admitted(listed);
        if tags.is_empty() {
            let reason = "it has no tag that the rule admits".to_owned();
            return reports.add(Report::ignored(subject(), reason));
        }
        let ages = Ages::new(self.invocation, rule, package);
        self.put_right(compared, &places, (&tags, &ages), reports)
            .await;
        let of_age = self.of_age(&ages, compared, &places, &source, tags, reports);
        let Some((mut tags, newest, younger)) = of_age.await else {
            return;
        };
        let start = self.elsewhere(tags.len());
        tags.rotate_left(start);
        let comparison = Comparison {
            package,
            source: &source,
            places: &places,
            ages: &ages,
            immutable: &self.immutable,
            newest: &newest,
            younger: &younger,
            memory: &self.invocation.shared.memory,
            repositories: &self.invocation.copier.repositories,
            dry_run: self.dry_run,
        };
        let left = self
            .compare_tags(compared, &comparison, &tags, reports)
            .await;
        if let Some(signatures) = signatures.filter(|_| left == 0) {
            Box::pin(self.compare_signatures(&source, &places, &signatures, reports)).await;
        }
        for place in &places {
            reports.extend(place.refusal(package));
        }
        reports.extend(ages.report());
        if rule.prune() && left == 0 {
            let pruned = Pruned {
                rule,
                package,
                source: &source,
                listed: &all,
            };
            self.prune(&pruned, &places, reports).await;
        }
    }

    /// The newest of those tags that are old enough, where the rule asks for both; all of them otherwise. Beside them the newest one for
    /// a destination that has one tag for all, which has to be old enough too, and those that were pushed after it. Reports those whose
    /// age is not known; none are left if the deadline comes.
    async fn of_age(
        &self,
        ages: &Ages<'_>,
        compared: &Compared<'_>,
        places: &[Place],
        source: &Repository,
        tags: Vec<String>,
        reports: &mut Reports,
    ) -> Option<(Vec<String>, String, Vec<String>)> {
        let rule = compared.rule;
        let is_one_for_all = |place: &Place| place.destination.tag.is_one_for_all();
        let count = match rule.tags().newest_of_age() {
            Some(count) => count,
            None if rule.min_age().is_some() && places.iter().any(is_one_for_all) => 1,
            None => {
                let newest = tags.last().cloned().unwrap_or_default();
                return Some((tags, newest, Vec::new()));
            }
        };
        let newest = async { Ok(ages.newest(&tags, count).await) };
        let (of_age, refused) = match self.deadline.bound(newest).await {
            Ok(newest) => newest,
            Err(error) => {
                let subject = Some(Subject::package(&compared.package));
                reports.add(Report::failed(subject, error));
                return None;
            }
        };
        // Where all tags are compared, each of these is told of by itself.
        if rule.tags().newest_of_age().is_some() || places.iter().all(is_one_for_all) {
            reports.extend(refused.into_iter().map(|(tag, reason)| {
                let source = source.reference(&tag);
                Report::ignored(Some(Subject::Image { source }), reason)
            }));
        }
        let newest = of_age.last().cloned().unwrap_or_default();
        let younger = tags.iter().rev().take_while(|tag| **tag != newest);
        let younger = younger.cloned().collect();
        let tags = match rule.tags().newest_of_age() {
            Some(_) => of_age,
            None => tags,
        };
        Some((tags, newest, younger))
    }

    /// Compares tags, and hands over what differs as it is found. Gives how many were not compared.
    async fn compare_tags(
        &self,
        compared: &Compared<'_>,
        comparison: &Comparison<'_>,
        tags: &[String],
        reports: &mut Reports,
    ) -> usize {
        let at_once = (REQUESTS / (comparison.places.len() + 1)).max(1);
        let mut left = tags.len();
        let verdicts = Verdicts::default();
        for together in tags.chunks(COMPARED_TOGETHER) {
            let looks = together.iter().map(async |tag| {
                let (mut looked, differs) = comparison.tag(tag).await?;
                let judge = self.judge(compared, comparison.source, &verdicts, &mut looked);
                // Boxed, as it is large.
                Box::pin(judge).await;
                Ok((looked, differs))
            });
            // In no order: one that takes long keeps none of the others from being handed over.
            let mut looks = stream::iter(looks).buffer_unordered(at_once);
            let mut jobs = Vec::new();
            let end = loop {
                let next = async { looks.next().await.transpose() };
                match self.deadline.bound(next).await {
                    Ok(Some((looked, differs))) => {
                        left -= 1;
                        reports.extend(looked);
                        jobs.extend(differs.map(|differs| self.job(compared, differs)));
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            drop(looks);
            self.hand_over(&jobs, reports).await;
            if let Err(error) = end {
                let count = tags.len();
                let subject = Some(Subject::package(&compared.package));
                let mut report = Report::failed(subject, error);
                report.reason = Some(format!(
                    "{left} of {count} tags were not compared in this run"
                ));
                reports.add(report);
                break;
            }
            if comparison.places.iter().all(Place::is_refused) {
                break;
            }
        }
        left
    }

    /// The destinations of a package. One that can't be reached stops none of the others.
    async fn places(&self, compared: &Compared<'_>, reports: &mut Reports) -> Vec<Place> {
        let Compared { rule, package } = compared;
        let mut places = Vec::new();
        let destinations = match rule.destinations(&Source::tagged(package, "tag"), None) {
            Ok(destinations) => destinations,
            Err(reason) => {
                reports.add(Report::ignored(Some(Subject::package(package)), reason));
                return places;
            }
        };
        for destination in destinations {
            let opened = self.invocation.copier.registries.destination(&destination);
            match self.deadline.bound(opened).await {
                Ok(repository) => places.push(Place {
                    destination,
                    repository: repository.observed(),
                    exists: OnceCell::new(),
                    archived: OnceCell::new(),
                    refusal: OnceLock::new(),
                }),
                Err(error) => {
                    let subject = to_place(package, &destination);
                    reports.add(Report::failed(Some(subject), error));
                }
            }
        }
        places
    }

    /// Whether a repository was not looked at before in this run.
    fn is_first_look(&self, repository: Key) -> bool {
        let looked_at = self.looked_at.lock();
        let mut looked_at = looked_at.unwrap_or_else(PoisonError::into_inner);
        looked_at.insert(repository)
    }

    /// Nothing came of the first look at a repository.
    fn look_again(&self, repository: &Key) {
        let looked_at = self.looked_at.lock();
        let mut looked_at = looked_at.unwrap_or_else(PoisonError::into_inner);
        looked_at.remove(repository);
    }

    fn job(&self, compared: &Compared<'_>, (tag, destinations): Differs) -> Job {
        let Compared { rule, package } = compared;
        let options = Options {
            referrers: rule.referrers(),
            dry_run: self.dry_run,
            origin: Some(Origin::Schedule),
            ..Options::default()
        };
        Job {
            source: Source::tagged(package, &tag),
            destinations,
            options,
        }
    }

    async fn hand_over(&self, jobs: &[Job], reports: &mut Reports) {
        for jobs in jobs.chunks(HANDED_OVER_TOGETHER) {
            reports.extend(match self.dry_run {
                true => self.invocation.copy_all(jobs.to_vec()).await,
                false => self.invocation.enqueue(jobs.to_vec()).await,
            });
        }
    }

    /// A position that differs from run to run.
    fn elsewhere(&self, length: usize) -> usize {
        let digits = Digest::of(self.invocation.nonce.as_bytes()).encoded();
        let number = usize::from_str_radix(&digits[..8], 16).unwrap_or_default();
        number.checked_rem(length).unwrap_or_default()
    }
}

/// All tags of a package, to one of its destinations.
fn to_place(package: &str, destination: &Destination) -> Subject {
    Subject::Place {
        source: package.to_owned(),
        destination: destination.place(),
    }
}
