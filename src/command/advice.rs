//! What the function's own errors leave out, as they speak to whoever deploys it: what a person does about them on a laptop.

use crate::error::{Error, Kind, Side};

/// What to do about an error here, if there is more to say than the error does.
pub(super) fn of(error: &Error) -> Option<&'static str> {
    if error.advice().contains("GHCR_TOKEN_SECRET_ID") {
        return Some(
            "here GHCR_TOKEN may hold the token itself, a classic personal access token with read:packages; with GitHub's own command: gh auth refresh --scopes read:packages, then export GHCR_TOKEN=$(gh auth token)",
        );
    }
    let of_registry = |side: Side, kind: Kind| match (side, kind) {
        (Side::Destination, Kind::NotFound) => Some(
            "each Region has repositories of its own: if it exists in another one, set AWS_REGION, or write the registry's host before the repository",
        ),
        (Side::Source, Kind::NotFound) => Some("the page of the package on GitHub lists its tags"),
        _ => of_role(error.advice()),
    };
    match error {
        Error::Registry { side, kind, .. } => of_registry(*side, *kind),
        Error::Api {
            operation, kind, ..
        } if *operation == "GetAuthorizationToken" => match kind {
            Kind::Transient => Some(
                "if the name of the host is not known, AWS_REGION is not the name of a Region, such as eu-west-3",
            ),
            Kind::Denied => Some(
                "here the function's role is whoever you are at AWS: aws sts get-caller-identity; after aws sso login, try again",
            ),
            _ => None,
        },
        _ => of_role(error.advice()),
    }
}

/// What a text means by the function's role, if it speaks of it: there is no function here.
pub(super) fn of_role(text: &str) -> Option<&'static str> {
    text.contains("the function's role").then_some(
        "here the function's role is whoever you are at AWS: aws sts get-caller-identity",
    )
}
