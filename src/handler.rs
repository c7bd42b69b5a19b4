//! What happens to one invocation, from the event to the reply.

use std::time::{Duration, SystemTime};

use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde_json::Value;

use crate::check::{self, Checklist};
use crate::clients::Clients;
use crate::copy::Shared;
use crate::copy::report::Report;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::event::webhook::{self, Delivery};
use crate::event::{Event, HttpRequest, batch_reply};
use crate::invocation::Invocation;
use crate::job::Origin;
use crate::kept::Freshness;
use crate::reconcile;
use crate::reports::{Cause, Reports};
use crate::worker;

/// GitHub gives up a delivery after ten seconds. Where a queue takes the jobs, the answer comes before that, even if it is a 503.
/// (GitHub documentation, "Handling webhook deliveries")
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(8);

/// The function, which lives across invocations.
pub struct App {
    /// What it works with.
    pub clients: Clients,
}

/// What an invocation is answered with.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// In the form that the trigger expects.
    Json(Value),
    /// What happened, for whoever invoked the function itself.
    Reports(Box<Reports>),
    /// What was tested, for whoever asked for it.
    Checklist(Checklist),
}

/// What was done about an event.
enum Done {
    /// The reports say it.
    Reported,
    /// The messages with these ids come back.
    Returned(Vec<String>),
    /// Everything was tested.
    Checked(Checklist),
}

