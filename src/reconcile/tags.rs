//! One tag of a package against each of its destinations.

use std::collections::HashMap;
use std::sync::OnceLock;

use futures_util::future;
use tokio::sync::OnceCell;

use super::ages::{Age, Ages};
use super::immutable::ImmutableTags;
use super::to_place;
use crate::allowance::{Allowance, Memory};
use crate::copy::form;
use crate::copy::report::{Figures, Outcome, Report, Subject};
use crate::destination::{Destination, needs_digest, two_forms, with_digest};
use crate::error::{Error, Kind, Result};
use crate::github::Named;
use crate::manifest::{Digest, Manifest};
use crate::observer::Counts;
use crate::platform::Form;
use crate::reference::Source;
use crate::registry::Repository;
use crate::repositories::Repositories;
use crate::retry::retry;

/// A destination of a package, whose tags are compared.
pub(super) struct Place {
    /// With any tag.
    pub(super) destination: Destination,
    pub(super) repository: Repository,
    /// Whether the repository is there, or made when something is pushed: found out once, when a tag is not there.
    pub(super) exists: OnceCell<bool>,
    /// The tags that ECR has archived, with their digests: found out once, when a tag is not there.
    pub(super) archived: OnceCell<HashMap<String, Digest>>,
    /// What every tag fails with alike. The place is left alone from then on.
    pub(super) refusal: OnceLock<Error>,
}

/// A tag, and the destinations where it stands for something else than at the source.
pub(super) type Differs = (String, Vec<Destination>);

/// What the tags of one package are compared with.
pub(super) struct Comparison<'a> {
    pub(super) package: &'a str,
    pub(super) source: &'a Repository,
    pub(super) places: &'a [Place],
    /// Which versions are old enough.
    pub(super) ages: &'a Ages<'a>,
    /// Where tags are noted that differ and can't be moved.
    pub(super) immutable: &'a ImmutableTags,
    /// The tag that was pushed last, of those that are old enough. It alone is compared where a destination has one tag for all, which
    /// would otherwise go back and forth between them.
    pub(super) newest: &'a str,
    /// Those that were pushed after it.
    pub(super) younger: &'a [String],
    pub(super) memory: &'a Memory,
    pub(super) repositories: &'a Repositories,
    pub(super) dry_run: bool,
}

/// What a tag stands for at the source: the manifest is read where a destination gets another form of it.
enum Top {
    Digest(Digest),
    Manifest {
        top: Manifest,
        /// For as long as it is held.
        _allowance: Allowance,
    },
}

impl Top {
    fn digest(&self) -> Digest {
        match self {
            Top::Digest(digest) => *digest,
            Top::Manifest { top, .. } => top.digest,
        }
    }

    /// The digest that a destination is to have.
    fn arrival(&self, place: &Place) -> Result<Digest, String> {
        match self {
            Top::Digest(digest) => Ok(*digest),
            Top::Manifest { top, .. } => {
                form::arrival(top, &place.destination.form).map(|arrival| arrival.digest)
            }
        }
    }
}

/// What a destination has under a tag.
struct Looked<'a> {
    place: &'a Place,
    tag: String,
    digest: Result<Option<Digest>>,
}

