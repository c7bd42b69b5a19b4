//! The function as it is deployed: the real binary among local servers in place of GHCR, ECR and AWS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::aws::{Aws, in_twelve_hours};
use crate::ecr::Ecr;
use crate::function::Function;
use crate::ghcr::Ghcr;
use crate::http::{Request, Server};

/// The webhook's secret: the one of the examples in GitHub's documentation.
pub const WEBHOOK_SECRET: &str = "It's a Secret to Everybody";

/// What may be copied, unless a test says otherwise.
pub const RULES: &str = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;

/// Everything that an invocation touches.
pub struct Deployment {
    pub ghcr: Ghcr,
    pub ecr: Ecr,
    pub aws: Aws,
    pub function: Function,
    binary: PathBuf,
}

impl Deployment {
    /// Starts servers and function. GHCR is empty; ECR has the repository `prod/api`; the secrets are there and right.
    pub async fn start(binary: &Path) -> Deployment {
        Deployment::start_with(binary, &[]).await
    }

    /// As [`Deployment::start`], with settings on top of the usual ones. An empty value takes a setting away.
    pub async fn start_with(binary: &Path, settings: &[(&str, &str)]) -> Deployment {
        let (ghcr, ecr, aws) = (Ghcr::start().await, Ecr::start().await, Aws::start().await);
        ecr.create_repository("prod/api");
        aws.put_secret("ghcr-token", Ghcr::TOKEN);
        aws.put_secret("webhook-secret", WEBHOOK_SECRET);
        aws.authorize(Ecr::PASSWORD, &ecr.server.url(), in_twelve_hours());
        let function = start_function(binary, &ghcr, &ecr, &aws, settings).await;
        Deployment {
            ghcr,
            ecr,
            aws,
            function,
            binary: binary.to_owned(),
        }
    }

    /// A new process in place of the present one, as after a deployment: same servers, cold caches, these settings.
    pub async fn restart_with(&mut self, settings: &[(&str, &str)]) {
        self.function =
            start_function(&self.binary, &self.ghcr, &self.ecr, &self.aws, settings).await;
    }

    /// Forgets the requests logged so far, on every server.
    pub fn clear_requests(&self) {
        for server in [
            &self.ghcr.server,
            &self.ghcr.storage,
            &self.ecr.server,
            &self.aws.server,
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
    ghcr: &Ghcr,
    ecr: &Ecr,
    aws: &Aws,
    settings: &[(&str, &str)],
) -> Function {
    let (source, destination, endpoint) = (ghcr.server.url(), ecr.server.url(), aws.server.url());
    let mut environment = BTreeMap::from([
        ("RULES", RULES),
        ("GHCR_TOKEN_SECRET_ID", "ghcr-token"),
        ("WEBHOOK_SECRET_ID", "webhook-secret"),
        ("SOURCE_REGISTRY", &source),
        ("DESTINATION_REGISTRY", &destination),
        ("AWS_ENDPOINT_URL", &endpoint),
    ]);
    environment.extend(settings.iter().copied());
    environment.retain(|_, value| !value.is_empty());
    let environment: Vec<_> = environment.into_iter().collect();
    Function::start(binary, &environment).await
}
