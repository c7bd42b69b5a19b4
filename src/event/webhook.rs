//! GitHub only: the signature over the raw body, and what a `package` payload asks for.
//!
//! A payload is hostile input even when it is signed. It is read leniently (any field may be absent, null or of another type, as
//! GitHub's own examples show) and then checked strictly.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::copy::report::{Report, Subject};
use crate::job::{Job, Options, Origin};
use crate::manifest::Digest;
use crate::reference::{ReferrerTag, Source, Version, is_package, is_tag};
use crate::rules::{Rules, not_an_image};

/// What a delivery reports.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A tag was pushed; one of several, if several were pushed together. The digest that it had is announced, if the payload has
    /// a valid one.
    Published(Source),
    /// Nothing to copy, because of this.
    Ignored(String),
}

impl Delivery {
    /// The job that the delivery asks for.
    ///
    /// A tag that the rule does not admit is a job all the same if its digest can lead to others of the same push. The
    /// worker looks those up, and ignores the tag itself.
    ///
    /// A tag of signatures or attestations is a job if the rule asks for those.
    ///
    /// # Errors
    /// The report of a delivery that is ignored.
    pub fn job(
        self,
        rules: &Rules,
        origin: Origin,
        delivery: Option<String>,
    ) -> Result<Job, Box<Report>> {
        let source = match self {
            Delivery::Published(source) => source,
            Delivery::Ignored(reason) => return Err(Box::new(Report::ignored(None, reason))),
        };
        let package = &source.package;
        let ignored = |reason| {
            Err(Box::new(Report::ignored(
                Some(Subject::package(package)),
                reason,
            )))
        };
        let Some(rule) = rules.find(package) else {
            return ignored(format!("no rule matches {package}"));
        };
        let tag = source.version.tag().unwrap_or_default();
        let is_of_image = ReferrerTag::parse(tag).is_some();
        let is_required = is_of_image && !rule.require().is_empty();
        if is_required || is_of_image && rule.referrers() {
            // Where the image is under another tag, or in another form, signatures have their own tags all the same.
            return match rule.repositories(package) {
                Ok(destinations) => Ok(Job {
                    source,
                    destinations,
                    options: Options {
                        // What was waiting for it can be copied now.
                        all_tags: is_required,
                        referrers: rule.referrers(),
                        origin: Some(origin),
                        delivery,
                        ..Options::default()
                    },
                }),
                Err(reason) => ignored(reason),
            };
        }
        let has_others = source.version.announced().is_some();
        let refusal = match has_others {
            true => not_an_image(tag),
            false => rule.refusal(tag),
        };
        if let Some(reason) = refusal {
            return ignored(reason);
        }
        let destinations = match rule.destinations(&source, None) {
            Ok(destinations) => destinations,
            Err(reason) => return ignored(reason),
        };
        let options = Options {
            all_tags: has_others,
            referrers: rule.referrers(),
            origin: Some(origin),
            delivery,
            ..Options::default()
        };
        Ok(Job {
            source,
            destinations,
            options,
        })
    }
}

/// Whether `signature`, the value of `X-Hub-Signature-256`, is `sha256=` and the hexadecimal HMAC-SHA256 of the raw `body` under
/// `secret`. The comparison takes the same time wherever the first difference is.
/// (GitHub documentation, "Validating webhook deliveries")
pub fn is_signed(secret: &SecretString, body: &[u8], signature: Option<&str>) -> bool {
    let code = signature
        .and_then(|value| value.strip_prefix("sha256="))
        .and_then(hexadecimal);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    code.is_some_and(|code| hmac::verify(&key, body, &code).is_ok())
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

/// The payload in a body: the body itself, or the one field `payload` of a form, which is what a webhook with the content type
/// `application/x-www-form-urlencoded` sends. The signature covers the body as it is, form and all.
///
/// # Errors
/// Says what is wrong with the form.
pub fn payload<'a>(content_type: Option<&str>, body: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    let is_form = content_type.is_some_and(|value| {
        value
            .trim_start()
            .starts_with("application/x-www-form-urlencoded")
    });
    if !is_form {
        return Ok(Cow::Borrowed(body));
    }
    let mut payloads = url::form_urlencoded::parse(body).filter(|(name, _)| name == "payload");
    match (payloads.next(), payloads.next()) {
        (Some((_, payload)), None) => Ok(Cow::Owned(payload.into_owned().into_bytes())),
        _ => Err("expected a form with exactly one field `payload`".to_owned()),
    }
}

