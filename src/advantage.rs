//! Advantages: how much better a choice was than what was expected.
//!
//! Every function here takes and returns plain numbers. An advantage multiplies a
//! gradient but has none of its own, and a slice of `f64` cannot have one by accident.
//!
//! Left out: group-relative advantages, which have a chapter of their own.

use crate::Result;
use anyhow::ensure;

/// Rewards minus a constant `baseline`: rᵢ − b.
pub fn constant(rewards: &[f64], baseline: f64) -> Vec<f64> {
    rewards.iter().map(|reward| reward - baseline).collect()
}

/// Rewards minus their own mean: rᵢ − (1/n) Σⱼ rⱼ.
///
/// The mean contains rᵢ itself, which shortens the expected gradient to (n−1)/n of
/// its length.
///
/// ```
/// let advantages = grpo::advantage::batch_mean(&[0.8, 0.3, 0.9, 0.2]);
/// assert!((advantages[0] - 0.25).abs() < 1e-12);
/// assert!((advantages[3] + 0.35).abs() < 1e-12);
/// ```
pub fn batch_mean(rewards: &[f64]) -> Vec<f64> {
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    constant(rewards, mean)
}

/// Rewards minus the mean of the *others*: rᵢ − 1/(n−1) Σ_{j≠i} rⱼ (RLOO; Kool et al.,
/// 2019). Independent of the sample it judges, so the expected gradient keeps its length.
///
/// # Errors
/// One reward has no others.
///
/// ```
/// let advantages = grpo::advantage::leave_one_out(&[1.0, 0.0, 0.0]).unwrap();
/// assert_eq!(advantages, [1.0, -0.5, -0.5]);
/// ```
pub fn leave_one_out(rewards: &[f64]) -> Result<Vec<f64>> {
    let n = rewards.len();
    ensure!(n >= 2, "leave-one-out needs at least 2 rewards; there are {n}");
    let sum: f64 = rewards.iter().sum();
    Ok(rewards.iter().map(|reward| reward - (sum - reward) / (n - 1) as f64).collect())
}

/// What [`gae`] returns, one number for each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Gae {
    /// δ_t, the temporal-difference residuals.
    pub deltas: Vec<f64>,
    /// Â_t, their discounted sums.
    pub advantages: Vec<f64>,
    /// Â_t + V(s_t), what the critic is trained towards.
    pub returns: Vec<f64>,
}

/// Generalised advantage estimation (Schulman et al., 2016), backwards in one pass:
///
/// ```text
/// δ_t = r_t + γ V(s_{t+1}) − V(s_t)
/// Â_t = δ_t + γ λ Â_{t+1}
/// ```
///
/// `values` has one entry more than `rewards`: the last is the value of the state
/// after the last step. Where `done[t]` is true the episode ended with step t, and
/// nothing after it counts.
///
/// # Errors
/// Says the three lengths when they disagree, and refuses γ or λ outside 0..=1.
///
/// ```
/// let gae = grpo::advantage::gae(&[1.0], &[5.0, 5.5], &[false], 0.99, 0.95).unwrap();
/// assert!((gae.deltas[0] - 1.445).abs() < 1e-12);
/// ```
pub fn gae(rewards: &[f64], values: &[f64], done: &[bool], gamma: f64, lambda: f64) -> Result<Gae> {
    let (steps, v, d) = (rewards.len(), values.len(), done.len());
    ensure!(
        v == steps + 1 && d == steps,
        "{steps} rewards need {} values and {steps} done flags; there are {v} and {d}",
        steps + 1
    );
    for (name, x) in [("gamma", gamma), ("lambda", lambda)] {
        ensure!((0.0..=1.0).contains(&x), "{name} is {x}; it must be between 0 and 1");
    }
    let mut deltas = vec![0.0; steps];
    let mut advantages = vec![0.0; steps];
    let mut next = 0.0;
    for t in (0..steps).rev() {
        let goes_on = if done[t] { 0.0 } else { 1.0 };
        deltas[t] = rewards[t] + gamma * goes_on * values[t + 1] - values[t];
        next = deltas[t] + gamma * lambda * goes_on * next;
        advantages[t] = next;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    Ok(Gae { deltas, advantages, returns })
}
