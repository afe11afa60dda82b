//! Batch reads by io_uring: all reads of a batch in flight together, around the page cache.
//!
//! Each thread that reads has its own ring (SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them) with
//! an arena of [`ARENA_BYTES`], registered with the kernel where the memory-lock limit permits, cut into
//! [`DEPTH`] slots. A read takes as many neighbouring slots as it needs. One enter submits all that fits and
//! waits for the first completion; slots are reused as reads land. Memory: at most [`RINGS_MAX`] arenas. A
//! thread beyond that bound, a nested call from `done`, and an extent too long for the arena are served by
//! `pread`.
//!
//! A read that comes back short or refused (a filesystem without O_DIRECT, an interrupted request) is
//! completed by `pread`; only the device's own errors are returned.
//!
//! # Why this is sound
//! The kernel writes into the arena from submission until it has posted the completion. Three things keep
//! that memory valid and unshared. (1) [`Ring::pending`] counts entries pushed and not yet reaped; [`Flight`]
//! drains it to zero when a batch ends in whatever way: success, an error of `done`, a panic of `done`. (2)
//! If the kernel refuses even to be waited for, [`Ring`]'s drop leaks the arena instead of freeing it, and
//! the ring is not used again. (3) A slot is handed out again only after its completion was reaped and `done`
//! has returned, so that the slice given to `done` never overlaps a slot the kernel may write.

// The only file of this crate with unsafe code.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use io_uring::{IoUring, opcode, types};

use super::plan::{Plan, Span};
use super::slots::{SLOT_COUNT, Slots};
use super::{BatchRead, Done, Extent, PAGE_BYTES, Pread, ReadFile};
use crate::error::{Error, Result};

/// Most reads in flight on one ring.
pub const DEPTH: usize = SLOT_COUNT;
/// Unit of arena space.
const SLOT_BYTES: usize = 16 * 1024;
/// Read buffers of one ring.
pub const ARENA_BYTES: usize = DEPTH * SLOT_BYTES;
/// Longest read through the arena, after widening to pages; longer ones go to `pread`.
const SPAN_BYTES_MAX: usize = ARENA_BYTES / 4;
/// Most rings, and so threads reading by io_uring, in the process.
pub const RINGS_MAX: usize = 32;
/// Tries of an enter that the kernel refuses for want of memory, before the batch fails.
const BUSY_TRIES_MAX: usize = 1000;

/// Rings alive in the process.
static RINGS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<Local> = const { Cell::new(Local::New) };
}

/// The ring of a thread.
enum Local {
    /// No ring was asked for yet.
    New,
    /// A batch is running; a nested one finds this.
    Busy,
    /// The kernel refused a ring to this thread.
    Refused,
    Ready(Box<Ring>),
}

/// Reads by io_uring, with `pread` where a ring cannot serve.
#[derive(Debug)]
pub struct Uring {
    fallback: Pread,
}

impl Uring {
    /// Tries a real read through a ring, as kernels, containers and sandboxes refuse io_uring in different
    /// ways and at different calls.
    ///
    /// # Errors
    /// The system's refusal, or a message that the bytes read were wrong.
    pub fn new() -> Result<Self> {
        // A file that every Linux process can read: its own program.
        let path = std::path::Path::new("/proc/self/exe");
        let file = ReadFile::open(path)?;
        let extents = [Extent { offset: 0, len: file.len().min(PAGE_BYTES as u64) as usize }];
        let mut expected = vec![0; extents[0].len];
        file.read_exact(&mut expected, 0)?;
        let permit =
            Permit::take().ok_or_else(|| Error::Invalid(format!("{RINGS_MAX} threads have a ring")))?;
        let mut ring = Ring::new(permit).map_err(|e| Error::io("open an io_uring to read", path, e))?;
        let plan = Plan::new(&file, &extents)?;
        let mut same = false;
        ring.read(&file, &extents, &plan, &mut |_, bytes| {
            same = bytes == expected;
            Ok(())
        })?;
        if ring.served == 0 || !same {
            let source = io::Error::other("io_uring did not deliver the bytes of the file");
            return Err(Error::io("read", path, source));
        }
        Ok(Self { fallback: Pread::buffered() })
    }
}

