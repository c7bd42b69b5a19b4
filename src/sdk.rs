//! What an error of the AWS SDK means: code and message become a kind, with the cause that the SDK's own text hides.

use aws_sdk_sqs::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::error::{Error, Kind};

/// The error of the API operation `operation`, called for `subject`. `advice` says what to do about each kind.
pub fn api_error<E>(
    operation: &'static str,
    subject: &str,
    error: &SdkError<E>,
    advice: impl Fn(Kind) -> &'static str,
) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let kind = match error {
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            Kind::Transient
        }
        _ => kind(error.code().unwrap_or_default()),
    };
    let detail = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => DisplayErrorContext(error).to_string(),
    };
    Error::Api {
        operation,
        subject: subject.to_owned(),
        kind,
        detail,
        advice: advice(kind),
    }
}

fn kind(code: &str) -> Kind {
    match code {
        "ResourceNotFoundException"
        | "ParameterNotFound"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue" => Kind::NotFound,
        "AccessDeniedException"
        | "AccessDenied"
        | "DecryptionFailure"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "KMSAccessDeniedException"
        | "KmsAccessDenied" => Kind::Denied,
        "ThrottlingException"
        | "RequestThrottled"
        | "InternalServiceError"
        | "InternalServerError"
        | "InternalFailure"
        | "ServerException"
        | "ServiceUnavailable"
        | "RequestTimeoutException" => Kind::Transient,
        _ => Kind::Invalid,
    }
}
