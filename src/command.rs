//! The laptop's command `ghcr-to-ecr`: the function's own engine, for a person who watches.
//!
//! What is asked for is written as a direct event, and so is read, checked and carried out as the function does; there is no queue,
//! and no deadline that anybody would notice. Standard output has the result alone; whatever else is to be said goes to standard
//! error.

mod advice;
mod arguments;
mod output;
mod progress;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};

use self::arguments::{Arguments, Verb};
use self::progress::{Progress, Screen};
use crate::aws;
use crate::check::{self, Checklist, Status};
use crate::clients::Clients;
use crate::config::{RulesSetting, Settings};
use crate::copy::Shared;
use crate::copy::report::{Outcome, Report, Subject};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::logging;
use crate::observer::Movements;
use crate::reconcile;
use crate::registry;
use crate::reports::Reports;
use crate::rules::Rules;

/// The exit status for arguments or settings that can't be used, as that of most commands.
const USAGE: u8 = 2;

/// The exit statuses after Ctrl-C and after a request to end, as `kill` and systems for continuous integration send it: 128 and the
/// signal's number, as shells have it.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// What these modules log, the command prints.
const PRINTED: [&str; 2] = ["ghcr_to_ecr::reports", "ghcr_to_ecr::check"];

/// How a command came to its end.
enum End {
    /// The reports say it.
    Reported,
    /// Everything was tested.
    Checked(Checklist),
    /// It did not begin, as something that a person has written can't be used.
    Usage(Error),
    /// It did not get to its reports.
    Failed(Error),
    /// A person or another process has stopped it, which gives this exit status.
    Stopped(u8),
}

/// Does what the arguments say, with the settings that `environment` gives, and gives the exit status: 0, or 1 if it failed, 2 for
/// what can't be understood, 130 after Ctrl-C, 143 after SIGTERM.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<String>,
) -> ExitCode {
    let verb = match Arguments::try_parse_from(arguments) {
        Ok(Arguments { verb }) => verb,
        Err(refusal) => {
            // Help that nobody reads to its end is no failure.
            _ = refusal.print();
            return status(refusal.exit_code() as u8);
        }
    };
    if let Verb::Completions { shell } = verb {
        return end_of_output(output::completions(shell, &mut Arguments::command()), 0);
    }
    let screen = Screen::of_standard_error(environment("TERM").as_deref());
    let lines = screen.clone();
    let level = environment("AWS_LAMBDA_LOG_LEVEL");
    logging::start_for_command(level.as_deref(), &PRINTED, move || lines.clone());

    let movements = Arc::new(Movements::default());
    let mut progress = Progress::new(screen, movements.clone());
    let mut reports = Reports::default();
    let end = {
        let work = perform(&verb, environment, movements, &mut reports);
        let work = progress.during(until_stopped(work));
        Box::pin(work).await
    };
    let arrived = progress.end();
    let failed = |error: &Error| Report::failed(verb.source().map(image), error.clone());
    let (is_json, own_status) = (verb.is_json(), end.status());
    match end {
        End::Checked(checklist) => {
            let is_written = output::checklist(&checklist, is_json);
            return end_of_output(is_written, u8::from(checklist.status() == Status::Failed));
        }
        End::Reported => {}
        End::Usage(error) | End::Failed(error) => reports.add(failed(&error)),
        End::Stopped(_) => {
            output::interrupted(arrived);
            reports.add(failed(&Error::Interrupted));
        }
    }
    let is_written = output::reports(&reports, is_json);
    let code = own_status.unwrap_or_else(|| status_of(&verb, reports.outcome()));
    end_of_output(is_written, code)
}

/// The exit status; a result that could not be written is a failure.
fn end_of_output(is_written: bool, code: u8) -> ExitCode {
    match (is_written, code) {
        (false, 0) => status(1),
        (_, code) => status(code),
    }
}

/// Whoever asks for one image wants it to be there, so that it was ignored is a failure to him; to whoever asks for what the rules
/// say, it is not.
fn status_of(verb: &Verb, outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Failed | Outcome::Deferred => 1,
        Outcome::Ignored => u8::from(verb.source().is_some()),
        Outcome::Copied | Outcome::Planned | Outcome::Queued | Outcome::Current => 0,
    }
}

fn status(code: u8) -> ExitCode {
    ExitCode::from(code)
}

fn image(source: &str) -> Subject {
    Subject::Image {
        source: source.to_owned(),
    }
}

