//! The cases, each with what it should come to.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use support::deployment::WEBHOOK_SECRET;
use support::image::{Blob, Image};
use support::webhook;

use crate::bench::{Bench, NETWORK, Work, large_layers};
use crate::contender::{self, FUNCTION, SKOPEO};
use crate::results::{Outcome, Sample, Target};
use crate::stage::{Network, Setting};

const BOTH: [&str; 2] = [FUNCTION, SKOPEO];

/// Colder than any figure needs: the median of these.
const COLD_STARTS: usize = 25;

/// Name, and what is measured.
pub const CASES: [(&str, &str); 4] = [
    (
        "a",
        "1 GiB in nine layers, plain HTTP on the loopback interface",
    ),
    ("b", "The same over TLS"),
    ("f", "Up to date, over a network"),
    ("i", "Cold start and size"),
];

/// Runs one of [`CASES`].
pub async fn run(bench: &Bench, name: &str) -> Outcome {
    match name {
        "a" => plain(bench).await,
        "b" => tls(bench).await,
        "f" => current(bench).await,
        "i" => cold_start(bench).await,
        _ => panic!("there is no case {name:?}"),
    }
}

fn loopback(bench: &crate::bench::Large) -> Setting<'_> {
    Setting {
        source: &bench.storage,
        network: None,
        certificates: None,
    }
}

/// The copy of `acme/api:1` to `prod/api:1`.
fn copy(image: &Image, outcome: &'static str) -> Work {
    Work {
        event: json!({"source": "ghcr.io/acme/api:1"}),
        outcome,
        skopeo: skopeo_copy("acme/api:1", "prod/api:1"),
        tags: vec![("prod/api", "1".to_owned(), image.top.clone())],
    }
}

fn skopeo_copy(source: &str, destination: &str) -> Vec<String> {
    vec![
        "copy".to_owned(),
        "--all".to_owned(),
        "--preserve-digests".to_owned(),
        format!("docker://SOURCE/{source}"),
        format!("docker://DESTINATION/{destination}"),
    ]
}

/// Function, skopeo and curl in turns.
async fn with_floor(bench: &Bench, setting: &Setting<'_>, image: &Image) -> Vec<Sample> {
    let mut samples = Vec::new();
    for _ in 0..bench.rounds {
        samples.extend(
            bench
                .compare("", setting, None, 1, |_, _| copy(image, "copied"))
                .await,
        );
        samples.extend(bench.floor(setting, image).await);
    }
    samples
}

async fn plain(bench: &Bench) -> Outcome {
    let large = bench.large().await;
    let mut outcome = Outcome {
        samples: with_floor(bench, &loopback(large), &large.image).await,
        ..Outcome::default()
    };
    let memory = outcome.figures("", FUNCTION, Outcome::memory);
    outcome.targets = vec![
        Target::new(
            "wall over skopeo's",
            outcome.ratio("", BOTH, Outcome::wall),
            0.7,
            "",
        ),
        Target::new(
            "processor over skopeo's",
            outcome.ratio("", BOTH, Outcome::cpu),
            0.2,
            "",
        ),
        Target::new("peak memory", crate::results::median(&memory), 32.0, " MiB"),
    ];
    outcome
}

async fn tls(bench: &Bench) -> Outcome {
    let large = bench.large().await;
    let setting = Setting {
        certificates: Some(&bench.certificates),
        ..loopback(large)
    };
    let mut outcome = Outcome {
        samples: with_floor(bench, &setting, &large.image).await,
        ..Outcome::default()
    };
    let processor = outcome.ratio("", BOTH, Outcome::cpu);
    outcome.targets = vec![Target::new("processor over skopeo's", processor, 0.45, "")];
    outcome
}

async fn current(bench: &Bench) -> Outcome {
    let large = bench.large().await;
    let destination = bench.storage();
    destination.put_image("prod/api", "1", &large.image);
    let setting = Setting {
        network: Some(NETWORK),
        ..loopback(large)
    };
    let work = |_, _| copy(&large.image, "current");
    let samples = bench
        .compare("", &setting, Some(&destination), bench.rounds, work)
        .await;
    let mut outcome = Outcome {
        samples,
        ..Outcome::default()
    };
    let requests = outcome.figures("", FUNCTION, |sample| {
        (sample.source.requests + sample.destination.requests) as f64
    });
    let most = requests.into_iter().fold(0.0, f64::max);
    outcome.targets = vec![Target::new("requests, authorization aside", most, 2.0, "")];
    outcome
}

/// From the start of the process to its reply to a delivery that it verifies and ignores.
async fn cold_start(bench: &Bench) -> Outcome {
    let body = webhook::package_event("acme", "api", "1", &support::image::digest(b""));
    let mut body: Value = serde_json::from_str(&body).expect("a payload");
    body["action"] = "deleted".into();
    let event = webhook::api_gateway_v2("package", &body.to_string(), WEBHOOK_SECRET);
    let mut outcome = Outcome::default();
    for _ in 0..COLD_STARTS.max(bench.rounds) {
        let nowhere = "http://127.0.0.1:1";
        let begin = Instant::now();
        let function = contender::start(&bench.binary, &bench.aws, nowhere, nowhere, None).await;
        let reply = function.invoke(&event).await;
        let wall = begin.elapsed();
        let reply = reply.reply();
        let report = reply["body"].as_str().unwrap_or_default();
        assert!(
            reply["statusCode"] == 200 && report.contains("ignored"),
            "{reply}\n{}",
            function.log()
        );
        outcome.samples.push(Sample {
            contender: FUNCTION,
            variant: "",
            usage: crate::command::Usage {
                wall,
                cpu: function.cpu_time(),
                peak_memory_bytes: function.peak_memory_bytes(),
            },
            source: Default::default(),
            destination: Default::default(),
        });
        function.kill().await;
    }
    let binary = std::fs::read(&bench.binary).expect("read the binary");
    let milliseconds =
        1000.0 * crate::results::median(&outcome.figures("", FUNCTION, Outcome::wall));
    let megabytes = deflated(&binary) as f64 / 1e6;
    outcome.notes = vec![format!(
        "{COLD_STARTS} starts. The binary has {:.2} MB; {megabytes:.2} MB with deflate, as in a zip (`gzip -9`).",
        binary.len() as f64 / 1e6
    )];
    outcome.targets = vec![
        Target::new("process start to reply", milliseconds, 50.0, " ms"),
        Target::new("compressed", megabytes, 8.0, " MB"),
    ];
    outcome
}

/// Bytes that are left of `bytes` in a zip: deflate at its best.
fn deflated(bytes: &[u8]) -> usize {
    let mut gzip = Command::new("gzip")
        .args(["-9", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start gzip");
    let mut input = gzip.stdin.take().expect("gzip's standard input");
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).expect("write to gzip"));
        let output = gzip.wait_with_output().expect("read from gzip");
        assert!(output.status.success());
        output.stdout.len()
    })
}
