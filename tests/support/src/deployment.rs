//! The function as it is deployed: the real binary among local servers in place of GHCR, GitHub, ECR and AWS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::aws::{Aws, in_twelve_hours};
use crate::ecr::Ecr;
use crate::function::{Function, Outcome};
use crate::ghcr::Ghcr;
use crate::github::GitHub;
use crate::http::{Certificate, Request, Server};
use crate::image::Image;
use crate::sqs::Sqs;

/// The webhook's secret: the one of the examples in GitHub's documentation.
pub const WEBHOOK_SECRET: &str = "It's a Secret to Everybody";

/// What may be copied, unless a test says otherwise.
pub const RULES: &str = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;

/// The queue of jobs, where there is one.
pub const JOB_QUEUE: &str = "jobs.fifo";

/// Where a job goes that was received [`MAX_RECEIVE_COUNT`] times.
pub const DEAD_LETTER_QUEUE: &str = "dead-letters.fifo";

/// The redrive policy's `maxReceiveCount` of [`JOB_QUEUE`].
pub const MAX_RECEIVE_COUNT: u32 = 5;

/// More invocations than any test needs: a queue that is not empty after them never will be.
const WORK_OFF_LIMIT: usize = 100;

/// Everything that an invocation touches.
pub struct Deployment {
    pub ghcr: Ghcr,
    pub github: GitHub,
    pub ecr: Ecr,
    pub aws: Aws,
    pub sqs: Sqs,
    pub function: Function,
    binary: PathBuf,
    /// The usual settings.
    environment: BTreeMap<String, String>,
}

impl Deployment {
    /// Starts servers and function. GHCR is empty, GitHub has the organisation `acme` without packages, and there is no queue;
    /// ECR has the repository `prod/api`; the secrets are there and right.
    pub async fn start(binary: &Path) -> Deployment {
        Deployment::start_with(binary, &[]).await
    }

    /// As [`Deployment::start`], with settings on top of the usual ones. An empty value takes a setting away.
    pub async fn start_with(binary: &Path, settings: &[(&str, &str)]) -> Deployment {
        let (ghcr, ecr) = (Ghcr::start().await, Ecr::start().await);
        let sqs = Sqs::start().await;
        Deployment::assemble(binary, ghcr, ecr, sqs, &[], settings).await
    }

    /// As [`Deployment::start`], with HTTPS to GHCR and ECR. They show these certificates, and the function trusts `trusted` alone.
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

    /// As [`Deployment::start_with`], and jobs go through [`JOB_QUEUE`], those that can't succeed to [`DEAD_LETTER_QUEUE`].
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

