//! One function among its servers, on which cases are played one after the other, and what must hold after each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use support::ecr::{Ecr, Repository};
use support::function::Outcome;
use support::ghcr::Ghcr;
use support::http::{Server, reply};
use support::image::{Blob, Image, digest};

use super::expectation::{Class, Operation, Place, TAG, Trouble, for_ever, once, troubles};
use crate::scenario::{REPOSITORY, Scenario, difference};

/// Plenty for a copy: an invocation that needs it all hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a fault is played.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// At the request with this index to the server, once.
    Index(Place, usize),
    /// At every request that does this.
    Every(Operation),
}

/// One fault at one spot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// Makes the name of the repository, and the order of complaints.
    pub(super) number: usize,
    /// Position in the list of troubles.
    pub(super) trouble: usize,
    pub(super) spot: Spot,
    /// What the invocation is given.
    pub(super) deadline: Duration,
}

/// A case that was played.
pub(super) struct Played {
    pub(super) case: Case,
    pub(super) trouble: &'static str,
    pub(super) operation: Operation,
    /// An outcome, or the kind of an error.
    pub(super) ended: String,
    pub(super) elapsed: Duration,
    /// Every broken promise, with fault, server, index and request line.
    pub(super) complaints: Vec<String>,
}

/// Servers and a warm function. Each case has a repository of its own, whose tag stands for the old image at first.
pub(super) struct Bench {
    scenario: Scenario,
    /// Has nothing to do with the copy, and answers everything with its own bytes.
    foreign: Server,
    troubles: Vec<Trouble>,
    old: Image,
    new: Image,
    /// How much of the function's log has been looked at.
    log_seen: usize,
}

impl Bench {
    /// Returns when the function has made its first copy, which takes longer than the others, and one more, as the others are.
    pub(super) async fn start() -> Bench {
        let scenario = Scenario::start().await;
        let foreign = Server::start(|_| async { reply(200, &[], "foreign bytes") }).await;
        let troubles = troubles(&scenario.ghcr.url(), &foreign.url());
        let new = two_platforms();
        scenario.ghcr.put_image(REPOSITORY, TAG, &new);
        let bench = Bench {
            scenario,
            foreign,
            troubles,
            old: Image::single(&[Blob::bytes("an old layer")]),
            new,
            log_seen: 0,
        };
        for name in ["matrix/first", "matrix/clean"] {
            bench.prepare(name);
            let (ended, told) = bench.invoke(name, PATIENCE).await;
            assert_eq!(ended, "copied", "{told}");
        }
        bench
    }

    /// Makes a repository whose tag stands for the old image. The bearer token that the function keeps is good no longer, so that
    /// every copy asks for one.
    fn prepare(&self, name: &str) {
        self.scenario.ecr.put_image(name, TAG, &self.old);
        self.scenario.ghcr.expire_tokens();
        self.scenario.clear_requests();
        self.foreign.clear_requests();
    }

    fn server(&self, place: Place) -> &Server {
        match place {
            Place::Ghcr => &self.scenario.ghcr.server,
            Place::Storage => &self.scenario.ghcr.storage,
            Place::Ecr => &self.scenario.ecr.server,
        }
    }

    /// Every request of a copy without faults.
    pub(super) fn requests(&self) -> Vec<Spot> {
        let places = [Place::Ghcr, Place::Storage, Place::Ecr].into_iter();
        let indexes = places.flat_map(|place| {
            let count = self.server(place).requests().len();
            (0..count).map(move |index| Spot::Index(place, index))
        });
        indexes.collect()
    }

    /// Plays a case, and the same copy once more without the fault.
    pub(super) async fn play(&mut self, case: &Case) -> Played {
        let name = format!("matrix/{}", case.number);
        self.prepare(&name);
        let Trouble {
            name: trouble,
            class,
            ref fault,
        } = self.troubles[case.trouble];
        let place = match case.spot {
            Spot::Index(place, index) => {
                self.server(place).fault_at(index, 1, fault.clone());
                place
            }
            Spot::Every(operation) => {
                let scripted = Operation::SCRIPTED
                    .into_iter()
                    .find(|(scripted, ..)| *scripted == operation);
                let (_, place, method, part) = scripted.expect("an operation that can be told");
                self.server(place)
                    .fault(method, part, usize::MAX, fault.clone());
                place
            }
        };
        let begin = Instant::now();
        let (ended, told) = self.invoke(&name, case.deadline).await;
        let elapsed = begin.elapsed();
        self.server(place).clear_faults();
        self.server(place).release();

        let requests = self.server(place).requests();
        let mut complaints = Vec::new();
        let (operation, line) = match case.spot {
            Spot::Every(operation) => (operation, String::new()),
            Spot::Index(_, index) if index < requests.len() => {
                let request = &requests[index];
                let operation = Operation::of(place, &requests, index);
                (operation, format!(" {} {}", request.method, request.path))
            }
            Spot::Index(..) => {
                complaints.push("the request never came".to_owned());
                (Operation::Ping, String::new())
            }
        };
        let allowed = match case.spot {
            Spot::Index(..) => once(class, operation),
            Spot::Every(_) => for_ever(class, operation),
        };
        if !allowed.contains(&ended.as_str()) {
            complaints.push(format!("ended in {ended} instead of {allowed:?}: {told}"));
        }
        complaints.extend(self.wrong_content(&name, &ended, class, operation));
        complaints.extend(self.leaks(&told));

        if matches!(ended.as_str(), "exited" | "hung") {
            self.scenario.restart_with(&[]).await;
            self.log_seen = 0;
        }
        let (again, told) = self.invoke(&name, PATIENCE).await;
        let stored = difference(&self.scenario.ecr.repository(&name), TAG, &self.new);
        if !matches!(again.as_str(), "copied" | "current") || stored.is_some() {
            complaints.push(format!(
                "then, without the fault, {again} ({stored:?}): {told}"
            ));
        }
        self.scenario.ecr.delete_repository(&name);
        let spot = case.spot;
        Played {
            case: *case,
            trouble,
            operation,
            ended,
            elapsed,
            complaints: complaints
                .into_iter()
                .map(|complaint| {
                    format!("{trouble} at {spot:?} ({operation:?}{line}): {complaint}")
                })
                .collect(),
        }
    }

