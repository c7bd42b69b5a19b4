//! Secrets stay secret: whatever AWS, a registry or GitHub answers, nothing that the function says holds one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE, WEBHOOK_SECRET};
use support::ecr::Ecr;
use support::ghcr::Ghcr;
use support::http::Fault;
use support::webhook;

use crate::scenario::{Image, REPOSITORY, Scenario, direct, small_image};

/// A token and a password with characters that every encoding changes.
const TOKEN: &str = "to+ken/of=mine";
const PASSWORD: &str = "pass+word/of=ECR";

/// Ways in which a secret may be written.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), STANDARD.encode(secret)];
    for user in ["AWS", "token"] {
        forms.push(STANDARD.encode(format!("{user}:{secret}")));
    }
    let encoded = forms
        .iter()
        .map(|form| url::form_urlencoded::byte_serialize(form.as_bytes()).collect());
    let encoded: Vec<String> = encoded.collect();
    forms.extend(encoded);
    forms
}

/// Everything that the function has said: its log, what it answered, and the messages that it sent.
fn said(scenario: &Scenario, answers: &[String]) -> String {
    let mut said = scenario.function.log() + &answers.concat();
    for queue in [JOB_QUEUE, DEAD_LETTER_QUEUE] {
        for message in scenario.sqs.messages(queue) {
            said += &message.body;
            said.extend(message.attributes.into_values());
        }
    }
    said
}

fn assert_says_nothing_of(said: &str, secrets: &[&str]) {
    for form in secrets.iter().flat_map(|secret| forms(secret)) {
        assert!(!said.contains(&form), "{form:?} was printed:\n{said}");
    }
}

fn answer(status: u16, content_type: &str, body: String) -> Fault {
    Fault::Status {
        status,
        headers: vec![("content-type".to_owned(), content_type.to_owned())],
        body,
    }
}

