//! The function as it is deployed: the real binary, with local servers instead of GHCR, GitHub, ECR and AWS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::aws::{Aws, in_twelve_hours};
use crate::ecr::Ecr;
use crate::function::{ACCOUNT, Function, Outcome, REGION};
use crate::ghcr::Ghcr;
use crate::github::GitHub;
use crate::http::{Certificate, Request, Server};
use crate::image::Image;
use crate::proxy::Proxy;
use crate::sqs::Sqs;

/// The webhook's secret, taken from the examples in GitHub's documentation.
pub const WEBHOOK_SECRET: &str = "It's a Secret to Everybody";

/// `RULES`, unless a test sets others.
pub const RULES: &str = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;

/// The queue of jobs; see [`Deployment::start_with_queue`].
pub const JOB_QUEUE: &str = "jobs.fifo";

/// The dead-letter queue of [`JOB_QUEUE`].
pub const DEAD_LETTER_QUEUE: &str = "dead-letters.fifo";

/// The redrive policy's `maxReceiveCount` of [`JOB_QUEUE`], as in `template.yaml`.
pub const MAX_RECEIVE_COUNT: u32 = 12;

/// After so many invocations, more than any test needs, the queue is taken to be one that never empties.
const INVOCATION_LIMIT: usize = 100;

/// The function and every server that it uses.
pub struct Deployment {
    pub ghcr: Ghcr,
    pub github: GitHub,
    pub ecr: Ecr,
    pub aws: Aws,
    pub sqs: Sqs,
    pub function: Function,
    binary: PathBuf,
    /// Its file is deleted with it.
    _certificate: Option<Certificate>,
    /// Settings as after [`Deployment::start`].
    environment: BTreeMap<String, String>,
}

impl Deployment {
    /// Starts the servers and the function. GHCR is empty, GitHub has the organisation `acme` without packages, ECR has the
    /// repository `prod/api`, the secrets exist and are valid, and there is no queue.
    pub async fn start(binary: &Path) -> Deployment {
        Deployment::start_with(binary, &[]).await
    }

    /// As [`Deployment::start`], with these settings added or replaced. An empty value removes a setting.
    pub async fn start_with(binary: &Path, settings: &[(&str, &str)]) -> Deployment {
        let (ghcr, ecr) = (Ghcr::start().await, Ecr::start().await);
        let sqs = Sqs::start().await;
        Deployment::assemble(binary, ghcr, ecr, sqs, &[], settings).await
    }

    /// As [`Deployment::start`], with HTTPS to GHCR and ECR, which have these certificates. The function trusts only `trusted`.
    pub async fn start_tls(
        binary: &Path,
        source: &Certificate,
        destination: &Certificate,
        trusted: &Certificate,
    ) -> Deployment {
        let ghcr = Ghcr::start_with(Some(source)).await;
        let ecr = Ecr::start_with(Some(destination)).await;
        let sqs = Sqs::start().await;
        let path = trusted.path().to_str().expect("a path in UTF-8");
        let settings = [("SSL_CERT_FILE", path)];
        Deployment::assemble(binary, ghcr, ecr, sqs, &[], &settings).await
    }

    /// As [`Deployment::start_with`], with [`JOB_QUEUE`] and [`DEAD_LETTER_QUEUE`].
    pub async fn start_with_queue(binary: &Path, settings: &[(&str, &str)]) -> Deployment {
        let sqs = Sqs::start().await;
        let dead_letters = sqs.create_queue(DEAD_LETTER_QUEUE);
        let jobs = sqs.create_queue_with_redrive(JOB_QUEUE, DEAD_LETTER_QUEUE, MAX_RECEIVE_COUNT);
        let queues = [
            ("JOB_QUEUE_URL", jobs),
            ("DEAD_LETTER_QUEUE_URL", dead_letters),
        ];
        let (ghcr, ecr) = (Ghcr::start().await, Ecr::start().await);
        Deployment::assemble(binary, ghcr, ecr, sqs, &queues, settings).await
    }

    /// As [`Deployment::start_with`], with more registries under real host names, such as
    /// `210987654321.dkr.ecr.us-east-1.amazonaws.com`, which the function reaches over HTTPS and through a [`Proxy`]. They have no
    /// repositories, and are returned in this order. Each accepts only the password that `GetAuthorizationToken` answers in its
    /// Region.
    pub async fn start_with_registries(
        binary: &Path,
        hosts: &[&str],
        settings: &[(&str, &str)],
    ) -> (Deployment, Vec<Ecr>) {
        let certificate = Certificate::for_hosts(hosts);
        let mut registries = Vec::new();
        for host in hosts {
            let password = password(region(host));
            registries.push(Ecr::start_with_password(Some(&certificate), &password).await);
        }
        let servers = registries.iter().map(|registry| &registry.server);
        let routes: Vec<_> = hosts.iter().copied().zip(servers).collect();
        let proxy = Proxy::start(&routes).await;
        let trusted = certificate.path().to_str().expect("a path in UTF-8");
        let network = [
            ("HTTPS_PROXY", proxy.url()),
            ("SSL_CERT_FILE", trusted.to_owned()),
        ];
        let (ghcr, ecr) = (Ghcr::start().await, Ecr::start().await);
        let sqs = Sqs::start().await;
        let mut deployment = Deployment::assemble(binary, ghcr, ecr, sqs, &network, settings).await;
        deployment._certificate = Some(certificate);
        for (host, registry) in hosts.iter().zip(&registries) {
            let account = host.split('.').next().unwrap_or_default();
            let aws = &deployment.aws;
            aws.serve_registry(region(host), account, registry);
        }
        for host in hosts.iter().filter(|host| region(host) != REGION) {
            let (region, url) = (region(host), format!("https://{host}"));
            let aws = &deployment.aws;
            aws.authorize_in(region, &password(region), &url, in_twelve_hours());
        }
        (deployment, registries)
    }

