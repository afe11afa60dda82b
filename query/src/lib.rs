//! The embedded front door of Spandrel.
#![forbid(unsafe_code)]
