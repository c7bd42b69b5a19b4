//! The cases, each with what it should come to.

mod network;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use support::deployment::{Deployment, WEBHOOK_SECRET, image_requests};
use support::image::{Blob, Image, ImageBuilder, OCI_LAYER_GZIP};
use support::webhook;

use crate::bench::{Bench, Large, NETWORK, Work, large_layers};
use crate::command::Usage;
use crate::contender::{self, FUNCTION, SKOPEO};
use crate::results::{Outcome, Sample, Target, median};
use crate::stage::{Setting, Stage, Traffic};

const BOTH: [&str; 2] = [FUNCTION, SKOPEO];

/// Cheap enough for more of them than there are rounds.
const COLD_STARTS: usize = 25;

/// Of the repository in a scheduled run.
const TAGS: usize = 1000;

/// Name, and what is measured.
pub const CASES: [(&str, &str); 12] = [
    (
        "a",
        "1 GiB in nine layers, plain HTTP on the loopback interface",
    ),
    ("b", "The same over TLS"),
    (
        "c",
        "The same over a network: round trips of 40 ms to the source and 20 ms to the destination, 2 MiB in flight per connection",
    ),
    (
        "c2",
        "The same with uploads of at most 26 MB/s per connection",
    ),
    (
        "d",
        "40 small images in one repository, over the network of c",
    ),
    ("e", "One layer of 5 MB has changed in the 1 GiB image"),
    ("f", "Up to date, over the network of c"),
    (
        "g",
        "1,000 tags that are up to date, on the loopback interface",
    ),
    ("h", "Memory for 10 GiB"),
    ("i", "Cold start and size"),
    (
        "j",
        "The 1 GiB image to three destinations, on the loopback interface and over the network of c2",
    ),
    (
        "picture",
        "Where the time goes: three layers over the network of c",
    ),
];

/// Runs one of [`CASES`].
pub async fn run(bench: &Bench, name: &str) -> Outcome {
    match name {
        "a" => plain(bench).await,
        "b" => tls(bench).await,
        "c" => network::large(bench, NETWORK).await,
        "c2" => network::large(bench, network::capped()).await,
        "d" => network::many(bench).await,
        "e" => network::changed(bench).await,
        "f" => network::current(bench).await,
        "g" => reconcile(bench).await,
        "h" => memory(bench).await,
        "i" => cold_start(bench).await,
        "j" => network::destinations(bench).await,
        "picture" => network::picture(bench).await,
        _ => panic!("there is no case {name:?}"),
    }
}

fn loopback(bench: &Large) -> Setting<'_> {
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

fn skopeo_sync() -> Vec<String> {
    let words = [
        "sync",
        "--all",
        "--preserve-digests",
        "--src",
        "docker",
        "--dest",
        "docker",
    ];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.extend(["SOURCE/acme/many".to_owned(), "DESTINATION/prod".to_owned()]);
    words
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
        Target::new("peak memory", median(&memory), 32.0, " MiB"),
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

/// Memory alone, between servers that make the source's blobs while they send them and keep none of the destination's.
async fn memory(bench: &Bench) -> Outcome {
    let mut outcome = Outcome::default();
    for (variant, times, rounds) in [("1 GiB", 1, bench.rounds), ("10 GiB", 10, 3)] {
        let image = Image::single(&large_layers(times));
        for _ in 0..rounds {
            let deployment = Deployment::start(&bench.binary).await;
            deployment.push("acme/api", "1", &image);
            let event = json!({"source": "ghcr.io/acme/api:1"});
            let usage = contender::invoke(&deployment.function, &event, "copied").await;
            let stored = deployment.ecr.repository("prod/api").tags;
            assert_eq!(stored.get("1"), Some(&image.top));
            let uploads = deployment.ecr.uploads();
            outcome.samples.push(Sample {
                contender: FUNCTION,
                variant,
                usage,
                source: Traffic {
                    requests: image_requests(&deployment.ghcr.server).len()
                        + deployment.ghcr.storage.requests().len(),
                    bytes: image.blob_bytes(),
                    ..Traffic::default()
                },
                destination: Traffic {
                    requests: image_requests(&deployment.ecr.server).len(),
                    bytes: uploads.iter().map(|upload| upload.received_bytes).sum(),
                    ..Traffic::default()
                },
            });
        }
    }
    let peak = |variant| median(&outcome.figures(variant, FUNCTION, Outcome::memory));
    let ratio = peak("10 GiB") / peak("1 GiB");
    outcome.targets = vec![Target::new("10 GiB's memory over 1 GiB's", ratio, 1.1, "")];
    outcome.notes = vec![
        "Between the tests' own strict servers, as 10 GiB at both ends would not fit; three rounds of 10 GiB.".to_owned(),
    ];
    outcome
}

/// A scheduled run over a thousand tags, each with a manifest of its own, of which none has changed.
async fn reconcile(bench: &Bench) -> Outcome {
    let (source, destination) = (bench.storage(), bench.storage());
    for number in 1..=TAGS {
        let image = ImageBuilder::oci()
            .layer(OCI_LAYER_GZIP, Blob::pseudorandom(1, 10_000))
            .annotation("number", &number.to_string())
            .build();
        source.put_image("acme/many", &number.to_string(), &image);
        destination.put_image("prod/many", &number.to_string(), &image);
    }
    let setting = Setting {
        source: &source,
        network: None,
        certificates: None,
    };
    let work = Work {
        event: json!({"reconcile": ["acme/many"]}),
        outcome: "current",
        skopeo: skopeo_sync(),
        tags: Vec::new(),
    };
    let mut outcome = Outcome::default();
    for contender in [FUNCTION, SKOPEO] {
        let rounds = if contender == FUNCTION {
            bench.rounds
        } else {
            1
        };
        for _ in 0..rounds {
            let look = |_: &Stage| {};
            let sample = bench.measure(contender, &setting, Some(&destination), &work, look);
            outcome.samples.push(sample.await);
        }
    }
    outcome.notes = vec!["skopeo sync of the repository, one round.".to_owned()];
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
            usage: Usage {
                wall,
                cpu: function.cpu_time(),
                peak_memory_bytes: function.peak_memory_bytes(),
            },
            source: Traffic::default(),
            destination: Traffic::default(),
        });
        function.kill().await;
    }
    let binary = std::fs::read(&bench.binary).expect("read the binary");
    let milliseconds = 1000.0 * median(&outcome.figures("", FUNCTION, Outcome::wall));
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
