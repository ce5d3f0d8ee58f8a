//! What one token contributes to the loss: the second of the four choices.
//!
//! Left out: GSPO-token and other terms that need a second ratio.

use super::Tokens;
use crate::{Result, mask};
use anyhow::ensure;
use candle_core::{D, Tensor};

/// What one token contributes, from its ratio ρ and its advantage A.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Term {
    /// −min(ρA, clip(ρ, 1 − low, 1 + high) A), the clip of PPO. A gain is cut off where
    /// the ratio has gone far enough; a loss never is, unless `bound` (δ) caps ρ too.
    Clip { low: f64, high: f64, bound: Option<f64> },
    /// −min(ρ, cap) A log π, the weight without a gradient. Every token keeps one.
    Cispo { cap: f64 },
    /// −σ(τ(ρ − 1)) · 4/τ · A: a clip without a corner, with τ by the sign of A.
    Sapo { tau_positive: f64, tau_negative: f64 },
    /// −φ(w) A log π, the weight without a gradient, from the ratio w of the whole
    /// sequence: φ(w) = w^k e^{λ(1 − w)}, with (k, λ) by the sign of A.
    Vespo { positive: (f64, f64), negative: (f64, f64) },
}

impl Term {
    /// A clip with the same ε on both sides.
    pub const fn clip(clip_eps: f64) -> Self {
        Self::Clip { low: clip_eps, high: clip_eps, bound: None }
    }

    /// The loss at each token: (B, T), or (B, 1) where the ratio is the sequence's.
    pub(super) fn per_token(&self, tokens: &Tokens) -> Result<Tensor> {
        let (ratio, advantages) = (&tokens.ratio, &tokens.advantages);
        let gain = match *self {
            Self::Clip { low, high, bound } => {
                let clipped = clamp(ratio, 1.0 - low, 1.0 + high)?;
                let free = clamp(ratio, 0.0, bound.unwrap_or(f64::INFINITY))?;
                free.broadcast_mul(advantages)?
                    .minimum(&clipped.broadcast_mul(advantages)?)?
            }
            Self::Cispo { cap } => {
                let weight = ratio.detach().minimum(cap)?.broadcast_mul(advantages)?;
                tokens.log_probs.broadcast_mul(&weight)?
            }
            Self::Sapo { tau_positive, tau_negative } => {
                let tau =
                    by_sign(&advantages.gt(0.0)?, tau_positive, tau_negative, advantages)?;
                let soft = candle_nn::ops::sigmoid(&(ratio - 1.0)?.broadcast_mul(&tau)?)?;
                soft.broadcast_mul(&(advantages / tau)?)? * 4.0
            }?,
            Self::Vespo { positive, negative } => {
                let weight = (vespo_weight(tokens, positive, negative)? * advantages)?;
                tokens.log_probs.broadcast_mul(&weight)?
            }
        };
        Ok(gain.neg()?)
    }

    /// Where the clip took the gradient away: masks for A < 0 and for A > 0, of the shape
    /// of the ratio.
    pub(super) fn clipped(&self, tokens: &Tokens) -> Result<Option<(Tensor, Tensor)>> {
        let ratio = tokens.ratio.detach();
        let (low, high, ratio) = match *self {
            Self::Clip { low, high, bound } => {
                (1.0 - low, 1.0 + high, ratio.minimum(bound.unwrap_or(f64::INFINITY))?)
            }
            Self::Cispo { cap } => (0.0, cap, ratio),
            Self::Sapo { .. } | Self::Vespo { .. } => return Ok(None),
        };
        let (negative, positive) = (tokens.advantages.lt(0.0)?, tokens.advantages.gt(0.0)?);
        let low = ratio.lt(low)?.broadcast_mul(&negative)?;
        let high = ratio.gt(high)?.broadcast_mul(&positive)?;
        Ok(Some((low, high)))
    }

    /// Names the setting that is out of range.
    pub(super) fn check(&self) -> Result<()> {
        match *self {
            Self::Clip { low, high, bound } => {
                ensure!(
                    (0.0..1.0).contains(&low),
                    "clip_eps low is {low}; it must be in [0, 1)"
                );
                let fine = high >= 0.0 && high.is_finite();
                ensure!(fine, "clip_eps high is {high}; it must be at least 0 and finite");
                let bound = bound.unwrap_or(1.0);
                ensure!(
                    bound >= 1.0,
                    "the clip's bound δ is {bound}; it must be at least 1"
                );
            }
            Self::Cispo { cap } => {
                ensure!(
                    cap > 0.0,
                    "CISPO's cap is {cap}; it is a ratio and must be above 0"
                );
            }
            Self::Sapo { tau_positive, tau_negative } => {
                for tau in [tau_positive, tau_negative] {
                    ensure!(
                        tau > 0.0 && tau.is_finite(),
                        "SAPO's τ is {tau}; it must be above 0"
                    );
                }
            }
            Self::Vespo { positive, negative } => {
                for x in [positive.0, positive.1, negative.0, negative.1] {
                    ensure!(
                        x > 0.0 && x.is_finite(),
                        "VESPO's k or λ is {x}; it must be above 0"
                    );
                }
            }
        }
        Ok(())
    }
}

/// `x` cut to low ..= high, with gradient 1 from bound to bound and 0 outside. Candle's
/// own `clamp` halves the gradient at a bound.
fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let cut = x.detach().clamp(low, high)?;
    Ok(x.eq(&cut)?.where_cond(x, &cut)?)
}

/// A tensor like `like` with `yes` where `condition` holds and `no` elsewhere.
fn by_sign(condition: &Tensor, yes: f64, no: f64, like: &Tensor) -> Result<Tensor> {
    let constant =
        |x: f64| Tensor::full(x, like.shape(), like.device())?.to_dtype(like.dtype());
    Ok(condition.where_cond(&constant(yes)?, &constant(no)?)?)
}

/// φ(w) = exp(λ + k log w − λw), with w cut to 1e-8 ..= e²⁰: (B, 1), no gradient.
fn vespo_weight(
    tokens: &Tokens,
    positive: (f64, f64),
    negative: (f64, f64),
) -> Result<Tensor> {
    let log_ratio = tokens.log_ratio.detach().clamp(-20.0, 20.0)?;
    let log_w = mask::keep(&log_ratio, &tokens.mask)?.sum_keepdim(D::Minus1)?;
    let log_w = log_w.clamp(1e-8f64.ln(), 20.0)?;
    let not_negative = tokens.advantages.ge(0.0)?;
    let k = by_sign(&not_negative, positive.0, negative.0, &log_w)?;
    let lambda = by_sign(&not_negative, positive.1, negative.1, &log_w)?;
    let log_phi = ((&k * &log_w)? + (&lambda * (1.0 - log_w.exp()?)?)?)?;
    Ok(log_phi.exp()?)
}
