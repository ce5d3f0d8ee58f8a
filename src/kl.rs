//! How far the policy π has moved from the reference π_ref.
//!
//! Every name ends in the direction: `_policy_ref` is KL(π ‖ π_ref), the mean under π of
//! log π − log π_ref. The estimators see only the tokens that π sampled. With
//! d = log π_ref − log π they are (Schulman, 2020)
//!
//! ```text
//! k1 = −d          unbiased, noisy, may be negative
//! k2 = d² / 2      biased, and its gradient is right
//! k3 = e^d − d − 1 unbiased, never negative
//! ```
//!
//! As a number to look at, k3 is best. As a loss, autograd differentiates the estimate
//! and not the sampling: k1 then has a mean gradient of 0, k3 that of KL(π_ref ‖ π), the
//! *other* direction, k2 the right one. Multiplied by the ratio π/π_old, with its
//! gradient, k1 and k3 are right too.
//!
//! Left out: estimators for samples of π_ref, because GRPO has none.

use crate::{Result, log_prob};
use candle_core::{D, Tensor};

/// Which estimate of KL(π ‖ π_ref).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// [`k1_policy_ref`]
    K1,
    /// [`k2_policy_ref`]
    K2,
    /// [`k3_policy_ref`]
    K3,
}

impl Estimator {
    /// Log-probabilities (B, T) of the policy and of the reference → (B, T).
    ///
    /// # Errors
    /// Passes on Candle's error when the shapes disagree.
    pub fn policy_ref(self, log_probs: &Tensor, ref_log_probs: &Tensor) -> Result<Tensor> {
        match self {
            Self::K1 => k1_policy_ref(log_probs, ref_log_probs),
            Self::K2 => k2_policy_ref(log_probs, ref_log_probs),
            Self::K3 => k3_policy_ref(log_probs, ref_log_probs),
        }
    }
}

/// log π − log π_ref, for tokens sampled from π.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn k1_policy_ref(log_probs: &Tensor, ref_log_probs: &Tensor) -> Result<Tensor> {
    Ok((log_probs - ref_log_probs)?)
}

/// ½ (log π_ref − log π)², for tokens sampled from π.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn k2_policy_ref(log_probs: &Tensor, ref_log_probs: &Tensor) -> Result<Tensor> {
    Ok(((ref_log_probs - log_probs)?.sqr()? * 0.5)?)
}

/// π_ref/π − log(π_ref/π) − 1, for tokens sampled from π.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let log_probs = Tensor::new(&[0.5f64.ln()], &Device::Cpu).unwrap();
/// let ref_log_probs = Tensor::new(&[0.25f64.ln()], &Device::Cpu).unwrap();
/// let k3 = grpo::kl::k3_policy_ref(&log_probs, &ref_log_probs).unwrap();
/// assert!((k3.to_vec1::<f64>().unwrap()[0] - 0.193147).abs() < 1e-6);
/// ```
pub fn k3_policy_ref(log_probs: &Tensor, ref_log_probs: &Tensor) -> Result<Tensor> {
    let d = (ref_log_probs - log_probs)?;
    Ok(((d.exp()? - d)? - 1.0)?)
}

/// KL(π ‖ π_ref) by summing over the whole vocabulary: logits (…, V) of both → (…).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn exact_policy_ref(logits: &Tensor, ref_logits: &Tensor) -> Result<Tensor> {
    let (log_probs, ref_log_probs) =
        (log_prob::table(logits)?, log_prob::table(ref_logits)?);
    Ok((log_probs.exp()? * (&log_probs - &ref_log_probs)?)?.sum(D::Minus1)?)
}

/// KL(π_ref ‖ π), the other direction: logits (…, V) of both → (…).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn exact_ref_policy(logits: &Tensor, ref_logits: &Tensor) -> Result<Tensor> {
    exact_policy_ref(ref_logits, logits)
}
