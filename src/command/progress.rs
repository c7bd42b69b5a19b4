//! What a person sees while blobs move: on a terminal a bar for each and one for all, elsewhere a line for each larger blob.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::printable;
use crate::observer::{Movement, Movements, State};

/// How often the blobs are looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Without a terminal, a smaller blob is not worth two lines.
const LARGE: u64 = 8 * 1024 * 1024;

/// The figures take 72 columns, so that a line fits a terminal of 80; the bar takes the rest.
const BAR: &str =
    "{prefix:19} [{wide_bar}] {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13} {eta:>3} left";

/// Standard error, with or without a terminal.
#[derive(Clone)]
pub(super) struct Screen(Option<MultiProgress>);

impl Screen {
    /// A terminal that can move its cursor has bars; `term` is the variable `TERM`.
    pub(super) fn of_standard_error(term: Option<&str>) -> Self {
        let has_bars = io::stderr().is_terminal() && term.is_some_and(|term| term != "dumb");
        let bars = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Screen(has_bars.then(bars))
    }
}

/// Writes between the bars.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = printable(&String::from_utf8_lossy(bytes));
        let write = || io::stderr().write_all(text.as_bytes());
        match &self.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        }?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows the blobs of one command as they move.
pub(super) struct Progress {
    screen: Screen,
    movements: Arc<Movements>,
    begun: HashMap<*const Movement, Begun>,
    total: Option<ProgressBar>,
    arrived: Arrived,
}

/// What has arrived so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Arrived {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// A blob that was seen on its way.
struct Begun {
    at: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(screen: Screen, movements: Arc<Movements>) -> Self {
        Progress {
            screen,
            movements,
            begun: HashMap::new(),
            total: None,
            arrived: Arrived::default(),
        }
    }

    /// Shows how `work` gets on, until it is done.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut clock = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.show();
                    return done;
                }
                _ = clock.tick() => self.show(),
            }
        }
    }

    /// Takes the bars away, and says what has arrived.
    pub(super) fn end(mut self) -> Arrived {
        self.show();
        for begun in self.begun.into_values() {
            if let Some(bar) = begun.bar {
                bar.finish_and_clear();
            }
        }
        if let Some(total) = self.total {
            total.finish_and_clear();
        }
        self.arrived
    }

    /// What is seen for the first time gets its bar, which moves from the next look on: of a moment nobody can tell the rate.
    fn show(&mut self) {
        let total = self.total.clone();
        let mut on_the_way = 0;
        for (blob, state) in self.movements.look() {
            let key = Arc::as_ptr(&blob);
            match self.begun.get(&key) {
                Some(Begun { bar: Some(bar), .. }) => bar.set_position(blob.moved()),
                Some(_) => {}
                None => {
                    let begun = self.begin(&blob);
                    self.begun.insert(key, begun);
                }
            }
            if state == State::UnderWay {
                on_the_way += blob.moved();
            } else if let Some(begun) = self.begun.remove(&key) {
                self.ended(&blob, state, &begun);
            }
        }
        if let Some(total) = total {
            total.set_length(self.movements.expected());
            total.set_position(self.arrived.bytes + on_the_way);
            total.set_prefix(format!("total, {} arrived", self.arrived.blobs));
        }
    }

    fn begin(&mut self, blob: &Movement) -> Begun {
        let bar = self.screen.0.as_ref().map(|bars| {
            let style = ProgressStyle::with_template(BAR);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style.progress_chars("=> ");
            let total = self.total.get_or_insert_with(|| {
                let total = ProgressBar::new(self.movements.expected());
                bars.add(total.with_style(style.clone()))
            });
            let bar = ProgressBar::new(blob.bytes).with_style(style);
            let bar = bars.insert_before(total, bar.with_prefix(name(blob)));
            bar.tick();
            bar
        });
        if bar.is_none() && blob.bytes >= LARGE {
            self.line(&format!("{} {}: begun", name(blob), HumanBytes(blob.bytes)));
        }
        Begun {
            at: Instant::now(),
            bar,
        }
    }

    fn ended(&mut self, blob: &Movement, state: State, begun: &Begun) {
        if state == State::Arrived {
            self.arrived.blobs += 1;
            self.arrived.bytes += blob.bytes;
        }
        if let Some(bar) = &begun.bar {
            bar.finish_and_clear();
        } else if blob.bytes >= LARGE {
            let seconds = begun.at.elapsed().as_secs_f64().max(0.001);
            let rate = HumanBytes((blob.moved() as f64 / seconds) as u64);
            let end = match state {
                State::Arrived => format!("arrived after {seconds:.1} s, {rate}/s"),
                _ => format!("broke off after {seconds:.1} s"),
            };
            self.line(&format!("{} {}: {end}", name(blob), HumanBytes(blob.bytes)));
        }
    }

    /// A line that can't be written is no reason to stop.
    fn line(&mut self, text: &str) {
        _ = writeln!(self.screen, "{text}");
    }
}

/// Enough of the digest to know the blob by.
fn name(blob: &Movement) -> String {
    blob.digest.to_string().chars().take(19).collect()
}
