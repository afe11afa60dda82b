//! One binary of promises; a module each.

mod model;
mod rng;
