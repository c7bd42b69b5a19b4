//! The driver: the real function binary under a local Lambda Runtime API.
//!
//! The interface is Lambda's for custom runtimes, version 2018-06-01 (AWS Lambda developer guide, "Using the Lambda runtime API for
//! custom runtimes"): the process requests an event, the request stays open until there is one, and then the process posts its reply
//! or its error.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};

use crate::http::{self, Reply, RequestBody, Server, lock};

/// The Region of the function, and of the local AWS services except where they say otherwise.
pub const REGION: &str = "eu-west-3";
/// The AWS account.
pub const ACCOUNT: &str = "123456789012";

const NAME: &str = "ghcr-to-ecr";
const MEMORY_MEGABYTES: &str = "512";
const RUNTIME_PATH: &str = "/2018-06-01/runtime/";

/// The time for an invocation unless a test sets another. Lambda allows up to 900 s, but a hang should be noticed sooner.
const DEADLINE: Duration = Duration::from_secs(120);

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The function answered.
    Reply(Value),
    /// The function reported an error: what Lambda shows as `errorType` and `errorMessage`.
    Error { error_type: String, message: String },
    /// The process ended without an answer; `log` is everything that it printed.
    Exited { status: ExitStatus, log: String },
    /// The deadline passed without an answer, and the process was killed, as Lambda would do.
    TimedOut { log: String },
}

impl Outcome {
    /// The reply. Panics with the whole outcome, log included, if there is none.
    pub fn reply(self) -> Value {
        match self {
            Outcome::Reply(reply) => reply,
            Outcome::Exited { status, log } => {
                panic!("expected a reply, but the function ended ({status}):\n{log}")
            }
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    /// Type and message of the reported error. Panics with the whole outcome, log included, if there is none.
    pub fn error(self) -> (String, String) {
        match self {
            Outcome::Error {
                error_type,
                message,
            } => (error_type, message),
            Outcome::Exited { status, log } => {
                panic!("expected an error, but the function ended ({status}):\n{log}")
            }
            other => panic!("expected an error, got {other:?}"),
        }
    }
}

/// A running function: one process, which handles one invocation at a time, and is killed when this value is dropped.
pub struct Function {
    runtime: Server,
    events: mpsc::UnboundedSender<Event>,
    state: Arc<Mutex<State>>,
    invocations: AtomicU64,
    /// Lambda gives an execution environment one event at a time.
    turn: tokio::sync::Mutex<()>,
    process_id: u32,
    kill: mpsc::UnboundedSender<()>,
    exit: watch::Receiver<Option<ExitStatus>>,
    log: File,
}

struct Event {
    request_id: String,
    deadline: SystemTime,
    body: Bytes,
}

/// What the process has to answer, and what it has reported.
#[derive(Default)]
struct State {
    /// By request id.
    invocations: HashMap<String, oneshot::Sender<Outcome>>,
    initialization_error: Option<Value>,
}

impl Function {
    /// Starts `binary` with the environment variables that Lambda sets, and with `environment`, which takes precedence.
    ///
    /// Does not wait until the process is ready. If it fails to start, [`Function::invoke`] returns [`Outcome::Exited`].
    pub async fn start(binary: &Path, environment: &[(&str, &str)]) -> Function {
        Function::spawn(Command::new(binary), environment).await
    }

    async fn spawn(mut command: Command, environment: &[(&str, &str)]) -> Function {
        let (events, queue) = mpsc::unbounded_channel();
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let state = Arc::new(Mutex::new(State::default()));
        let runtime = {
            let state = state.clone();
            Server::start(move |request| answer(request, queue.clone(), state.clone())).await
        };

        let log = anonymous_file();
        let output = || Stdio::from(log.try_clone().expect("duplicate the log's descriptor"));
        let child = command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", runtime.host())
            .env("AWS_LAMBDA_FUNCTION_NAME", NAME)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MEGABYTES)
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env(
                "AWS_SECRET_ACCESS_KEY",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            )
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));

