//! Which source packages may be copied, where to, and which of their tags.
//!
//! A signed webhook says that GitHub sent it, not that its package may be mirrored: that is what a rule says.

use std::num::NonZeroUsize;
use std::sync::Arc;

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use oci_client::Reference;
use semver::{Version, VersionReq};
use serde::Deserialize;
use serde_json::Value;

use crate::job::{Destination, Job, is_repository, is_tag};

/// The longest glob, in bytes, and the most groups in one. A list of many packages is far from either.
const GLOB_LIMIT: usize = 4096;
const BRACES_LIMIT: usize = 32;

/// All rules, in their order: the first whose `source` matches wins.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

/// One rule, checked.
#[derive(Debug)]
pub struct Rule {
    source: GlobMatcher,
    destinations: Vec<String>,
    tags: TagFilter,
    token_secret_id: Option<Arc<str>>,
    registries: Registries,
}

#[derive(Debug, Default)]
struct TagFilter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    semver: Option<VersionReq>,
    newest: Option<NonZeroUsize>,
}

/// Tells a registry host from the first component of a repository name, which may hold dots too.
#[derive(Clone, Debug)]
pub struct Registries {
    /// The host of `DESTINATION_REGISTRY`, if that is set.
    pub configured: Option<String>,
}

/// The JSON of a rule. Every field of the contract is here, so that one which this version can't carry out is refused by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    source: String,
    destination: OneOrMany,
    tags: Option<TagFields>,
    platforms: Option<Value>,
    platform: Option<Value>,
    #[serde(default)]
    referrers: bool,
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
}

#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct OneOrMany(Vec<String>);

impl TryFrom<Value> for OneOrMany {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let strings = match value {
            Value::String(one) => vec![one],
            Value::Array(many) => many
                .into_iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .unwrap_or_default(),
            _ => vec![],
        };
        if strings.is_empty() {
            return Err("`destination` is a repository name, or a list of them".to_owned());
        }
        Ok(OneOrMany(strings))
    }
}

impl Rules {
    /// Reads the JSON array of rules.
    ///
    /// # Errors
    /// Names the first mistake with the position of its rule, counted from 0.
    pub fn parse(text: &str, registries: &Registries) -> Result<Self, String> {
        let values: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| format!("not a JSON array of rules: {error}"))?;
        let rule = |(position, value)| {
            serde_json::from_value::<RuleFields>(value)
                .map_err(|error| error.to_string())
                .and_then(|fields| Rule::new(fields, registries))
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

    /// All rules, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The first rule for `repository`, which is `owner/name` in lower case.
    pub fn find(&self, repository: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.source.is_match(repository))
    }
}

impl Rule {
    fn new(fields: RuleFields, registries: &Registries) -> Result<Self, String> {
        let unsupported = [
            ("platforms", fields.platforms.is_some()),
            ("platform", fields.platform.is_some()),
            ("referrers", fields.referrers),
            ("prune", fields.prune),
            ("repository", fields.repository.is_some()),
        ];
        if let Some((name, _)) = unsupported.iter().find(|(_, is_asked_for)| *is_asked_for) {
            return Err(format!("`{name}` is not supported by this version yet"));
        }
        let rule = Rule {
            source: source(&fields.source)?,
            destinations: fields.destination.0,
            tags: TagFilter::new(fields.tags)?,
            token_secret_id: fields.token_secret_id.map(Arc::from),
            registries: registries.clone(),
        };
        // A template that gives a valid name for a plain package is a valid template.
        rule.destinations("owner/name", "tag")?;
        Ok(rule)
    }

    /// Where the tag `tag` of the package `repository` goes.
    ///
    /// # Errors
    /// Says which destination is no valid repository name, or can't be told apart from one.
    pub fn destinations(&self, repository: &str, tag: &str) -> Result<Vec<Destination>, String> {
        self.destinations
            .iter()
            .map(|template| {
                let filled = fill(template, repository)?;
                let (registry, repository) = self.registries.split(&filled);
                if registry != self.registries.split(template).0 {
                    Err(format!(
                        "destination {template:?} gives {filled:?}: only the rule names a registry, not the package"
                    ))
                } else if is_repository(repository) {
                    Ok(Destination {
                        registry: registry.map(str::to_owned),
                        repository: repository.to_owned(),
                        tag: tag.to_owned(),
                    })
                } else {
                    Err(format!(
                        "destination {template:?} gives {repository:?}, which is no valid repository name"
                    ))
                }
            })
            .collect()
    }

