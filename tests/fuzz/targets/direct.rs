//! Direct events, alone and as a message of the queue: the fields are right, and what they hold is fuzzed.
#![no_main]

use fuzz::payload::Field;
use fuzz::{check_event, check_message};
use ghcr_to_ecr::event::Event;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

#[derive(Arbitrary, Debug)]
struct Asked {
    image: Image,
    several_tags: Option<Vec<String>>,
    digest: Option<Field>,
    destination: Option<Destination>,
    options: Vec<(Choice, Field)>,
    is_true: bool,
}

#[derive(Arbitrary, Debug)]
enum Image {
    Usual,
    Package(String),
    TagOf(String),
    DigestOf(String),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Destination {
    Repository(String),
    Tag(String),
    InRegistry(String),
    OnePlatform(String, String),
    Text(String),
}

#[derive(Arbitrary, Debug)]
enum Choice {
    AllTags,
    DryRun,
    Force,
    Platform,
    Other(String),
}

impl Asked {
    fn json(&self) -> Value {
        let mut event = Map::new();
        let image = match &self.image {
            Image::Usual => "ghcr.io/acme/api:1.2.3".to_owned(),
            Image::Package(name) => format!("ghcr.io/acme/{name}:1"),
            Image::TagOf(tag) => format!("ghcr.io/acme/api:{tag}"),
            Image::DigestOf(digest) => format!("ghcr.io/acme/api@{digest}"),
            Image::Text(text) => text.clone(),
        };
        if let Some(tags) = &self.several_tags {
            let name = image.rsplit_once(':').map_or(&*image, |(name, _)| name);
            event.insert("image".to_owned(), json!(name));
            event.insert("tags".to_owned(), json!(tags));
        } else {
            event.insert("source".to_owned(), json!(image));
        }
        if let Some(digest) = &self.digest {
            digest.put(&mut event, "digest", &format!("sha256:{}", "4".repeat(64)));
        }
        if let Some(destination) = &self.destination {
            let destination = match destination {
                Destination::Repository(name) => json!(name),
                Destination::Tag(tag) => json!(format!("prod/api:{tag}")),
                Destination::InRegistry(rest) => {
                    json!(format!("123456789012.dkr.ecr.eu-west-3.amazonaws.com/{rest}"))
                }
                Destination::OnePlatform(to, platform) => json!({"to": to, "platform": platform}),
                Destination::Text(text) => json!(text),
            };
            event.insert("destination".to_owned(), destination);
        }
        for (choice, field) in &self.options {
            let name = match choice {
                Choice::AllTags => "all_tags",
                Choice::DryRun => "dry_run",
                Choice::Force => "force",
                Choice::Platform => "platform",
                Choice::Other(name) => name,
            };
            match field {
                Field::Usual if name == "platform" => {
                    drop(event.insert(name.to_owned(), json!("linux/arm64")));
                }
                Field::Usual => drop(event.insert(name.to_owned(), json!(self.is_true))),
                other => other.put(&mut event, name, ""),
            }
        }
        event.into()
    }
}

fuzz_target!(|asked: Asked| {
    let direct = asked.json();
    let body = direct.to_string();
    check_event(direct);

    let event = json!({"Records": [{
        "eventSource": "aws:sqs",
        "messageId": "1",
        "receiptHandle": "2",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
    }]});
    let Ok(Event::Queue(messages)) = Event::read(event) else {
        panic!("a message is a message, whatever its body is")
    };
    assert_eq!(messages[0].body, body);
    check_message(&messages[0].body);
});
