//! When the versions of a package were created: GitHub's own time, from its list of versions.
//!
//! The list of a package is read once, page after page and only as far as somebody asks for what is on it, and kept for some minutes:
//! a scheduled run asks for each tag that differs, and the copies after it ask again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex;
use url::Url;

use super::{Answer, Call, GitHub, VersionItem, time};
use crate::error::Result;
use crate::manifest::Digest;
use crate::token::Token;

/// How long a list is kept. A version keeps its time, but may be deleted.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// What is not on a list may be newer than it. Its first page, which has the newest, is read again, but not more often than this.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// So many pages of a list are read: GitHub serves the first ten thousand items.
const PAGES_LIMIT: usize = 100;

/// The lists of so many packages are kept, so that a warm process does not grow. A run compares one package after the other.
const LISTS_LIMIT: usize = 4;

/// A version, by what is known of it.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By its digest.
    Digest(&'a Digest),
    /// By one of its tags, as the list has them.
    Tag(&'a str),
}

/// The lists of some packages.
#[derive(Default)]
pub(super) struct Lists(std::sync::Mutex<HashMap<String, Arc<Mutex<List>>>>);

impl Lists {
    fn of(&self, package: &str) -> Arc<Mutex<List>> {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.len() >= LISTS_LIMIT && !lists.contains_key(package) {
            lists.clear();
        }
        lists.entry(package.to_owned()).or_default().clone()
    }
}

/// What was read of the list of one package.
#[derive(Default)]
struct List {
    /// When it was begun, and when its first page was read last.
    begun_at: Option<Instant>,
    first_page_at: Option<Instant>,
    by_digest: HashMap<Digest, Option<SystemTime>>,
    by_tag: HashMap<String, Option<SystemTime>>,
    next: Option<Url>,
    pages: usize,
}

impl List {
    /// The time of a version that was read; nothing in it if GitHub gave none that can be read.
    fn find(&self, named: Named<'_>) -> Option<Option<SystemTime>> {
        match named {
            Named::Digest(digest) => self.by_digest.get(digest).copied(),
            Named::Tag(tag) => self.by_tag.get(tag).copied(),
        }
    }

    fn add(&mut self, versions: Vec<VersionItem>) {
        for version in versions {
            let created_at = version.created_at.as_deref().and_then(time::parse);
            if let Ok(digest) = Digest::parse(&version.name) {
                self.by_digest.insert(digest, created_at);
            }
            let container = version.metadata.and_then(|metadata| metadata.container);
            let tags = container.and_then(|container| container.tags);
            let tags = tags.unwrap_or_default().into_iter();
            self.by_tag.extend(tags.map(|tag| (tag, created_at)));
        }
    }
}

impl GitHub {
    /// When a version of `package`, written as `owner/name`, was created; `None` if it is not among those that GitHub lists, or without
    /// a time that can be read.
    ///
    /// # Errors
    /// As [`GitHub::packages`].
    pub async fn created_at(
        &self,
        token: Option<&Token>,
        package: &str,
        named: Named<'_>,
    ) -> Result<Option<SystemTime>> {
        let (owner, name) = package.split_once('/').unwrap_or((package, ""));
        let call = Call {
            operation: "list versions",
            subject: package,
            token,
        };
        let list = self.lists.of(package);
        // Those who ask for the same package wait, so that it is listed once.
        let mut list = list.lock().await;
        if list.begun_at.is_none_or(|at| at.elapsed() >= LIFETIME) {
            *list = List::default();
        }
        if let Some(created_at) = list.find(named) {
            return Ok(created_at);
        }
        let is_fresh = |at: Instant| at.elapsed() < REFRESH_INTERVAL;
        if !list.first_page_at.is_some_and(is_fresh) {
            let now = Instant::now();
            let Answer { body, next, .. } = self.first_versions(&call, owner, name).await?;
            list.add(body);
            list.first_page_at = Some(now);
            if list.begun_at.is_none() {
                (list.begun_at, list.pages) = (Some(now), 1);
                list.next = call.trusted(next)?;
            }
        }
        loop {
            if let Some(created_at) = list.find(named) {
                return Ok(created_at);
            }
            let next = list.next.clone().filter(|_| list.pages < PAGES_LIMIT);
            let Some(next) = next else {
                return Ok(None);
            };
            let page: Answer<Vec<VersionItem>> = self.get(&call, next).await?;
            list.add(page.body);
            list.pages += 1;
            list.next = call.trusted(page.next)?;
        }
    }
}
