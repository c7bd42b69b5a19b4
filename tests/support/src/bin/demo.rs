//! A demonstration that anybody can run: the real function copies a real-sized image between local servers.
//!
//! ```text
//! cargo run --release -p support --bin demo -- target/release/bootstrap
//! ```
//!
//! It sends three deliveries: one for a pushed image, the same again, and one that somebody else signed. What they should do is
//! checked, and anything else ends the demonstration with an error. The deliveries are files in `events/`, signed with
//! [`WEBHOOK_SECRET`]; `demo --write-events` writes them anew when the image in here changes.

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

/// The longest the copy may take before it counts as hung.
const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [flag] if flag == "--write-events" => write_events(),
        [binary] if !binary.starts_with('-') => run(Path::new(binary)).await,
        _ => Err(
            "usage: demo <path of the function's binary, such as target/release/bootstrap>"
                .to_owned(),
        ),
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
        return Err(format!(
            "{} is not there; `cargo build --release` makes it",
            binary.display()
        ));
    }
    let image = image();
    for file in [PUSHED, FORGED] {
        if !read_event(file)?["body"]
            .as_str()
            .unwrap_or_default()
            .contains(&image.top)
        {
            return Err(format!(
                "events/{file} names another digest than {}; `demo --write-events` puts it right",
                image.top
            ));
        }
    }
    let deployment = Deployment::start(binary).await;
    deployment.ghcr.put_image("acme/api", TAG, &image);

    println!("ghcr-to-ecr: the real function; GHCR, ECR and AWS are local servers\n");
    line("image", SOURCE);
    line(
        "holds",
        "linux/amd64 and linux/arm64, each with its attestation",
    );
    line(
        "size",
        &format!(
            "{} in {} blobs, {} manifests",
            mebibytes(image.blob_bytes()),
            image.blobs.len(),
            image.manifests.len()
        ),
    );
    line("destination", &format!("{REPOSITORY}:{TAG}"));

    copied(&deployment, &image)
        .await
        .map_err(|reason| with_log(reason, &deployment))?;
    current(&deployment, &image)
        .await
        .map_err(|reason| with_log(reason, &deployment))?;
    denied(&deployment)
        .await
        .map_err(|reason| with_log(reason, &deployment))?;

    println!("\nAll three ended as they should.");
    Ok(())
}

/// The push: everything moves, and both registries name the same digest.
async fn copied(deployment: &Deployment, image: &Image) -> Result<(), String> {
    heading("1. An image was pushed", PUSHED);
    let cpu_before = deployment.function.cpu_time();
    let answer = deliver(deployment, PUSHED, image.blob_bytes()).await?;
    let report = &answer.body;
    expect("the status", &answer.status, &json!(200))?;
    expect("the outcome", &report["outcome"], &json!("copied"))?;
    expect("the reported digest", &report["digest"], &json!(image.top))?;
    expect(
        "the reported bytes",
        &report["bytes"]["copied"],
        &json!(image.blob_bytes()),
    )?;
    let repository = deployment.ecr.repository(REPOSITORY);
    let arrived = repository.tags.get(TAG).ok_or("the tag is not in ECR")?;
    expect("the digest in ECR", &json!(arrived), &json!(image.top))?;
    expect(
        "what the tag lacks in ECR",
        &json!(repository.missing_from(arrived)),
        &json!([]),
    )?;
    for write in deployment.ecr.tag_writes() {
        expect(
            "what the tag lacked when it was written",
            &json!(write.missing),
            &json!([]),
        )?;
    }

    let rate = mebibytes((image.blob_bytes() as f64 / answer.took.as_secs_f64()) as u64);
    line(
        "reply",
        &format!(
            "200 copied, in {:.2} s ({rate}/s)",
            answer.took.as_secs_f64()
        ),
    );
    line(
        "moved",
        &format!(
            "{} in {} blobs, then {} manifests, the tag last",
            mebibytes(answer.received),
            repository.blobs.len(),
            repository.manifests.len()
        ),
    );
    line("requests", &answer.requests());
    let cpu = deployment.function.cpu_time() - cpu_before;
    let memory = mebibytes(deployment.function.peak_memory_bytes());
    line(
        "function",
        &format!(
            "{memory} of memory at most, {:.2} s of processor time",
            cpu.as_secs_f64()
        ),
    );
    println!("\n  GHCR  {}\n  ECR   {arrived}", image.top);
    Ok(())
}

/// The same delivery again: two requests tell that there is nothing to do.
async fn current(deployment: &Deployment, image: &Image) -> Result<(), String> {
    heading("2. The same delivery again", PUSHED);
    let answer = deliver(deployment, PUSHED, 0).await?;
    expect("the status", &answer.status, &json!(200))?;
    expect("the outcome", &answer.body["outcome"], &json!("current"))?;
    expect(
        "the reported digest",
        &answer.body["digest"],
        &json!(image.top),
    )?;
    expect("the bytes moved", &json!(answer.received), &json!(0))?;
    expect(
        "the requests to GHCR, its storage and ECR",
        &answer.counts(),
        &json!([1, 0, 1]),
    )?;
    line(
        "reply",
        &format!("200 current, in {:.3} s", answer.took.as_secs_f64()),
    );
    line("moved", "nothing");
    line("requests", &answer.requests());
    Ok(())
}

