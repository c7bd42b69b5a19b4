//! A demonstration: the real function copies an image of realistic size between local servers.
//!
//! ```text
//! cargo build --workspace --bin bootstrap --bin demo
//! target/debug/demo target/debug/bootstrap
//! ```
//!
//! It sends three deliveries: one for a pushed image, the same again, and one with a forged signature.
//! It checks the result of each, and ends with an error if one is not as expected. The deliveries are
//! files in `events/`, signed with [`WEBHOOK_SECRET`]; `demo --write-events` writes them again when
//! the image below has changed.

use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::deployment::{Deployment, WEBHOOK_SECRET, image_requests};
use support::function::Outcome;
use support::image::{Blob, Image};
use support::webhook::{api_gateway_v2, package_event};

const SOURCE: &str = "ghcr.io/acme/api:1.2.3";
const REPOSITORY: &str = "prod/api";
const TAG: &str = "1.2.3";
const MEBIBYTE: u64 = 1024 * 1024;

const PUSHED: &str = "package-published.apigw.json";
const FORGED: &str = "bad-signature.apigw.json";
const DIRECT: &str = "direct.json";

/// A copy that takes longer counts as hung.
const DEADLINE: Duration = Duration::from_secs(300);

/// The width of the text, in columns.
const WIDTH: usize = 80;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [flag] if flag == "--write-events" => write_events(),
        [binary] if !binary.starts_with('-') => run(Path::new(binary)).await,
        _ => Err("usage: demo <the function's binary, such as target/release/bootstrap>".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("\nFAILED: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn run(binary: &Path) -> Result<(), String> {
    if !binary.is_file() {
        let path = binary.display();
        return Err(format!(
            "{path} does not exist; `cargo build --release` builds it"
        ));
    }
    let image = image();
    let deployment = Deployment::start(binary).await;
    deployment.push("acme/api", TAG, &image);

    let (size, manifests) = (mebibytes(image.blob_bytes()), image.manifests.len());
    println!("The real function, with local servers instead of GHCR, ECR and AWS\n");
    line("image", SOURCE);
    line(
        "holds",
        "linux/amd64 and linux/arm64, each with its attestation",
    );
    line(
        "size",
        &format!(
            "{size} in {} blobs, {manifests} manifests",
            image.blobs.len()
        ),
    );
    line("destination", &format!("{REPOSITORY}:{TAG}"));

    match scenes(&deployment, &image).await {
        Ok(()) => println!("\nAll three ended as expected."),
        Err(reason) => {
            return Err(format!(
                "{reason}\n\nThe function's log:\n{}",
                deployment.function.log()
            ));
        }
    }
    Ok(())
}

async fn scenes(deployment: &Deployment, image: &Image) -> Result<(), String> {
    copied(deployment, image).await?;
    current(deployment, image).await?;
    denied(deployment, image).await
}

/// The push: the whole image is copied, and both registries have the same digest.
async fn copied(deployment: &Deployment, image: &Image) -> Result<(), String> {
    heading("1. An image was pushed", PUSHED);
    let cpu_time = deployment.function.cpu_time();
    let answer = deliver(deployment, PUSHED, image, image.blob_bytes()).await?;
    let cpu_time = deployment.function.cpu_time() - cpu_time;
    let repository = deployment.ecr.repository(REPOSITORY);
    let arrived = repository
        .tags
        .get(TAG)
        .map_or("no such tag", String::as_str);
    let tag_writes = deployment.ecr.tag_writes();
    let incomplete = tag_writes
        .iter()
        .filter(|write| !write.missing.is_empty())
        .count();
    check(
        json!({
            "status": answer.status,
            "outcome": answer.report["outcome"],
            "digest in the report": answer.report["digest"],
            "digest in ECR": arrived,
            "missing in ECR": repository.missing_from(arrived),
            "tags written too early": incomplete,
            "tags written": tag_writes.len(),
            "bytes in the report": answer.report["bytes"]["copied"],
            "bytes that reached ECR": answer.received_bytes,
            "requests in the report": answer.report["requests"],
            "warnings": answer.report["warnings"],
        }),
        json!({
            "status": 200,
            "outcome": "copied",
            "digest in the report": image.top,
            "digest in ECR": image.top,
            "missing in ECR": [],
            "tags written too early": 0,
            "tags written": 1,
            "bytes in the report": image.blob_bytes(),
            "bytes that reached ECR": image.blob_bytes(),
            "requests in the report": answer.requests(),
            "warnings": [],
        }),
    )?;

    let seconds = answer.took.as_secs_f64();
    let rate = mebibytes((answer.received_bytes as f64 / seconds) as u64);
    let size = mebibytes(answer.received_bytes);
    let (blobs, manifests) = (repository.blobs.len(), repository.manifests.len());
    let memory = mebibytes(deployment.function.peak_memory_bytes());
    let cpu_seconds = cpu_time.as_secs_f64();
    line(
        "reply",
        &format!("200 copied, in {seconds:.2} s ({rate}/s)"),
    );
    line(
        "moved",
        &format!("{size} in {blobs} blobs, then {manifests} manifests, the tag last"),
    );
    line("requests", &answer.requests_text());
    line(
        "function",
        &format!("{memory} of memory at its peak, {cpu_seconds:.2} s of processor time"),
    );
    println!("\n  GHCR  {}\n  ECR   {arrived}", image.top);
    Ok(())
}

/// The same delivery again: two requests show that there is nothing to do.
async fn current(deployment: &Deployment, image: &Image) -> Result<(), String> {
    heading("2. The same delivery again", PUSHED);
    let answer = deliver(deployment, PUSHED, image, 0).await?;
    check(
        json!({
            "status": answer.status,
            "outcome": answer.report["outcome"],
            "digest in the report": answer.report["digest"],
            "bytes that reached ECR": answer.received_bytes,
            "requests": answer.requests(),
            "requests in the report": answer.report["requests"],
        }),
        json!({
            "status": 200,
            "outcome": "current",
            "digest in the report": image.top,
            "bytes that reached ECR": 0,
            "requests": {"source": 1, "destination": 1},
            "requests in the report": {"source": 1, "destination": 1},
        }),
    )?;
    line(
        "reply",
        &format!(
            "200 current, in {:.0} ms",
            answer.took.as_secs_f64() * 1000.0
        ),
    );
    line("moved", "nothing");
    line("requests", &answer.requests_text());
    Ok(())
}

/// A forged signature: refused before any request to a registry.
async fn denied(deployment: &Deployment, image: &Image) -> Result<(), String> {
    heading("3. A delivery with a forged signature", FORGED);
    let answer = deliver(deployment, FORGED, image, 0).await?;
    check(
        json!({
            "status": answer.status,
            "kind of the error": answer.report["error_kind"],
            "requests": answer.requests(),
        }),
        json!({
            "status": 401,
            "kind of the error": "Denied",
            "requests": {"source": 0, "destination": 0},
        }),
    )?;
    line(
        "reply",
        &format!(
            "401 {}",
            answer.report["error"].as_str().unwrap_or_default()
        ),
    );
    line("requests", &answer.requests_text());
    Ok(())
}

/// The result of a delivery: the reply, and the requests that reached the servers.
struct Answer {
    status: Value,
    report: Value,
    took: Duration,
    /// Bytes of blobs.
    received_bytes: u64,
    ghcr: usize,
    storage: usize,
    ecr: usize,
}

impl Answer {
    /// The requests that reached the servers, as a report counts them.
    fn requests(&self) -> Value {
        json!({"source": self.ghcr + self.storage, "destination": self.ecr})
    }

    fn requests_text(&self) -> String {
        let Answer {
            ghcr, storage, ecr, ..
        } = self;
        match (ghcr, storage, ecr) {
            (0, 0, 0) => "none to either registry".to_owned(),
            (_, 0, _) => format!("{ghcr} to GHCR, {ecr} to ECR, authorization aside"),
            _ => format!(
                "{ghcr} to GHCR, {storage} to its storage, {ecr} to ECR, authorization aside"
            ),
        }
    }
}

/// Sends a delivery and shows how much of `expected_bytes` has reached ECR while it runs.
async fn deliver(
    deployment: &Deployment,
    file: &str,
    image: &Image,
    expected_bytes: u64,
) -> Result<Answer, String> {
    let event = read_event(file, image)?;
    deployment.clear_requests();
    let before = blob_bytes_received(deployment);
    let started = Instant::now();

    let mut progress = Progress::new(expected_bytes);
    let mut ticks = tokio::time::interval(Duration::from_millis(40));
    let invocation = deployment.function.invoke_with_deadline(&event, DEADLINE);
    tokio::pin!(invocation);
    let outcome = loop {
        tokio::select! {
            outcome = &mut invocation => break outcome,
            _ = ticks.tick() => progress.show(blob_bytes_received(deployment) - before),
        }
    };
    let took = started.elapsed();
    let received_bytes = blob_bytes_received(deployment) - before;
    progress.finish(received_bytes);

    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Error {
            error_type,
            message,
        } => return Err(format!("{error_type}: {message}")),
        Outcome::Exited { status, .. } => return Err(format!("the function ended: {status}")),
        Outcome::TimedOut { .. } => return Err(format!("no answer within {DEADLINE:?}")),
    };
    let body = reply["body"].as_str().unwrap_or_default();
    let report = serde_json::from_str(body);
    Ok(Answer {
        status: reply["statusCode"].clone(),
        report: report.map_err(|error| format!("the body of {reply} is no JSON: {error}"))?,
        took,
        received_bytes,
        ghcr: image_requests(&deployment.ghcr.server).len(),
        storage: deployment.ghcr.storage.requests().len(),
        ecr: image_requests(&deployment.ecr.server).len(),
    })
}

