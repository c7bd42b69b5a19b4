//! Keeps secrets out of foreign texts: whoever is called may echo what was sent to it, plainly or encoded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// What stands in place of a secret.
const ELLIPSIS: &str = "…";

/// Less of an encoded secret is not looked for: it might occur by chance, and gives little away.
const SHORTEST_ENCODED: usize = 4;

/// By so many bytes a form may be shorter than the secret: base64 without the characters at its ends that depend on its neighbours.
const MISSING_AT_ENDS: usize = 3;

/// A shorter text is no secret, and may be a part of any word.
const SHORTEST: usize = 6;

/// So many secrets are known, so that a warm process does not grow: those of all repositories that it reads from at a time, and
/// those before a renewal.
const KNOWN_LIMIT: usize = 500;

/// The secrets that a process uses or is given. Each service may echo those of every other, so there is one store, which clones share.
#[derive(Clone, Default)]
pub struct KnownSecrets(Arc<Mutex<VecDeque<SecretString>>>);

impl KnownSecrets {
    /// Keeps a secret out of texts from now on.
    pub fn remember(&self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let mut known = self.lock();
        // The one that was used last is forgotten last.
        known.retain(|it| it.expose_secret() != secret);
        known.push_back(SecretString::from(secret));
        let surplus = known.len().saturating_sub(KNOWN_LIMIT);
        known.drain(..surplus);
    }

    /// `text` without the secrets, be they plain, as in a JSON text, in hexadecimal digits, in base64 (wherever in the encoded text
    /// they begin) or percent-encoded.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.lock().iter().map(ExposeSecret::expose_secret) {
            if secret.len() <= text.len() + MISSING_AT_ENDS {
                for form in forms(secret) {
                    text = text.replace(form.expose_secret(), ELLIPSIS);
                }
            }
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SecretString>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways to write a secret. Whoever encodes it along with what stands before it, such as a user name, gets one of three texts for
/// it, as base64 makes four characters of three bytes; those at its ends depend on its neighbours and are left aside.
fn forms(secret: &str) -> Vec<SecretString> {
    let hexadecimal = |byte: u8| format!("{byte:02x}");
    let hexadecimal: String = secret.bytes().map(hexadecimal).collect();
    let quoted = Value::from(secret).to_string();
    let quoted = quoted.trim_start_matches('"').trim_end_matches('"');
    let mut forms = vec![
        secret.to_owned(),
        quoted.to_owned(),
        hexadecimal.to_uppercase(),
        hexadecimal,
    ];
    for before in 0..3 {
        let bytes = [&[0; 3][..before], secret.as_bytes()].concat();
        let begin = if before == 0 { 0 } else { 4 };
        let end = bytes.len() / 3 * 4;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&bytes);
            let core = encoded.get(begin..end).unwrap_or_default();
            if core.len() >= SHORTEST_ENCODED {
                forms.push(core.to_owned());
            }
        }
    }
    let percent_encoded: Vec<[String; 3]> = forms.iter().map(|form| in_url(form)).collect();
    forms.extend(percent_encoded.into_iter().flatten());
    forms.retain(|form| !form.is_empty());
    forms.into_iter().map(SecretString::from).collect()
}

/// A text as in a form, and as in a URL with digits of either case. (WHATWG URL, "application/x-www-form-urlencoded"; RFC 3986
/// section 2.1)
fn in_url(text: &str) -> [String; 3] {
    let encoded = |escape: fn(u8) -> String| -> String {
        let character = |byte: u8| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => char::from(byte).to_string(),
            false => escape(byte),
        };
        text.bytes().map(character).collect()
    };
    [
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        encoded(|byte| format!("%{byte:02X}")),
        encoded(|byte| format!("%{byte:02x}")),
    ]
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let secret = "pass+word/of=ECR?>~";
        let known = KnownSecrets::default();
        known.remember(secret);
        for before in ["", "A", "AB", "ABC", "AWS:", "token:"] {
            for after in ["", "x", "yz"] {
                let plain = format!("{before}{secret}{after}");
                let encoded = [
                    plain.clone(),
                    STANDARD.encode(&plain),
                    URL_SAFE_NO_PAD.encode(&plain),
                ];
                for text in encoded {
                    let twice: String =
                        url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
                    for text in [text, twice] {
                        let shown = known.redact(&format!("no {text} here"));
                        assert!(shown.contains(ELLIPSIS), "{text}: {shown}");
                        assert!(shown.len() < text.len(), "{text}: {shown}");
                    }
                }
            }
        }
        known.remember("pass\"word\\/~");
        for text in [
            r#"pass\"word\\/~"#,
            "7061737322776f72645c2f7e",
            "7061737322776F72645C2F7E",
            "pass%22word%5c%2f~",
            "pass%22word%5C%2F~",
        ] {
            assert_eq!(known.redact(text), ELLIPSIS);
        }
        known.remember("");
        assert_eq!(known.redact("nothing"), "nothing");
    }

    #[test]
    fn a_text_may_be_no_longer_than_a_form_of_the_secret() {
        for length in SHORTEST..40 {
            let secret: String = ('A'..='z').cycle().take(length).collect();
            let known = KnownSecrets::default();
            known.remember(&secret);
            for form in forms(&secret) {
                let shown = known.redact(form.expose_secret());
                assert!(shown.contains(ELLIPSIS), "{length}: {shown}");
            }
        }
    }

    #[test]
    fn the_secrets_that_were_used_last_are_known() {
        let known = KnownSecrets::default();
        let secret = |number: usize| format!("secret {number:04}");
        known.remember(&secret(0));
        for number in 0..2 * KNOWN_LIMIT {
            known.remember(&secret(number));
            known.remember(&secret(0));
        }
        let number = 2 * KNOWN_LIMIT - 1;
        assert_eq!(known.redact(&secret(number)), ELLIPSIS);
        assert_eq!(known.redact(&secret(0)), ELLIPSIS);
        assert_eq!(known.lock().len(), KNOWN_LIMIT);
    }
}
