//! One text as everything that is written as a name: a reference, an endpoint, a digest, a setting.
#![no_main]

use fuzz::assert_one_line;
use ghcr_to_ecr::config::Settings;
use ghcr_to_ecr::job::{Endpoint, is_repository, is_tag, on_host, parse_source};
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::rules::ecr_region;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    check_source(text);
    check_endpoint(text);
    check_settings(text);
    match Digest::parse(text) {
        Ok(digest) => assert_eq!(digest.to_string(), text),
        Err(reason) => assert_one_line(&reason),
    }
    if is_repository(text) {
        let parts = format!("ghcr.io/{text}:1");
        let reference = parse_source(&parts).expect("a repository on a registry");
        assert_eq!((reference.repository(), reference.tag()), (text, Some("1")));
        assert!(
            !text
                .split('/')
                .any(|part| part.starts_with('.') || part.is_empty())
        );
    }
    if is_tag(text) {
        let reference = parse_source(&format!("ghcr.io/acme/api:{text}")).expect("a tag");
        assert_eq!(reference.tag(), Some(text));
    }
    if let Some(region) = ecr_region(text) {
        assert!(
            text.contains(&format!(".{region}.")) && text.is_ascii(),
            "{text}"
        );
    }
});

/// What is printed is read as the same again, here and on another host.
fn check_source(text: &str) {
    let reference = match parse_source(text) {
        Ok(reference) => reference,
        Err(reason) => return assert_one_line(&reason),
    };
    assert!(is_repository(reference.repository()));
    assert!(reference.tag().is_none_or(is_tag));
    assert!(reference.tag().is_some() || reference.digest().is_some());
    assert_eq!(
        parse_source(&reference.to_string()).as_ref(),
        Ok(&reference)
    );
    let there = on_host(&reference, "ghcr.io");
    assert_eq!(parse_source(&there.to_string()), Ok(there));
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
