//! Which packages an owner has.

use super::Copier;
use crate::error::Result;
use crate::observer::Observer;
use crate::retry::retry;
use crate::token::Token;

impl Copier {
    /// The packages of an owner, as `owner/name` and in order, as far as the token in `token_secret_id`, else the general one, can
    /// see them.
    ///
    /// # Errors
    /// What the secret or GitHub failed with.
    pub async fn packages(
        &self,
        owner: &str,
        token_secret_id: Option<&str>,
    ) -> Result<Vec<String>> {
        let observer = &Observer::default();
        let list = |token: Option<Token>| async move {
            retry(observer, || self.github.packages(token.as_ref(), owner)).await
        };
        let names = self.registries.with_token(token_secret_id, list).await?;
        let mut packages: Vec<String> =
            names.iter().map(|name| format!("{owner}/{name}")).collect();
        packages.sort();
        packages.dedup();
        Ok(packages)
    }
}