impl BatchRead for Uring {
    fn read(&self, file: &ReadFile, extents: &[Extent], done: &mut Done<'_>) -> Result<()> {
        let Some(mut loan) = Loan::take() else { return self.fallback.read(file, extents, done) };
        let plan = Plan::new(file, extents)?;
        Plan::deliver_empty(extents, done)?;
        loan.ring().read(file, extents, &plan, done)
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

/// This thread's ring, taken out of its place for one batch and put back at the end, also of a panic.
struct Loan(Option<Box<Ring>>);

impl Loan {
    /// The ring, made now if the thread has none yet; `None` where a batch is running or no ring can be had.
    fn take() -> Option<Self> {
        let local = SLOT.try_with(|slot| slot.replace(Local::Busy)).ok()?;
        let (ring, rest) = match local {
            Local::Ready(ring) => (Some(ring), Local::Busy),
            Local::Busy => (None, Local::Busy),
            Local::Refused => (None, Local::Refused),
            Local::New => match Permit::take().map(Ring::new) {
                Some(Ok(ring)) => (Some(Box::new(ring)), Local::Busy),
                Some(Err(error)) => {
                    tracing::debug!(%error, "no io_uring for this thread, it reads by pread");
                    (None, Local::Refused)
                }
                // Another thread may end and make room.
                None => (None, Local::New),
            },
        };
        let _ = SLOT.try_with(move |slot| slot.set(rest));
        ring.map(|ring| Self(Some(ring)))
    }

    fn ring(&mut self) -> &mut Ring {
        self.0.as_mut().expect("taken only by drop")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let local = match self.0.take() {
            Some(ring) if ring.pending == 0 => Local::Ready(ring),
            _ => Local::Refused,
        };
        // Past the thread's local values the ring is closed here.
        let _ = SLOT.try_with(move |slot| slot.set(local));
    }
}

/// A ring and the memory that its reads fill. Used by one thread.
struct Ring {
    /// Declared before `arena` and so dropped before it: the kernel lets go of the memory first.
    ring: IoUring,
    arena: Arena,
    registered: bool,
    slots: Slots,
    /// Entries pushed to the submission queue whose completions were not reaped.
    pending: usize,
    /// Reads that the ring itself filled since it was made.
    served: u64,
    /// By first slot: the span being read, as index into the plan.
    spans: [usize; DEPTH],
    _permit: Permit,
}

impl Ring {
    fn new(permit: Permit) -> io::Result<Self> {
        let ring = open_ring()?;
        let arena = Arena::new();
        let iovec = libc::iovec { iov_base: arena.start.as_ptr().cast(), iov_len: ARENA_BYTES };
        // SAFETY: the iovec names the whole arena, which is freed only after the ring was dropped and no read
        // is pending: nothing from here to the end of `new` can fail, and then fields drop in the order of
        // their declaration, `ring` before `arena`, which is leaked while a read is pending (see `Drop`).
        // Registered pages stay pinned by the kernel in any case.
        let registered = unsafe { ring.submitter().register_buffers(&[iovec]) }.is_ok();
        Ok(Self {
            ring,
            arena,
            registered,
            slots: Slots::ALL,
            pending: 0,
            served: 0,
            spans: [0; DEPTH],
            _permit: permit,
        })
    }

    /// Reads the spans of `plan`; the contract is that of [`BatchRead::read`].
    fn read(&mut self, file: &ReadFile, extents: &[Extent], plan: &Plan, done: &mut Done<'_>) -> Result<()> {
        let flight = Flight(self);
        let ring = &mut *flight.0;
        let (direct, handle) = match file.direct() {
            Some(direct) => (true, direct),
            None => (false, file.buffered()),
        };
        let mut next = 0;
        loop {
            while let Some(span) = plan.spans.get(next) {
                let fits = widened(span).1 <= SPAN_BYTES_MAX;
                if fits && !ring.push(handle, span, next) {
                    break;
                }
                next += 1;
            }
            if ring.pending == 0 {
                break;
            }
            ring.enter(1).map_err(|e| Error::io("wait for io_uring reads of", file.path(), e))?;
            while let Some((slot, result)) = ring.reap() {
                let span = &plan.spans[ring.spans[slot]];
                let (start, len) = widened(span);
                let wanted = (span.end - start) as usize;
                ring.settle(file, direct, slot, wanted, start, result)?;
                // SAFETY: this read was reaped, and its slots are given back only below.
                let bytes = unsafe { ring.arena.bytes(slot, wanted) };
                plan.deliver(span, extents, start, bytes, done)?;
                ring.slots.give_back(slot, slots_of(len));
            }
        }
        for span in plan.spans.iter().filter(|span| widened(span).1 > SPAN_BYTES_MAX) {
            let mut buffer = vec![0; span.len()];
            file.read_exact(&mut buffer, span.start)?;
            plan.deliver(span, extents, span.start, &buffer, done)?;
        }
        Ok(())
    }

    /// Queues the read of a span; false when no run of slots is free for it.
    fn push(&mut self, handle: &File, span: &Span, index: usize) -> bool {
        let (start, len) = widened(span);
        let Some(slot) = self.slots.take(slots_of(len)) else { return false };
        self.spans[slot] = index;
        let fd = types::Fd(handle.as_raw_fd());
        let (buffer, len) = (self.arena.slot(slot), len as u32);
        let entry = if self.registered {
            opcode::ReadFixed::new(fd, buffer, len, 0).offset(start).build()
        } else {
            opcode::Read::new(fd, buffer, len).offset(start).build()
        };
        // SAFETY: the slots were free, so that neither the kernel nor a slice uses them; they stay taken
        // until `reap` returned this entry, and the arena outlives it (module head). The file is borrowed by
        // the caller beyond the drain of `Flight`, so that the descriptor stays open.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) };
        pushed.expect("the queue has DEPTH entries and every queued read holds a slot");
        self.pending += 1;
        true
    }

    /// Submits what is queued and waits until `want` completions are there.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let error = match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // No memory for requests now, or completions wait to be reaped.
                Some(libc::EAGAIN | libc::EBUSY) => {
                    if !self.ring.completion().is_empty() {
                        return Ok(());
                    }
                    tries += 1;
                    if tries > BUSY_TRIES_MAX {
                        return Err(error);
                    }
                    std::thread::yield_now();
                }
                _ => return Err(error),
            }
        }
    }

    /// The next completion: first slot and result. The slots stay taken until they are given back.
    fn reap(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        self.pending -= 1;
        Some((entry.user_data() as usize, entry.result()))
    }

    /// Makes sure that the first `wanted` bytes of a read at `start`, which ended with `result`, are there.
    fn settle(
        &mut self,
        file: &ReadFile,
        direct: bool,
        slot: usize,
        wanted: usize,
        start: u64,
        result: i32,
    ) -> Result<()> {
        let filled = match -result {
            code @ 1.. => match code {
                libc::EINVAL | libc::EOPNOTSUPP if direct => {
                    file.refuse_direct();
                    0
                }
                libc::EAGAIN | libc::EINTR | libc::ECANCELED => 0,
                _ => return Err(Error::io("read", file.path(), io::Error::from_raw_os_error(code))),
            },
            _ => result as usize,
        };
        if filled < wanted {
            // SAFETY: this read was reaped, its slots were not given back, and no slice of them was made yet.
            let bytes = unsafe { self.arena.bytes_mut(slot, wanted) };
            file.read_exact(&mut bytes[filled..], start + filled as u64)?;
        } else {
            self.served += 1;
        }
        Ok(())
    }

    /// Waits for everything in flight and drops the results. On failure `pending` stays above zero.
    fn drain(&mut self) {
        while self.pending > 0 {
            if let Err(error) = self.enter(1) {
                let pending = self.pending;
                tracing::error!(%error, pending, "io_uring cannot be drained, its memory is given up");
                return;
            }
            while self.reap().is_some() {}
        }
        self.slots = Slots::ALL;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
        // Closing the ring does not wait for reads in flight: without a drain the kernel may still write to
        // the arena.
        self.arena.leaked = self.pending > 0;
    }
}