        let process_id = child
            .id()
            .expect("a process that was not waited for has an id");
        let (kill, killed) = mpsc::unbounded_channel();
        let (exited, exit) = watch::channel(None);
        tokio::spawn(supervise(child, killed, exited));

        Function {
            runtime,
            events,
            state,
            invocations: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
            process_id,
            kill,
            exit,
            log,
        }
    }

    /// Sends one event and waits for the outcome.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        self.invoke_with_deadline(event, DEADLINE).await
    }

    /// As [`Function::invoke`], with this much time until Lambda would kill the function.
    pub async fn invoke_with_deadline(&self, event: &Value, remaining: Duration) -> Outcome {
        let _turn = self.turn.lock().await;
        let request_id = format!(
            "00000000-0000-4000-8000-{:012}",
            self.invocations.fetch_add(1, Ordering::Relaxed)
        );
        let (sender, answer) = oneshot::channel();
        lock(&self.state)
            .invocations
            .insert(request_id.clone(), sender);
        let deadline = SystemTime::now() + remaining;
        let body = Bytes::from(event.to_string());
        // If the server is gone, the wait below reports it.
        let _ = self.events.send(Event {
            request_id,
            deadline,
            body,
        });

        tokio::select! {
            // An answer counts even if the process has ended after it.
            biased;
            Ok(outcome) = answer => outcome,
            status = self.exited() => Outcome::Exited { status, log: self.log() },
            () = tokio::time::sleep(remaining) => {
                self.kill().await;
                Outcome::TimedOut { log: self.log() }
            }
        }
    }

    /// Waits until the process first requests an event; returns false if it ended before that.
    pub async fn ready(&self) -> bool {
        tokio::select! {
            biased;
            () = self.runtime.wait_for("GET", "/runtime/invocation/next") => true,
            _ = self.exited() => false,
        }
    }

    /// Why the process can't start, as it reported through the Runtime API (`errorType`, `errorMessage`).
    pub fn initialization_error(&self) -> Option<Value> {
        lock(&self.state).initialization_error.clone()
    }

    /// Everything that the process has printed to both streams, in the order of its writes.
    pub fn log(&self) -> String {
        let length = self.log.metadata().expect("size of the log").len();
        let mut bytes = vec![0; length as usize];
        self.log.read_exact_at(&mut bytes, 0).expect("read the log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The most memory the process has held so far (`VmHWM`, proc(5)). It must be running.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    /// The memory that the process holds now (`VmRSS`, proc(5)). It must be running.
    pub fn memory_bytes(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// How many threads the process has now. It must be running.
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// How many files, sockets among them, the process has open now. It must be running.
    pub fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process_id);
        std::fs::read_dir(&path)
            .unwrap_or_else(|error| panic!("list {path}: {error}"))
            .count()
    }

    /// The number in a line of `/proc/<pid>/status`; memory is in kibibytes.
    fn status(&self, name: &str) -> u64 {
        let status = self.process_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in /proc/<pid>/status: is the process running?"))
    }

    /// Processor time so far, user and system, of all threads (fields 14 and 15 of `/proc/<pid>/stat`, proc(5)),
    /// in steps of 10 ms. The process must be running.
    pub fn cpu_time(&self) -> Duration {
        const MILLISECONDS_PER_TICK: u64 = 10;
        let stat = self.process_file("stat");
        // Field 2 is the program's name in parentheses, which may itself hold spaces.
        let (_, after_name) = stat
            .rsplit_once(')')
            .expect("a program name in /proc/<pid>/stat");
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number of ticks"))
            .sum();
        Duration::from_millis(ticks * MILLISECONDS_PER_TICK)
    }

    /// Kills the process at once (SIGKILL), and waits until it is gone.
    pub async fn kill(&self) -> ExitStatus {
        // If nobody receives this, the process has ended already.
        let _ = self.kill.send(());
        self.exited().await
    }

    async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some)
            .await
            .expect("the process is watched")
            .expect("waited for an exit status")
    }

    fn process_file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.process_id);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
    }
}

