//! Which packages a run compares: from the rules, and from GitHub where a rule's source is a glob.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Run, Scope};
use crate::copy::report::{Report, Subject};
use crate::error::Result;
use crate::reference::is_package;
use crate::reports::Reports;
use crate::rules::Rule;

/// A package to compare, and its rule: the first one that matches it.
pub(super) struct Compared<'a> {
    pub(super) rule: &'a Rule,
    pub(super) package: String,
}

/// The packages of an owner, in order, as far as a token can see them.
type Listing = Result<Arc<Vec<String>>>;

impl Run<'_> {
    /// The packages to compare. Rules whose packages can't be listed become reports, and so do rules without a package.
    pub(super) async fn packages(&self, scope: &Scope, reports: &mut Reports) -> Vec<Compared<'_>> {
        let rules = &self.invocation.rules;
        let mut listed: HashMap<(&str, Option<&str>), Listing> = HashMap::new();
        let mut found = Vec::new();
        for rule in rules.iter() {
            let (owner, name) = rule.owner_and_name();
            if !scope.may_admit(owner) {
                continue;
            }
            let packages = match name {
                Some(name) => Ok(Arc::new(vec![format!("{owner}/{name}")])),
                // Several rules may be about one owner.
                None => match listed.entry((owner, rule.token_secret_id())) {
                    Entry::Occupied(listing) => listing.get().clone(),
                    Entry::Vacant(place) => {
                        let copier = self.invocation.copier;
                        let list = copier.packages(owner, rule.token_secret_id());
                        let listing = self.deadline.bound(list).await.map(Arc::new);
                        if let Err(error) = &listing {
                            let subject = Subject::Owner {
                                owner: owner.to_owned(),
                            };
                            reports.add(Report::failed(Some(subject), error.clone()));
                        }
                        place.insert(listing).clone()
                    }
                },
            };
            let Ok(packages) = packages else {
                continue;
            };
            let is_rules = |package: &&String| {
                rules
                    .find(package)
                    .is_some_and(|first| std::ptr::eq(first, rule))
            };
            let mut of_rule = packages.iter().filter(is_rules).peekable();
            if of_rule.peek().is_none() && scope.packages.is_none() {
                let subject = Subject::Rule {
                    rule: rule.source().to_owned(),
                };
                let reason = "no package that the token can see is this rule's: either none matches it, or a rule before it does";
                reports.add(Report::ignored(Some(subject), reason.to_owned()));
            }
            for package in of_rule.filter(|package| scope.admits(package)) {
                match is_package(package) {
                    true => found.push(Compared {
                        rule,
                        package: package.clone(),
                    }),
                    false => reports.add(Report::ignored(
                        Some(Subject::package(package)),
                        "its name is not one that registries take".to_owned(),
                    )),
                }
            }
        }
        found
    }
}
