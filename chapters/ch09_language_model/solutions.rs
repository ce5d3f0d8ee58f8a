//! Answers to the exercises of chapter 9.

use anyhow::{Context, ensure};
use candle_core::{D, DType, Module, Tensor};
use candle_nn::{Linear, ops};
use grpo::{Result, lm::config::Config, variables::Variables};

/// What one layer remembers: keys and values (B, K, S, d) of the S tokens read so far, and
/// `None` before the first.
pub type Memory = Option<[Tensor; 2]>;

// ANCHOR: cache_numbers
/// Queries are used once and forgotten: only heads of keys and values count.
pub fn cache_numbers(config: &Config, rows: usize, tokens: usize) -> usize {
    rows * tokens * config.layers * 2 * config.kv_heads * config.head_dim
}
// ANCHOR_END: cache_numbers

// ANCHOR: look_ahead
/// Two ranges of positions, one down and one across, compared by broadcasting.
pub fn look_ahead(length: usize, like: &Tensor) -> Result<Tensor> {
    let positions = Tensor::arange(0, length as u32, like.device())?;
    let later = positions.unsqueeze(0)?.broadcast_gt(&positions.unsqueeze(1)?)?;
    Ok((later.to_dtype(like.dtype())? * -1e9)?)
}
// ANCHOR_END: look_ahead

// ANCHOR: rms_norm
/// `ops::rms_norm` has these values and no gradient. Plain operations have both. ε stands
/// under the root.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    Ok(x.broadcast_div(&size)?.broadcast_mul(weight)?)
}
// ANCHOR_END: rms_norm

// ANCHOR: nucleus
/// Goes down from the likeliest token until the sum is reached; the token that reaches it
/// is in. The sort is stable, so equal tokens stay in the order of their ids.
pub fn nucleus(logits: &[f64], temperature: f64, top_p: f64) -> Result<Vec<f64>> {
    ensure!(temperature > 0.0, "temperature is {temperature}; it must be above 0");
    ensure!(
        top_p > 0.0 && top_p <= 1.0,
        "top_p is {top_p}; it must be above 0 and at most 1"
    );
    // Dividing all by e^max changes no ratio, and nothing overflows.
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> =
        logits.iter().map(|z| ((z - max) / temperature).exp()).collect();
    let all: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut kept = 0.0;
    for id in order {
        // Rounding may leave the sum of all a little below 1: with 1, never stop.
        if top_p < 1.0 && kept >= top_p * all {
            weights[id] = 0.0;
        } else {
            kept += weights[id];
        }
    }
    Ok(weights.into_iter().map(|weight| weight / kept).collect())
}
// ANCHOR_END: nucleus

// ANCHOR: of_a_group
/// The prompt in one pass, then `length` − 1 passes over one token for each completion.
pub fn of_a_group(config: &Config, prompt: usize, length: usize, group: usize) -> u64 {
    let Config { hidden_size, heads, kv_heads, head_dim, .. } = *config;
    let token = hidden_size * head_dim * (2 * heads + 2 * kv_heads)
        + 3 * hidden_size * config.intermediate_size;
    let pass = |new: usize, keys: usize| -> usize {
        let layer = new * (token + 2 * heads * head_dim * keys);
        config.layers * layer + hidden_size * config.vocab_size
    };
    let rest: usize = (1..length).map(|written| pass(1, prompt + written)).sum();
    (pass(prompt, prompt) + group * rest) as u64
}
// ANCHOR_END: of_a_group

// ANCHOR: turn
/// Angles (T, d/2), then the two halves turned and put back together.
pub fn turn(x: &Tensor, start: usize, theta: f64) -> Result<Tensor> {
    let (length, half) = (x.dim(2)?, x.dim(3)? / 2);
    let angle = |t: usize, i: usize| t as f64 * theta.powf(-(i as f64) / half as f64);
    let angles: Vec<f64> =
        (start..start + length).flat_map(|t| (0..half).map(move |i| angle(t, i))).collect();
    let angles = Tensor::from_vec(angles, (length, half), x.device())?;
    let (cos, sin) =
        (angles.cos()?.to_dtype(x.dtype())?, angles.sin()?.to_dtype(x.dtype())?);
    let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Ok(Tensor::cat(&[first, second], 3)?)
}
// ANCHOR_END: turn

