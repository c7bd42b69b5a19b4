//! Which versions of a package are old enough for its rule. GitHub's list of them is read once for all tags of the package, and only
//! if one of them is to be copied.

use std::collections::BTreeSet;

use tokio::sync::Mutex;

use crate::copy::report::{Report, Subject};
use crate::error::Error;
use crate::github::Named;
use crate::invocation::Invocation;
use crate::rules::Rule;

/// So many tags are named of a package whose list can't be read.
const NAMED: usize = 5;

/// The ages of one package's versions.
pub(super) struct Ages<'a> {
    invocation: &'a Invocation<'a>,
    rule: &'a Rule,
    package: &'a str,
    /// Why the list can't be read, and the tags that are not copied because of that.
    unreadable: Mutex<Option<(Error, BTreeSet<String>)>>,
}

/// What the age of a version comes to.
pub(super) enum Age {
    Enough,
    /// It is too young, or GitHub does not list it.
    Refused(String),
    /// The list can't be read, which is said once for all tags: see [`Ages::report`].
    Unknown,
}

impl<'a> Ages<'a> {
    pub(super) fn new(invocation: &'a Invocation<'a>, rule: &'a Rule, package: &'a str) -> Self {
        Ages {
            invocation,
            rule,
            package,
            unreadable: Mutex::default(),
        }
    }

    /// The age of the version that `named` names and `tag` is to be copied for.
    pub(super) async fn of(&self, tag: &str, named: Named<'_>) -> Age {
        if self.rule.min_age().is_none() {
            return Age::Enough;
        }
        // One asks, and the others see whether that was in vain.
        let mut unreadable = self.unreadable.lock().await;
        if let Some((_, tags)) = unreadable.as_mut() {
            tags.insert(tag.to_owned());
            return Age::Unknown;
        }
        let copier = self.invocation.copier;
        match copier.age_refusal(self.rule, self.package, named).await {
            Ok(None) => Age::Enough,
            Ok(Some(reason)) => Age::Refused(reason),
            Err(error) => {
                *unreadable = Some((error, BTreeSet::from([tag.to_owned()])));
                Age::Unknown
            }
        }
    }

    /// The newest tags that are old enough, in push order as they came, and those before which they were, with the reason.
    pub(super) async fn newest(
        &self,
        tags: &[String],
        newest: usize,
    ) -> (Vec<String>, Vec<(String, String)>) {
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for tag in tags.iter().rev() {
            if kept.len() == newest {
                break;
            }
            match self.of(tag, Named::Tag(tag)).await {
                Age::Enough => kept.push(tag.clone()),
                Age::Refused(reason) => refused.push((tag.clone(), reason)),
                Age::Unknown => {}
            }
        }
        kept.reverse();
        (kept, refused)
    }

    /// Whether one of these tags is old enough.
    pub(super) async fn is_one_enough(&self, tags: &[String]) -> bool {
        let (kept, _) = self.newest(tags, 1).await;
        !kept.is_empty()
    }

    /// What is to be said of a list that can't be read.
    pub(super) fn report(self) -> Option<Report> {
        let (error, tags) = self.unreadable.into_inner()?;
        let first: Vec<String> = tags.iter().take(NAMED).cloned().collect();
        let more = match tags.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let reason = self.rule.min_age()?.refusal_of_unknown(error);
        let reason = format!("{reason}; not copied: {}{more}", first.join(", "));
        Some(Report::ignored(
            Some(Subject::package(self.package)),
            reason,
        ))
    }
}
