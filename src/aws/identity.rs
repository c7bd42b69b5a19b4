//! Who the caller is at AWS, and where: what a laptop may lack, and Lambda never does.

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;

use super::error::with_causes;
use crate::error::{Error, Kind, Result};

/// Expects a Region.
///
/// # Errors
/// [`Error::Setting`] if neither the environment nor the profile names one.
pub fn expect_region(configuration: &SdkConfig) -> Result<()> {
    match configuration.region() {
        Some(_) => Ok(()),
        None => Err(Error::Setting {
            name: "AWS_REGION",
            value: String::new(),
            reason: "expected the Region of your ECR: export AWS_REGION=eu-west-3, or name it in your profile: aws configure set region eu-west-3".to_owned(),
        }),
    }
}

/// Expects credentials from the usual places: environment, profile, SSO, a process, a container or an instance.
///
/// # Errors
/// [`Error::Api`] says how to come by some.
pub async fn expect_credentials(configuration: &SdkConfig) -> Result<()> {
    let provided = match configuration.credentials_provider() {
        // Boxed, as it is a large future.
        Some(provider) => Box::pin(provider.provide_credentials()).await,
        None => return Err(missing("no provider is configured".to_owned())),
    };
    provided.map(drop).map_err(|error| {
        missing(match error {
            // Its own text has a line for each of the places.
            CredentialsError::CredentialsNotLoaded(_) => {
                "there are no credentials in the environment, in a profile or of this machine"
                    .to_owned()
            }
            error => with_causes(&error),
        })
    })
}

fn missing(detail: String) -> Error {
    Error::Api {
        operation: "sign in",
        subject: "to AWS".to_owned(),
        kind: Kind::Denied,
        detail,
        advice: "sign in with aws sso login (after aws configure sso, with AWS_PROFILE naming the profile), or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; aws sts get-caller-identity shows whether it worked",
        retry_after: None,
    }
}
