//! Buffers of the search path, one set a thread, so that a query allocates nothing that the last one already
//! had.

use std::cell::RefCell;

use spandrel_index::scratch::Scratch;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Lends this thread's buffers.
pub(crate) fn with_scratch<T>(run: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => run(&mut scratch),
        // A search inside a search, as from an embedder that searches: it gets buffers of its own.
        Err(_) => run(&mut Scratch::default()),
    })
}
