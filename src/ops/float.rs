//! What the hand-written loops are made of.
//!
//! The compiler turns these into vector instructions, and for that they are written the
//! way they are: sums in eight lanes, four rows at a time, an exponential without a
//! branch. The order of additions is fixed, so that every machine computes the same bits.
//!
//! Left out: instructions of one processor by name, because they would need a second
//! version of everything.

use candle_core::{CpuStorage, Layout, Result as CandleResult, Tensor, WithDType, bail};

/// Single or double precision.
pub(crate) trait Float: WithDType {
    /// eˣ to the last digit or two.
    fn exp(self) -> Self;
}

impl Float for f32 {
    /// eˣ = 2ⁿ · eʳ with n = round(x / ln 2) and a polynomial for eʳ (Cephes, `expf`).
    /// Below 2⁻¹²⁶ it stays there, and NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> f32 {
        // Added to a small number, this rounds it and leaves it in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 88.0 { 88.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts: n times the first is exact.
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
        let p = (p * r + 8.333_452e-3) * r + 4.166_579_5e-2;
        let p = (p * r + 0.166_666_65) * r + 0.5;
        let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        (p * r * r + r + 1.0) * f32::from_bits(power)
    }
}

impl Float for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
}

/// Σ a b.
#[inline(always)]
pub(crate) fn dot<F: Float>(a: &[F], b: &[F]) -> F {
    let mut lanes = [F::zero(); 8];
    let (a_lanes, b_lanes) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_lanes.remainder().iter().zip(b_lanes.remainder());
    let rest = rest.fold(F::zero(), |sum, (&a, &b)| sum + a * b);
    for (a, b) in a_lanes.zip(b_lanes) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().fold(rest, |sum, &lane| sum + lane)
}

/// y += Σ_m weights[m] · row m, where a row starts every `stride` numbers.
#[inline(always)]
pub(crate) fn add_rows<F: Float>(y: &mut [F], weights: &[F], rows: &[F], stride: usize) {
    let n = y.len();
    let row = |m: usize| &rows[m * stride..][..n];
    let mut m = 0;
    while m + 4 <= weights.len() {
        let [a, b, c, d] = [weights[m], weights[m + 1], weights[m + 2], weights[m + 3]];
        let (p, q, r, s) = (row(m), row(m + 1), row(m + 2), row(m + 3));
        for i in 0..n {
            y[i] += a * p[i] + b * q[i] + (c * r[i] + d * s[i]);
        }
        m += 4;
    }
    while m < weights.len() {
        let (weight, p) = (weights[m], row(m));
        for i in 0..n {
            y[i] += weight * p[i];
        }
        m += 1;
    }
}

/// row m += weights[m] · x, where a row starts every `stride` numbers.
#[inline(always)]
pub(crate) fn add_to_rows<F: Float>(rows: &mut [F], weights: &[F], x: &[F], stride: usize) {
    for (m, &weight) in weights.iter().enumerate() {
        let row = &mut rows[m * stride..][..x.len()];
        for i in 0..x.len() {
            row[i] += weight * x[i];
        }
    }
}

/// The numbers of a contiguous tensor.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> CandleResult<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a contiguous tensor is needed, not {layout:?}"),
    }
}

/// Calls `f` with the numbers of contiguous tensors on the CPU.
pub(crate) fn with_slices<T: WithDType, R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[T]; N]) -> R,
) -> CandleResult<R> {
    let guards = tensors.map(|tensor| tensor.storage_and_layout());
    let mut slices = [&[][..]; N];
    for (out, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *out = match &**storage {
            candle_core::Storage::Cpu(storage) => slice(storage, layout)?,
            _ => bail!("a tensor on the CPU is needed"),
        };
    }
    Ok(f(slices))
}