/// Reads a delivery: the value of `X-GitHub-Event` and the payload.
///
/// # Errors
/// Says what is missing or malformed in a delivery that should name an image.
pub fn read(event_name: &str, payload: &[u8]) -> Result<Delivery, String> {
    let ignored = |reason: String| Ok(Delivery::Ignored(reason));
    if !["package", "registry_package", "ping"].contains(&event_name) {
        return ignored(format!("GitHub event {event_name:?} is not about packages"));
    }
    let payload: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is not JSON: {error}"))?;
    if event_name == "ping" {
        return ignored(pong(&payload));
    }
    match text(&payload, "/action").unwrap_or_default() {
        "published" | "updated" => {}
        other => return ignored(format!("action {other:?} is neither published nor updated")),
    }
    // Apps and some hooks call the same object `registry_package`, and may have the other name as null.
    let package = ["package", "registry_package"]
        .into_iter()
        .find_map(|name| payload.get(name).filter(|package| !package.is_null()))
        .ok_or("the payload has neither `package` nor `registry_package`")?;
    if !is_container(package) {
        let ecosystem = text(package, "/package_type").or(text(package, "/ecosystem"));
        return ignored(format!(
            "package type {:?} is not a container",
            ecosystem.unwrap_or_default()
        ));
    }
    let metadata = "/package_version/container_metadata";
    let Some(tag) = text(package, &format!("{metadata}/tag/name")) else {
        return ignored("an untagged manifest, part of an image that has its own event".to_owned());
    };
    if !is_tag(tag) {
        return Err(format!("{tag:?} is not a valid tag"));
    }
    let name = package_name(package)?;
    let digest = [
        &format!("{metadata}/manifest/digest"),
        &format!("{metadata}/tag/digest"),
        "/package_version/version",
        "/package_version/name",
    ]
    .into_iter()
    .filter_map(|path| text(package, path))
    .find_map(|digest| Digest::parse(digest).ok());
    let version = Version::Tag {
        tag: tag.to_owned(),
        announced: digest,
    };
    Ok(Delivery::Published(Source {
        package: name,
        version,
    }))
}

/// GitHub pings a webhook when it is created: the moment to say that it will never send package events.
fn pong(payload: &Value) -> String {
    let events = payload.pointer("/hook/events").and_then(Value::as_array);
    let sends_packages = events.is_none_or(|events| {
        events
            .iter()
            .filter_map(Value::as_str)
            .any(|event| ["package", "registry_package", "*"].contains(&event))
    });
    match sends_packages {
        true => "pong".to_owned(),
        false => "pong, but this webhook does not send package events: choose the event Packages in its settings".to_owned(),
    }
}

/// A text that is there and not empty.
fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// Real container events say `CONTAINER` in all three places; examples and older payloads in some of them.
fn is_container(package: &Value) -> bool {
    ["/package_type", "/ecosystem", "/registry/type"]
        .into_iter()
        .filter_map(|path| text(package, path))
        .any(|kind| kind.eq_ignore_ascii_case("container"))
}

/// The name is built from the package's own fields: the repository of the source code may be called otherwise.
fn package_name(package: &Value) -> Result<String, String> {
    let namespace = text(package, "/namespace");
    let owner = namespace
        .filter(|namespace| !namespace.contains('/'))
        .or(text(package, "/owner/login"))
        .or(namespace.and_then(|namespace| namespace.split('/').next()))
        .ok_or("the payload names no owner (`namespace` or `owner.login`)")?;
    let name = text(package, "/name").ok_or("the payload names no package (`name`)")?;
    // Letters of other alphabets may have a lower case in ASCII: the package would become another one.
    let package = format!("{owner}/{name}").to_ascii_lowercase();
    match is_package(&package) {
        true => Ok(package),
        false => Err(format!("{package:?} is not a valid package name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "It's a Secret to Everybody";
    const SIGNATURE: &str =
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    /// The vector that GitHub's documentation publishes.
    #[test]
    fn githubs_own_signature_is_accepted() {
        assert!(is_signed(
            &secret(SECRET),
            b"Hello, World!",
            Some(SIGNATURE)
        ));
    }

    #[test]
    fn anything_else_is_not() {
        let body = b"Hello, World!";
        let wrong = [
            None,
            Some(""),
            Some("sha256="),
            Some(&SIGNATURE[7..]),
            Some(&SIGNATURE[..70]),
            Some("sha1=757107ea0eb2509fc211221cce984b8a37570b6d"),
            Some("sha256=zz7107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
            Some("sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e18"),
        ];
        for signature in wrong {
            assert!(
                !is_signed(&secret(SECRET), body, signature),
                "{signature:?}"
            );
        }
        assert!(!is_signed(
            &secret(SECRET),
            b"Hello, World!\n",
            Some(SIGNATURE)
        ));
        assert!(!is_signed(&secret(""), body, Some(SIGNATURE)));
        assert!(!is_signed(&secret("other"), body, Some(SIGNATURE)));
    }

    #[test]
    fn a_form_has_one_payload() {
        let form = Some("application/x-www-form-urlencoded");
        let read = |content_type, body: &str| {
            payload(content_type, body.as_bytes()).map(|payload| payload.into_owned())
        };
        assert_eq!(
            read(form, "payload=%7B%22a%22%3A1%7D"),
            Ok(b"{\"a\":1}".to_vec())
        );
        assert_eq!(
            read(Some("application/json"), "payload=1"),
            Ok(b"payload=1".to_vec())
        );
        assert_eq!(read(None, "{}"), Ok(b"{}".to_vec()));
        for body in ["", "other=1", "payload=1&payload=2"] {
            assert!(read(form, body).is_err(), "{body}");
        }
    }
}
