//! Tests everything that a deployment needs, changes nothing that lasts, and says what to do about whatever is wrong.
//!
//! Each part looks, and then judges what it has seen by pure functions: the result is a checklist. What can't be looked at is a
//! line, too; nothing ends the check but its deadline, and then the lines that are left say so.
//!
//! Which lines there are follows from the settings of the function that is asked. In the template's stack the copy function has all
//! of them but the webhook's secret, which it may not read; the function for webhooks has the rules, that secret and the job queue.

mod checklist;
mod destinations;
mod lifecycle;
mod packages;
mod queues;
mod reachable;
mod secrets;
mod token;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, future, stream};

pub use self::checklist::{Checklist, Line, Status};
use self::packages::Listings;
use crate::aws::events::EventBus;
use crate::aws::queue::Queue;
use crate::aws::secrets::Secrets;
use crate::config::Settings;
use crate::copier::Copier;
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::rules::{Rule, Rules};
use crate::rules_in_force::RulesInForce;

/// Rules that are tested side by side, and destinations of each.
const RULES: usize = 4;
const DESTINATIONS: usize = 4;

/// What is tested.
pub struct Check<'a> {
    /// The settings; their rules are in `rules`.
    pub settings: &'a Settings,
    /// The rules in force.
    pub rules: &'a RulesInForce,
    /// Reaches the registries, GitHub and the repositories.
    pub copier: &'a Copier,
    /// For the webhook's secret.
    pub secrets: &'a Secrets,
    /// The job queue, if there is one.
    pub queue: Option<&'a Queue>,
    /// The event bus, if there is one.
    pub event_bus: Option<&'a EventBus>,
    /// Bounds every look.
    pub deadline: Deadline,
}

/// Tests everything. Never fails: what can't be tested is a line of its own.
pub async fn run(check: &Check<'_>) -> Checklist {
    // An invocation begins with all of the function's time.
    let time_limit = check.deadline.remaining();
    let (rules, mut lines) = check.rules_in_force().await;
    // Boxed, as they are large.
    let parts = [
        check.webhook_secret().boxed(),
        check.copies(rules).boxed(),
        check.queues(time_limit).boxed(),
        check.bus().boxed(),
    ];
    lines.extend(future::join_all(parts).await.into_iter().flatten());
    let checklist = Checklist::of(lines);
    checklist.log();
    checklist
}

impl Check<'_> {
    /// The rules as they are written now, or where those can't be used, the ones in force.
    async fn rules_in_force(&self) -> (Option<Arc<Rules>>, Vec<Line>) {
        let place = match self.rules.secret_id() {
            Some(id) => format!("RULES, in the secret {id}"),
            None => "RULES".to_owned(),
        };
        match self.deadline.bound(self.rules.written()).await {
            Ok(rules) => {
                let lines = reachable::rules(&place, &rules);
                (Some(rules), lines)
            }
            Err(error) => {
                let line = Line::of_error("rules", &error).at(&place);
                let rules = self.deadline.bound(self.rules.get()).await;
                (rules.ok(), vec![line])
            }
        }
    }

    /// What copies need: authorization, tokens, packages to read and repositories to write.
    async fn copies(&self, rules: Option<Arc<Rules>>) -> Vec<Line> {
        const CHECK: &str = "authorization";
        let registries = &self.copier.registries;
        let mut lines = match self.deadline.bound(registries.authorize()).await {
            Ok(host) => {
                let detail = format!("ECR gives an authorization for its registry {host}");
                vec![Line::ok(CHECK, detail)]
            }
            Err(error) if error.kind() == Kind::Denied && self.is_receiver() => {
                return vec![Line::warning(
                    CHECK,
                    "the role may not authorize at ECR, as is right for a function that only takes webhooks and hands their jobs to JOB_QUEUE_URL: tokens, packages and destinations are not tested here",
                    "check the function that copies, too; if it is this one, allow its role ecr:GetAuthorizationToken on *",
                )];
            }
            Err(error) => vec![Line::of_error(CHECK, &error)],
        };
        let Some(rules) = rules else {
            return lines;
        };
        let listings = Listings::default();
        let of_rules = rules.iter().map(|rule| self.rule(&rules, rule, &listings));
        let of_rules = side_by_side(of_rules, RULES);
        let tokens = self.read_tokens(&rules).await;
        let (tokens, of_rules) = future::join(self.tokens(&rules, &tokens), of_rules).await;
        lines.extend(tokens);
        lines.extend(of_rules);
        lines
    }

    /// A rule's packages, and the destinations of one of them.
    async fn rule(&self, rules: &Rules, rule: &Rule, listings: &Listings) -> Vec<Line> {
        let (mut lines, sample) = self.packages(rules, rule, listings).await;
        let places = sample.as_ref().map(|sample| sample.places(rule));
        match places {
            Some(Ok(places)) => {
                let of_places = places.iter().map(|place| self.destination(rule, place));
                lines.extend(side_by_side(of_places, DESTINATIONS).await);
            }
            Some(Err(reason)) => lines.push(Line::failed(
                format!("destinations of {}", rule.source()),
                reason,
                "correct the rule's `destination`",
            )),
            None => lines.push(Line::warning(
                format!("destinations of {}", rule.source()),
                "not tested: no package of the rule is known, and its name is needed for the repositories' names",
                "check again when the rule has a package",
            )),
        }
        lines
    }

    /// Whether the settings are those of a function that hands over what webhooks ask for, and perhaps does no more.
    fn is_receiver(&self) -> bool {
        self.settings.webhook_secret_id.is_some() && self.queue.is_some()
    }

    async fn bus(&self) -> Vec<Line> {
        const CHECK: &str = "event bus";
        let (Some(bus), Some(name)) = (self.event_bus, &self.settings.event_bus) else {
            return Vec::new();
        };
        vec![match self.deadline.bound(bus.expect_exists()).await {
            Ok(()) => Line::ok(
                CHECK,
                format!("EVENT_BUS: {name} exists (the right to put events is not tested)"),
            ),
            Err(error) if error.kind() == Kind::Denied => {
                Line::unknown(CHECK, &error).at("EVENT_BUS")
            }
            Err(error) => Line::of_error(CHECK, &error).at("EVENT_BUS"),
        }]
    }
}

/// The lines of several tests in their order, so many of which are under way at once. Boxed, as they are large.
fn side_by_side<'a, T>(tests: impl Iterator<Item = T>, limit: usize) -> BoxFuture<'a, Vec<Line>>
where
    T: Future<Output = Vec<Line>> + Send + 'a,
{
    let tests: Vec<_> = tests.map(FutureExt::boxed).collect();
    stream::iter(tests).buffered(limit).concat().boxed()
}

/// Several names, the first few of them written out.
fn named(names: &[String]) -> String {
    const NAMED: usize = 5;
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
