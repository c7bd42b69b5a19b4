//! Direct events: what to copy or to compare, as written by somebody who may invoke the function or send to the queue.

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::destination::{Destination, Destinations};
use crate::endpoint::Hosts;
use crate::error::{Error, Result};
use crate::job::{Job, Options};
use crate::manifest::Digest;
use crate::platform::{Form, Platform};
use crate::reconcile::Scope;
use crate::reference::Source;
use crate::rules::{Rule, Rules, glob};

/// One image, or one image under several tags. The names in it are checked when they become jobs.
#[derive(Debug)]
pub struct Direct {
    /// `ghcr.io/owner/name:tag`, with or without a digest.
    sources: Vec<String>,
    destinations: Option<Destinations>,
    /// In which the image is to arrive everywhere, whatever rules and destinations say.
    form: Option<Form>,
    options: Options,
    /// GitHub's token, lent for this one copy.
    token: Option<SecretString>,
}

/// What stands for a token in the text of a message that is passed on.
const ELLIPSIS: &str = "…";

impl Direct {
    /// Reads a direct event.
    ///
    /// # Errors
    /// [`Error::Event`] names the field.
    pub fn read(payload: Value) -> Result<Self> {
        let Value::Object(mut fields) = payload else {
            return Err(not_direct("it is not a JSON object"));
        };
        let token = fields.remove("token").map(lent_token).transpose()?;
        let destinations: Option<Destinations> = take(&mut fields, "destination")?;
        let platform: Option<Platform> = take(&mut fields, "platform")?;
        let platforms: Option<Vec<Platform>> = take(&mut fields, "platforms")?;
        let form = Form::of(platform, platforms).map_err(Error::Event)?;
        let sources = match take::<String>(&mut fields, "image")? {
            None => vec![
                take(&mut fields, "source")?.ok_or_else(|| not_direct("`source` is missing"))?,
            ],
            Some(image) => {
                let tags: Vec<String> = take(&mut fields, "tags")?.unwrap_or_default();
                let digest: Option<String> = take(&mut fields, "digest")?;
                tagged(&image, &tags, digest.as_deref())?
            }
        };
        // What is left are options; others are unknown.
        let options = serde_json::from_value(Value::Object(fields)).map_err(not_direct)?;
        Ok(Direct {
            sources,
            destinations,
            form,
            options,
            token,
        })
    }

    /// Reads a direct event from the text of a message, which may not have a token.
    ///
    /// # Errors
    /// As [`Direct::read`].
    pub fn read_text(text: &str) -> Result<Self> {
        let payload: Value = serde_json::from_str(text)
            .map_err(|error| Error::Event(format!("the message is not JSON: {error}")))?;
        if payload.get("token").is_some() {
            return Err(token_refused("a message"));
        }
        Direct::read(payload)
    }

    /// The text of a message that is passed on: a token that should not have been in it goes no further.
    pub fn without_token(text: &str) -> String {
        match serde_json::from_str(text) {
            Ok(Value::Object(mut fields)) if fields.contains_key("token") => {
                fields.insert("token".to_owned(), ELLIPSIS.into());
                Value::Object(fields).to_string()
            }
            _ => text.to_owned(),
        }
    }

    /// The token to read the image with, in place of the configured one. It is for this one copy: it may not be kept or enqueued.
    pub fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// The copies that are asked for: to the destinations that are named, or to those of the first rule that matches.
    ///
    /// # Errors
    /// [`Error::Event`] for a registry other than the source, or a destination that can't be understood; [`Error::Rule`] where no
    /// destination is named and no rule gives one.
    pub fn jobs(&self, rules: &Rules, hosts: &Hosts) -> Result<Vec<Job>> {
        let destinations = self.destinations.as_ref();
        if self.sources.len() > 1
            && destinations.is_some_and(|destinations| destinations.name_a_tag(hosts))
        {
            return Err(Error::Event(
                "several `tags` can't all go to the one tag that `destination` names: leave the tag out, or let it have {tag}"
                    .to_owned(),
            ));
        }
        let job = |text: &String| {
            let source = Source::parse(text, hosts)
                .map_err(|reason| Error::Event(format!("source {reason}")))?;
            let mut options = self.options.clone();
            let destinations = match destinations {
                Some(destinations) => destinations
                    .of(&source, hosts, self.form.as_ref(), &Form::Whole)
                    .map_err(Error::Event)?,
                None => {
                    let rule = rules.find(&source.package);
                    options.referrers |= rule.is_some_and(Rule::referrers);
                    ruled(rules, &source, self.form.as_ref())?
                }
            };
            Ok(Job {
                source,
                destinations,
                options,
            })
        };
        self.sources.iter().map(job).collect()
    }
}

