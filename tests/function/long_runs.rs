//! Scheduled runs over more than one run can do, list or answer.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use support::deployment::JOB_QUEUE;
use support::http::Fault;
use support::image::Blob;
use support::webhook;

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, small_image};

/// Enough for a run that finds nothing slow. What is left over is the function's own margin.
const SHORT: Duration = Duration::from_millis(5_500);

/// Plays on every request that a test can make.
const ALWAYS: usize = 10_000;

const ONE_PACKAGE: &str = r#"[{"source":"acme/api","destination":"prod/api"}]"#;

/// A page of tags with a link to another page.
fn page(tags: &[&str], next: &str) -> Fault {
    Fault::Status {
        status: 200,
        headers: vec![("link".to_owned(), format!("<{next}>; rel=\"next\""))],
        body: json!({"name": REPOSITORY, "tags": tags}).to_string(),
    }
}

/// Type and message of the error of a scheduled run with this much time.
async fn cut_short(scenario: &Scenario, remaining: Duration) -> (String, String) {
    let event = webhook::scheduler();
    let run = scenario.function.invoke_with_deadline(&event, remaining);
    run.await.error()
}

/// The sources of the queue's messages.
fn enqueued(scenario: &Scenario) -> BTreeSet<String> {
    let messages = scenario.sqs.messages(JOB_QUEUE);
    let source = |body: &str| {
        let body: Value = serde_json::from_str(body).expect("JSON");
        body["source"].as_str().expect("a source").to_owned()
    };
    messages
        .iter()
        .map(|message| source(&message.body))
        .collect()
}

/// What a package too large for one run has found is in the queue, and Lambda runs again for what it has not looked at.
#[tokio::test]
async fn a_run_that_is_cut_short_has_enqueued_what_it_found() {
    let scenario = Scenario::start_with_queue(&[("RULES", ONE_PACKAGE)]).await;
    let image = small_image();
    for number in 0..37 {
        scenario
            .ghcr
            .put_image(REPOSITORY, &format!("t{number}"), &image);
    }
    scenario.ghcr.put_image(REPOSITORY, "held", &image);
    scenario
        .ghcr
        .server
        .fault("HEAD", "/manifests/held", ALWAYS, Fault::Hold);
    let run = cut_short(&scenario, SHORT);
    let (kind, message) = run.await;
    assert_eq!(kind, "Deadline", "{message}");
    assert_eq!(enqueued(&scenario).len(), 37);
    let log = scenario.function.log();
    assert!(
        log.contains("1 of 38 tags were not compared in this run"),
        "{log}"
    );
}

#[tokio::test]
async fn without_a_queue_a_run_that_is_cut_short_has_copied_what_it_found() {
    let scenario = Scenario::start_with(&[("RULES", ONE_PACKAGE)]).await;
    for tag in ["1", "2", "held"] {
        scenario.ghcr.put_image(REPOSITORY, tag, &small_image());
    }
    scenario
        .ghcr
        .server
        .fault("HEAD", "/manifests/held", ALWAYS, Fault::Hold);
    let run = cut_short(&scenario, SHORT);
    assert_eq!(run.await.0, "Deadline");
    for tag in ["1", "2"] {
        scenario.assert_stored("found before the deadline", tag, &small_image());
    }
    scenario.assert_untouched("never compared", "held");
}

#[tokio::test]
async fn packages_that_a_run_does_not_reach_are_named() {
    let scenario = Scenario::start_with_queue(&[]).await;
    for name in ["acme/aa", "acme/bb", "acme/cc"] {
        scenario.push(name, "1", &small_image());
    }
    scenario
        .ghcr
        .server
        .fault("GET", "/tags/list", ALWAYS, Fault::Hold);
    let run = cut_short(&scenario, SHORT);
    assert_eq!(run.await.0, "Deadline");
    let log = scenario.function.log();
    let left_out = log
        .lines()
        .find(|line| line.contains("not compared in this run"));
    let left_out = left_out.unwrap_or_else(|| panic!("nothing is named: {log}"));
    assert!(left_out.contains("deferred"), "{left_out}");
    let named = ["acme/aa", "acme/bb", "acme/cc"]
        .iter()
        .filter(|name| left_out.contains(*name));
    assert_eq!(
        named.count(),
        2,
        "all but the one that was begun: {left_out}"
    );
}

/// Each run has an order of its own, so chance decides; that a package is behind the slow one twenty times is one in a million.
#[tokio::test]
async fn a_package_that_takes_every_run_keeps_no_other_from_its_turn() {
    let scenario = Scenario::start_with_queue(&[]).await;
    let names = ["acme/aa", "acme/bb", "acme/cc"];
    for name in names {
        scenario.push(name, "1", &small_image());
        let destination = name.replace("acme", "prod");
        scenario.ecr.create_repository(&destination);
    }
    scenario.push("acme/slow", "1", &small_image());
    scenario
        .ghcr
        .server
        .fault("GET", "/acme/slow/tags/list", ALWAYS, Fault::Hold);
    for _ in 0..20 {
        let run = cut_short(&scenario, Duration::from_millis(4_800));
        assert_eq!(run.await.0, "Deadline");
        if enqueued(&scenario).len() == names.len() {
            return;
        }
    }
    panic!("only {:?} were reached", enqueued(&scenario));
}