/// Answers that hold a secret where no reader expects it.
fn damaged(secret: &str) -> Vec<Fault> {
    const JSON: &str = "application/x-amz-json-1.1";
    let text = |field: &str| format!(r#"{{"{field}": "{secret}""#);
    vec![
        answer(200, JSON, text("SecretString")),
        answer(200, JSON, text("authorizationData")),
        answer(
            200,
            JSON,
            format!(r#"{{"SecretString": {{"value": "{secret}"}}}}"#),
        ),
        answer(200, JSON, format!(r#"{{"SecretString": ["{secret}"]}}"#)),
        answer(200, JSON, format!(r#"{{"SecretBinary": "{secret}"}}"#)),
        answer(200, JSON, format!(r#"{{"authorizationData": "{secret}"}}"#)),
        answer(
            200,
            JSON,
            format!(
                r#"{{"authorizationData": [{{"authorizationToken": ["{secret}"], "proxyEndpoint": "{secret}"}}]}}"#
            ),
        ),
        answer(200, "text/html", format!("<html><p>{secret}</p></html>")),
        answer(200, "text/plain", secret.to_owned()),
        answer(200, JSON, format!(r#""{secret}""#)),
        answer(400, "text/html", format!("<html><p>{secret}</p></html>")),
        answer(400, JSON, format!(r#"{{"SecretString": "{secret}"}}"#)),
        Fault::Truncate(60),
    ]
}

/// The error text of the SDK shows such an answer whole, the secret in it included; and the HTTP reply goes to anybody.
#[tokio::test]
async fn an_answer_of_aws_that_can_not_be_understood_is_never_quoted() {
    // Without a destination's host, the authorization is asked for before anything else.
    let settings = [
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
        ("DESTINATION_REGISTRY", ""),
    ];
    let scenario = Scenario::start_with_queue(&settings).await;
    scenario.push(REPOSITORY, "1", &small_image());
    let unsigned = webhook::api_gateway_v2("package", "{}", "another secret");
    let password = STANDARD.encode(format!("AWS:{}", Ecr::PASSWORD));
    let cases = [
        ("GetSecretValue", WEBHOOK_SECRET, &unsigned),
        ("GetAuthorizationToken", password.as_str(), &direct("1")),
    ];
    let mut answers = Vec::new();
    for (operation, secret, event) in cases {
        for fault in damaged(secret) {
            let server = &scenario.aws.server;
            server.fault("POST", operation, usize::MAX, fault.clone());
            let answer = format!("{:?}", scenario.invoke(event).await);
            server.clear_faults();
            // What is understood after all, such as a binary secret, is another mistake.
            let is_binary = answer.contains("the secret is binary");
            assert!(
                answer.contains("Transient") || is_binary,
                "{operation} {fault:?}: {answer}"
            );
            answers.push(answer);
        }
    }
    // By way of the queue, whose dead letters may be read by others.
    let body = direct("1").to_string();
    scenario.sqs.send(JOB_QUEUE, "group", &body);
    for fault in damaged(Ghcr::TOKEN).into_iter().step_by(6) {
        let server = &scenario.aws.server;
        server.fault("POST", "GetSecretValue", usize::MAX, fault);
        let batch = scenario.sqs.batch(JOB_QUEUE, 1);
        let reply = scenario.invoke(&batch).await.reply();
        server.clear_faults();
        scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
        answers.push(reply.to_string());
    }
    let said = said(&scenario, &answers);
    assert!(said.contains("can't be understood"), "{said}");
    assert_says_nothing_of(&said, &[WEBHOOK_SECRET, Ghcr::TOKEN, Ecr::PASSWORD]);
}

/// Registries and GitHub may echo what was sent to them, plainly or encoded, and URLs that are as good as a key.
#[tokio::test]
async fn what_a_registry_echoes_is_redacted() {
    let scenario = Scenario::start_with(&[("AWS_LAMBDA_LOG_LEVEL", "TRACE")]).await;
    scenario.aws.put_secret("ghcr-token", TOKEN);
    scenario.ghcr.accept_tokens(&[TOKEN]);
    scenario.github.accept_tokens(&[TOKEN]);
    scenario.ecr.renew_password(PASSWORD);
    scenario.aws.authorize(
        PASSWORD,
        &scenario.ecr.server.url(),
        std::time::SystemTime::now() + std::time::Duration::from_secs(40_000),
    );
    scenario.push(REPOSITORY, "1", &small_image());
    assert_eq!(scenario.copy("1").await["outcome"], "copied");
    let header = |server: &support::http::Server| {
        let requests = server.requests().into_iter();
        let mut found =
            requests.filter_map(|request| request.headers.get("authorization").cloned());
        found.next_back().expect("an authorized request")
    };
    let bearer = header(&scenario.ghcr.server).replace("Bearer ", "");
    let basic = header(&scenario.ecr.server).replace("Basic ", "");
    let signed = &scenario.ghcr.storage.requests()[0].path;
    let signature = signed.rsplit("sig=").next().unwrap_or_default().to_owned();
    assert!(signed.contains("sig=") && signature.len() > 3, "{signed}");

    let secrets = [TOKEN, PASSWORD, &bearer, &basic, &signature, "sig="];
    let mut answers = Vec::new();
    // Each can only echo what it was sent, or hands out itself.
    let of_source = [
        forms(TOKEN),
        forms(&bearer),
        vec![
            format!("{}{signed}", scenario.ghcr.storage.url()),
            format!("see {signed}, please"),
            format!("{{\"token\":\"{TOKEN}\"}}"),
            format!("Authorization:Bearer {bearer}"),
        ],
    ];
    let of_destination = [
        forms(PASSWORD),
        forms(&basic),
        vec![format!("Basic {basic}.")],
    ];
    let (ghcr, storage, ecr) = (
        &scenario.ghcr.server,
        &scenario.ghcr.storage,
        &scenario.ecr.server,
    );
    let at_source = [(ghcr, "GET", "/manifests/"), (storage, "GET", "/")];
    let at_destination = [
        (ecr, "POST", "/blobs/uploads/"),
        (ecr, "PUT", "/manifests/"),
    ];
    let echoed = of_source.concat().into_iter().map(|text| (text, at_source));
    let others = of_destination.concat().into_iter();
    let echoed = echoed.chain(others.map(|text| (text, at_destination)));
    for (position, (text, places)) in echoed.enumerate() {
        let (tag, content) = (format!("t{position}"), format!("of image {position}"));
        let image = Image::single(&[support::image::Blob::bytes(content)]);
        scenario.push(REPOSITORY, &tag, &image);
        let envelope = json!({"errors": [{"code": text, "message": text}]}).to_string();
        let (server, method, path) = places[position % places.len()];
        let refusal = answer(400, "application/json", envelope);
        server.fault(method, path, usize::MAX, refusal);
        answers.push(scenario.fail(&tag).await.1);
        server.clear_faults();
    }
    for text in forms(TOKEN) {
        let body = json!({"message": text}).to_string();
        let refusal = answer(400, "application/json", body);
        let github = &scenario.github.server;
        github.fault("GET", "/", usize::MAX, refusal);
        let event = json!({"source": "ghcr.io/acme/api:1", "all_tags": true});
        let reply = scenario.invoke(&event).await.reply();
        assert!(reply["warnings"][0].is_string(), "{reply}");
        answers.push(reply.to_string());
        github.clear_faults();
    }
    let said = scenario.function.log() + &answers.concat();
    assert_says_nothing_of(&said, &secrets);
}

/// What nobody has signed costs no call: a flood of requests must not become one of calls to Secrets Manager.
#[tokio::test]
async fn requests_with_bad_signatures_do_not_flood_secrets_manager() {
    let scenario = Scenario::start().await;
    let unsigned: Value = webhook::api_gateway_v2("package", "{}", "another secret");
    for _ in 0..20 {
        let reply = scenario.invoke(&unsigned).await.reply();
        assert_eq!(reply["statusCode"], 401);
    }
    // The current version and the previous one, of which there is none, each once and once more after a refusal.
    let calls = scenario.aws.calls("GetSecretValue");
    assert!(calls <= 4, "{calls} calls");
}
