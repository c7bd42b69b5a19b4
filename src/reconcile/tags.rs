//! One tag of a package against each of its destinations.

use std::sync::OnceLock;

use futures_util::future;
use tokio::sync::OnceCell;

use super::to_place;
use crate::copy::report::{Figures, Outcome, Report, Subject};
use crate::error::{Error, Kind, Result};
use crate::manifest::Digest;
use crate::observer::Counts;
use crate::reference::Destination;
use crate::registry::Repository;
use crate::retry::retry;

/// A destination of a package, whose tags are compared.
pub(super) struct Place {
    /// With any tag.
    pub(super) destination: Destination,
    pub(super) repository: Repository,
    /// Whether the repository is there, or made when something is pushed: found out once, when a tag is not there.
    pub(super) exists: OnceCell<bool>,
    /// What every tag fails with alike. The place is left alone from then on.
    pub(super) refusal: OnceLock<Error>,
}

/// A tag, and the destinations where it stands for something else than at the source.
pub(super) type Differs = (String, Vec<Destination>);

/// One tag against each of its destinations.
///
/// # Errors
/// The source refuses to show the package.
pub(super) async fn compare_tag(
    source: &Repository,
    places: &[Place],
    tag: &str,
    dry_run: bool,
) -> Result<(Vec<Report>, Option<Differs>)> {
    let (mut reports, mut differs) = (Vec::new(), Vec::new());
    let places: Vec<&Place> = places.iter().filter(|place| !place.is_refused()).collect();
    if places.is_empty() {
        return Ok((reports, None));
    }
    let at_source = retry(source.observer(), || source.resolve(tag));
    let at_destinations = places.iter().map(|place| {
        retry(place.repository.observer(), || {
            place.repository.resolve(tag)
        })
    });
    let (at_source, at_destinations) =
        future::join(at_source, future::join_all(at_destinations)).await;
    if let Err(error) = &at_source
        && error.kind() == Kind::Denied
    {
        return Err(error.clone());
    }
    for (place, at_destination) in places.into_iter().zip(at_destinations) {
        let subject = Subject::Copy {
            source: source.reference(tag),
            destination: place.repository.reference(tag),
        };
        match (&at_source, at_destination) {
            (_, Err(error)) if error.kind() == Kind::Denied => place.refuse(error),
            (Ok(None), _) => {
                let reason = "the tag was deleted at the source meanwhile".to_owned();
                reports.push(Report::ignored(Some(subject), reason));
            }
            (Err(error), _) => reports.push(Report::failed(Some(subject), error.clone())),
            (_, Err(error)) => reports.push(Report::failed(Some(subject), error)),
            (Ok(Some(digest)), Ok(found)) if found == Some(*digest) => {
                reports.push(Report::copy(
                    subject,
                    Ok(Outcome::Current),
                    current(*digest),
                ));
            }
            (_, Ok(found)) => {
                if found.is_some() || place.exists(tag, dry_run).await {
                    differs.push(Destination {
                        tag: Some(tag.to_owned()),
                        ..place.destination.clone()
                    });
                }
            }
        }
    }
    let differs = (!differs.is_empty()).then_some((tag.to_owned(), differs));
    Ok((reports, differs))
}

impl Place {
    /// What every tag of the package fails with alike, as one report.
    pub(super) fn refusal(&self, package: &str) -> Option<Report> {
        let subject = to_place(package, &self.destination);
        let error = self.refusal.get()?.clone();
        Some(Report::failed(Some(subject), error))
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    /// The repository was created, or in a dry run would be, or is known to be there.
    pub(super) fn is_made(&self) {
        _ = self.exists.set(true);
    }

    pub(super) fn refuse(&self, error: Error) {
        // Looks that were under way at the same time are refused too; one error says it all.
        _ = self.refusal.set(error);
    }

    /// Whether something can be pushed there. A HEAD request does not tell a repository that is not there from a tag that is not, and
    /// hundreds of jobs that fail for the same reason help nobody; so this is found out once, and reported once.
    ///
    /// ECR may make a repository on push, by a creation template; so the answer is that to the first step of a push, or in a dry
    /// run that to a read. What can't be found out now is left to the copies.
    async fn exists(&self, tag: &str, dry_run: bool) -> bool {
        let observer = self.repository.observer();
        let exists = self.exists.get_or_init(async || {
            let looked = retry(observer, || self.repository.expect_exists(tag)).await;
            let refusal = match looked {
                Err(missing) if missing.kind() == Kind::NotFound && dry_run => Some(missing),
                Err(missing) if missing.kind() == Kind::NotFound => {
                    match retry(observer, || self.repository.takes_pushes()).await {
                        Ok(true) => None,
                        Ok(false) => Some(missing),
                        Err(error) => Some(error),
                    }
                }
                _ => None,
            };
            match refusal.filter(|error| !error.kind().may_pass()) {
                Some(error) => {
                    self.refuse(error);
                    false
                }
                None => true,
            }
        });
        *exists.await
    }
}

/// Both sides were found to have `digest`, with one request to each.
fn current(digest: Digest) -> Figures {
    let at_source = Counts {
        requests: 1,
        ..Counts::default()
    };
    let at_destination = Counts {
        requests: 1,
        manifests_present: 1,
        ..Counts::default()
    };
    Figures {
        digest: Some(digest),
        source_digest: Some(digest),
        ..Figures::of(at_source, at_destination)
    }
}
