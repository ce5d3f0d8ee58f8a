//! What the hand-written loops are made of.
//!
//! The compiler turns these into vector instructions, and for that they are written the
//! way they are: [`LANES`] numbers at a time, read before the result is written, and an
//! exponential without a branch. [`wide`] compiles them once more for processors with
//! wider vectors. The order of additions is fixed, so that every machine computes the
//! same bits.
//!
//! Left out: instructions of one processor by name, because they would need a second
//! version of everything.

use candle_core::{CpuStorage, Layout, Result as CandleResult, Tensor, WithDType, bail};
pub(crate) use pulp::NullaryFnOnce;

/// Numbers that are computed side by side.
pub(crate) const LANES: usize = 8;

/// Calls a loop, compiled for the widest vectors that this processor has. Its `call` must
/// be inlined always, as must all that it calls; a closure is not.
pub(crate) fn wide<L: NullaryFnOnce>(body: L) -> L::Output {
    pulp::Arch::new().dispatch(body)
}

/// Single or double precision.
pub(crate) trait Float: WithDType {
    /// eˣ to the last digit or two.
    fn exp(self) -> Self;
}

impl Float for f32 {
    /// eˣ = 2ⁿ · eʳ with n = round(x / ln 2) and a polynomial for eʳ (Cephes, `expf`).
    /// Below −87, where it would lose its digits, it is 0. NaN stays NaN.
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
        let y = (p * r * r + r + 1.0) * f32::from_bits(power);
        if self < -87.0 { 0.0 } else { y }
    }
}

impl Float for f64 {
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
}

/// Σ a b, in the precision of the result.
#[inline(always)]
pub(crate) fn dot<F: Float>(a: &[impl Float], b: &[impl Float]) -> F {
    let product = |a: f64, b: f64| F::from_f64(a) * F::from_f64(b);
    let mut lanes = [F::zero(); LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += product(a[i].to_f64(), b[i].to_f64());
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| product(a.to_f64(), b.to_f64()));
    lanes.into_iter().chain(rest).fold(F::zero(), |sum, x| sum + x)
}

/// x becomes f(x, y), number by number.
#[inline(always)]
pub(crate) fn each<F: Float>(x: &mut [F], y: &[F], f: impl Fn(F, F) -> F) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks_mut::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter_mut().zip(y) {
        let mut out = [F::zero(); LANES];
        for i in 0..LANES {
            out[i] = f(x[i], y[i]);
        }
        *x = out;
    }
    x_rest.iter_mut().zip(y_rest).for_each(|(x, &y)| *x = f(*x, y));
}

/// The numbers folded by an operation that does not care for their order.
#[inline(always)]
fn fold<F: Float>(x: &[F], start: F, f: impl Fn(F, F) -> F) -> F {
    let mut lanes = [start; LANES];
    let (x, rest) = x.as_chunks::<LANES>();
    for x in x {
        for i in 0..LANES {
            lanes[i] = f(lanes[i], x[i]);
        }
    }
    lanes.iter().chain(rest).fold(start, |y, &x| f(y, x))
}

/// x becomes softmax(x). A number that is −∞ becomes 0, also where all are. So do numbers
/// that are all NaN: that something is wrong must show elsewhere.
#[inline(always)]
pub(crate) fn softmax<F: Float>(x: &mut [F]) {
    let lowest = F::from_f64(f64::NEG_INFINITY);
    let max = fold(x, lowest, |max, x| if x > max { x } else { max });
    if max == lowest {
        return x.fill(F::zero());
    }
    map(x, |x| (x - max).exp());
    let share = F::one() / fold(x, F::zero(), |sum, x| sum + x);
    map(x, |x| x * share);
}

/// x becomes f(x), number by number.
#[inline(always)]
pub(crate) fn map<F: Float>(x: &mut [F], f: impl Fn(F) -> F) {
    let (x, rest) = x.as_chunks_mut::<LANES>();
    for x in x {
        let mut out = [F::zero(); LANES];
        for i in 0..LANES {
            out[i] = f(x[i]);
        }
        *x = out;
    }
    rest.iter_mut().for_each(|x| *x = f(*x));
}

/// y = x with its first half turned against its second by angles of these cosines and
/// sines, forward for a sign of 1 and back for −1.
#[inline(always)]
pub(crate) fn turn<F: Float>(x: &[F], y: &mut [F], [cos, sin]: [&[F]; 2], sign: F) {
    let (x1, x2) = x.split_at(cos.len());
    let (y1, y2) = y.split_at_mut(cos.len());
    let (y1, rest1) = y1.as_chunks_mut::<LANES>();
    let (y2, rest2) = y2.as_chunks_mut::<LANES>();
    let [x1, x2, cos, sin] = [x1, x2, cos, sin].map(|x| x.as_chunks::<LANES>());
    let angles = cos.0.iter().zip(sin.0);
    for (((y1, y2), (x1, x2)), (cos, sin)) in
        y1.iter_mut().zip(y2).zip(x1.0.iter().zip(x2.0)).zip(angles)
    {
        let (mut out1, mut out2) = ([F::zero(); LANES], [F::zero(); LANES]);
        for i in 0..LANES {
            let sin = sin[i] * sign;
            out1[i] = x1[i] * cos[i] - x2[i] * sin;
            out2[i] = x1[i] * sin + x2[i] * cos[i];
        }
        (*y1, *y2) = (out1, out2);
    }
    for i in 0..rest1.len() {
        let sin = sin.1[i] * sign;
        rest1[i] = x1.1[i] * cos.1[i] - x2.1[i] * sin;
        rest2[i] = x1.1[i] * sin + x2.1[i] * cos.1[i];
    }
}

/// y += Σ_m weights[m] · row m, where a row starts every `stride` numbers.
#[inline(always)]
pub(crate) fn add_rows<F: Float>(y: &mut [F], weights: &[F], rows: &[F], stride: usize) {
    let n = y.len();
    let row = |m: usize| rows[m * stride..][..n].as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    let (fours, singles) = weights.as_chunks::<4>();
    for (block, &[a, b, c, d]) in fours.iter().enumerate() {
        let m = 4 * block;
        let (p, q, r, s) = (row(m), row(m + 1), row(m + 2), row(m + 3));
        let sum = |p: F, q: F, r: F, s: F| a * p + b * q + (c * r + d * s);
        for ((((y, p), q), r), s) in y.iter_mut().zip(p.0).zip(q.0).zip(r.0).zip(s.0) {
            let mut out = *y;
            for i in 0..LANES {
                out[i] += sum(p[i], q[i], r[i], s[i]);
            }
            *y = out;
        }
        for (i, y) in y_rest.iter_mut().enumerate() {
            *y += sum(p.1[i], q.1[i], r.1[i], s.1[i]);
        }
    }
    for (m, &weight) in singles.iter().enumerate() {
        let (x, x_rest) = row(4 * fours.len() + m);
        each(y.as_flattened_mut(), x.as_flattened(), |y, x| y + weight * x);
        each(y_rest, x_rest, |y, x| y + weight * x);
    }
}

/// row m += weights[m] · x, where a row starts every `stride` numbers.
#[inline(always)]
pub(crate) fn add_to_rows<F: Float>(rows: &mut [F], weights: &[F], x: &[F], stride: usize) {
    for (row, &weight) in rows.chunks_mut(stride).zip(weights) {
        each(row, x, |y, x| y + weight * x);
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