fn blob_bytes_received(deployment: &Deployment) -> u64 {
    deployment
        .ecr
        .uploads()
        .iter()
        .map(|upload| upload.received_bytes)
        .sum()
}

/// Fails with a list of the fields that are not as expected.
fn check(found: Value, expected: Value) -> Result<(), String> {
    let wrong: Vec<String> = expected
        .as_object()
        .expect("an object of expectations")
        .iter()
        .filter(|(name, value)| found[*name] != **value)
        .map(|(name, value)| format!("{name}: {} instead of {value}", found[name]))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n        "))
    }
}

/// On a terminal a bar that is redrawn, elsewhere a line for each quarter.
struct Progress {
    expected_bytes: u64,
    terminal: bool,
    quarters: u64,
}

impl Progress {
    fn new(expected_bytes: u64) -> Progress {
        Progress {
            expected_bytes,
            terminal: stdout().is_terminal(),
            quarters: 0,
        }
    }

    fn show(&mut self, received: u64) {
        const CELLS: u64 = 48;
        let Progress {
            expected_bytes: expected,
            terminal,
            quarters,
        } = *self;
        if expected == 0 {
            return;
        }
        let amounts = format!("{:>9} of {}", mebibytes(received), mebibytes(expected));
        if terminal {
            let filled = (CELLS * received / expected).min(CELLS);
            let bar = "█".repeat(filled as usize) + &"░".repeat((CELLS - filled) as usize);
            print!("\r  {bar}  {amounts}");
            // If progress can't be shown, the demonstration goes on.
            let _ = stdout().flush();
        } else if received * 4 / expected > quarters {
            self.quarters = received * 4 / expected;
            println!("  {amounts}");
        }
    }

