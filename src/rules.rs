//! Which source packages may be copied, where to, and which of their tags.
//!
//! A signed webhook says that GitHub sent it, not that its package may be mirrored: that is what a rule says.

pub mod glob;
mod immutability;
mod min_age;
pub mod repository;
pub mod require;

use std::num::NonZeroUsize;

use semver::{Version, VersionReq};
use serde::Deserialize;
use serde_json::Value;

pub use self::glob::Glob;
use self::glob::GlobSet;
pub use self::immutability::is_wildcard_match;
pub use self::min_age::MinAge;
use self::repository::RepositoryRule;
use self::require::Requirement;
use crate::destination::{Destination, Destinations, TagPattern};
use crate::endpoint::Hosts;
use crate::manifest::Digest;
use crate::platform::{Form, Platform};
use crate::reference::{self, Source, is_referrer_tag, is_repository, is_tag};

/// All rules, in their order: the first whose `source` matches wins.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

/// One rule, checked.
#[derive(Debug)]
pub struct Rule {
    source: Glob,
    destinations: Destinations,
    /// In which images arrive where the destination does not say it.
    form: Form,
    tags: TagFilter,
    referrers: bool,
    token_secret_id: Option<String>,
    repository: Option<RepositoryRule>,
    prune: bool,
    require: Vec<Requirement>,
    hosts: Hosts,
}

#[derive(Debug, Default)]
struct TagFilter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    semver: Option<VersionReq>,
    newest: Option<NonZeroUsize>,
    min_age: Option<MinAge>,
}

/// The JSON of a rule. Every field of the contract is here, so that one which this version can't carry out is refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    source: String,
    destination: Destinations,
    tags: Option<TagFields>,
    platforms: Option<Vec<Platform>>,
    platform: Option<Platform>,
    #[serde(default)]
    referrers: bool,
    require: Option<Value>,
    #[serde(default)]
    prune: bool,
    token_secret_id: Option<String>,
    repository: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagFields {
    include: Option<Vec<String>>,
    #[serde(default)]
    exclude: Vec<String>,
    semver: Option<String>,
    newest: Option<NonZeroUsize>,
    min_age: Option<Value>,
}

impl Rules {
    /// Reads the JSON array of rules.
    ///
    /// # Errors
    /// Names the first mistake with the position of its rule, counted from 0.
    pub fn parse(text: &str, hosts: &Hosts) -> Result<Self, String> {
        let values: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| format!("not a JSON array of rules: {error}"))?;
        let rule = |(position, value): (usize, Value)| {
            // Said here, as serde quotes what it finds instead, which may be another secret than the one with the rules.
            let object = value.is_object().then_some(value);
            object
                .ok_or("expected an object".to_owned())
                .and_then(|value| {
                    serde_json::from_value::<RuleFields>(value).map_err(|error| error.to_string())
                })
                .and_then(|fields| Rule::new(fields, hosts))
                // Some reasons quote what was written as it is, line breaks and all.
                .map_err(|reason| reason.replace(char::is_control, " "))
                .map_err(|reason| format!("rule {position}: {reason}"))
        };
        let rules: Vec<Rule> = values
            .into_iter()
            .enumerate()
            .map(rule)
            .collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err("there is no rule, so nothing could ever be copied".to_owned());
        }
        Ok(Rules(rules))
    }

    /// No rules at all, for callers that name every destination.
    pub fn none() -> Self {
        Rules(Vec::new())
    }

    /// All rules, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// Whether another package than `package` may go to the repository of this destination, too. In doubt it may: one registry can be
    /// written in several ways, or not at all, so that only the names are compared.
    pub fn is_shared(&self, destination: &Destination, package: &str) -> bool {
        let repository = &destination.repository;
        self.0
            .iter()
            .any(|rule| rule.may_share(repository, package))
    }

    /// The first rule for `package`, which is `owner/name` in lower case.
    pub fn find(&self, package: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.source.is_match(package))
    }
}

impl Rule {
    fn new(fields: RuleFields, hosts: &Hosts) -> Result<Self, String> {
        let rule = Rule {
            source: source(&fields.source)?,
            destinations: fields.destination,
            form: Form::of(fields.platform, fields.platforms)?.unwrap_or_default(),
            tags: TagFilter::new(fields.tags)?,
            referrers: fields.referrers,
            token_secret_id: fields.token_secret_id,
            repository: fields.repository.map(RepositoryRule::parse).transpose()?,
            prune: fields.prune,
            require: fields
                .require
                .map(require::read)
                .transpose()?
                .unwrap_or_default(),
            hosts: hosts.clone(),
        };
        // A template that gives a valid name for a plain package is a valid template.
        let plain = Source::tagged("owner/name", "tag");
        for destination in rule.destinations(&plain, None)? {
            destination.tag.fill(&plain.version)?;
        }
        Ok(rule)
    }

