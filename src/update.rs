//! Gradient steps on one rollout.
//!
//! Each epoch scores the same completions again with the policy as it is now. In the
//! first the ratio is 1 everywhere; from the second on the policy has moved, and the clip
//! has something to do.
//!
//! One step of GRPO on a table of 4 actions in 1 state, rewarded for action 2:
//!
//! ```
//! use candle_core::{DType, Device::Cpu, Tensor};
//! use candle_nn::{AdamW, Optimizer};
//! use grpo::{
//!     advantage::Scale,
//!     log_prob::{self, Scores},
//!     mask,
//!     objective::{Kl, Objective, recipe},
//!     policy::{Policy, Table},
//!     rollout::Rollout,
//!     sampling, seed,
//!     update::{Steps, update},
//! };
//! # fn main() -> grpo::Result<()> {
//! let mut rng = seed::rng(0);
//! let policy = Table::uniform(1, 4, DType::F32, &Cpu)?;
//! let mut optimizer = AdamW::new_lr(policy.variables().values().cloned().collect(), 0.1)?;
//! let objective = Objective { kl: Kl::new(0.0), ..recipe("grpo", 1)?.objective };
//!
//! // Sample a group of 8, score it, remember it.
//! let prompts = Tensor::zeros((8, 1), DType::U32, &Cpu)?;
//! let logits = policy.logits(&prompts.flatten_all()?)?.unsqueeze(1)?; // (8, 1, 4)
//! let tokens = sampling::sample(&logits.squeeze(1)?, &mut rng)?.unsqueeze(1)?; // (8, 1)
//! let old_log_probs = log_prob::of(&logits, &tokens)?;
//! let rewards = tokens.eq(2u32)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
//! let mask = mask::of_lengths(&[1; 8], 1, &Cpu)?;
//! let rollout = Rollout::new(prompts, tokens, mask, old_log_probs, rewards, 8, Scale::Trl)?;
//!
//! // Two gradient steps on it.
//! let score = |rollout: &Rollout| -> grpo::Result<Scores> {
//!     let logits = policy.logits(&rollout.prompts.flatten_all()?)?.unsqueeze(1)?;
//!     Ok(log_prob::of(&logits, &rollout.tokens)?.into())
//! };
//! let steps = Steps { epochs: 2, max_norm: 1.0 };
//! let taken =
//!     update(score, policy.variables(), &mut optimizer, &rollout, &objective, steps)?;
//! assert_eq!(taken[0].metrics.ratio_mean, 1.0);
//! assert!(taken[1].metrics.loss < taken[0].metrics.loss);
//! # Ok(())
//! # }
//! ```
//!
//! Left out: minibatches, which are a loop over [`Rollout::select`] in the chapter that
//! wants them, and a schedule for the learning rate.

use crate::{
    Result, backward, gradients,
    log_prob::Scores,
    objective::{Batch, Metrics, Objective},
    rollout::Rollout,
    shards::Split,
    variables::Variables,
};
use anyhow::{Context, ensure};
use candle_nn::Optimizer;

/// How the steps are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// μ, gradient steps on each rollout.
    pub epochs: usize,
    /// The gradient is scaled down to this norm where it is longer.
    pub max_norm: f64,
}

/// One gradient step, as it was before the variables moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What the objective saw.
    pub metrics: Metrics,
    /// The norm of the gradient before it was clipped.
    pub grad_norm: f64,
}

/// Takes `epochs` gradient steps. `score` gives the log-probabilities of the rollout's
/// completions, with a gradient to `variables`.
///
/// # Errors
/// Says in which epoch what went wrong: a variable without a gradient, a quantity that is
/// not finite (the first one, with its row and token), or what [`Objective::loss`]
/// refuses. The variables keep the values of the last good step.
// ANCHOR: update
pub fn update(
    score: impl Fn(&Rollout) -> Result<Scores>,
    variables: &Variables,
    optimizer: &mut impl Optimizer,
    rollout: &Rollout,
    objective: &Objective,
    steps: Steps,
) -> Result<Vec<Step>> {
    let Steps { epochs, max_norm } = steps;
    ensure!(epochs > 0, "epochs is 0; it must be at least 1");
    let mut step = || -> Result<Step> {
        let scores = score(rollout)?;
        let batch =
            Batch { entropy: scores.entropy.as_ref(), ..rollout.batch(&scores.log_probs) };
        let (loss, metrics) = objective.loss(&batch)?;
        let mut gradients = gradients::of(&loss, variables)?;
        let grad_norm = gradients::clip_norm(&mut gradients, variables, max_norm)?;
        optimizer.step(&gradients)?;
        Ok(Step { metrics, grad_norm })
    };
    (0..epochs).map(|epoch| step().with_context(|| format!("epoch {epoch}"))).collect()
}
// ANCHOR_END: update

/// [`update`] with the rollout cut into parts of whole groups, over threads or one after
/// the other: see [`backward`]. It takes the same steps, up to rounding.
///
/// # Errors
/// As [`update`].
// ANCHOR: update_in_shards
pub fn update_in_shards(
    score: impl Fn(&Rollout) -> Result<Scores> + Sync,
    variables: &Variables,
    optimizer: &mut impl Optimizer,
    rollout: &Rollout,
    objective: &Objective,
    steps: Steps,
    split: Split,
) -> Result<Vec<Step>> {
    let Steps { epochs, max_norm } = steps;
    ensure!(epochs > 0, "epochs is 0; it must be at least 1");
    let parts = rollout.split(split)?;
    let loss = |scores: &Scores| {
        let batch = rollout.batch(&scores.log_probs);
        objective.loss(&Batch { entropy: scores.entropy.as_ref(), ..batch })
    };
    let mut step = || -> Result<Step> {
        let (mut gradients, metrics) =
            backward::in_shards(&parts, variables, &score, loss)?;
        let grad_norm = gradients::clip_norm(&mut gradients, variables, max_norm)?;
        optimizer.step(&gradients)?;
        Ok(Step { metrics, grad_norm })
    };
    (0..epochs).map(|epoch| step().with_context(|| format!("epoch {epoch}"))).collect()
}
// ANCHOR_END: update_in_shards