    fn finish(&mut self, received: u64) {
        self.show(received);
        if self.expected_bytes > 0 {
            println!("{}", if self.terminal { "\n" } else { "" });
        }
    }
}

fn heading(title: &str, file: &str) {
    println!("\n{title}\n   events/{file}\n");
}

/// Prints a name and a text, wrapped between words.
fn line(name: &str, text: &str) {
    const INDENT: usize = 15;
    let mut used = INDENT;
    print!("  {name:<12}");
    for word in text.split(' ') {
        if used + 1 + word.chars().count() > WIDTH {
            print!("\n{:1$}", "", INDENT - 1);
            used = INDENT - 1;
        }
        print!(" {word}");
        used += 1 + word.chars().count();
    }
    println!();
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MEBIBYTE as f64)
}

/// The image that the demonstration copies. The event files contain its digest.
fn image() -> Image {
    let layers =
        |seed: u64| [48, 24, 8].map(|size| Blob::pseudorandom(seed + size, size * MEBIBYTE));
    Image::buildx(&[
        ("linux/amd64", &layers(1000)),
        ("linux/arm64", &layers(2000)),
    ])
}

fn events_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events")
}

fn read_event(file: &str, image: &Image) -> Result<Value, String> {
    let failed = |error: &dyn std::fmt::Display| format!("read events/{file}: {error}");
    let bytes = std::fs::read(events_folder().join(file)).map_err(|error| failed(&error))?;
    let event: Value = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    if event["body"]
        .as_str()
        .is_none_or(|body| !body.contains(&image.top))
    {
        return Err(format!(
            "events/{file} is for another image; `demo --write-events` writes it again"
        ));
    }
    Ok(event)
}

fn write_events() -> Result<(), String> {
    let body = package_event("Acme", "api", TAG, &image().top);
    let events = [
        (PUSHED, api_gateway_v2("package", &body, WEBHOOK_SECRET)),
        (FORGED, api_gateway_v2("package", &body, "a guess")),
        (DIRECT, json!({"source": SOURCE})),
    ];
    for (file, event) in events {
        std::fs::write(events_folder().join(file), format!("{event:#}\n"))
            .map_err(|error| format!("write events/{file}: {error}"))?;
        println!("events/{file}");
    }
    Ok(())
}