/// Drains the ring at the end of a batch, also when `done` failed or panicked.
struct Flight<'a>(&'a mut Ring);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// A place within [`RINGS_MAX`].
struct Permit;

impl Permit {
    fn take() -> Option<Self> {
        let grow = |count| (count < RINGS_MAX).then_some(count + 1);
        RINGS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).ok().map(|_| Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        RINGS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens a ring with the newest flags that the kernel takes.
fn open_ring() -> io::Result<IoUring> {
    let depth = DEPTH as u32;
    // Linux 6.1: completions are handled when this thread waits for them, not by interrupting it.
    let newest = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(depth);
    newest
        // Linux 5.19.
        .or_else(|_| IoUring::builder().setup_coop_taskrun().build(depth))
        .or_else(|_| IoUring::new(depth))
}

/// First byte and length of a span widened to pages. The length may pass the end of the file.
fn widened(span: &Span) -> (u64, usize) {
    let start = span.start - span.start % PAGE_BYTES as u64;
    (start, ((span.end - start) as usize).next_multiple_of(PAGE_BYTES))
}

fn slots_of(len: usize) -> usize {
    len.div_ceil(SLOT_BYTES)
}

/// [`ARENA_BYTES`] of page-aligned zeroed memory, shared with the kernel: reached by pointer only, never by a
/// reference to the whole.
struct Arena {
    start: NonNull<u8>,
    /// Not freed at drop: the kernel may still write to it.
    leaked: bool,
}

/// Page-aligned, not empty.
const ARENA: Layout = match Layout::from_size_align(ARENA_BYTES, PAGE_BYTES) {
    Ok(layout) => layout,
    Err(_) => panic!("ARENA_BYTES is a multiple of PAGE_BYTES, which is a power of two"),
};

impl Arena {
    fn new() -> Self {
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(ARENA) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(ARENA) };
        Self { start, leaked: false }
    }

    /// Where slot `slot` starts.
    ///
    /// # Panics
    /// When there is no such slot.
    fn slot(&self, slot: usize) -> *mut u8 {
        assert!(slot < DEPTH);
        // SAFETY: slot * SLOT_BYTES < ARENA_BYTES, within the allocation.
        unsafe { self.start.as_ptr().add(slot * SLOT_BYTES) }
    }

    /// The first `len` bytes from slot `slot` on.
    ///
    /// # Safety
    /// No read in flight touches these bytes while the slice lives: their read was reaped and their slots are
    /// not given back before.
    unsafe fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        assert!(slot * SLOT_BYTES + len <= ARENA_BYTES);
        // SAFETY: within the allocation (asserted), initialized since `alloc_zeroed`, not written meanwhile
        // by the kernel (caller), nor by `bytes_mut`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.slot(slot), len) }
    }