    /// `more` are settings that a restart keeps.
    async fn assemble(
        binary: &Path,
        ghcr: Ghcr,
        ecr: Ecr,
        sqs: Sqs,
        more: &[(&str, String)],
        settings: &[(&str, &str)],
    ) -> Deployment {
        let (github, aws) = (GitHub::start().await, Aws::start().await);
        github.put_organization("acme");
        ecr.create_repository("prod/api");
        aws.put_secret("ghcr-token", Ghcr::TOKEN);
        aws.put_secret("webhook-secret", WEBHOOK_SECRET);
        aws.authorize(Ecr::PASSWORD, &ecr.server.url(), in_twelve_hours());
        aws.serve_registry(REGION, ACCOUNT, &ecr);
        let defaults = [
            ("RULES", RULES.to_owned()),
            ("GHCR_TOKEN_SECRET_ID", "ghcr-token".to_owned()),
            ("WEBHOOK_SECRET_ID", "webhook-secret".to_owned()),
            ("SOURCE_REGISTRY", ghcr.url()),
            ("GITHUB_API_URL", github.server.url()),
            ("DESTINATION_REGISTRY", ecr.server.url()),
            ("AWS_ENDPOINT_URL", aws.server.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.server.url()),
        ];
        let environment: BTreeMap<_, _> = defaults
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let function = start_function(binary, &environment, settings).await;
        Deployment {
            ghcr,
            github,
            ecr,
            aws,
            sqs,
            function,
            binary: binary.to_owned(),
            _certificate: None,
            environment,
        }
    }

    /// Replaces the process by a new one with these settings, as after a deployment: its caches are empty, while servers and queues
    /// stay.
    pub async fn restart_with(&mut self, settings: &[(&str, &str)]) {
        self.function = start_function(&self.binary, &self.environment, settings).await;
    }

    /// Pushes an image as a workflow does: GHCR has it under `tag`, and GitHub lists package and version. GitHub must know the
    /// owner.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        let (owner, name) = repository.split_once('/').expect("an owner and a name");
        self.ghcr.put_image(repository, tag, image);
        self.github.put_version(owner, name, &image.top, &[tag]);
    }

    /// Processes [`JOB_QUEUE`] until it is empty, as Lambda does with batches of one message: invokes the function, and then deletes
    /// the message or makes it visible again, as the reply says. Panics if that takes more than a hundred invocations.
    pub async fn process_queue(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let batch = self.sqs.batch(JOB_QUEUE, 1);
            if batch["Records"] == json!([]) {
                return outcomes;
            }
            assert!(
                outcomes.len() < INVOCATION_LIMIT,
                "the queue is not empty after {INVOCATION_LIMIT} invocations; the last: {:?}",
                outcomes.last()
            );
            let outcome = self.function.invoke(&batch).await;
            match &outcome {
                Outcome::Reply(reply) => self.sqs.settle(JOB_QUEUE, &batch, reply),
                _ => self.sqs.return_batch(JOB_QUEUE, &batch),
            }
            outcomes.push(outcome);
        }
    }

    /// Empties the request log of every server.
    pub fn clear_requests(&self) {
        for server in [
            &self.ghcr.server,
            &self.ghcr.storage,
            &self.github.server,
            &self.github.storage,
            &self.ecr.server,
            &self.aws.server,
            &self.sqs.server,
        ] {
            server.clear_requests();
        }
    }
}

/// The requests for an image in a registry's log: without those for tokens, `GET /v2/`, and those that lacked a valid credential.
pub fn image_requests(server: &Server) -> Vec<Request> {
    let for_image = |request: &Request| {
        request.path.starts_with("/v2/") && request.path != "/v2/" && request.status != 401
    };
    server.requests().into_iter().filter(for_image).collect()
}

/// The Region in the host name of an ECR registry.
fn region(host: &str) -> &str {
    let region = host.split('.').nth(3);
    region.unwrap_or_else(|| panic!("{host} is not the host of an ECR registry"))
}

/// The password in a Region.
fn password(region: &str) -> String {
    match region {
        REGION => Ecr::PASSWORD.to_owned(),
        _ => format!("{}-{region}", Ecr::PASSWORD),
    }
}

async fn start_function(
    binary: &Path,
    environment: &BTreeMap<String, String>,
    settings: &[(&str, &str)],
) -> Function {
    let mut all: BTreeMap<_, _> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    all.extend(settings.iter().copied());
    all.retain(|_, value| !value.is_empty());
    let all: Vec<_> = all.into_iter().collect();
    Function::start(binary, &all).await
}
