//! Your answers to the exercises of chapter 6. `cargo exercise watch 6` checks them
//! each time you save.

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer;
use grpo::{
    Result, gradients,
    log_prob::Scores,
    mask,
    objective::{Batch, Objective},
    rollout::Rollout,
    update::{Step, Steps},
    variables::Variables,
};

// ANCHOR: sign
/// On paper. An answer of a group of 4 has the log-probability −15. Returns what it
/// contributes to the loss −(1/G) Σ A log π, and whether a step of the optimiser moves
/// its log-probability `"up"` or `"down"`: first for the advantage +0.5, then for −0.5.
pub fn sign() -> [(f64, &'static str); 2] {
    todo!()
}
// ANCHOR_END: sign

// ANCHOR: predicted
/// On paper. The derivatives of the loss by the log-probability of each of four answers,
/// as in the column `gradient` of the first table, with advantages that are rewards minus
/// their mean. For the rewards 1, 0, 0, 1; for 11, 10, 10, 11; for 2, 0, 0, 2.
pub fn predicted() -> [[f64; 4]; 3] {
    todo!()
}
// ANCHOR_END: predicted

// ANCHOR: gain
/// min(ρA, clip(ρ, 1 − `low`, 1 + `high`) A) of each token. Ratios ρ (B, T), advantages
/// A (B), one for each row → (B, T), with the gradient that belongs to it.
pub fn gain(ratio: &Tensor, advantages: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: gain

// ANCHOR: let_through
/// "Clip-higher" (DAPO) raises the upper bound of the clip from 1 + `high` to 1 +
/// `higher` and leaves the lower one. Says of each token, by its ratio and its advantage,
/// whether it has no gradient with the first bound and has one with the second. No ratio
/// lies on a bound.
pub fn let_through(
    ratios: &[f64],
    advantages: &[f64],
    high: f64,
    higher: f64,
) -> Vec<bool> {
    todo!()
}
// ANCHOR_END: let_through

// ANCHOR: k3_gradient
/// The mean gradient of k3 under π, by each logit of π, where the weights of the mean
/// have no gradient themselves: Σ_a π(a) ∂k3(a)/∂z. Takes the probabilities of π and of
/// π_ref. With pencil and paper it becomes one short expression for each token.
pub fn k3_gradient(policy: &[f64], reference: &[f64]) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: k3_gradient

// ANCHOR: penalty
/// k3 · ρ of each token, with the gradient of KL(π ‖ π_ref) on average, also after the
/// policy has moved. log π, log π_old and log π_ref, all (B, T) → (B, T). Only log π has
/// a gradient.
pub fn penalty(
    log_probs: &Tensor,
    old_log_probs: &Tensor,
    ref_log_probs: &Tensor,
) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: penalty

// ANCHOR: grpo_loss
/// The whole objective of this chapter as one number to make smaller, a scalar: clipped
/// with `low` and `high`, minus β (`kl_coef`) times your `penalty`, mean over the tokens
/// of each answer, then over the answers.
///
/// Where `old_log_probs` is `None` the policy has not moved: every ratio is 1, and still
/// has its gradient. `ref_log_probs` is there where `kl_coef` is above 0. Only tokens
/// with mask 1 count; elsewhere anything may stand, infinities too. An answer may have no
/// token that counts: it gives 0, and is one of the answers of the mean.
pub fn grpo_loss(batch: &Batch, low: f64, high: f64, kl_coef: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: grpo_loss

// ANCHOR: leashed
/// The best policy on a leash: the probabilities π with the largest Σ_a π(a) r(a) −
/// β KL(π ‖ π_ref), for given probabilities `reference`, rewards r and β (`kl_coef`),
/// which is above 0 and may be as small as 0.001. Find the formula with pencil and paper;
/// no training is needed.
pub fn leashed(reference: &[f64], rewards: &[f64], kl_coef: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: leashed

// ANCHOR: update
/// Takes `steps.epochs` gradient steps on one rollout, and returns what each saw before
/// it moved the variables: the metrics of the objective, and the norm of the gradient
/// before it was scaled down to `steps.max_norm`.
///
/// Every step scores the rollout again. `score` gives the log-probabilities and maybe
/// the entropy of the policy as it is now. It is an error when `epochs` is 0, or when a
/// variable gets no gradient; the error must say so.
pub fn update(
    score: impl Fn(&Rollout) -> Result<Scores>,
    variables: &Variables,
    optimizer: &mut impl Optimizer,
    rollout: &Rollout,
    objective: &Objective,
    steps: Steps,
) -> Result<Vec<Step>> {
    todo!()
}
// ANCHOR_END: update
