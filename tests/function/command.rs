//! The laptop's command: the real binary, as a person or a script starts it, between the same strict servers.

mod credentials;
mod errors;
mod make;
mod terminal;

use std::process::Stdio;

use serde_json::{Value, json};
use support::ghcr::Ghcr;
use support::http::Fault;
use support::image::{Blob, Image};
use tokio::process::Command;

use crate::scenario::{REPOSITORY, Scenario, small_image};

/// The real binary.
const COMMAND: &str = env!("CARGO_BIN_EXE_ghcr-to-ecr");

const SOURCE: &str = "ghcr.io/acme/api:1";

/// How a command ended, and what it has printed.
struct Ended {
    status: Option<i32>,
    output: String,
    errors: String,
}

impl Ended {
    /// The one JSON document that is all of standard output.
    fn json(&self) -> Value {
        let Ended { output, errors, .. } = self;
        serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}:\n{output}\n{errors}"))
    }
}

/// What a person's environment has who copies to his own ECR: no rules, no secrets, no queue.
fn environment(scenario: &Scenario) -> Vec<(&'static str, String)> {
    vec![
        ("SOURCE_REGISTRY", scenario.ghcr.url()),
        ("GITHUB_API_URL", scenario.github.server.url()),
        ("DESTINATION_REGISTRY", scenario.ecr.server.url()),
        ("AWS_ENDPOINT_URL", scenario.aws.server.url()),
        ("AWS_REGION", "eu-west-3".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("GHCR_TOKEN", Ghcr::TOKEN.to_owned()),
    ]
}

/// The command, not yet started, with the usual environment and no terminal.
fn command(scenario: &Scenario, arguments: &[&str]) -> Command {
    let mut command = Command::new(COMMAND);
    command
        .args(arguments)
        .env_clear()
        .envs(environment(scenario))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs the command to its end without a terminal, with `more` beside or in place of the usual environment; an empty value removes
/// a variable.
async fn run(scenario: &Scenario, arguments: &[&str], more: &[(&str, &str)]) -> Ended {
    let mut command = command(scenario, arguments);
    for (name, value) in more {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    ended(command).await
}

/// Starts a command, and waits for its end.
async fn ended(mut command: Command) -> Ended {
    let child = command.spawn().expect("the command starts");
    let output = child.wait_with_output().await.expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended {
        status: output.status.code(),
        output: text(output.stdout),
        errors: text(output.stderr),
    }
}

#[tokio::test]
async fn a_copy_needs_nothing_but_its_two_names() {
    let scenario = Scenario::with_image("1").await;
    let copy = ["copy", SOURCE, "prod/api", "--json"];
    let first = run(&scenario, &copy, &[]).await;
    assert_eq!((first.status, first.errors.as_str()), (Some(0), ""));
    let report = first.json();
    assert_eq!(report["outcome"], "copied");
    let destination = format!("{}/prod/api:1", scenario.ecr.server.host());
    assert_eq!(report["destination"], destination);
    scenario.assert_stored("copied", "1", &small_image());

    let again = run(&scenario, &copy, &[]).await;
    assert_eq!(again.status, Some(0));
    assert_eq!(again.json()["outcome"], "current");
}

#[tokio::test]
async fn a_person_reads_what_was_copied_and_where_to() {
    let scenario = Scenario::with_image("1").await;
    let ended = run(&scenario, &["copy", SOURCE, "prod/api:stable"], &[]).await;
    assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""));
    let (ghcr, ecr) = (scenario.ghcr.host(), scenario.ecr.server.host());
    let first = format!("copied {ghcr}/acme/api:1 to {ecr}/prod/api:stable\n");
    assert!(ended.output.starts_with(&first), "{}", ended.output);
    assert!(ended.output.contains(&small_image().top));
    scenario.assert_stored("copied", "stable", &small_image());
}

#[tokio::test]
async fn a_dry_run_tells_its_steps_and_writes_nothing() {
    let scenario = Scenario::with_image("1").await;
    let ended = run(&scenario, &["copy", SOURCE, "prod/api", "--dry-run"], &[]).await;
    assert_eq!(ended.status, Some(0), "{}", ended.errors);
    assert!(ended.output.starts_with("planned "), "{}", ended.output);
    assert!(ended.output.contains(" blobs to send"), "{}", ended.output);
    scenario.assert_untouched("planned", "1");
}

#[tokio::test]
async fn a_platform_and_force_are_asked_for_as_in_an_event() {
    let scenario = Scenario::with_image("1").await;
    let copy = ["copy", SOURCE, "prod/api", "--json", "--platform"];
    let arguments = [&copy[..], &["linux/arm64", "--force"]].concat();
    let ended = run(&scenario, &arguments, &[]).await;
    assert_eq!(ended.status, Some(0), "{}", ended.errors);
    let report = ended.json();
    assert_ne!(report["digest"], report["source_digest"]);
    let missing = [&copy[..], &["linux/s390x"]].concat();
    let ended = run(&scenario, &missing, &[]).await;
    assert_eq!(ended.status, Some(1));
    let error = ended.json()["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(error.contains("linux/arm64"), "{error}");
}

/// The queue of the function's own environment is not used: what is asked for is done here.
#[tokio::test]
async fn reconcile_copies_what_the_rules_and_globs_name() {
    let scenario = Scenario::with_image("1").await;
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}"}]"#;
    let environment = [
        ("RULES", rules),
        (
            "JOB_QUEUE_URL",
            "https://localhost:1/123456789012/jobs.fifo",
        ),
    ];
    let other = run(&scenario, &["reconcile", "acme/web"], &environment).await;
    assert_eq!(other.status, Some(0), "{}", other.errors);
    scenario.assert_untouched("another package", "1");

    let planned = ["reconcile", "acme/a*", "--dry-run", "--json"];
    let planned = run(&scenario, &planned, &environment).await;
    assert_eq!(planned.json()["outcome"], "planned");
    scenario.assert_untouched("planned", "1");

    let copied = run(&scenario, &["reconcile", "--json"], &environment).await;
    assert_eq!(copied.status, Some(0), "{}", copied.errors);
    assert_eq!(copied.json()["outcome"], "copied");
    scenario.assert_stored("copied", "1", &small_image());
}

#[tokio::test]
async fn a_copy_without_a_destination_goes_where_the_rules_say() {
    let scenario = Scenario::with_image("1").await;
    let rules = r#"[{"source":"acme/*","destination":"prod/{name}:from-{tag}"}]"#;
    let ended = run(&scenario, &["copy", SOURCE], &[("RULES", rules)]).await;
    assert_eq!(ended.status, Some(0), "{}", ended.errors);
    scenario.assert_stored("copied", "from-1", &small_image());
}

#[tokio::test]
async fn a_check_lists_what_it_tests_and_fails_with_what_is_wrong() {
    let scenario = Scenario::with_image("1").await;
    let rules = r#"[{"source":"acme/api","destination":"prod/{name}"}]"#;
    let environment = [("RULES", rules)];
    let well = run(&scenario, &["check", "--json"], &environment).await;
    assert_eq!(well.status, Some(0), "{}", well.output);
    assert_eq!(well.json()["outcome"], "current");
    for words in ["GHCR_TOKEN_SECRET_ID", "$GHCR_TOKEN", "function"] {
        assert!(!well.output.contains(words), "{words}: {}", well.output);
    }

    let without_rules = run(&scenario, &["check"], &[]).await;
    assert_eq!(without_rules.status, Some(0), "{}", without_rules.output);
    let warning = "warning  rules: RULES is not set";
    assert!(
        without_rules.output.contains(warning),
        "{}",
        without_rules.output
    );

    scenario.ecr.delete_repository("prod/api");
    let failed = run(&scenario, &["check"], &environment).await;
    assert_eq!(failed.status, Some(1), "{}", failed.output);
    let lines: Vec<&str> = failed.output.lines().collect();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("failed ") && line.contains("prod/api")),
        "{}",
        failed.output
    );
    assert!(failed.output.contains("to do: "), "{}", failed.output);
}

