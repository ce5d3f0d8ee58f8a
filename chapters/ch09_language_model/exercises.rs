//! Your answers to the exercises of chapter 9. `cargo exercise watch 9` checks them
//! each time you save.

use anyhow::{Context, ensure};
use candle_core::{D, DType, Module, Tensor};
use candle_nn::{Linear, ops};
use grpo::{Result, lm::config::Config, variables::Variables};

/// What one layer remembers: keys and values (B, K, S, d) of the S tokens read so far, and
/// `None` before the first.
pub type Memory = Option<[Tensor; 2]>;

// ANCHOR: cache_numbers
/// How many numbers the cache of a whole model holds, when it has read `tokens` tokens of
/// each of `rows` rows.
///
/// `config.layers` layers keep one key and one value for each of `config.kv_heads` heads,
/// of `config.head_dim` numbers each. (`config.heads` are the heads of queries.)
pub fn cache_numbers(config: &Config, rows: usize, tokens: usize) -> usize {
    todo!()
}
// ANCHOR_END: cache_numbers

// ANCHOR: look_ahead
/// What is added to the scores of a text of `length` tokens: (T, T), of the dtype and on
/// the device of `like`. 0 where the token of the row may look at the token of the column,
/// which is itself and all before it; −10⁹ elsewhere.
pub fn look_ahead(length: usize, like: &Tensor) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: look_ahead

// ANCHOR: rms_norm
/// RMSNorm over the last dimension: w · x / √(mean(x²) + ε). x (…, D), weight w (D) →
/// (…, D).
///
/// Any number of dimensions must do. The gradient must reach `x` and `weight`, through
/// every path.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: rms_norm

// ANCHOR: nucleus
/// The probabilities that a sampler draws from, with temperature and top-p: V logits → V
/// probabilities, which sum to 1.
///
/// First the softmax of the logits divided by `temperature`. Then only the *nucleus* is
/// kept, the fewest likeliest tokens that together have at least the probability `top_p`;
/// all others get exactly 0, and the rest is divided by its sum. Of two tokens with equal
/// logits the lower id counts as the likelier. With `top_p` = 1 nothing is taken away.
///
/// Logits may be large, 1,000 for example, and −∞. An error names the argument that is
/// out of range and its value: `temperature` must be above 0, `top_p` above 0 and at most 1.
pub fn nucleus(logits: &[f64], temperature: f64, top_p: f64) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: nucleus

// ANCHOR: of_a_group
/// How many multiplications it takes to write a *group*: `group` completions of `length`
/// tokens each after one prompt of `prompt` tokens. Everything is at least 1.
///
/// With a cache, and the prompt is read once for the whole group. A token that was written
/// is read (with the cache) only where another one follows it. Count matrix products as the
/// page does. One token that is read after s others costs in each of the `config.layers`
/// layers
///
/// - `hidden_size · head_dim · (2 · heads + 2 · kv_heads)` for q, k, v and the way back,
/// - `3 · hidden_size · intermediate_size` for the feed-forward half,
/// - `2 · heads · head_dim · keys` in attention. `keys` is s + 1 when it is read alone, and
///   the number of all tokens read together when it is one of several: the mask only hides
///   what was multiplied already.
///
/// Each pass over a row ends with `hidden_size · vocab_size` for its last position.
pub fn of_a_group(config: &Config, prompt: usize, length: usize, group: usize) -> u64 {
    todo!()
}
// ANCHOR_END: of_a_group

// ANCHOR: turn
/// RoPE. Turns the heads of queries or keys by their positions: x (B, H, T, d) → the same
/// shape. The first column stands at position `start`, the next one at `start` + 1.
///
/// Number i of a head is paired with number i + d/2, for i below d/2. At position t the pair
/// (a, b) becomes (a·cos φ − b·sin φ, a·sin φ + b·cos φ), with φ = t · θ^(−2i/d), where θ is
/// `theta`. The gradient must reach x.
pub fn turn(x: &Tensor, start: usize, theta: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: turn

// ANCHOR: attend
/// Attention with a memory. Queries (B, H, T, d), keys and values (B, K, T, d) of T new
/// tokens → what they find, (B, H, T, d).
///
/// `Memory` is an `Option<[Tensor; 2]>`: keys and values, and `None` at first. Adds the new
/// keys and values behind those in `memory`. Each new token looks at everything that was remembered before this call, at the new tokens
/// before it, and at itself: softmax(q kᵀ / √d) v. Query head h uses head h / (H / K) of
/// keys and values: neighbours share one.
///
/// T may be 1, and it may be more, also when the memory is not empty. With an empty memory
/// the gradient must reach queries, keys and values.
pub fn attend([q, k, v]: [&Tensor; 3], memory: &mut Memory) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: attend

// ANCHOR: read
/// A whole Qwen2 or Llama with a cache: T new tokens (B, T) of dtype `U32` → logits
/// (B, T, V), one memory for each layer.
///
/// `weights` has the names of the page: `model.embed_tokens.weight`, `model.norm.weight`,
/// `model.layers.0.` and then `input_layernorm.weight`, `self_attn.q_proj.weight`, `k_proj`,
/// `v_proj`, `o_proj`, `post_attention_layernorm.weight`, `mlp.gate_proj.weight`, `up_proj`,
/// `down_proj`. A projection has a bias where its `.bias` is there. The output layer is the
/// embedding when `config.tied`, otherwise `lm_head.weight`. Positions go on where the
/// memory ends.
///
/// Use your `rms_norm`, `turn` and `attend`. Reading a text in pieces must give the logits
/// of reading it at once. An error names the weight that is missing.
pub fn read(
    config: &Config,
    weights: &Variables,
    memory: &mut [Memory],
    tokens: &Tensor,
) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: read
