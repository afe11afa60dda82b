//! One decoder under libFuzzer: that which SPANDREL_FUZZ names, by default the one that the first byte
//! chooses.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spandrel_tests::targets::{TARGETS, Target};

static NAMED: LazyLock<Option<Target>> = LazyLock::new(|| {
    let name = std::env::var("SPANDREL_FUZZ").ok()?;
    let named = TARGETS.iter().find(|(target, _)| *target == name);
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    Some(named.unwrap_or_else(|| panic!("no decoder '{name}'; there are: {}", names.join(", "))).1)
});

fuzz_target!(|bytes: &[u8]| {
    match (*NAMED, bytes) {
        (Some(target), bytes) => target(bytes),
        (None, [first, rest @ ..]) => TARGETS[usize::from(*first) % TARGETS.len()].1(rest),
        (None, []) => {}
    }
});
