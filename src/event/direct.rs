//! Direct events: what to copy, or to compare, in the words of somebody who may invoke the function or write to the queue.

use oci_client::Reference;
use serde::Deserialize;
use serde_json::Value;

use super::Request;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::job::{Destination, Job, is_repository, is_tag, on_host, parse_source};
use crate::manifest::Digest;
use crate::reconcile::Scope;
use crate::rules::package_glob;

/// One image, or one image under several tags.
#[derive(Debug)]
pub struct Direct {
    sources: Vec<Reference>,
    options: Options,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSource {
    source: String,
    destination: Option<String>,
    platform: Option<Value>,
    platforms: Option<Value>,
    #[serde(default)]
    all_tags: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeveralTags {
    image: String,
    tags: Vec<String>,
    digest: Option<String>,
    destination: Option<String>,
    platform: Option<Value>,
    platforms: Option<Value>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

/// What both forms may ask for beside the source.
#[derive(Debug)]
struct Options {
    destination: Option<String>,
    all_tags: bool,
    dry_run: bool,
    force: bool,
}

impl Direct {
    /// Reads a direct event.
    ///
    /// # Errors
    /// [`Error::Event`] names the field.
    pub fn read(payload: Value) -> Result<Self> {
        if payload.get("image").is_some() {
            SeveralTags::read(payload)
        } else {
            OneSource::read(payload)
        }
    }

    /// Reads a direct event from the text of a message.
    ///
    /// # Errors
    /// As [`Direct::read`].
    pub fn read_text(text: &str) -> Result<Self> {
        let payload = serde_json::from_str(text)
            .map_err(|error| Error::Event(format!("the message is not JSON: {error}")))?;
        Direct::read(payload)
    }

    /// The copies that are asked for.
    ///
    /// # Errors
    /// [`Error::Event`] for a registry other than the source, or a destination that can't be understood; [`Error::Rule`] where no
    /// destination is named and no rule gives one.
    pub fn jobs(&self, settings: &Settings) -> Result<Vec<Job>> {
        let own = settings.source_registry.host();
        let mut jobs = Vec::new();
        for source in &self.sources {
            if source.registry() != "ghcr.io" && source.registry() != own {
                return Err(Error::Event(format!(
                    "the source's registry is {:?}, but images are only read from ghcr.io, which is {own} here",
                    source.registry()
                )));
            }
            jobs.extend(self.jobs_of(&on_host(source, &own), settings)?);
        }
        Ok(jobs)
    }

    /// To the destination that is named, or to those of the first rule that matches.
    fn jobs_of(&self, source: &Reference, settings: &Settings) -> Result<Vec<Job>> {
        let rule = settings.rules.find(source.repository());
        let mut jobs = match (&self.options.destination, rule) {
            (Some(text), rule) => vec![Job {
                source: source.clone(),
                destination: destination(text, source, settings)?,
                token_secret_id: rule.and_then(|rule| rule.token_secret_id()),
                all_tags: false,
                force: false,
                dry_run: false,
            }],
            (None, Some(rule)) => rule.jobs(source).map_err(Error::Rule)?,
            (None, None) => {
                return Err(Error::Rule(format!(
                    "no rule matches {}, and no `destination` is named: add a rule for it to RULES, or name the destination",
                    source.repository()
                )));
            }
        };
        for (position, job) in jobs.iter_mut().enumerate() {
            job.all_tags = self.options.all_tags && position == 0;
            job.force = self.options.force;
            job.dry_run = self.options.dry_run;
        }
        Ok(jobs)
    }
}

impl OneSource {
    fn read(payload: Value) -> Result<Direct> {
        let event: OneSource = serde_json::from_value(payload).map_err(not_direct)?;
        not_supported(&[event.platform, event.platforms])?;
        let source = parse_source(&event.source)
            .map_err(|reason| Error::Event(format!("source {reason}")))?;
        Ok(Direct {
            sources: vec![source],
            options: Options {
                destination: event.destination,
                all_tags: event.all_tags,
                dry_run: event.dry_run,
                force: event.force,
            },
        })
    }
}

impl SeveralTags {
    fn read(payload: Value) -> Result<Direct> {
        let event: SeveralTags = serde_json::from_value(payload).map_err(not_direct)?;
        not_supported(&[event.platform, event.platforms])?;
        let digest = match event.digest {
            Some(digest) => {
                let digest = Digest::parse(&digest)
                    .map_err(|reason| Error::Event(format!("digest: {reason}")))?;
                format!("@{digest}")
            }
            None => String::new(),
        };
        if event.tags.is_empty() {
            return Err(Error::Event("`tags` is empty".to_owned()));
        }
        let names_a_tag = |destination: &String| {
            destination
                .rsplit('/')
                .next()
                .is_some_and(|last| last.contains(':'))
        };
        if event.tags.len() > 1 && event.destination.as_ref().is_some_and(names_a_tag) {
            return Err(Error::Event(
                "several `tags` can't all go to the one tag that `destination` names: leave the tag out".to_owned(),
            ));
        }
        let sources = event
            .tags
            .iter()
            .map(|tag| parse_source(&format!("{}:{tag}{digest}", event.image)))
            .collect::<Result<_, _>>()
            .map_err(|reason| Error::Event(format!("image {reason}")))?;
        Ok(Direct {
            sources,
            options: Options {
                destination: event.destination,
                all_tags: false,
                dry_run: event.dry_run,
                force: event.force,
            },
        })
    }
}

/// The names of unknown fields are in the error as they were written, line breaks and all.
fn not_direct(error: serde_json::Error) -> Error {
    let reason = error.to_string().replace(char::is_control, " ");
    Error::Event(format!("a direct event, but {reason}"))
}

fn not_supported(platforms: &[Option<Value>]) -> Result<()> {
    match platforms.iter().any(Option::is_some) {
        true => Err(Error::Event(
            "`platform` and `platforms` are not supported by this version yet".to_owned(),
        )),
        false => Ok(()),
    }
}

/// `[<registry host>/]<repository>[:<tag>]`; the tag is the source's if none is written.
fn destination(text: &str, source: &Reference, settings: &Settings) -> Result<Destination> {
    let (registry, rest) = settings.registries.split(text);
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, source.tag()),
    };
    let tag = tag.ok_or_else(|| {
        Error::Event(format!(
            "destination {text:?}: a source with a digest alone needs a destination with a tag"
        ))
    })?;
    if !is_repository(repository) || !is_tag(tag) {
        return Err(Error::Event(format!(
            "destination {text:?}: `repository`, `repository:tag`, or the same behind the host of an ECR registry is wanted"
        )));
    }
    Ok(Destination {
        registry: registry.map(str::to_owned),
        repository: repository.to_owned(),
        tag: tag.to_owned(),
    })
}

/// A wish to have the registries compared, as a schedule has it: `{"reconcile": true}`, or with globs of packages for `true`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    reconcile: Value,
    #[serde(default)]
    dry_run: bool,
}

impl Reconcile {
    pub(super) fn read(payload: Value) -> Result<Self> {
        serde_json::from_value(payload).map_err(not_direct)
    }

    /// What to compare.
    ///
    /// # Errors
    /// [`Error::Event`] if it is neither `true` nor a list of globs.
    pub fn request(&self) -> Result<Request> {
        let wanted = || {
            Error::Event("`reconcile` is `true` or a list of globs such as \"acme/*\"".to_owned())
        };
        let packages = match &self.reconcile {
            Value::Bool(true) => None,
            Value::Array(globs) => {
                let glob = |value: &Value| package_glob(value.as_str()?).ok();
                Some(
                    globs
                        .iter()
                        .map(glob)
                        .collect::<Option<_>>()
                        .ok_or_else(wanted)?,
                )
            }
            _ => return Err(wanted()),
        };
        Ok(Request::Reconcile(Scope {
            packages,
            dry_run: self.dry_run,
        }))
    }
}
