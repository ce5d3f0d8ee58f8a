//! The parts of a decoder, each with a backward pass.
//!
//! ```text
//! RMSNorm(x)  = w · x / √(mean(x²) + ε)
//! RoPE(x)     = x · cos + rotate(x) · sin        angle of pair i at position t: t · θ^(−2i/d)
//! SwiGLU(x)   = down(silu(gate(x)) · up(x))
//! ```
//!
//! Candle has fast versions of the first two and of softmax. They have no backward pass,
//! and do not say so; those of [`crate::ops`] have one.
//!
//! Left out: dropout, because the models that this reads are trained without.

use crate::{Result, lm::lora::Linear, ops};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::rotary_emb;

/// RMSNorm over the last dimension.
pub struct Norm {
    pub weight: Tensor,
    pub eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::rms_norm::forward(x, &self.weight, self.eps)?)
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

    /// The tables themselves.
    pub fn tables(&self) -> [Tensor; 2] {
        [self.cos.clone(), self.sin.clone()]
    }

    /// Turns x (B, H, T, head_dim), without a gradient.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rotary_emb::rope(&x.contiguous()?, &self.cos, &self.sin)?)
    }
}

/// The feed-forward part.
pub struct SwiGlu {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl SwiGlu {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = ops::swiglu::forward(&self.gate.forward(x)?, &self.up.forward(x)?)?;
        Ok(self.down.forward(&gated)?)
    }
}
