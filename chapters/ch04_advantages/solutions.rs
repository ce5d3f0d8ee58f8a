//! Answers to the exercises of chapter 4.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Optimizer, SGD, ops};
use grpo::{
    Result,
    advantage::{self, Scale},
    gradients, log_prob,
    policy::{Policy, Table},
    sampling, stats,
};
use rand::rngs::StdRng;

// ANCHOR: by_hand
/// The mean is 1/4, so the rewards stand −1/4 or 3/4 from it. σ is √3/4 over n, and 1/2
/// over n − 1.
pub fn by_hand() -> [[f64; 4]; 2] {
    [[-0.577, -0.577, -0.577, 1.732], [-0.5, -0.5, -0.5, 1.5]]
}
// ANCHOR_END: by_hand

// ANCHOR: silent
/// All right, or all wrong.
pub fn silent(p: f64, size: usize) -> f64 {
    p.powi(size as i32) + (1.0 - p).powi(size as i32)
}
// ANCHOR_END: silent

// ANCHOR: clipped
/// Cutting comes last: a reward that was cut first would move the mean and σ.
pub fn clipped(rewards: &[f64], limit: f64) -> Vec<f64> {
    if rewards.iter().all(|&reward| reward == rewards[0]) {
        return vec![0.0; rewards.len()];
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0)).sqrt();
    rewards
        .iter()
        .map(|reward| ((reward - mean) / deviation).clamp(-limit, limit))
        .collect()
}
// ANCHOR_END: clipped

// ANCHOR: equal_rewards
/// The question is asked of the rewards themselves, before a sum has rounded anything.
pub fn equal_rewards(rewards: &[f32]) -> Vec<f32> {
    if rewards.iter().all(|&reward| reward == rewards[0]) {
        return vec![0.0; rewards.len()];
    }
    let n = rewards.len() as f32;
    let mean = rewards.iter().sum::<f32>() / n;
    let squares: f32 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0)).sqrt();
    rewards.iter().map(|reward| (reward - mean) / deviation).collect()
}
// ANCHOR_END: equal_rewards

// ANCHOR: by_rank
/// A reward's rank is the number of smaller ones. If m others equal it, together they
/// take up the ranks from there to m further on, whose mean is m/2 further on.
pub fn by_rank(rewards: &[f64]) -> Vec<f64> {
    let rank = |reward: &f64| {
        let smaller = rewards.iter().filter(|other| *other < reward).count();
        let equal = rewards.iter().filter(|other| *other == reward).count();
        smaller as f64 + (equal - 1) as f64 / 2.0
    };
    let ranks: Vec<f64> = rewards.iter().map(rank).collect();
    if ranks.iter().all(|&rank| rank == ranks[0]) {
        return vec![0.0; ranks.len()];
    }
    let (mean, deviation) = stats::mean_std(&ranks);
    ranks.iter().map(|rank| (rank - mean) / deviation).collect()
}
// ANCHOR_END: by_rank

// ANCHOR: shares
/// In a large group of a prompt, the spread is what it is on average. The centred update
/// is then the variance of a reward that is 1 with probability p, and the standardised
/// update is its root.
pub fn shares(chances: &[f64]) -> [Vec<f64>; 2] {
    let variances: Vec<f64> = chances.iter().map(|p| p * (1.0 - p)).collect();
    let deviations = variances.iter().map(|variance| variance.sqrt()).collect();
    [variances, deviations].map(|updates| {
        let total: f64 = updates.iter().sum();
        let share = |update: &f64| if total > 0.0 { update / total } else { 0.0 };
        updates.iter().map(share).collect()
    })
}
// ANCHOR_END: shares

// ANCHOR: group_size
/// The largest of many grows with their number. That alone makes this measure rise.
pub fn best_of_groups(rewards: &[f64], size: usize) -> Result<(f64, f64)> {
    let advantages = advantage::group_relative(rewards, size, Scale::Unbiased)?;
    let best = |group: &[f64]| group.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best: Vec<f64> = advantages.chunks(size).map(best).collect();
    Ok(stats::mean_std(&best))
}

/// Here the answer is always the same, so all that varies is the judgement.
pub fn one_answer(reward: f64, others: &[f64], size: usize) -> Result<(f64, f64)> {
    let groups = others.chunks_exact(size - 1).map(|companions| {
        let group = [&[reward], companions].concat();
        Ok(advantage::group_relative(&group, size, Scale::Unbiased)?[0])
    });
    Ok(stats::mean_std(&groups.collect::<Result<Vec<f64>>>()?))
}
// ANCHOR_END: group_size

// ANCHOR: two_prompts
/// The groups stand one after the other, as their rewards do: the first eight rows answer
/// prompt 0. Only so does each group meet its own advantages.
pub fn two_prompts(
    scale: Scale,
    learning_rate: f64,
    steps: usize,
    rng: &mut StdRng,
) -> Result<Vec<[f64; 2]>> {
    const SIZE: usize = 8;
    let device = Device::Cpu;
    let policy = Table::uniform(2, 10, DType::F64, &device)?;
    let variables = policy.variables().values().cloned().collect();
    let mut optimizer = SGD::new(variables, learning_rate)?;
    let prompts = Tensor::new([[0u32; SIZE], [1; SIZE]].concat(), &device)?;
    let mut curve = Vec::with_capacity(steps);
    for _ in 0..steps {
        let logits = policy.logits(&prompts)?;
        // Row 0 of the batch answers prompt 0, and row 8 prompt 1.
        let probabilities = ops::softmax(&logits, D::Minus1)?.to_vec2::<f64>()?;
        curve.push([probabilities[0][3], probabilities[SIZE][7]]);
        let answers = sampling::sample(&logits, rng)?;
        let rewards: Vec<f64> = (answers.to_vec1::<u32>()?.iter().enumerate())
            .map(|(row, &answer)| match (row < SIZE, answer) {
                (true, 3) => 1.0,
                (false, 7) => 10.0,
                _ => 0.0,
            })
            .collect();
        let advantages = advantage::group_relative(&rewards, SIZE, scale)?;
        let advantages = Tensor::new(advantages, &device)?;
        let loss = (log_prob::of(&logits, &answers)? * advantages)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(curve)
}
// ANCHOR_END: two_prompts