    /// The copies of `source` that this rule asks for, one for each destination.
    ///
    /// # Errors
    /// A source without a tag, which has no name at the destination; otherwise as [`Rule::destinations`].
    pub fn jobs(&self, source: &Reference) -> Result<Vec<Job>, String> {
        let tag = source
            .tag()
            .ok_or("a source with a digest alone needs a `destination` with a tag")?;
        let job = |destination| Job {
            source: source.clone(),
            destination,
            token_secret_id: self.token_secret_id.clone(),
            all_tags: false,
            force: false,
            dry_run: false,
        };
        let destinations = self.destinations(source.repository(), tag)?;
        Ok(destinations.into_iter().map(job).collect())
    }

    /// Why `tag` is not copied, or `None` if it is.
    pub fn refusal(&self, tag: &str) -> Option<String> {
        let TagFilter {
            include,
            exclude,
            semver,
            newest: _,
        } = &self.tags;
        // Tags come from lists of GitHub's as well as from events, and end up in URLs.
        if !is_tag(tag) {
            return Some(format!("{tag:?} is no valid tag"));
        }
        if is_referrer_tag(tag) {
            return Some(format!("tag {tag} is a signature or an attestation"));
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

    /// Those of `tags`, in push order, that a scheduled run looks at: the newest of those that are not refused.
    pub fn admitted(&self, tags: Vec<String>) -> Vec<String> {
        let mut admitted: Vec<String> = tags
            .into_iter()
            .filter(|tag| self.refusal(tag).is_none())
            .collect();
        let newest = self.tags.newest.map_or(usize::MAX, NonZeroUsize::get);
        admitted.split_off(admitted.len().saturating_sub(newest))
    }

    /// The packages' owner, and the one package's name if `source` is no glob.
    pub fn owner_and_name(&self) -> (&str, Option<&str>) {
        let source = self.source.glob().glob();
        let (owner, name) = source.split_once('/').unwrap_or((source, ""));
        (owner, (!is_glob(name)).then_some(name))
    }

    /// The secret with the GHCR token for this rule's packages, if it is not the general one.
    pub fn token_secret_id(&self) -> Option<Arc<str>> {
        self.token_secret_id.clone()
    }
}

impl Registries {
    /// Splits `[<registry host>/]<repository>`. A host is the one of `DESTINATION_REGISTRY`, or one of ECR's.
    pub fn split<'a>(&self, text: &'a str) -> (Option<&'a str>, &'a str) {
        match text.split_once('/') {
            Some((host, repository))
                if self.configured.as_deref() == Some(host) || ecr_region(host).is_some() =>
            {
                (Some(host), repository)
            }
            _ => (None, text),
        }
    }
}

/// The Region of an ECR registry's host: `<account>.dkr.ecr[-fips].<region>.<domain>`, or `dkr-ecr` where it is dual-stack.
/// (ECR user guide, "Private registry"; amazon-ecr-credential-helper, `api/client.go`)
pub fn ecr_region(host: &str) -> Option<&str> {
    let (account, rest) = host.split_once('.')?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest
        .strip_prefix("dkr.ecr")
        .or_else(|| rest.strip_prefix("dkr-ecr"))?;
    let rest = rest.strip_prefix("-fips").unwrap_or(rest);
    let (region, domain) = rest.strip_prefix('.')?.split_once('.')?;
    const DOMAINS: [&str; 9] = [
        "amazonaws.com",
        "amazonaws.com.cn",
        "amazonaws.eu",
        "on.aws",
        "on.amazonwebservices.com.cn",
        "c2s.ic.gov",
        "sc2s.sgov.gov",
        "cloud.adc-e.uk",
        "csp.hci.ic.gov",
    ];
    (is_account && !region.is_empty() && DOMAINS.contains(&domain)).then_some(region)
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
        Ok(TagFilter {
            include: match fields.include {
                Some(globs) => Some(tag_globs("tags.include", &globs)?),
                None => None,
            },
            exclude: tag_globs("tags.exclude", &fields.exclude)?,
            semver,
            newest: fields.newest,
        })
    }
}

fn tag_globs(name: &str, globs: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        set.add(glob(text, false).map_err(|reason| format!("{name} {text:?}: {reason}"))?);
    }
    set.build().map_err(|error| format!("{name}: {error}"))
}

