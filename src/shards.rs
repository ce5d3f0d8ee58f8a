//! Work in shards, over the cores of this machine.
//!
//! A batch is cut into as many shards as a setting says, and each shard is computed by
//! one thread in a graph of its own. Results come back in the order of the shards. They
//! may depend on the number of shards, in the last digit, and never on the number of
//! cores: that only says how many shards are computed at the same time.
//!
//! Threads inside a matrix product would need no cutting, but they wait for each other at
//! every operation; shards wait once.
//!
//! Left out: threads that live on between two calls. Starting one takes some tens of
//! microseconds, a training step takes a thousand times as long.

use crate::Result;
use std::{
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

thread_local! {
    /// Whether this thread computes one of several shards.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f` once for each of `0..shards`, on as many threads as there are cores, and
/// returns the results in order. Inside of `f` the cores are taken: a `run` there stays
/// on its thread.
///
/// # Errors
/// The error of the lowest shard that failed.
///
/// ```
/// let squares = grpo::shards::run(3, |shard| Ok(shard * shard)).unwrap();
/// assert_eq!(squares, [0, 1, 4]);
/// ```
// ANCHOR: run
pub fn run<T: Send>(
    shards: usize,
    f: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    if shards < 2 || cores < 2 || INSIDE.get() {
        return (0..shards).map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let before = INSIDE.replace(true);
        let take = || Some(next.fetch_add(1, Relaxed)).filter(|&shard| shard < shards);
        let done: Vec<_> =
            std::iter::from_fn(take).map(|shard| (shard, f(shard))).collect();
        INSIDE.set(before);
        done
    };
    let mut results = thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(shards)).map(|_| scope.spawn(worker)).collect();
        let mut results = worker();
        for other in others {
            results.extend(other.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        }
        results
    });
    results.sort_by_key(|(shard, _)| *shard);
    results.into_iter().map(|(_, result)| result).collect()
}
// ANCHOR_END: run

/// Cuts `0..count` into at most `parts` ranges, none of them empty, whose lengths differ
/// by at most 1.
///
/// ```
/// assert_eq!(grpo::shards::cut(0..5, 2), [0..2, 2..5]);
/// assert_eq!(grpo::shards::cut(3..5, 4), [3..4, 4..5]);
/// ```
pub fn cut(range: Range<usize>, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.min(range.len());
    let edge = |part: usize| range.start + part * range.len() / parts;
    (0..parts).map(|part| edge(part)..edge(part + 1)).collect()
}

/// How a batch is cut.
///
/// ```
/// use grpo::shards::Split;
/// let split = Split { shards: 2, pieces: 2 };
/// assert_eq!(split.of(8), [[0..2, 2..4], [4..6, 6..8]]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Parts that may be computed at the same time.
    pub shards: usize,
    /// Parts of each shard, computed one after the other, so that no more than one of
    /// them is in memory.
    pub pieces: usize,
}

impl Split {
    /// Everything at once, on one thread.
    pub const WHOLE: Self = Self { shards: 1, pieces: 1 };

    /// So many shards, each in one piece.
    pub const fn over(shards: usize) -> Self {
        Self { shards, pieces: 1 }
    }

    /// The pieces of each shard of `count` rows or groups.
    pub fn of(self, count: usize) -> Vec<Vec<Range<usize>>> {
        let shards = cut(0..count, self.shards.max(1));
        shards.into_iter().map(|shard| cut(shard, self.pieces.max(1))).collect()
    }
}
