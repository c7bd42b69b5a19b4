//! Where images go: as rules and direct events write it, and as a job names it.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::endpoint::Hosts;
use crate::manifest::Digest;
use crate::platform::{Form, Platform};
use crate::reference::{Source, Version, is_repository, is_tag};

/// The most destinations of one image: what a copy keeps of each is bounded.
pub const DESTINATIONS_LIMIT: usize = 64;

/// Stands for the tag at the source.
const TAG: &str = "{tag}";

/// Stands for eight digits of the digest at the source, which is known when the image is copied.
const DIGEST8: &str = "{digest8}";

/// Where an image goes: a repository and a tag, on the default registry unless a host is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A registry host other than the default one, as it was written.
    pub registry: Option<String>,
    /// The repository, by ECR's grammar.
    pub repository: String,
    /// The tag that moves last.
    pub tag: TagPattern,
    /// In which form the image arrives.
    pub form: Form,
}

/// A tag at a destination, made of the tag and the digest at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern(String);

/// Destinations as a rule or a direct event writes them: one or a list, each as a text or as an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub struct Destinations(Vec<Written>);

/// One destination as it is written.
#[derive(Clone, Debug)]
struct Written {
    /// `[<registry host>/]<repository>[:<tag>]`, with placeholders.
    to: String,
    form: Option<Form>,
}

impl Default for TagPattern {
    fn default() -> Self {
        TagPattern(TAG.to_owned())
    }
}

impl TagPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let pattern = TagPattern(text.to_owned());
        let filled = text.replace(TAG, "0").replace(DIGEST8, "00000000");
        match is_tag(&filled) {
            true => Ok(pattern),
            false => Err(format!(
                "{text:?} is no tag: expected letters, digits, `_`, `.` and `-`, with {TAG} and {DIGEST8} filled in"
            )),
        }
    }

    /// The tag for an image that is `version` at the source; `None` if that has no tag to fill in, so that the image arrives under
    /// its digest. The digits of the digest are left open: see [`with_digest`].
    ///
    /// # Errors
    /// Says that it would be longer than a tag may be.
    pub fn fill(&self, version: &Version) -> Result<Option<String>, String> {
        let filled = match version.tag() {
            Some(tag) => self.0.replace(TAG, tag),
            None if self.follows_the_tag() => return Ok(None),
            None => self.0.clone(),
        };
        match is_tag(&with_digest(&filled, &Digest::of(b""))) {
            true => Ok(Some(filled)),
            false => Err(format!(
                "{filled:?} is not a valid tag: it may have at most 128 characters"
            )),
        }
    }

    /// The tag at the source that `written`, a tag at the destination, was made of; `None` if it was not made by this pattern, or may
    /// stand for several.
    pub fn source_tag(&self, written: &str) -> Option<String> {
        let (before, after) = self.0.split_once(TAG)?;
        let length = |part: &str| part.replace(DIGEST8, "00000000").len();
        let (before_end, after_length) = (length(before), length(after));
        let after_begin = written.len().checked_sub(after_length)?;
        let source = written.get(before_end..after_begin)?;
        let is_made = is_made_by(before, written.get(..before_end)?)
            && is_made_by(after, written.get(after_begin..)?);
        (is_made && is_tag(source)).then(|| source.to_owned())
    }

    /// Whether `written` may be made by this pattern whatever the tag at the source is.
    pub fn is_constant(&self, written: &str) -> bool {
        !self.follows_the_tag() && is_made_by(&self.0, written)
    }

    /// Whether another digest at the source means another tag at the destination.
    pub fn needs_digest(&self) -> bool {
        needs_digest(&self.0)
    }

    /// Whether it is one tag whatever the image is: for the one that was pushed last.
    pub fn is_one_for_all(&self) -> bool {
        !self.follows_the_tag() && !self.needs_digest()
    }

    /// Whether another tag at the source means another tag at the destination.
    pub fn follows_the_tag(&self) -> bool {
        self.0.contains(TAG)
    }
}