    /// Where `source` goes, in the form that an event asks for, if it does. A source with a digest alone goes there without a tag,
    /// unless the rule names one.
    ///
    /// # Errors
    /// Says which destination has no valid name, or which two contradict each other.
    pub fn destinations(
        &self,
        source: &Source,
        asked: Option<&Form>,
    ) -> Result<Vec<Destination>, String> {
        self.destinations.of(source, &self.hosts, asked, &self.form)
    }

    /// Where the signatures and attestations of a package's images go: each repository of the destinations once, whatever tag or form
    /// the images have there.
    ///
    /// # Errors
    /// As [`Rule::destinations`].
    pub fn repositories(&self, package: &str) -> Result<Vec<Destination>, String> {
        // Tags are never filled in, as none of the destinations' own is written.
        let source = Source {
            package: package.to_owned(),
            version: reference::Version::Digest(Digest::of(b"")),
        };
        let mut repositories: Vec<Destination> = Vec::new();
        for destination in self.destinations(&source, None)? {
            let repository = Destination {
                tag: TagPattern::default(),
                form: Form::Whole,
                ..destination
            };
            if !repositories.contains(&repository) {
                repositories.push(repository);
            }
        }
        Ok(repositories)
    }

    /// Whether signatures and attestations come along.
    pub fn referrers(&self) -> bool {
        self.referrers
    }

    /// Why `tag` is not copied, or `None` if it is.
    pub fn refusal(&self, tag: &str) -> Option<String> {
        let TagFilter {
            include,
            exclude,
            semver,
            newest: _,
            min_age: _,
        } = &self.tags;
        if let Some(reason) = not_an_image(tag) {
            return Some(reason);
        }
        if include
            .as_ref()
            .is_some_and(|include| !include.is_match(tag))
        {
            return Some(format!("the rule does not include tag {tag}"));
        }
        if exclude.is_match(tag) {
            return Some(format!("the rule excludes tag {tag}"));
        }
        let version = || Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok();
        match semver {
            Some(range) if !version().is_some_and(|version| range.matches(&version)) => Some(
                format!("tag {tag} is no version in the rule's range {range}"),
            ),
            _ => None,
        }
    }

    /// Those of `tags`, in push order, that a scheduled run looks at: the newest of those that are not refused. Where the age counts
    /// too, the newest are not known here: see [`Rule::newest_of_age`].
    pub fn admitted(&self, tags: Vec<String>) -> Vec<String> {
        let mut admitted: Vec<String> = tags
            .into_iter()
            .filter(|tag| self.refusal(tag).is_none())
            .collect();
        let newest = match self.tags.min_age {
            Some(_) => usize::MAX,
            None => self.tags.newest.map_or(usize::MAX, NonZeroUsize::get),
        };
        admitted.split_off(admitted.len().saturating_sub(newest))
    }

    /// Whether scheduled runs delete at the destinations what the source no longer has.
    pub fn prune(&self) -> bool {
        self.prune
    }

    fn may_share(&self, repository: &str, package: &str) -> bool {
        let (owner, name) = self.owner_and_name();
        if let Some(name) = name {
            let other = format!("{owner}/{name}");
            let destinations = self.destinations(&Source::tagged(&other, "tag"), None);
            let goes_there = |destinations: Vec<Destination>| {
                let mut names = destinations.iter().map(|other| &other.repository);
                names.any(|other| other == repository)
            };
            return other != package && destinations.is_ok_and(goes_there);
        }
        let source = self.source.as_str();
        let is_flat = !source.contains("**") && source.matches('/').count() == 1;
        self.destinations.repositories().any(|pattern| {
            let (_, pattern) = self.hosts.split_destination(pattern);
            let mut pattern = pattern.replace("{owner}", owner);
            if is_flat {
                // No name has a slash.
                pattern = pattern.replace("{basename}", "{name}");
            }
            let parts: Vec<&str> = pattern.split("{name}").collect();
            match parts.as_slice() {
                parts if parts.iter().any(|part| part.contains('{')) => true,
                [constant] => *constant == repository,
                [before, after] => {
                    let name = repository.strip_prefix(before);
                    let name = name.and_then(|rest| rest.strip_suffix(after));
                    name.map(|name| format!("{owner}/{name}"))
                        .is_some_and(|other| other != package && self.source.is_match(&other))
                }
                _ => true,
            }
        })
    }

