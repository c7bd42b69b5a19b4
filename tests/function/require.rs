//! Only what is signed: real signatures by authorities and keys of our own, through whole invocations.

mod crowds;
mod detours;
mod refusals;

use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE};
use support::function::Outcome;
use support::http::Fault;
use support::image::{Blob, Signer};
use support::sigstore::{Attestation, Authority, IMAGE_SIGNATURE, Key, flipped};
use support::webhook;

use crate::scenario::{DESTINATION, Image, REPOSITORY, Scenario, direct, http_reply, small_image};

/// A scenario whose one rule has this `require`, and whose attestations are those of `authority`.
async fn requiring(require: &Value, authority: &Authority, with_queue: bool) -> Scenario {
    let rules = json!([{"source": "acme/*", "destination": "prod/{name}", "require": require}]);
    let (rules, root) = (rules.to_string(), authority.trusted_root());
    let settings = [("RULES", rules.as_str()), ("TRUSTED_ROOT", &root)];
    match with_queue {
        true => Scenario::start_with_queue(&settings).await,
        false => Scenario::start_with(&settings).await,
    }
}

/// Makes the bundle for a digest.
type Bundle<'a> = Box<dyn Fn(&str) -> Value + 'a>;

fn attested() -> Value {
    json!({"attestation": {}})
}

fn put_bundle(scenario: &Scenario, image: &Image, bundle: &Value) {
    let predicate = "https://slsa.dev/provenance/v1";
    let referrer = Image::sigstore_bundle(image.top_manifest(), bundle.to_string(), predicate);
    scenario
        .ghcr
        .put_referrer(REPOSITORY, &image.top, &referrer);
}

fn put_signatures(scenario: &Scenario, image: &Image, signatures: &[(Vec<u8>, String)]) {
    let tag = Signer::Cosign2Signature.tag(&image.top).expect("a tag");
    let signed = Image::cosign_signatures(signatures);
    scenario.ghcr.put_image(REPOSITORY, &tag, &signed);
}

async fn refused(scenario: &Scenario, tag: &str) -> String {
    let (kind, message) = scenario.fail(tag).await;
    assert_eq!(kind, "Denied", "{message}");
    scenario.assert_untouched("refused", tag);
    message
}

#[tokio::test]
async fn an_attested_image_is_copied_and_the_report_says_by_whom() {
    for authority in [Authority::new(), Authority::without_log()] {
        let scenario = requiring(&attested(), &authority, false).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        put_bundle(
            &scenario,
            &image,
            &authority.attest(&Attestation::of(&image.top)),
        );
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "copied", "{report}");
        // The index under the fallback tag, the manifest in it, and the bundle, which a redirect leads to.
        let plain = Scenario::with_image("1").await.copy("1").await;
        let requests = |report: &Value| report["requests"]["source"].as_u64();
        assert_eq!(requests(&report), requests(&plain).map(|it| it + 4));
        assert_eq!(
            report["requests"]["destination"], plain["requests"]["destination"],
            "{report}"
        );
        let verified = &report["verified"];
        assert_eq!(verified["by"], "attestation", "{report}");
        let identity = "https://github.com/acme/api/.github/workflows/release.yml@refs/tags/v1.2.3";
        assert_eq!(verified["identity"], identity);
        assert_eq!(verified["repository"], "acme/api");
        assert_eq!(verified["ref"], "refs/tags/v1.2.3");
        scenario.assert_stored("attested", "1", &image);
        // What is up to date is not looked at again.
        scenario.clear_requests();
        let report = scenario.copy("1").await;
        assert_eq!(report["outcome"], "current", "{report}");
        assert_eq!(report["requests"], json!({"source": 1, "destination": 1}));
    }
}

#[tokio::test]
async fn what_is_not_signed_is_refused_before_a_byte_moves() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let message = refused(&scenario, "1").await;
    for part in [
        "an attestation https://slsa.dev/provenance/v1 is required",
        "there is no signature and no attestation of it",
        "sign the image as the rule requires",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let repository = scenario.ecr.repository(DESTINATION);
    assert!(repository.blobs.is_empty() && repository.manifests.is_empty());
    let blobs = scenario.ghcr.storage.requests();
    assert!(blobs.is_empty(), "no blob was read");
}

/// A destination that an event names needs no rule, but a rule's `require` holds all the same.
#[tokio::test]
async fn an_event_that_names_its_destination_does_not_step_around_it() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    scenario.push(REPOSITORY, "1", &small_image());
    for field in ["force", "dry_run", "all_tags"] {
        let mut event = direct("1");
        event["destination"] = json!("prod/api:other");
        event[field] = json!(true);
        let (kind, message) = scenario.invoke(&event).await.error();
        assert_eq!(kind, "Denied", "{message}");
    }
    assert!(scenario.ecr.repository(DESTINATION).tags.is_empty());
}

