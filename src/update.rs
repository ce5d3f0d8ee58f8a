//! Gradient steps on one rollout.
//!
//! Each epoch scores the same completions again with the policy as it is now. In the
//! first the ratio is 1 everywhere; from the second on the policy has moved, and the clip
//! has something to do.
//!
//! Left out: minibatches, which are a loop over [`Rollout::select`] in the chapter that
//! wants them, and a schedule for the learning rate.

use crate::{
    Result, gradients,
    log_prob::Scores,
    objective::{Batch, Metrics, Objective},
    rollout::Rollout,
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
        let batch = Batch { entropy: scores.entropy.as_ref(), ..rollout.batch(&scores.log_probs) };
        let (loss, metrics) = objective.loss(&batch)?;
        let mut gradients = gradients::of(&loss, variables)?;
        let grad_norm = gradients::clip_norm(&mut gradients, variables, max_norm)?;
        optimizer.step(&gradients)?;
        Ok(Step { metrics, grad_norm })
    };
    (0..epochs).map(|epoch| step().with_context(|| format!("epoch {epoch}"))).collect()
}
