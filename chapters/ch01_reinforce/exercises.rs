//! Your answers to the exercises of chapter 1. `cargo exercise watch 1` checks them
//! each time you save.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use grpo::{
    Result, gradients, log_prob,
    policy::{Policy, Table},
    sampling,
};
use rand::{Rng, rngs::StdRng};

// ANCHOR: moved
/// The logits are 1.0, 0.5 and −0.5, as on the page. Token 2 was sampled and earned
/// the reward 2. Returns how far each logit moves in one step of gradient descent
/// on −R · log π(a) at learning rate 1, to three digits. Upwards is positive.
pub fn moved() -> [f64; 3] {
    todo!()
}
// ANCHOR_END: moved

// ANCHOR: traced
/// Two long answers both have log π = −15. The first has the reward +0.5, the
/// second −0.5. Returns for each its contribution to the loss −R · log π, and
/// whether a step of gradient descent makes the answer more likely.
pub fn traced() -> [(f64, bool); 2] {
    todo!()
}
// ANCHOR_END: traced

// ANCHOR: rewards_to_go
/// An episode of several steps received one reward a step. A choice cannot change
/// what came before it, so step t is judged by the rewards from t on. One that
/// comes k steps later counts gamma to the power k:
///
/// ```text
/// G_t = r_t + gamma r_{t+1} + gamma² r_{t+2} + …
/// ```
///
/// Returns G_t for every step, in order, in one pass. No rewards give no numbers.
pub fn rewards_to_go(rewards: &[f64], gamma: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: rewards_to_go

// ANCHOR: score_estimate
/// The score-function estimate of ∇J: the mean of R(a) ∇ log π(a) over the samples,
/// one number for each logit. π is the softmax of `logits`. Token a came up
/// `counts[a]` times (some token at least once) and earned `rewards[a]` each time;
/// the reward of a token that never came up is not known, and stands there as NaN.
/// No autograd, no tensors.
pub fn score_estimate(logits: &[f64], counts: &[u32], rewards: &[f64]) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: score_estimate

// ANCHOR: variance
/// The exact variance of the estimate R(a) ∇ log π(a) from *one* sample: its mean
/// squared distance from its own mean, summed over the logits. π is the softmax of
/// `logits`, and token a earns `rewards[a]`. Go through all tokens; do not sample.
pub fn variance(logits: &[f64], rewards: &[f64]) -> f64 {
    todo!()
}
// ANCHOR_END: variance

// ANCHOR: sample
/// Draws one action a row from the softmax of the row: logits (B, A), `F32` or
/// `F64` → actions (B) of dtype `U32`, on the same device. All randomness comes
/// from `rng`. Logits may be as large as 1000.
pub fn sample(logits: &Tensor, rng: &mut StdRng) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: sample

// ANCHOR: pair_loss
/// A policy over V tokens writes two, and is rewarded for the pair. It is a table
/// of logits (1 + V, V) in `F64` on the CPU: row 0 is for the first token, row
/// 1 + a for the second token after the first one was a. Returns the REINFORCE loss
/// of a batch of `pairs`, the mean of −R · log π(pair), as one number with a
/// gradient. `rewards` has one entry for each pair.
pub fn pair_loss(policy: &Table, pairs: &[[u32; 2]], rewards: &[f64]) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: pair_loss

// ANCHOR: learn_pairs
/// Trains a policy as in `pair_loss`, from a table of zeros in `F64` on the CPU,
/// and returns it. `rewards[a][b]` is what the pair (a, b) earns; there are as many
/// rows as columns. Use it only to look up what *sampled* pairs earned. All
/// randomness comes from `rng`. The expected reward must end above nine tenths of
/// the best possible; you choose batch, learning rate and number of steps. A second
/// is enough.
pub fn learn_pairs(rewards: &[Vec<f64>], rng: &mut StdRng) -> Result<Table> {
    todo!()
}
// ANCHOR_END: learn_pairs
