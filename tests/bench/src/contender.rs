//! Who is measured: the function, skopeo, and curl for the floor.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use support::aws::{Aws, in_twelve_hours};
use support::deployment::WEBHOOK_SECRET;
use support::ecr::Ecr;
use support::function::Function;

use crate::certificates::Certificates;
use crate::command::{self, Usage};
use crate::stage::Stage;

/// The names in the tables.
pub const FUNCTION: &str = "ghcr-to-ecr";
pub const SKOPEO: &str = "skopeo";
pub const CURL_GET: &str = "curl GET";
pub const CURL_PUT: &str = "curl PUT";

/// No globs, so that GitHub is never asked for a list of packages.
const RULES: &str = r#"[{"source":"acme/api","destination":"prod/api"},{"source":"acme/many","destination":"prod/many"}]"#;

/// No copy here takes as long; Lambda allows no more.
const DEADLINE: Duration = Duration::from_secs(900);

/// Blobs that curl moves at once: as many as skopeo and the function do.
const CONCURRENCY: usize = 6;

/// AWS as the function needs it here: the webhook's secret, and a credential for the destination.
pub async fn aws() -> Aws {
    let aws = Aws::start().await;
    aws.put_secret("webhook-secret", WEBHOOK_SECRET);
    aws.authorize(Ecr::PASSWORD, "http://127.0.0.1:1", in_twelve_hours());
    aws
}

/// Starts the function between two registries.
pub async fn start(
    binary: &Path,
    aws: &Aws,
    source: &str,
    destination: &str,
    certificates: Option<&Certificates>,
) -> Function {
    let aws = aws.server.url();
    let authority = certificates.map(|files| files.authority.display().to_string());
    let mut environment = vec![
        ("RULES", RULES),
        ("WEBHOOK_SECRET_ID", "webhook-secret"),
        ("SOURCE_REGISTRY", source),
        ("DESTINATION_REGISTRY", destination),
        ("AWS_ENDPOINT_URL", aws.as_str()),
    ];
    environment.extend(authority.as_deref().map(|file| ("SSL_CERT_FILE", file)));
    Function::start(binary, &environment).await
}

/// One invocation of a new process that has started and waits: wall from the event to the reply, processor time in between, and
/// the peak of the process's memory. Panics unless the outcome is `outcome`.
pub async fn function(
    binary: &Path,
    aws: &Aws,
    stage: &Stage,
    certificates: Option<&Certificates>,
    event: &Value,
    outcome: &str,
) -> Usage {
    let (source, destination) = (stage.source.url(), stage.destination.url());
    let function = start(binary, aws, &source, &destination, certificates).await;
    assert!(function.ready().await, "{}", function.log());
    let usage = invoke(&function, event, outcome).await;
    function.kill().await;
    usage
}

/// One invocation of a running function, otherwise as [`function()`].
pub async fn invoke(function: &Function, event: &Value, outcome: &str) -> Usage {
    let cpu = function.cpu_time();
    let begin = Instant::now();
    let reply = function.invoke_with_deadline(event, DEADLINE).await;
    let wall = begin.elapsed();
    let reply = reply.reply();
    assert_eq!(reply["outcome"], outcome, "{reply}\n{}", function.log());
    Usage {
        wall,
        cpu: function.cpu_time() - cpu,
        peak_memory_bytes: function.peak_memory_bytes(),
    }
}

/// Between the arguments of two runs of skopeo, one after the other.
pub const AND_THEN: &str = ";";

