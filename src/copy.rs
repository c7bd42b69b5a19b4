//! One job, from its credentials to its report.

use std::time::Instant;

use crate::access::{Access, Credentials};
use crate::aws::Freshness;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::report::{Copy, Outcome, Report};
use crate::tally::Tally;
use crate::{plan, transfer};

/// Makes one copy, and says what happened. What is done when the deadline comes stays done.
pub async fn copy(access: &Access, job: &Job, deadline: Instant) -> Report {
    let begin = Instant::now();
    let tally = Tally::default();
    let mut copy = Copy::new(job.source.to_string(), job.destination.to_string());
    let attempt = with_current_credentials(access, job, &mut copy, &tally);
    let result = tokio::time::timeout_at(deadline.into(), attempt)
        .await
        .unwrap_or(Err(Error::Deadline));
    copy.done(&tally);
    copy.elapsed_ms = begin.elapsed().as_millis() as u64;
    Report::copy(result, copy)
}

/// Copies with the credentials at hand; if a registry refuses one that has meanwhile been replaced, once more with the new one.
async fn with_current_credentials(
    access: &Access,
    job: &Job,
    copy: &mut Copy,
    tally: &Tally,
) -> Result<Outcome> {
    let token_secret_id = job.token_secret_id.as_deref();
    let credentials = |freshness| access.credentials(token_secret_id, &job.destination, freshness);
    let kept = credentials(Freshness::Kept).await?;
    let result = look_decide_act(access, &kept, job, copy, tally).await;
    let Err(Some(side)) = result.as_ref().map_err(Error::denied_side) else {
        return result;
    };
    let fresh = credentials(Freshness::AfterRefusal).await?;
    if kept.is_same(&fresh, side) {
        return result;
    }
    look_decide_act(access, &fresh, job, copy, tally).await
}

async fn look_decide_act(
    access: &Access,
    credentials: &Credentials,
    job: &Job,
    copy: &mut Copy,
    tally: &Tally,
) -> Result<Outcome> {
    let source = access.source(credentials, job.source.repository(), &tally.requests);
    let destination = access.destination(credentials, &job.destination.repository, &tally.requests);
    let concurrency = access.settings.blob_concurrency;
    copy.destination = destination.reference(&job.destination.tag);

    let plan = plan::build(job, &source, &destination, concurrency).await?;
    copy.planned(&plan, job.dry_run);
    if plan.is_current() {
        return Ok(Outcome::Current);
    }
    if job.dry_run {
        return Ok(Outcome::Planned);
    }
    transfer::run(&plan, &source, &destination, concurrency, tally).await?;
    Ok(Outcome::Copied)
}
