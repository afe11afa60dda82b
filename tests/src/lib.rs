//! What Spandrel promises: the tests live in tests/it.
