//! Nothing secret leaves the function, whatever comes back to it: every trigger is tried against answers that hold, in many forms,
//! what the service was sent or hands out; and then everything that the function has said is searched.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use serde_json::{Value, json};
use support::aws::in_twelve_hours;
use support::deployment::{DEAD_LETTER_QUEUE, JOB_QUEUE};
use support::function::Outcome;
use support::http::{Fault, Request, Server};
use support::image::{Blob, Signer};
use support::sqs::Message;
use support::webhook;

use crate::scenario::{Image, REPOSITORY, Scenario, direct};

/// Secrets with characters that every encoding changes.
const TOKEN: &str = "to+ken/of=\"mine\"~?";
const LENT: &str = "len+t/for=\"one\"copy~?";
const PASSWORD: &str = "pass+word/of=ECR\\?>~";
const HOOK: &str = "It's a \"Secret\" to/Everybody?";
const HOOK_BEFORE: &str = "The+Secret\\before that one>";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "IQoJb3JpZ2luX2VjEXAMPLE//session+token==";

const BUS: &str = "images";

/// Every feature that speaks to somebody.
const RULES: &str = r#"[{
    "source": "acme/api", "destination": ["prod/{name}", "new/{name}"],
    "referrers": true, "prune": true, "repository": {"create": true, "lifecycle_keep": 1000}
}, {"source": "acme/*", "destination": "prod/{name}"}]"#;

const SETTINGS: [(&str, &str); 7] = [
    ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
    ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
    ("RUST_LOG", "trace"),
    ("AWS_SESSION_TOKEN", SESSION),
    ("EVENT_BUS", BUS),
    ("RULES", RULES),
    ("DESTINATION_REGISTRY", ""),
];

/// For each invocation; the function keeps two seconds of it back. What waits longer for another try has said all that it will.
const PATIENCE: Duration = Duration::from_secs(4);

/// So many processes run at once; most of their time they wait for another try.
const AT_ONCE: usize = 6;

/// All the ways in which somebody may write a secret.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    let hexadecimal = |byte: u8| format!("{byte:02x}");
    forms.push(secret.bytes().map(hexadecimal).collect());
    let quoted = Value::from(secret).to_string();
    forms.push(quoted[1..quoted.len() - 1].to_owned());
    forms.push(forms[1].to_uppercase());
    let escapes: [fn(u8) -> String; 2] =
        [|byte| format!("%{byte:02X}"), |byte| format!("%{byte:02x}")];
    for escape in escapes {
        let percent = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => char::from(byte).to_string(),
            false => escape(byte),
        };
        forms.push(secret.bytes().map(percent).collect());
    }
    forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    // Wherever in the encoded text it begins; also as the password of a `Basic` header.
    for before in ["", "x", "xy", "AWS:", "token:", "user:"] {
        let pair = format!("{before}{secret}");
        forms.push(STANDARD_NO_PAD.encode(&pair));
        forms.push(URL_SAFE_NO_PAD.encode(&pair));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// What of a secret's forms is looked for: those whose ends depend on their neighbours without these.
fn traces(secret: &str) -> Vec<String> {
    let mut traces: Vec<String> = forms(secret);
    for before in 0..3 {
        let bytes = [&b"xy"[..before.min(2)], secret.as_bytes()].concat();
        let begin = if before == 0 { 0 } else { 4 };
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&bytes);
            traces.push(encoded[begin..bytes.len() / 3 * 4].to_owned());
        }
    }
    traces.retain(|trace| trace.len() >= 8);
    traces.sort();
    traces.dedup();
    traces
}

/// Where answers are damaged, and what the service there may know.
struct Place<'a> {
    server: &'a Server,
    method: &'static str,
    path: &'static str,
    knows: Vec<String>,
}

