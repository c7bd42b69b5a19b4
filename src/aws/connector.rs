//! The AWS SDK's requests, sent by the HTTP client that registries are spoken to with.
//!
//! The SDK's own client would bring HTTP/2, a second TLS configuration and the system's certificates a second time: a megabyte of
//! memory, and time at each cold start.

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;

/// An HTTP client for the SDK that sends everything through `http`, whose time-out for connections holds.
pub fn http_client(http: reqwest::Client) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(Connector(http));
    http_client_fn(move |_, _| connector.clone())
}

#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(send(self.0.clone(), request))
    }
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let user = |error| ConnectorError::user(error);
    let request = request
        .try_into_http1x()
        .map_err(|error| user(error.into()))?;
    // No operation here streams a request.
    let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
    let request = reqwest::Request::try_from(request).map_err(|error| user(error.into()))?;
    let response = http.execute(request).await.map_err(connector_error)?;
    let response = http::Response::<reqwest::Body>::from(response).map(SdkBody::from_body_1_x);
    HttpResponse::try_from(response).map_err(|error| user(error.into()))
}

/// Whether the SDK may try again: after a time-out and a broken connection.
fn connector_error(error: reqwest::Error) -> ConnectorError {
    match error.is_timeout() {
        true => ConnectorError::timeout(error.into()),
        false if error.is_builder() => ConnectorError::user(error.into()),
        false => ConnectorError::io(error.into()),
    }
}