/// Whether `text` is the pattern with any eight digits for those of a digest. They have the same length where it is.
fn is_made_by(pattern: &str, text: &str) -> bool {
    let is_digits = |digits: &str| {
        digits
            .bytes()
            .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    };
    match pattern.split_once(DIGEST8) {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let (digits, rest) = (rest.get(..8), rest.get(8..));
            digits.is_some_and(is_digits) && rest.is_some_and(|rest| is_made_by(after, rest))
        }),
    }
}

/// Fills in the digits of the digest that the image has at the source.
pub fn with_digest(tag: &str, digest: &Digest) -> String {
    tag.replace(DIGEST8, &digest.encoded()[..8])
}

/// Says that two destinations are one tag, for an image that can have only one form there: the first one counts.
pub fn two_forms(reference: &str) -> String {
    format!(
        "destination {reference} is named twice for this tag, with different platforms, and the first one counts: give each a tag of its own"
    )
}

/// Whether the digest is needed to know the tag.
pub fn needs_digest(tag: &str) -> bool {
    tag.contains(DIGEST8)
}

impl Destination {
    /// `[host/]repository[:tag]` for an image that is `version` at the source.
    pub fn reference(&self, version: &Version) -> String {
        match self.tag.fill(version) {
            Ok(Some(tag)) => format!("{}:{tag}", self.place()),
            _ => self.place(),
        }
    }

    /// The same place for another tag of an image of which `named` was named; `None` if its tag is the same for both.
    pub fn followed(&self, named: Option<&str>) -> Option<Self> {
        let tag = match self.tag.follows_the_tag() {
            true => self.tag.clone(),
            false if Some(self.tag.0.as_str()) == named => TagPattern::default(),
            false => return None,
        };
        Some(Destination {
            tag,
            ..self.clone()
        })
    }

    /// `[host/]repository`
    pub fn place(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }
}

/// `[host/]repository[:tag]`, as [`Destinations`] reads it.
impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.place())?;
        match self.tag == TagPattern::default() {
            true => Ok(()),
            false => write!(formatter, ":{}", self.tag.0),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "lowercase")]
        enum Field<'a> {
            Platform(&'a Platform),
            Platforms(&'a [Platform]),
        }
        #[derive(Serialize)]
        struct Object<'a> {
            to: String,
            #[serde(flatten)]
            field: Field<'a>,
        }
        let field = match &self.form {
            Form::Whole => return serializer.collect_str(self),
            Form::Platform(platform) => Field::Platform(platform),
            Form::Platforms(platforms) => Field::Platforms(platforms),
        };
        let to = self.to_string();
        Object { to, field }.serialize(serializer)
    }
}

impl TryFrom<Value> for Destinations {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let values = match value {
            Value::Array(many) => many,
            one => vec![one],
        };
        if values.is_empty() || values.len() > DESTINATIONS_LIMIT {
            return Err(format!(
                "`destination`: expected a repository name, or a list of at most {DESTINATIONS_LIMIT}"
            ));
        }
        values
            .into_iter()
            .map(Written::read)
            .collect::<Result<_, _>>()
            .map(Destinations)
    }
}

impl Written {
    fn read(value: Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            to: String,
            platform: Option<Platform>,
            platforms: Option<Vec<Platform>>,
        }
        let of_destination = |reason: String| format!("`destination`: {reason}");
        match value {
            Value::String(to) => Ok(Written { to, form: None }),
            value @ Value::Object(_) => {
                let fields: Fields = serde_json::from_value(value)
                    .map_err(|error| of_destination(error.to_string()))?;
                Ok(Written {
                    to: fields.to,
                    form: Form::of(fields.platform, fields.platforms).map_err(of_destination)?,
                })
            }
            _ => Err(of_destination(
                "expected a repository name, an object with `to`, or a list of them".to_owned(),
            )),
        }
    }

    fn destination(&self, source: &Source, hosts: &Hosts) -> Result<Destination, String> {
        let text = &self.to;
        let (written_registry, written) = hosts.split_destination(text);
        let (written, tag) = match written.split_once(':') {
            Some((written, tag)) => (written, Some(tag)),
            None => (written, None),
        };
        let wrong = |reason: String| format!("destination {text:?}: {reason}");
        let filled = fill(written, &source.package).map_err(wrong)?;
        let repository = match (written_registry, hosts.split_destination(&filled)) {
            (None, (Some(_), _)) => {
                return Err(wrong(format!(
                    "gives {filled:?}: only the rule names a registry, not the package"
                )));
            }
            _ => filled,
        };
        if !is_repository(&repository) {
            return Err(wrong(format!(
                "gives {repository:?}, which is not a valid repository name"
            )));
        }
        let tag = match tag {
            Some(tag) => TagPattern::parse(&fill_name(tag, &source.package)).map_err(wrong)?,
            None => TagPattern::default(),
        };
        Ok(Destination {
            registry: written_registry.map(str::to_owned),
            repository,
            tag,
            form: self.form.clone().unwrap_or_default(),
        })
    }
}