/// The answers with which a place may betray what it knows; each holds another few of the forms.
fn damaged(place: &Place<'_>) -> Vec<(usize, Fault)> {
    let all: Vec<String> = place.knows.iter().flat_map(|known| forms(known)).collect();
    let mut next = all.iter().cycle();
    let mut some = || -> String {
        let some: Vec<&str> = next.by_ref().take(3).map(String::as_str).collect();
        some.join(" ")
    };
    let status = |status, headers: &[(&str, String)], body: String| Fault::Status {
        status,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        body,
    };
    let json_type = || ("content-type", "application/json".to_owned());
    let aws_type = || ("content-type", "application/x-amz-json-1.1".to_owned());
    let mut faults = Vec::new();
    let rounds = all.len().div_ceil(6);
    for round in 0..rounds {
        let (code, message) = (some(), some());
        let envelope = json!({"errors": [{"code": code, "message": message}], "message": message});
        let refusals = [400, 403, 404, 401];
        let refusal = refusals[round % refusals.len()];
        faults.push((
            usize::MAX,
            status(refusal, &[json_type()], envelope.to_string()),
        ));
    }
    let challenge = format!(
        "Bearer realm=\"http://127.0.0.1:1/{}\",service=\"{}\"",
        some().replace(['"', '\\'], ""),
        some().replace(['"', '\\'], "")
    );
    faults.push((
        usize::MAX,
        status(401, &[("www-authenticate", challenge)], some()),
    ));
    let page = format!("<html><title>{}</title><p>{}</p></html>", some(), some());
    faults.push((2, status(200, &[("content-type", some())], page.clone())));
    faults.push((2, status(503, &[("content-type", some())], page)));
    let cut = format!(r#"{{"token": "{}", "tags": ["{}""#, some(), some());
    faults.push((2, status(200, &[json_type()], cut)));
    let members = json!({
        "token": [some()], "schemaVersion": some(), "mediaType": some(), "manifests": some(), "layers": some(),
        "config": some(), "tags": some(), "name": {"a": some()}, "SecretString": [some()], "authorizationData": some(),
        "repositories": some(), "FailedEntryCount": some(), "Successful": some(), "imageDetails": some(),
    });
    faults.push((2, status(200, &[json_type()], members.to_string())));
    let entries = json!([{"ErrorCode": "InternalFailure", "ErrorMessage": "no"}]);
    let members =
        json!({"FailedEntryCount": 1, "Entries": entries, "SecretString": {"value": some()}});
    faults.push((2, status(200, &[aws_type()], members.to_string())));
    let headers = [
        ("content-type", some()),
        ("docker-content-digest", some()),
        (
            "location",
            format!("http://127.0.0.1:1/{}", some().replace(' ', "?sig=")),
        ),
        (
            "link",
            format!("</v2/x?last={}>; rel=\"next\"", some().replace(' ', "&")),
        ),
        ("content-range", some()),
        ("retry-after", some()),
        (
            "x-github-sso",
            format!("required; url=https://github.com/{}", some()),
        ),
        ("github-authentication-token-expiration", some()),
        ("x-amzn-errortype", some()),
        ("x-amz-request-id", some()),
    ];
    for code in [200, 307, 403] {
        faults.push((2, status(code, &headers, "{}".to_owned())));
    }
    // AWS repeats the request that it was to check, headers and all.
    let canonical = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and \
         signing method. Consult the service documentation for details.\n\nThe Canonical String for this request should have \
         been\n'POST\n/\n\nx-amz-security-token:{}\n'\n\nThe String-to-Sign should have been\n'{}'",
        some(),
        some()
    );
    let members = json!({"__type": "InvalidSignatureException", "message": canonical});
    faults.push((usize::MAX, status(400, &[aws_type()], members.to_string())));
    faults.push((2, Fault::Truncate(60)));
    faults
}

/// The events of every trigger but the queue, about the image `tag`.
fn events(tag: &str, image: &Image) -> Vec<Value> {
    let body = webhook::package_event("acme", "api", tag, &image.top);
    let detail: Value = serde_json::from_str(&body).expect("JSON");
    let with = |field: &str| {
        let mut event = direct(tag);
        event[field] = json!(true);
        event
    };
    vec![
        webhook::api_gateway_v2("package", &body, HOOK),
        direct(tag),
        webhook::scheduler(),
        webhook::api_gateway_v1("package", &body, HOOK_BEFORE),
        with("force"),
        json!({"reconcile": ["acme/*"], "dry_run": true}),
        webhook::eventbridge("github.com", "package", detail),
        with("all_tags"),
        with("dry_run"),
        json!({"check": true}),
        lending(tag),
        webhook::in_base64(webhook::api_gateway_v2("package", &body, HOOK)),
        webhook::scheduled_rule(),
        json!({"reconcile": ["acme/api"]}),
        webhook::api_gateway_v2("package", &body, "another secret"),
    ]
}

