//! What an error of the AWS SDK means: code, status and message become a kind.

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Error, Kind};

/// The error of the API operation `operation`, called for `subject`. `advice` says what to do about each kind.
///
/// Only the service's own code and the first line of its message are quoted. An answer that can't be understood never is: it may be
/// a secret, and the SDK's own text for such an error shows it whole.
pub(super) fn api_error<E>(
    operation: &'static str,
    subject: &str,
    error: &SdkError<E>,
    advice: impl Fn(Kind) -> &'static str,
) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    let (kind, detail) = match (error, error.code()) {
        (SdkError::ServiceError(_), Some(code)) if is_name(code) => {
            (kind(code, status), quoted(code, error.message()))
        }
        (SdkError::TimeoutError(_), _) => (Kind::Transient, "no answer in time".to_owned()),
        (SdkError::DispatchFailure(failure), _) => {
            let cause = failure
                .as_connector_error()
                .and_then(std::error::Error::source);
            let detail = cause.map_or_else(|| "the connection failed".to_owned(), with_causes);
            (Kind::Transient, detail)
        }
        (SdkError::ConstructionFailure(_), _) => (
            Kind::Invalid,
            "the request could not be built: look at the AWS settings".to_owned(),
        ),
        _ => (Kind::Transient, not_understood(status)),
    };
    Error::Api {
        operation,
        subject: subject.to_owned(),
        kind,
        detail,
        advice: advice(kind),
        retry_after: None,
    }
}

/// Whether this is an error code such as `KMS.AccessDeniedException`. Anything else comes from somebody who is not AWS.
fn is_name(code: &str) -> bool {
    let is_letter = |character: char| character.is_ascii_alphabetic() || character == '.';
    !code.is_empty() && code.len() <= 100 && code.chars().all(is_letter)
}

/// The first line of a service's message. Where a signature is refused, more lines repeat the request with its headers, the session's
/// token among them. (AWS IAM user guide, "Troubleshoot Signature Version 4 signing for AWS API requests")
pub(super) fn quoted(code: &str, message: Option<&str>) -> String {
    let message = message.and_then(|message| message.lines().next());
    format!("{code}: {}", message.unwrap_or_default())
}

/// An error and what it came of, down to the reason that tells an address that refuses from a name that is not found.
pub(super) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

fn not_understood(status: Option<u16>) -> String {
    match status {
        Some(status) => format!("status {status} with an answer that can't be understood"),
        None => "an answer that can't be understood".to_owned(),
    }
}

/// What an error code means. Where a service has an older protocol too, as SQS has, the code is that of the older one, which is not
/// always the name in the service's model: `KMS.ThrottlingException` stands for `KmsThrottled`.
pub(super) fn kind(code: &str, status: Option<u16>) -> Kind {
    match code {
        "ResourceNotFoundException"
        | "RepositoryNotFoundException"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue" => Kind::NotFound,
        "AccessDeniedException"
        | "AccessDenied"
        | "DecryptionFailure"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "KMSAccessDeniedException"
        | "KmsAccessDenied"
        | "KMS.AccessDeniedException" => Kind::Denied,
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "InternalServiceError"
        | "InternalServerError"
        | "InternalFailure"
        | "InternalError"
        | "ServerException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "KmsThrottled"
        | "KMS.ThrottlingException"
        | "RequestTimeout"
        | "RequestTimeoutException" => Kind::Transient,
        _ if status.is_some_and(|status| status >= 500 || status == 429) => Kind::Transient,
        _ => Kind::Invalid,
    }
}
