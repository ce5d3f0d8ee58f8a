//! Your answers to the exercises of chapter 2. `cargo exercise watch 2` checks them
//! each time you save.

use anyhow::ensure;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use grpo::{
    Result,
    advantage::Gae,
    env::bandit::Bandit,
    gradients, log_prob,
    policy::{Mlp, Policy},
    sampling, seed,
};

// ANCHOR: two_constants
/// Four responses earned 0.8, 0.3, 0.9 and 0.2, and one constant is subtracted from
/// each. Returns the constant that makes the four advantages sum to 0, and the
/// largest one with which at least one of the four is not negative.
pub fn two_constants() -> [f64; 2] {
    todo!()
}
// ANCHOR_END: two_constants

// ANCHOR: leave_one_out
/// Rewards minus the mean of the *other* rewards. The page sums up the others. You
/// start from the mean of all: show on paper that the result is the reward minus
/// that mean, times a factor, and return this. Fewer than two rewards are an error
/// that says how many there are.
pub fn leave_one_out(rewards: &[f64]) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: leave_one_out

// ANCHOR: optimal_baseline
/// The constant baseline with the smallest variance of the gradient, for a policy
/// whose logits are its parameters:
///
/// ```text
/// b* = E[R ‖∇ log π(a)‖²] / E[‖∇ log π(a)‖²]
/// ```
///
/// Response a has the probability `probabilities[a]` and earns `rewards[a]`. A
/// policy that is certain has a gradient of 0 and no variance to lose: return the
/// reward that it gets.
pub fn optimal_baseline(probabilities: &[f64], rewards: &[f64]) -> f64 {
    todo!()
}
// ANCHOR_END: optimal_baseline

// ANCHOR: explained_variance
/// How much of the variance of `rewards` a critic explains: 1 − Var(R − V) /
/// Var(R), where `values` has the guess for each. Where all rewards are equal there
/// is nothing to explain: return 0.
pub fn explained_variance(rewards: &[f64], values: &[f64]) -> f64 {
    todo!()
}
// ANCHOR_END: explained_variance

// ANCHOR: gae
/// Generalised advantage estimation. For each step t,
///
/// ```text
/// δ_t = r_t + gamma V(s_{t+1}) − V(s_t)
/// A_t = δ_t + gamma lambda A_{t+1}
/// ```
///
/// `values` has one entry more than `rewards`, for the state after the last step.
/// Where `done[t]` is true, the episode ends with step t and the next step begins
/// another one: neither a value nor an advantage from there may reach step t. There is
/// one flag for each reward.
/// Returns δ (`deltas`), A (`advantages`) and A_t + V(s_t) (`returns`). Lengths
/// that do not fit are an error. Write it without a look at the page.
pub fn gae(
    rewards: &[f64],
    values: &[f64],
    done: &[bool],
    gamma: f64,
    lambda: f64,
) -> Result<Gae> {
    todo!()
}
// ANCHOR_END: gae

// ANCHOR: gae_truncated
/// The advantages of `gae`, for episodes that may also be cut off by a limit of
/// time. Where `ended[t]` is true, the episode is over after step t, and nothing
/// comes after it. Where `cut[t]` is true, it would have gone on: what was lost
/// must be replaced by what the critic expects of it. In both cases the next entry
/// belongs to another episode. `next_values[t]` is the value of the state that step
/// t led to, also before a cut. All slices have one entry a step, and no step is
/// both ended and cut.
pub fn gae_truncated(
    rewards: &[f64],
    values: &[f64],
    next_values: &[f64],
    ended: &[bool],
    cut: &[bool],
    gamma: f64,
    lambda: f64,
) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: gae_truncated

// ANCHOR: train_with_critic
/// Trains a policy on the bandit with a critic that *learns*, and returns both,
/// policy first. Both are an `Mlp` in `F32` on the CPU with 8 features and 32
/// hidden units; the policy has 10 outputs and the critic one. Train for 300 steps
/// with batches of 8, by SGD, with an optimiser for each; the learning rate of the
/// policy is 0.5, that of the critic is yours to choose. The advantage of a sample
/// is its reward minus what the critic said *before* it was trained on that sample.
/// Look up rewards with `world.rewards` only. All randomness comes from
/// `seed::rng(seed)`.
pub fn train_with_critic(world: &Bandit, seed: u64) -> Result<(Mlp, Mlp)> {
    todo!()
}
// ANCHOR_END: train_with_critic