/// Asks for a copy with a token that is lent for it.
fn lending(tag: &str) -> Value {
    let mut event = direct(tag);
    event["token"] = json!(LENT);
    event
}

/// What was said so far, besides the log.
struct Run {
    scenario: Scenario,
    images: u64,
    invocations: usize,
    answers: Vec<String>,
    /// Of processes that were replaced.
    logged: Vec<String>,
}

impl Run {
    async fn start() -> Run {
        let scenario = Scenario::start_with_queue(&SETTINGS).await;
        scenario.aws.put_secret("ghcr-token", TOKEN);
        scenario.aws.put_secret("webhook-secret", HOOK_BEFORE);
        scenario.aws.put_secret("webhook-secret", HOOK);
        scenario.aws.create_event_bus(BUS);
        scenario.ghcr.accept_tokens(&[TOKEN, LENT]);
        scenario.github.accept_tokens(&[TOKEN, LENT]);
        scenario.ecr.renew_password(PASSWORD);
        let registry = scenario.ecr.server.url();
        scenario
            .aws
            .authorize(PASSWORD, &registry, in_twelve_hours());
        let mut run = Run {
            scenario,
            images: 0,
            invocations: 0,
            answers: Vec::new(),
            logged: Vec::new(),
        };
        run.use_every_token().await;
        run
    }

    /// Lets the process know what others may repeat to it.
    async fn use_every_token(&mut self) {
        for event in [lending, direct] {
            let (tag, _) = self.push();
            self.invoke(&event(&tag)).await;
        }
    }

    async fn invoke(&mut self, event: &Value) {
        self.invocations += 1;
        let function = &self.scenario.function;
        let outcome = function.invoke_with_deadline(event, PATIENCE).await;
        self.answers.push(match outcome {
            Outcome::Reply(reply) => reply.to_string(),
            Outcome::Error { message, .. } => message,
            other => panic!("{event}: {other:?}"),
        });
    }

    /// A new image with a signature, so that there is always something to do.
    fn push(&mut self) -> (String, Image) {
        self.images += 1;
        let image = Image::single(&[Blob::pseudorandom(self.images, 3000)]);
        let tag = format!("t{}", self.images);
        let scenario = &self.scenario;
        scenario.push(REPOSITORY, &tag, &image);
        let signer = Signer::ALL[self.images as usize % Signer::ALL.len()];
        let subject = image.top_manifest();
        let signature = signer.sign(subject);
        match signer.tag(&subject.digest) {
            Some(tag) => scenario.ghcr.put_image(REPOSITORY, &tag, &signature),
            None => scenario
                .ghcr
                .put_referrer(REPOSITORY, &subject.digest, &signature),
        }
        (tag, image)
    }

    /// Brings the function what is in the queue, once.
    async fn deliver(&mut self) {
        let batch = self.scenario.sqs.batch(JOB_QUEUE, 10);
        if batch["Records"] == json!([]) {
            return;
        }
        self.invoke(&batch).await;
        let reply: Value =
            serde_json::from_str(&self.answers[self.answers.len() - 1]).unwrap_or_default();
        let reply = match reply.is_object() {
            true => reply,
            // Lambda would try again; here others have to come to their turn.
            false => json!({"batchItemFailures": []}),
        };
        self.scenario.sqs.settle(JOB_QUEUE, &batch, &reply);
    }

