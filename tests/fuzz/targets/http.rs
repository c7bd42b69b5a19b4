//! Requests in the form in which API Gateway and function URLs pass them on: the envelope is valid, and what it carries is fuzzed.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fuzz::check_delivery;
use fuzz::payload::Payload;
use ghcr_to_ecr::copy::report::Report;
use ghcr_to_ecr::event::Event;
use ghcr_to_ecr::reports::Reports;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
struct Sent {
    gateway: Gateway,
    event_name: Option<String>,
    signature: Option<String>,
    content_type: Option<String>,
    body: Body,
}

#[derive(Arbitrary, Debug)]
enum Gateway {
    HttpApi,
    RestApi,
    RestApiWithLists,
}

#[derive(Arbitrary, Debug)]
enum Body {
    Text(String),
    Base64(Vec<u8>),
    NoBase64(String),
    Payload(Payload),
    Form(Payload),
}

impl Sent {
    /// The body as it was sent, the text that stands for it in the event, and whether that is base64.
    fn body(&self) -> (Vec<u8>, String, bool) {
        let text = |text: String| (text.clone().into_bytes(), text, false);
        match &self.body {
            Body::Text(sent) => text(sent.clone()),
            Body::Base64(sent) => (sent.clone(), STANDARD.encode(sent), true),
            Body::NoBase64(sent) => (
                STANDARD.decode(sent).unwrap_or_default(),
                sent.clone(),
                true,
            ),
            Body::Payload(payload) => text(payload.json().to_string()),
            Body::Form(payload) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("payload", &payload.json().to_string());
                text(form.finish())
            }
        }
    }

    /// The headers, with what belongs to the body where none are fuzzed.
    fn headers(&self) -> [(&'static str, Option<String>); 3] {
        let (event_name, content_type) = match &self.body {
            Body::Payload(payload) => (payload.event_name(), "application/json"),
            Body::Form(payload) => (payload.event_name(), "application/x-www-form-urlencoded"),
            _ => ("package", "application/json"),
        };
        let or = |value: &Option<String>, usual: &str| value.clone().or(Some(usual.to_owned()));
        [
            ("X-GitHub-Event", or(&self.event_name, event_name)),
            ("Content-Type", or(&self.content_type, content_type)),
            ("X-Hub-Signature-256", self.signature.clone()),
        ]
    }

    fn event(&self) -> Value {
        let headers = self.headers();
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?)));
        let (_, body, is_base64) = self.body();
        match self.gateway {
            Gateway::HttpApi => json!({
                "version": "2.0",
                "requestContext": {"http": {"method": "POST"}},
                "headers": headers
                    .map(|(name, value)| (name.to_lowercase(), json!(value)))
                    .collect::<serde_json::Map<_, _>>(),
                "body": body,
                "isBase64Encoded": is_base64,
            }),
            Gateway::RestApi => json!({
                "requestContext": {"httpMethod": "POST"},
                "httpMethod": "POST",
                "headers": headers
                    .map(|(name, value)| (name.to_owned(), json!(value)))
                    .collect::<serde_json::Map<_, _>>(),
                "body": body,
                "isBase64Encoded": is_base64,
            }),
            Gateway::RestApiWithLists => json!({
                "requestContext": {"httpMethod": "POST"},
                "httpMethod": "POST",
                "headers": null,
                "multiValueHeaders": headers
                    .map(|(name, value)| (name.to_owned(), json!([value])))
                    .collect::<serde_json::Map<_, _>>(),
                "body": body,
                "isBase64Encoded": is_base64,
            }),
        }
    }
}

fn is_header(value: &str) -> bool {
    HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok())
}

fuzz_target!(|sent: Sent| {
    let event = Event::read(sent.event()).expect("what a gateway sends is never a function error");
    let Event::Http(request) = event else {
        panic!("{event:?} is no request")
    };
    let headers = sent.headers();
    if headers
        .iter()
        .all(|(_, value)| value.as_deref().is_none_or(is_header))
    {
        assert_eq!(request.body, sent.body().0);
        let [event_name, content_type, signature] = headers.map(|(_, value)| value);
        assert_eq!(request.event_name, event_name);
        assert_eq!(request.content_type, content_type);
        assert_eq!(request.signature, signature);
    }
    let delivery = request.delivery();
    if let Err(error) = &delivery {
        let mut reports = Reports::default();
        reports.add(Report::failed(None, error.clone()));
        let reply = request.reply(&reports);
        let status = reply.expect("an HTTP client always gets an answer")["statusCode"].as_i64();
        assert_eq!(status, Some(400));
    }
    check_delivery(delivery, request.delivery_id);
});
