//! The repositories that images go to: whether they are there, take pushes, and let stand what is pushed.

use super::lifecycle::{self, Written};
use super::{Check, Line, named};
use crate::destination::{Destination, TagPattern};
use crate::error::{Error, Kind};
use crate::manifest::Digest;
use crate::reference::Version;
use crate::registry::Repository;
use crate::retry::retry;
use crate::rules::Rule;
use crate::rules::repository::TagMutability;

/// A repository that a package goes to.
pub(super) struct Place {
    pub(super) package: String,
    /// The first of the destinations in it.
    pub(super) destination: Destination,
    /// The tags of all of them.
    pub(super) patterns: Vec<TagPattern>,
    /// The package's tags that a scheduled run looks at, as far as they are known.
    pub(super) tags: Vec<String>,
}

impl Check<'_> {
    /// The lines for one repository.
    pub(super) async fn destination(&self, rule: &Rule, place: &Place) -> Vec<Line> {
        let check = format!("destination {}", place.destination.place());
        let opening = self.copier.registries.destination(&place.destination);
        let repository = match self.deadline.bound(opening).await {
            Ok(repository) => repository,
            Err(error) => return vec![Line::of_error(check, &error)],
        };
        let upstream = repository.expect_no_upstream_now();
        if let Err(error) = self.deadline.bound(upstream).await {
            return vec![Line::of_error(check, &error)];
        }
        // No manifest has this digest, so that the look is no pull of an image.
        let nothing = Digest::of(b"no manifest").to_string();
        let look = retry(repository.observer(), || repository.expect_exists(&nothing));
        match self.deadline.bound(look).await {
            Ok(()) => self.existing(check, &repository, place).await,
            Err(error) if error.kind() == Kind::NotFound && repository.is_in_ecr() => {
                // An upload would have ECR create the repository where it has a template for it.
                self.missing(check, rule, place, &repository, &error).await
            }
            Err(error) if error.kind() == Kind::NotFound => {
                vec![self.push(check, &repository).await]
            }
            Err(error) => vec![Line::of_error(check, &error)],
        }
    }

    async fn existing(&self, check: String, repository: &Repository, place: &Place) -> Vec<Line> {
        let mut lines = vec![self.push(check, repository).await];
        if repository.is_in_ecr() {
            lines.push(self.tag_mutability(repository, place).await);
            lines.push(self.lifecycle(place).await);
        }
        lines
    }

    /// The right to push, by the first step of a push: an upload session that is given up.
    async fn push(&self, check: String, repository: &Repository) -> Line {
        let digest = Digest::of(b"{}");
        let start = retry(repository.observer(), || repository.start_upload(&digest));
        let cancelled = async {
            repository.cancel_upload(start.await?).await;
            Ok(())
        };
        match self.deadline.bound(cancelled).await {
            Ok(()) => Line::ok(
                check,
                format!(
                    "{}/{} takes pushes: an upload was begun and given up (the right to finish one, and ecr:PutImage, can't be tried without a trace)",
                    repository.host(),
                    repository.name()
                ),
            ),
            Err(error) => Line::of_error(check, &error),
        }
    }

    async fn missing(
        &self,
        check: String,
        rule: &Rule,
        place: &Place,
        repository: &Repository,
        refusal: &Error,
    ) -> Vec<Line> {
        let absent = format!("{}/{} does not exist", repository.host(), repository.name());
        let managed = rule.repository().filter(|managed| managed.create);
        if let Some(managed) = managed {
            let detail = format!(
                "{absent}; the rule's `repository.create` makes it at the first copy (the rights to create and to push are not tested)"
            );
            let mut lines = vec![Line::ok(check, detail)];
            if let Some(mutability) = &managed.settings.tag_mutability {
                lines.push(judge_mutability(mutability, repository, place));
            }
            return lines;
        }
        let template = self.copier.repositories.template(&place.destination);
        vec![match self.deadline.bound(template).await {
            Ok(Some(_)) => Line::ok(
                check,
                format!(
                    "{absent}; ECR's creation template makes it at the first push (the right to push is not tested, as that would make it)"
                ),
            ),
            Ok(None) => Line::failed(check, absent, refusal.advice()),
            Err(error) if error.kind() == Kind::Denied => Line::failed(
                check,
                absent,
                format!(
                    "{}; unless ECR has a creation template for it, which the role may not look at (ecr:DescribeRepositoryCreationTemplates)",
                    refusal.advice()
                ),
            ),
            Err(error) => Line::of_error(check, &error),
        }]
    }

    async fn tag_mutability(&self, repository: &Repository, place: &Place) -> Line {
        let find = self.copier.repositories.find(&place.destination);
        match self.deadline.bound(find).await {
            Ok(Some(found)) => judge_mutability(&found.tag_mutability, repository, place),
            Ok(None) => Line::warning(
                mutability_of(place),
                "not known: ECR's API does not find the repository, though its registry does",
                "check DESTINATION_REGISTRY",
            ),
            Err(error) => Line::unknown(mutability_of(place), &error),
        }
    }

    async fn lifecycle(&self, place: &Place) -> Line {
        let check = format!("lifecycle policy of {}", place.destination.place());
        let policy = self
            .copier
            .repositories
            .lifecycle_policy(&place.destination);
        match self.deadline.bound(policy).await {
            Ok(None) => Line::ok(check, "there is none, so that nothing expires"),
            Ok(Some(policy)) => {
                lifecycle::judge(check, &policy, &Written::by(&place.patterns, &place.tags))
            }
            Err(error) => Line::unknown(check, &error),
        }
    }
}

