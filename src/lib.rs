//! Copies container images from GitHub Container Registry (GHCR) into Amazon Elastic Container Registry (ECR), in one AWS Lambda
//! invocation each.
//!
//! # The flow
//!
//! ```text
//! JSON ─▶ event ─▶ job ─▶ plan ─▶ transfer ─▶ report ─▶ reply JSON
//!         verify   one     what is   move bytes,  what
//!         + read   copy    missing   tag last     happened
//! ```
//!
//! An image is a graph of descriptors. To copy it is to resolve the tag once, skip what is there, push blobs, then child
//! manifests by digest, then the top manifest under its tag, and to read the tag back.
//!
//! # The map
//!
//! Three rings, and imports go one way: **triggers ask, the engine copies, adapters speak.** In reading order; each module imports
//! only from those below it, and a test holds that.
//!
//! | module | responsibility |
//! |---|---|
//! | | **Triggers: Lambda's events, replies and deadlines** |
//! | [`handler`] | the story of one invocation |
//! | [`command`](#the-map) | the laptop's command: arguments in; bars, lines and a report out (feature `cli`) |
//! | [`worker`] | the queue's messages, and their fate |
//! | [`event`] | JSON in: a closed set of events, GitHub's signature and payload |
//! | [`reconcile`] | a scheduled run: from rules to tags that differ |
//! | [`clients`] | what lives as long as the process: settings, rules, the clients of every service |
//! | [`check`] | whether everything is as a deployment needs it: a checklist with remedies |
//! | [`reports`], [`metrics`], [`logging`] | JSON out: what happened, in the reply, in CloudWatch's metrics and in the log |
//! | [`invocation`] | what one invocation works with: jobs are copied at once, or enqueued |
//! | [`publisher`] | what the event bus is told |
//! | [`copier`] | one job, from its references to its reports |
//! | [`repositories`] | whether a destination's repository is as its rule says, and what to do where not |
//! | | **The engine: no Lambda, no settings, no SDK** |
//! | [`referrers`] | signatures and attestations: what refers to an image, to where the image is |
//! | [`copy`] | survey, plan, transfer, report |
//! | | **Adapters** |
//! | [`registries`] | which host and which credential a repository is reached with |
//! | [`rules_in_force`], [`roots_in_force`] | the rules and the trusted roots, read again where they may change |
//! | [`registry`] | one repository on one registry, through a few verbs; all of GHCR's and ECR's quirks |
//! | [`github`] | GitHub's REST API: packages, and the tags of a digest |
//! | [`aws`] | the AWS APIs: secrets, ECR's authorization, the queue |
//! | | **Vocabulary** |
//! | [`config`], [`rules`] | settings, and what may be copied where |
//! | [`verification`], [`public_key`] | whether an image is signed as a rule requires |
//! | [`job`], [`reference`](mod@reference), [`destination`] | one copy to make; what is copied, and where to |
//! | [`platform`], [`endpoint`], [`token`] | platforms, and the forms of an image; registry hosts; GitHub tokens |
//! | [`retry`], [`deadline`], [`allowance`] | the one owner of further tries, of time, of the memory for manifests |
//! | [`observer`], [`kept`] | counts, made where things happen; values that are read again when they are old or refused |
//! | [`redaction`] | foreign texts without the secrets that they echo |
//! | [`manifest`], [`link`] | digests, descriptors, manifests; the next page of a list |
//! | [`error`] | one error type, classified once |
//!
//! # Invariants
//!
//! 1. The tag moves last, and only when everything that it reaches is at the destination.
//! 2. Manifests are pushed as the bytes that were fetched; the tag is read back and its digest compared.
//! 3. A blob enters the destination only under its digest, which is checked at commit.
//! 4. Memory does not grow with the image, and no byte of an image touches a disk.
//! 5. An image that is up to date costs one request to each registry, authorization aside; more only where a rule asks for
//!    signatures and attestations.
//! 6. Secrets, bearer tokens and signed URLs appear in no log, error or report; a credential goes to its own host alone.
//! 7. Every event may repeat, be late or out of order: a tag is resolved when it is copied, never taken from the event, and looked
//!    at once more just before it is written if the copy took long; so it can't move backwards.
//! 8. Nothing is skipped in silence: every event and record has an outcome and a reason.
//! 9. The deadline bounds every call; what is done when it comes stays done, and the next invocation resumes from there.
//!
//! # Deliberately absent
//!
//! No disk cache and no database: ECR itself is the record of what was copied. Nothing is deleted unless a rule says `prune`. No traits around the
//! adapters: tests run them against local servers instead.

pub mod handler;

#[cfg(feature = "cli")]
pub mod command;

pub mod worker;

pub mod event;

pub mod reconcile;

pub mod clients;

pub mod check;

pub mod reports;

pub mod logging;

pub mod metrics;

pub mod invocation;

pub mod publisher;

pub mod copier;

pub mod referrers;
pub mod repositories;

pub mod copy;

pub mod registries;

pub mod roots_in_force;
pub mod rules_in_force;

pub mod registry;

pub mod github;

pub mod aws;

pub mod config;

pub mod verification;

pub mod rules;

pub mod job;

pub mod destination;

pub mod platform;

pub mod reference;

pub mod endpoint;

pub mod token;

pub mod retry;

pub mod deadline;

pub mod allowance;

pub mod observer;

pub mod kept;

pub mod public_key;

pub mod redaction;

pub mod manifest;

pub mod link;

pub mod error;
