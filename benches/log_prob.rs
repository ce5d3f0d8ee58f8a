//! Time and peak memory of one loss and its gradient with respect to the logits, the
//! log-probabilities gathered in one pass against `log_softmax` and a gather.
//!
//! ```text
//! cargo bench --profile dev
//! ```
//!
//! The profile is the one that everything else is built with, so Candle is not compiled a
//! second time. Other arguments go to criterion: `-- small` runs one size.

use candle_core::{D, DType, Device::Cpu, Tensor, Var};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use grpo::{
    Result, log_prob, mask,
    objective::{Batch, Objective, recipe},
    seed,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator, which also remembers how much was in use at most.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to `System` as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(USED.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(USED.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What was in use at most while `f` ran, beyond what was in use before, in MB.
fn peak_megabytes(f: impl Fn()) -> f64 {
    let before = USED.load(Relaxed);
    PEAK.store(before, Relaxed);
    f();
    (PEAK.load(Relaxed) - before) as f64 / 1e6
}

struct Task {
    logits: Var,
    ids: Tensor,
    advantages: Tensor,
    mask: Tensor,
    objective: Objective,
}

impl Task {
    /// Logits (B, T, V) of a policy that is not uniform.
    fn new(b: usize, t: usize, v: usize) -> Result<Self> {
        let mut rng = seed::rng(0);
        let logits =
            Var::from_tensor(&seed::normal(&mut rng, (b, t, v), 2.0, DType::F32, &Cpu)?)?;
        let ids = (0..b * t).map(|i| (i * 31 % v) as u32).collect();
        Ok(Self {
            logits,
            ids: Tensor::from_vec(ids, (b, t), &Cpu)?,
            advantages: seed::normal(&mut rng, b, 1.0, DType::F32, &Cpu)?,
            mask: mask::of_lengths(&vec![t; b], t, &Cpu)?,
            objective: recipe("dapo", t)?.objective,
        })
    }

    /// Forward and backward.
    fn step(&self, log_prob: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
        let log_probs = log_prob(&self.logits, &self.ids)?;
        let batch = Batch::new(&log_probs, &self.advantages, &self.mask);
        self.objective.loss(&batch)?.0.backward()?;
        Ok(())
    }
}

fn naive(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let log_softmax = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    Ok(log_softmax.gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?.squeeze(D::Minus1)?)
}

fn bench(criterion: &mut Criterion) {
    // `cargo test --all-targets` runs this too, without `--bench` and only to see it run.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let sizes = [("small", 64, 36, 64), ("large", 32, 256, 8192)];
    for (name, b, t, v) in sizes.into_iter().take(if is_test { 1 } else { 2 }) {
        let mut group = criterion.benchmark_group(format!("{name} ({b}, {t}, {v})"));
        group.sample_size(10);
        let mut task = None;
        let ways = [("gathered", log_prob::of as fn(&_, &_) -> _), ("naive", naive)];
        for (way, log_prob) in ways {
            let mut peak = None;
            group.bench_function(BenchmarkId::from_parameter(way), |bencher| {
                let task = task.get_or_insert_with(|| Task::new(b, t, v).unwrap());
                let step = || task.step(log_prob).unwrap();
                peak.get_or_insert_with(|| peak_megabytes(step));
                bencher.iter(step);
            });
            if let Some(peak) = peak {
                println!("                        peak:   {peak:.1} MB");
            }
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
