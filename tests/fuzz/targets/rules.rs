//! Rules, and a package and a tag for them: `DESTINATION_REGISTRY`, package and tag in a line each, and the JSON.
#![no_main]

use fuzz::{assert_one_line, rules, split_line};
use ghcr_to_ecr::config::Settings;
use ghcr_to_ecr::destination::with_digest;
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::reference::{Source, is_package, is_repository, is_tag};
use ghcr_to_ecr::rules::Rule;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let (registry, rest) = split_line(bytes);
    let (package, rest) = split_line(rest);
    let (tag, written) = split_line(rest);
    let [Ok(registry), Ok(package), Ok(tag), Ok(written)] =
        [registry, package, tag, written].map(str::from_utf8)
    else {
        return;
    };
    let settings = Settings::read(|name| match name {
        "RULES" => Some(written.to_owned()),
        "DESTINATION_REGISTRY" => Some(registry.to_owned()),
        _ => None,
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    let Some(rules) = rules(&settings) else {
        return;
    };
    for rule in rules.iter() {
        check_tag(rule, tag);
        if let (owner, Some(name)) = rule.owner_and_name() {
            // It becomes the path of a request as it is.
            assert!(is_repository(&format!("{owner}/{name}")), "{owner}/{name}");
        }
    }
    // Packages come from events and lists, which are checked.
    if let Some((owner, _)) = package.split_once('/')
        && is_package(package)
        && is_tag(tag)
        && let Some(rule) = rules.find(package)
    {
        assert_eq!(
            rule.owner_and_name().0,
            owner,
            "a glob reaches other owners"
        );
        check_destinations(rule, &Source::tagged(package, tag), &settings, written);
    }
});

fn check_tag(rule: &Rule, tag: &str) {
    let refusal = rule.refusal(tag);
    let admitted = rule.tags().admitted(vec![tag.to_owned()]);
    assert_eq!(admitted.is_empty(), refusal.is_some());
    match refusal {
        Some(reason) => assert_one_line(&reason),
        None => assert!(is_tag(tag)),
    }
}

/// Names are legal, a registry is one that a rule writes out, and what is printed is read as the same again.
fn check_destinations(rule: &Rule, source: &Source, settings: &Settings, written: &str) {
    let destinations = match rule.destinations(source, None) {
        Ok(destinations) => destinations,
        Err(reason) => return assert_one_line(&reason),
    };
    assert!(!destinations.is_empty());
    let written: Value = serde_json::from_str(written).expect("it was read before");
    for destination in destinations {
        assert!(is_repository(&destination.repository), "{destination:?}");
        let tag = destination.tag.fill(&source.version).expect("a tag");
        assert!(is_tag(&with_digest(&tag.expect("a tag"), &Digest::of(b""))));
        let registry = destination.registry.as_deref();
        if let Some(registry) = registry {
            assert!(
                writes_out(&written, &format!("{registry}/")),
                "{destination:?}"
            );
        }
        let name = match registry {
            Some(registry) => format!("{registry}/{}", destination.repository),
            None => destination.repository.clone(),
        };
        let again = settings.hosts.split_destination(&name);
        assert_eq!(again, (registry, destination.repository.as_str()));
    }
}

fn writes_out(value: &Value, start: &str) -> bool {
    match value {
        Value::String(text) => text.starts_with(start),
        Value::Array(items) => items.iter().any(|item| writes_out(item, start)),
        Value::Object(fields) => fields.values().any(|field| writes_out(field, start)),
        _ => false,
    }
}