    /// How a copy into the repository `name` ended, and what was said.
    async fn invoke(&self, name: &str, deadline: Duration) -> (String, String) {
        let event = json!({
            "source": format!("ghcr.io/{REPOSITORY}:{TAG}"),
            "destination": format!("{name}:{TAG}"),
        });
        let outcome = self
            .scenario
            .function
            .invoke_with_deadline(&event, deadline);
        match outcome.await {
            Outcome::Reply(report) => {
                let ended = report["outcome"].as_str().unwrap_or_default().to_owned();
                (ended, report.to_string())
            }
            Outcome::Error {
                error_type,
                message,
            } => (error_type, message),
            Outcome::Exited { log, .. } => ("exited".to_owned(), log),
            Outcome::TimedOut { log } => ("hung".to_owned(), log),
        }
    }

    /// The tag is where it belongs and complete, and everything stored has the digest that it is stored under.
    fn wrong_content(
        &self,
        name: &str,
        ended: &str,
        class: Class,
        operation: Operation,
    ) -> Vec<String> {
        let repository = self.scenario.ecr.repository(name);
        let (old, new) = (
            difference(&repository, TAG, &self.old),
            difference(&repository, TAG, &self.new),
        );
        // Without an answer to the write nobody can say whether the tag was written.
        let may_have_moved = match operation {
            Operation::PutTag | Operation::ReadBack => true,
            Operation::HeadTag => class == Class::Missing,
            _ => false,
        };
        let wrong = match (ended, may_have_moved) {
            ("copied" | "current", _) => new,
            (_, true) => old.and(new),
            (_, false) => old,
        };
        let mut complaints = Vec::from_iter(wrong);
        let writes = self.scenario.ecr.tag_writes();
        let half = writes
            .into_iter()
            .find(|write| write.repository == name && !write.missing.is_empty());
        complaints.extend(half.map(|write| format!("the tag stood for half an image: {write:?}")));
        complaints.extend(wrong_digests(&repository));
        complaints
    }

    /// Every secret that was said or sent where it does not belong.
    fn leaks(&mut self, told: &str) -> Vec<String> {
        let log = self.scenario.function.log();
        let new = log.get(self.log_seen..).unwrap_or(&log);
        let printed = format!("{told}\n{new}");
        self.log_seen = log.len();
        let fixed = [
            Ghcr::TOKEN,
            Ecr::PASSWORD,
            "sig=",
            "Bearer ",
            "Basic ",
            "wJalrXUtnFEMI",
        ];
        let sent = |server: &Server| -> BTreeSet<String> {
            let requests = server.requests().into_iter();
            requests
                .filter_map(|mut request| request.headers.remove("authorization"))
                .collect()
        };
        let to_ghcr = sent(self.server(Place::Ghcr));
        let to_ecr = sent(self.server(Place::Ecr));
        let credentials = to_ghcr.iter().chain(&to_ecr);
        let mut leaks: Vec<_> = credentials
            .filter_map(|value| value.split(' ').next_back())
            .chain(fixed)
            .filter(|secret| printed.contains(secret))
            .map(|secret| format!("{secret} was printed: {printed}"))
            .collect();
        if !to_ghcr.is_disjoint(&to_ecr) {
            leaks.push("one credential went to both registries".to_owned());
        }
        for (name, server) in [
            ("storage", self.server(Place::Storage)),
            ("foreign server", &self.foreign),
        ] {
            if !sent(server).is_empty() {
                leaks.push(format!("a credential went to the {name}"));
            }
        }
        leaks
    }
}

/// Two platforms that share a layer: three manifests, and five blobs with the configs.
fn two_platforms() -> Image {
    // Made once instead of whenever they are read: there are thousands of copies.
    let layer = |seed, length| {
        let noise = Blob::pseudorandom(seed, length).chunks(0..length);
        Blob::bytes(noise.flatten().collect::<Vec<u8>>())
    };
    let shared = layer(1, 100_000);
    let platform = |platform: &str, seed, length| {
        let layers = [shared.clone(), layer(seed, length)];
        Image::of_platform(platform, &layers).on(platform)
    };
    Image::index(vec![
        platform("linux/amd64", 2, 60_000),
        platform("linux/arm64", 3, 20_000),
    ])
}

/// Whatever is stored under a digest that it does not have.
fn wrong_digests(repository: &Repository) -> Vec<String> {
    let blobs = repository
        .blobs
        .iter()
        .filter_map(|(name, blob)| Some((name, blob.bytes.as_ref()?)));
    let manifests = repository
        .manifests
        .iter()
        .map(|(name, manifest)| (name, &manifest.bytes));
    blobs
        .chain(manifests)
        .filter(|(name, bytes)| digest(bytes) != **name)
        .map(|(name, _)| format!("what is stored as {name} is not that"))
        .collect()
}