#[tokio::test]
async fn every_claim_that_is_not_as_required_is_named() {
    let authority = Authority::new();
    let require = json!({"attestation": {
        "repository": "acme/api", "workflow": ".github/workflows/release.yml", "ref": "refs/tags/*",
        "runner": "github-hosted",
    }});
    let scenario = requiring(&require, &authority, false).await;
    let other = Authority::new();
    let cases: Vec<(&str, Bundle<'_>, &str)> = vec![
        (
            "another image",
            Box::new(|_| authority.attest(&Attestation::of(&small_image().top))),
            "it is about another image",
        ),
        (
            "another repository",
            Box::new(|top| {
                let repository = "acme/other".to_owned();
                authority.attest(&Attestation {
                    repository,
                    ..Attestation::of(top)
                })
            }),
            "its repository is acme/other, and acme/api is required",
        ),
        (
            "another workflow",
            Box::new(|top| {
                let workflow = ".github/workflows/test.yml".to_owned();
                authority.attest(&Attestation {
                    workflow,
                    ..Attestation::of(top)
                })
            }),
            "/.github/workflows/test.yml@refs/tags/v1.2.3, and .github/workflows/release.yml is required",
        ),
        (
            "a workflow of another repository",
            Box::new(|top| {
                let signer =
                    Some("evil/x/.github/workflows/release.yml@refs/heads/main".to_owned());
                authority.attest(&Attestation {
                    signer,
                    ..Attestation::of(top)
                })
            }),
            "its workflow is https://github.com/evil/x/.github/workflows/release.yml@refs/heads/main",
        ),
        (
            "another ref",
            Box::new(|top| {
                let reference = "refs/heads/main".to_owned();
                authority.attest(&Attestation {
                    reference,
                    ..Attestation::of(top)
                })
            }),
            "its ref is refs/heads/main, and refs/tags/* is required",
        ),
        (
            "another runner",
            Box::new(|top| {
                let runner = "self-hosted".to_owned();
                authority.attest(&Attestation {
                    runner,
                    ..Attestation::of(top)
                })
            }),
            "its runner is self-hosted, and github-hosted is required",
        ),
        (
            "another predicate",
            Box::new(|top| {
                let predicate_type = "https://spdx.dev/Document".to_owned();
                authority.attest(&Attestation {
                    predicate_type,
                    ..Attestation::of(top)
                })
            }),
            "its predicate is https://spdx.dev/Document, and https://slsa.dev/provenance/v1 is required",
        ),
        (
            "another issuer",
            Box::new(|top| {
                let issuer = "https://accounts.example.com".to_owned();
                authority.attest(&Attestation {
                    issuer,
                    ..Attestation::of(top)
                })
            }),
            "its issuer is https://accounts.example.com",
        ),
        (
            "no runner",
            Box::new(|top| {
                let claims = vec![(11, None)];
                authority.attest(&Attestation {
                    claims,
                    ..Attestation::of(top)
                })
            }),
            "it names no runner, and github-hosted is required",
        ),
        (
            "another root",
            Box::new(|top| other.attest(&Attestation::of(top))),
            "no trusted root vouches for it",
        ),
        (
            "no bundle",
            Box::new(|_| json!({"hello": "world"})),
            "it is no Sigstore bundle",
        ),
        (
            "a changed signature",
            Box::new(|top| {
                let bundle = authority.attest(&Attestation::of(top));
                flipped(&bundle, "/dsseEnvelope/signatures/0/sig")
            }),
            "is required, and there is one signature or attestation of it",
        ),
        (
            "a changed statement",
            Box::new(|top| {
                let bundle = authority.attest(&Attestation::of(top));
                flipped(&bundle, "/dsseEnvelope/payload")
            }),
            "is required, and there is one signature or attestation of it",
        ),
    ];
    for (number, (name, bundle, part)) in cases.iter().enumerate() {
        let tag = format!("t{number}");
        let image = Image::single(&[Blob::pseudorandom(number as u64, 3000)]);
        scenario.push(REPOSITORY, &tag, &image);
        put_bundle(&scenario, &image, &bundle(&image.top));
        let message = refused(&scenario, &tag).await;
        assert!(message.contains(part), "{name}: {message}");
        println!("{name}: {message}");
        // A good one beside it is enough.
        put_bundle(
            &scenario,
            &image,
            &authority.attest(&Attestation::of(&image.top)),
        );
        let report = scenario.copy(&tag).await;
        assert_eq!(report["outcome"], "copied", "{name}: {report}");
    }
}

