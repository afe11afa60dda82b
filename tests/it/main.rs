//! One binary of promises; a module each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod chunk_caches_grpc;
mod churn;
mod concurrent;
mod corruption;
mod crash;
mod dedup;
mod disk;
mod filters;
mod fuzz;
mod grpc;
mod isolation;
mod keys;
mod labels;
mod lifecycle;
mod model;
mod rag;
mod retrieve_grpc;
mod rng;
mod served;
mod stream;
mod tenants;
mod tenants_grpc;
mod tidy;
mod tls;
mod weighted;
