//! Strict local servers for whole-invocation tests and the demonstration.
//!
//! Every server listens on a free port of `127.0.0.1` and speaks real HTTP. So the function under test runs as it does in Lambda,
//! with its own HTTP clients; only addresses differ.
//! The servers refuse what the real services refuse. A test needn't assert that a manifest was pushed after its blobs, or that a
//! credential went only to its own registry: the copy fails if not.
//!
//! | module | what it is |
//! |---|---|
//! | [`http`] | what all servers share: a request log, scripted faults and HTTPS |
//! | [`image`] | images in memory: exact manifest bytes, and blobs of any size that are generated while they are read |
//! | [`sigstore`] | signatures and attestations that really verify, under authorities and keys made at run time |
//! | [`ghcr`] | GitHub Container Registry and the storage host that it redirects to |
//! | [`ecr`] | Amazon ECR's registry API |
//! | [`github`] | GitHub's REST API for packages |
//! | [`aws`] | Secrets Manager, and ECR's `GetAuthorizationToken` |
//! | [`sqs`] | Amazon SQS, and Lambda's polling of its queues |
//! | [`proxy`] | an HTTP proxy through which those servers have real host names |
//! | [`webhook`] | GitHub's signed deliveries as API Gateway and EventBridge pass them on, and the events of schedules |
//! | [`function`] | the real binary, driven through a local Lambda Runtime API |
//! | [`deployment`] | all of the above together |
//!
//! The crate does not depend on the function's own code: it shares only protocols with it.

pub mod aws;
pub mod deployment;
pub mod ecr;
pub mod function;
pub mod ghcr;
pub mod github;
pub mod http;
pub mod image;
mod lag;
pub mod proxy;
pub mod sigstore;
pub mod sqs;
pub mod webhook;