impl Destinations {
    /// `[host/]repository` of each, with placeholders.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|written| {
            // A colon behind the last slash begins the tag; one before it is a host's port.
            let name_at = written.to.rfind('/').unwrap_or_default();
            let tag_at = written.to[name_at..].find(':');
            &written.to[..tag_at.map_or(written.to.len(), |at| name_at + at)]
        })
    }

    /// Whether several tags of an image would all go to one tag of a destination.
    pub fn name_a_tag(&self, hosts: &Hosts) -> bool {
        self.0.iter().any(|written| {
            let (_, rest) = hosts.split_destination(&written.to);
            rest.split_once(':')
                .is_some_and(|(_, tag)| !tag.contains(TAG))
        })
    }

    /// Where `source` goes, each destination once. In the form `asked`, if that is given, else in that of the destination, else in
    /// `usual`.
    ///
    /// # Errors
    /// Says which destination has no valid name, or which two contradict each other.
    pub fn of(
        &self,
        source: &Source,
        hosts: &Hosts,
        asked: Option<&Form>,
        usual: &Form,
    ) -> Result<Vec<Destination>, String> {
        let mut destinations: Vec<Destination> = Vec::new();
        for written in &self.0 {
            let mut destination = written.destination(source, hosts)?;
            destination.form = asked.or(written.form.as_ref()).unwrap_or(usual).clone();
            if destinations.contains(&destination) {
                continue;
            }
            if let Some(other) = destinations
                .iter()
                .find(|other| other.to_string() == destination.to_string())
            {
                return Err(format!(
                    "destination {:?} is named twice, with different platforms: give each a tag of its own",
                    other.to_string()
                ));
            }
            destinations.push(destination);
        }
        Ok(destinations)
    }
}

fn fill_name(text: &str, package: &str) -> String {
    let (owner, name) = package.split_once('/').unwrap_or(("", package));
    let basename = name.rsplit('/').next().unwrap_or(name);
    text.replace("{owner}", owner)
        .replace("{name}", name)
        .replace("{basename}", basename)
}

