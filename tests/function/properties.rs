//! What holds for every image, shown on random graphs. The seed is fixed; `PROPTEST_CASES` asks for more graphs than usual, and
//! what fails is printed as small as it can be made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use support::deployment::image_requests;
use support::ecr::Repository;
use support::image::Image;

use crate::graph::{Damage, Graph, broken_graphs, graphs};
use crate::scenario::Scenario;

/// Graphs for each property.
const CASES: u32 = 60;

/// Runs `property` on many values, in one function process; each gets a package of its own, which is empty on both sides.
fn for_all<S: Strategy>(values: S, property: impl AsyncFn(&Package, S::Value)) {
    #[expect(
        clippy::disallowed_methods,
        reason = "no setting of the function, but of this test"
    )]
    let asked_for = std::env::var("PROPTEST_CASES");
    let config = Config {
        cases: asked_for.map_or(CASES, |cases| cases.parse().expect("a number of cases")),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let scenario = runtime.block_on(Scenario::start());
    let packages = AtomicUsize::new(0);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&values, |value| {
        let number = packages.fetch_add(1, Ordering::Relaxed);
        let package = Package::new(&scenario, number);
        runtime.block_on(property(&package, value));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// One package, and the repository that it is copied to.
struct Package<'a> {
    scenario: &'a Scenario,
    source: String,
    destination: String,
}

/// What a copy has to do.
struct Expected {
    manifests: BTreeSet<String>,
    /// Sizes by digest.
    blobs: BTreeMap<String, u64>,
    present_manifests: usize,
    present_blobs: BTreeMap<String, u64>,
}

/// Digest and bytes of everything that a repository holds, and the media types of manifests.
#[derive(Debug, Default, PartialEq)]
struct Content {
    manifests: BTreeMap<String, (String, Bytes)>,
    blobs: BTreeMap<String, Bytes>,
}

impl<'a> Package<'a> {
    fn new(scenario: &'a Scenario, number: usize) -> Package<'a> {
        let (source, destination) = (format!("acme/p{number}"), format!("prod/p{number}"));
        scenario.ecr.create_repository(&destination);
        scenario.clear_requests();
        Package {
            scenario,
            source,
            destination,
        }
    }

    fn event(&self, tag: &str) -> Value {
        json!({"source": format!("ghcr.io/{}:{tag}", self.source)})
    }

    fn stored(&self) -> Repository {
        self.scenario.ecr.repository(&self.destination)
    }

    /// Plans, copies and copies again. All three do what they must, no more and no less.
    async fn copies(&self, tag: &str, image: &Image) {
        let before = self.stored();
        let expected = expected(image, &before);
        self.scenario.ghcr.put_image(&self.source, tag, image);
        self.scenario.clear_requests();
        self.announces(tag, image, &expected).await;
        assert_eq!(content(&self.stored()), content(&before), "a dry run");

        self.scenario.clear_requests();
        let report = self.invoke(&self.event(tag)).await;
        assert_eq!(report["outcome"], "copied", "{report}");
        assert_counts(&report, &expected);
        let uploads = self.scenario.ecr.server.requests();
        let sent = uploads
            .iter()
            .filter(|it| it.method == "PUT" && it.path.contains("/blobs/uploads/"))
            .map(|it| it.body_bytes);
        assert_eq!(report["bytes"]["copied"], sent.sum::<u64>(), "on the wire");
        let after = self.stored();
        let mut whole = content(&before);
        whole.add(image);
        assert_eq!(content(&after), whole, "neither less nor more");
        let mut tags = before.tags;
        tags.insert(tag.to_owned(), image.top.clone());
        assert_eq!(after.tags, tags);

        self.scenario.clear_requests();
        let report = self.invoke(&self.event(tag)).await;
        assert_eq!(report["outcome"], "current", "{report}");
        assert_eq!(report["requests"], json!({"source": 1, "destination": 1}));
        assert_eq!(image_requests(&self.scenario.ghcr.server).len(), 1);
        assert_eq!(self.scenario.ecr.server.requests().len(), 1);
    }

    /// A dry run says what is then done, in an order that works: blobs, then children before parents, then the tag.
    async fn announces(&self, tag: &str, image: &Image, expected: &Expected) {
        let mut event = self.event(tag);
        event["dry_run"] = json!(true);
        let report = self.invoke(&event).await;
        assert_eq!(report["outcome"], "planned", "{report}");
        assert_counts(&report, expected);
        let plan = report["plan"].as_array().expect("a plan");
        let mut lines = plan.iter().filter_map(Value::as_str);
        let blobs: BTreeSet<String> = lines
            .by_ref()
            .take(expected.blobs.len())
            .map(str::to_owned)
            .collect();
        let announced = expected
            .blobs
            .iter()
            .map(|(digest, size)| format!("blob {digest} {size} bytes"));
        assert_eq!(blobs, announced.collect());
        let mut pushed = BTreeSet::new();
        for line in lines.by_ref().take(expected.manifests.len() - 1) {
            let digest = line.strip_prefix("manifest ").expect("a manifest's line");
            let children = references(image, digest).manifests;
            let missing = children.intersection(&expected.manifests);
            assert!(missing.into_iter().all(|child| pushed.contains(child)));
            pushed.insert(digest.to_owned());
        }
        pushed.insert(image.top.clone());
        assert_eq!(pushed, expected.manifests);
        let last: Vec<&str> = lines.collect();
        assert_eq!(last, [format!("tag {tag} {}", image.top)]);
    }

    async fn invoke(&self, event: &Value) -> Value {
        self.scenario.invoke(event).await.reply()
    }
}

fn assert_counts(report: &Value, expected: &Expected) {
    let bytes = |blobs: &BTreeMap<String, u64>| blobs.values().sum::<u64>();
    let (new, present) = (&expected.blobs, &expected.present_blobs);
    assert_eq!(
        report["manifests"],
        json!({"pushed": expected.manifests.len(), "present": expected.present_manifests})
    );
    assert_eq!(
        report["blobs"],
        json!({"copied": new.len(), "mounted": 0, "present": present.len()})
    );
    assert_eq!(
        report["bytes"],
        json!({"copied": bytes(new), "present": bytes(present)})
    );
}

/// What is missing of `image` where this is stored already. A manifest that is there vouches for all that is below it.
fn expected(image: &Image, stored: &Repository) -> Expected {
    let mut manifests = BTreeSet::new();
    let mut present = BTreeSet::new();
    let mut blobs = BTreeMap::new();
    let mut open = vec![image.top.clone()];
    while let Some(digest) = open.pop() {
        if !manifests.insert(digest.clone()) {
            continue;
        }
        let below = references(image, &digest);
        blobs.extend(below.blobs);
        for child in below.manifests {
            match stored.manifests.contains_key(&child) {
                true => drop(present.insert(child)),
                false => open.push(child),
            }
        }
    }
    let (present_blobs, blobs) = blobs
        .into_iter()
        .partition(|(digest, _)| stored.blobs.contains_key(digest));
    Expected {
        manifests,
        blobs,
        present_manifests: present.len(),
        present_blobs,
    }
}

struct References {
    manifests: BTreeSet<String>,
    blobs: BTreeMap<String, u64>,
}

/// What a manifest refers to, foreign layers left aside.
fn references(image: &Image, digest: &str) -> References {
    let value: Value = serde_json::from_slice(&image.manifest(digest).bytes).expect("JSON");
    let digest = |it: &Value| it["digest"].as_str().expect("a digest").to_owned();
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let config = value.get("config").cloned();
    let blobs = config.into_iter().chain(list("layers"));
    References {
        manifests: list("manifests").iter().map(digest).collect(),
        blobs: blobs
            .filter(|it| it.get("urls").is_none())
            .map(|it| (digest(&it), it["size"].as_u64().expect("a size")))
            .collect(),
    }
}

fn content(stored: &Repository) -> Content {
    let manifests = stored.manifests.iter().map(|(digest, it)| {
        let content = (it.media_type.clone(), it.bytes.clone());
        (digest.clone(), content)
    });
    let blobs = stored.blobs.iter().map(|(digest, it)| {
        let bytes = it.bytes.clone().expect("a blob that is kept whole");
        (digest.clone(), bytes)
    });
    Content {
        manifests: manifests.collect(),
        blobs: blobs.collect(),
    }
}

impl Content {
    fn add(&mut self, image: &Image) {
        for it in &image.manifests {
            let content = (it.media_type.clone(), it.bytes.clone());
            self.manifests.insert(it.digest.clone(), content);
        }
        for (digest, blob) in &image.blobs {
            let bytes: Vec<u8> = blob.chunks(0..blob.length()).flatten().collect();
            self.blobs.insert(digest.clone(), bytes.into());
        }
    }

    /// Whether there is nothing here that is not also there.
    fn is_part_of(&self, whole: &Content) -> bool {
        let has_manifest =
            |(digest, it): (_, &(String, Bytes))| whole.manifests.get(digest) == Some(it);
        let has_blob = |(digest, it): (_, &Bytes)| whole.blobs.get(digest) == Some(it);
        self.manifests.iter().all(has_manifest) && self.blobs.iter().all(has_blob)
    }
}

#[test]
fn every_graph_arrives_whole() {
    for_all(graphs(), async |package, graph: Graph| {
        let images = graph.images();
        package.copies("1", &images[images.len() - 1]).await;
    });
}

/// Blobs that were pushed before, manifests with all that is below them, and an image that shares parts with this one.
#[test]
fn only_what_is_missing_moves() {
    let lots = || proptest::collection::vec(proptest::bool::weighted(0.3), 12);
    let values = (graphs(), lots(), lots(), any::<Index>());
    for_all(values, async |package, (graph, blobs, nodes, other)| {
        let images = graph.images();
        let (ecr, repository) = (&package.scenario.ecr, &package.destination);
        for (blob, _) in graph.blobs().iter().zip(&blobs).filter(|(_, lot)| **lot) {
            ecr.put_blob(repository, blob);
        }
        for (image, _) in images.iter().zip(&nodes).filter(|(_, lot)| **lot) {
            ecr.put_untagged(repository, image);
        }
        package.copies("other", other.get(&images)).await;
        package.copies("1", &images[images.len() - 1]).await;
    });
}

/// Two or three destinations, each with other parts of the image: every one gets what it lacks, and the source is read once.
#[test]
fn every_destination_of_a_list_gets_what_it_lacks_with_one_read() {
    let lots = || proptest::collection::vec(proptest::bool::weighted(0.3), 12);
    let values = (
        graphs(),
        proptest::collection::vec((lots(), lots()), 2..=3_usize),
    );
    for_all(values, async |package, (graph, states)| {
        let images = graph.images();
        let image = &images[images.len() - 1];
        let Package {
            scenario, source, ..
        } = package;
        let mut names = Vec::new();
        for (number, (blobs, nodes)) in states.iter().enumerate() {
            let name = format!("{}-{number}", package.destination);
            scenario.ecr.create_repository(&name);
            for (blob, _) in graph.blobs().iter().zip(blobs).filter(|(_, lot)| **lot) {
                scenario.ecr.put_blob(&name, blob);
            }
            for (image, _) in images.iter().zip(nodes).filter(|(_, lot)| **lot) {
                scenario.ecr.put_untagged(&name, image);
            }
            names.push(name);
        }
        scenario.ghcr.put_image(source, "1", image);
        let before: Vec<Repository> = names
            .iter()
            .map(|name| scenario.ecr.repository(name))
            .collect();
        let expected: Vec<Expected> = before
            .iter()
            .map(|stored| self::expected(image, stored))
            .collect();
        scenario.clear_requests();
        let mut event = package.event("1");
        event["destination"] = json!(names);
        let reply = package.invoke(&event).await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        let reports = reply["reports"].as_array().expect("reports");
        assert_eq!(reports.len(), names.len());
        for (number, report) in reports.iter().enumerate() {
            assert_counts(report, &expected[number]);
            let after = scenario.ecr.repository(&names[number]);
            let mut whole = content(&before[number]);
            whole.add(image);
            assert_eq!(content(&after), whole, "neither less nor more");
            assert_eq!(after.tags.get("1"), Some(&image.top));
        }
        let missing: BTreeSet<&String> = expected.iter().flat_map(|it| it.blobs.keys()).collect();
        let reads = scenario.ghcr.storage.requests().len();
        assert_eq!(reads, missing.len(), "each blob that anybody lacks, once");
        for digest in missing {
            assert_eq!(scenario.ghcr.storage.count("GET", digest), 1);
        }
        for manifest in &image.manifests {
            let path = format!("/manifests/{}", manifest.digest);
            assert!(scenario.ghcr.server.count("GET", &path) <= 1);
        }
    });
}

/// The tag stays away, what is stored is right as far as it goes, and the message names what is wrong.
#[test]
fn a_broken_graph_moves_no_tag() {
    for_all(
        broken_graphs(),
        async |package, (graph, damage): (Graph, Damage)| {
            let (image, digest) = graph.damaged(damage);
            let ghcr = &package.scenario.ghcr;
            ghcr.put_image(&package.source, "1", &image);
            let (kind, message) = package.scenario.invoke(&package.event("1")).await.error();
            assert!(
                matches!(kind.as_str(), "Invalid" | "NotFound"),
                "{kind}: {message}"
            );
            let names_it = message.contains(&digest)
                || digest == image.top && message.contains(&format!("/{}:1", package.source))
                || digest == image.top && message.contains(&format!("/{}:1", package.destination));
            assert!(names_it, "{digest} is not in: {message}");

            let stored = package.stored();
            assert_eq!(stored.tags, BTreeMap::new());
            let mut whole = Content::default();
            whole.add(&image);
            assert!(
                content(&stored).is_part_of(&whole),
                "{:?}",
                content(&stored)
            );
            for digest in stored.manifests.keys() {
                assert_eq!(stored.missing_from(digest), Vec::<String>::new());
            }
        },
    );
}