async fn supervise(
    mut child: Child,
    mut killed: mpsc::UnboundedReceiver<()>,
    exited: watch::Sender<Option<ExitStatus>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        // `None` means that the `Function` was dropped, so the process is killed then too.
        _ = killed.recv() => {
            child.start_kill().expect("kill the function");
            child.wait().await
        }
    };
    // The `Function` may have been dropped.
    let _ = exited.send(Some(status.expect("wait for the function")));
}

/// One request of the process to the Runtime API.
async fn answer(
    request: hyper::Request<RequestBody>,
    queue: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>>,
    state: Arc<Mutex<State>>,
) -> Reply {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let Some(operation) = path.strip_prefix(RUNTIME_PATH) else {
        return http::reply(404, &[], format!("the Runtime API has no {path}"));
    };
    let steps: Vec<&str> = operation.split('/').collect();
    let accepted = || http::json(202, &json!({"status": "OK"}));

    match (method.as_str(), steps.as_slice()) {
        ("GET", ["invocation", "next"]) => match queue.lock().await.recv().await {
            Some(event) => offer(event),
            None => http::reply(410, &[], "the function is being shut down"),
        },
        ("POST", ["init", "error"]) => {
            let error = answer_body(request).await;
            lock(&state).initialization_error = Some(error);
            accepted()
        }
        ("POST", ["invocation", request_id, kind @ ("response" | "error")]) => {
            let value = answer_body(request).await;
            let Some(waiting) = lock(&state).invocations.remove(*request_id) else {
                return http::json(
                    400,
                    &json!({"errorType": "InvalidRequestID", "errorMessage": format!("no invocation {request_id} is open")}),
                );
            };
            // The invocation may have timed out.
            let _ = waiting.send(match *kind {
                "response" => Outcome::Reply(value),
                _ => Outcome::Error {
                    error_type: value["errorType"].as_str().unwrap_or_default().to_owned(),
                    message: value["errorMessage"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                },
            });
            accepted()
        }
        _ => http::reply(404, &[], format!("the Runtime API has no {method} {path}")),
    }
}

/// The body as JSON, or as a string if it is not JSON.
async fn answer_body(request: hyper::Request<RequestBody>) -> Value {
    let body = request
        .into_body()
        .bytes()
        .await
        .expect("the function's answer");
    serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()))
}

fn offer(event: Event) -> Reply {
    let deadline = event
        .deadline
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_millis();
    http::reply(
        200,
        &[
            ("content-type", "application/json".to_owned()),
            ("lambda-runtime-aws-request-id", event.request_id),
            ("lambda-runtime-deadline-ms", deadline.to_string()),
            (
                "lambda-runtime-invoked-function-arn",
                format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{NAME}"),
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0".to_owned(),
            ),
        ],
        event.body,
    )
}

/// A file without a name, opened for appending. Unlike with a pipe, writes through two descriptors are kept in order and whole, and
/// can be read as soon as they return.
fn anonymous_file() -> File {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "function-log-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .append(true)
        .open(&path);
    let file = file.unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    std::fs::remove_file(&path).expect("remove the log's name");
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_process_has_an_environment_of_its_own_and_ends_at_the_deadline() {
        let settings = [("RULES", "[]"), ("AWS_REGION", "eu-west-1")];
        let printer = Function::start(Path::new("/usr/bin/env"), &settings).await;
        let Outcome::Exited { log, .. } = printer.invoke(&Value::Null).await else {
            panic!("the program prints its environment and ends")
        };
        assert!(log.contains("AWS_REGION=eu-west-1\n"));
        let is_set_here = |line: &str| line.starts_with("AWS_") || line == "RULES=[]";
        assert!(
            log.lines().all(is_set_here) && !printer.ready().await,
            "{log}"
        );

        let mut command = Command::new("/bin/sleep");
        command.arg("1000");
        let idle = Function::spawn(command, &[]).await;
        let outcome = idle.invoke_with_deadline(&Value::Null, Duration::ZERO);
        assert!(matches!(outcome.await, Outcome::TimedOut { .. }));
        let outcome = idle.invoke(&Value::Null).await;
        assert!(matches!(outcome, Outcome::Exited { .. }));
    }
}
