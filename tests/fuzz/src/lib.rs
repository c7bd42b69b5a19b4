//! What the targets share: settings, GitHub's payloads with fuzzed fields, and what must hold of everything that is read.

pub mod payload;

use std::sync::LazyLock;

use ghcr_to_ecr::config::{RulesSetting, Settings};
use ghcr_to_ecr::destination::{DESTINATIONS_LIMIT, Destination, with_digest};
use ghcr_to_ecr::endpoint::ecr_region;
use ghcr_to_ecr::error::Error;
use ghcr_to_ecr::event::webhook::Delivery;
use ghcr_to_ecr::event::{Direct, Event};
use ghcr_to_ecr::job::{Job, Origin};
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::reference::{Version, is_package, is_repository, is_tag};
use ghcr_to_ecr::rules::Rules;
use serde_json::Value;

/// The only registry that [`SETTINGS`] write out beside the default one.
const BACKUP_REGISTRY: &str = "123456789012.dkr.ecr.eu-west-3.amazonaws.com";

/// Rules of every kind.
const RULES: &str = r#"[
    {"source": "acme/api", "destination": ["prod/{name}", "123456789012.dkr.ecr.eu-west-3.amazonaws.com/backup/{owner}/{name}"]},
    {"source": "acme/*", "destination": "{name}", "tags": {"include": ["v*", "[0-9]*", "latest"], "exclude": ["*-dev"]}},
    {"source": "acme/**", "destination": "{name}", "token_secret_id": "other"},
    {"source": "octo/**", "destination": ["octo/{basename}:{tag}-{digest8}", {"to": "lambda/{basename}", "platform": "linux/arm64"}],
     "platforms": ["linux/amd64"], "tags": {"semver": ">=1.2"}}
]"#;

/// The settings of a deployment.
pub static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let lookup = |name: &str| (name == "RULES").then(|| RULES.to_owned());
    Settings::read(lookup).expect("the settings are valid")
});

/// The rules in the settings.
pub fn rules(settings: &Settings) -> Option<&Rules> {
    match &settings.rules {
        RulesSetting::Written(rules) => Some(rules),
        RulesSetting::Secret(_) => None,
    }
}

/// The jobs that a direct event asks for.
fn jobs(direct: &Direct) -> Result<Vec<Job>, Error> {
    let rules = rules(&SETTINGS).expect("the rules are in the setting");
    direct.jobs(rules, &SETTINGS.hosts)
}

/// Splits off the first line, so that a plain text file can hold several inputs.
pub fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Logs, replies and a queue's attributes show such a text: it is one line, whatever the event had in it.
pub fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}

/// What holds of every refusal of an event: the sender can correct it, and is told how in one line.
pub fn assert_refused(error: &Error) {
    assert!(
        matches!(error, Error::Event(_) | Error::Rule(_)),
        "{error:?}"
    );
    assert_one_line(&error.to_string());
}

/// Reads an event as an invocation does, up to the first call of another service. A signature is not checked.
pub fn check_event(payload: Value) {
    let event = match Event::read(payload) {
        Ok(event) => event,
        Err(error) => return assert_refused(&error),
    };
    match event {
        Event::Http(request) => check_delivery(request.delivery(), request.delivery_id),
        Event::GitHub(event) => {
            check_delivery(event.delivery(&SETTINGS.event_sources), event.id);
        }
        Event::Queue(messages) => messages.iter().for_each(|message| {
            assert!(!message.id.is_empty());
            check_message(&message.body);
        }),
        Event::Direct(direct) => check_jobs(jobs(&direct)),
        Event::Reconcile(scope) => {
            for glob in scope.packages.iter().flatten() {
                glob.is_match("acme/api");
            }
        }
        // It says nothing but that.
        Event::Check => {}
    }
}

/// What holds of a delivery of GitHub's: its job goes to registries that a rule names, or it is ignored with the reason.
pub fn check_delivery(delivery: Result<Delivery, Error>, id: Option<String>) {
    let delivery = match delivery {
        Ok(delivery) => delivery,
        Err(error) => return assert_refused(&error),
    };
    let rules = rules(&SETTINGS).expect("the rules are in the setting");
    match delivery.job(rules, Origin::Webhook, id.clone()) {
        Ok(job) => {
            assert_eq!(job.options.origin, Some(Origin::Webhook));
            assert_eq!(job.options.delivery, id);
            for destination in &job.destinations {
                let registry = destination.registry.as_deref();
                assert!(
                    registry.is_none_or(|host| host == BACKUP_REGISTRY),
                    "a registry that no rule names: {job:?}"
                );
            }
            check_job(&job);
        }
        Err(ignored) => {
            assert!(ignored.error.is_none(), "{ignored:?}");
            assert_one_line(&ignored.reason.expect("a reason"));
        }
    }
}

/// What holds of the text of a message.
pub fn check_message(text: &str) {
    check_jobs(Direct::read_text(text).and_then(|direct| jobs(&direct)));
}

fn check_jobs(jobs: Result<Vec<Job>, Error>) {
    match jobs {
        Ok(jobs) => jobs.iter().for_each(check_job),
        Err(error) => assert_refused(&error),
    }
}

/// A job has valid names, and comes back from the queue as it was sent.
pub fn check_job(job: &Job) {
    assert!(is_package(&job.source.package), "{job:?}");
    assert!(job.source.version.tag().is_none_or(is_tag), "{job:?}");
    let count = job.destinations.len();
    assert!((1..=DESTINATIONS_LIMIT).contains(&count), "{job:?}");
    for destination in &job.destinations {
        check_destination(destination, &job.source.version);
    }

    let message = job.message();
    let direct = Direct::read_text(&message).expect("the function reads its own messages");
    let returned = jobs(&direct).expect("the function accepts its own messages");
    assert_eq!(returned, std::slice::from_ref(job), "{message}");
    assert_eq!(returned[0].group(), job.group());
}

/// A destination has valid names, and any registry is one of ECR's.
fn check_destination(destination: &Destination, version: &Version) {
    assert!(is_repository(&destination.repository), "{destination:?}");
    let tag = destination.tag.fill(version).expect("a tag, or none");
    let tag = tag.map(|tag| with_digest(&tag, &Digest::of(b"")));
    assert!(tag.as_deref().is_none_or(is_tag), "{destination:?}");
    let registry = destination.registry.as_deref();
    let is_ecr = registry.is_none_or(|host| ecr_region(host).is_some());
    assert!(is_ecr, "{destination:?}");
}
