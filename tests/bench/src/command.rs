//! A command and what it cost, by GNU time: a process of its own between, so that this one's memory is never counted.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command;

/// What a command has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub wall: Duration,
    /// User and system, in steps of 10 ms.
    pub cpu: Duration,
    /// The most that was resident.
    pub peak_memory_bytes: u64,
}

/// Runs a command with `environment` and `PATH` alone, and gives what it used and its standard output. Panics with its standard
/// error if it fails.
pub async fn run(
    scratch: &Path,
    program: &str,
    arguments: &[String],
    environment: &[(&str, String)],
) -> (Usage, String) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let figures = scratch.join(format!("time-{number}"));
    let mut command = Command::new("/usr/bin/time");
    command
        .args(["--format", "%U %S %M", "--output"])
        .arg(&figures)
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let begin = Instant::now();
    let output = command.output().await;
    let wall = begin.elapsed();
    let output = output.expect("start GNU time; the Debian package `time` has it");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {message}"
    );
    let text = std::fs::read_to_string(&figures).expect("read what GNU time wrote");
    std::fs::remove_file(&figures).expect("remove what GNU time wrote");
    let figures: Vec<f64> = text
        .split_whitespace()
        .map(|figure| figure.parse().expect("a figure of GNU time"))
        .collect();
    let [user, system, kibibytes] = figures[..] else {
        panic!("three figures of GNU time, not {text:?}");
    };
    let usage = Usage {
        wall,
        cpu: Duration::from_secs_f64(user + system),
        peak_memory_bytes: kibibytes as u64 * 1024,
    };
    (usage, String::from_utf8_lossy(&output.stdout).into_owned())
}
