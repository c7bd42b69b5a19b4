//! Which token is used for what is read from GHCR and GitHub: the one that was lent, else the one in the rule's own secret, else the
//! general one, else none.

use std::sync::Arc;

use secrecy::SecretString;

use super::Registries;
use crate::error::Result;
use crate::kept::{Freshness, with_renewal};
use crate::registry::{Credential, Credentials};
use crate::token::Token;

/// What a lent token is called where another one has the id of its secret.
const LENT: &str = "`token` of the event";

/// GHCR ignores the user name, but Basic credentials have one.
const USERNAME: &str = "token";

impl Registries {
    /// The token in `token_secret_id`, read again.
    ///
    /// # Errors
    /// Names the secret, never its value.
    pub async fn token(&self, token_secret_id: &str) -> Result<Token> {
        let freshness = Freshness::Anew;
        let (text, _) = self.secrets.ghcr_token(token_secret_id, freshness).await?;
        Ok(Token {
            secret_id: token_secret_id.to_owned(),
            text,
        })
    }

    /// Attempts something with the token for GitHub's API; if that is refused and the token has meanwhile been replaced, once more
    /// with the new one.
    ///
    /// # Errors
    /// What the secret or `attempt` failed with.
    pub async fn with_token<T, A>(
        &self,
        token_secret_id: Option<&str>,
        attempt: impl Fn(Option<Token>) -> A,
    ) -> Result<T>
    where
        A: Future<Output = Result<T>>,
    {
        let token = |freshness| async move {
            let (secret_id, text) = match (&self.lent_token, self.token_id(token_secret_id)) {
                (Some(lent), _) => (LENT, lent.clone()),
                (None, Some(id)) => (id, self.secrets.ghcr_token(id, freshness).await?.0),
                (None, None) => return Ok(None),
            };
            let secret_id = secret_id.to_owned();
            Ok(Some(Token { secret_id, text }))
        };
        with_renewal(token, attempt).await
    }

    /// What GHCR is asked with; `None` for anonymously.
    pub(super) fn ghcr_credentials(&self, token_secret_id: Option<&str>) -> Option<Credentials> {
        if let Some(lent) = self.lent_token.clone() {
            return Some(Arc::new(move |_| {
                let credential = credential(lent.clone(), None);
                Box::pin(async { Ok(credential) })
            }));
        }
        let id = self.token_id(token_secret_id)?.to_owned();
        let secrets = self.secrets.clone();
        Some(Arc::new(move |freshness| {
            let (secrets, id) = (secrets.clone(), id.clone());
            Box::pin(async move {
                let (token, username) = secrets.ghcr_token(&id, freshness).await?;
                Ok(credential(token, username))
            })
        }))
    }

    fn token_id<'a>(&'a self, token_secret_id: Option<&'a str>) -> Option<&'a str> {
        token_secret_id.or(self.ghcr_token_secret_id.as_deref())
    }
}

fn credential(password: SecretString, username: Option<String>) -> Credential {
    let username = username.unwrap_or_else(|| USERNAME.to_owned());
    Credential { username, password }
}