fn mutability_of(place: &Place) -> String {
    format!("tag mutability of {}", place.destination.place())
}

/// Whether the repository lets move what moves at the source.
fn judge_mutability(mutability: &TagMutability, repository: &Repository, place: &Place) -> Line {
    let check = mutability_of(place);
    let moving = moving_tags(&place.patterns, &place.tags);
    let kept: Vec<String> = moving
        .into_iter()
        .filter(|tag| mutability.keeps(tag))
        .collect();
    let mode = &mutability.mode;
    if kept.is_empty() {
        let detail = format!(
            "it is {mode}, which holds back no tag of {} that is likely to move",
            place.package
        );
        return Line::ok(check, detail);
    }
    let detail = format!(
        "it is {mode}, so that each of these tags of {} keeps the image that it has first: {}",
        place.package,
        named(&kept)
    );
    let tags = match kept.as_slice() {
        [tag] => tag,
        _ => "them",
    };
    Line::warning(check, detail, repository.ways_to_move(tags))
}

/// The tags at the destination that are likely to stand for another image one day. Those that are made of the digest do not.
fn moving_tags(patterns: &[TagPattern], tags: &[String]) -> Vec<String> {
    let mut moving = Vec::new();
    for pattern in patterns.iter().filter(|pattern| !pattern.needs_digest()) {
        let one_for_all = ["tag".to_owned()];
        let tags = match pattern.follows_the_tag() {
            true => tags,
            false => &one_for_all,
        };
        for tag in tags {
            let is_likely = !pattern.follows_the_tag() || may_move(tag);
            let written = pattern.fill(&tagged(tag));
            if let (true, Ok(Some(written))) = (is_likely, written)
                && !moving.contains(&written)
            {
                moving.push(written);
            }
        }
    }
    moving
}

/// A version at the source that has this tag.
pub(super) fn tagged(tag: &str) -> Version {
    Version::Tag {
        tag: tag.to_owned(),
        announced: None,
    }
}

/// Whether a tag looks like one that moves: not like a whole version, and not like one that is made of a date, a build's number or a
/// commit.
fn may_move(tag: &str) -> bool {
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let is_unique = |part: &str| {
        let is_hexadecimal = part.bytes().all(|byte| byte.is_ascii_hexdigit());
        part.len() >= 7 && is_hexadecimal && part.bytes().any(|byte| byte.is_ascii_digit())
    };
    let is_version = semver::Version::parse(version).is_ok();
    !is_version && !tag.split(['-', '_', '.']).any(is_unique)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::endpoint::Hosts;
    use crate::reference::Source;
    use crate::rules::Rules;

    /// The tags of the destinations that a rule writes so.
    pub(crate) fn patterns(destination: serde_json::Value) -> Vec<TagPattern> {
        let hosts = Hosts {
            source: "ghcr.io".to_owned(),
            destination: None,
        };
        let rules = json!([{"source": "acme/api", "destination": destination}]).to_string();
        let rules = Rules::parse(&rules, &hosts).unwrap();
        let rule = rules.iter().next().unwrap();
        let destinations = rule.destinations(&Source::tagged("acme/api", "1"), None);
        let destinations = destinations.unwrap().into_iter();
        destinations.map(|destination| destination.tag).collect()
    }

    #[test]
    fn tags_that_move_are_told_from_those_that_do_not() {
        for tag in [
            "latest",
            "main",
            "1",
            "1.2",
            "v1.2",
            "pr-7",
            "nightly",
            "1-alpine",
            "effaced-x",
        ] {
            assert!(may_move(tag), "{tag}");
        }
        for tag in [
            "1.2.3",
            "v1.2.3-rc.1",
            "sha-1a2b3c4",
            "20261121",
            "main-0a1b2c3d4",
        ] {
            assert!(!may_move(tag), "{tag}");
        }
    }

    #[test]
    fn what_the_destination_makes_of_a_tag_counts() {
        let tags = ["latest", "1.2.3"].map(str::to_owned);
        for (destination, expected) in [
            (json!("prod/api"), vec!["latest"]),
            (json!("prod/api:{tag}-arm64"), vec!["latest-arm64"]),
            (json!("prod/api:{tag}-{digest8}"), vec![]),
            (
                json!(["prod/api", "prod/api:stable"]),
                vec!["latest", "stable"],
            ),
        ] {
            let moving = moving_tags(&patterns(destination.clone()), &tags);
            assert_eq!(moving, expected, "{destination}");
        }
    }
}