impl Comparison<'_> {
    /// One tag against each of its destinations.
    ///
    /// # Errors
    /// The source refuses to show the package.
    pub(super) async fn tag(&self, tag: &str) -> Result<(Vec<Report>, Option<Differs>)> {
        let (mut reports, mut differs) = (Vec::new(), Vec::new());
        let version = Source::tagged("", tag).version;
        let (mut early, mut late) = (Vec::new(), Vec::new());
        let mut met: Vec<(String, &Form)> = Vec::new();
        for place in self.places.iter().filter(|place| !place.is_refused()) {
            if place.destination.tag.is_one_for_all() && tag != self.newest {
                continue;
            }
            let filled = place.destination.tag.fill(&version);
            if let Ok(Some(name)) = &filled {
                let reference = place.repository.reference(name);
                let form = &place.destination.form;
                if met
                    .iter()
                    .any(|(other, of)| *other == reference && *of != form)
                {
                    let error = Error::Rule(two_forms(&reference));
                    let subject = self.subject(tag, place, name);
                    reports.push(Report::failed(Some(subject), error));
                    continue;
                }
                met.push((reference, form));
            }
            match filled {
                Ok(Some(name)) if needs_digest(&name) => late.push((place, name)),
                Ok(Some(name)) => early.push((place, name)),
                Ok(None) => {}
                Err(reason) => {
                    reports.push(Report::ignored(Some(self.subject(tag, place, tag)), reason))
                }
            }
        }
        if early.is_empty() && late.is_empty() {
            return Ok((reports, None));
        }
        let (top, mut looked) = future::join(self.top(tag), looked(early)).await;
        let top = match top {
            Err(error) if error.kind() == Kind::Denied => return Err(error),
            top => top,
        };
        if let Ok(Some(top)) = &top {
            let digest = top.digest();
            let late = late.into_iter();
            let late = late.map(|(place, name)| (place, with_digest(&name, &digest)));
            looked.extend(self::looked(late.collect()).await);
        }
        for looked in looked {
            let subject = self.subject(tag, looked.place, &looked.tag);
            match self.compare(&top, &looked, subject).await {
                Ok(report) => reports.extend(report),
                Err(Lacks) => differs.push(looked.place.destination.clone()),
            }
        }
        let differs = (!differs.is_empty()).then_some((tag.to_owned(), differs));
        Ok((reports, differs))
    }

    /// What to say of a destination.
    ///
    /// # Errors
    /// [`Lacks`] if it is to be copied to.
    async fn compare(
        &self,
        top: &Result<Option<Top>>,
        looked: &Looked<'_>,
        subject: Subject,
    ) -> Result<Option<Report>, Lacks> {
        let Looked { place, tag, digest } = looked;
        let (top, found) = match (top, digest) {
            (_, Err(error)) if error.kind() == Kind::Denied => {
                place.refuse(error.clone());
                return Ok(None);
            }
            (Ok(None), _) => {
                let reason = "the tag was deleted at the source meanwhile".to_owned();
                return Ok(Some(Report::ignored(Some(subject), reason)));
            }
            (Err(error), _) | (_, Err(error)) => {
                return Ok(Some(Report::failed(Some(subject), error.clone())));
            }
            (Ok(Some(top)), Ok(found)) => (top, *found),
        };
        match top.arrival(place) {
            Err(reason) => {
                let error = self.source.not_copied(&top.digest().to_string(), reason);
                Ok(Some(Report::failed(Some(subject), error)))
            }
            Ok(digest) if found == Some(digest) => {
                let figures = current(digest, top.digest());
                Ok(Some(Report::copy(subject, Ok(Outcome::Current), figures)))
            }
            Ok(digest) if found.is_none() && self.is_archived(place, tag, digest).await => {
                let reason = "ECR has archived this image, and a scheduled run leaves it so; a webhook or a direct event restores it".to_owned();
                Ok(Some(Report::ignored(Some(subject), reason)))
            }
            Ok(_) if self.is_of_younger(place, found).await => {
                let reason = "the tag has an image that was pushed later and is too young for the rule's tags.min_age: somebody has asked for it, and a scheduled run does not take it back".to_owned();
                Ok(Some(Report::ignored(Some(subject), reason)))
            }
            Ok(_) => {
                let digest = top.digest();
                match self.ages.of(tag, Named::Digest(&digest)).await {
                    Age::Refused(reason) => Ok(Some(Report::ignored(Some(subject), reason))),
                    Age::Unknown => Ok(None),
                    Age::Enough if self.can_be_copied(place, tag, found).await => Err(Lacks),
                    Age::Enough => Ok(None),
                }
            }
        }
    }

    /// Whether anything can be written under a tag that has another image, or none. What stands against it is noted, and reported
    /// once for all tags alike.
    async fn can_be_copied(&self, place: &Place, tag: &str, found: Option<Digest>) -> bool {
        if let Err(error) = place.repository.expect_no_upstream().await {
            place.refuse(error);
            return false;
        }
        if found.is_none() {
            return place.exists(tag, self.dry_run).await;
        }
        let is_kept = place.repository.keeps(tag).await;
        if is_kept {
            let subject = || to_place(self.package, &place.destination);
            self.immutable.add(&place.repository, subject, tag);
        }
        !is_kept
    }

    /// Whether one tag for all has an image that was pushed after the newest that is old enough: who asks for an image is not asked for
    /// its age. What can't be read of the source is taken for that image, as the tag must not go back.
    async fn is_of_younger(&self, place: &Place, found: Option<Digest>) -> bool {
        let Some(found) = found.filter(|_| place.destination.tag.is_one_for_all()) else {
            return false;
        };
        for tag in self.younger {
            match self.top(tag).await {
                Ok(None) => {}
                Ok(Some(top)) if top.arrival(place) != Ok(found) => {}
                _ => return true,
            }
        }
        false
    }

    /// Whether ECR has archived this very image under the tag. A pull answers as if it were not there, and a push restores it: to be
    /// archived again the next day. (ECR user guide, "Archiving an image") Where ECR can't be asked, it is copied.
    async fn is_archived(&self, place: &Place, tag: &str, digest: Digest) -> bool {
        let archived = place.archived.get_or_init(async || {
            let archived = self.repositories.archived(&place.destination).await;
            archived.unwrap_or_else(|error| {
                tracing::debug!(%error, "it can't be learnt what ECR has archived");
                HashMap::new()
            })
        });
        archived.await.get(tag) == Some(&digest)
    }

    /// What the tag stands for at the source: one request.
    async fn top(&self, tag: &str) -> Result<Option<Top>> {
        let mut places = self.places.iter();
        if places.all(|place| place.destination.form == Form::Whole) {
            let digest = retry(self.source.observer(), || self.source.resolve(tag)).await?;
            return Ok(digest.map(Top::Digest));
        }
        let allowance = self.memory.allowance();
        let fetch = || self.source.fetch_manifest(tag, &allowance);
        match retry(self.source.observer(), fetch).await {
            Ok(top) => Ok(Some(Top::Manifest {
                top,
                _allowance: allowance,
            })),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn subject(&self, tag: &str, place: &Place, destination_tag: &str) -> Subject {
        Subject::Copy {
            source: self.source.reference(tag),
            destination: place.repository.reference(destination_tag),
        }
    }
}

/// The destination does not have what it is to have.
struct Lacks;

async fn looked<'a>(names: Vec<(&'a Place, String)>) -> Vec<Looked<'a>> {
    let looks = names.into_iter().map(async |(place, tag)| {
        let resolve = || place.repository.resolve(&tag);
        let digest = retry(place.repository.observer(), resolve).await;
        Looked { place, tag, digest }
    });
    future::join_all(looks).await
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

/// The destination was found to have `digest` of what is `source_digest` at the source, with one request to each.
fn current(digest: Digest, source_digest: Digest) -> Figures {
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
        source_digest: Some(source_digest),
        ..Figures::of(at_source, at_destination)
    }
}
