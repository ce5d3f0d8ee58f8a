//! The objective of GRPO and of its family: four independent choices.
//!
//! ```text
//! ρ    = π / π_old                    1. per token or per sequence   Ratio
//! L_it = −min(ρA, clip(ρ)A)           2. what a token contributes    Term
//! L    = mean over tokens, somehow    3. who is divided by what      Aggregation
//!        + β KL(π ‖ π_ref)            4. the leash                   Kl
//! ```
//!
//! Every named variant is a row of the table in [`recipe()`]. Values and gradients equal
//! those of TRL 1.16, which the tests check for every row.
//!
//! The first gradient step on fresh samples has ρ = 1 everywhere. Its loss is then minus
//! a mean of advantages that sum to 0, so about 0, and its gradient is not: watch the
//! reward.
//!
//! Left out: a bonus for entropy, because no recipe here uses one; and log-ratios cut
//! before `exp`, because padding is selected away first and an infinite ratio of a real
//! token is a fault to be told, not to be hidden.

mod check;
pub mod metrics;
pub mod recipe;
pub mod term;

use crate::{Result, kl::Estimator, mask};
use anyhow::ensure;
use candle_core::Tensor;
use check::check_finite;
pub use metrics::Metrics;
pub use recipe::{Recipe, recipe, recipes};
pub use term::Term;

/// Four choices and a filter. Construct it field by field, or by name with [`recipe()`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// What the ratio ρ is taken over.
    pub ratio: Ratio,
    /// What each token contributes.
    pub term: Term,
    /// How the contributions become one number.
    pub aggregation: Aggregation,
    /// The penalty for leaving the reference.
    pub kl: Kl,
    /// Drop the policy term of sequences with a negative advantage from which the policy
    /// has moved further than this: see [`mask::off_policy`].
    pub off_policy_threshold: Option<f64>,
}

/// What the ratio π/π_old is taken over. With ℓ = log π − log π_old:
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ratio {
    /// e^ℓ, one for each token: (B, T).
    Token,
    /// exp(mean of ℓ over the tokens), one for each sequence: (B, 1) (GSPO).
    Sequence,
}

/// How tokens become one number. B sequences, sequence i with |oᵢ| tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// 1/B Σᵢ 1/|oᵢ| Σ_t: every sequence weighs the same (GRPO).
    SequenceMean,
    /// Σᵢ Σ_t / Σᵢ |oᵢ|: every token of the batch weighs the same (BNPO).
    TokenMean,
    /// Σᵢ Σ_t / (B · length): a constant, so that length changes nothing (Dr. GRPO).
    ConstantLength(usize),
    /// Σᵢ Σ_t / tokens of the whole step, micro-batches included (DAPO).
    GlobalTokens,
    /// 1/B Σᵢ Σ_t: every sequence weighs as much as it is long (LUSPO).
    LengthWeighted,
}

/// β times an estimate of KL(π ‖ π_ref), added to every token before aggregation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kl {
    /// β. At 0 there is no penalty, and the KL is only a metric.
    pub coef: f64,
    /// Which estimate.
    pub estimator: Estimator,
    /// Multiply by the ratio, with its gradient. Makes k3 right as a loss.
    pub corrected: bool,
}

impl Kl {
    /// TRL's penalty: k3 times the ratio.
    pub const fn new(coef: f64) -> Self {
        Self { coef, estimator: Estimator::K3, corrected: true }
    }
}

/// What a loss is computed from: B sequences of T tokens.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// log π (B, T), the only field with a gradient.
    pub log_probs: &'a Tensor,
    /// log π_old (B, T), of the sampler. `None`: the policy has not moved yet.
    pub old_log_probs: Option<&'a Tensor>,
    /// log π_ref (B, T). Needed where β > 0.
    pub ref_log_probs: Option<&'a Tensor>,
    /// A (B).
    pub advantages: &'a Tensor,
    /// Which tokens count, (B, T) of dtype `U8`. Elsewhere anything may stand.
    pub mask: &'a Tensor,
    /// Entropy of the policy at each token, (B, T), only for the metrics.
    pub entropy: Option<&'a Tensor>,
    /// G, so that the metrics can count silent groups. 1 counts silent sequences.
    pub group_size: usize,
    /// How many batches add their gradients before one step.
    pub micro_batches: usize,
    /// Tokens in one step, for [`Aggregation::GlobalTokens`]. `None`: `micro_batches`
    /// times the tokens of this one.
    pub step_tokens: Option<f64>,
}

impl<'a> Batch<'a> {
    /// A batch that was just sampled, without a reference, all in one step.
    pub fn new(log_probs: &'a Tensor, advantages: &'a Tensor, mask: &'a Tensor) -> Self {
        Self {
            log_probs,
            old_log_probs: None,
            ref_log_probs: None,
            advantages,
            mask,
            entropy: None,
            group_size: 1,
            micro_batches: 1,
            step_tokens: None,
        }
    }
}

/// One token's quantities with the padding selected away: what a [`Term`] sees.
pub(crate) struct Tokens {
    /// log π (B, T)
    pub log_probs: Tensor,
    /// log π − log π_old (B, T)
    pub log_ratio: Tensor,
    /// ρ, (B, T) or (B, 1)
    pub ratio: Tensor,
    /// A (B, 1)
    pub advantages: Tensor,
    /// (B, T)
    pub mask: Tensor,
}