impl App {
    /// Answers one invocation.
    ///
    /// # Errors
    /// What makes the invocation a function error: its type is the error's kind, so that alarms and Step Functions can match it.
    pub async fn handle(&self, event: LambdaEvent<Value>) -> Result<Reply, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline);
        let request_id = &event.context.request_id;
        // Boxed, as it is large.
        let reply = Box::pin(self.answer(event.payload, request_id, deadline)).await;
        reply.map_err(|error| Diagnostic {
            error_type: error.kind().to_string(),
            error_message: error.to_string(),
        })
    }

    /// Event, jobs, copies, reports, reply. An HTTP client always gets an answer, and so does the queue. Any other invocation that
    /// failed or was cut off is a function error, so that alarms see it and Lambda's own retry of asynchronous invocations resumes
    /// the work; a scheduled run is one only if that may help.
    async fn answer(&self, payload: Value, request_id: &str, deadline: Deadline) -> Result<Reply> {
        let event = Event::read(payload).inspect_err(|error| tracing::error!(%error))?;
        let mut reports = Reports::default();
        let done = Box::pin(self.act(&event, request_id, deadline, &mut reports)).await;
        reports.log_metrics(self.clients.copier.github.next_expiry());
        match (event, done?) {
            (Event::Http(request), _) => request.reply(&reports).map(Reply::Json),
            (_, Done::Returned(ids)) => batch_reply(ids).map(Reply::Json),
            (_, Done::Checked(checklist)) => Ok(Reply::Checklist(checklist)),
            (Event::Reconcile(scope), _) => match reports.passing_error() {
                // A dry run that is repeated begins anew, and gets no further: what it has found is the answer.
                Some(Error::Deadline) if scope.dry_run => Ok(Reply::Reports(Box::new(reports))),
                Some(error) => Err(error.clone()),
                None => Ok(Reply::Reports(Box::new(reports))),
            },
            _ => reports.result().map(Box::new).map(Reply::Reports),
        }
    }

    /// Does what an event asks for.
    async fn act(
        &self,
        event: &Event,
        request_id: &str,
        deadline: Deadline,
        reports: &mut Reports,
    ) -> Result<Done> {
        match event {
            Event::Http(request) => {
                let deadline = match self.clients.queue {
                    Some(_) => deadline.within(WEBHOOK_PATIENCE),
                    None => deadline,
                };
                reports.caused_by(pushed(Origin::Webhook, &request.delivery_id));
                let answer = Box::pin(self.webhook(request, request_id, deadline)).await;
                reports.extend(answer.unwrap_or_else(failed));
            }
            Event::Queue(messages) => {
                let returned = match self.invocation(request_id, deadline).await {
                    Ok(mut invocation) => {
                        invocation.is_repeated = true;
                        Box::pin(worker::process(&invocation, messages, reports)).await
                    }
                    Err(error) => {
                        worker::return_all(self.clients.queue.as_ref(), messages, &error, deadline)
                            .await
                    }
                };
                return Ok(Done::Returned(returned));
            }
            Event::GitHub(event) => {
                let invocation = self.invocation(request_id, deadline).await?;
                let delivery = event.delivery(&self.clients.settings.event_sources);
                reports.caused_by(pushed(Origin::Bus, &event.id));
                let options = (Origin::Bus, event.id.clone());
                let delivered = self.deliver(delivery, options, &invocation).await;
                reports.extend(delivered.unwrap_or_else(failed));
            }
            Event::Direct(direct) => {
                let mut invocation = self.invocation(request_id, deadline).await?;
                let token = direct.token().cloned();
                let lent = token.map(|token| self.clients.copier.with_lent_token(token));
                if let Some(copier) = &lent {
                    invocation = invocation.with_lent_token(copier);
                }
                let jobs = direct.jobs(&invocation.rules, &self.clients.settings.hosts);
                reports.caused_by(Cause::of(jobs.as_deref().unwrap_or_default(), None));
                reports.extend(match jobs {
                    Ok(jobs) => invocation.copy_all(jobs).await,
                    Err(error) => failed(error),
                });
                reports.add_up(invocation.shared.estimate.sum());
            }
            Event::Check => {
                let check = self.clients.check(deadline);
                return Ok(Done::Checked(Box::pin(check::run(&check)).await));
            }
            Event::Reconcile(scope) => {
                let invocation = self.invocation(request_id, deadline).await?;
                Box::pin(reconcile::run(&invocation, scope, reports)).await;
                reports.add_up(invocation.shared.estimate.sum());
                reports.log_counts();
            }
        }
        Ok(Done::Reported)
    }

    async fn invocation(&self, request_id: &str, deadline: Deadline) -> Result<Invocation<'_>> {
        let shared = Shared::new(deadline, self.clients.settings.blob_concurrency);
        self.clients.invocation(request_id, shared).await
    }

    /// What a delivery came to, once its signature is checked.
    async fn webhook(
        &self,
        request: &HttpRequest,
        request_id: &str,
        deadline: Deadline,
    ) -> Result<Vec<Report>> {
        let checked = deadline.bound(self.check_signature(request)).await;
        checked.map_err(for_anybody)?;
        let invocation = self.invocation(request_id, deadline).await?;
        let delivery = request.delivery()?;
        self.deliver(
            Ok(delivery),
            (Origin::Webhook, request.delivery_id.clone()),
            &invocation,
        )
        .await
    }

    /// A rotation is never at the same instant on both sides, so the secret's previous version will do; and one that was rotated
    /// while this process is warm is read again, once, when a signature does not match.
    async fn check_signature(&self, request: &HttpRequest) -> Result<()> {
        let id = self
            .clients
            .settings
            .webhook_secret_id
            .as_deref()
            .ok_or(Error::Signature)?;
        // Whoever signs nothing at all is not worth a call.
        if request.signature.is_none() {
            return Err(Error::Signature);
        }
        let is_signed =
            |secret: &_| webhook::is_signed(secret, &request.body, request.signature.as_deref());
        // That the previous version can't be read says nothing of the current one, which may be new.
        let mut unread = None;
        for freshness in [Freshness::Kept, Freshness::AfterRefusal] {
            if is_signed(&self.clients.secrets.webhook_secret(id, freshness).await?) {
                return Ok(());
            }
            match self
                .clients
                .secrets
                .previous_webhook_secret(id, freshness)
                .await
            {
                Ok(previous) if previous.as_ref().is_some_and(is_signed) => return Ok(()),
                Ok(_) => unread = None,
                Err(error) => unread = Some(error),
            }
        }
        Err(unread.unwrap_or(Error::Signature))
    }

    /// A delivery of GitHub's, known to be GitHub's: its jobs go to the queue.
    async fn deliver(
        &self,
        delivery: Result<Delivery>,
        (origin, id): (Origin, Option<String>),
        invocation: &Invocation<'_>,
    ) -> Result<Vec<Report>> {
        match delivery?.job(&invocation.rules, origin, id) {
            Ok(job) => Ok(invocation.enqueue(vec![job]).await),
            Err(ignored) => Ok(vec![*ignored]),
        }
    }
}

/// What is told to a caller whose signature could not be checked, which may be anybody: AWS's own words name account, role and
/// secret. The log has them.
fn for_anybody(error: Error) -> Error {
    let Error::Api { kind, .. } = error else {
        return error;
    };
    tracing::error!(%error, "the signature can't be checked");
    Error::Api {
        operation: "check signature",
        subject: "of the request".to_owned(),
        kind,
        detail: "the webhook's secret can't be read".to_owned(),
        advice: "the function's log says why",
        retry_after: None,
    }
}

/// What led to the reports of a push that GitHub tells of now.
fn pushed(origin: Origin, delivery: &Option<String>) -> Cause {
    Cause {
        origin: Some(origin),
        delivery: delivery.clone(),
        announced_at: Some(SystemTime::now()),
        dry_run: false,
        is_tried_again: false,
    }
}

fn failed(error: Error) -> Vec<Report> {
    vec![Report::failed(None, error)]
}
