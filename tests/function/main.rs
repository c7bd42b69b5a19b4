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
mod copy;
mod counts;
mod destinations;
mod events;
mod failures;
mod foreign;
mod github;
mod graph;
mod hazards;
mod interruptions;
mod matrix;
mod measurements;
mod memory;
mod payloads;
mod properties;
mod queue;
mod scenario;
mod schedule;
mod soak;
mod tls;
mod vanished;