impl Objective {
    /// The loss, a scalar with a gradient, and its metrics, plain numbers.
    ///
    /// # Errors
    /// Names a setting out of range, shapes that disagree, a mask without tokens, and the
    /// first quantity that is not finite, with its row and token.
    ///
    /// ```
    /// use candle_core::{Device::Cpu, Tensor};
    /// use grpo::objective::{Batch, Kl, Objective, recipe};
    /// let log_probs = Tensor::new(&[[-1.0f64, -2.0], [-0.5, f64::NAN]], &Cpu).unwrap();
    /// let advantages = Tensor::new(&[1.0f64, -1.0], &Cpu).unwrap();
    /// let mask = Tensor::new(&[[1u8, 1], [1, 0]], &Cpu).unwrap();
    /// let grpo = Objective { kl: Kl::new(0.0), ..recipe("grpo", 2).unwrap().objective };
    /// let (loss, metrics) = grpo.loss(&Batch::new(&log_probs, &advantages, &mask)).unwrap();
    /// assert_eq!(loss.to_scalar::<f64>().unwrap(), 0.0);
    /// assert_eq!(metrics.ratio_mean, 1.0);
    /// ```
    pub fn loss(&self, batch: &Batch) -> Result<(Tensor, Metrics)> {
        self.check()?;
        let tokens = self.tokens(batch)?;
        let mut per_token = self.term.per_token(&tokens)?;
        if let Some(threshold) = self.off_policy_threshold {
            let Tokens { log_ratio, advantages, mask, .. } = &tokens;
            let near = mask::off_policy(log_ratio, advantages, mask, threshold)?;
            per_token = mask::keep(&per_token, &near.broadcast_as(per_token.shape())?)?;
        }
        let kl = self.kl_per_token(batch, &tokens)?;
        if let Some(kl) = kl.as_ref().filter(|_| self.kl.coef > 0.0) {
            per_token = per_token.broadcast_add(&(kl * self.kl.coef)?)?;
        }
        let loss = self.aggregation.apply(&per_token, batch)?;
        check_finite("the loss", &loss)?;
        let metrics = Metrics::new(&self.term, &loss, &tokens, kl.as_ref(), batch)?;
        Ok((loss, metrics))
    }

    /// Selects the padding away and forms the ratio.
    fn tokens(&self, batch: &Batch) -> Result<Tokens> {
        batch.check()?;
        let (log_probs, mask) =
            (mask::keep(batch.log_probs, batch.mask)?, batch.mask.clone());
        let advantages = batch.advantages.unsqueeze(1)?;
        check_finite("advantages", &advantages)?;
        let old_log_probs = match batch.old_log_probs {
            Some(old) => mask::keep(old, &mask)?.detach(),
            None => log_probs.detach(),
        };
        check_finite("old_log_probs", &old_log_probs)?;
        check_finite("log_probs", &log_probs)?;
        let log_ratio = (&log_probs - old_log_probs)?;
        let ratio = match self.ratio {
            Ratio::Token => log_ratio.exp()?,
            Ratio::Sequence => mask::sequence_mean(&log_ratio, &mask)?.exp()?,
        };
        check_finite("the ratio", &ratio)?;
        Ok(Tokens { log_probs, log_ratio, ratio, advantages, mask })
    }

    /// The estimate of KL(π ‖ π_ref) at each token, where there is a reference.
    fn kl_per_token(&self, batch: &Batch, tokens: &Tokens) -> Result<Option<Tensor>> {
        let Some(ref_log_probs) = batch.ref_log_probs else {
            let coef = self.kl.coef;
            ensure!(coef == 0.0, "kl_coef is {coef}, so the batch needs ref_log_probs");
            return Ok(None);
        };
        let ref_log_probs = mask::keep(ref_log_probs, &tokens.mask)?.detach();
        let mut kl = self.kl.estimator.policy_ref(&tokens.log_probs, &ref_log_probs)?;
        if self.kl.corrected {
            kl = kl.broadcast_mul(&tokens.ratio)?;
        }
        if self.kl.coef > 0.0 {
            check_finite("ref_log_probs", &ref_log_probs)?;
            check_finite("the KL", &kl)?;
        }
        Ok(Some(kl))
    }
}

impl Aggregation {
    /// Per-token losses (B, T) or (B, 1) → a scalar.
    fn apply(self, per_token: &Tensor, batch: &Batch) -> Result<Tensor> {
        let (sequences, _) = batch.mask.dims2()?;
        let tokens = mask::total(batch.mask)?;
        let steps = batch.micro_batches as f64;
        let sum_divided_by = |divisor: f64| -> Result<Tensor> {
            let per_token = per_token.broadcast_as(batch.mask.shape())?;
            Ok((mask::keep(&per_token, batch.mask)?.sum_all()? / divisor)?)
        };
        match self {
            Self::SequenceMean => {
                let per_token = per_token.broadcast_as(batch.mask.shape())?;
                Ok((mask::sequence_mean(&per_token, batch.mask)?.mean_all()? / steps)?)
            }
            Self::TokenMean => sum_divided_by(tokens * steps),
            Self::ConstantLength(length) => {
                sum_divided_by((sequences * length) as f64 * steps)
            }
            Self::GlobalTokens => {
                sum_divided_by(batch.step_tokens.unwrap_or(tokens * steps))
            }
            Self::LengthWeighted => sum_divided_by(sequences as f64 * steps),
        }
    }
}