fn fill(text: &str, package: &str) -> Result<String, String> {
    let filled = fill_name(text, package);
    match filled.contains(['{', '}']) {
        true => Err(
            "only {owner}, {name} and {basename} can be filled in, and in the tag {tag} and {digest8}"
                .to_owned(),
        ),
        false => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn destinations(written: Value, source: &Source) -> Result<Vec<Destination>, String> {
        let hosts = Hosts {
            source: "ghcr.io".to_owned(),
            destination: Some("localhost:5000".to_owned()),
        };
        Destinations::try_from(written)?.of(source, &hosts, None, &Form::Whole)
    }

    fn references(written: Value, source: &Source) -> Vec<String> {
        let destinations = destinations(written, source).unwrap();
        let references = destinations
            .iter()
            .map(|destination| destination.reference(&source.version));
        references.collect()
    }

    #[test]
    fn names_and_tags_are_filled_in() {
        let written = json!([
            "prod/{name}",
            "{owner}/{basename}:{tag}-{digest8}",
            "localhost:5000/dr/{name}:stable",
            "prod/all:{basename}-{tag}"
        ]);
        let filled = [
            "prod/a/api:1",
            "acme/api:1-{digest8}",
            "localhost:5000/dr/a/api:stable",
            "prod/all:api-1",
        ];
        let tagged = Source::tagged("acme/a/api", "1");
        assert_eq!(references(written.clone(), &tagged), filled);
        let exact = Source {
            version: Version::Digest(Digest::of(b"")),
            ..tagged
        };
        let untagged = [
            "prod/a/api",
            "acme/api",
            "localhost:5000/dr/a/api:stable",
            "prod/all",
        ];
        assert_eq!(references(written, &exact), untagged);
        assert_eq!(with_digest("1-{digest8}", &Digest::of(b"")), "1-e3b0c442");
    }

    #[test]
    fn a_tag_tells_what_it_was_made_of() {
        for (pattern, written, source) in [
            ("{tag}", "1.2", Some("1.2")),
            ("{tag}-{digest8}", "latest-0a1b2c3d", Some("latest")),
            ("{tag}-{digest8}", "latest-0a1b2c3", None),
            ("{tag}-{digest8}", "latest-0A1B2C3D", None),
            ("{tag}-{digest8}", "-0a1b2c3d", None),
            ("v{tag}.{digest8}x", "v1.0a1b2c3dx", Some("1")),
            ("{digest8}-{tag}", "0a1b2c3d-1", Some("1")),
            ("{tag}-{tag}", "1-1", None),
            ("stable", "stable", None),
        ] {
            let pattern = TagPattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.source_tag(written).as_deref(),
                source,
                "{pattern:?}"
            );
        }
        let constant = |pattern: &str| TagPattern::parse(pattern).unwrap();
        assert!(constant("stable").is_constant("stable"));
        assert!(constant("x-{digest8}").is_constant("x-0a1b2c3d"));
        assert!(!constant("{tag}").is_constant("stable"));
    }

    #[test]
    fn what_is_serialised_is_what_was_written() {
        let written = json!([
            "prod/api",
            "prod/api:{tag}-{digest8}",
            {"to": "lambda/api", "platform": "linux/arm64"},
            {"to": "edge/api", "platforms": ["linux/amd64", "linux/arm/v6"]},
        ]);
        let parsed = destinations(written.clone(), &Source::tagged("acme/api", "1")).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), written);
    }

    #[test]
    fn every_mistake_is_named() {
        for (written, expected) in [
            (json!([]), "a list of at most 64"),
            (json!(7), "expected a repository name"),
            (json!("Prod/api"), "not a valid repository name"),
            (json!("prod/{nam}"), "{basename}"),
            (json!("prod/api:"), "is no tag"),
            (json!("prod/api:a b"), "is no tag"),
            (json!("prod/api:{tg}"), "is no tag"),
            (
                json!({"to": "prod/api", "platfrom": "linux/arm64"}),
                "platfrom",
            ),
            (json!({"platform": "linux/arm64"}), "missing field `to`"),
            (
                json!({"to": "prod/api", "platform": "arm64"}),
                "os/architecture",
            ),
            (
                json!(["prod/api", {"to": "prod/api", "platform": "a/b"}]),
                "named twice",
            ),
            (
                json!(format!("prod/api:{{tag}}{}", "x".repeat(128))),
                "is no tag",
            ),
        ] {
            let error =
                destinations(written.clone(), &Source::tagged("acme/api", "1")).unwrap_err();
            assert!(error.contains(expected), "{written}: {error}");
        }
        // One tag that is too long is no mistake of the rule's, and stops none of the other destinations.
        let long = Source::tagged("acme/api", &"x".repeat(120));
        let named = destinations(json!("prod/api:{tag}-{digest8}"), &long).unwrap();
        let error = named[0].tag.fill(&long.version).unwrap_err();
        assert!(error.contains("at most 128"), "{error}");
        let host = destinations(
            json!("{name}"),
            &Source::tagged("acme/123456789012.dkr.ecr.eu-west-3.amazonaws.com/x", "1"),
        );
        assert!(host.unwrap_err().contains("only the rule names a registry"));
    }
}