/// Somebody else's attestation is worth nothing, whatever the rule leaves open.
#[tokio::test]
async fn without_a_repository_in_the_rule_it_is_one_of_the_packages_owner() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    for repository in ["evil/api", "acme-evil/api"] {
        let repository = repository.to_owned();
        let attestation = Attestation {
            repository,
            ..Attestation::of(&image.top)
        };
        put_bundle(&scenario, &image, &authority.attest(&attestation));
    }
    let message = refused(&scenario, "1").await;
    assert!(message.contains("and acme/* is required"), "{message}");
    let repository = "Acme/Other".to_owned();
    let attestation = Attestation {
        repository,
        ..Attestation::of(&image.top)
    };
    put_bundle(&scenario, &image, &authority.attest(&attestation));
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}

#[tokio::test]
async fn keys_of_every_kind_sign_in_both_forms() {
    let authority = Authority::new();
    let keys = [
        ("P-256", Key::p256()),
        ("P-384", Key::p384()),
        ("P-384 with SHA-256", Key::p384_with_sha256()),
        ("RSA", Key::rsa()),
        ("Ed25519", Key::ed25519()),
    ];
    for (name, key) in keys {
        let require = json!({"cosign_key": key.pem()});
        let scenario = requiring(&require, &authority, false).await;
        let [tagged, listed] = [1, 2].map(|seed| Image::single(&[Blob::pseudorandom(seed, 2000)]));
        scenario.push(REPOSITORY, "tagged", &tagged);
        scenario.push(REPOSITORY, "listed", &listed);
        let other = Key::p256();
        put_signatures(&scenario, &tagged, &[other.sign_payload(&tagged.top)]);
        put_bundle(
            &scenario,
            &listed,
            &other.bundle(&listed.top, IMAGE_SIGNATURE),
        );
        for tag in ["tagged", "listed"] {
            let message = refused(&scenario, tag).await;
            assert!(
                message.contains("it was not made with the key"),
                "{name}: {message}"
            );
            assert!(
                message.contains("a cosign signature by the key sha256:"),
                "{message}"
            );
        }
        // An attestation by the key is no signature of the image.
        put_bundle(
            &scenario,
            &listed,
            &key.bundle(&listed.top, "https://spdx.dev/Document"),
        );
        let message = refused(&scenario, "listed").await;
        assert!(
            message.contains("which is no signature of the image"),
            "{name}: {message}"
        );
        // Nor is a signature of another image, moved here.
        put_signatures(&scenario, &tagged, &[key.sign_payload(&listed.top)]);
        let message = refused(&scenario, "tagged").await;
        assert!(
            message.contains("it is a signature of another image"),
            "{name}: {message}"
        );
        put_signatures(
            &scenario,
            &tagged,
            &[
                other.sign_payload(&tagged.top),
                key.sign_payload(&tagged.top),
            ],
        );
        put_bundle(
            &scenario,
            &listed,
            &key.bundle(&listed.top, IMAGE_SIGNATURE),
        );
        for tag in ["tagged", "listed"] {
            let report = scenario.copy(tag).await;
            assert_eq!(report["outcome"], "copied", "{name}: {report}");
            assert_eq!(report["verified"]["by"], "cosign_key", "{name}: {report}");
        }
    }
}

#[tokio::test]
async fn a_key_may_be_in_a_secret_and_a_list_means_any() {
    let (authority, key) = (Authority::new(), Key::p256());
    let require = json!([{"attestation": {}}, {"cosign_key": "secret:cosign"}]);
    let scenario = requiring(&require, &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    // Without the key nothing is known to be signed, or not to be.
    let (kind, message) = scenario.fail("1").await;
    assert_eq!(kind, "NotFound", "{message}");
    scenario.aws.put_secret("cosign", &key.pem());
    let message = refused(&scenario, "1").await;
    assert!(
        message.contains(", or a cosign signature by the key"),
        "{message}"
    );
    put_signatures(&scenario, &image, &[key.sign_payload(&image.top)]);
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}

/// GitHub's own API has what was attested without a push to the registry.
#[tokio::test]
async fn an_attestation_that_only_githubs_api_has_counts() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = authority.attest(&Attestation::of(&image.top));
    scenario
        .github
        .put_attestation("acme", "api", &image.top, &bundle);
    let report = scenario.copy("1").await;
    assert_eq!(report["outcome"], "copied", "{report}");
    assert_eq!(report["verified"]["by"], "attestation", "{report}");
}