    /// How old a version has to be.
    pub fn min_age(&self) -> Option<&MinAge> {
        self.tags.min_age.as_ref()
    }

    /// How many of the newest tags a scheduled run looks at that are old enough, where the rule asks for both.
    pub fn newest_of_age(&self) -> Option<usize> {
        let newest = self.tags.newest.filter(|_| self.tags.min_age.is_some());
        newest.map(NonZeroUsize::get)
    }

    /// Whether `package`, which is `owner/name` in lower case, is one of the rule's, though another rule may have it first.
    pub fn admits(&self, package: &str) -> bool {
        self.source.is_match(package)
    }

    /// The glob of the packages, as it was written.
    pub fn source(&self) -> &str {
        self.source.as_str()
    }

    /// The packages' owner, and the one package's name if `source` is no glob.
    pub fn owner_and_name(&self) -> (&str, Option<&str>) {
        let source = self.source.as_str();
        let (owner, name) = source.split_once('/').unwrap_or((source, ""));
        (owner, (!glob::is_glob(name)).then_some(name))
    }

    /// The ways in which an image may be signed, of which one has to be met; none if nothing is asked.
    pub fn require(&self) -> &[Requirement] {
        &self.require
    }

    /// How the repositories of its destinations are to be.
    pub fn repository(&self) -> Option<&RepositoryRule> {
        self.repository.as_ref()
    }

    /// The secret with the GHCR token for this rule's packages, if it is not the general one.
    pub fn token_secret_id(&self) -> Option<&str> {
        self.token_secret_id.as_deref()
    }
}

/// Why nothing is ever copied under `tag`: tags come from lists of GitHub's as well as from events, and end up in URLs.
pub fn not_an_image(tag: &str) -> Option<String> {
    if !is_tag(tag) {
        return Some(format!("{tag:?} is not a valid tag"));
    }
    is_referrer_tag(tag).then(|| format!("tag {tag} is a signature or an attestation"))
}

impl TagFilter {
    fn new(fields: Option<TagFields>) -> Result<Self, String> {
        let Some(fields) = fields else {
            return Ok(TagFilter::default());
        };
        let semver = match fields.semver {
            Some(text) => Some(
                VersionReq::parse(&text)
                    .map_err(|error| format!("tags.semver {text:?}: {error}"))?,
            ),
            None => None,
        };
        let globs = |name: &str, globs: &[String]| {
            glob::tags(globs).map_err(|reason| format!("{name}: {reason}"))
        };
        Ok(TagFilter {
            include: match fields.include {
                Some(include) => Some(globs("tags.include", &include)?),
                None => None,
            },
            exclude: globs("tags.exclude", &fields.exclude)?,
            semver,
            newest: fields.newest,
            min_age: fields.min_age.as_ref().map(MinAge::read).transpose()?,
        })
    }
}

