//! What fuzzing and the promises that it checks have brought to light, each as a short input.

use ghcr_to_ecr::config::{RulesSetting, Settings};
use ghcr_to_ecr::error::{Error, Result};
use ghcr_to_ecr::event::Event;
use ghcr_to_ecr::job::{Job, Origin};
use ghcr_to_ecr::link::{UntrustedLink, next_page};
use reqwest::header::{HeaderMap, LINK};
use serde_json::{Value, json};
use url::Url;

fn settings(rules: &Value) -> Result<Settings> {
    Settings::read(|name| (name == "RULES").then(|| rules.to_string()))
}

/// The jobs that an event asks for.
fn jobs(event: Value) -> Result<Vec<Job>> {
    let settings = settings(&json!([{"source": "acme/**", "destination": "{name}"}]))?;
    let RulesSetting::Written(rules) = &settings.rules else {
        unreachable!("the rules are in the setting")
    };
    match Event::read(event)? {
        Event::GitHub(event) => {
            let delivery = event.delivery(&settings.event_sources)?;
            let job = delivery.job(rules, Origin::Bus, None);
            job.map(|job| vec![job])
                .map_err(|report| Error::Rule(report.reason.unwrap_or_default()))
        }
        Event::Direct(direct) => direct.jobs(rules, &settings.hosts),
        Event::Http(_) | Event::Queue(_) | Event::Reconcile(_) | Event::Check => Ok(Vec::new()),
    }
}

/// GitHub's event that tells of a tag of a package, as a bus passes it on.
fn published(owner: &str, name: &str) -> Value {
    json!({
        "source": "github.com",
        "detail-type": "package",
        "detail": {
            "action": "published",
            "package": {
                "name": name,
                "namespace": owner,
                "package_type": "CONTAINER",
                "package_version": {"container_metadata": {"tag": {"name": "1"}}},
            },
        },
    })
}

#[test]
fn a_glob_that_is_too_long_or_nested_too_deep_is_refused() {
    let nested = |depth| format!("acme/{}{}", "{a,a".repeat(depth), "}".repeat(depth));
    let long = format!("acme/{}", "?".repeat(300_000));
    for glob in [nested(300), nested(100_000), long] {
        let error = jobs(json!({"reconcile": [glob]})).unwrap_err();
        assert!(error.to_string().contains("`reconcile`"), "{error}");
        let rules = json!([{"source": glob, "destination": "{name}"}]);
        assert!(settings(&rules).is_err());
        let tags = json!({"exclude": [glob]});
        let rules = json!([{"source": "acme/*", "destination": "{name}", "tags": tags}]);
        assert!(settings(&rules).is_err());
    }
    let list = format!("acme/{{{}b}}", "a,".repeat(2_000));
    for glob in [nested(32), list, format!("acme/{}", "*?".repeat(2_000))] {
        assert!(jobs(json!({"reconcile": [glob]})).is_ok());
    }
}

#[test]
fn a_refusal_is_one_line() {
    let events = [
        json!({"source": "ghcr.io/acme/api:1", "a\nb": 1}),
        json!({"image": "ghcr.io/acme/api", "tags": ["1"], "a\nb": 1}),
        json!({"reconcile": true, "a\u{85}b": 1}),
        json!({"Records": [{"eventSource": "a\nb"}]}),
        json!({"Records": "a\nb"}),
    ];
    for event in events {
        let text = jobs(event).unwrap_err().to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    let glob = "acme/[\u{2}-\u{1}]";
    let rules = [
        json!([{"source": "acme/*", "destination": "{name}", "a\nb": 1}]),
        json!([{"source": glob, "destination": "{name}"}]),
        json!([{"source": "acme/*", "destination": "{name}", "tags": {"include": [glob]}}]),
        json!([{"source": "acme/*", "destination": "{name}", "tags": {"semver": "\n"}}]),
    ];
    for rules in rules {
        let text = settings(&rules).unwrap_err().to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

/// The Kelvin sign is a letter whose lower case is the `k` of ASCII.
#[test]
fn only_letters_of_ascii_have_a_lower_case() {
    assert!(jobs(published("acme", "\u{212a}ey")).is_err());
    assert!(jobs(published("acme", "Key")).is_ok());
}

#[test]
fn a_package_does_not_choose_the_registry() {
    let name = "123456789012.dkr.ecr.eu-west-3.amazonaws.com/api";
    let error = jobs(published("acme", name)).unwrap_err();
    assert!(error.to_string().contains("registry"), "{error}");
}

#[test]
fn a_rule_names_an_owner_and_a_package_that_can_be() {
    for source in ["ac\\me/*", "a!/*", "acme/../api", "acme/a b", "acme/api]"] {
        assert!(settings(&json!([{"source": source, "destination": "{name}"}])).is_err());
    }
}

#[test]
fn the_next_page_brings_no_credential() {
    let base = Url::parse("https://ghcr.io/v2/acme/api/tags/list").unwrap();
    let mut headers = HeaderMap::new();
    let link = "<https://user:password@ghcr.io/x>; rel=next";
    headers.insert(LINK, link.parse().unwrap());
    assert_eq!(next_page(&headers, &base), Err(UntrustedLink::Credentials));
}