/// Tags under which clients keep signatures and attestations of the manifest with that digest.
/// (distribution-spec v1.1, "Referrers Tag Schema"; cosign's `.sig`, `.att`, `.sbom`)
fn is_referrer_tag(tag: &str) -> bool {
    let Some(rest) = tag.strip_prefix("sha256-") else {
        return false;
    };
    let (digits, suffix) = rest.split_once('.').unwrap_or((rest, "x"));
    digits.len() == 64
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !suffix.is_empty()
        && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The owner is written out so that no glob ever reaches into somebody else's packages.
fn source(text: &str) -> Result<GlobMatcher, String> {
    let wrong = |reason: &str| format!("source {text:?}: {reason}");
    let (owner, name) = text
        .split_once('/')
        .ok_or_else(|| wrong("`owner/name` is wanted"))?;
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
    if !is_glob(name) && !is_repository(text) {
        return Err(wrong("no package has such a name"));
    }
    package_glob(text).map_err(|reason| wrong(&reason))
}

/// A glob of packages, in which only `**` matches a `/`.
///
/// # Errors
/// Says why it is none.
pub fn package_glob(text: &str) -> Result<GlobMatcher, String> {
    Ok(glob(text, true)?.compile_matcher())
}

/// `globset` overflows the stack or panics on a glob that is nested too deep or too long, so those are refused before it sees them.
fn glob(text: &str, literal_separator: bool) -> Result<Glob, String> {
    if text.len() > GLOB_LIMIT || text.matches('{').count() > BRACES_LIMIT {
        return Err(format!(
            "a glob has at most {GLOB_LIMIT} bytes, and {BRACES_LIMIT} braces that open"
        ));
    }
    GlobBuilder::new(text)
        .literal_separator(literal_separator)
        .build()
        .map_err(|error| error.kind().to_string())
}

fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '[', '{', '\\'])
}

fn fill(template: &str, repository: &str) -> Result<String, String> {
    let (owner, name) = repository.split_once('/').unwrap_or(("", repository));
    let basename = name.rsplit('/').next().unwrap_or(name);
    let filled = template
        .replace("{owner}", owner)
        .replace("{name}", name)
        .replace("{basename}", basename);
    match filled.contains(['{', '}']) {
        true => Err(format!(
            "destination {template:?}: only {{owner}}, {{name}} and {{basename}} can be filled in"
        )),
        false => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, String> {
        Rules::parse(
            text,
            &Registries {
                configured: Some("localhost:5000".to_owned()),
            },
        )
    }

    fn destination(rules: &str, repository: &str) -> String {
        let rules = parse(rules).unwrap();
        let rule = rules.find(repository).expect("a rule matches");
        let destination = &rule.destinations(repository, "1").unwrap()[0];
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
    fn a_registry_host_is_told_from_a_repository_with_dots() {
        let cases = [
            ("my.team/{name}", "None my.team/api"),
            ("localhost:5000/{name}", "Some(\"localhost:5000\") api"),
            (
                "123456789012.dkr.ecr.eu-west-3.amazonaws.com/x/{name}",
                "Some(\"123456789012.dkr.ecr.eu-west-3.amazonaws.com\") x/api",
            ),
        ];
        for (template, shown) in cases {
            let rules = format!(r#"[{{"source":"acme/*","destination":["{template}"]}}]"#);
            assert_eq!(destination(&rules, "acme/api"), shown);
        }
        assert_eq!(
            ecr_region("123456789012.dkr-ecr-fips.us-east-1.on.aws"),
            Some("us-east-1")
        );
        assert_eq!(
            ecr_region("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"),
            Some("cn-north-1")
        );
        for host in [
            "123456789012.dkr.ecr.eu-west-3.amazonaws.com.evil.org",
            "1.dkr.ecr.x.amazonaws.com",
            "ghcr.io",
        ] {
            assert_eq!(ecr_region(host), None, "{host}");
        }
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
                "no valid repository name",
            ),
            (
                r#"[{"source":"acme/*","destination":"{nam}"}]"#,
                "{basename}",
            ),
            (
                r#"[{"source":"acme/*","destination":[]}]"#,
                "a list of them",
            ),
            (
                r#"[{"source":"acme/*","destination":"{name}","prune":true}]"#,
                "`prune` is not supported",
            ),
            (
                r#"[{"source":"acme/*","destination":"{name}","tags":{"semver":"x.y"}}]"#,
                "tags.semver",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn referrer_tags_are_no_images() {
        let digits = "0".repeat(64);
        for tag in [format!("sha256-{digits}"), format!("sha256-{digits}.sig")] {
            assert!(is_referrer_tag(&tag), "{tag}");
        }
        for tag in [
            "sha256-1234".to_owned(),
            format!("sha256-{digits}.s-g"),
            "1.2.3".to_owned(),
        ] {
            assert!(!is_referrer_tag(&tag), "{tag}");
        }
    }
}
