//! Any JSON as the event of an invocation.
#![no_main]

use fuzz::check_event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(payload) = serde_json::from_slice(bytes) {
        check_event(payload);
    }
});
