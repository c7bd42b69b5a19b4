//! One copy to make: a source, one or more destinations, and options.
//!
//! Its serialised form is the body of a queue's message and the direct event that asks for it, so nothing is lost or derived
//! again on the way through the queue.

use std::time::SystemTime;

use serde::{Deserialize, Serialize, Serializer};

use crate::destination::Destination;
use crate::manifest::Digest;
use crate::reference::{ReferrerTag, Source};

/// One image to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    /// What is read.
    pub source: Source,
    /// Where it goes; at least one.
    #[serde(rename = "destination", serialize_with = "one_or_many")]
    pub destinations: Vec<Destination>,
    /// How it is copied.
    #[serde(flatten)]
    pub options: Options,
}

/// How an image is copied, and who asked for it. Absent fields have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Copy the digest's other tags too, as far as the rule admits them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all_tags: bool,
    /// Plan only; change nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
    /// Look at every blob and manifest although the top digest is equal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Copy the signatures and attestations too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub referrers: bool,
    /// What made the function enqueue the job; `None` if somebody asked for it directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When the function learnt of the push; a message has its own time for that.
    #[serde(skip)]
    pub pushed_at: Option<SystemTime>,
    /// GitHub's id of the delivery that led to the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
}

/// What made the function enqueue a job. It grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A webhook of GitHub.
    Webhook,
    /// One of GitHub's events on an event bus.
    Bus,
    /// A scheduled run, or one that was asked for by `reconcile`.
    Schedule,
}

/// One destination is written by itself, several as a list.
fn one_or_many<S: Serializer>(
    destinations: &[Destination],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match destinations {
        [destination] => destination.serialize(serializer),
        destinations => destinations.serialize(serializer),
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Job {
    /// What the job is about if that is no image but a tag of signatures or attestations, which the job was asked to bring.
    pub fn referrer_tag(&self) -> Option<ReferrerTag> {
        let tag = self.source.version.tag()?;
        ReferrerTag::parse(tag).filter(|_| self.options.referrers)
    }

    /// The body of the message that asks for this job: a direct event.
    pub fn message(&self) -> String {
        // Texts and flags alone: this can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The message group of the job: one tag of one package. Jobs of one group are processed one after the other, so that a tag is
    /// not written by two copies at a time. Neither an announced digest counts nor the destinations, as a scheduled run names only
    /// those of a rule's that differ.
    ///
    /// It is a digest, as a group has at most 128 characters.
    pub fn group(&self) -> String {
        Digest::of(self.source.reference("ghcr.io").as_bytes()).encoded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::TagPattern;
    use crate::platform::Form;

    #[test]
    fn a_message_is_a_direct_event_and_defaults_are_left_out() {
        let mut job = Job {
            source: Source::tagged("acme/api", "1"),
            destinations: vec![Destination {
                registry: None,
                repository: "prod/api".to_owned(),
                tag: TagPattern::default(),
                form: Form::Whole,
            }],
            options: Options::default(),
        };
        assert_eq!(
            job.message(),
            r#"{"source":"ghcr.io/acme/api:1","destination":"prod/api"}"#
        );
        let group = job.group();
        job.options.origin = Some(Origin::Schedule);
        job.options.force = true;
        assert!(
            job.message()
                .ends_with(r#","force":true,"origin":"schedule"}"#)
        );
        assert_eq!(job.group(), group, "options don't make another group");
    }
}
