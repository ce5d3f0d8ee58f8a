//! Drawing a choice from a policy: the step that has no derivative.
//!
//! Left out: temperature, top-k and top-p, until a chapter samples text.

use crate::Result;
use anyhow::ensure;
use candle_core::{DType, Tensor};
use rand::{Rng, rngs::StdRng};

/// Draws one index with the given probabilities. They need not sum to exactly 1: the
/// last index with a positive probability takes the rounding.
///
/// # Errors
/// Says which weight is negative or not finite, or that none is positive.
///
/// ```
/// let mut rng = grpo::seed::rng(0);
/// assert_eq!(grpo::sampling::index(&[0.0, 1.0, 0.0], &mut rng).unwrap(), 1);
/// assert!(grpo::sampling::index(&[0.5, f64::NAN], &mut rng).is_err());
/// ```
pub fn index(probabilities: &[f64], rng: &mut StdRng) -> Result<usize> {
    let mut total = 0.0;
    for (i, p) in probabilities.iter().enumerate() {
        ensure!(p.is_finite() && *p >= 0.0, "probability {i} is {p}; it must be at least 0");
        total += p;
    }
    ensure!(total > 0.0, "none of the {} probabilities is above 0", probabilities.len());
    let mut left = rng.random::<f64>() * total;
    let mut last = 0;
    for (i, &p) in probabilities.iter().enumerate() {
        if p > 0.0 {
            last = i;
            if left < p {
                break;
            }
            left -= p;
        }
    }
    Ok(last)
}

/// Draws one id a row. Logits (B, V) → ids (B) of dtype `U32`, on the same device.
///
/// Adding Gumbel noise and taking the largest logit draws from the softmax; doing it
/// by the cumulative sum on the host costs one uniform number a row and is exact.
///
/// # Errors
/// Refuses logits that are not (B, V) or not finite.
pub fn sample(logits: &Tensor, rng: &mut StdRng) -> Result<Tensor> {
    let rows = logits.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let mut ids = Vec::with_capacity(rows.len());
    for mut row in rows {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|logit| *logit = (*logit - max).exp());
        ids.push(index(&row, rng)? as u32);
    }
    Ok(Tensor::new(ids, logits.device())?)
}
