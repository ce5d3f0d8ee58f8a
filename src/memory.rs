//! How much memory the parts of a training run hold, in bytes.
//!
//! ```text
//! trained model = weights + gradients + two Adam moments + full-precision copy
//! ```
//!
//! Left out: activations, the KV cache and what a framework keeps for itself. They
//! depend on batch, length and code, and are often the larger part.

// ANCHOR: bytes
/// Bytes held for each parameter of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BytesPerParameter {
    /// The weights that the forward pass reads.
    pub weights: f64,
    /// Their gradients; 0 for a frozen model.
    pub gradients: f64,
    /// Adam's two moments, and a full-precision copy of the weights where there is one;
    /// 0 for a frozen model.
    pub optimiser: f64,
}
// ANCHOR_END: bytes

impl BytesPerParameter {
    /// A model that only computes: 16-bit weights.
    pub const FROZEN_16_BIT: Self = Self { weights: 2.0, gradients: 0.0, optimiser: 0.0 };
    /// A model that only computes: 4-bit weights.
    pub const FROZEN_4_BIT: Self = Self { weights: 0.5, gradients: 0.0, optimiser: 0.0 };
    /// Everything in 16 bits, moments too. Small, and rarely done: small updates round away.
    pub const TRAINED_16_BIT: Self = Self { weights: 2.0, gradients: 2.0, optimiser: 4.0 };
    /// The usual mixture: 16-bit weights and gradients; moments and a copy of the
    /// weights in 32 bits (Rajbhandari et al., 2020, "ZeRO", §3.1: 16 bytes).
    pub const TRAINED_MIXED: Self = Self { weights: 2.0, gradients: 2.0, optimiser: 12.0 };

    /// Gigabytes (10⁹ bytes) that a model of `billions` · 10⁹ parameters holds.
    ///
    /// ```
    /// use grpo::memory::BytesPerParameter as Bytes;
    /// assert_eq!(Bytes::TRAINED_MIXED.gigabytes(8.0), 128.0);
    /// ```
    pub fn gigabytes(&self, billions: f64) -> f64 {
        (self.weights + self.gradients + self.optimiser) * billions
    }
}
