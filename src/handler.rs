//! What happens to one invocation, from the event to the reply.

use std::time::{Duration, Instant, SystemTime};

use lambda_runtime::{Context, LambdaEvent};
use serde_json::Value;

use crate::access::Access;
use crate::aws::{Aws, Freshness};
use crate::config::Settings;
use crate::copy::copy;
use crate::error::{Error, Result};
use crate::event::{Event, HttpRequest, Request, summary};
use crate::job::Job;
use crate::report::{Outcome, Report};
use crate::webhook;

/// Kept back from Lambda's deadline, to write the report and to answer.
const DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// What lives across invocations.
pub struct App {
    access: Access,
}

impl App {
    /// Puts together what lives across invocations.
    ///
    /// # Errors
    /// [`Error::Internal`] if there can be no HTTP client.
    pub fn new(settings: Settings, aws: Aws) -> Result<Self> {
        Ok(App {
            access: Access::new(settings, aws)?,
        })
    }

    /// Answers one invocation: event, jobs, copies, report, reply.
    ///
    /// # Errors
    /// What makes the invocation a function error; see [`Event::reply`].
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value> {
        let deadline = deadline(&event.context);
        let event = Event::read(event.payload).inspect_err(|error| tracing::error!(%error))?;
        let reports = match self.request(&event).await {
            Ok(Request::Copy(jobs)) => self.copy_all(&jobs, deadline).await,
            Ok(Request::Ignore(reason)) => vec![Report::ignored(reason)],
            Err(error) => vec![Report::failed(error)],
        };
        log(&reports);
        event.reply(reports)
    }

    async fn request(&self, event: &Event) -> Result<Request> {
        match event {
            Event::Http(request) => {
                self.check_signature(request).await?;
                request.request(&self.access.settings)
            }
            Event::Direct(direct) => direct.request(&self.access.settings),
        }
    }

    /// A secret that was rotated while this process is warm is read again, once, when a signature does not match.
    async fn check_signature(&self, request: &HttpRequest) -> Result<()> {
        let id = self.access.settings.webhook_secret_id.as_deref();
        let id = id.ok_or(Error::Signature)?;
        for freshness in [Freshness::Kept, Freshness::AfterRefusal] {
            let secrets = self.access.aws.webhook_secrets(id, freshness).await?;
            if webhook::is_signed(&secrets, &request.body, request.signature.as_deref()) {
                return Ok(());
            }
        }
        Err(Error::Signature)
    }

    /// One after the other; a failure stops none of the others.
    async fn copy_all(&self, jobs: &[Job], deadline: Instant) -> Vec<Report> {
        let mut reports = Vec::new();
        for job in jobs {
            reports.push(copy(&self.access, job, deadline).await);
        }
        reports
    }
}

/// One line for each report: what an operator searches for and counts.
fn log(reports: &[Report]) {
    for report in reports {
        let line = summary(std::slice::from_ref(report));
        match report.outcome {
            Outcome::Failed | Outcome::Deferred => tracing::error!(report = %line),
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
