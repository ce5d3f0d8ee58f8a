//! The log-probability of what was chosen: the one place where gradients enter.
//!
//! ```text
//! log π(a) = logit[a] − log Σ_v exp(logit[v])
//! ```
//!
//! Left out: a full table of log-probabilities, because only the chosen entries are
//! ever needed.

use crate::Result;
use anyhow::ensure;
use candle_core::{D, DType, Tensor};

/// Log-probabilities of the chosen ids. Logits (…, V), ids (…) of dtype `U32` → (…),
/// in nats.
///
/// # Errors
/// Says the two shapes when they disagree.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let logits = Tensor::new(&[[1.0f64, 0.5, -0.5]], &Device::Cpu).unwrap();
/// let ids = Tensor::new(&[0u32], &Device::Cpu).unwrap();
/// let log_prob = grpo::log_prob::of(&logits, &ids).unwrap().to_vec1::<f64>().unwrap();
/// assert!((log_prob[0] + 0.6041).abs() < 1e-4);
/// ```
pub fn of(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (shape, expected) = (logits.dims(), ids.dims());
    ensure!(
        shape.split_last().is_some_and(|(_, leading)| leading == expected),
        "logits {shape:?} and ids {expected:?} disagree: for logits (…, V) the ids must be (…)"
    );
    let chosen = logits.gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?.squeeze(D::Minus1)?;
    Ok((chosen - logits.log_sum_exp(D::Minus1)?)?)
}

/// All log-probabilities: logits (…, V) → (…, V). For small vocabularies and for
/// checking.
///
/// # Errors
/// Passes on Candle's error.
pub fn table(logits: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?)
}

/// The probabilities of one row of logits as plain numbers: logits (V) → V numbers.
///
/// # Errors
/// Passes on Candle's error when `logits` does not have one dimension.
pub fn probabilities(logits: &Tensor) -> Result<Vec<f64>> {
    let logits = logits.to_dtype(DType::F64)?;
    Ok(candle_nn::ops::softmax(&logits, D::Minus1)?.to_vec1()?)
}
