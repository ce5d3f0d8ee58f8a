//! The log-probability of what was chosen: the one place where gradients enter.
//!
//! ```text
//! log π(a) = logit[a] / T − log Σ_v exp(logit[v] / T)
//! ```
//!
//! T is the temperature that the tokens were sampled at; scored at another, they are
//! another policy's. On the CPU one pass over the logits does it, and the backward pass
//! recomputes what it needs: see [`crate::ops::log_prob`]. Elsewhere [`slow`] does.
//!
//! Left out: top-k and top-p, because a policy that cannot choose a token has no ratio
//! for it. Sample from the whole distribution where you mean to learn from the samples.

use crate::{Result, ops};
use anyhow::ensure;
use candle_core::{D, DType, Tensor};

/// Log-probabilities of the chosen ids. Logits (…, V), ids (…) of dtype `U32` → (…),
/// in nats, at temperature 1.
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
    at_temperature(logits, ids, 1.0)
}

/// [`of`], at the temperature of the sampler.
///
/// # Errors
/// Says the two shapes when they disagree; refuses a temperature that is not above 0.
pub fn at_temperature(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    check(logits, ids, temperature)?;
    match ops::log_prob::fits(logits) {
        true => ops::log_prob::gather(logits, ids, temperature),
        false => slow(logits, ids, temperature),
    }
}

// ANCHOR: slow
/// [`at_temperature`] in Candle's own operations, on any device. It keeps copies of the
/// logits for the backward pass.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn slow(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let logits = (logits / temperature)?;
    // Candle cannot gather by a view.
    let column = ids.contiguous()?.unsqueeze(D::Minus1)?;
    let chosen = logits.gather(&column, D::Minus1)?.squeeze(D::Minus1)?;
    Ok((chosen - logits.log_sum_exp(D::Minus1)?)?)
}
// ANCHOR_END: slow

/// What a policy says about given completions.
#[derive(Debug, Clone)]
pub struct Scores {
    /// log π of each token, (B, T).
    pub log_probs: Tensor,
    /// Entropy of the distribution that each token was drawn from, (B, T), without a
    /// gradient.
    pub entropy: Option<Tensor>,
}

impl From<Tensor> for Scores {
    fn from(log_probs: Tensor) -> Self {
        Self { log_probs, entropy: None }
    }
}

// ANCHOR: completion
/// Scores of the completions. The logits at a position are about the token *after* it:
///
/// ```text
/// position     0    1    2    3    4          prompt_length 3
/// token        p₀   p₁   p₂   o₀   o₁
/// logits are
/// about        p₁   p₂   o₀   o₁   –          so the logits at 2 and 3 count
/// ```
///
/// Logits (B, P + T, V) of the `sequences` (B, P + T), prompt and completion in one row
/// → (B, T).
///
/// # Errors
/// Says the shapes when they disagree, and refuses a prompt of no tokens or one that
/// leaves none for the completion.
pub fn completion(
    logits: &Tensor,
    sequences: &Tensor,
    prompt_length: usize,
    temperature: f64,
) -> Result<Scores> {
    check(logits, sequences, temperature)?;
    let width = sequences.dim(D::Minus1)?;
    check_prompt_length(prompt_length, width)?;
    let length = width - prompt_length;
    let logits = logits.narrow(1, prompt_length - 1, length)?;
    let tokens = sequences.narrow(1, prompt_length, length)?;
    let log_probs = at_temperature(&logits, &tokens, temperature)?;
    Ok(Scores { log_probs, entropy: Some(entropy(&logits, temperature)?) })
}
// ANCHOR_END: completion

/// The entropy −Σ_v π(v) log π(v) of each distribution, in nats: logits (…, V) → (…),
/// without a gradient. It is not the mean of −log π over sampled tokens, which only
/// estimates it.
///
/// # Errors
/// Refuses a temperature that is not above 0.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// let uniform = Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap();
/// let entropy = grpo::log_prob::entropy(&uniform, 1.0).unwrap();
/// assert_eq!(entropy.to_scalar::<f64>().unwrap(), 4f64.ln());
/// ```
pub fn entropy(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    ensure!(temperature > 0.0, "temperature is {temperature}; it must be above 0");
    let logits = logits.detach();
    if ops::log_prob::fits(&logits) {
        return ops::log_prob::entropy(&logits, temperature);
    }
    let log_probs = table(&(logits / temperature)?)?;
    // The lowest finite number for −∞: 0 · −∞ would be NaN.
    Ok((log_probs.exp()? * log_probs.maximum(f64::from(f32::MIN))?)?
        .sum(D::Minus1)?
        .neg()?)
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

fn check_prompt_length(prompt_length: usize, width: usize) -> Result<()> {
    ensure!(
        (1..width).contains(&prompt_length),
        "prompt_length is {prompt_length}; of {width} tokens it must leave one, and be at least 1"
    );
    Ok(())
}

fn check(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<()> {
    let (shape, expected) = (logits.dims(), ids.dims());
    ensure!(
        shape.split_last().is_some_and(|(_, leading)| leading == expected),
        "logits {shape:?} and ids {expected:?} disagree: for logits (…, V) the ids must be (…)"
    );
    let dtype = ids.dtype();
    ensure!(dtype == DType::U32, "ids has dtype {dtype:?}; it must be U32");
    ensure!(temperature > 0.0, "temperature is {temperature}; it must be above 0");
    Ok(())
}
