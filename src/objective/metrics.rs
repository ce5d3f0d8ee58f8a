//! What a practitioner watches, from detached tensors.
//!
//! Left out: the reward, which the loss does not know. Log it first.

use super::{Batch, Term, Tokens};
use crate::{Result, mask};
use candle_core::{DType, Tensor};

/// Numbers that come with a loss. Shares are of tokens, or of sequences where the ratio
/// is the sequence's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// The loss itself. It is near 0 on fresh samples, whatever is learnt.
    pub loss: f64,
    /// Mean ratio; 1 on fresh samples.
    pub ratio_mean: f64,
    /// Largest ratio.
    pub ratio_max: f64,
    /// Share below 1 − ε with A < 0: made less likely, and far enough.
    pub clip_low: f64,
    /// Share above 1 + ε with A > 0: made more likely, and far enough.
    pub clip_high: f64,
    /// Estimate of KL(π ‖ π_ref) a token, where there is a reference.
    pub kl: Option<f64>,
    /// Mean entropy of the policy's distribution a token, where it was given.
    pub entropy: Option<f64>,
    /// Share of groups whose advantages are all 0.
    pub silent_groups: f64,
}

impl Metrics {
    pub(super) fn new(
        term: &Term,
        loss: &Tensor,
        tokens: &Tokens,
        kl: Option<&Tensor>,
        batch: &Batch,
    ) -> Result<Self> {
        let mean = |x: &Tensor| mean(&x.detach(), &tokens.mask);
        let ratio = tokens.ratio.detach();
        let counted = match ratio.dim(1)? {
            1 => ratio.clone(),
            _ => mask::keep(&ratio, &tokens.mask)?,
        };
        let (clip_low, clip_high) = match term.clipped(tokens)? {
            Some((low, high)) => (mean(&low)?, mean(&high)?),
            None => (0.0, 0.0),
        };
        Ok(Self {
            loss: scalar(&loss.detach())?,
            ratio_mean: mean(&ratio)?,
            ratio_max: scalar(&counted.max_all()?)?,
            clip_low,
            clip_high,
            kl: kl.map(mean).transpose()?,
            entropy: batch.entropy.map(mean).transpose()?,
            silent_groups: silent_groups(batch)?,
        })
    }
}

/// The mean over tokens (B, T), or over sequences (B, 1).
fn mean(x: &Tensor, mask: &Tensor) -> Result<f64> {
    let x = x.to_dtype(DType::F64)?;
    let is_sequence = x.dim(1)? == 1 && mask.dim(1)? != 1;
    scalar(&if is_sequence { x.mean_all()? } else { mask::token_mean(&x, mask)? })
}

fn silent_groups(batch: &Batch) -> Result<f64> {
    let advantages = batch.advantages.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let groups = advantages.chunks_exact(batch.group_size);
    let count = groups.len() as f64;
    Ok(groups.filter(|group| group.iter().all(|&a| a == 0.0)).count() as f64 / count)
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar()?)
}
