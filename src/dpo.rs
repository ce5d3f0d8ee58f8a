//! Direct preference optimisation (Rafailov et al., 2023): learn from comparisons without
//! a reward model and without sampling.
//!
//! The best policy for a reward r under a leash β KL(π ‖ π_ref) is π ∝ π_ref e^{r/β}.
//! Solved for the reward, up to a constant of the prompt, it says
//!
//! ```text
//! r    = β (log π − log π_ref)         the implicit reward
//! loss = −log σ(r_w − r_l)             Bradley–Terry, as for a reward model
//! ```
//!
//! The constant cancels, because both answers have the same prompt.
//!
//! Left out: IPO, KTO and other losses on the same pairs, and the frozen reference, which
//! is a second policy whose log-probabilities can be computed once.

use crate::{Result, reward_model};
use anyhow::ensure;
use candle_core::Tensor;

/// log π of whole answers (B), each the sum over its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a> {
    /// Of the answers that were preferred.
    pub chosen: &'a Tensor,
    /// Of those that were not.
    pub rejected: &'a Tensor,
}

/// β (log π − log π_ref): (B) and (B) → (B).
///
/// # Errors
/// Refuses a β that is not above 0, and passes on Candle's error when the shapes disagree.
// ANCHOR: implicit_reward
pub fn implicit_reward(
    log_probs: &Tensor,
    reference: &Tensor,
    beta: f64,
) -> Result<Tensor> {
    ensure!(beta > 0.0 && beta.is_finite(), "beta is {beta}; it must be above 0");
    Ok(((log_probs - reference.detach())? * beta)?)
}
// ANCHOR_END: implicit_reward

/// −log σ(β [(log π_w − log π_ref,w) − (log π_l − log π_ref,l)]), the mean over pairs: a
/// scalar with a gradient to `policy` alone.
///
/// # Errors
/// Refuses a β that is not above 0, and says the shapes when they disagree.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use grpo::dpo::{self, Pairs};
/// let one = |x: f64| Tensor::new(&[x], &Device::Cpu).unwrap();
/// let policy = Pairs { chosen: &one(-1.0), rejected: &one(-2.0) };
/// let reference = Pairs { chosen: &one(-1.2), rejected: &one(-1.5) };
/// let loss = dpo::loss(policy, reference, 0.1).unwrap().to_scalar::<f64>().unwrap();
/// assert!((loss - 0.6588).abs() < 1e-4); // −log σ(0.1 · (0.2 + 0.5))
/// ```
// ANCHOR: loss
pub fn loss(policy: Pairs, reference: Pairs, beta: f64) -> Result<Tensor> {
    let chosen = implicit_reward(policy.chosen, reference.chosen, beta)?;
    let rejected = implicit_reward(policy.rejected, reference.rejected, beta)?;
    reward_model::loss(&chosen, &rejected)
}
// ANCHOR_END: loss
