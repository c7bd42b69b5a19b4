//! Which manifests of an image a destination has, and so, whose referrers it gets.

use std::collections::{HashMap, HashSet};

use super::known::Known;
use super::{Brought, Referred, Referrers, Trouble};
use crate::allowance::Allowance;
use crate::copy::form::{self, Root};
use crate::copy::places::Places;
use crate::error::Result;
use crate::manifest::{Digest, Manifest};
use crate::platform::Form;
use crate::retry::retry;

impl Referrers<'_> {
    /// The manifests of the image `top`, as far as something may refer to them, each with the destinations that have it. An index that
    /// was rewritten for a destination has another digest there, so what refers to it is left out, with a warning.
    ///
    /// The image is read once more only if its index is not the only thing in the package that something refers to.
    pub(super) async fn referred(
        &self,
        top: Digest,
        at: Places,
        forms: &[Form],
        known: &Known<'_>,
        brought: &mut [Brought],
    ) -> Vec<Referred> {
        let is_whole = at.iter().all(|place| forms[place] == Form::Whole);
        if is_whole && !known.may_have_others(&top) {
            let at = self.each_repository_once(at);
            return vec![Referred { digest: top, at }];
        }
        let allowance = self.shared.memory.allowance();
        let parts = self.parts_of_forms(top, at, forms, &allowance).await;
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                let trouble = Trouble::Failure {
                    what: format!("what refers to the parts of {top}"),
                    is_announced: false,
                    error,
                };
                at.iter()
                    .for_each(|place| brought[place].trouble(trouble.clone()));
                return Vec::new();
            }
        };
        let mut referred: Vec<Referred> = Vec::new();
        let mut positions = HashMap::new();
        for (places, digests) in parts {
            let places = places
                .iter()
                .map(|place| self.first_of_repository(place, at))
                .fold(Places::default(), Places::with);
            for digest in digests.into_iter().filter(|digest| known.may_have(digest)) {
                let position = *positions.entry(digest).or_insert_with(|| {
                    referred.push(Referred {
                        digest,
                        at: Places::default(),
                    });
                    referred.len() - 1
                });
                let of_digest = &mut referred[position];
                of_digest.at = of_digest.at.and(places);
            }
        }
        self.warn_of_rewritten(top, at, &referred, known, brought);
        referred
    }

    fn warn_of_rewritten(
        &self,
        top: Digest,
        at: Places,
        referred: &[Referred],
        known: &Known<'_>,
        brought: &mut [Brought],
    ) {
        if !known.tags.has(&top) {
            return;
        }
        let of_top = referred.iter().find(|referred| referred.digest == top);
        let of_top = of_top.map_or(Places::default(), |referred| referred.at);
        for place in at.iter() {
            if !of_top.contains(self.first_of_repository(place, at)) {
                brought[place].warn(format!(
                    "signatures and attestations of {top} are not copied: the destination gets another form of that index, with another digest"
                ));
            }
        }
    }

    /// The digests of the image in each form in which it arrives, and where.
    async fn parts_of_forms(
        &self,
        top: Digest,
        at: Places,
        forms: &[Form],
        allowance: &Allowance,
    ) -> Result<Vec<(Places, Vec<Digest>)>> {
        let name = top.to_string();
        let fetch = || self.source.fetch_manifest(&name, allowance);
        let manifest = retry(self.source.observer(), fetch).await?;
        let mut places: Vec<(&Form, Places)> = Vec::new();
        for place in at.iter() {
            match places.iter_mut().find(|(form, _)| **form == forms[place]) {
                Some((_, places)) => *places = places.with(place),
                None => places.push((&forms[place], Places::default().with(place))),
            }
        }
        let mut parts = Vec::with_capacity(places.len());
        for (form, places) in places {
            let arrival = form::arrival(&manifest, form)
                .map_err(|reason| self.source.not_copied(&name, reason))?;
            parts.push((
                places,
                match arrival.root {
                    Root::Same | Root::SameIfMatching(_) => {
                        self.parts(&manifest, allowance).await?
                    }
                    Root::Rewritten(rewritten) => self.parts(&rewritten, allowance).await?,
                    Root::Child(child) => vec![child.digest],
                },
            ));
        }
        Ok(parts)
    }

    /// The digests of a manifest and of all manifests below it. Only indexes are read.
    async fn parts(&self, root: &Manifest, allowance: &Allowance) -> Result<Vec<Digest>> {
        let entries = |manifest: &Manifest| manifest.entries().unwrap_or_default().listed;
        let mut met = HashSet::from([root.digest]);
        let (mut parts, mut left) = (vec![root.digest], entries(root));
        while let Some(entry) = left.pop() {
            if !met.insert(entry.digest) {
                continue;
            }
            parts.push(entry.digest);
            if entry.is_index {
                let name = entry.digest.to_string();
                let fetch = || self.source.fetch_manifest(&name, allowance);
                let nested = retry(self.source.observer(), fetch).await?;
                left.extend(entries(&nested));
            }
        }
        Ok(parts)
    }
}