/// An outage of GitHub's is no verdict.
#[tokio::test]
async fn what_github_can_not_say_now_is_asked_again_later() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, false).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let bundle = authority.attest(&Attestation::of(&image.top));
    scenario
        .github
        .put_attestation("acme", "api", &image.top, &bundle);
    for server in [&scenario.github.server, &scenario.github.storage] {
        server.fault("GET", "/", usize::MAX, Fault::html(503));
        let (kind, message) = scenario.fail("1").await;
        assert_eq!(kind, "Transient", "{message}");
        assert!(!message.contains("sig="), "{message}");
        server.clear_faults();
    }
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
}

/// Attestations follow their image: for ten minutes after the push the worker waits for one, without being held.
#[tokio::test]
async fn what_is_not_signed_yet_comes_back_to_the_queue() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, true).await;
    let image = small_image();
    scenario.push(REPOSITORY, "1", &image);
    let body = webhook::package_event("acme", "api", "1", &image.top);
    let secret = support::deployment::WEBHOOK_SECRET;
    let event = webhook::api_gateway_v2("package", &body, secret);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    let batch = scenario.sqs.batch(JOB_QUEUE, 10);
    let reply = scenario.invoke(&batch).await.reply();
    assert_eq!(
        reply["batchItemFailures"].as_array().map(Vec::len),
        Some(1),
        "{reply}"
    );
    scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    assert!(scenario.sqs.messages(DEAD_LETTER_QUEUE).is_empty());
    put_bundle(
        &scenario,
        &image,
        &authority.attest(&Attestation::of(&image.top)),
    );
    scenario.process_queue().await;
    scenario.assert_stored("attested meanwhile", "1", &image);
}

/// Several sign, one after the other: what another one signed first is no reason to give up the image while it may still be signed by
/// the right one.
#[tokio::test]
async fn what_somebody_else_signed_first_comes_back_to_the_queue() {
    let (authority, key, other) = (Authority::new(), Key::p256(), Key::p256());
    let scan = |top: &str| {
        let predicate_type = "https://cosign.sigstore.dev/attestation/vuln/v1".to_owned();
        authority.attest(&Attestation {
            predicate_type,
            ..Attestation::of(top)
        })
    };
    let test = |top: &str| {
        let workflow = ".github/workflows/test.yml".to_owned();
        authority.attest(&Attestation {
            workflow,
            ..Attestation::of(top)
        })
    };
    let release = |top: &str| authority.attest(&Attestation::of(top));
    let by = |key: &Key, top: &str| key.bundle(top, IMAGE_SIGNATURE);
    let of_workflow = json!({"attestation": {"workflow": ".github/workflows/release.yml"}});
    let of_key = json!({"cosign_key": key.pem()});
    type Make<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let cases: Vec<(&Value, Make<'_>, Make<'_>)> = vec![
        (&of_workflow, Box::new(scan), Box::new(release)),
        (&of_workflow, Box::new(test), Box::new(release)),
        (
            &of_workflow,
            Box::new(|top| by(&other, top)),
            Box::new(release),
        ),
        (&of_key, Box::new(release), Box::new(|top| by(&key, top))),
        (
            &of_key,
            Box::new(|top| by(&other, top)),
            Box::new(|top| by(&key, top)),
        ),
    ];
    for (number, (require, first, right)) in cases.iter().enumerate() {
        let scenario = requiring(require, &authority, true).await;
        let image = small_image();
        scenario.push(REPOSITORY, "1", &image);
        put_bundle(&scenario, &image, &first(&image.top));
        let body = webhook::package_event("acme", "api", "1", &image.top);
        let event = webhook::api_gateway_v2("package", &body, support::deployment::WEBHOOK_SECRET);
        assert_eq!(http_reply(&scenario, &event).await.0, 202);
        let batch = scenario.sqs.batch(JOB_QUEUE, 10);
        let reply = scenario.invoke(&batch).await.reply();
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        let dead = scenario.sqs.messages(DEAD_LETTER_QUEUE);
        assert!(dead.is_empty(), "{number}: {dead:?}");
        put_bundle(&scenario, &image, &right(&image.top));
        scenario.process_queue().await;
        scenario.assert_stored(&format!("case {number}"), "1", &image);
    }
}

