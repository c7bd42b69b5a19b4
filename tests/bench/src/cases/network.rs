//! The cases over a network.

use std::path::Path;

use serde_json::json;
use support::image::{Blob, Image};

use super::{BOTH, copy, loopback, skopeo_copy, skopeo_sync};
use crate::bench::{Bench, NETWORK, Work, large_layers};
use crate::contender::{AND_THEN, FUNCTION, SKOPEO};
use crate::network;
use crate::results::{Outcome, Sample, Target, median};
use crate::stage::{Network, Setting};
use crate::waterfall::{self, Panel};

/// Blobs in flight at once, of both.
const CONCURRENCY: f64 = 6.0;

/// What one connection to ECR was seen to take, in bytes per second.
const UPLOAD_RATE: f64 = 26e6;

/// Images of the repository with small ones.
const IMAGES: u64 = 40;

/// [`NETWORK`] with a bound on each upload.
pub(super) fn capped() -> Network {
    Network {
        destination: network::Path {
            upload_rate: Some(UPLOAD_RATE),
            ..NETWORK.destination
        },
        ..NETWORK
    }
}

/// The least seconds in which an image can move, round trips aside: its largest blob over one connection, or all of it over as
/// many as there are.
fn optimum(image: &Image, network: &Network) -> f64 {
    let rate = network
        .source
        .rate(false)
        .min(network.destination.rate(true));
    let largest = image.blobs.iter().map(|(_, blob)| blob.length()).max();
    let one = largest.unwrap_or_default() as f64 / rate;
    one.max(image.blob_bytes() as f64 / (CONCURRENCY * rate))
}

pub(super) async fn large(bench: &Bench, network: Network) -> Outcome {
    let large = bench.large().await;
    let setting = Setting {
        network: Some(network),
        ..loopback(large)
    };
    let work = |_, _| copy(&large.image, "copied");
    let mut samples = bench.compare("", &setting, None, bench.rounds, work).await;
    samples.extend(bench.floor(&setting, &large.image).await);
    let mut outcome = Outcome {
        samples,
        ..Outcome::default()
    };
    let optimum = optimum(&large.image, &network);
    let [ours, theirs] =
        BOTH.map(|name| median(&outcome.figures("", name, Outcome::wall)) / optimum);
    outcome.notes = vec![format!(
        "The largest blob alone takes {optimum:.2} s over one connection, round trips aside: \
         {ours:.3} of that, and skopeo {theirs:.3}. curl went once each way, and shows what the network really gives."
    )];
    outcome.targets = vec![match network.destination.upload_rate {
        None => Target::new(
            "wall over skopeo's",
            outcome.ratio("", BOTH, Outcome::wall),
            0.95,
            "",
        ),
        Some(_) => Target::new("wall over the optimum", ours, 1.1, ""),
    }];
    outcome
}

pub(super) async fn many(bench: &Bench) -> Outcome {
    let source = bench.storage();
    let base = [2 * 1024 * 1024, 512 * 1024, 100_000];
    let base = (0..)
        .zip(base)
        .map(|(seed, size)| Blob::pseudorandom(seed, size));
    let base: Vec<Blob> = base.collect();
    let mut tags = Vec::new();
    for number in 1..=IMAGES {
        let own = [(100, 30_000 * number), (200, 10_000 + 500 * number)];
        let own = own.map(|(seed, size)| Blob::pseudorandom(seed + number, size));
        let image = Image::single(&[base.as_slice(), &own].concat());
        source.put_image("acme/many", &number.to_string(), &image);
        tags.push(("prod/many", number.to_string(), image.top));
    }
    let setting = Setting {
        source: &source,
        network: Some(NETWORK),
        certificates: None,
    };
    let work = |_, _| {
        let names: Vec<&String> = tags.iter().map(|(_, tag, _)| tag).collect();
        Work {
            event: json!({"image": "ghcr.io/acme/many", "tags": names}),
            outcome: "copied",
            skopeo: skopeo_sync(),
            tags: tags.clone(),
        }
    };
    let mut outcome = Outcome {
        samples: bench.compare("", &setting, None, bench.rounds, work).await,
        ..Outcome::default()
    };
    let wall = outcome.ratio("", BOTH, Outcome::wall);
    outcome.targets = vec![Target::new("wall over skopeo's", wall, 0.2, "")];
    outcome
}

/// Each copy has a layer that the destination has never seen, and moves the same tag there.
pub(super) async fn changed(bench: &Bench) -> Outcome {
    let large = bench.large().await;
    let mut outcome = Outcome::default();
    for (variant, network, seed) in [
        ("on the loopback interface", None, 1_000),
        ("over the network", Some(NETWORK), 2_000),
    ] {
        let destination = bench.storage();
        destination.put_image("prod/api", "1", &large.image);
        let setting = Setting {
            network,
            ..loopback(large)
        };
        let work = |contender, round: usize| {
            let seed = seed + 2 * round as u64 + u64::from(contender == SKOPEO);
            let mut layers = large_layers(1);
            layers.pop();
            layers.push(Blob::pseudorandom(seed, 5_000_000));
            let (image, tag) = (Image::single(&layers), format!("changed-{seed}"));
            large.storage.put_image("acme/api", &tag, &image);
            Work {
                event: json!({"source": format!("ghcr.io/acme/api:{tag}"), "destination": "prod/api:1"}),
                outcome: "copied",
                skopeo: skopeo_copy(&format!("acme/api:{tag}"), "prod/api:1"),
                tags: vec![("prod/api", "1".to_owned(), image.top)],
            }
        };
        let samples = bench.compare(variant, &setting, Some(&destination), bench.rounds, work);
        outcome.samples.extend(samples.await);
        let wall = outcome.ratio(variant, BOTH, Outcome::wall);
        let what = format!("wall over skopeo's {variant}");
        outcome.targets.push(Target::new(&what, wall, 0.5, ""));
    }
    outcome
}