/// The owner is written out so that no glob ever reaches into somebody else's packages.
fn source(text: &str) -> Result<Glob, String> {
    let wrong = |reason: &str| format!("source {text:?}: {reason}");
    let (owner, name) = text
        .split_once('/')
        .ok_or_else(|| wrong("expected `owner/name`"))?;
    if text != text.to_lowercase() {
        return Err(wrong("GHCR's names are lower case"));
    }
    if !is_repository(&format!("{owner}/name")) || owner.contains('.') {
        return Err(wrong(
            "it begins with the owner, written out and without a registry host",
        ));
    }
    if name.is_empty() {
        return Err(wrong("the package name is missing; `*` stands for all"));
    }
    if !glob::is_glob(name) && !reference::is_package(text) {
        return Err(wrong("no package has such a name"));
    }
    glob::packages(text).map_err(|reason| wrong(&reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, String> {
        let hosts = Hosts {
            source: "ghcr.io".to_owned(),
            destination: Some("localhost:5000".to_owned()),
        };
        Rules::parse(text, &hosts)
    }

    fn destination(rules: &str, repository: &str) -> String {
        let rules = parse(rules).unwrap();
        let rule = rules.find(repository).expect("a rule matches");
        let destination = &rule
            .destinations(&Source::tagged(repository, "1"), None)
            .unwrap()[0];
        format!("{:?} {}", destination.registry, destination.repository)
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let rules = r#"[{"source":"acme/api","destination":"a"},
                        {"source":"acme/*","destination":"prod/{name}"},
                        {"source":"acme/**","destination":"deep/{owner}/{basename}"}]"#
            .replace(r#""a""#, r#""aa""#);
        assert_eq!(destination(&rules, "acme/api"), "None aa");
        assert_eq!(destination(&rules, "acme/web"), "None prod/web");
        assert_eq!(destination(&rules, "acme/a/b/web"), "None deep/acme/web");
        assert!(parse(&rules).unwrap().find("acmeevil/api").is_none());
    }

    #[test]
    fn all_tag_conditions_must_hold() {
        let rules = parse(
            r#"[{"source":"acme/*","destination":"{name}","tags":{"include":["v*","[0-9]*"],"exclude":["*-dev"],"semver":">=1.2"}}]"#,
        )
        .unwrap();
        let rule = rules.find("acme/api").unwrap();
        for tag in ["1.2.0", "v1.10.3"] {
            assert_eq!(rule.refusal(tag), None, "{tag}");
        }
        for tag in ["latest", "1.1.9", "1.3.0-rc.1", "v2.0.0-dev", "1.2"] {
            assert!(rule.refusal(tag).is_some(), "{tag}");
        }
    }

    #[test]
    fn several_packages_may_share_a_repository() {
        let is_shared = |rules: &str, package: &str| {
            let rules = parse(rules).unwrap();
            let rule = rules.find(package).unwrap();
            let destinations = rule.destinations(&Source::tagged(package, "1"), None);
            rules.is_shared(&destinations.unwrap()[0], package)
        };
        for (rules, expected) in [
            (
                r#"[{"source":"acme/*","destination":"prod/{name}"}]"#,
                false,
            ),
            (
                r#"[{"source":"acme/*","destination":"prod/{basename}:{tag}-{digest8}"}]"#,
                false,
            ),
            (
                r#"[{"source":"acme/**","destination":"prod/{basename}"}]"#,
                true,
            ),
            (r#"[{"source":"acme/*","destination":"prod/all"}]"#, true),
            (r#"[{"source":"acme/api","destination":"prod/all"}]"#, false),
            (
                r#"[{"source":"acme/api","destination":"prod/all"},{"source":"octo/x","destination":"prod/all:x"}]"#,
                true,
            ),
            (
                r#"[{"source":"acme/*","destination":"prod/{name}"},{"source":"octo/*","destination":"prod/{name}"}]"#,
                true,
            ),
            (
                r#"[{"source":"acme/*","destination":"prod/{owner}/{name}"},{"source":"octo/*","destination":"prod/{owner}/{name}"}]"#,
                false,
            ),
            (
                r#"[{"source":"acme/*","destination":"prod/{name}"},{"source":"octo/*","destination":"localhost:5000/prod/{name}"}]"#,
                true,
            ),
        ] {
            assert_eq!(is_shared(rules, "acme/api"), expected, "{rules}");
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_position() {
        let cases = [
            ("{", "JSON array"),
            ("{}", "JSON array"),
            ("[]", "no rule"),
            (
                r#"[{"source":"acme/*"}]"#,
                "rule 0: missing field `destination`",
            ),
            (
                r#"[{"source":"acme/*","destination":"aa"},{"source":"a/b","destination":"aa","tagz":{}}]"#,
                "rule 1: unknown field `tagz`",
            ),
            (r#"[{"source":"acme","destination":"aa"}]"#, "`owner/name`"),
            (r#"[{"source":"*/api","destination":"aa"}]"#, "written out"),
            (
                r#"[{"source":"ghcr.io/acme/api","destination":"aa"}]"#,
                "without a registry host",
            ),
            (
                r#"[{"source":"Acme/api","destination":"aa"}]"#,
                "lower case",
            ),
            (
                r#"[{"source":"acme/[","destination":"aa"}]"#,
                "source \"acme/[\"",
            ),
            (
                r#"[{"source":"acme/*","destination":"Prod/{name}"}]"#,
                "not a valid repository name",
            ),
            (
                r#"[{"source":"acme/*","destination":"{nam}"}]"#,
                "{basename}",
            ),
            (
                r#"[{"source":"acme/*","destination":[]}]"#,
                "a list of at most 64",
            ),
            (
                r#"[{"source":"acme/*","destination":"{name}","require":{}}]"#,
                "expected `attestation` or `cosign_key`",
            ),
            (
                r#"[{"source":"acme/*","destination":"{name}","tags":{"semver":"x.y"}}]"#,
                "tags.semver",
            ),
            (
                r#"[{"source":"acme/*","destination":"{name}","tags":{"min_age":"a day"}}]"#,
                "rule 0: tags.min_age \"a day\"",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
