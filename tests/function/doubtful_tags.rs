//! Which tags are written and deleted where a rule leaves a doubt: destinations that meet in one tag or in one repository, a tag for
//! whatever was pushed last, and indexes whose entries are not what builders write.

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::ecr::Settings;
use support::http::Fault;
use support::image::{Blob, Child, Image};
use support::webhook;

use crate::scenario::{DESTINATION, REPOSITORY, Scenario, direct, http_reply, small_image};

const MIB: u64 = 1024 * 1024;

async fn start(rules: &[Value]) -> Scenario {
    let rules = json!(rules).to_string();
    Scenario::start_with(&[("RULES", &rules)]).await
}

fn rule(destination: &Value) -> Value {
    json!({"source": REPOSITORY, "destination": destination})
}

fn pruning(destination: &Value) -> Value {
    json!({"source": REPOSITORY, "destination": destination, "prune": true})
}

/// Another image for each name.
fn image(name: &str) -> Image {
    Image::single(&[Blob::bytes(name.to_owned())])
}

async fn run(scenario: &Scenario) -> Value {
    scenario.invoke(&webhook::scheduler()).await.reply()
}

fn reports(reply: &Value) -> Vec<Value> {
    let one = vec![reply.clone()];
    reply["reports"].as_array().cloned().unwrap_or(one)
}

fn pruned(reply: &Value) -> Vec<Value> {
    let reports = reports(reply).into_iter();
    let pruned = reports.filter_map(|report| report["pruned"].as_array().cloned());
    pruned.flatten().collect()
}

fn tags(scenario: &Scenario, name: &str) -> Vec<String> {
    scenario.ecr.repository(name).tags.into_keys().collect()
}

fn tag(scenario: &Scenario, tag: &str) -> Option<String> {
    scenario.ecr.repository(DESTINATION).tags.get(tag).cloned()
}

/// Five tags at both sides, pushed long ago.
fn put_five(scenario: &Scenario) {
    for tag in ["1", "2", "3", "4", "5"] {
        scenario.push(REPOSITORY, tag, &small_image());
        scenario.ecr.put_image(DESTINATION, tag, &small_image());
    }
}

/// A destination may name the registry that is the default one anyway: the repository is the same.
#[tokio::test]
async fn a_repository_is_shared_however_its_registry_is_written() {
    let mut scenario = start(&[pruning(&json!(DESTINATION))]).await;
    let host = scenario.ecr.server.host();
    put_five(&scenario);
    let theirs = image("theirs");
    scenario.push("acme/x", "x1", &theirs);
    scenario.ecr.put_image(DESTINATION, "x1", &theirs);
    let other = json!({"source": "acme/x", "destination": format!("{host}/prod/api")});
    let rules = json!([pruning(&json!(DESTINATION)), other]).to_string();
    scenario.restart_with(&[("RULES", &rules)]).await;
    let reply = scenario.invoke(&json!({"reconcile": [REPOSITORY]})).await;
    assert_eq!(tag(&scenario, "x1"), Some(theirs.top), "{reply:?}");
    assert_eq!(scenario.aws.calls("BatchDeleteImage"), 0);
}

#[tokio::test]
async fn a_constant_tag_stays_however_its_registry_is_written() {
    let mut scenario = start(&[pruning(&json!(DESTINATION))]).await;
    let host = scenario.ecr.server.host();
    let destination = json!(["prod/api", format!("{host}/prod/api:stable")]);
    let rules = json!([pruning(&destination)]).to_string();
    scenario.restart_with(&[("RULES", &rules)]).await;
    put_five(&scenario);
    scenario
        .ecr
        .put_tag(DESTINATION, "stable", &small_image().top);
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), Vec::<Value>::new(), "{reply}");
    assert!(tag(&scenario, "stable").is_some());
}

/// The source's list leaves out a tag that is there: what it left behind under its digests stays as well.
#[tokio::test]
async fn what_a_tag_left_behind_stays_while_the_tag_itself_is_there() {
    let destination = json!(["prod/api", "prod/api:{tag}-{digest8}"]);
    let scenario = start(&[pruning(&destination)]).await;
    put_five(&scenario);
    run(&scenario).await;
    let image = small_image();
    scenario.ecr.put_tag(DESTINATION, "2-0a1b2c3d", &image.top);
    scenario.ecr.grow_old(DESTINATION);
    let before = tags(&scenario, DESTINATION);
    scenario.ghcr.hide_tag(REPOSITORY, "2");
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), Vec::<Value>::new(), "{reply}");
    assert_eq!(tags(&scenario, DESTINATION), before);
}

