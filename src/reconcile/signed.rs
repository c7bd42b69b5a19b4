//! Which images that are at a destination would not be copied today, as their rule requires a signature that they don't have: those
//! from before the rule did, and those whose signature is gone or no longer believed. Nothing is done about them but to say so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::Run;
use super::packages::Compared;
use crate::copier::Asked;
use crate::copy::report::{Outcome, Report};
use crate::error::Result;
use crate::manifest::Digest;
use crate::registry::Repository;
use crate::verification::Verified;

/// What is known of the digests of one package in one run: many tags may have the same.
#[derive(Default)]
pub(super) struct Verdicts(Mutex<HashMap<Digest, Arc<OnceCell<Result<Verified>>>>>);

impl Verdicts {
    fn of(&self, digest: Digest) -> Arc<OnceCell<Result<Verified>>> {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.entry(digest).or_default().clone()
    }
}

impl Run<'_> {
    /// Adds to the reports of what is up to date by whom it is signed, or a warning that it would not be copied today. What can't be
    /// asked now is a warning too.
    pub(super) async fn judge(
        &self,
        compared: &Compared<'_>,
        source: &Repository,
        verdicts: &Verdicts,
        reports: &mut [Report],
    ) {
        let Compared { rule, package } = compared;
        if rule.require().is_empty() {
            return;
        }
        for report in reports
            .iter_mut()
            .filter(|it| it.outcome == Outcome::Current)
        {
            let Some(figures) = report.figures.as_mut() else {
                continue;
            };
            let Some(digest) = figures.source_digest else {
                continue;
            };
            let verdict = verdicts.of(digest);
            let judged = verdict.get_or_init(|| async {
                let asked = Asked {
                    rule,
                    package,
                    source,
                    digest,
                    pushed_at: None,
                };
                let allowance = self.invocation.shared.memory.allowance();
                self.invocation
                    .copier
                    .expect_signed(&asked, &allowance)
                    .await
            });
            match judged.await {
                Ok(verified) => figures.verified = Some(verified.clone()),
                Err(error) => report.warn(format!("it would not be copied today: {error}")),
            }
        }
    }
}