    fn places(&self) -> Vec<Place<'_>> {
        let scenario = &self.scenario;
        let last = |server: &Server| -> Request {
            let requests = server.requests().into_iter();
            let mut known =
                requests.filter(|request| request.headers.contains_key("authorization"));
            known.next_back().expect("an authorized request")
        };
        let authorization = |server: &Server| last(server).headers["authorization"].clone();
        let bearer = authorization(&scenario.ghcr.server);
        let bearer = bearer.replace("Bearer ", "").replace("Basic ", "");
        let stored = scenario.ghcr.storage.requests();
        let signed = &stored[stored.len() - 1].path;
        let signature = signed.rsplit("sig=").next().unwrap_or_default();
        let address = format!("{}{signed}", scenario.ghcr.storage.url());
        let basic = authorization(&scenario.ecr.server).replace("Basic ", "");
        let ghcr = vec![TOKEN.to_owned(), LENT.to_owned(), bearer];
        let storage = vec![address, signature.to_owned()];
        let ecr = vec![PASSWORD.to_owned(), basic];
        let aws = vec![SESSION.to_owned()];
        let (registry, destination) = (&scenario.ghcr.server, &scenario.ecr.server);
        let mut places = vec![("GET", "/", &scenario.ghcr.storage, storage)];
        for path in ["/token", "/v2/", "/manifests/", "/blobs/", "tags/list"] {
            places.push(("GET", path, registry, ghcr.clone()));
        }
        for (method, path) in [
            ("POST", "/blobs/uploads/"),
            ("PUT", "/blobs/uploads/"),
            ("PUT", "/manifests/"),
            ("GET", "/manifests/"),
            ("HEAD", "/"),
        ] {
            places.push((method, path, destination, ecr.clone()));
        }
        for path in ["/orgs/", "/packages/", "/rate_limit", "/versions"] {
            places.push(("GET", path, &scenario.github.server, vec![TOKEN.to_owned()]));
        }
        for operation in [
            "GetSecretValue",
            "GetAuthorizationToken",
            "DescribeRepositories",
            "CreateRepository",
            "DescribeImages",
            "PutEvents",
        ] {
            places.push(("POST", operation, &scenario.aws.server, aws.clone()));
        }
        for operation in ["SendMessage", "ChangeMessageVisibility"] {
            places.push(("POST", operation, &scenario.sqs.server, aws.clone()));
        }
        let place = |(method, path, server, knows)| Place {
            server,
            method,
            path,
            knows,
        };
        places.into_iter().map(place).collect()
    }

    /// Every answer of one place, each against the next trigger and the queue.
    async fn try_place(&mut self, position: usize) {
        let count = damaged(&self.places()[position]).len();
        for turn in 0..count {
            if turn == count / 2 {
                self.change_form("Text").await;
            }
            // Anew each time, as what is handed out for a while changes.
            let mut faults = damaged(&self.places()[position]).into_iter();
            let (times, fault) = faults.nth(turn).expect("as many as before");
            let (tag, image) = self.push();
            let events = events(&tag, &image);
            let place = &self.places()[position];
            place.server.fault(place.method, place.path, times, fault);
            self.invoke(&events[(turn + position) % events.len()]).await;
            self.deliver().await;
            self.servers().into_iter().for_each(Server::clear_faults);
            // Or a refusal that is kept would be all that the next triggers meet.
            self.scenario.ghcr.expire_tokens();
        }
    }

    /// Replaces the process by one whose log has another form.
    async fn change_form(&mut self, form: &str) {
        let log = self.scenario.function.log();
        self.logged.extend(log.lines().map(str::to_owned));
        let mut settings = SETTINGS;
        settings[0].1 = form;
        self.scenario.restart_with(&settings).await;
        self.use_every_token().await;
    }

    fn servers(&self) -> [&Server; 6] {
        let scenario = &self.scenario;
        [
            &scenario.ghcr.server,
            &scenario.ghcr.storage,
            &scenario.github.server,
            &scenario.ecr.server,
            &scenario.aws.server,
            &scenario.sqs.server,
        ]
    }

    /// A copy that is cut off is sent anew, and one that can't succeed is given up.
    async fn cut_off_and_give_up(&mut self) {
        let (tag, _) = self.push();
        let sqs = &self.scenario.sqs;
        sqs.send(JOB_QUEUE, "cut", &direct(&tag).to_string());
        sqs.send(JOB_QUEUE, "missing", &direct("missing").to_string());
        let ecr = &self.scenario.ecr.server;
        ecr.fault("PUT", "/manifests/", 1, Fault::Hold);
        let batch = sqs.batch(JOB_QUEUE, 10);
        let function = &self.scenario.function;
        let outcome = function.invoke_with_deadline(&batch, 2 * PATIENCE);
        let reply = outcome.await.reply();
        self.invocations += 1;
        ecr.release();
        sqs.settle(JOB_QUEUE, &batch, &reply);
        self.answers.push(reply.to_string());
        for _ in 0..4 {
            self.deliver().await;
        }
        let sqs = &self.scenario.sqs;
        let is_given_up = |it: &Message| it.body.contains(":missing");
        assert!(sqs.messages(DEAD_LETTER_QUEUE).iter().any(is_given_up));
    }

    /// Everything that was said: lines of the log, answers, messages with their attributes, events.
    fn said(&self) -> Vec<String> {
        let log = self.scenario.function.log();
        let mut said = self.logged.clone();
        said.extend(log.lines().map(str::to_owned));
        said.extend(self.answers.iter().cloned());
        for queue in [JOB_QUEUE, DEAD_LETTER_QUEUE] {
            for message in self.scenario.sqs.messages(queue) {
                said.push(message.body);
                said.extend(message.attributes.into_values());
            }
        }
        let events = self.scenario.aws.events(BUS);
        said.extend(events.iter().map(Value::to_string));
        said
    }

    /// Every secret that was in use, those that came and went included.
    fn secrets(&self) -> BTreeSet<String> {
        let fixed = [
            TOKEN,
            LENT,
            PASSWORD,
            HOOK,
            HOOK_BEFORE,
            SECRET_KEY,
            SESSION,
        ];
        let mut secrets: BTreeSet<String> = fixed.map(str::to_owned).into();
        for request in self.servers().into_iter().flat_map(Server::requests) {
            let authorization = request.headers.get("authorization").cloned();
            let secret = authorization
                .as_deref()
                .and_then(|it| it.rsplit([' ', '=']).next());
            match authorization.as_deref() {
                Some(header) if header.starts_with("AWS4") => {
                    secrets.extend(secret.map(str::to_owned))
                }
                Some(header) => secrets.extend(header.split_once(' ').map(|it| it.1.to_owned())),
                None => {}
            }
            let signature = request.path.split_once("sig=");
            let signature = signature.and_then(|(_, rest)| rest.split('&').next());
            secrets.extend(signature.map(str::to_owned));
        }
        secrets
    }
}

