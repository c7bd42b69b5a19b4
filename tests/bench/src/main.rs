//! Measures the function beside skopeo, both between two CNCF distribution registries on this machine, and curl as the floor.
//!
//! ```text
//! bench [--rounds N] <the function's binary, such as target/release/bootstrap> [case…]
//! ```
//!
//! Prints tables in Markdown, and writes them to `target/bench/results.md` and every sample to `target/bench/results.json`.
//! A target that is missed is no failure; a copy that fails is.
//!
//! | module | responsibility |
//! |---|---|
//! | [`cases`] | the cases, each with what it should come to |
//! | [`mod@bench`] | how a case is measured |
//! | [`contender`], [`command`] | who is measured, and what a command costs |
//! | [`stage`] | two registries, and what lies before them |
//! | [`registry`], [`certificates`] | a registry's process and storage; TLS for it |
//! | [`network`], [`record`] | delay and bounded windows; the requests that pass |
//! | [`results`], [`waterfall`] | samples and tables; a picture of one copy's requests |

mod bench;
mod cases;
mod certificates;
mod command;
mod contender;
mod network;
mod record;
mod registry;
mod results;
mod stage;
mod waterfall;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::{Map, json};

use crate::bench::Bench;
use crate::cases::CASES;
use crate::contender::{FUNCTION, SKOPEO};

const USAGE: &str =
    "usage: bench [--rounds N] <the function's binary, such as target/release/bootstrap> [case…]";

struct Arguments {
    rounds: usize,
    binary: PathBuf,
    cases: Vec<(&'static str, &'static str)>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("{reason}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    // So that what was made on the way is removed.
    tokio::select! {
        () = run(arguments) => ExitCode::SUCCESS,
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut rounds = 5;
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => {
                let number = words.next().unwrap_or_default();
                let number = number.parse().ok().filter(|number| *number > 0);
                rounds = number.ok_or("--rounds takes a number from 1 on")?;
            }
            option if option.starts_with('-') => return Err(format!("{option} is not known")),
            _ => rest.push(word),
        }
    }
    let mut rest = rest.into_iter();
    let binary = PathBuf::from(rest.next().ok_or("no binary is given")?);
    if !binary.is_file() {
        let path = binary.display();
        return Err(format!(
            "{path} is not there; `cargo build --release` makes it"
        ));
    }
    let find = |name: String| {
        let found = CASES.into_iter().find(|case| case.0 == name);
        found.ok_or(format!("there is no case {name}"))
    };
    let mut cases = rest.map(find).collect::<Result<Vec<_>, _>>()?;
    if cases.is_empty() {
        cases = CASES.to_vec();
    }
    Ok(Arguments {
        rounds,
        binary,
        cases,
    })
}

async fn run(arguments: Arguments) {
    let Arguments {
        rounds,
        binary,
        cases,
    } = arguments;
    let bench = Bench::start(binary, rounds).await;
    let directory = PathBuf::from("target/bench");
    std::fs::create_dir_all(&directory).expect("create target/bench");
    let surroundings = surroundings(rounds);
    let mut text = format!("# Measurements\n\n{surroundings}\n");
    println!("{text}");
    let mut raw = Map::new();
    for (name, title) in cases {
        let outcome = cases::run(&bench, name).await;
        let section = format!(
            "## {name}. {title}\n\n{}",
            outcome.markdown([FUNCTION, SKOPEO])
        );
        println!("{section}");
        text += &format!("\n{section}");
        raw.insert(name.to_owned(), outcome.json());
        std::fs::write(directory.join("results.md"), &text).expect("write the tables");
        let json = json!({"surroundings": surroundings, "cases": raw});
        std::fs::write(directory.join("results.json"), format!("{json:#}\n"))
            .expect("write the samples");
    }
}

/// The machine and the versions.
fn surroundings(rounds: usize) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, |count| count.get());
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let versions = ["skopeo", "docker-registry", "curl", "rustc"].map(|program| {
        let output = Command::new(program).arg("--version").output();
        let output = output.map(|output| output.stdout).unwrap_or_default();
        let line = String::from_utf8_lossy(&output);
        line.lines().next().unwrap_or(program).to_owned()
    });
    format!(
        "{cpus} processors ({model}); {}. Rounds, in turns: {rounds}; given are the median, and least to most. Processor seconds are user and \
         system together; requests leave those aside that only ask for authorization, which stand behind the `+`.",
        versions.join("; ")
    )
}
