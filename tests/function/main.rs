//! The real binary, started under a local Lambda Runtime API and invoked with whole events, between local servers that are as
//! strict as GHCR and ECR are. One program, so that it is linked once.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "test code: a failure is a panic, and a figure is printed"
)]

mod answers;
mod budgets;
mod check;
#[cfg(feature = "cli")]
mod command;
mod copy;
mod counts;
mod destinations;
mod doubtful_tags;
mod engine;
mod events;
mod failures;
mod foreign;
mod forms;
mod github;
mod graph;
mod guards;
mod hazards;
mod interplay;
mod interruptions;
mod leaks;
mod lent;
mod long_runs;
mod matrix;
mod measurements;
mod memory;
mod min_age;
mod mounting;
mod outages;
mod payloads;
mod properties;
mod proxy;
mod prune;
mod pull_through_cache;
mod pushes;
mod queue;
mod recipes;
mod referrers;
mod refused_runs;
mod registries;
mod repositories;
mod rotation;
mod scenario;
mod schedule;
mod secrets;
mod settings;
mod soak;
mod tags;
mod telling;
mod tls;
mod told;
mod triggers;
mod vanished;
mod year;
