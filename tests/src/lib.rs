//! What Spandrel promises: the tests live in tests/it, and what they fuzz is here.

pub mod targets;