/// Scripts read the report; people the lines of larger blobs, of which small ones would be too many.
#[tokio::test]
async fn without_a_terminal_larger_blobs_have_plain_lines() {
    let scenario = Scenario::start().await;
    let large = Blob::pseudorandom(7, 9 * 1024 * 1024);
    let image = Image::single(&[large.clone(), Blob::bytes("small")]);
    scenario.push(REPOSITORY, "1", &image);
    let ended = run(&scenario, &["copy", SOURCE, "prod/api", "--json"], &[]).await;
    assert_eq!(ended.status, Some(0), "{}", ended.errors);
    let lines: Vec<&str> = ended.errors.lines().collect();
    let digest = large.digest();
    let name = &digest[..19];
    let [begun, arrived] = lines.as_slice() else {
        panic!("expected two lines: {lines:?}")
    };
    assert_eq!(*begun, format!("{name} 9.00 MiB: begun"));
    let begin = format!("{name} 9.00 MiB: arrived after ");
    assert!(
        arrived.starts_with(&begin) && arrived.ends_with("/s"),
        "{arrived}"
    );
    assert_eq!(ended.json()["bytes"]["copied"], json!(image.blob_bytes()));
}

/// Whoever keeps the result in a file must learn that it is not there. A reader who has seen enough is no failure.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_result_that_can_not_be_written_is_a_failure_unless_its_reader_has_gone() {
    let scenario = Scenario::with_image("1").await;
    let copy = ["copy", SOURCE, "prod/api", "--json"];
    let all: [&[&str]; 4] = [&copy, &copy[..3], &["check"], &["completions", "bash"]];
    for arguments in all {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut full_disk = command(&scenario, arguments);
        full_disk.stdout(full.expect("a disk that is always full"));
        let Ended { status, errors, .. } = ended(full_disk).await;
        assert_eq!(status, Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains("could not be written"), "{errors}");

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut unread = command(&scenario, arguments);
        unread.stdout(writer);
        let Ended { status, errors, .. } = ended(unread).await;
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// As `kill` and systems for continuous integration stop a process.
#[tokio::test]
async fn sigterm_stops_as_ctrl_c_does() {
    let scenario = Scenario::with_image("1").await;
    let server = &scenario.ecr.server;
    server.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let child = command(&scenario, &["copy", SOURCE, "prod/api", "--json"]).spawn();
    let child = child.expect("the command starts");
    server.wait_for("PUT", "/manifests/1").await;
    let id = child.id().expect("it runs").to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(kill.expect("a signal").success());
    let output = child.wait_with_output().await.expect("it ends");
    assert_eq!(output.status.code(), Some(143));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["outcome"], "deferred");
    assert!(String::from_utf8_lossy(&output.stderr).contains("kept: "));
    scenario.assert_untouched("stopped", "1");
}

#[tokio::test]
async fn completions_name_the_commands_for_each_shell() {
    let scenario = Scenario::start().await;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run(&scenario, &["completions", shell], &[]).await;
        assert_eq!(ended.status, Some(0), "{shell}: {}", ended.errors);
        for word in ["copy", "reconcile", "check", "dry-run"] {
            assert!(ended.output.contains(word), "{shell}: {word}");
        }
    }
}

#[tokio::test]
async fn help_teaches_by_examples_and_names_the_settings() {
    let scenario = Scenario::start().await;
    let ended = run(&scenario, &["help", "copy"], &[]).await;
    assert_eq!(ended.status, Some(0));
    for words in [
        "Examples:",
        "GHCR_TOKEN",
        "AWS_PROFILE",
        "--dry-run",
        "Exit status:",
    ] {
        assert!(ended.output.contains(words), "{words}: {}", ended.output);
    }
}
