//! Operations written by hand, with a backward pass by hand.
//!
//! Each has a slow version in Candle's own operations that it must agree with, and that
//! steps in on other devices and in half precision. In a training step Candle's own cost
//! more time than all matrix products: each walks over its numbers several times, forward
//! and backward, and leaves a copy behind.
//!
//! Left out: GPU kernels, because the slow versions are fast there.

pub mod attention;
mod float;
pub mod linear;
pub mod log_prob;
pub mod rms_norm;
pub mod swiglu;

use candle_core::{DType, Tensor};

/// Whether the loops here can take these tensors: on the CPU, all in single or all in
/// double precision.
pub fn fits(tensors: &[&Tensor]) -> bool {
    let dtype = tensors.first().map_or(DType::F32, |x| x.dtype());
    matches!(dtype, DType::F32 | DType::F64)
        && tensors.iter().all(|x| x.device().is_cpu() && x.dtype() == dtype)
}
