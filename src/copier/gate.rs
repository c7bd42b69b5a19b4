//! What keeps an image back before anything moves: that it is too young for its rule, or not signed as the rule requires.

use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::evidence::Search;
use super::{Copier, persistently, without_token};
use crate::allowance::Allowance;
use crate::copy::{Admission, Gate};
use crate::error::{Error, Result};
use crate::github::Named;
use crate::job::Job;
use crate::manifest::Digest;
use crate::public_key::PublicKey;
use crate::registry::Repository;
use crate::rules::require::{CosignKey, Requirement};
use crate::rules::{Rule, Rules};
use crate::token::Token;
use crate::verification::{Required, Verified};

/// Signatures and attestations follow the image: for so long after the push one that is not there is waited for.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10 * 60);

/// The gate of a job's rule.
struct RuleGate<'a> {
    copier: &'a Copier,
    job: &'a Job,
    rule: &'a Rule,
    source: Repository,
    /// As with its tag, a direct event is not asked for the age.
    asks_for_age: bool,
}

impl Gate for RuleGate<'_> {
    fn admit<'b>(
        &'b self,
        digest: Digest,
        allowance: &'b Allowance,
    ) -> BoxFuture<'b, Result<Admission>> {
        let admission = async move {
            let package = &self.job.source.package;
            if self.asks_for_age
                && let Some(reason) = self.copier.kept_back(self.rule, package, &digest).await
            {
                return Ok(Admission::Ignored(reason));
            }
            if self.rule.require().is_empty() {
                return Ok(Admission::Admitted(None));
            }
            let asked = Asked {
                rule: self.rule,
                package,
                source: &self.source,
                digest,
                pushed_at: self.job.options.pushed_at,
            };
            let verified = self.copier.expect_signed(&asked, allowance).await?;
            Ok(Admission::Admitted(Some(verified)))
        };
        admission.boxed()
    }
}

/// An image at the source, and what is asked of it.
pub struct Asked<'a> {
    /// Whose `require` has to be met.
    pub rule: &'a Rule,
    /// `owner/name`.
    pub package: &'a str,
    /// Where the image and what signs it are read.
    pub source: &'a Repository,
    /// Its digest there.
    pub digest: Digest,
    /// When the function learnt of its push.
    pub pushed_at: Option<SystemTime>,
}

impl Copier {
    /// The gate of the job's rule for what is at `source`; `None` where the rule asks for nothing.
    pub(super) fn gate<'a>(
        &'a self,
        job: &'a Job,
        rules: &'a Rules,
        source: &Repository,
    ) -> Option<Box<dyn Gate + 'a>> {
        let rule = rules.find(&job.source.package)?;
        let asks_for_age = rule.min_age().is_some() && job.options.origin.is_some();
        if !asks_for_age && rule.require().is_empty() {
            return None;
        }
        Some(Box::new(RuleGate {
            copier: self,
            job,
            rule,
            source: source.clone(),
            asks_for_age,
        }))
    }

    /// Why a version is kept back because of its age, which has to be known.
    async fn kept_back(&self, rule: &Rule, package: &str, digest: &Digest) -> Option<String> {
        let refusal = self.age_refusal(rule, package, Named::Digest(digest)).await;
        refusal.unwrap_or_else(|error| Some(rule.min_age()?.refusal_of_unknown(error)))
    }

    /// Why a version of a package is not copied because of its age: it is too young for the rule, or GitHub does not list it with its
    /// time.
    ///
    /// # Errors
    /// What GitHub's API refuses: then the age is not known either.
    pub async fn age_refusal(
        &self,
        rule: &Rule,
        package: &str,
        named: Named<'_>,
    ) -> Result<Option<String>> {
        let Some(min_age) = rule.min_age() else {
            return Ok(None);
        };
        let created_at = self.created_at(rule.token_secret_id(), package, named);
        Ok(match created_at.await? {
            Some(created_at) => min_age.refusal(created_at, SystemTime::now()),
            None => Some(min_age.refusal_of_unknown("it does not list the version with a time")),
        })
    }

    async fn created_at(
        &self,
        token_secret_id: Option<&str>,
        package: &str,
        named: Named<'_>,
    ) -> Result<Option<SystemTime>> {
        let look = |token: Option<Token>| async move {
            let token = token.ok_or_else(|| without_token(package))?;
            persistently(|| self.github.created_at(Some(&token), package, named)).await
        };
        self.registries.with_token(token_secret_id, look).await
    }

    /// Says by whom an image is signed, in one of the ways that the rule names, of which there is at least one.
    ///
    /// # Errors
    /// [`Error::Unsigned`], or what could not be asked for.
    pub async fn expect_signed(
        &self,
        asked: &Asked<'_>,
        allowance: &Allowance,
    ) -> Result<Verified> {
        let rule = asked.rule;
        let keys = self.keys(rule).await?;
        let mut keys = keys.iter();
        let requirements = rule.require().iter();
        let required = requirements.filter_map(|requirement| match requirement {
            Requirement::Attestation(expected) => Some(Required::Attestation(expected)),
            Requirement::CosignKey(CosignKey::Written(key)) => Some(Required::Key(key)),
            Requirement::CosignKey(CosignKey::Secret(_)) => keys.next().map(Required::Key),
        });
        let required: Vec<Required<'_>> = required.collect();
        let roots = self.trusted_roots.get().await?;
        let mut search = Search::new(&required, asked.package, &asked.digest, &roots);
        let searched = self.search(&mut search, asked.source, rule.token_secret_id(), allowance);
        if let Some(verified) = searched.await? {
            return Ok(verified);
        }
        Err(Error::Unsigned {
            reference: asked.source.reference(&asked.digest.to_string()),
            is_awaited: !search.has_candidate() && self.is_fresh(asked).await,
            expected: search.expected(),
            found: search.found(),
        })
    }

    /// Whether the image was pushed so lately that what signs it may be under way. Unknown counts as long ago.
    async fn is_fresh(&self, asked: &Asked<'_>) -> bool {
        let pushed_at = match asked.pushed_at {
            Some(pushed_at) => Some(pushed_at),
            None => {
                let (token, named) = (asked.rule.token_secret_id(), Named::Digest(&asked.digest));
                let created_at = self.created_at(token, asked.package, named).await;
                created_at.ok().flatten()
            }
        };
        // The clocks of two machines may differ.
        let age = |pushed_at| {
            SystemTime::now()
                .duration_since(pushed_at)
                .unwrap_or_default()
        };
        pushed_at.is_some_and(|pushed_at| age(pushed_at) < FOLLOWS_WITHIN)
    }

    /// Those of the rule's keys that are in secrets.
    async fn keys(&self, rule: &Rule) -> Result<Vec<PublicKey>> {
        let mut keys = Vec::new();
        for requirement in rule.require() {
            if let Requirement::CosignKey(CosignKey::Secret(id)) = requirement {
                keys.push(self.registries.public_key(id).await?);
            }
        }
        Ok(keys)
    }
}
