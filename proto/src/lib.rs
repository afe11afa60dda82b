//! The wire contract spandrel.v1.
