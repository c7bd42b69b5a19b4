//! Keeps secrets out of foreign texts: whoever is called may echo what was sent to it, plainly or encoded.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// What stands in place of a secret.
const ELLIPSIS: &str = "…";

/// Less of an encoded secret is not looked for: it might occur by chance, and gives little away.
const SHORTEST_ENCODED: usize = 4;

/// `text` without `secrets`, be they plain, as in a JSON text, in hexadecimal digits, in base64 (wherever in the encoded text they
/// begin) or percent-encoded.
pub fn redact(text: &str, secrets: &[SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        for form in forms(secret.expose_secret()) {
            text = text.replace(form.expose_secret(), ELLIPSIS);
        }
    }
    text
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
        let secrets = [SecretString::from(secret)];
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
                        let shown = redact(&format!("no {text} here"), &secrets);
                        assert!(shown.contains(ELLIPSIS), "{text}: {shown}");
                        assert!(shown.len() < text.len(), "{text}: {shown}");
                    }
                }
            }
        }
        let secrets = [SecretString::from("pass\"word\\/~")];
        for text in [
            r#"pass\"word\\/~"#,
            "7061737322776f72645c2f7e",
            "7061737322776F72645C2F7E",
            "pass%22word%5c%2f~",
            "pass%22word%5C%2F~",
        ] {
            assert_eq!(redact(text, &secrets), ELLIPSIS);
        }
        assert_eq!(redact("nothing", &secrets), "nothing");
        assert_eq!(redact("nothing", &[SecretString::from("")]), "nothing");
    }
}
