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
use criterion::{BenchmarkId, Criterion, criterion_group};
use grpo::{
    Result, log_prob, mask,
    objective::{Batch, Objective, recipe},
    seed,
};
use std::process::Command;

/// What one step held at most, in MB: by the kernel's account (Linux only), in a process
/// of its own, whose allocator is told not to keep memory.
fn peak_megabytes(size: &str, way: &str) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program)
        .args(["--peak", size, way])
        .env("MIMALLOC_PURGE_DELAY", "0")
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A line of the kernel's account of this process, in MB.
fn megabytes(line: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let found = status.lines().find_map(|l| l.strip_prefix(line))?;
    Some(found.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
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

const SIZES: [(&str, [usize; 3]); 2] =
    [("small", [64, 36, 64]), ("large", [32, 256, 8192])];

type LogProb = fn(&Tensor, &Tensor) -> Result<Tensor>;
const WAYS: [(&str, LogProb); 2] = [("gathered", log_prob::of), ("naive", naive)];

/// Prints what one step adds to the memory of this process.
fn peak(size: &str, way: &str) -> Option<()> {
    let (_, [b, t, v]) = SIZES.into_iter().find(|(name, _)| *name == size)?;
    let (_, log_prob) = WAYS.into_iter().find(|(name, _)| *name == way)?;
    let task = Task::new(b, t, v).ok()?;
    // Forgets the peak of making the task.
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = megabytes("VmRSS:")?;
    task.step(log_prob).ok()?;
    println!("{:.1}", megabytes("VmHWM:")? - before);
    Some(())
}

fn bench(criterion: &mut Criterion) {
    // `cargo test --all-targets` runs this too, without `--bench` and only to see it run.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    for (name, [b, t, v]) in SIZES.into_iter().take(if is_test { 1 } else { 2 }) {
        let mut group = criterion.benchmark_group(format!("{name} ({b}, {t}, {v})"));
        group.sample_size(10);
        let mut task = None;
        for (way, log_prob) in WAYS {
            let mut ran = false;
            group.bench_function(BenchmarkId::from_parameter(way), |bencher| {
                ran = true;
                let task = task.get_or_insert_with(|| Task::new(b, t, v).unwrap());
                bencher.iter(|| task.step(log_prob).unwrap());
            });
            if let Some(peak) = peak_megabytes(name, way).filter(|_| ran) {
                println!("                        peak:   {peak:.1} MB");
            }
        }
        group.finish();
    }
}

criterion_group!(benches, bench);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, size, way] = &arguments[..]
        && flag == "--peak"
    {
        peak(size, way);
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
