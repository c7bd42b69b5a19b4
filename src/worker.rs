//! The queue's messages: the jobs of each are copied, and then its fate is decided.

use std::collections::HashMap;
use std::time::Duration;

use crate::aws::queue::{Message, Queue};
use crate::copy::report::{Outcome, Report};
use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result, Side};
use crate::event::Direct;
use crate::invocation::Invocation;
use crate::job::{Job, Origin};
use crate::reports::{Cause, Reports};

/// After so many receives an announced tag counts as missing, not as late at the source.
const RECEIVES_OF_A_LATE_TAG: u32 = 3;

/// What becomes of a message.
enum Fate {
    /// It is finished, and SQS may delete it.
    Done,
    /// It comes back, as trying again may help.
    Return(Option<Duration>),
    /// What is left of it is sent anew, with all its receives before it.
    Renew,
    /// It can never succeed.
    DeadLetter(Box<Error>),
}

/// Processes messages in their order, and gives the ids of those that must come back: those that failed, and those behind one in
/// its group.
pub async fn process(
    invocation: &Invocation<'_>,
    messages: &[Message],
    reports: &mut Reports,
) -> Vec<String> {
    let mut returned = Vec::new();
    let mut held_groups: HashMap<&str, Duration> = HashMap::new();
    for message in messages {
        let delay = match held_groups.get(message.group.as_str()) {
            // Were it left to the queue's own visibility timeout, it would hold up its group longer than the message before it.
            Some(delay) => {
                tracing::warn!(
                    message = message.id,
                    "held back by a message before it in its group"
                );
                Some(*delay)
            }
            None => settle(invocation, message, reports).await,
        };
        if let Some(delay) = delay {
            held_groups.insert(&message.group, delay);
            postpone(invocation.queue, message, delay, invocation.shared.deadline).await;
            returned.push(message.id.clone());
        }
    }
    returned
}

/// Gives all messages back, as `error` lets none be processed.
pub async fn return_all(
    queue: Option<&Queue>,
    messages: &[Message],
    error: &Error,
    deadline: Deadline,
) -> Vec<String> {
    tracing::error!(%error, "no message can be processed");
    for message in messages {
        postpone(
            queue,
            message,
            message.backoff(error.retry_after()),
            deadline,
        )
        .await;
    }
    messages.iter().map(|message| message.id.clone()).collect()
}

/// Processes one message and carries out its fate. Gives the time after which it is to come back, if it is.
async fn settle(
    invocation: &Invocation<'_>,
    message: &Message,
    log: &mut Reports,
) -> Option<Duration> {
    let deadline = invocation.shared.deadline;
    if deadline.is_over() {
        tracing::warn!(message = message.id, "comes back: no time is left for it");
        return Some(message.backoff(None));
    }
    let job = read(invocation, message);
    let reports = match &job {
        Ok(jobs) => invocation.copy_all(jobs.clone()).await,
        Err(error) => vec![Report::failed(None, error.clone())],
    };
    let jobs = job.as_deref().unwrap_or_default();
    let fate = fate(jobs, &reports, message.receive_count);
    if invocation.publisher.is_some() && is_given_up(invocation, message, &fate).await {
        invocation.publish_failed(jobs, &reports).await;
    }
    log.received(message.receive_count);
    log.caused_by(Cause {
        is_tried_again: matches!(fate, Fate::Return(_) | Fate::Renew),
        ..Cause::of(jobs, message.sent_at)
    });
    let left = job.ok().and_then(|jobs| left_of(jobs, &reports));
    log.extend(reports);
    let carried_out = match (fate, invocation.queue) {
        (Fate::Done, _) => return None,
        (Fate::Return(retry_after), _) => return Some(message.backoff(retry_after)),
        (_, None) => return Some(message.backoff(None)),
        (Fate::Renew, Some(queue)) => deadline
            .bound_settling(queue.renew(message))
            .await
            .map(|()| true),
        (Fate::DeadLetter(error), Some(queue)) => {
            let body = left
                .as_ref()
                .map_or_else(|| Direct::without_token(&message.body), Job::message);
            deadline
                .bound_settling(queue.dead_letter(message, &body, &error))
                .await
        }
    };
    match carried_out.inspect_err(|error| tracing::error!(%error)) {
        Ok(true) => None,
        // Neither sent anew nor dead-lettered: the message itself has to come back.
        Ok(false) | Err(_) => Some(message.backoff(None)),
    }
}

