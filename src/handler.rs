//! What happens to one invocation, from the event to the reply.

use std::time::{Duration, Instant, SystemTime};

use lambda_runtime::{Context, LambdaEvent};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::aws::{Aws, Freshness};
use crate::config::Settings;
use crate::error::{Error, Result, Side};
use crate::event::{Event, HttpRequest, Request, summary};
use crate::job::{Endpoint, Job};
use crate::registry::{Credential, Repository};
use crate::report::{Copy, Outcome, Report, Tally};
use crate::rules::ecr_region;
use crate::{plan, registry, transfer, webhook};

/// Kept back from Lambda's deadline, to write the report and to answer.
const DEADLINE_MARGIN: Duration = Duration::from_secs(2);

/// What lives across invocations: settings, clients, and what the clients keep.
pub struct App {
    settings: Settings,
    aws: Aws,
    http: reqwest::Client,
}

/// What it takes to speak to both registries for one job.
struct Access {
    source: Option<Credential>,
    registry: Endpoint,
    destination: Credential,
}

impl App {
    /// Puts together what lives across invocations.
    ///
    /// # Errors
    /// [`Error::Internal`] if there can be no HTTP client.
    pub fn new(settings: Settings, aws: Aws) -> Result<Self> {
        Ok(App {
            settings,
            aws,
            http: registry::client()?,
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
                request.request(&self.settings)
            }
            Event::Direct(direct) => direct.request(&self.settings),
        }
    }

    /// A secret that was rotated while this process is warm is read again, once, when a signature does not match.
    async fn check_signature(&self, request: &HttpRequest) -> Result<()> {
        let id = self.settings.webhook_secret_id.as_deref();
        let id = id.ok_or(Error::Signature)?;
        for freshness in [Freshness::Kept, Freshness::AfterRefusal] {
            let secrets = self.aws.webhook_secrets(id, freshness).await?;
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
            reports.push(self.copy(job, deadline).await);
        }
        reports
    }

    async fn copy(&self, job: &Job, deadline: Instant) -> Report {
        let begin = Instant::now();
        let destination = &job.destination;
        let registry = destination.registry.clone().unwrap_or_default();
        let mut copy = Copy::new(
            job.source.to_string(),
            format!("{registry}/{}:{}", destination.repository, destination.tag),
        );
        let tally = Tally::default();
        let until = tokio::time::Instant::from_std(deadline);
        let attempt = self.copy_with_access(job, &mut copy, &tally);
        let result = tokio::time::timeout_at(until, attempt)
            .await
            .unwrap_or(Err(Error::Deadline));
        copy.done(&tally);
        copy.elapsed_ms = begin.elapsed().as_millis() as u64;
        Report::copy(result, copy)
    }

    /// Copies with the credentials at hand; if a registry refuses one that has meanwhile been replaced, once more with the new one.
    async fn copy_with_access(&self, job: &Job, copy: &mut Copy, tally: &Tally) -> Result<Outcome> {
        let access = self.access(job, Freshness::Kept).await?;
        let result = self.copy_once(job, &access, copy, tally).await;
        let Err(Some(side)) = result.as_ref().map_err(Error::denied_side) else {
            return result;
        };
        let fresh = self.access(job, Freshness::AfterRefusal).await?;
        if access.is_same(&fresh, side) {
            return result;
        }
        self.copy_once(job, &fresh, copy, tally).await
    }

    /// The story of a copy: look, decide, act.
    async fn copy_once(
        &self,
        job: &Job,
        access: &Access,
        copy: &mut Copy,
        tally: &Tally,
    ) -> Result<Outcome> {
        let source = Repository::source(
            self.http.clone(),
            self.settings.source_registry.clone(),
            job.source.repository(),
            access.source.clone(),
            tally.source_requests(),
        );
        let destination = Repository::destination(
            self.http.clone(),
            access.registry.clone(),
            &job.destination.repository,
            access.destination.clone(),
            tally.destination_requests(),
        );
        copy.destination = destination.reference(&job.destination.tag);
        let concurrency = self.settings.blob_concurrency;

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

    async fn access(&self, job: &Job, freshness: Freshness) -> Result<Access> {
        let (source, (registry, destination)) = futures_util::try_join!(
            self.source_credential(job, freshness),
            self.destination_access(job, freshness),
        )?;
        Ok(Access {
            source,
            registry,
            destination,
        })
    }

    /// The rule's token, else the general one, else none: public images are read anonymously.
    async fn source_credential(
        &self,
        job: &Job,
        freshness: Freshness,
    ) -> Result<Option<Credential>> {
        let own = job.token_secret_id.as_deref();
        let Some(id) = own.or(self.settings.ghcr_token_secret_id.as_deref()) else {
            return Ok(None);
        };
        let (password, username) = self.aws.ghcr_token(id, freshness).await?;
        let username = username.unwrap_or_else(|| "token".to_owned());
        Ok(Some(Credential { username, password }))
    }

    /// The registry that the job names, else the configured one, else the caller's own ECR.
    async fn destination_access(
        &self,
        job: &Job,
        freshness: Freshness,
    ) -> Result<(Endpoint, Credential)> {
        let host = job.destination.registry.as_deref();
        let region = host.and_then(ecr_region);
        let authorization = self.aws.ecr_authorization(region, freshness).await?;
        let configured = self.settings.destination_registry.as_ref();
        let registry = match (host, configured) {
            (Some(host), Some(configured)) if configured.host() == host => configured.clone(),
            (Some(host), _) => Endpoint::parse(host).map_err(Error::Event)?,
            (None, Some(configured)) => configured.clone(),
            (None, None) => authorization.registry,
        };
        let credential = Credential {
            username: authorization.username,
            password: authorization.password,
        };
        Ok((registry, credential))
    }
}

impl Access {
    fn is_same(&self, other: &Access, side: Side) -> bool {
        let secret = |credential: &Credential| credential.password.expose_secret().to_owned();
        match side {
            Side::Source => self.source.as_ref().map(secret) == other.source.as_ref().map(secret),
            Side::Destination => secret(&self.destination) == secret(&other.destination),
        }
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
