//! Masks: which tokens count.
//!
//! A mask is a tensor (B, T) of dtype `U8`: 1 where a completion has a token, 0 where
//! its row is padding. It is made from lengths and never from the padding id, because
//! many tokenizers pad with the end-of-sequence token (EOS), and an EOS that was
//! masked out is a stop that is never learnt.
//!
//! Nothing here multiplies by a mask: 0 · NaN is NaN, and 0 · ∞ too. [`keep`] selects,
//! so padding may hold anything, and its gradient is exactly 0.
//!
//! Left out: masks of prompts and of attention, which belong to the language model.

use crate::Result;
use anyhow::ensure;
use candle_core::{D, DType, Device, Tensor};

/// The length of each completion: up to and with the first `eos`, or the whole row.
///
/// ```
/// use candle_core::{Device, Tensor};
/// // The padding is 0 too: only the first 0 of a row is its end.
/// let tokens = Tensor::new(&[[5u32, 0, 0], [7, 8, 9]], &Device::Cpu).unwrap();
/// assert_eq!(grpo::mask::lengths(&tokens, 0).unwrap(), [2, 3]);
/// ```
///
/// # Errors
/// Passes on Candle's error when `tokens` is not (B, T) of dtype `U32`.
pub fn lengths(tokens: &Tensor, eos: u32) -> Result<Vec<usize>> {
    let length =
        |row: &Vec<u32>| row.iter().position(|&id| id == eos).map_or(row.len(), |t| t + 1);
    Ok(tokens.to_vec2::<u32>()?.iter().map(length).collect())
}

/// The mask (B, `width`) of completions with these lengths.
///
/// # Errors
/// Names the row that is empty or longer than `width`.
///
/// ```
/// use candle_core::Device;
/// let mask = grpo::mask::of_lengths(&[2, 3], 3, &Device::Cpu).unwrap();
/// assert_eq!(mask.to_vec2::<u8>().unwrap(), [[1, 1, 0], [1, 1, 1]]);
/// ```
pub fn of_lengths(lengths: &[usize], width: usize, device: &Device) -> Result<Tensor> {
    let mut mask = Vec::with_capacity(lengths.len() * width);
    for (row, &length) in lengths.iter().enumerate() {
        ensure!(
            (1..=width).contains(&length),
            "completion {row} has {length} tokens; it must have from 1 to {width}"
        );
        mask.extend((0..width).map(|t| u8::from(t < length)));
    }
    Ok(Tensor::from_vec(mask, (lengths.len(), width), device)?)
}

/// `mask` without the rows that are `truncated`: a completion cut off at the maximum
/// length was not finished, and its reward may be about the cut.
///
/// # Errors
/// Says the two numbers of rows when they disagree.
pub fn without_truncated(mask: &Tensor, truncated: &[bool]) -> Result<Tensor> {
    let (rows, flags) = (mask.dim(0)?, truncated.len());
    ensure!(
        rows == flags,
        "mask has {rows} rows and truncated has {flags}; they must agree"
    );
    let kept: Vec<u8> = truncated.iter().map(|&cut| u8::from(!cut)).collect();
    Ok(mask.broadcast_mul(&Tensor::from_vec(kept, (rows, 1), mask.device())?)?)
}

/// The sequences that are still worth a policy gradient (DeepSeek-V3.2): those with an
/// advantage of at least 0, and those that the policy has not yet left.
///
/// ```text
/// keep = A ≥ 0  or  mean over tokens of (log π_old − log π) ≤ threshold
/// ```
///
/// `log_ratio` = log π − log π_old (B, T), advantages (B, 1), mask (B, T) → (B, 1) of
/// dtype `U8`.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn off_policy(
    log_ratio: &Tensor,
    advantages: &Tensor,
    mask: &Tensor,
    threshold: f64,
) -> Result<Tensor> {
    let drift = sequence_mean(&log_ratio.detach(), mask)?.neg()?;
    Ok(advantages.ge(0.0)?.maximum(&drift.le(threshold)?)?)
}

/// `x` where the mask is 1, and 0 elsewhere. Both (B, T).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn keep(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok(mask.where_cond(x, &x.zeros_like()?)?)
}

/// How many tokens each row has, at least 1, in the given dtype: (B, T) → (B, 1).
///
/// # Errors
/// Passes on Candle's error.
pub fn counts(mask: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(mask.to_dtype(dtype)?.sum_keepdim(D::Minus1)?.maximum(1.0)?)
}

/// The mean of `x` over the tokens of each row: (B, T) → (B, 1). A row without tokens
/// gets 0.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn sequence_mean(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok((keep(x, mask)?.sum_keepdim(D::Minus1)? / counts(mask, x.dtype())?)?)
}

/// The mean of `x` over all tokens: (B, T) → a scalar.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn token_mean(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let count = total(mask)?.max(1.0);
    Ok((keep(x, mask)?.sum_all()? / count)?)
}

/// How many tokens count.
///
/// # Errors
/// Passes on Candle's error.
pub fn total(mask: &Tensor) -> Result<f64> {
    Ok(mask.to_dtype(DType::F64)?.sum_all()?.to_scalar()?)
}
