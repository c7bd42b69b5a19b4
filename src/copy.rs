//! One job, from its credentials to its report.

use std::time::Instant;

use crate::access::{Access, Credentials};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::limits::Limits;
use crate::plan;
use crate::report::{Copy, Outcome, Report};
use crate::tally::Tally;
use crate::transfer;

/// Makes one copy, and says what happened. What is done when the deadline comes stays done.
pub async fn copy(access: &Access, job: &Job, limits: &Limits) -> Report {
    let begin = Instant::now();
    let tally = Tally::default();
    let mut copy = Copy::new(job.source_name(), job.destination.to_string());
    let token_secret_id = job.token_secret_id.as_deref();
    let attempt = access.with_credentials(token_secret_id, &job.destination, async |credentials| {
        look_decide_act(access, credentials, job, limits, &mut copy, &tally).await
    });
    let result = tokio::time::timeout_at(limits.deadline.into(), attempt)
        .await
        .unwrap_or(Err(Error::Deadline));
    copy.done(&tally);
    copy.elapsed_ms = begin.elapsed().as_millis() as u64;
    Report::copy(result, copy)
}

async fn look_decide_act(
    access: &Access,
    credentials: &Credentials,
    job: &Job,
    limits: &Limits,
    copy: &mut Copy,
    tally: &Tally,
) -> Result<Outcome> {
    let source = access.source(credentials, job.source.repository(), &tally.requests);
    let destination = access.destination(credentials, &job.destination.repository, &tally.requests);
    copy.destination = destination.reference(&job.destination.tag);

    let plan = plan::build(job, &source, &destination, limits.concurrency).await?;
    copy.planned(&plan, job.dry_run);
    if plan.is_current() {
        return Ok(Outcome::Current);
    }
    if job.dry_run {
        return Ok(Outcome::Planned);
    }
    transfer::run(&plan, &source, &destination, limits, tally).await?;
    Ok(Outcome::Copied)
}