/// What one place may betray, and how much was searched for it.
#[derive(Debug, Default)]
struct Searched {
    invocations: usize,
    texts: usize,
    bytes: usize,
    secrets: usize,
    forms: usize,
}

/// Everything that can be said about one place.
async fn try_all(position: usize) -> Run {
    let mut run = Run::start().await;
    run.try_place(position).await;
    run.cut_off_and_give_up().await;
    run
}

fn search(run: &Run) -> Searched {
    let (said, secrets) = (run.said(), run.secrets());
    let whole = said.join("\n");
    let mut forms = 0;
    for secret in &secrets {
        for trace in traces(secret) {
            forms += 1;
            let line = said.iter().find(|text| text.contains(&trace));
            assert_eq!(line, None, "{trace:?}, a form of {secret:?}, was said");
        }
    }
    for part in ["copied", "error_kind", "ghcr.io/acme/api"] {
        assert!(whole.contains(part), "{part}");
    }
    Searched {
        invocations: run.invocations,
        texts: said.len(),
        bytes: whole.len(),
        secrets: secrets.len(),
        forms,
    }
}

#[tokio::test]
async fn nothing_that_is_said_holds_a_secret() {
    let count = Run::start().await.places().len();
    let mut all = Searched::default();
    let positions: Vec<usize> = (0..count).collect();
    // Each is a process.
    for positions in positions.chunks(AT_ONCE) {
        let runs = join_all(positions.iter().map(|position| try_all(*position)));
        // The servers stand still while it is searched, so that comes when nothing waits for them any more.
        for searched in runs.await.iter().map(search) {
            all.invocations += searched.invocations;
            all.texts += searched.texts;
            all.bytes += searched.bytes;
            all.secrets += searched.secrets;
            all.forms += searched.forms;
        }
    }
    println!("{count} places of answers: {all:?}");
}
