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
//! In reading order; each module imports only from those below it, and a test holds that.
//!
//! | module | responsibility |
//! |---|---|
//! | [`handler`] | what lives across invocations, and the story of one |
//! | [`event`] | the trigger boundary: JSON in, reply out |
//! | [`webhook`] | GitHub's signature and payload |
//! | [`reconcile`] | a scheduled run: from rules to tags that differ |
//! | [`copy`] | one job, from its credentials to its report |
//! | [`transfer`] | carry out a plan by streaming |
//! | [`report`] | what happened |
//! | [`plan`] | decide what is missing |
//! | [`access`] | how both registries are reached for a job |
//! | [`queue`] | jobs to SQS and back |
//! | [`registry`] | one repository on one registry; all quirks |
//! | [`github`] | GitHub's REST API: packages, and the tags of a digest |
//! | [`aws`] | secrets, parameters, and the authorization for ECR |
//! | [`config`], [`rules`] | settings, and what may be copied where |
//! | [`limits`], [`budget`] | what the copies of one invocation share; how often ECR may be asked |
//! | [`retry`], [`tally`] | the one retry; counts while a copy runs |
//! | [`job`], [`manifest`] | references and destinations; digests, descriptors, manifests |
//! | [`challenge`], [`link`], [`sdk`] | what a 401 asks for; the next page of a list; what an SDK's error means |
//! | [`error`] | one error type, classified once |
//!
//! # Invariants
//!
//! 1. The tag moves last, and only when everything that it reaches is at the destination.
//! 2. Manifests are pushed as the bytes that were fetched; the tag is read back and its digest compared.
//! 3. A blob enters the destination only under its digest, which is checked at commit.
//! 4. Memory does not grow with the image, and no byte of an image touches a disk.
//! 5. An image that is up to date costs one request to each registry, authorization aside.
//! 6. Secrets, bearer tokens and signed URLs appear in no log, error or report; a credential goes to its own host alone.
//! 7. Every event may repeat, be late or out of order: a tag is resolved when it is copied, never taken from the event.
//! 8. Nothing is skipped in silence: every event has an outcome and a reason.
//!
//! # Deliberately absent
//!
//! No disk cache and no database: ECR itself is the record of what was copied. No deleting. No traits around the adapters: tests
//! put another server behind them instead.

pub mod handler;

pub mod event;

pub mod webhook;

pub mod reconcile;

pub mod copy;

pub mod transfer;

pub mod report;

pub mod plan;

pub mod access;

pub mod queue;

pub mod registry;

pub mod github;

pub mod aws;

pub mod config;

pub mod rules;

pub mod limits;

pub mod budget;

pub mod retry;

pub mod tally;

pub mod job;

pub mod manifest;

pub mod challenge;

pub mod link;

pub mod sdk;

pub mod error;
