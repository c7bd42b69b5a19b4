//! The value of `X-Hub-Signature-256` over a body: the right one is accepted, and no other.
#![no_main]

use aws_lc_rs::hmac;
use ghcr_to_ecr::event::webhook::is_signed;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

#[derive(Arbitrary, Debug)]
struct Signed {
    secret: String,
    body: Vec<u8>,
    /// Added to one byte of the body, and to one of the signature.
    difference: u8,
    position: usize,
    /// In the place of the signature.
    text: String,
    /// Behind the signature.
    rest: String,
}

fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let code = hmac::sign(&key, body);
    let digits = code.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256={}", digits.collect::<String>())
}

/// The byte at the position, counted from the start again and again, becomes another one.
fn change(bytes: &mut [u8], position: usize, difference: u8) {
    if !bytes.is_empty() {
        let position = position % bytes.len();
        bytes[position] = bytes[position].wrapping_add(difference.max(1));
    }
}

fuzz_target!(|signed: Signed| {
    let right = sign(&signed.secret, &signed.body);
    let secret = SecretString::from(signed.secret);
    let is_accepted = |body: &[u8], signature: &str| is_signed(&secret, body, Some(signature));
    assert!(is_accepted(&signed.body, &right));
    assert!(!is_signed(&secret, &signed.body, None));

    let is_right = |signature: &str| {
        let digits = signature.strip_prefix("sha256=");
        digits.is_some_and(|digits| digits.eq_ignore_ascii_case(&right["sha256=".len()..]))
    };
    let prefixed = format!("sha256={}", signed.text);
    let longer = format!("{right}{}", signed.rest);
    let shorter = &right[..signed.position % right.len()];
    let mut changed = right.clone().into_bytes();
    change(&mut changed, signed.position, signed.difference);
    let changed = String::from_utf8_lossy(&changed);
    for signature in [&signed.text, &prefixed, &longer, shorter, &changed] {
        assert_eq!(
            is_accepted(&signed.body, signature),
            is_right(signature),
            "{signature:?}"
        );
    }

    let mut body = signed.body.clone();
    change(&mut body, signed.position, signed.difference);
    assert_eq!(is_accepted(&body, &right), body == signed.body);
    body.push(signed.difference);
    assert!(!is_accepted(&body, &right));
});
