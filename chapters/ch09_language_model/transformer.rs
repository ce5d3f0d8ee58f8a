//! A transformer on a page: tokens (B, T) → logits (B, T, V).
//!
//! The same arithmetic as the library's decoder for Qwen2 and Llama, over the same
//! variables, in operations that all have a backward pass. Three switches break it, for
//! the experiments of this chapter.
//!
//! Left out: the cache, padding and the fused operations, which the library has, and the
//! norms of Qwen3.

#[cfg(feature = "yours")]
use crate::exercises::look_ahead;
use anyhow::Context;
use candle_core::{D, DType, Module, Tensor};
use candle_nn::{Linear, ops, rotary_emb};
use grpo::{
    Result,
    lm::{config::Config, decoder::Decoder},
    policy::Policy,
    variables::Variables,
};

/// How the transformer is built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Whether a token is kept from looking ahead.
    pub mask: bool,
    /// Whether queries and keys are turned by their positions.
    pub positions: bool,
    /// Where Candle's fused layers stand in for the ones written here.
    pub stock: Stock,
}

/// Candle's fused layers, which have no backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stock {
    /// `ops::softmax_last_dim`.
    pub softmax: bool,
    /// `rotary_emb::rope`.
    pub rope: bool,
    /// `ops::rms_norm`.
    pub norm: bool,
}

/// As it should be.
pub const WHOLE: Parts = Parts {
    mask: true,
    positions: true,
    stock: Stock { softmax: false, rope: false, norm: false },
};

/// The transformer of a decoder's shape and variables: training one trains the other.
pub struct Transformer {
    config: Config,
    variables: Variables,
    parts: Parts,
}

impl Transformer {
    pub fn of(decoder: &Decoder, parts: Parts) -> Self {
        let (config, variables) = (decoder.config().clone(), decoder.variables().clone());
        Self { config, variables, parts }
    }

    // ANCHOR: stream
    /// The stream of one batch: read the tokens, let each layer add what it has
    /// found, and ask at the end which token comes next.
    fn stream(&self, tokens: &Tensor) -> Result<Tensor> {
        let (rows, length) = tokens.dims2()?;
        let embedding = self.get("model.embed_tokens.weight")?;
        let read = embedding.index_select(&tokens.flatten_all()?, 0)?;
        let mut x = read.reshape((rows, length, ()))?;
        for layer in 0..self.config.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = self.norm(&x, &name("input_layernorm"))?;
            x = (x + self.attention(&normed, &name("self_attn"))?)?;
            let normed = self.norm(&x, &name("post_attention_layernorm"))?;
            x = (x + self.feed_forward(&normed, &name("mlp"))?)?;
        }
        let x = self.norm(&x, "model.norm")?;
        match self.config.tied {
            true => Ok(Linear::new(embedding, None).forward(&x)?),
            false => self.linear(&x, "lm_head"),
        }
    }
    // ANCHOR_END: stream

    // ANCHOR: attention
    /// Each token asks (q), it and each token before it offer (k), and what is offered
    /// by those that fit best is what comes back (v). x (B, T, D) → (B, T, D).
    fn attention(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (rows, length, _) = x.dims3()?;
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let split = |part: &str, heads: usize| -> Result<Tensor> {
            let all = self.linear(x, &format!("{name}.{part}_proj"))?;
            let split = all.reshape((rows, length, heads, head_dim))?;
            Ok(split.transpose(1, 2)?.contiguous()?) // (B, heads, T, head_dim)
        };
        let q = self.turn(&split("q", heads)?)?;
        // Several heads of queries share one head of keys and values.
        let shared = |x: Tensor| -> Result<Tensor> {
            let (each, shape) = (heads / kv_heads, (rows, heads, length, head_dim));
            let x = x.unsqueeze(2)?.expand((rows, kv_heads, each, length, head_dim))?;
            Ok(x.reshape(shape)?)
        };
        let k = shared(self.turn(&split("k", kv_heads)?)?)?;
        let v = shared(split("v", kv_heads)?)?;

        let scores = (q.matmul(&k.transpose(2, 3)?)? * (head_dim as f64).powf(-0.5))?;
        let scores = match self.parts.mask {
            true => scores.broadcast_add(&look_ahead(length, x)?)?,
            false => scores,
        };
        let found = self.softmax(&scores)?.matmul(&v)?;
        self.linear(&found.transpose(1, 2)?.flatten_from(2)?, &format!("{name}.o_proj"))
    }
    // ANCHOR_END: attention

    // ANCHOR: turn
    /// Turns each pair of numbers by an angle that grows with the position, fast for
    /// the first pair and slowly for the last. x (B, heads, T, head_dim).
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        if !self.parts.positions {
            return Ok(x.clone());
        }
        let (length, half) = (x.dim(2)?, x.dim(3)? / 2);
        let (cos, sin) = angles(0..length, half, self.config.rope_theta, x)?;
        if self.parts.stock.rope {
            return Ok(rotary_emb::rope(x, &cos, &sin)?);
        }
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Ok(Tensor::cat(&[first, second], 3)?)
    }
    // ANCHOR_END: turn

    // ANCHOR: small
    /// Two readings of the stream, one of which opens or closes the other.
    fn feed_forward(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let gate = self.linear(x, &format!("{name}.gate_proj"))?.silu()?;
        let up = self.linear(x, &format!("{name}.up_proj"))?;
        self.linear(&(gate * up)?, &format!("{name}.down_proj"))
    }

    /// Every token's numbers brought to the same size, then weighted.
    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (weight, eps) =
            (self.get(&format!("{name}.weight"))?, self.config.rms_norm_eps);
        if self.parts.stock.norm {
            return Ok(ops::rms_norm(&x.contiguous()?, &weight, eps as f32)?);
        }
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        Ok(x.broadcast_div(&size)?.broadcast_mul(&weight)?)
    }

    fn softmax(&self, scores: &Tensor) -> Result<Tensor> {
        Ok(match self.parts.stock.softmax {
            true => ops::softmax_last_dim(scores)?,
            false => ops::softmax(scores, D::Minus1)?,
        })
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        let bias = self.variables.get(&format!("{name}.bias"));
        let bias = bias.map(|bias| bias.as_tensor().clone());
        Ok(Linear::new(weight, bias).forward(x)?)
    }
    // ANCHOR_END: small

    fn get(&self, name: &str) -> Result<Tensor> {
        let variable = self.variables.get(name);
        Ok(variable.with_context(|| format!("there is no {name}"))?.as_tensor().clone())
    }
}