/// Whether nobody tries again what failed of a message: it is settled, or SQS gives it up after this receive. (Amazon SQS developer
/// guide, "Using dead-letter queues in Amazon SQS")
async fn is_given_up(invocation: &Invocation<'_>, message: &Message, fate: &Fate) -> bool {
    let queue = invocation.queue;
    let deadline = invocation.shared.deadline;
    let limit = async {
        let limit = queue?.receive_limit();
        let limit = deadline.bound_telling(async { Ok(limit.await) });
        limit.await.ok().flatten()
    };
    match fate {
        Fate::Done => true,
        Fate::Renew => false,
        Fate::DeadLetter(_) if queue.is_some_and(|it| it.dead_letter_url().is_some()) => true,
        // Rather told at each receive than never.
        Fate::DeadLetter(_) => limit
            .await
            .is_none_or(|limit| message.receive_count >= limit),
        Fate::Return(_) => limit
            .await
            .is_some_and(|limit| message.receive_count >= limit),
    }
}

fn read(invocation: &Invocation<'_>, message: &Message) -> Result<Vec<Job>> {
    let direct = Direct::read_text(&message.body)?;
    let hosts = &invocation.copier.registries.hosts;
    direct.jobs(&invocation.rules, hosts)
}

/// Decides what becomes of a message.
fn fate(jobs: &[Job], reports: &[Report], receive_count: u32) -> Fate {
    let errors = || reports.iter().filter_map(|report| report.error.as_ref());
    let Some(first) = errors().next() else {
        return Fate::Done;
    };
    // A copy that was cut but made progress resumes as a message of its own, so that an image of any size arrives in the end.
    // One that made none must run out of receives.
    if errors().any(|error| error.kind() == Kind::Deadline) {
        return match reports.iter().any(Report::has_progress) {
            true => Fate::Renew,
            false => Fate::Return(None),
        };
    }
    // As long as one of several copies may still succeed, the message is not given up for the others.
    if let Some(error) = errors().find(|error| error.kind().may_pass()) {
        return Fate::Return(error.retry_after());
    }
    // GHCR can be late to show what GitHub's own event announces.
    let is_announced = jobs
        .iter()
        .any(|job| job.source.version.announced().is_some());
    let is_late =
        |error: &Error| error.kind() == Kind::NotFound && error.side() == Some(Side::Source);
    if is_announced && errors().all(is_late) && receive_count < RECEIVES_OF_A_LATE_TAG {
        return Fate::Return(None);
    }
    // A scheduled run finds it again, and it is reported by each run: as a dead letter it would only pile up.
    if !jobs.is_empty()
        && jobs
            .iter()
            .all(|job| job.options.origin == Some(Origin::Schedule))
    {
        return Fate::Done;
    }
    Fate::DeadLetter(Box::new(first.clone()))
}

/// The job for those destinations that failed, if the message was one job and nothing else of it failed. Where other tags did, or the
/// job's own tag was ignored, every destination is needed again.
fn left_of(jobs: Vec<Job>, reports: &[Report]) -> Option<Job> {
    let [mut job] = <[Job; 1]>::try_from(jobs).ok()?;
    let has_failed =
        |report: &Report| matches!(report.outcome, Outcome::Failed | Outcome::Deferred);
    let (own, others) = reports.split_at_checked(job.destinations.len())?;
    let is_ignored = own.iter().any(|report| report.outcome == Outcome::Ignored);
    if is_ignored || others.iter().any(has_failed) {
        return None;
    }
    let failed: Vec<bool> = own.iter().map(has_failed).collect();
    if !failed.contains(&true) || !failed.contains(&false) {
        return None;
    }
    let mut failed = failed.into_iter();
    job.destinations.retain(|_| failed.next().unwrap_or(true));
    Some(job)
}

async fn postpone(queue: Option<&Queue>, message: &Message, delay: Duration, deadline: Deadline) {
    let Some(queue) = queue else {
        return;
    };
    if let Err(error) = deadline
        .bound_settling(queue.postpone(message, delay))
        .await
    {
        tracing::warn!(%error, "the message comes back after the queue's own visibility timeout");
    }
}
