//! The gRPC server and command line of Spandrel.
#![forbid(unsafe_code)]