/// The error never quotes it.
fn lent_token(value: Value) -> Result<SecretString> {
    let is_token =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match value {
        Value::String(text) if is_token(text.trim()) => Ok(SecretString::from(text.trim())),
        _ => Err(not_direct(
            "`token` is not GitHub's token: a text without spaces; leave the field out to use the configured one",
        )),
    }
}

/// A token may only come from whoever invokes the function itself: anything else keeps what it passes on.
pub(super) fn token_refused(from: &str) -> Error {
    Error::Event(format!(
        "{from} has a `token`, which the function takes only from whoever invokes it directly: leave the field out, and the configured token is used"
    ))
}

/// `image:tag` for each tag.
fn tagged(image: &str, tags: &[String], digest: Option<&str>) -> Result<Vec<String>> {
    if tags.is_empty() {
        return Err(Error::Event("`tags` is empty".to_owned()));
    }
    let digest = match digest {
        Some(digest) => {
            let digest = Digest::parse(digest)
                .map_err(|reason| Error::Event(format!("digest: {reason}")))?;
            format!("@{digest}")
        }
        None => String::new(),
    };
    let mut sources: Vec<String> = Vec::new();
    for tag in tags {
        let source = format!("{image}:{tag}{digest}");
        // The same tag twice is one copy.
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    Ok(sources)
}

fn ruled(rules: &Rules, source: &Source, form: Option<&Form>) -> Result<Vec<Destination>> {
    let rule = rules.find(&source.package).ok_or_else(|| {
        Error::Rule(format!(
            "no rule matches {}, and no `destination` is named: add a rule for it to RULES, or name the destination",
            source.package
        ))
    })?;
    rule.destinations(source, form).map_err(Error::Rule)
}

/// Takes a field out, so that what is left can be checked for unknown ones.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| not_direct(format!("`{name}`: {error}"))),
    }
}

/// The names of unknown fields are in the error as they were written, line breaks and all.
fn not_direct(error: impl ToString) -> Error {
    let reason = error.to_string().replace(char::is_control, " ");
    Error::Event(format!("a direct event, but {reason}"))
}

/// `{"reconcile": true}`, or with globs of packages for `true`.
pub(super) fn read_reconcile(payload: Value) -> Result<Scope> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        reconcile: Value,
        #[serde(default)]
        dry_run: bool,
    }
    let fields: Fields = serde_json::from_value(payload).map_err(not_direct)?;
    let expected = || {
        Error::Event(
            "`reconcile`: expected `true` or a list of globs such as \"acme/*\"".to_owned(),
        )
    };
    let packages = match &fields.reconcile {
        Value::Bool(true) => None,
        Value::Array(globs) if !globs.is_empty() => {
            let glob = |value: &Value| {
                let text = value.as_str().ok_or_else(expected)?;
                glob::packages(text)
                    .map_err(|reason| Error::Event(format!("`reconcile` {text:?}: {reason}")))
            };
            Some(globs.iter().map(glob).collect::<Result<_>>()?)
        }
        _ => return Err(expected()),
    };
    Ok(Scope {
        packages,
        dry_run: fields.dry_run,
    })
}

/// `{"check": true}`, which has no other fields.
pub(super) fn read_check(payload: Value) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        check: Value,
    }
    let fields: Fields = serde_json::from_value(payload).map_err(not_direct)?;
    match fields.check {
        Value::Bool(true) => Ok(()),
        _ => Err(Error::Event("`check`: expected `true`".to_owned())),
    }
}
