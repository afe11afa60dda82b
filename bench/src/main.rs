//! spandrel-bench.
fn main() {}
