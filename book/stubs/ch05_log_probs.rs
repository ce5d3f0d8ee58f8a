//! Your answers to the exercises of chapter 5. `cargo exercise watch 5` checks them
//! each time you save.

use candle_core::{D, DType, Device, Tensor};
use grpo::{Result, log_prob::Scores, policy::Policy};
use std::ops::Range;

// ANCHOR: which_logits
/// A prompt of `prompt` tokens and a completion of `completion` tokens stand in one row.
/// Returns the positions whose logits are about the tokens of the completion, as a range
/// such as `3..6`, which is 3, 4 and 5.
///
/// Where there is no prompt, nobody speaks about the first token. The range is then one
/// shorter. `completion` is at least 1.
pub fn which_logits(prompt: usize, completion: usize) -> Range<usize> {
    todo!()
}
// ANCHOR_END: which_logits

// ANCHOR: at_temperature
/// Log-probabilities of the chosen ids, at the temperature τ of the sampler:
/// z_a/τ − log Σ_v exp(z_v/τ). Logits z (…, V), ids (…) of dtype `U32` → (…).
///
/// Any number of dimensions must do, and cuts that `narrow` made of wider tensors.
/// Logits may be large, 1,000 for example. The gradient must reach `logits`. No loop over
/// tokens.
pub fn at_temperature(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: at_temperature

// ANCHOR: completion
/// Log-probabilities of the completions. Logits (B, P + T, V) of `sequences` (B, P + T),
/// prompt and completion in one row, `prompt_length` P → (B, T).
///
/// P is at least 1. `Scores` holds log-probabilities and, if you like, an entropy, which
/// this exercise does not need: `Ok(log_probs.into())` makes one of a tensor.
pub fn completion(
    logits: &Tensor,
    sequences: &Tensor,
    prompt_length: usize,
    temperature: f64,
) -> Result<Scores> {
    todo!()
}
// ANCHOR_END: completion

// ANCHOR: completion_mask
/// Which tokens of the completions count: ids (B, T) of dtype `U32` → (B, T) of dtype
/// `U8`, 1 for a token and 0 for padding.
///
/// The padding has the same id as `eos`. A row ends with its first EOS, which counts. A
/// row without one was cut off and counts as a whole.
pub fn completion_mask(ids: &Tensor, eos: u32) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: completion_mask

// ANCHOR: repaired
/// `log_probs` of `someone.rs`, without its five mistakes. The log-probability that each
/// token of `completion` had when it was sampled at `temperature` behind `prompt`: ids
/// (P) and ids (T), the last of them EOS → (T), with a gradient for every variable of
/// the policy.
///
/// `encode` and `decode` are those of the tokenizer; `decode` leaves EOS out. Copy the
/// body from `someone.rs` and repair it. You need not use all arguments, and neither
/// slice is empty. In here `completion` is the slice; your function of that name is
/// `self::completion`.
pub fn repaired(
    policy: &dyn Policy,
    encode: fn(&str) -> Vec<u32>,
    decode: fn(&[u32]) -> String,
    prompt: &[u32],
    completion: &[u32],
    temperature: f64,
) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: repaired

// ANCHOR: batch
/// Scores completions of different lengths, behind prompts of different lengths, in one
/// pass: B prompts, B completions → log-probabilities (B, T) and mask (B, T) of dtype
/// `U8`, where T is the length of the longest completion.
///
/// `read` is the policy. It takes ids (B, N) of dtype `U32` and which of them are tokens
/// and not padding, (B, N) of dtype `U8`, and gives logits (B, N, V). Padding has the id
/// `eos`. Call `read` once. Each row must get the numbers that it gets alone, and
/// exactly 0 where the mask is 0; the logits of padding may be anything, NaN too. No
/// prompt and no completion is empty.
pub fn batch(
    read: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>,
    prompts: &[Vec<u32>],
    completions: &[Vec<u32>],
    eos: u32,
    temperature: f64,
) -> Result<(Tensor, Tensor)> {
    todo!()
}
// ANCHOR_END: batch
