//! RMSNorm in one pass a row.
//!
//! ```text
//! y = w x s                      s = 1 / √(mean(x²) + ε)
//! ∂L/∂x = s w g − x s³ mean(w g x)        ∂L/∂w = Σ_rows s g x
//! ```
//!
//! Nothing is kept for the backward pass but the input: s is computed again. Everything
//! between input and output is in double precision, because the norms stand between all
//! other operations and their rounding goes through the whole model.
//!
//! Left out: LayerNorm, which none of the models here has.

use crate::ops::float::{Float, NullaryFnOnce, dot, slice, wide, with_slices};
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
            CpuStorage::F32(_) => {
                let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
                CpuStorage::F32(wide(Rows { x, weight, eps: self.eps }))
            }
            CpuStorage::F64(_) => {
                let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
                CpuStorage::F64(wide(Rows { x, weight, eps: self.eps }))
            }
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

/// s
#[inline(always)]
fn scale<F: Float>(x: &[F], eps: f64) -> f64 {
    1.0 / (dot::<f64>(x, x) / x.len() as f64 + eps).sqrt()
}

/// x (…, D) and weight (D) → y (…, D).
struct Rows<'a, F> {
    x: &'a [F],
    weight: &'a [F],
    eps: f64,
}

impl<F: Float> NullaryFnOnce for Rows<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn call(self) -> Vec<F> {
        let mut y = Vec::with_capacity(self.x.len());
        for x in self.x.chunks_exact(self.weight.len()) {
            let s = scale(x, self.eps);
            let y_of = |(&x, &w): (&F, &F)| F::from_f64(w.to_f64() * x.to_f64() * s);
            y.extend(x.iter().zip(self.weight).map(y_of));
        }
        y
    }
}

fn back<F: Float>(tensors: [&Tensor; 3], eps: f64) -> Result<(Tensor, Tensor)> {
    let [x, weight, _] = tensors;
    let (to_x, to_weight) = with_slices(tensors, |[x, weight, g]| {
        wide(Back::<F> { rows: Rows { x, weight, eps }, g })
    })?;
    Ok((
        Tensor::from_vec(to_x, x.shape(), x.device())?,
        Tensor::from_vec(to_weight, weight.shape(), x.device())?,
    ))
}

/// With ∂L/∂y (…, D).
struct Back<'a, F> {
    rows: Rows<'a, F>,
    g: &'a [F],
}

impl<F: Float> NullaryFnOnce for Back<'_, F> {
    /// ∂L/∂x and ∂L/∂w.
    type Output = (Vec<F>, Vec<F>);

    #[inline(always)]
    fn call(self) -> (Vec<F>, Vec<F>) {
        let Self { rows: Rows { x, weight, eps }, g } = self;
        let width = weight.len();
        let mut to_x = vec![F::zero(); x.len()];
        let (mut to_weight, mut wg) = (vec![0.0; width], vec![0.0; width]);
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width));
        for ((x, g), out) in rows.zip(to_x.chunks_exact_mut(width)) {
            let s = scale(x, eps);
            for i in 0..width {
                let g = g[i].to_f64();
                wg[i] = weight[i].to_f64() * g;
                to_weight[i] += s * g * x[i].to_f64();
            }
            let shrink = dot::<f64>(&wg, x) / width as f64 * s * s * s;
            for i in 0..width {
                out[i] = F::from_f64(s * wg[i] - x[i].to_f64() * shrink);
            }
        }
        (to_x, to_weight.into_iter().map(F::from_f64).collect())
    }
}
