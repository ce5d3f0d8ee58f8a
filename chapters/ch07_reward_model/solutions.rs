//! Answers to the exercises of chapter 7.

use candle_core::{Device, Tensor, Var};
use candle_nn::{Optimizer, SGD};
use grpo::{Result, advantage, dpo::Pairs, kl, log_prob, sampling};
use rand::{Rng, rngs::StdRng};

// ANCHOR: surprise
/// σ(1.5) = 1 / (1 + 0.223). The push is 1 − P(what happened): the rest of the
/// probability if the stronger one won, and σ(1.5) itself if it lost.
pub fn surprise() -> [f64; 3] {
    [0.818, 0.182, 0.818]
}
// ANCHOR_END: surprise

// ANCHOR: preference_loss
/// −log σ(m) = log(1 + e^−m), and the 1 is e⁰: a log-sum-exp of two numbers, which
/// Candle computes after it has taken out the larger one.
pub fn preference_loss(chosen: &Tensor, rejected: &Tensor) -> Result<Tensor> {
    let minus_margin = (chosen - rejected)?.neg()?;
    let both = Tensor::stack(&[minus_margin.zeros_like()?, minus_margin], 1)?;
    Ok(both.log_sum_exp(1)?.mean_all()?)
}
// ANCHOR_END: preference_loss

// ANCHOR: dpo_loss
/// Bradley and Terry's loss with other rewards. Where the log-probs of the
/// reference come from, no gradient must go: `detach`.
pub fn dpo_loss(policy: Pairs, reference: Pairs, beta: f64) -> Result<Tensor> {
    let reward = |log_probs: &Tensor, ref_log_probs: &Tensor| -> Result<Tensor> {
        Ok(((log_probs - ref_log_probs.detach())? * beta)?)
    };
    preference_loss(
        &reward(policy.chosen, reference.chosen)?,
        &reward(policy.rejected, reference.rejected)?,
    )
}
// ANCHOR_END: dpo_loss

// ANCHOR: tilted
/// π ∝ π_ref e^(r/β). Only differences of rewards count, so the largest one is
/// taken away first, and no exponent is above 0.
pub fn tilted(reference: &[f64], rewards: &[f64], beta: f64) -> Vec<f64> {
    let possible = reference.iter().zip(rewards).filter(|(p, _)| **p > 0.0);
    let highest = possible.map(|(_, r)| *r).fold(f64::NEG_INFINITY, f64::max);
    let weights = reference.iter().zip(rewards).map(|(p, r)| match *p > 0.0 {
        true => p * ((r - highest) / beta).exp(),
        false => 0.0,
    });
    let weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}
// ANCHOR_END: tilted

// ANCHOR: at_equal_kl
/// The nearest point on the left, the nearest on the right, and the line between
/// them.
pub fn at_equal_kl(line: &[(f64, f64)], kl: f64) -> Option<f64> {
    let below = line.iter().filter(|point| point.0 <= kl);
    let above = line.iter().filter(|point| point.0 >= kl);
    let left = below.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let right = above.min_by(|a, b| a.0.total_cmp(&b.0))?;
    if left.0 == right.0 {
        return Some(left.1);
    }
    let share = (kl - left.0) / (right.0 - left.0);
    Some(left.1 + share * (right.1 - left.1))
}
// ANCHOR_END: at_equal_kl

// ANCHOR: train
/// The loop of the GRPO step, with a table for a policy. `batch_mean` is the
/// centring of one group, and `exact_policy_ref` the leash.
pub fn train(
    reference: &[f64],
    rewards: &[f64],
    group_size: usize,
    beta: f64,
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    const STEPS: usize = 3_000;
    let ref_logits = Tensor::new(reference, &Device::Cpu)?.log()?;
    let logits = Var::from_tensor(&ref_logits)?;
    let mut optimizer = SGD::new(vec![logits.clone()], 0.05)?;
    let mut sum = ref_logits.zeros_like()?;
    for step in 0..STEPS {
        let rows = logits.broadcast_as((group_size, rewards.len()))?;
        let group = sampling::sample(&rows.detach(), rng)?;
        let answers = group.to_vec1::<u32>()?;
        let earned: Vec<f64> = answers.iter().map(|&a| rewards[a as usize]).collect();
        let advantages = Tensor::new(advantage::batch_mean(&earned), &Device::Cpu)?;
        let pushed = (log_prob::of(&rows, &group)? * advantages)?.mean_all()?;
        let leash = kl::exact_policy_ref(&logits, &ref_logits)?;
        optimizer.backward_step(&((leash * beta)? - pushed)?)?;
        if step >= STEPS / 2 {
            sum = (sum + log_prob::table(&logits.detach())?.exp()?)?;
        }
    }
    Ok((sum / (STEPS / 2) as f64)?.to_vec1()?)
}
// ANCHOR_END: train

// ANCHOR: draw
/// An index, drawn in proportion to the weights.
fn draw(weights: &[f64], rng: &mut StdRng) -> usize {
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    let past = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    weights.iter().position(past).unwrap_or(weights.len() - 1)
}
// ANCHOR_END: draw

// ANCHOR: rounds
/// The record counts how often each answer beat each other one.
pub fn rounds(
    reference: &[f64],
    prefers: &dyn Fn(usize, usize, &mut StdRng) -> bool,
    [rounds, comparisons]: [usize; 2],
    beta: f64,
    rng: &mut StdRng,
) -> Vec<f64> {
    let mut policy = reference.to_vec();
    let mut wins = vec![vec![0.0; policy.len()]; policy.len()];
    for _ in 0..rounds {
        for _ in 0..comparisons {
            let a = draw(&policy, rng);
            let mut others = policy.clone();
            others[a] = 0.0;
            let b = draw(&others, rng);
            let (winner, loser) = if prefers(a, b, rng) { (a, b) } else { (b, a) };
            wins[winner][loser] += 1.0;
        }
        policy = tilted(reference, &strengths(&wins), beta);
    }
    policy
}
// ANCHOR_END: rounds

// ANCHOR: strengths
/// Bradley and Terry's rewards by gradient descent, with the penalty 0.5 Σ r².
fn strengths(wins: &[Vec<f64>]) -> Vec<f64> {
    let games: f64 = wins.iter().flatten().sum();
    let mut rewards = vec![0.0f64; wins.len()];
    for _ in 0..2_000 {
        let mut ascent: Vec<f64> = rewards.iter().map(|r| -r).collect();
        for (w, row) in wins.iter().enumerate() {
            for (l, times) in row.iter().enumerate() {
                let push = times / (1.0 + (rewards[w] - rewards[l]).exp());
                ascent[w] += push;
                ascent[l] -= push;
            }
        }
        // The curvature is at most games / 2 + 1, so this step never overshoots.
        rewards.iter_mut().zip(&ascent).for_each(|(r, a)| *r += a * 2.0 / (games + 2.0));
    }
    rewards
}
// ANCHOR_END: strengths
