//! Answers to the exercises of chapter 8.

use grpo::stats::mean_std;
use rand::{Rng, rngs::StdRng};
use std::ops::Range;

// ANCHOR: half_speak
/// 0.98^G must fall to one half: G = ln 0.5 / ln 0.98 = 34.3, so 35.
pub fn half_speak() -> usize {
    35
}
// ANCHOR_END: half_speak

// ANCHOR: silent_share
/// All right or all wrong. One answer alone is silent in any case: p + (1 − p) =
/// 1.
pub fn silent_share(p: f64, group_size: usize) -> f64 {
    let all = |chance: f64| chance.powi(group_size as i32);
    all(p) + all(1.0 - p)
}
// ANCHOR_END: silent_share

// ANCHOR: silent_estimate
/// The prompt is drawn first, and its chance holds for the whole group.
pub fn silent_estimate(
    chances: &[f64],
    group_size: usize,
    trials: usize,
    rng: &mut StdRng,
) -> [f64; 3] {
    let mut counts = [0usize; 3];
    for _ in 0..trials {
        let p = chances[rng.random_range(0..chances.len())];
        let right = (0..group_size).filter(|_| rng.random::<f64>() < p).count();
        let kind = match right {
            0 => 0,
            _ if right == group_size => 1,
            _ => 2,
        };
        counts[kind] += 1;
    }
    counts.map(|count| count as f64 / trials as f64)
}
// ANCHOR_END: silent_estimate

// ANCHOR: group_means
/// A group is a sum, and its mean the sum divided by G.
pub fn group_means(group_size: usize, trials: usize, rng: &mut StdRng) -> Vec<f64> {
    let mut mean = || {
        let rewards = (0..group_size).map(|_| [1.0, -0.5, -1.0][rng.random_range(0..3)]);
        rewards.sum::<f64>() / group_size as f64
    };
    (0..trials).map(|_| mean()).collect()
}
// ANCHOR_END: group_means

// ANCHOR: diminishing
/// The deviation is σ/√G, so one more answer leaves √(G/(G + 1)) of it, whatever σ
/// is.
pub fn diminishing(share: f64) -> usize {
    let falls_by = |size: usize| 1.0 - (size as f64 / (size as f64 + 1.0)).sqrt();
    (1..).find(|&size| falls_by(size) < share).unwrap_or(usize::MAX)
}
// ANCHOR_END: diminishing

// ANCHOR: advantage_variance
/// With k right answers the advantages are 1 − k/G, k times, and −k/G. Their
/// squares sum to k(1 − k/G), and to G − 1 after the division by σ. The mean
/// advantage is 0, so the mean square is the variance.
pub fn advantage_variance(p: f64, group_size: usize) -> [f64; 2] {
    let size = group_size as f64;
    let (mut plain, mut scaled) = (0.0, 0.0);
    let mut ways = 1.0;
    for k in 0..=group_size {
        let right = k as f64;
        let wrong = group_size - k;
        let chance = ways * p.powi(k as i32) * (1.0 - p).powi(wrong as i32);
        plain += chance * right * (1.0 - right / size) / size;
        if k > 0 && wrong > 0 {
            scaled += chance * (size - 1.0) / size;
        }
        // G over k + 1, from G over k.
        ways *= wrong as f64 / (right + 1.0);
    }
    [plain, scaled]
}
// ANCHOR_END: advantage_variance

// ANCHOR: best_group_size
/// A budget of T pays for T / (prompt + G · answer) groups, and the variance of
/// their mean is the variance of one group divided by their number. T divides out.
pub fn best_group_size(between: f64, within: f64, prompt: f64, answer: f64) -> usize {
    let variance = |size: usize| {
        let size = size as f64;
        (between + within / size) * (prompt + size * answer)
    };
    let smaller = |best, size| if variance(size) < variance(best) { size } else { best };
    (3..=1024).fold(2, smaller)
}
// ANCHOR_END: best_group_size

// ANCHOR: ablation
/// Tune on one half of the seeds, measure on the other.
pub fn ablation(
    group_sizes: &[usize],
    rates: &[f64],
    seeds: u64,
    [answers, budget]: [usize; 2],
    train: &mut dyn FnMut(usize, [usize; 2], f64, u64) -> f64,
) -> Vec<[f64; 3]> {
    let row = |&group_size: &usize| {
        let plan = [answers / group_size, budget / answers];
        let mut measure = |rate: f64, seeds: Range<u64>| {
            let rewards: Vec<f64> =
                seeds.map(|seed| train(group_size, plan, rate, seed)).collect();
            mean_std(&rewards)
        };
        let (mut chosen, mut highest) = (rates[0], f64::NEG_INFINITY);
        for &rate in rates {
            let (mean, _) = measure(rate, 0..seeds);
            if mean > highest {
                (chosen, highest) = (rate, mean);
            }
        }
        let (mean, deviation) = measure(chosen, seeds..2 * seeds);
        [chosen, mean, deviation]
    };
    group_sizes.iter().map(row).collect()
}
// ANCHOR_END: ablation
