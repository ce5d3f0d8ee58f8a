//! Answers to the exercises of chapter 6.

use anyhow::{Context, ensure};
use candle_core::Tensor;
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
/// −(0.5 · −15)/4 = +1.875. The derivative is −0.5/4, and a step goes against it: up.
pub fn sign() -> [(f64, &'static str); 2] {
    [(1.875, "up"), (-1.875, "down")]
}
// ANCHOR_END: sign

// ANCHOR: predicted
/// The advantages are ±0.5, and a quarter of that, with the other sign, is the
/// derivative. Ten more for everybody changes nothing. Twice as much doubles everything.
pub fn predicted() -> [[f64; 4]; 3] {
    let once = [-0.125, 0.125, 0.125, -0.125];
    [once, once, [-0.25, 0.25, 0.25, -0.25]]
}
// ANCHOR_END: predicted

// ANCHOR: gain
/// The column (B, 1) gives every token of a row the advantage of that row.
pub fn gain(ratio: &Tensor, advantages: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let advantages = advantages.unsqueeze(1)?;
    let clipped = ratio.clamp(1.0 - low, 1.0 + high)?.broadcast_mul(&advantages)?;
    Ok(ratio.broadcast_mul(&advantages)?.minimum(&clipped)?)
}
// ANCHOR_END: gain

// ANCHOR: let_through
/// The upper bound stops only good tokens. What stops a bad one is the lower bound.
pub fn let_through(
    ratios: &[f64],
    advantages: &[f64],
    high: f64,
    higher: f64,
) -> Vec<bool> {
    let between = |ratio: f64| ratio > 1.0 + high && ratio < 1.0 + higher;
    ratios.iter().zip(advantages).map(|(&ratio, &a)| a > 0.0 && between(ratio)).collect()
}
// ANCHOR_END: let_through

// ANCHOR: k3_gradient
/// Σ_a π(a) (1 − π_ref(a)/π(a)) (1[a = v] − π(v)) = Σ_a (π(a) − π_ref(a)) (1[a = v] − π(v)).
/// Both distributions sum to 1, so the part with π(v) is 0, and a = v is what is left.
pub fn k3_gradient(policy: &[f64], reference: &[f64]) -> Vec<f64> {
    policy.iter().zip(reference).map(|(p, q)| p - q).collect()
}
// ANCHOR_END: k3_gradient

// ANCHOR: penalty
/// The gradient through ρ is what k3 alone lacks: it knows that the samples move too.
pub fn penalty(
    log_probs: &Tensor,
    old_log_probs: &Tensor,
    ref_log_probs: &Tensor,
) -> Result<Tensor> {
    let d = (ref_log_probs - log_probs)?;
    let k3 = ((d.exp()? - d)? - 1.0)?;
    Ok((k3 * (log_probs - old_log_probs)?.exp()?)?)
}
// ANCHOR_END: penalty

// ANCHOR: grpo_loss
/// Differences are cleaned of padding before the first `exp` sees them.
pub fn grpo_loss(batch: &Batch, low: f64, high: f64, kl_coef: f64) -> Result<Tensor> {
    let clean = |x: &Tensor| mask::keep(x, batch.mask);
    let log_probs = clean(batch.log_probs)?;
    let old = match batch.old_log_probs {
        Some(old) => clean(old)?,
        None => log_probs.detach(),
    };
    let mut gain = gain(&(&log_probs - &old)?.exp()?, batch.advantages, low, high)?;
    if kl_coef > 0.0 {
        let reference = batch.ref_log_probs.context("β above 0 needs ref_log_probs")?;
        gain = (gain - (penalty(&log_probs, &old, &clean(reference)?)? * kl_coef)?)?;
    }
    Ok(mask::sequence_mean(&gain, batch.mask)?.mean_all()?.neg()?)
}
// ANCHOR_END: grpo_loss

// ANCHOR: leashed
/// Where π is best, r − β (log π − log π_ref) is the same for every action, so π is in
/// proportion to π_ref · e^(r/β). Rewards are taken from the largest, or e^(2/0.001)
/// would be infinite.
pub fn leashed(reference: &[f64], rewards: &[f64], kl_coef: f64) -> Vec<f64> {
    let most = rewards.iter().copied().fold(f64::MIN, f64::max);
    let pairs = reference.iter().zip(rewards);
    let weights: Vec<f64> = pairs.map(|(q, r)| q * ((r - most) / kl_coef).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}
// ANCHOR_END: leashed

// ANCHOR: update
/// The closure is one step. Everything in it sees the policy as it is now, and only the
/// rollout is old.
pub fn update(
    score: impl Fn(&Rollout) -> Result<Scores>,
    variables: &Variables,
    optimizer: &mut impl Optimizer,
    rollout: &Rollout,
    objective: &Objective,
    steps: Steps,
) -> Result<Vec<Step>> {
    ensure!(steps.epochs > 0, "epochs is 0; it must be at least 1");
    let mut step = || -> Result<Step> {
        let scores = score(rollout)?;
        let entropy = scores.entropy.as_ref();
        let batch = Batch { entropy, ..rollout.batch(&scores.log_probs) };
        let (loss, metrics) = objective.loss(&batch)?;
        let mut gradients = gradients::of(&loss, variables)?;
        let grad_norm = gradients::clip_norm(&mut gradients, variables, steps.max_norm)?;
        optimizer.step(&gradients)?;
        Ok(Step { metrics, grad_norm })
    };
    (0..steps.epochs).map(|_| step()).collect()
}
// ANCHOR_END: update
