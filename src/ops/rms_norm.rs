//! RMSNorm in one pass a row.
//!
//! ```text
//! y = w x s                      s = 1 / √(mean(x²) + ε)
//! ∂L/∂x = s w g − x s³ mean(w g x)        ∂L/∂w = Σ_rows s g x
//! ```
//!
//! Nothing is kept for the backward pass but the input: s is computed again.
//!
//! Left out: LayerNorm, which none of the models here has.

use crate::ops::float::{Float, dot, slice, with_slices};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

/// x (…, D), weight (D) → (…, D).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    match super::fits(&[x, weight]) {
        true => x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps }),
        false => slow(x, weight, eps),
    }
}

/// [`forward`] in Candle's own operations, on any device.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn slow(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    candle_nn::ops::rms_norm_slow(x, weight, eps as f32)
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (width, found) = (x_layout.dims().last(), weight_layout.dims());
        if width != found.first() || found.len() != 1 || width == Some(&0) {
            bail!("rms_norm: weight is {found:?} and x {:?}", x_layout.dims())
        }
        let y = match x {
            CpuStorage::F32(_) => CpuStorage::F32(rows(
                slice(x, x_layout)?,
                slice(weight, weight_layout)?,
                self.eps,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(rows(
                slice(x, x_layout)?,
                slice(weight, weight_layout)?,
                self.eps,
            )),
            _ => bail!("rms_norm needs F32 or F64"),
        };
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let all = [x, weight, &gradient];
        let (to_x, to_weight) = match x.dtype() {
            DType::F32 => back::<f32>(all, self.eps)?,
            _ => back::<f64>(all, self.eps)?,
        };
        Ok((Some(to_x), Some(to_weight)))
    }
}

/// 1 / s
fn root<F: Float>(x: &[F], eps: f64) -> F {
    let mean = dot(x, x).to_f64() / x.len() as f64;
    F::from_f64((mean + eps).sqrt())
}

fn rows<F: Float>(x: &[F], weight: &[F], eps: f64) -> Vec<F> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(weight.len()) {
        let root = root(x, eps);
        y.extend(x.iter().zip(weight).map(|(&x, &w)| x / root * w));
    }
    y
}

fn back<F: Float>(tensors: [&Tensor; 3], eps: f64) -> Result<(Tensor, Tensor)> {
    let [x, weight, _] = tensors;
    let (to_x, to_weight) = with_slices(tensors, |[x, weight, g]| {
        let width = weight.len();
        let mut to_x = vec![F::zero(); x.len()];
        let mut to_weight = vec![F::zero(); width];
        let mut wg = vec![F::zero(); width];
        for ((x, g), out) in x
            .chunks_exact(width)
            .zip(g.chunks_exact(width))
            .zip(to_x.chunks_exact_mut(width))
        {
            let s = F::one() / root(x, eps);
            for i in 0..width {
                wg[i] = weight[i] * g[i];
                to_weight[i] += s * g[i] * x[i];
            }
            let shrink = F::from_f64(dot(&wg, x).to_f64() / width as f64) * s * s * s;
            for i in 0..width {
                out[i] = s * wg[i] - x[i] * shrink;
            }
        }
        (to_x, to_weight)
    })?;
    Ok((
        Tensor::from_vec(to_x, x.shape(), x.device())?,
        Tensor::from_vec(to_weight, weight.shape(), x.device())?,
    ))
}
