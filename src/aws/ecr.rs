//! The authorization for Amazon ECR's registries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::{Region, SdkConfig};
use aws_sdk_ecr::Client;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::error::api_error;
use crate::endpoint::Endpoint;
use crate::error::{Error, Kind, Result};
use crate::kept::{Freshness, Kept};

/// An authorization is renewed when less than this is left of its twelve hours: more than any invocation lasts.
const MARGIN: Duration = Duration::from_secs(20 * 60);

/// What ECR gave to speak to its registry in one Region.
#[derive(Clone)]
pub struct Authorization {
    /// The caller's own registry in that Region.
    pub registry: Endpoint,
    /// `AWS`.
    pub username: String,
    /// Valid for every registry of the Region that the caller may use.
    pub password: SecretString,
}

/// Asks for authorizations, and keeps one for each Region.
pub struct Ecr {
    client: Client,
    /// The function's own Region.
    region: String,
    kept: Mutex<HashMap<String, Arc<Kept<Authorization>>>>,
}

impl Ecr {
    /// Nothing is asked for yet.
    pub fn new(configuration: &SdkConfig) -> Self {
        let region = configuration.region().map(Region::to_string);
        Ecr {
            client: Client::new(configuration),
            region: region.unwrap_or_default(),
            kept: Mutex::default(),
        }
    }

    /// The authorization for ECR's registries in `region`, or in the function's own Region.
    ///
    /// One that expires soon, or is said to have expired already (a stand-in for AWS may say so), is good for this call and
    /// asked for anew at the next.
    ///
    /// # Errors
    /// [`Error::Api`] names the Region.
    pub async fn authorization(
        &self,
        region: Option<&str>,
        freshness: Freshness,
    ) -> Result<Authorization> {
        let region = region.unwrap_or(&self.region);
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.entry(region.to_owned()).or_default().clone()
        };
        // Boxed, as the SDK's futures are large, and in several others.
        kept.get(freshness, async || Box::pin(self.ask(region)).await)
            .await
    }

    async fn ask(&self, region: &str) -> Result<(Authorization, Duration)> {
        let mut request = self.client.get_authorization_token().customize();
        if region != self.region {
            let region = Region::new(region.to_owned());
            request = request.config_override(aws_sdk_ecr::config::Builder::new().region(region));
        }
        let output = request.send().await.map_err(|error| {
            api_error("GetAuthorizationToken", region, &error, |kind| match kind {
                Kind::Denied => "allow the function's role ecr:GetAuthorizationToken on *",
                _ => "",
            })
        })?;
        let data = output
            .authorization_data
            .unwrap_or_default()
            .into_iter()
            .next();
        data.and_then(read).ok_or_else(|| Error::Api {
            operation: "GetAuthorizationToken",
            subject: region.to_owned(),
            kind: Kind::Transient,
            detail: "the answer has no usable token".to_owned(),
            advice: "",
            retry_after: None,
        })
    }
}

/// The authorization, and how long it may be kept.
fn read(data: aws_sdk_ecr::types::AuthorizationData) -> Option<(Authorization, Duration)> {
    let pair = STANDARD.decode(data.authorization_token?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (username, password) = pair.split_once(':')?;
    let expires_at = data
        .expires_at
        .and_then(|instant| SystemTime::try_from(instant).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let left = expires_at
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    let authorization = Authorization {
        registry: Endpoint::parse(&data.proxy_endpoint?).ok()?,
        username: username.to_owned(),
        password: SecretString::from(password),
    };
    Some((authorization, left.saturating_sub(MARGIN)))
}
