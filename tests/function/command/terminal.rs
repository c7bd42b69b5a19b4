//! The command on a real pseudo-terminal: what a person sees, and Ctrl-C.

use pty_process::{Command, Pty, Size};
use support::http::Fault;
use support::image::Blob;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

use super::{COMMAND, SOURCE, environment};
use crate::scenario::{Image, REPOSITORY, Scenario, small_image};

/// The size that most terminals begin with.
const HEIGHT: u16 = 24;
const WIDTH: u16 = 80;

/// A terminal with a command on it.
struct Terminal {
    pty: Pty,
    child: Child,
    screen: vt100::Parser,
}

impl Terminal {
    fn start(scenario: &Scenario, arguments: &[&str]) -> Terminal {
        Terminal::start_with(scenario, arguments, &[])
    }

    /// With `more` beside the usual environment.
    fn start_with(scenario: &Scenario, arguments: &[&str], more: &[(&str, &str)]) -> Terminal {
        let (pty, pts) = pty_process::open().expect("a pseudo-terminal");
        pty.resize(Size::new(HEIGHT, WIDTH)).expect("its size");
        let command = Command::new(COMMAND).args(arguments).env_clear();
        let command = command.envs(environment(scenario)).env("TERM", "xterm");
        let command = command.envs(more.iter().copied());
        Terminal {
            child: command.kill_on_drop(true).spawn(pts).expect("it starts"),
            pty,
            screen: vt100::Parser::new(HEIGHT, WIDTH, 0),
        }
    }

    /// Reads until the screen is as expected, and gives its text. Panics with the last screen if the command ends before.
    async fn shows(&mut self, is_expected: impl Fn(&str) -> bool) -> String {
        loop {
            let text = self.text();
            if is_expected(&text) {
                return text;
            }
            assert!(self.read().await, "it has ended with:\n{text}");
        }
    }

    /// The screen when the command has ended, and its exit status.
    async fn ends(mut self) -> (String, Option<i32>) {
        while self.read().await {}
        let status = self.child.wait().await.expect("it ends");
        (self.text(), status.code())
    }

    /// The lines of the screen.
    fn text(&self) -> String {
        let lines: Vec<String> = self.screen.screen().rows(0, WIDTH).collect();
        lines.join("\n")
    }

    /// Reads once; false if nobody writes to the terminal any more.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // Linux says so by an error.
        let count = self.pty.read(&mut bytes).await.unwrap_or(0);
        self.screen.process(&bytes[..count]);
        count > 0
    }
}