/// One run of skopeo, or several, in whose `arguments` SOURCE and DESTINATION stand for the registries' hosts. They know nothing of
/// earlier runs:
/// its cache of where blobs are is in a new directory, which `_CONTAINERS_ROOTLESS_UID` makes it use even as root
/// (containers/image, `pkg/blobinfocache/default.go`).
pub async fn skopeo(
    scratch: &Path,
    stage: &Stage,
    certificates: Option<&Certificates>,
    arguments: &[String],
) -> Usage {
    let home = scratch.join("skopeo");
    let directory = home.display().to_string();
    let mut environment = vec![
        ("HOME", directory.clone()),
        ("XDG_DATA_HOME", directory.clone()),
        ("XDG_RUNTIME_DIR", directory.clone()),
        ("TMPDIR", directory),
        ("_CONTAINERS_ROOTLESS_UID", "1000".to_owned()),
    ];
    environment.extend(authority(certificates));
    let fill = |argument: &String| {
        argument
            .replace("SOURCE", &stage.source.host())
            .replace("DESTINATION", &stage.destination.host())
    };
    let mut all = Usage::default();
    for arguments in arguments.split(|argument| argument == AND_THEN) {
        let mut words: Vec<String> = arguments.iter().map(fill).collect();
        if certificates.is_none() {
            let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            words.extend(plain.map(str::to_owned));
        }
        // Not there before the first run.
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(&home).expect("create a home for skopeo");
        let (usage, _) = command::run(scratch, "skopeo", &words, &environment).await;
        all.wall += usage.wall;
        all.cpu += usage.cpu;
        all.peak_memory_bytes = all.peak_memory_bytes.max(usage.peak_memory_bytes);
    }
    all
}

/// curl reads every blob of a repository and throws it away, six at once.
pub async fn curl_get(
    scratch: &Path,
    stage: &Stage,
    certificates: Option<&Certificates>,
    repository: &str,
    digests: &[&str],
) -> Usage {
    let source = stage.source.url();
    let commands = digests.iter().map(|digest| {
        let url = format!("{source}/v2/{repository}/blobs/{digest}");
        words(&["--output", "/dev/null", &url])
    });
    curl(scratch, certificates, commands.collect()).await
}

/// curl writes every blob from its file, six at once, into upload sessions that were opened beforehand.
pub async fn curl_put(
    scratch: &Path,
    stage: &Stage,
    certificates: Option<&Certificates>,
    repository: &str,
    files: &[(&str, std::path::PathBuf)],
) -> Usage {
    let sessions = format!("{}/v2/{repository}/blobs/uploads/", stage.destination.url());
    let mut commands = Vec::new();
    for (digest, file) in files {
        let arguments = words(&[
            "--request",
            "POST",
            "--dump-header",
            "-",
            "--silent",
            "--fail",
            &sessions,
        ]);
        let environment: Vec<_> = authority(certificates).into_iter().collect();
        let (_, head) = command::run(scratch, "curl", &arguments, &environment).await;
        let location = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("location"))
            .map(|(_, location)| location.trim())
            .expect("the location of an upload session");
        let url = format!("{location}&digest={digest}");
        let file = file.display().to_string();
        commands.push(words(&[
            "--upload-file",
            &file,
            "--header",
            "Expect:",
            "--header",
            "Content-Type: application/octet-stream",
            &url,
        ]));
    }
    curl(scratch, certificates, commands).await
}

/// Runs curl once for each of `commands`, six at once. Processor time is of all, memory of the largest.
async fn curl(
    scratch: &Path,
    certificates: Option<&Certificates>,
    commands: Vec<Vec<String>>,
) -> Usage {
    let environment: Vec<_> = authority(certificates).into_iter().collect();
    let begin = Instant::now();
    let usages: Vec<Usage> = stream::iter(commands)
        .map(|mut arguments| {
            arguments.extend(words(&["--http1.1", "--silent", "--show-error", "--fail"]));
            let environment = &environment;
            async move {
                command::run(scratch, "curl", &arguments, environment)
                    .await
                    .0
            }
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let memory = usages.iter().map(|usage| usage.peak_memory_bytes);
    Usage {
        wall: begin.elapsed(),
        cpu: usages.iter().map(|usage| usage.cpu).sum(),
        peak_memory_bytes: memory.max().unwrap_or_default(),
    }
}

fn authority(certificates: Option<&Certificates>) -> Option<(&'static str, String)> {
    certificates.map(|files| ("SSL_CERT_FILE", files.authority.display().to_string()))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
