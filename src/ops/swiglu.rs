//! silu(gate) · up in one pass.
//!
//! ```text
//! y = x σ(x) u          x the gate, u what it lets through
//! ∂L/∂x = g u σ(x) (1 + x (1 − σ(x)))        ∂L/∂u = g x σ(x)
//! ```
//!
//! Left out: gelu, which none of the models here has.

use crate::ops::float::{Float, NullaryFnOnce, slice, wide, with_slices};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

/// gate and up, both (…) → (…).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match super::fits(&[gate, up]) {
        true => gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu),
        false => slow(gate, up),
    }
}

/// [`forward`] in Candle's own operations, on any device.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn slow(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if layout.shape() != up_layout.shape() {
            bail!("swiglu: gate is {:?} and up {:?}", layout.dims(), up_layout.dims())
        }
        let y = match gate {
            CpuStorage::F32(_) => {
                let (gate, up) = (slice(gate, layout)?, slice(up, up_layout)?);
                CpuStorage::F32(wide(Values { gate, up }))
            }
            CpuStorage::F64(_) => {
                let (gate, up) = (slice(gate, layout)?, slice(up, up_layout)?);
                CpuStorage::F64(wide(Values { gate, up }))
            }
            _ => bail!("swiglu needs F32 or F64"),
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let all = [gate, up, &gradient];
        let (to_gate, to_up) = match gate.dtype() {
            DType::F32 => back::<f32>(all)?,
            _ => back::<f64>(all)?,
        };
        Ok((Some(to_gate), Some(to_up)))
    }
}

#[inline(always)]
fn sigmoid<F: Float>(x: F) -> F {
    F::one() / (F::one() + (F::zero() - x).exp())
}

/// Gate and up → y, number by number.
struct Values<'a, F> {
    gate: &'a [F],
    up: &'a [F],
}

impl<F: Float> NullaryFnOnce for Values<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn call(self) -> Vec<F> {
        self.gate.iter().zip(self.up).map(|(&x, &u)| x * sigmoid(x) * u).collect()
    }
}

fn back<F: Float>(tensors: [&Tensor; 3]) -> Result<(Tensor, Tensor)> {
    let (to_gate, to_up) = with_slices(tensors, |[gate, up, g]| {
        wide(Back::<F> { values: Values { gate, up }, g })
    })?;
    let (shape, device) = (tensors[0].shape(), tensors[0].device());
    Ok((Tensor::from_vec(to_gate, shape, device)?, Tensor::from_vec(to_up, shape, device)?))
}

/// With ∂L/∂y.
struct Back<'a, F> {
    values: Values<'a, F>,
    g: &'a [F],
}

impl<F: Float> NullaryFnOnce for Back<'_, F> {
    /// ∂L/∂gate and ∂L/∂up.
    type Output = (Vec<F>, Vec<F>);

    #[inline(always)]
    fn call(self) -> (Vec<F>, Vec<F>) {
        let Self { values: Values { gate, up }, g } = self;
        let n = gate.len();
        let (mut to_gate, mut to_up) = (vec![F::zero(); n], vec![F::zero(); n]);
        for (((&x, &u), &g), (to_x, to_u)) in
            gate.iter().zip(up).zip(g).zip(to_gate.iter_mut().zip(&mut to_up))
        {
            let s = sigmoid(x);
            *to_u = g * x * s;
            *to_x = g * u * s * (F::one() + x * (F::one() - s));
        }
        (to_gate, to_up)
    }
}
