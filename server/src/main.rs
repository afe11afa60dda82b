//! spandrel.
fn main() {}
