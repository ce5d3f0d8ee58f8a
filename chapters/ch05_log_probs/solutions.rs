//! Answers to the exercises of chapter 5.

use candle_core::{D, DType, Device, Tensor};
use grpo::{Result, log_prob::Scores, mask, policy::Policy};
use std::ops::Range;

// ANCHOR: which_logits
/// Position t speaks about token t + 1. The tokens are `prompt..prompt + completion`, so
/// the positions are one lower; where that falls off the row, one is missing.
pub fn which_logits(prompt: usize, completion: usize) -> Range<usize> {
    prompt.saturating_sub(1)..prompt + completion - 1
}
// ANCHOR_END: which_logits

// ANCHOR: at_temperature
/// `log_softmax` subtracts the largest logit of a row before it takes exponentials, so
/// large logits do not overflow, and it has a gradient. `contiguous` copies ids that are
/// a cut out of a wider tensor, which `gather` does not take, and no others.
pub fn at_temperature(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let table = candle_nn::ops::log_softmax(&(logits / temperature)?, D::Minus1)?;
    let column = ids.unsqueeze(D::Minus1)?.contiguous()?;
    Ok(table.gather(&column, D::Minus1)?.squeeze(D::Minus1)?)
}
// ANCHOR_END: at_temperature

// ANCHOR: completion
/// Two cuts of the same length: the tokens from P, and the logits from P − 1.
pub fn completion(
    logits: &Tensor,
    sequences: &Tensor,
    prompt_length: usize,
    temperature: f64,
) -> Result<Scores> {
    let length = sequences.dim(1)? - prompt_length;
    let about = logits.narrow(1, prompt_length - 1, length)?;
    let tokens = sequences.narrow(1, prompt_length, length)?;
    Ok(at_temperature(&about, &tokens, temperature)?.into())
}
// ANCHOR_END: completion

// ANCHOR: completion_mask
/// How many EOS stand up to and with each column, minus the one in the column itself:
/// where that is 0, the row has not ended yet.
pub fn completion_mask(ids: &Tensor, eos: u32) -> Result<Tensor> {
    let ends = ids.eq(eos)?.to_dtype(DType::F32)?;
    let before = (ends.cumsum(1)? - ends)?;
    Ok(before.eq(0f32)?)
}
// ANCHOR_END: completion_mask

// ANCHOR: repaired
/// The ids that were sampled, behind the ids of the prompt: no trip through text, so
/// `encode` and `decode` are not needed. `completion` cuts off the prompt and shifts.
pub fn repaired(
    policy: &dyn Policy,
    _encode: fn(&str) -> Vec<u32>,
    _decode: fn(&[u32]) -> String,
    prompt: &[u32],
    completion: &[u32],
    temperature: f64,
) -> Result<Tensor> {
    let ids = Tensor::new([prompt, completion].concat(), &Device::Cpu)?.unsqueeze(0)?;
    let logits = policy.logits(&ids)?;
    let scores = self::completion(&logits, &ids, prompt.len(), temperature)?;
    Ok(scores.log_probs.squeeze(0)?)
}
// ANCHOR_END: repaired

// ANCHOR: batch
/// Prompts end, and completions start, in the same column of all rows. One slice then
/// fits them all, and the mask tells where a row has ended.
pub fn batch(
    read: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>,
    prompts: &[Vec<u32>],
    completions: &[Vec<u32>],
    eos: u32,
    temperature: f64,
) -> Result<(Tensor, Tensor)> {
    let longest = |rows: &[Vec<u32>]| rows.iter().map(Vec::len).max().unwrap_or(0);
    let (before, after) = (longest(prompts), longest(completions));
    let (mut ids, mut real) = (Vec::new(), Vec::new());
    for (prompt, completion) in prompts.iter().zip(completions) {
        let (left, right) = (before - prompt.len(), after - completion.len());
        ids.extend([vec![eos; left], prompt.clone(), completion.clone()].concat());
        ids.extend(vec![eos; right]);
        real.extend(vec![0u8; left]);
        real.extend(vec![1u8; prompt.len() + completion.len()]);
        real.extend(vec![0u8; right]);
    }
    let shape = (prompts.len(), before + after);
    let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
    let real = Tensor::from_vec(real, shape, &Device::Cpu)?;
    let log_probs = completion(&read(&ids, &real)?, &ids, before, temperature)?.log_probs;
    let mask = real.narrow(1, before, after)?.contiguous()?;
    Ok((mask::keep(&log_probs, &mask)?, mask))
}
// ANCHOR_END: batch