/// What nobody signs within ten minutes is given up; its signature's own push makes a new job.
#[tokio::test]
async fn the_push_of_the_attestation_wakes_the_job() {
    let authority = Authority::new();
    let scenario = requiring(&attested(), &authority, true).await;
    let image = small_image();
    for tag in ["1", "latest"] {
        scenario.push(REPOSITORY, tag, &image);
    }
    scenario
        .github
        .put_version("acme", "api", &image.top, &["1", "latest"]);
    put_bundle(
        &scenario,
        &image,
        &authority.attest(&Attestation::of(&image.top)),
    );
    let tag = image.top.replace(':', "-");
    let body = webhook::package_event("acme", "api", &tag, &image.top);
    let secret = support::deployment::WEBHOOK_SECRET;
    let event = webhook::api_gateway_v2("package", &body, secret);
    assert_eq!(http_reply(&scenario, &event).await.0, 202);
    scenario.process_queue().await;
    scenario.process_queue().await;
    for tag in ["1", "latest"] {
        scenario.assert_stored("woken", tag, &image);
    }
    let repository = scenario.ecr.repository(DESTINATION);
    assert_eq!(repository.tags.len(), 2, "{:?}", repository.tags);
}

#[tokio::test]
async fn a_malformed_require_stops_the_start() {
    let key = Key::p256().pem();
    for (require, part) in [
        (json!([]), "empty list"),
        (json!({}), "expected `attestation` or `cosign_key`"),
        (
            json!({"attestation": {}, "cosign_key": key}),
            "a list of two objects means either",
        ),
        (
            json!({"attestation": {"signer": "x"}}),
            "unknown field `signer`",
        ),
        (
            json!({"attestation": {"runner": "mine"}}),
            "`runner` \"mine\"",
        ),
        (
            json!({"attestation": {"repository": "api"}}),
            "expected `owner/repository`",
        ),
        (json!({"attestation": {"ref": "refs/[a"}}), "`ref`"),
        (
            json!({"cosign_key": "-----BEGIN EC PRIVATE KEY-----"}),
            "expected a public key in PEM",
        ),
        (json!({"cosign_key": "secret:"}), "expected the secret's id"),
        (json!("attestation"), "`require`"),
    ] {
        let rules = json!([{"source": "acme/*", "destination": "prod/{name}", "require": require}]);
        let scenario = Scenario::start_with(&[("RULES", &rules.to_string())]).await;
        let outcome = scenario.invoke(&direct("1")).await;
        assert!(
            matches!(outcome, Outcome::Exited { .. }),
            "{require}: {outcome:?}"
        );
        let error = scenario.function.initialization_error().unwrap_or_default();
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{require}: {message}");
        assert!(!message.contains("BEGIN EC PRIVATE"), "{message}");
    }
}

/// What was copied before the rule required anything stays, and is told of by each run; nothing is enqueued for it.
#[tokio::test]
async fn a_scheduled_run_says_what_would_not_be_copied_today() {
    let authority = Authority::new();
    let mut scenario = Scenario::start_with_queue(&[]).await;
    let [signed, unsigned] = [1, 2].map(|seed| Image::single(&[Blob::pseudorandom(seed, 2000)]));
    scenario.push(REPOSITORY, "signed", &signed);
    scenario.push(REPOSITORY, "unsigned", &unsigned);
    for tag in ["signed", "unsigned"] {
        assert_eq!(scenario.copy(tag).await["outcome"], "copied");
    }
    put_bundle(
        &scenario,
        &signed,
        &authority.attest(&Attestation::of(&signed.top)),
    );
    let rules =
        json!([{"source": "acme/api", "destination": "prod/{name}", "require": attested()}]);
    let (rules, root) = (rules.to_string(), authority.trusted_root());
    let settings = [("RULES", rules.as_str()), ("TRUSTED_ROOT", &root)];
    scenario.restart_with(&settings).await;
    let reply = scenario.invoke(&json!({"reconcile": true})).await.reply();
    let report = |tag: &str| -> Value {
        let reports = reply["reports"].as_array().cloned().unwrap_or_default();
        let about = |report: &Value| {
            report["source"]
                .as_str()
                .is_some_and(|it| it.ends_with(tag))
        };
        reports.into_iter().find(about).expect("a report")
    };
    let judged = report(":signed");
    assert_eq!(judged["outcome"], "current", "{reply}");
    assert_eq!(judged["verified"]["by"], "attestation", "{reply}");
    let judged = report(":unsigned");
    assert_eq!(judged["outcome"], "current", "{reply}");
    let warning = judged["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("it would not be copied today"), "{reply}");
    assert!(scenario.sqs.messages(JOB_QUEUE).is_empty());
    // A check looks at the newest one.
    let checklist = scenario.invoke(&json!({"check": true})).await.reply();
    let lines = checklist["checks"].as_array().cloned().unwrap_or_default();
    let line = lines
        .into_iter()
        .find(|line| line["check"] == "signature of acme/api");
    let line = line.expect("a line");
    assert_eq!(line["status"], "warning", "{line}");
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("would not be copied"), "{line}");
}