// ANCHOR: attend
/// The mask of the new tokens is the last T rows of the mask of all.
pub fn attend([q, k, v]: [&Tensor; 3], memory: &mut Memory) -> Result<Tensor> {
    let (keys, values) = match memory {
        Some([keys, values]) => {
            (Tensor::cat(&[&*keys, k], 2)?, Tensor::cat(&[&*values, v], 2)?)
        }
        None => (k.clone(), v.clone()),
    };
    *memory = Some([keys.clone(), values.clone()]);
    let (rows, heads, new, width) = q.dims4()?;
    let (kv_heads, all) = (keys.dim(1)?, keys.dim(2)?);
    // Each head of keys and values, as often as it has heads of queries.
    let shared = |x: &Tensor| -> Result<Tensor> {
        let shape = (rows, kv_heads, heads / kv_heads, all, width);
        Ok(x.unsqueeze(2)?.expand(shape)?.reshape((rows, heads, all, width))?)
    };
    let scores = q.contiguous()?.matmul(&shared(&keys)?.transpose(2, 3)?.contiguous()?)?;
    let scores = (scores * (width as f64).powf(-0.5))?;
    let mask = look_ahead(all, q)?.narrow(0, all - new, new)?;
    let weights = ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    Ok(weights.matmul(&shared(&values)?)?)
}
// ANCHOR_END: attend

// ANCHOR: read
/// The page's `stream`, with a start that is where the memory ends.
pub fn read(
    config: &Config,
    weights: &Variables,
    memory: &mut [Memory],
    tokens: &Tensor,
) -> Result<Tensor> {
    let get = |name: &str| -> Result<Tensor> {
        let weight = weights.get(name).with_context(|| format!("there is no {name}"))?;
        Ok(weight.as_tensor().clone())
    };
    let norm = |x: &Tensor, name: &str| {
        rms_norm(x, &get(&format!("{name}.weight"))?, config.rms_norm_eps)
    };
    let linear = |x: &Tensor, name: &str| -> Result<Tensor> {
        let bias = get(&format!("{name}.bias")).ok();
        Ok(Linear::new(get(&format!("{name}.weight"))?, bias).forward(x)?)
    };
    let (rows, length) = tokens.dims2()?;
    let start = memory[0].as_ref().map_or(Ok(0), |[keys, _]| keys.dim(2))?;
    let embedding = get("model.embed_tokens.weight")?;
    let mut x =
        embedding.index_select(&tokens.flatten_all()?, 0)?.reshape((rows, length, ()))?;
    for (layer, memory) in memory.iter_mut().enumerate() {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let normed = norm(&x, &name("input_layernorm"))?;
        let split = |part: &str, heads: usize| -> Result<Tensor> {
            let all = linear(&normed, &name(&format!("self_attn.{part}_proj")))?;
            Ok(all.reshape((rows, length, heads, config.head_dim))?.transpose(1, 2)?)
        };
        let q = turn(&split("q", config.heads)?, start, config.rope_theta)?;
        let k = turn(&split("k", config.kv_heads)?, start, config.rope_theta)?;
        let found = attend([&q, &k, &split("v", config.kv_heads)?.contiguous()?], memory)?;
        let found = found.transpose(1, 2)?.flatten_from(2)?;
        x = (x + linear(&found, &name("self_attn.o_proj"))?)?;
        let normed = norm(&x, &name("post_attention_layernorm"))?;
        let gate = linear(&normed, &name("mlp.gate_proj"))?.silu()?;
        let opened = (gate * linear(&normed, &name("mlp.up_proj"))?)?;
        x = (x + linear(&opened, &name("mlp.down_proj"))?)?;
    }
    let output = if config.tied { embedding } else { get("lm_head.weight")? };
    Ok(Linear::new(output, None).forward(&norm(&x, "model.norm")?)?)
}
// ANCHOR_END: read
