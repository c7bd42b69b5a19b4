//! The job queue and its dead-letter queue.

use std::time::Duration;

use super::{Check, Line};
use crate::aws::queue::{Attributes, Queue};
use crate::error::{Error, Kind};

/// A message should be received so often before it is given up, or a short outage fills the dead-letter queue.
/// (AWS Lambda developer guide, "Configuring a queue to use with Lambda")
const RECEIVES: u32 = 5;

impl Check<'_> {
    /// Both queues, as far as they are set. The function has `time_limit` for an invocation.
    pub(super) async fn queues(&self, time_limit: Duration) -> Vec<Line> {
        let Some(queue) = self.queue else {
            return Vec::new();
        };
        let mut lines = match self.deadline.bound(queue.attributes(queue.url())).await {
            Ok(attributes) => judge(&attributes, time_limit),
            Err(error) => vec![refused(JOBS, &error).at("JOB_QUEUE_URL")],
        };
        if let Some(url) = queue.dead_letter_url() {
            lines.push(
                self.dead_letters(queue, url)
                    .await
                    .at("DEAD_LETTER_QUEUE_URL"),
            );
        }
        lines
    }

    async fn dead_letters(&self, queue: &Queue, url: &str) -> Line {
        const CHECK: &str = "dead-letter queue";
        match self.deadline.bound(queue.attributes(url)).await {
            Ok(_) => Line::ok(CHECK, "it exists (the right to send is not tested)"),
            Err(error) => refused(CHECK, &error),
        }
    }
}

const JOBS: &str = "job queue";

/// To look at a queue is no right that copies need.
fn refused(check: &str, error: &Error) -> Line {
    match error.kind() {
        Kind::Denied => Line::unknown(check, error),
        _ => Line::of_error(check, error),
    }
}

/// The lines for how the job queue is set up.
fn judge(attributes: &Attributes, time_limit: Duration) -> Vec<Line> {
    let mut lines = Vec::new();
    let timeout = attributes.visibility_timeout;
    if timeout < time_limit {
        let detail = format!(
            "its visibility timeout is {} s, and an invocation may take more: a message would come back while its copy still runs",
            timeout.as_secs()
        );
        let remedy = "set the queue's visibility timeout to twice the function's timeout or more";
        lines.push(Line::warning(JOBS, detail, remedy));
    }
    match attributes.max_receive_count {
        None => lines.push(Line::warning(
            JOBS,
            "it has no redrive policy: a message that fails each time holds up its tag until it expires",
            "give the queue a redrive policy with a FIFO dead-letter queue and a maxReceiveCount of 12",
        )),
        Some(count) if count < RECEIVES => lines.push(Line::warning(
            JOBS,
            format!("its maxReceiveCount is {count}, so that a short outage gives messages up"),
            "set the redrive policy's maxReceiveCount to 12, which bears an outage of half an hour",
        )),
        Some(count) if lines.is_empty() => {
            let detail = format!(
                "it exists, with a visibility timeout of {} s, and gives a message up after {count} receives (the right to send is not tested)",
                timeout.as_secs()
            );
            lines.push(Line::ok(JOBS, detail));
        }
        Some(_) => {}
    }
    lines
        .into_iter()
        .map(|line| line.at("JOB_QUEUE_URL"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn a_queue_that_gives_up_or_comes_back_too_soon_is_told() {
        for (seconds, max_receive_count, expected) in [
            (1800, Some(12), vec![Status::Ok]),
            (30, Some(12), vec![Status::Warning]),
            (1800, None, vec![Status::Warning]),
            (1800, Some(1), vec![Status::Warning]),
            (30, None, vec![Status::Warning, Status::Warning]),
        ] {
            let attributes = Attributes {
                visibility_timeout: Duration::from_secs(seconds),
                max_receive_count,
            };
            let lines = judge(&attributes, Duration::from_secs(900));
            let statuses: Vec<Status> = lines.iter().map(|line| line.status).collect();
            assert_eq!(statuses, expected, "{seconds} {max_receive_count:?}");
            assert!(
                lines
                    .iter()
                    .all(|line| line.detail.contains("JOB_QUEUE_URL"))
            );
        }
    }
}