/// What a direct event copied although the rule excludes it is not the rule's to delete: neither the tag, nor what it left behind.
#[tokio::test]
async fn what_an_excluded_tag_left_behind_stays() {
    let rule = json!({
        "source": REPOSITORY, "prune": true, "tags": {"exclude": ["2"]},
        "destination": ["prod/api", "prod/api:{tag}-{digest8}"],
    });
    let scenario = start(&[rule]).await;
    put_five(&scenario);
    run(&scenario).await;
    scenario.copy("2").await;
    scenario.ecr.grow_old(DESTINATION);
    let before = tags(&scenario, DESTINATION);
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    let reply = run(&scenario).await;
    assert_eq!(pruned(&reply), Vec::<Value>::new(), "{reply}");
    assert_eq!(tags(&scenario, DESTINATION), before);
}

/// Each tag of the source would go there; it is for the one that was pushed last.
#[tokio::test]
async fn a_tag_for_whatever_was_pushed_last_does_not_go_back_in_a_scheduled_run() {
    let stable = json!({"source": REPOSITORY, "destination": "prod/api:stable", "tags": {"include": ["v*"]}});
    let scenario = start(&[stable]).await;
    for name in ["v1", "v2", "v3"] {
        scenario.push(REPOSITORY, name, &image(name));
        scenario.copy(name).await;
    }
    scenario.push(REPOSITORY, "edge", &image("edge"));
    let newest = Some(image("v3").top);
    assert_eq!(tag(&scenario, "stable"), newest);
    let writes = scenario.ecr.tag_writes().len();
    let reply = run(&scenario).await;
    assert_eq!(tag(&scenario, "stable"), newest, "{reply}");
    assert_eq!(scenario.ecr.tag_writes().len(), writes, "{reply}");
    assert_eq!(reply["outcome"], "current", "{reply}");

    // What the webhook missed is still found, and only that.
    scenario.push(REPOSITORY, "v4", &image("v4"));
    let reply = run(&scenario).await;
    assert_eq!(reply["outcome"], "copied", "{reply}");
    assert_eq!(tag(&scenario, "stable"), Some(image("v4").top));
    assert_eq!(scenario.ecr.tag_writes().len(), writes + 1);
}

