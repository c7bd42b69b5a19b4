//! What happens to one invocation, from the event to the reply.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, stream};
use lambda_runtime::{Context, LambdaEvent};
use oci_client::Reference;
use serde_json::Value;

use crate::access::Access;
use crate::aws::{Freshness, SecretVersion};
use crate::copy::copy;
use crate::error::{Error, Kind, Result};
use crate::event::{Direct, Event, HttpRequest, Request, batch_reply, summary};
use crate::github::GitHub;
use crate::job::Job;
use crate::limits::Limits;
use crate::queue::{Message, Queue};
use crate::reconcile::{self, Scope};
use crate::report::{Copy, Outcome, Report};
use crate::webhook;

/// Kept back from Lambda's deadline, to write the report and to answer.
const DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// Copies under way at once in one invocation. The blobs of all of them share one limit.
const COPIES: usize = 8;

/// What lives across invocations.
pub struct App {
    access: Access,
    github: GitHub,
    queue: Option<Queue>,
}

impl App {
    /// Puts together what lives across invocations. Without a queue, every job is done in the invocation that asks for it.
    pub fn new(access: Access, queue: Option<Queue>) -> Self {
        let github = GitHub::new(access.http.clone(), access.settings.github_api_url.clone());
        App {
            access,
            github,
            queue,
        }
    }

    /// Answers one invocation: event, jobs, copies, report, reply.
    ///
    /// # Errors
    /// What makes the invocation a function error; see [`Event::reply`].
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value> {
        let limits = Limits::new(
            deadline(&event.context),
            self.access.settings.blob_concurrency,
        );
        let limits = &limits;
        let invocation = event.context.request_id;
        let event = Event::read(event.payload).inspect_err(|error| tracing::error!(%error))?;
        let cause = event.cause().unwrap_or(&invocation);
        let reports = match self.request(&event).await {
            Ok(Request::Copy(jobs)) => self.copy_all(jobs, limits).await,
            Ok(Request::HandOver(jobs)) => self.hand_over(jobs, cause, limits).await,
            Ok(Request::Reconcile(scope)) => self.reconcile(&scope, cause, limits).await,
            Ok(Request::WorkOff(messages)) => return self.work_off(&messages, limits).await,
            Ok(Request::Ignore(reason)) => vec![Report::ignored(reason)],
            Err(error) => vec![Report::failed(error)],
        };
        log(&reports);
        event.reply(reports)
    }

    async fn request(&self, event: &Event) -> Result<Request> {
        let settings = &self.access.settings;
        match event {
            Event::Http(request) => {
                self.check_signature(request).await?;
                request.request(settings)
            }
            Event::Bus(event) => event.request(settings),
            Event::Schedule => Ok(Request::Reconcile(Scope::default())),
            Event::Direct(direct) => direct.jobs(settings).map(Request::Copy),
            Event::Reconcile(reconcile) => reconcile.request(),
            Event::Queue(messages) => Ok(Request::WorkOff(messages.clone())),
        }
    }

    /// A rotation is never at the same instant on both sides, so the secret's previous version will do; and one that was rotated
    /// while this process is warm is read again, once, when a signature does not match.
    async fn check_signature(&self, request: &HttpRequest) -> Result<()> {
        let id = self.access.settings.webhook_secret_id.as_deref();
        let id = id.ok_or(Error::Signature)?;
        for freshness in [Freshness::Kept, Freshness::AfterRefusal] {
            for version in [SecretVersion::Current, SecretVersion::Previous] {
                let secret = self
                    .access
                    .aws
                    .webhook_secret(id, version, freshness)
                    .await?;
                let signature = request.signature.as_deref();
                if secret
                    .is_some_and(|secret| webhook::is_signed(&secret, &request.body, signature))
                {
                    return Ok(());
                }
            }
        }
        Err(Error::Signature)
    }

    /// Several side by side; a failure stops none of the others.
    async fn copy_all(&self, jobs: Vec<Job>, limits: &Limits) -> Vec<Report> {
        let reports = stream::iter(&jobs)
            .map(|job| self.copy_one(job, limits))
            .buffered(COPIES);
        reports.concat().await
    }

    /// One copy, and those that follow from it.
    async fn copy_one(&self, job: &Job, limits: &Limits) -> Vec<Report> {
        // Boxed, as a copy is a large future inside several others.
        let mut report = Box::pin(copy(&self.access, job, limits)).await;
        let others = match job.all_tags {
            true => self.other_tags(job, &mut report, limits).await,
            false => Vec::new(),
        };
        std::iter::once(report).chain(others).collect()
    }

    /// To the queue, or without one, at once.
    async fn hand_over(&self, jobs: Vec<Job>, cause: &str, limits: &Limits) -> Vec<Report> {
        let Some(queue) = &self.queue else {
            return self.copy_all(jobs, limits).await;
        };
        let results = queue.send(&jobs, cause).await;
        let report = |(job, result): (&Job, Result<()>)| match result {
            Ok(()) => Report::queued(job.source_name(), job.destination.to_string()),
            Err(error) => Report::failed(error),
        };
        jobs.iter().zip(results).map(report).collect()
    }

