//! Who the caller is at AWS, and where: what a laptop may lack, and Lambda never does.

use std::sync::{Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use super::error::with_causes;
use crate::error::{Error, Kind, Result};

/// Expects a Region. `profile` is the variable `AWS_PROFILE`: a profile that is not there is none to the SDK.
///
/// # Errors
/// [`Error::Setting`] if neither the environment nor the profile names one, or what they name can't be one.
pub fn expect_region(configuration: &SdkConfig, profile: Option<&str>) -> Result<()> {
    let region = configuration
        .region()
        .map(AsRef::as_ref)
        .unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !region.is_empty() && region.bytes().all(is_allowed) {
        return Ok(());
    }
    let profile = named(profile, "your profile");
    Err(Error::Setting {
        name: "AWS_REGION",
        value: region.to_owned(),
        reason: format!(
            "expected the Region of your ECR: export AWS_REGION=eu-west-3, or name it in {profile}: aws configure set region eu-west-3"
        ),
    })
}

fn named(profile: Option<&str>, otherwise: &str) -> String {
    match profile {
        Some(profile) => format!("the profile {profile:?} (AWS_PROFILE)"),
        None => otherwise.to_owned(),
    }
}

/// Signs in with credentials from the usual places: environment, profile, SSO, a process, a container or an instance. A process may
/// ask for a code, so it is not run a second time for the first call: the configuration that is returned begins with what it gave.
///
/// # Errors
/// [`Error::Api`] says how to come by some.
pub async fn sign_in(configuration: SdkConfig, profile: Option<&str>) -> Result<SdkConfig> {
    let Some(provider) = configuration.credentials_provider() else {
        return Err(missing("no provider is configured".to_owned()));
    };
    // Boxed, as it is a large future.
    let first = Box::pin(provider.provide_credentials()).await;
    let first = first.map_err(|error| {
        missing(match error {
            // Its own text has a line for each of the places.
            CredentialsError::CredentialsNotLoaded(_) => format!(
                "there are no credentials in the environment, in {} or of this machine",
                named(profile, "a profile")
            ),
            error => with_causes(&error),
        })
    })?;
    let begun = Begun {
        first: Mutex::new(Some(first)),
        provider,
    };
    let builder = configuration.into_builder();
    let provider = SharedCredentialsProvider::new(begun);
    Ok(builder.credentials_provider(provider).build())
}

/// Gives what the provider gave at the sign-in, once; and from then on what the provider gives.
#[derive(Debug)]
struct Begun {
    first: Mutex<Option<Credentials>>,
    provider: SharedCredentialsProvider,
}

impl ProvideCredentials for Begun {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match first.take() {
            Some(credentials) => future::ProvideCredentials::ready(Ok(credentials)),
            None => self.provider.provide_credentials(),
        }
    }
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
