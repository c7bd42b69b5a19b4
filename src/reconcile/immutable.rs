//! Tags that differ in repositories whose tags are immutable: no job can do anything about them, so each repository is reported
//! once, and no job is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::copy::report::{Report, Subject};
use crate::registry::Repository;

/// So many tags of a repository are named.
const NAMED: usize = 5;

/// What a run has found of them.
#[derive(Default)]
pub(super) struct ImmutableTags(Mutex<BTreeMap<String, InRepository>>);

struct InRepository {
    repository: Repository,
    /// Of the first package that has such a tag; several may share a repository.
    subject: Subject,
    count: usize,
    /// The first in their order, whichever was looked at first.
    first: BTreeSet<String>,
}

impl ImmutableTags {
    /// Notes a tag of a repository. The subject is for the report on it.
    pub(super) fn add(&self, repository: &Repository, subject: impl Fn() -> Subject, tag: &str) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tags = found
            .entry(repository.prefix())
            .or_insert_with(|| InRepository {
                repository: repository.clone(),
                subject: subject(),
                count: 0,
                first: BTreeSet::new(),
            });
        tags.count += 1;
        tags.first.insert(tag.to_owned());
        if tags.first.len() > NAMED {
            tags.first.pop_last();
        }
    }

    /// A report for each repository.
    pub(super) fn reports(self) -> impl Iterator<Item = Report> {
        let found = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.into_values().map(|tags| {
            let first: Vec<String> = tags.first.into_iter().collect();
            let error = tags.repository.immutable_tags(tags.count, &first);
            Report::failed(Some(tags.subject), error)
        })
    }
}
