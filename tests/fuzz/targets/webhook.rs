//! The header `X-GitHub-Event`, `Content-Type` and a body: a line each, and the rest.
#![no_main]

use std::str;

use fuzz::{assert_one_line, split_line};
use ghcr_to_ecr::event::webhook::{self, Delivery};
use ghcr_to_ecr::reference::{is_package, is_tag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (event_name, rest) = split_line(bytes);
    let (content_type, body) = split_line(rest);
    let Ok(event_name) = str::from_utf8(event_name) else {
        return;
    };
    let payload = match webhook::payload(str::from_utf8(content_type).ok(), body) {
        Ok(payload) => payload,
        Err(reason) => return assert_one_line(&reason),
    };
    match webhook::read(event_name, &payload) {
        Ok(Delivery::Published(published)) => {
            assert!(is_package(&published.package), "{published:?}");
            assert!(published.version.tag().is_some_and(is_tag), "{published:?}");
        }
        Ok(Delivery::Ignored(reason)) | Err(reason) => assert_one_line(&reason),
    }
});
