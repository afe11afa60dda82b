//! Work on the parts of a slice by a few threads: what building an index needs of parallelism.
//!
//! Parts are handed out in order as threads get free, so that uneven ones balance out. Every part's result
//! depends on that part alone, so that a result is the same for any number of threads.

use parking_lot::Mutex;

use crate::pace;

/// How many threads a build may use: `0` is as many as the machine runs at once.
pub fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    }
}

/// How far background work steps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Under contention it gets about a third of the time that others get: it must not fall behind.
    Low = 5,
    /// It takes what others leave, and a thirtieth of their time where they leave nothing.
    Lowest = 15,
}

/// From now on this thread, and those it starts, let the machine's other work go first: searches do not wait
/// for the build of a segment. Where the system has no priorities of threads this does nothing.
pub fn step_back(priority: Priority) {
    // On Linux a thread has a nice value of its own; elsewhere it would be that of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(priority as i32) {
        tracing::warn!(%error, "background work runs at the priority of searches");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = priority;
}

/// Calls `work(index, part)` once for each part of `part_len` values of `values`, with pauses between parts
/// where the thread [keeps pace](crate::pace) with searches.
///
/// # Panics
/// When `part_len` is 0, or when `work` does.
pub(crate) fn for_parts<T: Send>(
    threads: usize,
    values: &mut [T],
    part_len: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let parts = values.len().div_ceil(part_len);
    let left = values.chunks_mut(part_len).enumerate();
    if threads <= 1 || parts <= 1 {
        return left.for_each(|(index, part)| {
            work(index, part);
            pace::breathe();
        });
    }
    let left = Mutex::new(left);
    let next = || left.lock().next();
    let any = || next().map(|(index, part)| work(index, part)).is_some();
    pace::waiting(|pace| {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(parts) {
                scope.spawn(|| pace::helping(pace, any));
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_steps_back_takes_its_helpers_along_and_nobody_else() {
        let own = || rustix::process::getpriority_process(None).unwrap();
        let before = own();
        let seen = std::thread::scope(|scope| {
            let stepped = scope.spawn(|| {
                step_back(Priority::Low);
                let helper = std::thread::scope(|scope| scope.spawn(own).join().unwrap());
                (own(), helper)
            });
            stepped.join().unwrap()
        });
        let expected = (before + Priority::Low as i32).min(19);
        assert_eq!((seen, own()), ((expected, expected), before));
    }

    #[test]
    fn every_part_is_worked_on_once_by_any_number_of_threads() {
        for (threads, len, part) in [(1, 10, 3), (2, 10, 3), (7, 1000, 1), (3, 0, 5), (4, 5, 100)] {
            let mut values = vec![0; len];
            for_parts(threads, &mut values, part, |index, values| {
                values.iter_mut().for_each(|value| *value += index + 1);
            });
            let expected: Vec<usize> = (0..len).map(|at| at / part + 1).collect();
            assert_eq!(values, expected, "{threads} threads");
        }
        assert_eq!(super::threads(3), 3);
        assert!(super::threads(0) >= 1);
    }
}
