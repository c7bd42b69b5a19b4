//! The packages of a rule: whether they can be listed, and one of them read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::destinations::Place;
use super::{Check, Line, Status};
use crate::allowance::Memory;
use crate::copier::{Asked, Copier};
use crate::error::{Error, Result};
use crate::github::Version;
use crate::reference::{Source, is_package};
use crate::registry::Repository;
use crate::repositories::{Key, key};
use crate::retry::retry;
use crate::rules::{Rule, Rules};
use crate::token::Token;

/// So many packages of a glob are looked at, one after the other, until one has something to copy.
const SAMPLES: usize = 5;

type Listing = Arc<OnceCell<Result<Arc<Vec<String>>>>>;

/// The packages of each owner, as a token sees them: listed once, though several rules may be about one owner.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<(String, Option<String>), Listing>>);

/// A package of a rule, for which its destinations are tested.
pub(super) struct Sample {
    package: String,
    /// The tags that a scheduled run would look at, as far as they are known.
    tags: Vec<String>,
}

impl Sample {
    /// The repositories that the package goes to, each with the tags that are written there.
    ///
    /// # Errors
    /// Says which destination has no valid name.
    pub(super) fn places(&self, rule: &Rule) -> Result<Vec<Place>, String> {
        let mut places: Vec<(Key, Place)> = Vec::new();
        for destination in rule.destinations(&Source::tagged(&self.package, "tag"), None)? {
            let key = key(&destination);
            let pattern = destination.tag.clone();
            match places.iter_mut().find(|(other, _)| *other == key) {
                Some((_, place)) => place.patterns.push(pattern),
                None => places.push((
                    key,
                    Place {
                        package: self.package.clone(),
                        patterns: vec![pattern],
                        tags: self.tags.clone(),
                        destination,
                    },
                )),
            }
        }
        Ok(places.into_iter().map(|(_, place)| place).collect())
    }
}

