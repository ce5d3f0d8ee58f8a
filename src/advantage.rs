//! Advantages: how much better a choice was than what was expected.
//!
//! Every function here takes and returns plain numbers. An advantage multiplies a
//! gradient but has none of its own, and a slice of `f64` cannot have one by accident.
//!
//! The one of GRPO compares a reward with those of the other answers to the same prompt:
//!
//! ```text
//! Aᵢ = (rᵢ − mean of the group) / (σ + ε)
//! ```
//!
//! Left out: several reward functions with weights. Add them up before you come here.

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
// ANCHOR: batch_mean
pub fn batch_mean(rewards: &[f64]) -> Vec<f64> {
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    constant(rewards, mean)
}
// ANCHOR_END: batch_mean

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
// ANCHOR: leave_one_out
pub fn leave_one_out(rewards: &[f64]) -> Result<Vec<f64>> {
    let n = rewards.len();
    ensure!(n >= 2, "leave-one-out needs at least 2 rewards; there are {n}");
    let sum: f64 = rewards.iter().sum();
    Ok(rewards.iter().map(|reward| reward - (sum - reward) / (n - 1) as f64).collect())
}
// ANCHOR_END: leave_one_out

/// What a centred reward is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Nothing (Dr. GRPO).
    None,
    /// The standard deviation of the group with n in the denominator, as in the paper.
    Population,
    /// The standard deviation of the group with n − 1, as in `torch.std`.
    Unbiased,
    /// [`Scale::Unbiased`] plus 1e-4, TRL's default.
    Trl,
    /// The same of all rewards together, TRL's `scale_rewards="batch"`.
    TrlBatch,
}

/// Group-relative advantages: each reward minus the mean of its group, divided by
/// `scale`. A group is `group_size` neighbours in `rewards`.
///
/// A silent group, whose rewards are all equal, gets exactly 0: see [`is_silent`].
///
/// # Errors
/// Refuses what [`groups`] refuses, and a σ of one reward.
///
/// ```
/// use grpo::advantage::{Scale, group_relative};
/// let rewards = [2.0, 3.5, 1.0, 4.0, 2.5];
/// let paper = group_relative(&rewards, 5, Scale::Population).unwrap();
/// let torch = group_relative(&rewards, 5, Scale::Unbiased).unwrap();
/// assert!((paper[3] - 1.3112).abs() < 1e-4);
/// assert!((torch[3] - 1.1728).abs() < 1e-4);
/// assert_eq!(group_relative(&[0.1 + 0.2, 0.3], 2, Scale::Population).unwrap(), [0.0, 0.0]);
/// ```
// ANCHOR: group_relative
pub fn group_relative(
    rewards: &[f64],
    group_size: usize,
    scale: Scale,
) -> Result<Vec<f64>> {
    let mut advantages = Vec::with_capacity(rewards.len());
    for group in groups(rewards, group_size)? {
        let divisor = match scale {
            Scale::None => 1.0,
            Scale::Population => variance(group)?.sqrt(),
            Scale::Unbiased => (variance(group)? * bessel(group)).sqrt(),
            Scale::Trl => trl_deviation(group)?,
            Scale::TrlBatch => trl_deviation(rewards)?,
        };
        match is_silent(group) {
            true => advantages.extend(group.iter().map(|_| 0.0)),
            false => {
                advantages.extend(batch_mean(group).iter().map(|centred| centred / divisor))
            }
        }
    }
    Ok(advantages)
}
// ANCHOR_END: group_relative

/// Whether the rewards of a group say nothing: all are equal.
///
/// Equal means to within the rounding of their own sum, n · 2⁻⁵² · max |r|. So
/// 0.1 + 0.2 equals 0.3, the same sum in another order; a difference of 1e-12 between
/// rewards near 1 is real and stays. A test of σ < 1e-8 would hide it, and dividing by
/// σ + 1e-8 without a test turns rounding into advantages.
///
/// ```
/// assert!(grpo::advantage::is_silent(&[0.1 + 0.2, 0.3]));
/// assert!(!grpo::advantage::is_silent(&[1.0, 1.0 + 1e-12]));
/// ```
// ANCHOR: is_silent
pub fn is_silent(group: &[f64]) -> bool {
    let (low, high) =
        group.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), r| {
            (low.min(*r), high.max(*r))
        });
    high - low <= group.len() as f64 * f64::EPSILON * low.abs().max(high.abs())
}
// ANCHOR_END: is_silent

/// The share of silent groups. They cost as much to sample as the others, and teach
/// nothing.
///
/// # Errors
/// Refuses what [`groups`] refuses.
///
/// ```
/// let share = grpo::advantage::silent_groups(&[1.0, 1.0, 0.0, 1.0], 2).unwrap();
/// assert_eq!(share, 0.5);
/// ```
pub fn silent_groups(rewards: &[f64], group_size: usize) -> Result<f64> {
    let groups = groups(rewards, group_size)?;
    let count = groups.len() as f64;
    Ok(groups.filter(|group| is_silent(group)).count() as f64 / count)
}

/// Advantages cut to −`limit` ..= `limit`.
///
/// # Errors
/// Refuses a limit that is not above 0.
///
/// ```
/// assert_eq!(grpo::advantage::clip(&[-3.0, 1.0], 2.0).unwrap(), [-2.0, 1.0]);
/// ```
pub fn clip(advantages: &[f64], limit: f64) -> Result<Vec<f64>> {
    ensure!(limit > 0.0, "limit is {limit}; it must be above 0");
    Ok(advantages.iter().map(|advantage| advantage.clamp(-limit, limit)).collect())
}

/// The rewards of each prompt in turn: `group_size` neighbours.
///
/// # Errors
/// Refuses a `group_size` of 0, no rewards or a number of them that is not a multiple
/// of `group_size`, and a reward that is not finite.
pub fn groups(
    rewards: &[f64],
    group_size: usize,
) -> Result<std::slice::ChunksExact<'_, f64>> {
    let n = rewards.len();
    ensure!(group_size > 0, "group_size is 0; it must be at least 1");
    ensure!(
        n > 0 && n.is_multiple_of(group_size),
        "there are {n} rewards; their number must be a multiple of group_size, {group_size}"
    );
    for (i, reward) in rewards.iter().enumerate() {
        ensure!(
            reward.is_finite(),
            "reward {i} is {reward}; a reward must be a finite number"
        );
    }
    Ok(rewards.chunks_exact(group_size))
}

/// σ², with n in the denominator.
fn variance(rewards: &[f64]) -> Result<f64> {
    let n = rewards.len();
    ensure!(n >= 2, "a standard deviation needs at least 2 rewards; there is {n}");
    Ok(batch_mean(rewards).iter().map(|centred| centred * centred).sum::<f64>() / n as f64)
}

/// n/(n − 1), which turns n in the denominator of σ² into n − 1.
fn bessel(rewards: &[f64]) -> f64 {
    rewards.len() as f64 / (rewards.len() as f64 - 1.0)
}

/// σ + 1e-4. TRL computes n/(n − 1) in single precision whatever the rewards are in, and
/// agreement to nine digits needs the same.
fn trl_deviation(rewards: &[f64]) -> Result<f64> {
    Ok((variance(rewards)? * f64::from(bessel(rewards) as f32)).sqrt() + 1e-4)
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
// ANCHOR: gae
pub fn gae(
    rewards: &[f64],
    values: &[f64],
    done: &[bool],
    gamma: f64,
    lambda: f64,
) -> Result<Gae> {
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
// ANCHOR_END: gae
