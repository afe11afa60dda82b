//! One binary of promises; a module each.

mod bad_input;
mod corruption;
mod crash;
mod grpc;
mod model;
mod rng;
mod served;
mod tidy;
mod tls;