    async fn assemble(
        binary: &Path,
        ghcr: Ghcr,
        ecr: Ecr,
        sqs: Sqs,
        queues: &[(&str, String)],
        settings: &[(&str, &str)],
    ) -> Deployment {
        let (github, aws) = (GitHub::start().await, Aws::start().await);
        github.put_organization("acme");
        ecr.create_repository("prod/api");
        aws.put_secret("ghcr-token", Ghcr::TOKEN);
        aws.put_secret("webhook-secret", WEBHOOK_SECRET);
        aws.authorize(Ecr::PASSWORD, &ecr.server.url(), in_twelve_hours());
        let usual = [
            ("RULES", RULES.to_owned()),
            ("GHCR_TOKEN_SECRET_ID", "ghcr-token".to_owned()),
            ("WEBHOOK_SECRET_ID", "webhook-secret".to_owned()),
            ("SOURCE_REGISTRY", ghcr.url()),
            ("GITHUB_API_URL", github.server.url()),
            ("DESTINATION_REGISTRY", ecr.server.url()),
            ("AWS_ENDPOINT_URL", aws.server.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.server.url()),
        ];
        let environment: BTreeMap<_, _> = usual
            .iter()
            .chain(queues)
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
            environment,
        }
    }

    /// A new process in place of the present one, as after a deployment: same servers and queues, cold caches, these settings.
    pub async fn restart_with(&mut self, settings: &[(&str, &str)]) {
        self.function = start_function(&self.binary, &self.environment, settings).await;
    }

    /// Pushes an image as a workflow does: GHCR has it under `tag`, and GitHub lists package and version.
    /// Its owner must be known to GitHub.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        let (owner, name) = repository.split_once('/').expect("an owner and a name");
        self.ghcr.put_image(repository, tag, image);
        self.github.put_version(owner, name, &image.top, &[tag]);
    }

    /// Does with [`JOB_QUEUE`] what Lambda does, with batches of one message, until it is empty: invokes the function,
    /// and deletes or gives back as it replies. Panics if that takes more than a hundred invocations.
    pub async fn work_off(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let batch = self.sqs.batch(JOB_QUEUE, 1);
            if batch["Records"] == json!([]) {
                return outcomes;
            }
            assert!(
                outcomes.len() < WORK_OFF_LIMIT,
                "the queue is not empty after {WORK_OFF_LIMIT} invocations; the last: {:?}",
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

    /// Forgets the requests logged so far, on every server.
    pub fn clear_requests(&self) {
        for server in [
            &self.ghcr.server,
            &self.ghcr.storage,
            &self.github.server,
            &self.ecr.server,
            &self.aws.server,
            &self.sqs.server,
        ] {
            server.clear_requests();
        }
    }
}

/// The requests for an image that a registry served: without tokens, pings and what was refused for want of a credential.
pub fn image_requests(server: &Server) -> Vec<Request> {
    let for_image = |request: &Request| {
        request.path.starts_with("/v2/") && request.path != "/v2/" && request.status != 401
    };
    server.requests().into_iter().filter(for_image).collect()
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::http::client::get;

    /// In place of the function: prints its settings and ends, so that every invocation fails.
    fn printer() -> &'static Path {
        Path::new("/usr/bin/env")
    }

    async fn log(deployment: &Deployment) -> String {
        match deployment.function.invoke(&json!({})).await {
            Outcome::Exited { log, .. } => log,
            other => panic!("expected an exit, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn settings_name_every_server_and_queues_only_where_there_are_any() {
        let plain = Deployment::start_with(printer(), &[("WEBHOOK_SECRET_ID", "")]).await;
        let printed = log(&plain).await;
        for line in [
            format!("GITHUB_API_URL={}\n", plain.github.server.url()),
            format!("AWS_ENDPOINT_URL_SQS={}\n", plain.sqs.server.url()),
            format!("AWS_ENDPOINT_URL={}\n", plain.aws.server.url()),
        ] {
            assert!(printed.contains(&line), "{line} in {printed}");
        }
        assert!(!printed.contains("QUEUE_URL") && !printed.contains("WEBHOOK_SECRET_ID"));

        let mut queued = Deployment::start_with_queue(printer(), &[]).await;
        queued.restart_with(&[("BLOB_CONCURRENCY", "1")]).await;
        let printed = log(&queued).await;
        let url = queued.sqs.queue_url(JOB_QUEUE);
        assert!(
            printed.contains(&format!("\nJOB_QUEUE_URL={url}\n")) && url.ends_with("/jobs.fifo")
        );
        let url = queued.sqs.queue_url(DEAD_LETTER_QUEUE);
        assert!(printed.contains(&format!("DEAD_LETTER_QUEUE_URL={url}\n")));
        assert!(printed.contains("BLOB_CONCURRENCY=1\n"));
    }

    #[tokio::test]
    async fn what_always_fails_ends_as_a_dead_letter() {
        let deployment = Deployment::start_with_queue(printer(), &[]).await;
        assert_eq!(deployment.work_off().await, []);
        deployment.sqs.send(JOB_QUEUE, "group", "{}");
        assert_eq!(deployment.work_off().await.len(), 5);
        assert!(deployment.sqs.messages(JOB_QUEUE).is_empty());
        assert_eq!(deployment.sqs.messages(DEAD_LETTER_QUEUE).len(), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "after 100 invocations")]
    async fn working_off_has_an_end() {
        let deployment = Deployment::start_with_queue(printer(), &[]).await;
        for _ in 0..21 {
            deployment.sqs.send(JOB_QUEUE, "group", "{}");
        }
        deployment.work_off().await;
    }

    #[tokio::test]
    async fn a_push_is_in_the_registry_and_in_the_listing() {
        let deployment = Deployment::start(printer()).await;
        let image = Image::single(&[]);
        deployment.push("acme/tools/api", "1", &image);
        deployment.push("acme/tools/api", "2", &image);
        let token = format!("Bearer {}", Ghcr::TOKEN);
        let headers = [
            ("user-agent", "support"),
            ("accept", "*/*"),
            ("authorization", token.as_str()),
        ];
        let path = "/orgs/acme/packages/container/tools%2Fapi/versions";
        let url = format!("{}{path}", deployment.github.server.url());
        let versions = get(&url, &headers).await;
        let versions: Value = serde_json::from_slice(versions.body()).expect("JSON");
        assert_eq!(versions[0]["name"], image.top);
        assert_eq!(
            versions[0]["metadata"]["container"]["tags"],
            json!(["1", "2"])
        );
        deployment.clear_requests();
        assert_eq!(deployment.github.server.count("*", ""), 0);
    }
}
