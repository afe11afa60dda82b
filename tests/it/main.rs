//! One binary of promises; a module each.

mod bad_input;
mod grpc;
mod model;
mod rng;
mod served;
mod tls;