    /// Package by package, so that what differs is handed over before the deadline can come.
    async fn reconcile(&self, scope: &Scope, cause: &str, limits: &Limits) -> Vec<Report> {
        let (access, dry_run) = (&self.access, scope.dry_run);
        let (packages, mut reports) =
            Box::pin(reconcile::packages(access, &self.github, scope)).await;
        for (rule, package) in packages {
            let compare = Box::pin(reconcile::compare(access, rule, &package, dry_run));
            let found = tokio::time::timeout_at(limits.deadline.into(), compare).await;
            let jobs = match found.unwrap_or(Err(Error::Deadline)) {
                Ok(found) => {
                    reports.extend(found.reports);
                    found.jobs
                }
                Err(error) => {
                    reports.push(Report::failed(error));
                    continue;
                }
            };
            reports.extend(match dry_run {
                true => self.copy_all(jobs, limits).await,
                false => self.hand_over(jobs, cause, limits).await,
            });
        }
        reports
    }

    /// The other tags of the digest that was just copied. GitHub may name only one of several tags that were pushed together
    /// (docker/metadata-action#300). That they can't be learnt is worth a warning, not an error: the schedule finds them.
    async fn other_tags(&self, job: &Job, report: &mut Report, limits: &Limits) -> Vec<Report> {
        let Some(copied) = report.copy.as_mut().filter(|_| report.error.is_none()) else {
            return Vec::new();
        };
        let Some(digest) = copied.source_digest.clone() else {
            return Vec::new();
        };
        let repository = job.source.repository();
        let token_secret_id = job.token_secret_id.as_deref();
        let tags = self
            .access
            .with_token(token_secret_id, async |token| match token {
                Some(_) => self.github.tags_of(token, repository, &digest).await,
                None => Ok(Vec::new()),
            });
        let (tags, rule) = match (tags.await, self.access.settings.rules.find(repository)) {
            (Ok(tags), Some(rule)) => (tags, rule),
            (Ok(_), None) => return Vec::new(),
            (Err(error), _) => {
                copied.warnings.push(format!(
                    "the other tags of this digest could not be learnt, a scheduled run will find them: {error}"
                ));
                return Vec::new();
            }
        };
        let host = self.access.settings.source_registry.host();
        let source = |tag: String| Reference::with_tag(host.clone(), repository.to_owned(), tag);
        let others = tags
            .into_iter()
            .filter(|tag| job.source.tag() != Some(tag) && rule.refusal(tag).is_none())
            .filter_map(|tag| rule.jobs(&source(tag)).ok())
            .flatten()
            .collect();
        Box::pin(self.hand_over(others, digest.as_str(), limits)).await
    }

    /// Works off messages in their order, and says which must come back: those that failed, and those behind one in its group.
    async fn work_off(&self, messages: &[Message], limits: &Limits) -> Result<Value> {
        let mut failed = Vec::new();
        let mut failed_groups = HashSet::new();
        for message in messages {
            if failed_groups.contains(&message.group) || !self.is_worked_off(message, limits).await
            {
                failed_groups.insert(&message.group);
                failed.push(message.id.clone());
            }
        }
        batch_reply(failed)
    }

    /// Copies what one message asks for. Whether it is done with: copied, or handed on to where it belongs.
    async fn is_worked_off(&self, message: &Message, limits: &Limits) -> bool {
        let settings = &self.access.settings;
        let jobs = Direct::read_text(&message.body).and_then(|direct| direct.jobs(settings));
        let reports = match jobs {
            Ok(jobs) => self.copy_all(jobs, limits).await,
            Err(error) => vec![Report::failed(error)],
        };
        log(&reports);
        let mut copies = reports.iter().filter_map(|report| report.copy.as_ref());
        let has_progress = copies.any(Copy::has_progress);
        // As long as one of several copies may still succeed, the message is not given up for the others.
        let may_pass = |error: &&Error| {
            matches!(
                error.kind(),
                Kind::Deadline | Kind::Transient | Kind::Internal
            )
        };
        let errors = || reports.iter().filter_map(|report| report.error.as_ref());
        let error = errors().find(may_pass).or_else(|| errors().next());
        let Some((error, queue)) = error.zip(self.queue.as_ref()) else {
            return error.is_none();
        };
        let handed_on = match error.kind() {
            Kind::Deadline if has_progress => queue.continue_later(message).await.map(|()| true),
            _ if may_pass(&error) => Ok(false),
            _ => queue.give_up(message, error).await,
        };
        let handed_on = handed_on
            .inspect_err(|error| tracing::error!(%error))
            .unwrap_or(false);
        if !handed_on && let Err(error) = queue.back_off(message).await {
            tracing::warn!(%error, "the message comes back after the queue's own visibility timeout");
        }
        handed_on
    }
}

/// One line for each report: what an operator searches for and counts.
fn log(reports: &[Report]) {
    for report in reports {
        let line = summary(std::slice::from_ref(report));
        match report.outcome {
            Outcome::Failed | Outcome::Deferred => tracing::error!(report = %line),
            // A scheduled run may find very many of these.
            Outcome::Current if reports.len() > 1 => tracing::debug!(report = %line),
            _ => tracing::info!(report = %line),
        }
    }
}

/// Lambda says its deadline as milliseconds since the epoch; it kills the process then, without a word.
fn deadline(context: &Context) -> Instant {
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_millis(context.deadline);
    let remaining = deadline
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    Instant::now() + remaining.saturating_sub(DEADLINE_MARGIN)
}