#[tokio::test]
async fn a_terminal_shows_a_bar_for_each_blob_and_one_for_all() {
    let scenario = Scenario::start().await;
    let large = Blob::pseudorandom(7, 64 * 1024 * 1024);
    let image = Image::single(&[large.clone(), Blob::bytes("small")]);
    scenario.push(REPOSITORY, "1", &image);
    let digest = large.digest();
    let server = &scenario.ecr.server;
    server.fault("PUT", digest.trim_start_matches("sha256:"), 1, Fault::Hold);

    let mut terminal = Terminal::start(&scenario, &["copy", SOURCE, "prod/api"]);
    let name = &digest[..19];
    let arrived = "total, 2 arrived";
    let text = terminal
        .shows(|text| text.contains(name) && text.contains(arrived) && text.contains("iB/s"))
        .await;
    for begin in [name, arrived] {
        let line = text.lines().find(|line| line.starts_with(begin));
        let line = line.unwrap_or_else(|| panic!("{begin}:\n{text}"));
        for part in ["[", "]", " of 64.00 MiB", "/s", " left"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    server.release();
    let (text, status) = terminal.ends().await;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("copied "), "{text}");
    assert!(text.contains("3 blobs sent (64.00 MiB)"), "{text}");
    assert!(!text.contains(" left"), "the bars are gone:\n{text}");
    scenario.assert_stored("copied", "1", &image);
}

/// A destination that fails gets its blobs beside the others, which takes a second read of each.
#[tokio::test]
async fn what_moves_twice_is_expected_twice() {
    const MIB: u64 = 1024 * 1024;
    let scenario = Scenario::start().await;
    let image = Image::single(&[1, 2, 3, 4, 5, 6].map(|seed| Blob::pseudorandom(seed, MIB)));
    scenario.push(REPOSITORY, "1", &image);
    scenario.ecr.create_repository("dr/api");
    let server = &scenario.ecr.server;
    server.fault("PUT", "/v2/dr/api/blobs/", 2, Fault::html(503));
    let tags = ["/v2/prod/api/manifests/1", "/v2/dr/api/manifests/1"];
    for tag in tags {
        server.fault("PUT", tag, 1, Fault::Hold);
    }
    let rules = r#"[{"source":"acme/*","destination":["prod/{name}","dr/{name}"]}]"#;
    let settings = [("RULES", rules), ("BLOB_CONCURRENCY", "2")];
    let mut terminal = Terminal::start_with(&scenario, &["copy", SOURCE], &settings);
    let is_complete = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("total, "));
        let figures = line.and_then(|line| line.split_once("] "));
        let Some((_, figures)) = figures else {
            return false;
        };
        let words: Vec<&str> = figures.split_whitespace().collect();
        let [moved, "MiB", "of", expected, "MiB", ..] = words.as_slice() else {
            return false;
        };
        let number = |word: &str| word.parse::<f64>().expect("a number");
        let (moved, expected) = (number(moved), number(expected));
        assert!(moved <= expected, "{text}");
        moved == expected && tags.iter().all(|tag| server.count("PUT", tag) == 1)
    };
    terminal.shows(is_complete).await;
    server.release();
    let (text, status) = terminal.ends().await;
    assert_eq!(status, Some(0), "{text}");
}

/// What it can't know it does not claim.
#[tokio::test]
async fn ctrl_c_after_the_tag_was_written_does_not_say_that_it_was_not() {
    let scenario = Scenario::with_image("1").await;
    let server = &scenario.ecr.server;
    server.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let mut terminal = Terminal::start(&scenario, &["copy", SOURCE, "prod/api"]);
    server.wait_for("PUT", "/manifests/1").await;
    server.clear_requests();
    server.release();
    server.fault("*", "/manifests/1", 1, Fault::Hold);
    server.wait_for("*", "/manifests/1").await;
    terminal.pty.write_all(b"\x03").await.expect("a key");
    let (text, status) = terminal.ends().await;
    assert_eq!(status, Some(130), "{text}");
    scenario.assert_stored("written", "1", &small_image());
    assert!(text.replace('\n', " ").contains("unless"), "{text}");
}

#[tokio::test]
async fn ctrl_c_leaves_the_tag_and_says_what_is_kept() {
    let scenario = Scenario::with_image("1").await;
    let server = &scenario.ecr.server;
    server.fault("PUT", "/manifests/1", 1, Fault::Hold);
    let mut terminal = Terminal::start(&scenario, &["copy", SOURCE, "prod/api"]);
    server.wait_for("PUT", "/manifests/1").await;
    terminal.pty.write_all(b"\x03").await.expect("a key");
    let (text, status) = terminal.ends().await;
    assert_eq!(status, Some(130), "{text}");
    let blobs = small_image().blobs.len();
    assert!(text.contains(&format!("kept: {blobs} blobs")), "{text}");
    assert!(text.contains("interrupted: "), "{text}");
    assert!(!text.contains("copied "), "{text}");
    scenario.assert_untouched("interrupted", "1");

    server.clear_faults();
    let (text, status) = Terminal::start(&scenario, &["copy", SOURCE, "prod/api"])
        .ends()
        .await;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("0 blobs sent"), "{text}");
    scenario.assert_stored("resumed", "1", &small_image());
}