/// Six thousand reports of more than a kilobyte each.
#[tokio::test]
async fn a_reply_is_never_too_long_for_lambda() {
    const PACKAGES: usize = 6_000;
    // Whatever a package is called, this is no name of a repository.
    let template = format!("{}/{{name}}/{{name}}", "x".repeat(200));
    let rules = json!([{"source": "acme/**", "destination": template}]).to_string();
    let scenario = Scenario::start_with(&[("RULES", &rules)]).await;
    for number in 0..PACKAGES {
        let name = format!("{number:0240}");
        scenario
            .github
            .put_version("acme", &name, "sha256:none", &[]);
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    let length = reply.to_string().len();
    assert!((4_500_000..6_000_000).contains(&length), "{length}");
    let shown = reply["reports"].as_array().map_or(0, Vec::len) as u64;
    let left_out = reply["left_out"]["ignored"].as_u64().unwrap_or_default();
    assert_eq!(shown + left_out, PACKAGES as u64);
    // The reports as text and the reply take ten; as JSON values they would take four times as much.
    let peak = scenario.function.peak_memory_bytes();
    assert!(peak < 48 << 20, "{peak} bytes");
}

#[tokio::test]
async fn what_is_up_to_date_is_counted_and_has_no_lines_of_its_own() {
    let scenario = Scenario::start_with_queue(&[("RULES", ONE_PACKAGE)]).await;
    let image = Image::single(&[Blob::bytes("a layer")]);
    scenario.ecr.put_image(DESTINATION, "t0", &image);
    for number in 0..60 {
        let tag = format!("t{number}");
        scenario.ghcr.put_image(REPOSITORY, &tag, &image);
        scenario.ecr.put_tag(DESTINATION, &tag, &image.top);
    }
    scenario.ghcr.put_image(REPOSITORY, "new", &image);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    let log = scenario.function.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!(lines("\"outcome\":\"current\"") <= 1, "{log}");
    assert_eq!(lines("\"outcome\":\"queued\""), 1, "{log}");
    assert_eq!(lines(r#"{"queued":1,"current":60}"#), 1, "{log}");
}

#[tokio::test]
async fn a_list_of_tags_is_read_to_its_last_page() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api","tags":{"newest":2}}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    scenario.ghcr.set_page_limit(2);
    for tag in ["1", "2", "3", "4", "5"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    let expected = ["ghcr.io/acme/api:4", "ghcr.io/acme/api:5"].map(str::to_owned);
    assert_eq!(enqueued(&scenario), BTreeSet::from(expected));
    assert_eq!(scenario.ghcr.server.count("GET", "/tags/list"), 3);
}

/// GHCR's lists are in the order of pushes, so a tag that is pushed again meanwhile is on the last page too.
#[tokio::test]
async fn a_tag_that_moves_while_the_list_is_read_counts_once_and_as_the_newest() {
    let rules = r#"[{"source":"acme/api","destination":"prod/api","tags":{"newest":2}}]"#;
    let scenario = Scenario::start_with_queue(&[("RULES", rules)]).await;
    for tag in ["1", "2", "3"] {
        scenario.push(REPOSITORY, tag, &small_image());
    }
    let list = "/v2/acme/api/tags/list";
    let pages = [
        page(&["1", "2", "3"], &format!("{list}?last=3")),
        page(&["3"], &format!("{list}?last=3")),
    ];
    for page in pages {
        scenario.ghcr.server.fault("GET", "/tags/list", 1, page);
    }
    scenario.invoke(&webhook::scheduler()).await.reply();
    let expected = ["ghcr.io/acme/api:2", "ghcr.io/acme/api:3"].map(str::to_owned);
    assert_eq!(enqueued(&scenario), BTreeSet::from(expected));
}

#[tokio::test]
async fn a_page_of_tags_that_leads_back_ends_the_list() {
    let scenario = Scenario::start_with_queue(&[("RULES", ONE_PACKAGE)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario
        .ghcr
        .set_next_link("/v2/acme/api/tags/list?n=1000&last=1");
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["outcome"], "queued", "{reply}");
    let authorized = scenario.ghcr.server.requests().into_iter();
    let lists = authorized.filter(|it| it.path.contains("/tags/list") && it.status == 200);
    assert_eq!(lists.count(), 2);
}

#[tokio::test]
async fn a_list_of_tags_without_end_is_refused_and_not_kept() {
    let scenario = Scenario::start_with(&[("RULES", ONE_PACKAGE)]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    scenario.ghcr.set_endless(true);
    let reply = scenario.invoke(&webhook::scheduler()).await.reply();
    assert_eq!(reply["error_kind"], "Invalid", "{reply}");
    let error = reply["error"].as_str().unwrap_or_default();
    assert!(error.contains("more than 100000 tags"), "{error}");
    scenario.assert_untouched("an endless list", "1");
    let peak = scenario.function.peak_memory_bytes();
    assert!(peak < 64 << 20, "{peak} bytes");
}
