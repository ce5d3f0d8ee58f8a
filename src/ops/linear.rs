//! x Wᵀ + b, with gradients that are laid out as the weights are.
//!
//! ```text
//! ∂L/∂x = g W        ∂L/∂W = gᵀ x        ∂L/∂b = Σ_rows g
//! ```
//!
//! In Candle's own operations the weight is transposed first, so that its gradient comes
//! out transposed and is turned number by number. And a frozen weight gets a gradient
//! that nobody reads; here it gets none.
//!
//! Left out: the product itself, which is Candle's.

use crate::ops::float::{Float, slice};
use candle_core::{
    CpuStorage, CustomOp2, Layout, Module, Result, Shape, Tensor, backend::BackendStorage,
    bail,
};

/// x (N, in), weight (out, in), bias (out) → (N, out).
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if !(super::fits(&[x, weight]) && x.rank() == 2) {
        return slow(x, weight, bias);
    }
    let y = x.contiguous()?.apply_op2(&weight.contiguous()?, Product)?;
    match bias {
        Some(bias) => y.apply_op2(&bias.contiguous()?, AddRow),
        None => Ok(y),
    }
}

/// [`forward`] in Candle's own operations: x (…, in), on any device.
///
/// # Errors
/// Passes on Candle's error when the shapes disagree.
pub fn slow(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    candle_nn::Linear::new(weight.clone(), bias.cloned()).forward(x)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, inputs), (outputs, width)) =
            (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        if inputs != width {
            bail!("linear: the rows have {inputs} numbers and the weight reads {width}")
        }
        let sizes = (1, n, outputs, inputs);
        let y = x.matmul(weight, sizes, x_layout, &weight_layout.transpose(0, 1)?)?;
        Ok((y, Shape::from((n, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let to_x = || gradient.matmul(&weight.detach());
        let to_weight = || gradient.t()?.matmul(&x.detach());
        Ok((
            x.track_op().then(to_x).transpose()?,
            weight.track_op().then(to_weight).transpose()?,
        ))
    }
}

struct AddRow;

impl CustomOp2 for AddRow {
    fn name(&self) -> &'static str {
        "add_row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        row: &CpuStorage,
        row_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sum = match x {
            CpuStorage::F32(_) => CpuStorage::F32(add_row(x, x_layout, row, row_layout)?),
            CpuStorage::F64(_) => CpuStorage::F64(add_row(x, x_layout, row, row_layout)?),
            _ => bail!("add_row needs F32 or F64"),
        };
        Ok((sum, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        row: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // One product with a row of ones adds the rows up.
        let ones = Tensor::ones((1, gradient.dim(0)?), gradient.dtype(), gradient.device());
        let to_row = || ones?.matmul(&gradient.contiguous()?)?.squeeze(0);
        Ok((Some(gradient.clone()), row.track_op().then(to_row).transpose()?))
    }
}

fn add_row<F: Float>(
    x: &CpuStorage,
    x_layout: &Layout,
    row: &CpuStorage,
    row_layout: &Layout,
) -> Result<Vec<F>> {
    let (x, row) = (slice::<F>(x, x_layout)?, slice::<F>(row, row_layout)?);
    if row.is_empty() || !x.len().is_multiple_of(row.len()) {
        bail!("a bias of {} numbers does not fit rows of {:?}", row.len(), x_layout.dims())
    }
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(row.len()) {
        y.extend(x.iter().zip(row).map(|(&x, &b)| x + b));
    }
    Ok(y)
}