/// Somebody else's signature: refused before any registry is asked anything.
async fn denied(deployment: &Deployment) -> Result<(), String> {
    heading("3. A delivery that somebody else signed", FORGED);
    let answer = deliver(deployment, FORGED, 0).await?;
    expect("the status", &answer.status, &json!(401))?;
    expect(
        "the kind of the error",
        &answer.body["error_kind"],
        &json!("Denied"),
    )?;
    expect(
        "the requests to GHCR, its storage and ECR",
        &answer.counts(),
        &json!([0, 0, 0]),
    )?;
    line(
        "reply",
        &format!("401 {}", answer.body["error"].as_str().unwrap_or_default()),
    );
    line("requests", &answer.requests());
    Ok(())
}

/// What came of a delivery: the reply, and what the servers saw of it.
struct Answer {
    status: Value,
    body: Value,
    took: Duration,
    /// Bytes of blobs that reached ECR.
    received: u64,
    ghcr: usize,
    storage: usize,
    ecr: usize,
}

impl Answer {
    fn counts(&self) -> Value {
        json!([self.ghcr, self.storage, self.ecr])
    }

    /// The requests as a report counts them.
    fn reported_requests(&self) -> Value {
        json!({"source": self.ghcr + self.storage, "destination": self.ecr})
    }

    fn requests(&self) -> String {
        match (self.ghcr, self.storage, self.ecr) {
            (0, 0, 0) => "none to GHCR, none to ECR".to_owned(),
            (ghcr, 0, ecr) => format!("{ghcr} to GHCR, {ecr} to ECR, authorization aside"),
            (ghcr, storage, ecr) => {
                format!(
                    "{ghcr} to GHCR, {storage} to its storage, {ecr} to ECR, authorization aside"
                )
            }
        }
    }
}

/// Sends a delivery and shows how much of `expected` bytes has reached ECR while it runs.
async fn deliver(deployment: &Deployment, file: &str, expected: u64) -> Result<Answer, String> {
    let event = read_event(file)?;
    deployment.clear_requests();
    let received_before = blob_bytes_received(deployment);
    let started = Instant::now();

    let mut progress = Progress::new(expected);
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let invocation = deployment.function.invoke_with_deadline(&event, DEADLINE);
    tokio::pin!(invocation);
    let outcome = loop {
        tokio::select! {
            outcome = &mut invocation => break outcome,
            _ = ticks.tick() => progress.show(blob_bytes_received(deployment) - received_before),
        }
    };
    let took = started.elapsed();
    let received = blob_bytes_received(deployment) - received_before;
    progress.finish(received);

    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Error {
            error_type,
            message,
        } => return Err(format!("the function failed with {error_type}: {message}")),
        Outcome::Exited { status, .. } => return Err(format!("the function ended: {status}")),
        Outcome::TimedOut { .. } => {
            return Err(format!("no answer within {} s", DEADLINE.as_secs()));
        }
    };
    let body = reply["body"]
        .as_str()
        .ok_or_else(|| format!("the reply has no body: {reply}"))?;
    Ok(Answer {
        status: reply["statusCode"].clone(),
        body: serde_json::from_str(body)
            .map_err(|error| format!("the reply's body is no JSON ({error}): {body}"))?,
        took,
        received,
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

/// A bar that is redrawn on a terminal, and a line for each quarter elsewhere.
struct Progress {
    expected: u64,
    terminal: bool,
    quarters: u64,
}

impl Progress {
    fn new(expected: u64) -> Progress {
        Progress {
            expected,
            terminal: stdout().is_terminal(),
            quarters: 0,
        }
    }

    fn show(&mut self, received: u64) {
        const WIDTH: u64 = 44;
        if self.expected == 0 {
            return;
        }
        let amounts = format!("{:>9} of {}", mebibytes(received), mebibytes(self.expected));
        if self.terminal {
            let filled = (WIDTH * received / self.expected).min(WIDTH);
            let bar = "█".repeat(filled as usize) + &"░".repeat((WIDTH - filled) as usize);
            print!("\r  {bar} {amounts} ");
            stdout().flush().expect("write to the terminal");
        } else if received * 4 / self.expected > self.quarters {
            self.quarters = received * 4 / self.expected;
            println!("  {amounts}");
        }
    }

    fn finish(&mut self, received: u64) {
        self.show(received);
        if self.expected > 0 {
            println!("{}", if self.terminal { "\n" } else { "" });
        }
    }
}

fn heading(title: &str, file: &str) {
    println!("\n{title}  (events/{file})\n");
}

fn line(name: &str, text: &str) {
    println!("  {name:<12} {text}");
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MEBIBYTE as f64)
}

fn expect(what: &str, found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} should be {expected}, but is {found}"))
}

fn with_log(reason: String, deployment: &Deployment) -> String {
    format!(
        "{reason}\n\nThe function's log:\n{}",
        deployment.function.log()
    )
}

/// The image that the demonstration copies. Its digest stands in the event files.
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

fn read_event(file: &str) -> Result<Value, String> {
    let event = std::fs::read(events_folder().join(file))
        .map_err(|error| format!("read events/{file}: {error}"))?;
    serde_json::from_slice(&event).map_err(|error| format!("read events/{file}: {error}"))
}

fn write_events() -> Result<(), String> {
    let body = package_event("Acme", "api", TAG, &image().top);
    let events = [
        (PUSHED, api_gateway_v2("package", &body, WEBHOOK_SECRET)),
        (FORGED, api_gateway_v2("package", &body, "a guess")),
        (DIRECT, json!({"source": SOURCE})),
    ];
    for (file, event) in events {
        let text = format!("{event:#}\n");
        std::fs::write(events_folder().join(file), text)
            .map_err(|error| format!("write events/{file}: {error}"))?;
        println!("events/{file}");
    }
    Ok(())
}
