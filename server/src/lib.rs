//! The gRPC server and command line of Spandrel: who asks?
//!
//! The engine is synchronous and knows no network; this crate is the async shell around it. A request passes
//! `call` (who, until when, is there room), a service in `service` (may they?), `convert` (in what words?),
//! and a `pool` (when?), and comes back the same way. [`start`] serves a database from within a program or a
//! test; `cli` is the program `spandrel`.
#![forbid(unsafe_code)]

pub mod auth;
pub mod call;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod convert;
pub mod limits;
pub mod phase;
pub mod pool;
pub mod serve;
pub mod service;
pub mod status;
pub mod telemetry;

pub use config::Config;
pub use serve::{ServeError, Server, start};