/// GitHub names any one of the tags that were pushed together; here one that the rule leaves out.
#[tokio::test]
async fn a_tag_for_whatever_was_pushed_last_is_written_though_an_excluded_tag_was_named() {
    let stable = json!([{"source": REPOSITORY, "destination": ["prod/api", "prod/api:stable"], "tags": {"include": ["v*"]}}]);
    let scenario = Scenario::start_with_queue(&[("RULES", &stable.to_string())]).await;
    let image = small_image();
    for name in ["latest", "v1", "v1.0"] {
        scenario.push(REPOSITORY, name, &image);
    }
    let body = webhook::package_event("acme", "api", "latest", &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    scenario.process_queue().await;
    assert_eq!(tags(&scenario, DESTINATION), ["stable", "v1", "v1.0"]);
}

/// Two destinations may be the same tag for one tag of the source: then the first one counts, in every run alike.
#[tokio::test]
async fn one_tag_is_never_written_in_two_forms() {
    let destination = json!(["prod/api", {"to": "prod/api:latest", "platform": "linux/arm64"}]);
    let scenario = start(&[rule(&destination)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "latest", &image);
    let outcome = scenario.invoke(&direct("latest")).await;
    assert_eq!(
        tag(&scenario, "latest"),
        Some(image.top.clone()),
        "{outcome:?}"
    );
    let (kind, message) = outcome.error();
    assert_eq!(kind, "Invalid", "{message}");
    assert!(message.contains("prod/api:latest"), "{message}");
    for _ in 0..2 {
        run(&scenario).await;
        assert_eq!(tag(&scenario, "latest"), Some(image.top.clone()));
    }
    assert_eq!(scenario.ecr.tag_writes().len(), 1);
}

/// The digits of the digest don't fit behind it.
#[tokio::test]
async fn a_tag_that_is_too_long_for_one_destination_arrives_at_the_others() {
    let destination = json!(["prod/api", "prod/api:{tag}-{digest8}"]);
    let scenario = start(&[rule(&destination)]).await;
    let long = "x".repeat(125);
    scenario.push(REPOSITORY, &long, &small_image());
    let (kind, message) = scenario.fail(&long).await;
    assert_eq!(kind, "Invalid", "{message}");
    assert!(message.contains("at most 128 characters"), "{message}");
    scenario.assert_stored("the other one", &long, &small_image());
}

/// AWS Lambda refuses an index, and so nothing is better than one.
#[tokio::test]
async fn an_index_within_the_index_is_not_the_manifest_of_a_platform() {
    let scenario = start(&[rule(&json!({"to": "prod/api", "platform": "linux/arm64"}))]).await;
    let inner = Image::index(vec![
        Image::of_platform("linux/arm64", &[Blob::bytes("a")]).on("linux/arm64"),
    ]);
    scenario.push(
        REPOSITORY,
        "1",
        &Image::index(vec![inner.on("linux/arm64")]),
    );
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "Invalid", "{message}");
    scenario.assert_untouched("an index", "1");
}

/// An image without anything of its platform in it may be listed for several.
#[tokio::test]
async fn an_entry_for_another_platform_goes_though_it_is_the_same_image() {
    let scenario = start(&[
        json!({"source": REPOSITORY, "destination": "prod/api", "platforms": ["linux/amd64"]}),
    ])
    .await;
    let same = || image("for all");
    let index = Image::index(vec![
        same().on("linux/amd64"),
        same().on("linux/s390x"),
        same().attestation(),
    ]);
    scenario.push(REPOSITORY, "1", &index);
    let reply = scenario.copy("1").await;
    let repository = scenario.ecr.repository(DESTINATION);
    let stored = &repository.manifests[&repository.tags["1"]];
    let stored: Value = serde_json::from_slice(&stored.bytes).expect("JSON");
    let entries = stored["manifests"].as_array().expect("an index");
    let architectures: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(architectures, ["amd64", "unknown"], "{reply}");
}

/// The dead letter asks for the one that failed, in its form and under its tag.
#[tokio::test]
async fn a_dead_letter_has_the_one_of_two_destinations_in_a_repository_that_failed() {
    let failing = json!({"to": "prod/api:{tag}-s390x-{digest8}", "platform": "linux/s390x"});
    let rules = json!([rule(&json!(["prod/api", failing]))]).to_string();
    let scenario = Scenario::start_with_queue(&[("RULES", &rules)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let event = webhook::api_gateway_v2("package", &body, WEBHOOK_SECRET);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    scenario.process_queue().await;
    assert_eq!(tags(&scenario, DESTINATION), ["1"]);
    assert_eq!(scenario.sqs.messages(JOB_QUEUE).len(), 0);
    let letters = scenario.sqs.messages(DEAD_LETTER_QUEUE);
    assert_eq!(letters.len(), 1);
    let body: Value = serde_json::from_str(&letters[0].body).expect("JSON");
    assert_eq!(body["destination"], failing, "{body}");
}

/// An index of nearly 4 MiB whose entry for `linux/amd64` is most of it.
fn large_index() -> Image {
    let padding = vec![("padding".to_owned(), "x".repeat(3_900_000))];
    let child = |name: &str, platform: &str, annotations| {
        let child = image(name).on(platform);
        Child {
            annotations,
            ..child
        }
    };
    Image::index(vec![
        child("a", "linux/amd64", padding),
        child("b", "linux/arm64", Vec::new()),
    ])
}

#[tokio::test]
async fn a_large_index_in_one_form_for_many_destinations_is_held_once() {
    let names: Vec<String> = (0..24).map(|at| format!("prod/api:{{tag}}-{at}")).collect();
    let scenario =
        start(&[json!({"source": REPOSITORY, "destination": names, "platforms": ["linux/amd64"]})])
            .await;
    scenario.push(REPOSITORY, "1", &large_index());
    let reply = scenario.copy("1").await;
    assert_eq!(reply["outcome"], "copied", "{}", reply["outcome"]);
    let peak = scenario.function.peak_memory_bytes();
    println!("peak memory, 24 rewritten indexes: {} MiB", peak / MIB);
    assert!(peak < 64 * MIB, "{peak} bytes");
}

/// ECR deletes no manifest that an index refers to, and says so in its answer: a run that left it out of its report would look as if
/// there were nothing left to delete.
#[tokio::test]
async fn a_tag_that_ecr_does_not_delete_is_told() {
    let arm = json!({"to": "prod/api:{tag}-arm64", "platform": "linux/arm64"});
    let scenario = start(&[pruning(&json!(["prod/api", arm]))]).await;
    put_five(&scenario);
    run(&scenario).await;
    let six = || Image::of_platform("linux/arm64", &[Blob::bytes("six")]).on("linux/arm64");
    scenario.push(REPOSITORY, "6", &Image::index(vec![six()]));
    run(&scenario).await;
    // An older image, which has no tag any more.
    let older = Image::index(vec![six(), image("older").on("linux/amd64")]);
    scenario.ecr.put_untagged(DESTINATION, &older);
    scenario.ecr.grow_old(DESTINATION);
    scenario.ghcr.delete_tag(REPOSITORY, "6");
    let reply = run(&scenario).await;
    assert_eq!(tag(&scenario, "6"), None, "{reply}");
    assert!(tag(&scenario, "6-arm64").is_some());
    assert!(!pruned(&reply).contains(&json!("6-arm64")), "{reply}");
    let warnings: String = reports(&reply)
        .iter()
        .map(|report| report["warnings"].to_string())
        .collect();
    assert!(warnings.contains("6-arm64 was not deleted"), "{reply}");
}

#[tokio::test]
async fn a_digest_alone_fills_in_digits_and_leaves_out_what_needs_a_tag() {
    let destination = json!([
        "prod/api:{tag}-{digest8}",
        "prod/api:sha-{digest8}",
        "prod/api:stable"
    ]);
    let scenario = start(&[rule(&destination)]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.push(REPOSITORY, "latest", &image);
    let source = format!("ghcr.io/{REPOSITORY}@{}", image.top);
    let digits = &image.top[7..15];
    let reply = scenario.invoke(&json!({"source": source})).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let expected = [format!("sha-{digits}"), "stable".to_owned()];
    assert_eq!(tags(&scenario, DESTINATION), expected);
    let untagged = format!("{}/prod/api@{}", scenario.ecr.server.host(), image.top);
    assert_eq!(reports(&reply)[0]["destination"], untagged);

    let event = json!({"source": source, "all_tags": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let expected = [
        format!("1-{digits}"),
        format!("latest-{digits}"),
        format!("sha-{digits}"),
        "stable".to_owned(),
    ];
    assert_eq!(tags(&scenario, DESTINATION), expected);
}

/// What one of them lacks the other one lacks as well.
#[tokio::test]
async fn a_forced_copy_heals_two_forms_in_one_repository() {
    let arm = json!({"to": "prod/api:{tag}-arm64", "platform": "linux/arm64"});
    let scenario = start(&[rule(&json!(["prod/api", arm]))]).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    scenario.copy("1").await;
    let repository = scenario.ecr.repository(DESTINATION);
    let one = repository.tags["1-arm64"].clone();
    for (digest, _) in &image.blobs {
        scenario.ecr.delete_blob(DESTINATION, digest);
    }
    let event = json!({"source": "ghcr.io/acme/api:1", "force": true});
    let reply = scenario.invoke(&event).await.reply();
    assert_eq!(reply["outcome"], "copied", "{reply}");
    let repository = scenario.ecr.repository(DESTINATION);
    for digest in [&image.top, &one] {
        let missing = repository.missing_from(digest);
        assert!(missing.is_empty(), "{missing:?}: {reply}");
    }
}

#[tokio::test]
async fn one_of_two_destinations_in_a_repository_fails_alone() {
    let arm = json!({"to": "prod/api:arm64-{tag}", "platform": "linux/arm64"});
    for refused in ["1", "arm64-1"] {
        let scenario = start(&[rule(&json!(["prod/api", arm]))]).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        let fault = Fault::Status {
            status: 403,
            headers: Vec::new(),
            body: String::new(),
        };
        let path = format!("/v2/prod/api/manifests/{refused}");
        scenario.ecr.server.fault("PUT", &path, usize::MAX, fault);
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Denied", "{message}");
        let written = tags(&scenario, DESTINATION);
        let other = if refused == "1" { "arm64-1" } else { "1" };
        assert_eq!(written, [other]);
        let repository = scenario.ecr.repository(DESTINATION);
        let missing = repository.missing_from(&repository.tags[other]);
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// A Docker list stays one, and what is kept of it is the same in every run.
#[tokio::test]
async fn a_docker_list_is_shortened_to_the_same_bytes_in_every_run() {
    let rule =
        json!({"source": REPOSITORY, "destination": "prod/api", "platforms": ["linux/arm64"]});
    let list = Image::docker_list(vec![
        image("a").on("linux/amd64"),
        image("b").on("linux/arm64/v8"),
        image("c").on("linux/arm64"),
        Child::from(image("d")),
    ]);
    let mut digests = Vec::new();
    for _ in 0..2 {
        let scenario = start(std::slice::from_ref(&rule)).await;
        scenario.push(REPOSITORY, "1", &list);
        let reply = scenario.copy("1").await;
        assert_eq!(reply["outcome"], "copied", "{reply}");
        let repository = scenario.ecr.repository(DESTINATION);
        let stored = &repository.manifests[&repository.tags["1"]];
        assert_eq!(stored.media_type, list.top_manifest().media_type);
        let index: Value = serde_json::from_slice(&stored.bytes).expect("JSON");
        let entries = index["manifests"].as_array().map(Vec::len);
        assert_eq!((entries, repository.manifests.len()), (Some(2), 3));
        digests.push(repository.tags["1"].clone());
        assert_eq!(run(&scenario).await["outcome"], "current");
    }
    assert_eq!(digests[0], digests[1]);
}

/// Each gets another part of a large index, which is more than may be held of them together. Those for which there is no room fail,
/// and none of the others.
#[tokio::test]
async fn a_large_index_in_many_forms_passes_through_little_memory() {
    let platforms: Vec<String> = (0..24).map(|at| format!("linux/a{at}")).collect();
    let destinations = platforms.iter().map(|platform| {
        json!({"to": format!("prod/api:{}", &platform[6..]), "platforms": ["linux/amd64", platform]})
    });
    let scenario = start(&[rule(&Value::from_iter(destinations))]).await;
    let padding = vec![("padding".to_owned(), "x".repeat(3_900_000))];
    let large = Child {
        annotations: padding,
        ..image("a").on("linux/amd64")
    };
    let others = platforms
        .iter()
        .map(|platform| image(platform).on(platform));
    let index = Image::index(std::iter::once(large).chain(others).collect());
    scenario.push(REPOSITORY, "1", &index);
    assert!(scenario.function.ready().await);
    // Most of this is pages of the binary, of which the development profile has three times as many as the release.
    let before = scenario.function.peak_memory_bytes();
    let outcome = scenario.invoke(&direct("1")).await;
    let (kind, message) = outcome.error();
    assert_eq!(kind, "Invalid", "{message}");
    let repository = scenario.ecr.repository(DESTINATION);
    println!("{} of 24 arrived: {message}", repository.tags.len());
    assert!(!repository.tags.is_empty(), "{message}");
    for (tag, digest) in &repository.tags {
        assert!(repository.missing_from(digest).is_empty(), "{tag}");
    }
    let peak = scenario.function.peak_memory_bytes();
    println!(
        "peak memory, 24 forms of an index: {} MiB, of which {} before",
        peak / MIB,
        before / MIB
    );
    // The release has 10 MiB before.
    assert!(peak - before < 40 * MIB, "{peak} bytes, {before} before");
}

/// Nothing can be pruned in it, which is no failure: the function or ECR itself creates it in time.
#[tokio::test]
async fn a_repository_that_is_still_to_be_created_has_nothing_to_prune() {
    let mut creating = pruning(&json!("prod/new"));
    creating["repository"] = json!({"create": true});
    let scenario = start(&[creating]).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let event = json!({"reconcile": true, "dry_run": true});
    let outcome = scenario.invoke(&event).await;
    assert_eq!(outcome.reply()["outcome"], "planned");

    let rules = json!([pruning(&json!("prod/new"))]).to_string();
    let scenario = Scenario::start_with_queue(&[("RULES", &rules)]).await;
    scenario.ecr.create_on_push(Settings::default());
    scenario.push(REPOSITORY, "1", &small_image());
    let outcome = scenario.invoke(&webhook::scheduler()).await;
    assert_eq!(outcome.reply()["outcome"], "queued");
}

/// What is up to date has no lines of its own in the log; what was deleted has.
#[tokio::test]
async fn what_was_deleted_is_in_the_log() {
    let scenario = start(&[pruning(&json!(DESTINATION))]).await;
    put_five(&scenario);
    scenario.ghcr.delete_tag(REPOSITORY, "2");
    run(&scenario).await;
    assert_eq!(tag(&scenario, "2"), None);
    let log = scenario.function.log().replace('\\', "");
    assert!(log.contains(r#""pruned":["2"]"#), "{log}");
}