impl Policy for Transformer {
    fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        self.stream(tokens)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}

#[cfg(not(feature = "yours"))]
// ANCHOR: mask
/// What is added to the scores (T, T): 0 where the token of the row may look at that of
/// the column, and −10⁹ where that one comes later. After the softmax, 0 is left of it.
fn look_ahead(length: usize, like: &Tensor) -> Result<Tensor> {
    let ahead = |(t, s): (usize, usize)| if s > t { -1e9 } else { 0.0 };
    let pairs = (0..length).flat_map(|t| (0..length).map(move |s| (t, s)));
    let mask: Vec<f64> = pairs.map(ahead).collect();
    let mask = Tensor::from_vec(mask, (length, length), like.device())?;
    Ok(mask.to_dtype(like.dtype())?)
}
// ANCHOR_END: mask

// ANCHOR: angles
/// cos and sin of position · rope_theta^(−i / half) for each position and each pair i:
/// (T, half).
pub fn angles(
    positions: impl Iterator<Item = usize>,
    half: usize,
    theta: f64,
    like: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let angle = |position: usize, pair: usize| {
        position as f64 * theta.powf(-(pair as f64) / half as f64)
    };
    let angles: Vec<f64> =
        positions.flat_map(|t| (0..half).map(move |i| angle(t, i))).collect();
    let angles = Tensor::from_vec(angles, ((), half), like.device())?;
    let cast = |x: Tensor| x.to_dtype(like.dtype());
    Ok((cast(angles.cos()?)?, cast(angles.sin()?)?))
}
// ANCHOR_END: angles

/// The likeliest tokens after the prompts (B, P), one at a time, reading everything again
/// for each: (B, `length`).
pub fn continue_greedily(
    policy: &impl Policy,
    prompts: &Tensor,
    length: usize,
) -> Result<Tensor> {
    let mut sequences = prompts.clone();
    for _ in 0..length {
        let last = sequences.dim(1)? - 1;
        let logits = policy.logits(&sequences)?.narrow(1, last, 1)?.squeeze(1)?;
        let next = logits.detach().argmax_keepdim(D::Minus1)?.to_dtype(DType::U32)?;
        sequences = Tensor::cat(&[sequences, next], 1)?;
    }
    Ok(sequences.narrow(1, prompts.dim(1)?, length)?)
}
