//! What can be written after `ghcr-to-ecr`.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};

const ENVIRONMENT: &str = "\
Environment:
  AWS_PROFILE, AWS_REGION  who you are at AWS, and the Region of your ECR; or whatever else the AWS CLI takes.
                           First: aws configure sso, then: aws sso login
  GHCR_TOKEN               GitHub's token for private packages: a classic personal access token with read:packages.
                           With GitHub's own command: export GHCR_TOKEN=$(gh auth token)
                           It beats GHCR_TOKEN_SECRET_ID, which names a secret in AWS Secrets Manager.
  RULES                    rules that say what goes where, as the function has them; not needed if you name DESTINATION
  BLOB_CONCURRENCY         blobs on their way at once (default: 6)
  DESTINATION_REGISTRY     another registry than your own ECR
  AWS_LAMBDA_LOG_LEVEL     what to log to standard error (default: WARN)
The README has the other settings.

Exit status:
  0  the image is there, or a dry run says what is to do    1  it failed    2  wrong arguments or settings
  130  after Ctrl-C, 143 after SIGTERM: the tag is written last, and the same command resumes";

const EXAMPLES: &str = "\
Examples:
  # a public image into the repository prod/api of your own ECR, under the same tag
  ghcr-to-ecr copy ghcr.io/acme/api:1.2.3 prod/api

  # under another tag, in another Region
  ghcr-to-ecr copy ghcr.io/acme/api:1.2.3 123456789012.dkr.ecr.us-east-1.amazonaws.com/prod/api:stable

  # what would be copied?
  ghcr-to-ecr copy ghcr.io/acme/api:1.2.3 prod/api --dry-run

  # one platform only, as AWS Lambda needs it
  ghcr-to-ecr copy ghcr.io/acme/api:1.2.3 lambda/api --platform linux/arm64

  # everything that the rules name
  export RULES='[{\"source\": \"acme/*\", \"destination\": \"prod/{name}\"}]'
  ghcr-to-ecr reconcile --dry-run";

/// Copies container images from GitHub Container Registry (GHCR) into Amazon Elastic Container Registry (ECR).
///
/// Only what is missing is sent, straight from one registry to the other. The digest stays the same, and the tag is written last.
#[derive(Parser)]
#[command(name = "ghcr-to-ecr", version, after_help = "More: ghcr-to-ecr help copy", after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}"))]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Copy one image
    #[command(after_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}"))]
    Copy(Copy),
    /// Copy whatever the rules name and ECR lacks, as a scheduled run of the function does
    #[command(after_help = ENVIRONMENT)]
    Reconcile(Reconcile),
    /// Test rules, tokens, packages and repositories, and say what to do about what is wrong; nothing is changed
    #[command(after_help = ENVIRONMENT)]
    Check(Json),
    /// Print the completions for a shell
    #[command(
        after_help = "Examples:\n  eval \"$(ghcr-to-ecr completions bash)\"\n  ghcr-to-ecr completions zsh > ~/.zfunc/_ghcr-to-ecr\n  ghcr-to-ecr completions fish > ~/.config/fish/completions/ghcr-to-ecr.fish"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args)]
pub(super) struct Copy {
    /// The image: ghcr.io/OWNER/NAME:TAG, or with @DIGEST
    source: String,
    /// Where to: [HOST/]REPOSITORY[:TAG], the tag being the source's unless named; without it, where the rules say
    destination: Option<String>,
    /// Of an image for several platforms, write only this one under the tag, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    /// Look at every part of the image, also where the destination's tag has the digest already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Args)]
pub(super) struct Reconcile {
    /// Only the packages OWNER/NAME that one of these globs matches, such as 'acme/*'
    #[arg(value_name = "GLOB")]
    globs: Vec<String>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Args)]
pub(super) struct Json {
    /// Print the report as JSON on standard output, a failure's too, and nothing else there
    #[arg(long)]
    json: bool,
}

impl Verb {
    /// Whether the report is printed as JSON.
    pub(super) fn is_json(&self) -> bool {
        match self {
            Verb::Copy(Copy { json, .. }) => json.json,
            Verb::Reconcile(Reconcile { json, .. }) => json.json,
            Verb::Check(json) => json.json,
            Verb::Completions { .. } => false,
        }
    }

    /// The direct event that asks the function for the same.
    pub(super) fn event(&self) -> Value {
        match self {
            Verb::Copy(copy) => json!({
                "source": copy.source,
                "destination": copy.destination,
                "platform": copy.platform,
                "dry_run": copy.dry_run,
                "force": copy.force,
            }),
            Verb::Reconcile(Reconcile { globs, dry_run, .. }) if globs.is_empty() => {
                json!({"reconcile": true, "dry_run": dry_run})
            }
            Verb::Reconcile(Reconcile { globs, dry_run, .. }) => {
                json!({"reconcile": globs, "dry_run": dry_run})
            }
            Verb::Check(_) | Verb::Completions { .. } => json!({"check": true}),
        }
    }

    /// The image that is asked for, if it is one.
    pub(super) fn source(&self) -> Option<&str> {
        match self {
            Verb::Copy(copy) => Some(&copy.source),
            _ => None,
        }
    }

    /// Whether it says itself where the image goes, so that it needs no rules.
    pub(super) fn names_destination(&self) -> bool {
        matches!(self, Verb::Copy(copy) if copy.destination.is_some())
    }
}
