//! HTTP requests in the form in which API Gateway and function URLs pass them on, and the replies to them.

use aws_lambda_events::apigw::{
    ApiGatewayProxyRequest, ApiGatewayProxyResponse, ApiGatewayV2httpRequest,
};
use aws_lambda_events::encodings::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::webhook::{self, Delivery};
use crate::copy::report::Outcome;
use crate::error::{Error, Kind, Result};
use crate::reports::Reports;

/// What matters of an HTTP request.
#[derive(Debug, Default)]
pub struct HttpRequest {
    /// `X-GitHub-Event`.
    pub event_name: Option<String>,
    /// `X-Hub-Signature-256`.
    pub signature: Option<String>,
    /// `X-GitHub-Delivery`, which stays the same when a delivery is repeated.
    pub delivery_id: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// The body as it was sent, decoded if the gateway encoded it.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// HTTP API and function URL: header names in lower case, repeated ones joined by commas.
    ///
    /// A request that can't be read counts as one without a signature, so that its sender gets a 401 and no alarm goes off.
    pub(super) fn from_version_2(payload: Value) -> Self {
        let Ok(request) = serde_json::from_value::<ApiGatewayV2httpRequest>(payload) else {
            return HttpRequest::default();
        };
        let header = |name: &str| request.headers.get(name)?.to_str().ok().map(str::to_owned);
        HttpRequest::new(header, request.body.as_deref(), request.is_base64_encoded)
    }

    /// REST API: header names as they were sent, and perhaps only in `multiValueHeaders`. Otherwise as with the other version.
    pub(super) fn from_version_1(payload: Value) -> Self {
        let Ok(request) = serde_json::from_value::<ApiGatewayProxyRequest>(payload) else {
            return HttpRequest::default();
        };
        let header = |name: &str| {
            let value = request.headers.get(name);
            let value = value.or(request.multi_value_headers.get(name));
            value?.to_str().ok().map(str::to_owned)
        };
        HttpRequest::new(header, request.body.as_deref(), request.is_base64_encoded)
    }

    fn new(
        header: impl Fn(&str) -> Option<String>,
        body: Option<&str>,
        is_base64_encoded: bool,
    ) -> Self {
        let body = body.unwrap_or_default();
        let body = match is_base64_encoded {
            // A body that is not valid base64 can't have a valid signature either.
            true => STANDARD.decode(body).unwrap_or_default(),
            false => body.as_bytes().to_vec(),
        };
        HttpRequest {
            event_name: header("x-github-event"),
            signature: header("x-hub-signature-256"),
            delivery_id: header("x-github-delivery"),
            content_type: header("content-type"),
            body,
        }
    }

    /// What the delivery reports. The signature must have been checked before.
    ///
    /// # Errors
    /// [`Error::Event`] for a delivery that can't be understood.
    pub fn delivery(&self) -> Result<Delivery> {
        let event_name = self
            .event_name
            .as_deref()
            .ok_or_else(|| Error::Event("the header X-GitHub-Event is missing".to_owned()))?;
        let payload =
            webhook::payload(self.content_type.as_deref(), &self.body).map_err(Error::Event)?;
        webhook::read(event_name, &payload).map_err(Error::Event)
    }

    /// The reply with the reports as its body.
    ///
    /// # Errors
    /// [`Error::Internal`] if it can't be written.
    pub fn reply(&self, reports: &Reports) -> Result<Value> {
        let mut response = ApiGatewayProxyResponse::default();
        response.status_code = status(reports.outcome(), reports.error());
        response.headers.insert(
            "content-type",
            "application/json"
                .parse()
                .map_err(|_| Error::Internal("no content type".to_owned()))?,
        );
        let internal = |error: serde_json::Error| Error::Internal(error.to_string());
        let body = serde_json::to_string(reports).map_err(internal)?;
        response.body = Some(Body::Text(body));
        serde_json::to_value(response).map_err(internal)
    }
}

/// GitHub shows the status of each delivery: a 4xx is the sender's to correct, a 5xx is ours.
fn status(outcome: Outcome, error: Option<&Error>) -> i64 {
    match error {
        None if outcome == Outcome::Queued => 202,
        None => 200,
        Some(Error::Event(_)) => 400,
        Some(Error::Signature) => 401,
        Some(error) => match error.kind() {
            Kind::Transient | Kind::Deadline => 503,
            Kind::Internal | Kind::Invalid => 500,
            Kind::Denied | Kind::NotFound | Kind::Immutable => 502,
        },
    }
}
