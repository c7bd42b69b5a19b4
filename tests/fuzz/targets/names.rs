//! One text as everything that is written as a name: a reference, an endpoint, a digest, a setting.
#![no_main]

use fuzz::{SETTINGS, assert_one_line};
use ghcr_to_ecr::config::Settings;
use ghcr_to_ecr::destination::Destinations;
use ghcr_to_ecr::endpoint::{Endpoint, ecr_region};
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::platform::Form;
use ghcr_to_ecr::reference::{Source, Version, is_package, is_repository, is_tag};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    check_source(text);
    check_destination(text);
    check_endpoint(text);
    check_settings(text);
    match Digest::parse(text) {
        Ok(digest) => assert_eq!(digest.to_string(), text),
        Err(reason) => assert_one_line(&reason),
    }
    if is_package(text) {
        let source = parse(&format!("ghcr.io/{text}:1")).expect("a package at the source");
        assert_eq!(source, Source::tagged(text, "1"));
    }
    if is_repository(text) {
        assert!(
            !text
                .split('/')
                .any(|part| part.starts_with('.') || part.is_empty())
        );
    }
    if is_tag(text) {
        let source = parse(&format!("ghcr.io/acme/api:{text}")).expect("a tag");
        assert_eq!(source, Source::tagged("acme/api", text));
    }
    if let Some(region) = ecr_region(text) {
        assert!(
            text.contains(&format!(".{region}.")) && text.is_ascii(),
            "{text}"
        );
    }
});

fn parse(text: &str) -> Result<Source, String> {
    Source::parse(text, &SETTINGS.hosts)
}

/// What is printed is read as the same again, and names what it is made of.
fn check_source(text: &str) {
    let source = match parse(text) {
        Ok(source) => source,
        Err(reason) => return assert_one_line(&reason),
    };
    assert!(is_package(&source.package));
    assert!(source.version.tag().is_none_or(is_tag));
    assert_eq!(parse(&source.to_string()).as_ref(), Ok(&source));
    let copied = parse(&source.reference("ghcr.io")).expect("a source without its hint");
    assert_eq!(
        copied.version.tag_or_digest(),
        source.version.tag_or_digest()
    );
}

fn check_destination(text: &str) {
    let tagged = Source::tagged("acme/api", "1");
    let exact = Source {
        version: Version::Digest(Digest::of(b"")),
        ..tagged.clone()
    };
    for source in [tagged, exact] {
        let parse = |text: &str| {
            let written = Destinations::try_from(Value::from(text))?;
            written.of(&source, &SETTINGS.hosts, None, &Form::Whole)
        };
        let destinations = match parse(text) {
            Ok(destinations) => destinations,
            Err(reason) => return assert_one_line(&reason),
        };
        for destination in &destinations {
            assert!(is_repository(&destination.repository));
            assert_eq!(parse(&destination.to_string()).as_ref(), Ok(&destinations));
        }
    }
}

/// An endpoint is a host, and its URL is that host's root.
fn check_endpoint(text: &str) {
    let endpoint = match Endpoint::parse(text) {
        Ok(endpoint) => endpoint,
        Err(reason) => return assert_one_line(&reason),
    };
    assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint.clone()));
    let host = endpoint.host();
    assert!(
        !host.is_empty() && !host.contains(['/', '@', '?', '#']),
        "{host}"
    );
    let scheme = endpoint.url().scheme();
    assert_eq!(endpoint.is_plain_http(), scheme == "http");
    assert_eq!(endpoint.url().as_str(), format!("{scheme}://{host}/"));
}

/// A setting that can't be read is named, in one line. Which one depends on the text, as each takes a while.
fn check_settings(text: &str) {
    const RULES: &str = r#"[{"source":"acme/*","destination":"{name}"}]"#;
    const SETTINGS: [&str; 4] = [
        "GITHUB_API_URL",
        "EVENT_SOURCES",
        "BLOB_CONCURRENCY",
        "SOURCE_REGISTRY",
    ];
    let setting = SETTINGS[text.len() % SETTINGS.len()];
    let settings = Settings::read(|name| match name {
        "RULES" => Some(RULES.to_owned()),
        name => (name == setting).then(|| text.to_owned()),
    });
    match settings {
        Ok(settings) => assert!((1..=64).contains(&settings.blob_concurrency)),
        Err(error) => {
            let message = error.to_string();
            assert_one_line(&message);
            assert!(message.contains(setting), "{message}");
        }
    }
}