impl End {
    /// The exit status, where it does not follow from the reports.
    fn status(&self) -> Option<u8> {
        match self {
            End::Usage(_) => Some(USAGE),
            End::Stopped(code) => Some(*code),
            End::Reported | End::Checked(_) | End::Failed(_) => None,
        }
    }
}

/// Works until it is done, or until Ctrl-C or SIGTERM. Work that is dropped leaves what is done, and the tag is the last that it does.
async fn until_stopped(work: impl Future<Output = Result<End, End>>) -> End {
    tokio::select! {
        biased;
        end = work => end.unwrap_or_else(|end| end),
        Ok(()) = tokio::signal::ctrl_c() => End::Stopped(INTERRUPTED),
        Some(()) = terminated() => End::Stopped(TERMINATED),
    }
}

/// Waits for SIGTERM; `None` where that can't be waited for.
#[cfg(unix)]
async fn terminated() -> Option<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate()).ok()?.recv().await
}

#[cfg(not(unix))]
async fn terminated() -> Option<()> {
    None
}

/// Carries out what was asked for. Arguments and settings are looked at first, then who the caller is at AWS: both are quicker put
/// right than a copy that fails at its end.
async fn perform(
    verb: &Verb,
    environment: impl Fn(&str) -> Option<String>,
    movements: Arc<Movements>,
    reports: &mut Reports,
) -> Result<End, End> {
    let settings = Settings::read_for_command(&environment).map_err(usage)?;
    let event = Event::read(verb.event()).map_err(usage)?;
    expect_clear(verb, &event, &settings).map_err(usage)?;
    let http = registry::client().map_err(End::Failed)?;
    let configuration = aws::configuration(http.clone()).await;
    let profile = environment("AWS_PROFILE").filter(|profile| !profile.is_empty());
    let profile = profile.as_deref();
    aws::identity::expect_region(&configuration, profile).map_err(usage)?;
    let configuration = aws::identity::sign_in(configuration, profile).await;
    let configuration = configuration.map_err(End::Failed)?;

    let clients = Clients::new(settings, http, &configuration).await;
    // The rules may be in a secret.
    let clients = clients.map_err(|error| match error {
        Error::Setting { .. } => End::Usage(error),
        error => End::Failed(error),
    })?;
    let deadline = Deadline::of_a_week();
    let shared = Shared::new(deadline, clients.settings.blob_concurrency).watched(movements);
    let invocation = clients.invocation("command", shared).await;
    let invocation = invocation.map_err(End::Failed)?;
    match event {
        Event::Direct(direct) => {
            let jobs = direct.jobs(&invocation.rules, &clients.settings.hosts);
            let jobs = jobs.map_err(usage)?;
            reports.extend(Box::pin(invocation.copy_all(jobs)).await);
        }
        Event::Reconcile(scope) => {
            Box::pin(reconcile::run(&invocation, &scope, reports)).await;
        }
        _ => {
            let check = clients.check(deadline);
            return Ok(End::Checked(Box::pin(check::run(&check)).await));
        }
    }
    reports.add_up(invocation.shared.estimate.sum());
    Ok(End::Reported)
}

/// What a person has written can't be used. He knows of no event that his arguments make.
fn usage(error: Error) -> End {
    const EVENT: &str = "a direct event, but ";
    End::Usage(match error {
        Error::Event(reason) => {
            Error::Arguments(reason.strip_prefix(EVENT).unwrap_or(&reason).to_owned())
        }
        error => error,
    })
}

/// Refuses what can be seen to be wrong before anybody is asked for anything.
fn expect_clear(verb: &Verb, event: &Event, settings: &Settings) -> Result<()> {
    let has_no_rules =
        matches!(&settings.rules, RulesSetting::Written(rules) if rules.iter().next().is_none());
    match event {
        // What the rules say makes no difference then.
        Event::Direct(direct) if verb.names_destination() => {
            direct.jobs(&Rules::none(), &settings.hosts).map(drop)
        }
        Event::Direct(_) if has_no_rules => Err(Error::Rule(
            "it is not said where the image goes: name a DESTINATION, such as prod/api, or set RULES"
                .to_owned(),
        )),
        Event::Reconcile(_) if has_no_rules => Err(Error::Setting {
            name: "RULES",
            value: String::new(),
            reason: r#"expected rules that say what is copied, such as [{"source":"acme/*","destination":"{name}"}]"#
                .to_owned(),
        }),
        _ => Ok(()),
    }
}
