//! One binary of promises; a module each.

mod corruption;
mod crash;
mod model;
mod rng;
