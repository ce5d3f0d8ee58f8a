//! Somebody's way to score a completion, with the five mistakes of chapter 5 in it. The
//! exercise `repaired` asks for it without them.

use candle_core::{D, Device, Tensor};
use grpo::{Result, policy::Policy};

// ANCHOR: someone
/// The log-probability of each token of the completion. Differentiable.
pub fn log_probs(
    policy: &dyn Policy,
    encode: fn(&str) -> Vec<u32>,
    decode: fn(&[u32]) -> String,
    prompt: &[u32],
    completion: &[u32],
    temperature: f64,
) -> Result<Tensor> {
    // The question and its answer, as the model will read them.
    let text = decode(prompt) + &decode(completion);
    let ids = Tensor::new(encode(&text), &Device::Cpu)?.unsqueeze(0)?;
    // Dividing by less than 1 would make the logits too large.
    let logits = (policy.logits(&ids)? / temperature.max(1.0))?;
    let log_probs = candle_nn::ops::softmax_last_dim(&logits)?.log()?;
    // The logits of each token, and the token.
    let chosen = log_probs.gather(&ids.unsqueeze(2)?, D::Minus1)?;
    Ok(chosen.flatten_all()?)
}
// ANCHOR_END: someone
