//! Answers to the exercises of chapter 1.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use grpo::{
    Result, gradients, log_prob,
    policy::{Policy, Table},
    sampling,
};
use rand::{Rng, rngs::StdRng};

// ANCHOR: moved
/// R · (1 − π) for the sampled token and −R · π for the others, with R = 2. The
/// probabilities are 0.5465, 0.3315 and 0.1220.
pub fn moved() -> [f64; 3] {
    [-2.0 * 0.5465, -2.0 * 0.3315, 2.0 * (1.0 - 0.1220)]
}
// ANCHOR_END: moved

// ANCHOR: traced
/// −(+0.5 · −15) = 7.5: to make it smaller, log π must rise. −(−0.5 · −15) = −7.5:
/// to make it smaller still, log π must fall.
pub fn traced() -> [(f64, bool); 2] {
    [(7.5, true), (-7.5, false)]
}
// ANCHOR_END: traced

// ANCHOR: rewards_to_go
/// Backwards, because G_t = r_t + gamma G_{t+1}: one number carries all that is to
/// come.
pub fn rewards_to_go(rewards: &[f64], gamma: f64) -> Vec<f64> {
    let mut to_go = vec![0.0; rewards.len()];
    let mut next = 0.0;
    for t in (0..rewards.len()).rev() {
        next = rewards[t] + gamma * next;
        to_go[t] = next;
    }
    to_go
}
// ANCHOR_END: rewards_to_go

// ANCHOR: score_estimate
/// Every sample pushes its own logit by R and all logits by −R π, so both pushes
/// can be added up for each token.
pub fn score_estimate(logits: &[f64], counts: &[u32], rewards: &[f64]) -> Vec<f64> {
    let probabilities = softmax(logits);
    let samples: f64 = counts.iter().copied().map(f64::from).sum();
    let mut gradient = vec![0.0; logits.len()];
    for (token, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let weight = f64::from(count) / samples * rewards[token];
        gradient[token] += weight;
        gradient.iter_mut().zip(&probabilities).for_each(|(g, p)| *g -= weight * p);
    }
    gradient
}

/// The largest logit is taken off first, so that `exp` cannot overflow.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}
// ANCHOR_END: score_estimate

// ANCHOR: variance
/// E‖g‖² − ‖E g‖². What one sample of a token estimates is `score_estimate` with a
/// count of 1 for it.
pub fn variance(logits: &[f64], rewards: &[f64]) -> f64 {
    let mut mean = vec![0.0; logits.len()];
    let mut mean_square = 0.0;
    for (token, probability) in softmax(logits).into_iter().enumerate() {
        let mut counts = vec![0; logits.len()];
        counts[token] = 1;
        let gradient = score_estimate(logits, &counts, rewards);
        mean.iter_mut().zip(&gradient).for_each(|(m, g)| *m += probability * g);
        mean_square += probability * gradient.iter().map(|g| g * g).sum::<f64>();
    }
    mean_square - mean.iter().map(|m| m * m).sum::<f64>()
}
// ANCHOR_END: variance

// ANCHOR: sample
/// A dart thrown at a line on which each action has a stretch as long as its
/// weight.
pub fn sample(logits: &Tensor, rng: &mut StdRng) -> Result<Tensor> {
    let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let draw = |row: Vec<f64>| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = row.iter().map(|logit| (logit - max).exp()).collect();
        let mut dart = rng.random::<f64>() * weights.iter().sum::<f64>();
        let hit = weights.iter().position(|weight| {
            let inside = dart < *weight;
            dart -= weight;
            inside
        });
        // Rounding can carry the dart past the end of the line.
        let last = || weights.iter().rposition(|weight| *weight > 0.0);
        hit.or_else(last).unwrap_or(0) as u32
    };
    let actions: Vec<u32> = rows.into_iter().map(draw).collect();
    Ok(Tensor::new(actions, logits.device())?)
}
// ANCHOR_END: sample

// ANCHOR: pair_loss
/// π(a, b) = π(a) · π(b | a), so the log-probabilities add. Both get the whole
/// reward: nobody knows which of the two tokens earned it.
pub fn pair_loss(policy: &Table, pairs: &[[u32; 2]], rewards: &[f64]) -> Result<Tensor> {
    let column = |f: fn(&[u32; 2]) -> u32| -> Result<Tensor> {
        let numbers: Vec<u32> = pairs.iter().map(f).collect();
        Ok(Tensor::new(numbers, &Device::Cpu)?)
    };
    let first = log_prob::of(&policy.logits(&column(|_| 0)?)?, &column(|pair| pair[0])?)?;
    let rows = policy.logits(&column(|pair| 1 + pair[0])?)?;
    let log_probs = (first + log_prob::of(&rows, &column(|pair| pair[1])?)?)?;
    let rewards = Tensor::new(rewards, &Device::Cpu)?.to_dtype(log_probs.dtype())?;
    Ok((rewards * log_probs)?.mean_all()?.neg()?)
}
// ANCHOR_END: pair_loss

// ANCHOR: learn_pairs
/// The loop of the page. Only the sampling has two steps.
pub fn learn_pairs(rewards: &[Vec<f64>], rng: &mut StdRng) -> Result<Table> {
    const BATCH: usize = 64;
    let tokens = rewards.len();
    let policy = Table::uniform(1 + tokens, tokens, DType::F64, &Device::Cpu)?;
    let mut optimizer = SGD::new(policy.variables().values().cloned().collect(), 1.0)?;
    for _ in 0..400 {
        let start = Tensor::zeros(BATCH, DType::U32, &Device::Cpu)?;
        let first = sampling::sample(&policy.logits(&start)?, rng)?;
        let after = (&first + Tensor::ones_like(&first)?)?;
        let second = sampling::sample(&policy.logits(&after)?, rng)?;
        let columns = first.to_vec1()?.into_iter().zip(second.to_vec1()?);
        let pairs: Vec<[u32; 2]> = columns.map(|(a, b)| [a, b]).collect();
        let earned = |[a, b]: &[u32; 2]| rewards[*a as usize][*b as usize];
        let earned: Vec<f64> = pairs.iter().map(earned).collect();
        let loss = pair_loss(&policy, &pairs, &earned)?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}
// ANCHOR_END: learn_pairs
