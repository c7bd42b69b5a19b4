//! Every fault at every request of a copy: each copy ends in time, as a copy of the right bytes or as an error of the right kind
//! with the tag where it was; nothing secret leaves its place; and the process that met the fault copies on.

mod bench;
mod expectation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::{Bench, Case, PATIENCE, Played, Spot};
use expectation::{Operation, troubles};
use tokio::sync::Semaphore;

/// Functions at work at the same time. Nearly all of the time is spent in waiting: between tries, and for silent peers, for which
/// there is a function for each request.
const WORKERS: usize = 56;

/// Functions that start at the same time: a start is processor time alone, and many at once take long enough to meet time-outs.
const STARTS: usize = 4;

/// The function gives up on a silent peer after 30 s, and needs time to copy then.
const SILENCE_DEADLINE: Duration = Duration::from_secs(50);

/// Enough to begin a copy, and too little for a silent peer.
const SHORT_DEADLINE: Duration = Duration::from_secs(10);

/// Once at each request, and every time at each operation. All share the same functions, so that as few as possible are started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_request() {
    let requests = Bench::start().await.requests();
    let operations = Operation::SCRIPTED.map(|(operation, ..)| Spot::Every(operation));
    let spots = [requests, operations.to_vec()].concat();
    let played = play(cases(&spots)).await;

    let (ever, once): (Vec<_>, Vec<_>) = played
        .iter()
        .partition(|played| matches!(played.case.spot, Spot::Every(_)));
    print_endings("requests, once", &once);
    print_endings("operations, for ever", &ever);
    let complaints: Vec<_> = played.iter().flat_map(|it| &it.complaints).collect();
    let lines: Vec<_> = complaints.iter().map(|line| format!("  {line}")).collect();
    assert!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        lines.join("\n")
    );
}

/// Those that take longest come first.
fn cases(spots: &[Spot]) -> Vec<Case> {
    let troubles = troubles("", "").into_iter().enumerate();
    let mut cases: Vec<_> = troubles
        .flat_map(|pair| spots.iter().map(move |spot| (pair.0, pair.1.class, *spot)))
        .enumerate()
        .map(|(number, (trouble, class, spot))| Case {
            number,
            trouble,
            spot,
            deadline: match spot {
                _ if !class.is_silent() => PATIENCE,
                Spot::Index(..) => SILENCE_DEADLINE,
                Spot::Every(_) => SHORT_DEADLINE,
            },
        })
        .collect();
    cases.sort_by_key(|case| {
        let is_for_ever = matches!(case.spot, Spot::Every(_));
        (case.deadline != SILENCE_DEADLINE, !is_for_ever)
    });
    cases
}

/// Plays all cases, and returns them in the order of their numbers.
async fn play(cases: Vec<Case>) -> Vec<Played> {
    let waiting = Arc::new(Mutex::new(cases.into_iter()));
    let starts = Arc::new(Semaphore::new(STARTS));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (waiting, starts) = (waiting.clone(), starts.clone());
            tokio::spawn(async move {
                let turn = starts.acquire().await.expect("it is never closed");
                let mut bench = Bench::start().await;
                drop(turn);
                let mut played = Vec::new();
                let next = || waiting.lock().expect("no worker panics here").next();
                while let Some(case) = next() {
                    played.push(bench.play(&case).await);
                }
                played
            })
        })
        .collect();
    let mut played = Vec::new();
    for worker in workers {
        played.extend(worker.await.expect("a worker that ends"));
    }
    played.sort_by_key(|played| played.case.number);
    played
}

/// How the copies ended, by fault and operation.
fn print_endings(title: &str, played: &[&Played]) {
    let mut table: BTreeMap<usize, BTreeMap<Operation, BTreeSet<&str>>> = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut spots = BTreeSet::new();
    for it in played {
        let row = table.entry(it.case.trouble).or_default();
        row.entry(it.operation).or_default().insert(&it.ended);
        names.insert(it.case.trouble, it.trouble);
        spots.insert(format!("{:?}", it.case.spot));
    }
    for (trouble, row) in &table {
        let cells = row.iter().map(|(operation, endings)| {
            let endings: Vec<_> = endings.iter().copied().collect();
            format!("{operation:?} {}", endings.join(" or "))
        });
        let cells: Vec<_> = cells.collect();
        println!("{}: {}", names[trouble], cells.join(", "));
    }
    let copied = played.iter().filter(|it| it.ended == "copied").count();
    let longest = played.iter().map(|it| it.elapsed).max().unwrap_or_default();
    println!(
        "{} faults × {} {title} = {} cases, {copied} copied, {} refused, the longest in {longest:.1?}",
        table.len(),
        spots.len(),
        played.len(),
        played.len() - copied,
    );
}
