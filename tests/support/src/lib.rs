//! Strict local servers for whole-invocation tests and the demonstration.
//!
//! Everything listens on a free port of `127.0.0.1` and speaks real HTTP, so the function under test runs
//! as it does in Lambda, with its own HTTP clients, and only addresses differ.
//! The servers refuse what the real services refuse: a test never has to assert that a manifest came after
//! its blobs or that a credential stayed at home, since the copy fails by itself when it did not.
//!
//! | module | what it stands for |
//! |---|---|
//! | [`http`] | what all servers share: a request log, scripted faults and HTTPS |
//! | [`image`] | images in memory: manifests byte for byte, blobs of any size generated while they are read |
//! | [`ghcr`] | GitHub Container Registry and the storage host that it redirects to |
//! | [`ecr`] | Amazon ECR's registry API |
//! | [`github`] | GitHub's REST API for packages |
//! | [`aws`] | Secrets Manager, Systems Manager's parameters and ECR's `GetAuthorizationToken` |
//! | [`sqs`] | Amazon SQS, and Lambda's polling of its queues |
//! | [`webhook`] | signed GitHub deliveries as API Gateway and EventBridge pass them on, and the events of schedules |
//! | [`function`] | the real binary, driven through a local Lambda runtime API |
//! | [`deployment`] | all of the above wired together |
//!
//! The crate knows the wire only; it never depends on the function's own code.

pub mod aws;
pub mod deployment;
pub mod ecr;
pub mod function;
pub mod ghcr;
pub mod github;
pub mod http;
pub mod image;
pub mod sqs;
pub mod webhook;
