//! What the targets share: settings, GitHub's payloads with fuzzed fields, and what must hold of everything that is read.

pub mod payload;

use std::sync::LazyLock;

use ghcr_to_ecr::config::Settings;
use ghcr_to_ecr::error::Error;
use ghcr_to_ecr::event::{Direct, Event, Request};
use ghcr_to_ecr::job::{Job, is_repository, is_tag};
use ghcr_to_ecr::manifest::Digest;
use ghcr_to_ecr::rules::ecr_region;
use serde_json::{Value, json};

/// The only registry that [`SETTINGS`] write out beside the default one.
const BACKUP_REGISTRY: &str = "123456789012.dkr.ecr.eu-west-3.amazonaws.com";

/// Rules of every kind.
const RULES: &str = r#"[
    {"source": "acme/api", "destination": ["prod/{name}", "123456789012.dkr.ecr.eu-west-3.amazonaws.com/backup/{owner}/{name}"]},
    {"source": "acme/*", "destination": "{name}", "tags": {"include": ["v*", "[0-9]*", "latest"], "exclude": ["*-dev"]}},
    {"source": "acme/**", "destination": "{name}", "token_secret_id": "other"},
    {"source": "octo/**", "destination": "octo/{basename}", "tags": {"semver": ">=1.2"}}
]"#;

/// The settings of a deployment.
pub static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let lookup = |name: &str| (name == "RULES").then(|| RULES.to_owned());
    Settings::read(lookup).expect("the settings are right")
});

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

/// What holds of every refusal of an event: it is the sender's to mend, and says so in one line.
pub fn assert_refused(error: &Error) {
    assert!(
        matches!(error, Error::Event(_) | Error::Rule(_)),
        "{error:?}"
    );
    assert_one_line(&error.to_string());
}

/// Reads an event as an invocation does, up to the first call of another service. The signature is taken for checked.
pub fn check_event(payload: Value) {
    let event = match Event::read(payload) {
        Ok(event) => event,
        Err(error) => return assert_refused(&error),
    };
    let request = match &event {
        Event::Http(request) => request.request(&SETTINGS),
        Event::Bus(event) => event.request(&SETTINGS),
        Event::Direct(direct) => direct.jobs(&SETTINGS).map(Request::Copy),
        Event::Reconcile(reconcile) => reconcile.request(),
        Event::Queue(messages) => Ok(Request::WorkOff(messages.clone())),
        Event::Schedule => return,
    };
    check_request(request);
}

/// What holds of everything that an event comes to.
pub fn check_request(request: Result<Request, Error>) {
    match request {
        Ok(Request::Copy(jobs)) => jobs.iter().for_each(check_job),
        Ok(Request::HandOver(jobs)) => jobs.iter().for_each(|job| {
            let registry = job.destination.registry.as_deref();
            assert!(
                registry.is_none_or(|host| host == BACKUP_REGISTRY),
                "a registry that no rule names: {job:?}"
            );
            check_job(job);
        }),
        Ok(Request::WorkOff(messages)) => messages.iter().for_each(|message| {
            assert!(!message.id.is_empty());
            check_message(&message.body);
        }),
        Ok(Request::Reconcile(scope)) => {
            for glob in scope.packages.iter().flatten() {
                glob.is_match("acme/api");
            }
        }
        Ok(Request::Ignore(reason)) => assert_one_line(&reason),
        Err(error) => assert_refused(&error),
    }
}

/// What holds of the text of a message.
pub fn check_message(text: &str) {
    match Direct::read_text(text).and_then(|direct| direct.jobs(&SETTINGS)) {
        Ok(jobs) => jobs.iter().for_each(check_job),
        Err(error) => assert_refused(&error),
    }
}

/// A job has legal names, is read from the one source, and comes back the same from the queue.
pub fn check_job(job: &Job) {
    let (source, destination) = (&job.source, &job.destination);
    assert_eq!(source.registry(), "ghcr.io");
    assert!(is_repository(source.repository()), "{job:?}");
    assert!(source.tag().is_none_or(is_tag), "{job:?}");
    let digest = source.digest().map(Digest::parse);
    assert!(digest.as_ref().is_none_or(Result::is_ok), "{job:?}");
    assert!(source.tag().is_some() || digest.is_some(), "{job:?}");
    assert!(is_repository(&destination.repository), "{job:?}");
    assert!(is_tag(&destination.tag), "{job:?}");
    let region = destination.registry.as_deref().map(ecr_region);
    assert!(region.is_none_or(|region| region.is_some()), "{job:?}");

    let message = json!({
        "source": source.to_string(),
        "destination": destination.to_string(),
        "all_tags": job.all_tags,
        "force": job.force,
        "dry_run": job.dry_run,
    });
    let returned = Direct::read_text(&message.to_string())
        .and_then(|direct| direct.jobs(&SETTINGS))
        .expect("a message that the function wrote can be read");
    let [returned] = returned.as_slice() else {
        panic!("{message} is one job")
    };
    assert_eq!(returned.source, *source);
    assert_eq!(returned.destination, *destination);
    assert_eq!(
        (returned.all_tags, returned.force, returned.dry_run),
        (job.all_tags, job.force, job.dry_run)
    );
    assert_eq!(returned.token_secret_id, job.token_secret_id);
}
