//! Gathered log-probabilities in one pass over the logits, for the CPU.
//!
//! Candle's operations keep copies of the logits (B, T, V) for the backward pass: the
//! scaled ones, those minus the maximum, their exponentials. Here nothing is kept. The
//! backward pass computes the exponentials again, straight into the gradient:
//!
//! ```text
//! ∂ log π(a) / ∂ logit[v] = ([v = a] − π(v)) / T
//! ```
//!
//! A row whose gradient arrives as 0, padding for example, is skipped: it gets zeros even
//! where its logits are NaN. Sums are in double precision.
//!
//! Left out: threads. A batch split over threads uses them better than a row does.

use crate::{
    Result,
    ops::float::{Float, slice},
};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result as CandleResult,
    Shape, Tensor, bail,
};

/// Whether this module can take these logits: on the CPU, in single or double precision.
pub fn fits(logits: &Tensor) -> bool {
    logits.device().is_cpu() && matches!(logits.dtype(), DType::F32 | DType::F64)
}

/// Logits (…, V), ids (…) of dtype `U32` → log π(id) (…). Equals
/// [`crate::log_prob::slow`].
///
/// # Errors
/// Names an id that is not below V.
pub fn gather(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    Ok(rows_in_one_piece(logits)?.apply_op2(&ids.contiguous()?, Gather { temperature })?)
}

/// Logits (…, V) → entropies (…), without a gradient.
///
/// # Errors
/// Passes on Candle's error.
pub fn entropy(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    Ok(rows_in_one_piece(logits)?.apply_op1_no_bwd(&Entropy { temperature })?)
}

/// Rows may lie anywhere, but each must be contiguous.
fn rows_in_one_piece(logits: &Tensor) -> Result<Tensor> {
    let whole = logits.stride().last() == Some(&1) || logits.is_contiguous();
    Ok(if whole { logits.clone() } else { logits.contiguous()? })
}

struct Gather {
    temperature: f64,
}

impl CustomOp2 for Gather {
    fn name(&self) -> &'static str {
        "gather_log_prob"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let ids = slice::<u32>(ids, ids_layout)?;
        let log_probs = match logits {
            CpuStorage::F32(x) => {
                CpuStorage::F32(forward(x, layout, ids, self.temperature)?)
            }
            CpuStorage::F64(x) => {
                CpuStorage::F64(forward(x, layout, ids, self.temperature)?)
            }
            _ => bail!("gather_log_prob needs logits of dtype F32 or F64"),
        };
        Ok((log_probs, ids_layout.shape().clone()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        ids: &Tensor,
        _log_probs: &Tensor,
        gradient: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let op = GatherBackward { temperature: self.temperature };
        let gradient = logits.apply_op3_no_bwd(ids, &gradient.contiguous()?, &op)?;
        Ok((Some(gradient), None))
    }
}

struct GatherBackward {
    temperature: f64,
}

impl CustomOp3 for GatherBackward {
    fn name(&self) -> &'static str {
        "gather_log_prob_backward"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (ids, t) = (slice::<u32>(ids, ids_layout)?, self.temperature);
        let gradient = match (logits, gradient) {
            (CpuStorage::F32(x), CpuStorage::F32(_)) => CpuStorage::F32(backward(
                x,
                layout,
                ids,
                slice(gradient, gradient_layout)?,
                t,
            )?),
            (CpuStorage::F64(x), CpuStorage::F64(_)) => CpuStorage::F64(backward(
                x,
                layout,
                ids,
                slice(gradient, gradient_layout)?,
                t,
            )?),
            _ => {
                bail!("gather_log_prob needs logits and gradient of one dtype, F32 or F64")
            }
        };
        Ok((gradient, layout.shape().clone()))
    }
}

struct Entropy {
    temperature: f64,
}