impl Check<'_> {
    /// The line for a rule's packages, and one of them; none if no name is known.
    pub(super) async fn packages(
        &self,
        rules: &Rules,
        rule: &Rule,
        listings: &Listings,
    ) -> (Vec<Line>, Option<Sample>) {
        let (owner, name) = rule.owner_and_name();
        if let Some(name) = name {
            return self.package(rule, format!("{owner}/{name}")).await;
        }
        let check = format!("packages of {}", rule.source());
        let listed = match self.list(rule, owner, listings).await {
            Ok(listed) => listed,
            Err(error) => return (vec![Line::of_error(check, &error)], None),
        };
        let is_rules = |package: &&String| {
            let first = rules.find(package);
            is_package(package) && first.is_some_and(|first| std::ptr::eq(first, rule))
        };
        let of_rule: Vec<&String> = listed.iter().filter(is_rules).collect();
        let all = format!(
            "the {} packages of {owner} that the token can see",
            listed.len()
        );
        if of_rule.is_empty() {
            let line = Line::warning(
                check,
                format!("of {all}, none is this rule's"),
                "push a package that the rule matches, correct the rule's `source`, or give the token's account access to the packages",
            );
            return (vec![line], None);
        }
        let detail = format!("this rule's: {} of {all}", of_rule.len());
        let mut lines = vec![Line::ok(check, detail)];
        let (of_sample, sample) = self.sample(rule, &of_rule).await;
        lines.extend(of_sample);
        (lines, sample)
    }

    /// The first of a rule's packages that has a tag which the rule admits, or can't be read.
    async fn sample(&self, rule: &Rule, packages: &[&String]) -> (Vec<Line>, Option<Sample>) {
        let mut first = None;
        for package in packages.iter().take(SAMPLES) {
            let (lines, sample) = self.package(rule, (*package).clone()).await;
            if lines.iter().any(|line| line.status != Status::Warning) {
                return (lines, sample);
            }
            first.get_or_insert((lines, sample));
        }
        first.unwrap_or_default()
    }

    /// Whether a package's tags can be listed at the registry, with the token that copies use.
    async fn package(&self, rule: &Rule, package: String) -> (Vec<Line>, Option<Sample>) {
        let check = format!("package {package}");
        let registries = &self.copier.registries;
        let source = registries.new_source(&package, rule.token_secret_id());
        let tags = retry(source.observer(), || source.tags());
        let found = match self.deadline.bound(tags).await {
            Ok(tags) => tags,
            Err(error) => {
                let tags = Vec::new();
                return (
                    vec![Line::of_error(check, &error)],
                    Some(Sample { package, tags }),
                );
            }
        };
        let count = found.len();
        let tags = rule.tags().admitted(found);
        let detail = format!(
            "{}/{package} can be read: of its {count} tags, the rule admits {}",
            source.host(),
            tags.len()
        );
        let Some(newest) = tags.last() else {
            let remedy = "push an image, or let the rule's `tags` admit what there is";
            let line = Line::warning(check, detail, remedy);
            return (vec![line], Some(Sample { package, tags }));
        };
        let mut lines = vec![Line::ok(check, detail)];
        if rule.min_age().is_some() {
            lines.push(self.age(rule, &source, &package, newest).await);
        }
        if !rule.require().is_empty() {
            lines.push(self.signature(rule, &source, &package, newest).await);
        }
        (lines, Some(Sample { package, tags }))
    }

    /// Whether the newest image is signed as the rule requires.
    async fn signature(&self, rule: &Rule, source: &Repository, package: &str, tag: &str) -> Line {
        let check = format!("signature of {package}");
        let verified = async {
            let digest = retry(source.observer(), || source.resolve(tag)).await?;
            let Some(digest) = digest else {
                return Ok(None);
            };
            let asked = Asked {
                rule,
                package,
                source,
                digest,
                pushed_at: None,
            };
            let allowance = Memory::default().allowance();
            let verified = self.copier.expect_signed(&asked, &allowance).await;
            verified.map(Some)
        };
        match self.deadline.bound(Box::pin(verified)).await {
            Ok(Some(verified)) => {
                let detail =
                    format!("{package}:{tag} is signed as the rule requires, by {verified}");
                Line::ok(check, detail)
            }
            Ok(None) => Line::warning(check, format!("{package}:{tag} is gone"), "check again"),
            // It is the image's fault, and not the deployment's.
            Err(error @ Error::Unsigned { .. }) => Line::warning(
                check,
                format!("{package}:{tag} would not be copied: {error}"),
                "sign the image, or change the rule's `require`",
            ),
            Err(error) => Line::of_error(check, &error).at("`require`"),
        }
    }

    /// Whether GitHub says how old an image is, where the rule asks for an age: an image of which that is not known is not copied.
    async fn age(&self, rule: &Rule, source: &Repository, package: &str, tag: &str) -> Line {
        let check = format!("age of {package}");
        let Copier {
            registries, github, ..
        } = self.copier;
        let version = async {
            let digest = retry(source.observer(), || source.resolve(tag)).await?;
            let Some(digest) = digest else {
                return Ok(None);
            };
            let look = |token: Option<Token>| async move {
                github.version_of(token.as_ref(), package, &digest).await
            };
            registries.with_token(rule.token_secret_id(), look).await
        };
        match self.deadline.bound(version).await {
            Ok(Some(Version {
                created_at: Some(_),
                ..
            })) => Line::ok(
                check,
                format!(
                    "GitHub says how old {package}:{tag} is, as the rule's `tags.min_age` needs"
                ),
            ),
            Ok(_) => Line::warning(
                check,
                format!(
                    "GitHub does not say how old {package}:{tag} is, so that the rule's `tags.min_age` keeps it back"
                ),
                "push the image again, or leave `tags.min_age` out",
            ),
            Err(error) => Line::of_error(check, &error).at("`tags.min_age`"),
        }
    }

    async fn list(
        &self,
        rule: &Rule,
        owner: &str,
        listings: &Listings,
    ) -> Result<Arc<Vec<String>>> {
        let token = rule.token_secret_id();
        let key = (owner.to_owned(), token.map(str::to_owned));
        let listing = {
            let mut listings = listings.0.lock().unwrap_or_else(PoisonError::into_inner);
            listings.entry(key).or_default().clone()
        };
        // Boxed, as it is large.
        let list = Box::pin(self.copier.packages(owner, token));
        let listed =
            listing.get_or_init(|| async { self.deadline.bound(list).await.map(Arc::new) });
        listed.await.clone()
    }
}