    /// As [`Arena::bytes`], to be written.
    ///
    /// # Safety
    /// As [`Arena::bytes`].
    unsafe fn bytes_mut(&mut self, slot: usize, len: usize) -> &mut [u8] {
        assert!(slot * SLOT_BYTES + len <= ARENA_BYTES);
        // SAFETY: as in `bytes`; `&mut self` excludes any other slice.
        unsafe { std::slice::from_raw_parts_mut(self.slot(slot), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: allocated by `new` with this layout; no read is in flight (`Ring::drop` drained), and
            // no slice outlives the arena.
            unsafe { dealloc(self.start.as_ptr(), ARENA) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_batch_leaves_the_ring_usable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![9; 4 << 20]).unwrap();
        let file = ReadFile::open(&path).unwrap();
        let extents: Vec<Extent> = (0..200).map(|i| Extent { offset: i * 20_000, len: 100 }).collect();
        let plan = Plan::new(&file, &extents).unwrap();
        let permit = loop {
            // Other tests can hold them all for a while.
            match Permit::take() {
                Some(permit) => break permit,
                None => std::thread::yield_now(),
            }
        };
        let Ok(mut ring) = Ring::new(permit) else { return };
        for stop in [0, 1, 150, 500] {
            let mut count = 0;
            let read = ring.read(&file, &extents, &plan, &mut |_, bytes| {
                assert_eq!(bytes, [9; 100]);
                count += 1;
                if count > stop { Err(Error::Invalid("stop".into())) } else { Ok(()) }
            });
            assert_eq!(read.is_err(), stop < 200);
            assert_eq!((ring.pending, ring.slots), (0, Slots::ALL));
        }
    }
}
