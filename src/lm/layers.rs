//! The parts of a decoder, each with a backward pass.
//!
//! ```text
//! RMSNorm(x)  = w · x / √(mean(x²) + ε)
//! RoPE(x)     = x · cos + rotate(x) · sin        angle of pair i at position t: t · θ^(−2i/d)
//! SwiGLU(x)   = down(silu(gate(x)) · up(x))
//! ```
//!
//! Candle has fused versions of the first two and of softmax. They are several times
//! faster and have no backward pass, so they may only run in a [`Pass::Sample`].
//!
//! Left out: dropout, because the models that this reads are trained without.

use crate::{Result, lm::lora::Linear};
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{ops, rotary_emb};

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// A gradient may be wanted: only operations that have one.
    Train,
    /// No gradient: the fused operations.
    Sample,
}

/// RMSNorm over the last dimension.
pub struct Norm {
    pub weight: Tensor,
    pub eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        // The fused one cannot read double precision.
        if pass == Pass::Train || x.dtype() == DType::F64 {
            return Ok(ops::rms_norm_slow(x, &self.weight, self.eps as f32)?);
        }
        Ok(ops::rms_norm(&x.contiguous()?, &self.weight, self.eps as f32)?)
    }
}

/// cos and sin of the angles of some positions, each (T, head_dim / 2).
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// For the positions from `start`, as many as `length`.
    pub fn new(
        [start, length]: [usize; 2],
        (head_dim, theta): (usize, f64),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        // The published models were trained with frequencies and angles in single
        // precision; far from the start of a text the rounding can be seen.
        let frequency =
            |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64) as f32;
        let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
        let angle = |position: usize| frequencies.iter().map(move |f| position as f32 * f);
        let angles: Vec<f64> =
            (start..start + length).flat_map(angle).map(f64::from).collect();
        let angles = Tensor::from_vec(angles, (length, head_dim / 2), device)?;
        Ok(Self {
            cos: angles.cos()?.to_dtype(dtype)?,
            sin: angles.sin()?.to_dtype(dtype)?,
        })
    }

    /// Turns x (B, H, T, head_dim).
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(match pass {
            Pass::Train => rotary_emb::rope_slow(x, &self.cos, &self.sin)?,
            Pass::Sample => rotary_emb::rope(&x.contiguous()?, &self.cos, &self.sin)?,
        })
    }
}

/// softmax(q kᵀ / √head_dim + bias) v. Queries (B, H, T, head_dim); keys and values
/// (B, K, S, head_dim), each serving H / K neighbouring heads; bias broadcasts to
/// (B, H, T, S), 0 where a query may look and very negative where not.
/// → (B, H, T, head_dim)
pub fn attention(
    [q, k, v]: [&Tensor; 3],
    bias: Option<&Tensor>,
    pass: Pass,
) -> Result<Tensor> {
    let (batch, heads, length, head_dim) = q.dims4()?;
    let (kv_heads, total) = (k.dim(1)?, k.dim(2)?);
    // The heads that share keys stand in one matrix: nothing is repeated in memory.
    let grouped = (batch, kv_heads, heads / kv_heads * length, head_dim);
    let q = (q.contiguous()?.reshape(grouped)? * (head_dim as f64).powf(-0.5))?;
    let scores = q.matmul(&k.transpose(2, 3)?)?.reshape((batch, heads, length, total))?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let weights = match pass {
        Pass::Train => ops::softmax(&scores, D::Minus1)?,
        Pass::Sample => ops::softmax_last_dim(&scores)?,
    };
    let weights = weights.reshape((batch, kv_heads, heads / kv_heads * length, total))?;
    Ok(weights.matmul(v)?.reshape((batch, heads, length, head_dim))?)
}

/// The feed-forward part.
pub struct SwiGlu {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl SwiGlu {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.gate.forward(x)?.silu()?;
        Ok(self.down.forward(&(gate * self.up.forward(x)?)?)?)
    }
}
