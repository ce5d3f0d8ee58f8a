//! PPO for completions (Schulman et al., 2017; Ouyang et al., 2022): the clipped objective
//! with a learned critic in place of the group.
//!
//! ```text
//! A_t  = Σ_l (γλ)^l δ_{t+l}                        GAE, one advantage a token
//! L    = −mean min(ρA, clip(ρ)A) + β KL            the objective of this book
//!        + c · ½ mean (V(s_t) − (A_t + V_old(s_t)))²   what the critic learns from
//! ```
//!
//! The reward of a completion arrives with its last token.
//!
//! Left out: the clip of the value loss, which Engstrom et al. (2020) found not to help;
//! and the KL inside the reward, as InstructGPT has it, because here it is in the loss for
//! every method alike.

use crate::{
    Result,
    advantage::gae,
    mask,
    objective::{Aggregation, Batch, Metrics, Objective},
    rollout::Rollout,
};
use anyhow::ensure;
use candle_core::{DType, Tensor};

/// What PPO needs besides an [`Objective`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ppo {
    /// The policy's part: ratio, clip and KL. Its aggregation is a mean over tokens,
    /// whatever it says, because the advantages are the tokens' own.
    pub objective: Objective,
    /// γ, the discount.
    pub gamma: f64,
    /// λ, how far GAE looks ahead.
    pub lambda: f64,
    /// c, the weight of the critic's loss.
    pub value_coef: f64,
}

/// What the critic made of a rollout, before any step.
#[derive(Debug, Clone)]
pub struct Estimates {
    /// A_t (B, T), without a gradient; 0 on padding.
    pub advantages: Tensor,
    /// A_t + V_old(s_t) (B, T), without a gradient; 0 on padding.
    pub returns: Tensor,
}

impl Ppo {
    /// Advantages and returns of a rollout, from the critic's values (B, T) before each
    /// token. After the last token the episode is over.
    ///
    /// # Errors
    /// Says the shapes when they disagree, and names γ or λ out of 0..=1.
    ///
    /// ```
    /// use candle_core::{Device::Cpu, Tensor};
    /// use grpo::{advantage::Scale, mask, objective::recipe, ppo::Ppo, rollout::Rollout};
    /// let ids = |n: u32| Tensor::new(&[[n]], &Cpu).unwrap();
    /// let mask = mask::of_lengths(&[1], 1, &Cpu).unwrap();
    /// let old = Tensor::new(&[[-1.0f64]], &Cpu).unwrap();
    /// let rollout =
    ///     Rollout::new(ids(0), ids(7), mask, old, vec![1.0], 1, Scale::None).unwrap();
    /// let objective = recipe("grpo", 1).unwrap().objective;
    /// let ppo = Ppo { objective, gamma: 1.0, lambda: 0.95, value_coef: 0.5 };
    /// let values = Tensor::new(&[[0.25f64]], &Cpu).unwrap();
    /// let estimates = ppo.estimate(&rollout, &values).unwrap();
    /// // One token: the advantage is R − V.
    /// assert_eq!(estimates.advantages.to_vec2::<f64>().unwrap(), [[0.75]]);
    /// ```
    // ANCHOR: estimate
    pub fn estimate(&self, rollout: &Rollout, values: &Tensor) -> Result<Estimates> {
        let (found, shape) = (values.dims(), rollout.tokens.dims());
        ensure!(
            found == shape,
            "values is {found:?} and tokens {shape:?}; they must agree"
        );
        let rows = values.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let lengths = rollout.mask.to_dtype(DType::U32)?.sum(1)?.to_vec1::<u32>()?;
        let (mut advantages, mut returns) = (Vec::new(), Vec::new());
        for ((row, length), reward) in rows.into_iter().zip(lengths).zip(&rollout.rewards) {
            let (width, last) = (row.len(), length as usize - 1);
            let rewards: Vec<f64> =
                (0..=last).map(|t| if t == last { *reward } else { 0.0 }).collect();
            let done: Vec<bool> = (0..=last).map(|t| t == last).collect();
            let values: Vec<f64> = row.into_iter().take(last + 1).chain([0.0]).collect();
            let gae = gae(&rewards, &values, &done, self.gamma, self.lambda)?;
            let padding = || std::iter::repeat_n(0.0, width - last - 1);
            advantages.extend(gae.advantages.into_iter().chain(padding()));
            returns.extend(gae.returns.into_iter().chain(padding()));
        }
        let tensor = |numbers: Vec<f64>| {
            Tensor::from_vec(numbers, shape, values.device())?.to_dtype(values.dtype())
        };
        Ok(Estimates { advantages: tensor(advantages)?, returns: tensor(returns)? })
    }
    // ANCHOR_END: estimate

    /// The loss of the policy and the critic together, and the policy's metrics. Log π of
    /// the rollout's tokens (B, T) and the critic's values (B, T), both with a gradient.
    ///
    /// # Errors
    /// What [`Objective::loss`] refuses; shapes that disagree.
    // ANCHOR: loss
    pub fn loss(
        &self,
        rollout: &Rollout,
        estimates: &Estimates,
        log_probs: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Metrics)> {
        // Every token is a sequence of its own: it has its own advantage.
        let tokens = rollout.tokens.elem_count();
        let column = |x: &Tensor| x.reshape((tokens, 1));
        let (log_probs, mask) = (column(log_probs)?, column(&rollout.mask)?);
        let old = column(&rollout.old_log_probs)?;
        let reference = rollout.ref_log_probs.as_ref().map(column).transpose()?;
        let advantages = estimates.advantages.flatten_all()?;
        let batch = Batch {
            old_log_probs: Some(&old),
            ref_log_probs: reference.as_ref(),
            ..Batch::new(&log_probs, &advantages, &mask)
        };
        let mean_of_tokens = Aggregation::TokenMean;
        let objective = Objective { aggregation: mean_of_tokens, ..self.objective };
        let (policy, metrics) = objective.loss(&batch)?;
        let critic = value_loss(values, &estimates.returns, &rollout.mask)?;
        Ok(((policy + (critic * self.value_coef)?)?, metrics))
    }
    // ANCHOR_END: loss
}

impl Estimates {
    /// The advantages of all tokens brought to mean 0 and standard deviation 1, as most
    /// implementations do. The returns stay as they are.
    ///
    /// # Errors
    /// Says the shapes when they disagree.
    pub fn whitened(self, mask: &Tensor) -> Result<Self> {
        let centred =
            self.advantages.broadcast_sub(&mask::token_mean(&self.advantages, mask)?)?;
        let variance = mask::token_mean(&centred.sqr()?, mask)?;
        let scaled = centred.broadcast_div(&(variance.sqrt()? + 1e-8)?)?;
        Ok(Self { advantages: mask::keep(&scaled, mask)?, ..self })
    }
}

/// ½ (V − return)², the mean over tokens: (B, T) each → a scalar with a gradient to
/// `values`.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let values = Tensor::new(&[[1.0f64, 3.0]], &Cpu).unwrap();
/// let returns = Tensor::new(&[[2.0f64, 0.0]], &Cpu).unwrap();
/// let mask = Tensor::new(&[[1u8, 0]], &Cpu).unwrap();
/// let loss = grpo::ppo::value_loss(&values, &returns, &mask).unwrap();
/// assert_eq!(loss.to_scalar::<f64>().unwrap(), 0.5);
/// ```
pub fn value_loss(values: &Tensor, returns: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let squared = (values - returns.detach())?.sqr()?;
    Ok((mask::token_mean(&squared, mask)? * 0.5)?)
}