impl CustomOp1 for Entropy {
    fn name(&self) -> &'static str {
        "entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let entropies = match logits {
            CpuStorage::F32(x) => CpuStorage::F32(entropies(x, layout, self.temperature)),
            CpuStorage::F64(x) => CpuStorage::F64(entropies(x, layout, self.temperature)),
            _ => bail!("entropy needs logits of dtype F32 or F64"),
        };
        let leading = layout.dims().split_last().map_or(&[][..], |(_, leading)| leading);
        Ok((entropies, Shape::from(leading)))
    }
}

/// log π(id) = (x[id] − max)/T − ln Σ_v exp((x[v] − max)/T), for each row x.
fn forward<F: Float>(
    logits: &[F],
    layout: &Layout,
    ids: &[u32],
    temperature: f64,
) -> CandleResult<Vec<F>> {
    let scale = F::from_f64(1.0 / temperature);
    let log_prob = |(row, &id): (&[F], &u32)| {
        let (chosen, max) = (entry(row, id)?, maximum(row));
        let sum: f64 = row.iter().map(|&x| ((x - max) * scale).exp().to_f64()).sum();
        Ok(F::from_f64(((chosen - max) * scale).to_f64() - sum.ln()))
    };
    rows(logits, layout).zip(ids).map(log_prob).collect()
}

/// g · ([v = id] − π(v)) / T, for each row and its gradient g.
fn backward<F: Float>(
    logits: &[F],
    layout: &Layout,
    ids: &[u32],
    gradient: &[F],
    temperature: f64,
) -> CandleResult<Vec<F>> {
    let scale = F::from_f64(1.0 / temperature);
    let mut out = vec![F::zero(); layout.shape().elem_count()];
    let width = layout.dims().last().map_or(1, |&width| width.max(1));
    let rows = rows(logits, layout).zip(ids).zip(gradient).zip(out.chunks_exact_mut(width));
    for (((row, &id), &g), out) in rows {
        if g == F::zero() {
            continue;
        }
        let (max, mut sum) = (maximum(row), 0.0);
        for (out, &x) in out.iter_mut().zip(row) {
            *out = ((x - max) * scale).exp();
            sum += out.to_f64();
        }
        let g = g * scale;
        let factor = F::from_f64(-g.to_f64() / sum);
        out.iter_mut().for_each(|x| *x *= factor);
        out[id as usize] += g;
    }
    Ok(out)
}

/// −Σ π log π = ln Σ e^y − Σ π y with y = (x − max)/T, for each row x. A term with π = 0
/// counts as 0.
fn entropies<F: Float>(logits: &[F], layout: &Layout, temperature: f64) -> Vec<F> {
    let scale = F::from_f64(1.0 / temperature);
    let entropy = |row: &[F]| {
        let max = maximum(row);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for &x in row {
            let y = (x - max) * scale;
            let e = y.exp().to_f64();
            sum += e;
            weighted += if e == 0.0 { 0.0 } else { e * y.to_f64() };
        }
        F::from_f64(sum.ln() - weighted / sum)
    };
    rows(logits, layout).map(entropy).collect()
}

/// The rows of a tensor (…, V), each a slice of V numbers, wherever they start.
fn rows<'a, F>(data: &'a [F], layout: &Layout) -> impl Iterator<Item = &'a [F]> {
    let mut starts = vec![layout.start_offset()];
    let (mut dims, mut strides) = (layout.dims(), layout.stride());
    let width = dims.last().copied().unwrap_or(1);
    while let ([dim, rest @ ..], [stride, rest_strides @ ..]) = (dims, strides)
        && !rest.is_empty()
    {
        starts =
            starts.iter().flat_map(|s| (0..*dim).map(move |i| s + i * stride)).collect();
        (dims, strides) = (rest, rest_strides);
    }
    starts.into_iter().map(move |start| &data[start..start + width])
}

fn maximum<F: Float>(row: &[F]) -> F {
    row.iter().fold(F::from_f64(f64::NEG_INFINITY), |max, &x| if x > max { x } else { max })
}

fn entry<F: Float>(row: &[F], id: u32) -> CandleResult<F> {
    match row.get(id as usize) {
        Some(&x) => Ok(x),
        None => bail!("id {id} is not in the vocabulary; it must be below {}", row.len()),
    }
}
