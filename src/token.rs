//! A GitHub token, and where it came from.

use secrecy::{ExposeSecret, SecretString};

/// A token for GitHub's API and for GHCR.
#[derive(Clone, Debug)]
pub struct Token {
    /// The secret that holds it, for messages.
    pub secret_id: String,
    /// The token itself, which can't be printed.
    pub text: SecretString,
}

/// Two are the same if GitHub could not tell them apart.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.text.expose_secret() == other.text.expose_secret()
    }
}