pub(super) async fn current(bench: &Bench) -> Outcome {
    let large = bench.large().await;
    let destination = bench.storage();
    destination.put_image("prod/api", "1", &large.image);
    let setting = Setting {
        network: Some(NETWORK),
        ..loopback(large)
    };
    let work = |_, _| copy(&large.image, "current");
    let samples = bench.compare("", &setting, Some(&destination), bench.rounds, work);
    let mut outcome = Outcome {
        samples: samples.await,
        ..Outcome::default()
    };
    let requests = outcome.figures("", FUNCTION, |sample| {
        (sample.source.requests + sample.destination.requests) as f64
    });
    let most = requests.into_iter().fold(0.0, f64::max);
    outcome.targets = vec![Target::new("requests, authorization aside", most, 2.0, "")];
    outcome
}

/// One image to one repository, and to three by one job: the source is read once, whatever the number. Beside it skopeo, which is
/// run once for each.
pub(super) async fn destinations(bench: &Bench) -> Outcome {
    const LIST: [&str; 3] = ["prod/api", "dr/api", "eu/api"];
    let large = bench.large().await;
    let work = |count: usize| Work {
        event: json!({"source": "ghcr.io/acme/api:1", "destination": LIST[..count]}),
        outcome: "copied",
        skopeo: LIST[..count]
            .iter()
            .map(|name| skopeo_copy("acme/api:1", &format!("{name}:1")))
            .collect::<Vec<_>>()
            .join(&AND_THEN.to_owned()),
        tags: LIST[..count]
            .iter()
            .map(|name| (*name, "1".to_owned(), large.image.top.clone()))
            .collect(),
    };
    let mut outcome = Outcome::default();
    let (mut memory, mut targets) = (Vec::new(), Vec::new());
    for (place, network, bound, [one, three]) in [
        (
            "on the loopback interface",
            None,
            1.3,
            [
                "to one, on the loopback interface",
                "to three, on the loopback interface",
            ],
        ),
        (
            "over the network",
            Some(capped()),
            1.1,
            ["to one, over the network", "to three, over the network"],
        ),
    ] {
        let setting = Setting {
            network,
            ..loopback(large)
        };
        for _ in 0..bench.rounds {
            for (variant, count) in [(one, 1), (three, LIST.len())] {
                let work = work(count);
                let sample = bench.measure(FUNCTION, &setting, None, &work, |_| {});
                let sample = sample.await;
                outcome.samples.push(Sample { variant, ..sample });
            }
            let thrice = work(LIST.len());
            let sample = bench.measure(SKOPEO, &setting, None, &thrice, |_| {});
            let sample = Sample {
                variant: three,
                ..sample.await
            };
            outcome.samples.push(sample);
        }
        let skopeo = median(&outcome.figures(three, SKOPEO, Outcome::wall));
        let [ours, alone] =
            [three, one].map(|variant| median(&outcome.figures(variant, FUNCTION, Outcome::wall)));
        let what = format!("wall over one destination's {place}");
        targets.push(Target::new(&what, ours / alone, bound, ""));
        let what = format!("wall over three runs of skopeo {place}");
        targets.push(Target::new(&what, ours / skopeo, 0.7, ""));
        let read = |variant| {
            let read = outcome.figures(variant, FUNCTION, |sample| sample.source.bytes as f64);
            read.into_iter().fold(0.0, f64::max)
        };
        // Where there is no network, the bodies alone are counted.
        if network.is_none() {
            let what = "bytes read from the source over one destination's";
            targets.push(Target::new(what, read(three) / read(one), 1.0, ""));
        }
        memory.extend(outcome.figures(three, FUNCTION, Outcome::memory));
    }
    let most = memory.into_iter().fold(0.0, f64::max);
    targets.push(Target::new("peak memory to three", most, 48.0, " MiB"));
    outcome.targets = targets;
    outcome.notes = vec![
        "Three repositories of one registry, which stores what they have in common once: what is written shows on the network's wire alone.".to_owned(),
    ];
    outcome
}

/// Draws one copy of each into `target/bench/where-the-time-goes.svg`.
pub(super) async fn picture(bench: &Bench) -> Outcome {
    let source = bench.storage();
    let layers = [4, 2, 1].map(|size| Blob::pseudorandom(size, size * 1024 * 1024));
    let image = Image::single(&layers);
    source.put_image("acme/api", "1", &image);
    let setting = Setting {
        source: &source,
        network: Some(NETWORK),
        certificates: None,
    };
    let mut outcome = Outcome::default();
    let mut panels = Vec::new();
    for contender in BOTH {
        let work = copy(&image, "copied");
        let mut panel = None;
        let sample = bench.measure(contender, &setting, None, &work, |stage| {
            panel = Some(Panel {
                title: contender.to_owned(),
                source: stage.source.requests(),
                destination: stage.destination.requests(),
            });
        });
        outcome.samples.push(sample.await);
        panels.extend(panel);
    }
    let path = Path::new("target/bench/where-the-time-goes.svg");
    std::fs::write(path, waterfall::svg(&panels)).expect("write the picture");
    outcome.notes = vec![format!("One copy of each, drawn in `{}`.", path.display())];
    outcome
}
