//! Samples, and the tables that are made of them.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::command::Usage;
use crate::stage::Traffic;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// One measured copy, or one run of curl.
#[derive(Clone, Debug)]
pub struct Sample {
    pub contender: &'static str,
    /// What it was measured on, where a case has more than one; otherwise empty.
    pub variant: &'static str,
    pub usage: Usage,
    pub source: Traffic,
    pub destination: Traffic,
}

/// What a case should come to.
#[derive(Clone, Debug)]
pub struct Target {
    pub what: String,
    pub value: f64,
    pub bound: f64,
    pub unit: &'static str,
}

impl Target {
    pub fn new(what: &str, value: f64, bound: f64, unit: &'static str) -> Target {
        Target {
            what: what.to_owned(),
            value,
            bound,
            unit,
        }
    }

    fn is_met(&self) -> bool {
        self.value <= self.bound
    }
}

/// All that came of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    pub samples: Vec<Sample>,
    pub targets: Vec<Target>,
    /// Sentences for the reader.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The figure that `figure` takes from each sample of `contender`, in the order of the rounds.
    pub fn figures(
        &self,
        variant: &str,
        contender: &str,
        figure: impl Fn(&Sample) -> f64,
    ) -> Vec<f64> {
        self.samples
            .iter()
            .filter(|sample| sample.contender == contender && sample.variant == variant)
            .map(figure)
            .collect()
    }

    /// One contender's median over another's.
    pub fn ratio(
        &self,
        variant: &str,
        contenders: [&str; 2],
        figure: impl Fn(&Sample) -> f64 + Copy,
    ) -> f64 {
        let [ours, theirs] = contenders.map(|name| median(&self.figures(variant, name, figure)));
        ours / theirs
    }

    /// The median of one contender's figure over the other's in the same round.
    pub fn ratio_by_round(
        &self,
        variant: &str,
        contenders: [&str; 2],
        figure: impl Fn(&Sample) -> f64 + Copy,
    ) -> f64 {
        let [ours, theirs] = contenders.map(|name| self.figures(variant, name, figure));
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        median(&ratios)
    }

    /// Wall seconds.
    pub fn wall(sample: &Sample) -> f64 {
        sample.usage.wall.as_secs_f64()
    }

    /// Processor seconds.
    pub fn cpu(sample: &Sample) -> f64 {
        sample.usage.cpu.as_secs_f64()
    }

    /// Mebibytes.
    pub fn memory(sample: &Sample) -> f64 {
        sample.usage.peak_memory_bytes as f64 / MEBIBYTE
    }

    /// Tables in Markdown.
    pub fn markdown(&self, contenders: [&str; 2]) -> String {
        let mut text = String::new();
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for sample in &self.samples {
            let group = (sample.variant, sample.contender);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        if !groups.is_empty() {
            text += "| | wall, s | processor, s | peak memory, MiB | requests: source, destination | MB: read, written |\n";
            text += "|---|---|---|---|---|---|\n";
        }
        for (variant, contender) in &groups {
            let spread = |figure: fn(&Sample) -> f64, digits| {
                spread(&self.figures(variant, contender, figure), digits)
            };
            let (wall, cpu, memory) = (
                spread(Outcome::wall, 3),
                spread(Outcome::cpu, 2),
                spread(Outcome::memory, 1),
            );
            let whole =
                |figure: fn(&Sample) -> f64| range(&self.figures(variant, contender, figure));
            let read = whole(|sample| sample.source.requests as f64);
            let read_authorization = whole(|sample| sample.source.authorization as f64);
            let written = whole(|sample| sample.destination.requests as f64);
            let written_authorization = whole(|sample| sample.destination.authorization as f64);
            let megabytes = |figure: fn(&Sample) -> f64| {
                median(&self.figures(variant, contender, figure)) / 1e6
            };
            let _ = writeln!(
                text,
                "| {} | {wall} | {cpu} | {memory} | {read} (+{read_authorization}), {written} (+{written_authorization}) | {:.2}, {:.2} |",
                [*contender, *variant].join(" ").trim(),
                megabytes(|sample| sample.source.bytes as f64),
                megabytes(|sample| sample.destination.bytes as f64),
            );
        }
        let mut variants: Vec<&str> = groups.iter().map(|group| group.0).collect();
        variants.dedup();
        for variant in variants {
            let is_compared = |name: &&str| groups.contains(&(variant, *name));
            if !contenders.iter().all(is_compared) {
                continue;
            }
            let [ours, theirs] = contenders;
            let name = [ours, "over", theirs, variant].join(" ");
            let _ = writeln!(
                text,
                "\n{}: wall {:.3} (median of the rounds' own ratios {:.3}), processor {:.3} ({:.3}), memory {:.3}",
                name.trim(),
                self.ratio(variant, contenders, Outcome::wall),
                self.ratio_by_round(variant, contenders, Outcome::wall),
                self.ratio(variant, contenders, Outcome::cpu),
                self.ratio_by_round(variant, contenders, Outcome::cpu),
                self.ratio(variant, contenders, Outcome::memory),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        if !self.targets.is_empty() {
            text += "\n| target | measured | |\n|---|---|---|\n";
        }
        for target in &self.targets {
            let verdict = if target.is_met() { "met" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| {} ≤ {}{} | {:.3}{} | {verdict} |",
                target.what, target.bound, target.unit, target.value, target.unit
            );
        }
        text
    }

    /// Everything, raw.
    pub fn json(&self) -> Value {
        let traffic = |traffic: &Traffic| {
            json!({
                "requests": traffic.requests,
                "authorization_requests": traffic.authorization,
                "bytes": traffic.bytes,
            })
        };
        let sample = |sample: &Sample| {
            json!({
                "contender": sample.contender,
                "variant": sample.variant,
                "wall_seconds": Outcome::wall(sample),
                "cpu_seconds": Outcome::cpu(sample),
                "peak_memory_bytes": sample.usage.peak_memory_bytes,
                "source": traffic(&sample.source),
                "destination": traffic(&sample.destination),
            })
        };
        let target = |target: &Target| json!({"what": target.what, "value": target.value, "bound": target.bound, "is_met": target.is_met()});
        json!({
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// The middle one, or the mean of the two in the middle; not a number of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The median, and least to most.
pub fn spread(figures: &[f64], digits: usize) -> String {
    let (least, most) = ends(figures);
    format!(
        "{:.digits$} ({least:.digits$}–{most:.digits$})",
        median(figures)
    )
}

/// Least to most, or the one figure that all have.
fn range(figures: &[f64]) -> String {
    let (least, most) = ends(figures);
    match least == most {
        true => format!("{least:.0}"),
        false => format!("{least:.0}–{most:.0}"),
    }
}

fn ends(figures: &[f64]) -> (f64, f64) {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[3.0, 1.0, 2.0], 1), "2.0 (1.0–3.0)");
        assert_eq!(
            (range(&[2.0, 2.0]), range(&[2.0, 3.0])),
            ("2".to_owned(), "2–3".to_owned())
        );
        let sample = |contender, seconds| Sample {
            contender,
            variant: "",
            usage: Usage {
                wall: Duration::from_secs(seconds),
                cpu: Duration::ZERO,
                peak_memory_bytes: 0,
            },
            source: Traffic::default(),
            destination: Traffic::default(),
        };
        let rounds = [("a", 1), ("b", 4), ("a", 2), ("b", 2), ("a", 3), ("b", 6)];
        let outcome = Outcome {
            samples: rounds.map(|(name, seconds)| sample(name, seconds)).into(),
            targets: vec![
                Target::new("wall", 0.5, 0.5, ""),
                Target::new("wall", 0.6, 0.5, " s"),
            ],
            ..Outcome::default()
        };
        assert_eq!(outcome.ratio("", ["a", "b"], Outcome::wall), 0.5);
        assert_eq!(outcome.ratio_by_round("", ["a", "b"], Outcome::wall), 0.5);
        let text = outcome.markdown(["a", "b"]);
        assert!(text.contains("| wall ≤ 0.5 | 0.500 | met |"), "{text}");
        assert!(
            text.contains("| wall ≤ 0.5 s | 0.600 s | **missed** |"),
            "{text}"
        );
        assert!(text.contains("\na over b: wall 0.500"), "{text}");
    }
}
