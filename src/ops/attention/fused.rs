//! The loops of attention, forward and backward.
//!
//! One prompt and one head of the keys at a time: its keys and values fit the cache, and
//! each query is a row against them. The backward pass computes the weights p again:
//!
//! ```text
//! ∂L/∂v_j += p_ij g_i     s_ij = p_ij (g_i · v_j − Σ_l p_il g_i · v_l) / √d
//! ∂L/∂q_i = Σ_j s_ij k_j     ∂L/∂k_j += s_ij q_i
//! ```
//!
//! Left out: blocks of keys as in FlashAttention, because a row of scores of a few
//! thousand tokens still fits the cache.

use super::{Attention, Tree};
use crate::ops::float::{Float, add_rows, add_to_rows, dot, slice, with_slices};
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

/// The operation, with the mask as numbers: P · L, empty where every token counts.
pub(super) struct Fused {
    pub attention: Attention,
    pub mask: Vec<bool>,
}

/// Gradients of q, k and v.
type Back = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<F: Float>(
            op: &Fused,
            all: [(&CpuStorage, &Layout); 3],
        ) -> Result<CpuStorage> {
            let [q, k, v] = all.map(|(storage, layout)| slice::<F>(storage, layout));
            let [cos, sin] = &op.attention.turns;
            let (q, k, v) = (q?, k?, v?);
            with_slices([cos, sin], |[cos, sin]| {
                F::to_cpu_storage_owned(Pass { op, q, k, v, cos, sin }.forward())
            })
        }
        let all = [(q, q_layout), (k, k_layout), (v, v_layout)];
        let seen = match q {
            CpuStorage::F32(_) => run::<f32>(self, all)?,
            CpuStorage::F64(_) => run::<f64>(self, all)?,
            _ => bail!("attention needs F32 or F64"),
        };
        Ok((seen, q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _seen: &Tensor,
        gradient: &Tensor,
    ) -> Result<Back> {
        let gradient = gradient.contiguous()?;
        fn run<F: Float>(op: &Fused, all: [&Tensor; 4]) -> Result<[Vec<F>; 3]> {
            let [q, k, v, g] = all;
            with_slices(
                [q, k, v, g, &op.attention.turns[0], &op.attention.turns[1]],
                |[q, k, v, g, cos, sin]| Pass { op, q, k, v, cos, sin }.backward(g),
            )
        }
        fn like<F: Float>(x: &Tensor, numbers: Vec<F>) -> Result<Option<Tensor>> {
            Ok(Some(Tensor::from_vec(numbers, x.shape(), x.device())?))
        }
        fn all<F: Float>([q, k, v]: [&Tensor; 3], [a, b, c]: [Vec<F>; 3]) -> Result<Back> {
            Ok((like(q, a)?, like(k, b)?, like(v, c)?))
        }
        let tensors = [q, k, v, &gradient];
        match q.dtype() {
            DType::F32 => all([q, k, v], run::<f32>(self, tensors)?),
            _ => all([q, k, v], run::<f64>(self, tensors)?),
        }
    }
}

/// The numbers of one pass.
struct Pass<'a, F> {
    op: &'a Fused,
    q: &'a [F],
    k: &'a [F],
    v: &'a [F],
    cos: &'a [F],
    sin: &'a [F],
}

/// Neighbouring tokens: `count` of them from `row`, the first at `position`.
#[derive(Clone, Copy)]
struct Segment {
    row: usize,
    position: usize,
    count: usize,
}

/// The keys and values that one head sees, S = L + T of them, by position.
struct Seen<F> {
    /// Turned keys (S, d), and the same as (d, S).
    keys: Vec<F>,
    keys_t: Vec<F>,
    values: Vec<F>,
    values_t: Vec<F>,
    span: usize,
}

impl<F: Float> Pass<'_, F> {
    fn head_dim(&self) -> usize {
        self.cos.len() * 2 / (self.op.attention.tree.prompt + self.op.attention.tree.branch)
    }

    /// The prompt p, then its branches.
    fn segments(&self, p: usize) -> impl Iterator<Item = Segment> {
        let tree = self.op.attention.tree;
        let Tree { prompt, branch, .. } = tree;
        let first = Segment { row: p * prompt, position: 0, count: prompt };
        let branch =
            move |b| Segment { row: tree.row(p, b), position: prompt, count: branch };
        std::iter::once(first).chain((0..tree.branches).map(branch))
    }

    /// Every prompt with every head of the keys.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let (prompts, heads) = (self.op.attention.tree.prompts, self.op.attention.kv_heads);
        (0..prompts).flat_map(move |p| (0..heads).map(move |kv| (p, kv)))
    }

    /// The heads of the queries that read this head of the keys.
    fn readers(&self, kv: usize) -> std::ops::Range<usize> {
        let group = self.op.attention.heads / self.op.attention.kv_heads;
        kv * group..(kv + 1) * group
    }

    fn empty(&self) -> Seen<F> {
        let span = self.op.attention.tree.prompt + self.op.attention.tree.branch;
        let zeros = || vec![F::zero(); span * self.head_dim()];
        let [keys, keys_t, values, values_t] = [zeros(), zeros(), zeros(), zeros()];
        Seen { keys, keys_t, values, values_t, span }
    }

    /// y = x turned by the angles of a position, or back.
    #[inline(always)]
    fn turn(&self, x: &[F], y: &mut [F], position: usize, back: bool) {
        let half = x.len() / 2;
        let (cos, sin) =
            (&self.cos[position * half..][..half], &self.sin[position * half..]);
        let sign = if back { F::zero() - F::one() } else { F::one() };
        let (x1, x2) = x.split_at(half);
        let (y1, y2) = y.split_at_mut(half);
        for i in 0..half {
            let sin = sin[i] * sign;
            y1[i] = x1[i] * cos[i] - x2[i] * sin;
            y2[i] = x1[i] * sin + x2[i] * cos[i];
        }
    }

    /// Puts the keys and values of a segment where its positions are.
    #[inline(always)]
    fn load(&self, seen: &mut Seen<F>, segment: Segment, kv: usize) {
        let (d, span) = (self.head_dim(), seen.span);
        for i in 0..segment.count {
            let at = ((segment.row + i) * self.op.attention.kv_heads + kv) * d;
            let j = segment.position + i;
            self.turn(&self.k[at..at + d], &mut seen.keys[j * d..][..d], j, false);
            seen.values[j * d..][..d].copy_from_slice(&self.v[at..at + d]);
            for x in 0..d {
                seen.keys_t[x * span + j] = seen.keys[j * d + x];
                seen.values_t[x * span + j] = seen.values[j * d + x];
            }
        }
    }

    /// p_ij for all j that the token at `position` may see; `query` gets q/√d, turned.
    #[inline(always)]
    fn weigh(
        &self,
        seen: &Seen<F>,
        (p, at, position): (usize, usize, usize),
        query: &mut [F],
        weights: &mut [F],
    ) {
        let d = query.len();
        self.turn(&self.q[at..at + d], query, position, false);
        let scale = F::from_f64((d as f64).powf(-0.5));
        query.iter_mut().for_each(|x| *x *= scale);
        weights.fill(F::zero());
        add_rows(weights, query, &seen.keys_t, seen.span);
        let length = self.op.attention.tree.prompt;
        let mask = match self.op.mask.is_empty() {
            true => &[][..],
            false => &self.op.mask[p * length..][..length],
        };
        let lowest = F::from_f64(f64::NEG_INFINITY);
        for (weight, _) in weights.iter_mut().zip(mask).filter(|(_, may)| !**may) {
            *weight = lowest;
        }
        let max = weights.iter().fold(lowest, |max, &x| if x > max { x } else { max });
        weights.iter_mut().for_each(|x| *x = (*x - max).exp());
        for (weight, _) in weights.iter_mut().zip(mask).filter(|(_, may)| !**may) {
            *weight = F::zero();
        }
        let sum = weights.iter().fold(F::zero(), |sum, &x| sum + x);
        let share = if sum == F::zero() { sum } else { F::one() / sum };
        weights.iter_mut().for_each(|x| *x *= share);
    }

    #[inline(always)]
    fn forward(&self) -> Vec<F> {
        let (d, heads) = (self.head_dim(), self.op.attention.heads);
        let mut out = vec![F::zero(); self.q.len()];
        let mut seen = self.empty();
        let (mut query, mut weights) = (vec![F::zero(); d], vec![F::zero(); seen.span]);
        for (p, kv) in self.pairs() {
            for segment in self.segments(p) {
                self.load(&mut seen, segment, kv);
                for (head, i) in
                    self.readers(kv).flat_map(|h| (0..segment.count).map(move |i| (h, i)))
                {
                    let at = ((segment.row + i) * heads + head) * d;
                    let position = segment.position + i;
                    let weights = &mut weights[..=position];
                    self.weigh(&seen, (p, at, position), &mut query, weights);
                    add_rows(&mut out[at..at + d], weights, &seen.values, d);
                }
            }
        }
        out
    }

    #[inline(always)]
    fn backward(&self, gradient: &[F]) -> [Vec<F>; 3] {
        let (d, heads) = (self.head_dim(), self.op.attention.heads);
        let zeros = |n: usize| vec![F::zero(); n];
        let (mut to_q, mut to_k, mut to_v) =
            (zeros(self.q.len()), zeros(self.k.len()), zeros(self.v.len()));
        let mut seen = self.empty();
        let (mut query, mut to_query) = (zeros(d), zeros(d));
        let (mut weights, mut slopes) = (zeros(seen.span), zeros(seen.span));
        let (mut to_keys, mut to_values) = (zeros(seen.span * d), zeros(seen.span * d));
        let scale = F::from_f64((d as f64).powf(-0.5));
        for (p, kv) in self.pairs() {
            to_keys.fill(F::zero());
            to_values.fill(F::zero());
            for segment in self.segments(p) {
                self.load(&mut seen, segment, kv);
                for (head, i) in
                    self.readers(kv).flat_map(|h| (0..segment.count).map(move |i| (h, i)))
                {
                    let at = ((segment.row + i) * heads + head) * d;
                    let position = segment.position + i;
                    let (weights, slopes) =
                        (&mut weights[..=position], &mut slopes[..=position]);
                    self.weigh(&seen, (p, at, position), &mut query, weights);
                    let g = &gradient[at..at + d];
                    slopes.fill(F::zero());
                    add_rows(slopes, g, &seen.values_t, seen.span);
                    let mean = dot(weights, slopes);
                    for (slope, &weight) in slopes.iter_mut().zip(weights.iter()) {
                        *slope = weight * (*slope - mean);
                    }
                    to_query.fill(F::zero());
                    add_rows(&mut to_query, slopes, &seen.keys, d);
                    to_query.iter_mut().for_each(|x| *x *= scale);
                    self.turn(&to_query, &mut to_q[at..at + d], position, true);
                    add_to_rows(&mut to_keys, slopes, &query, d);
                    add_to_rows(&mut to_values, weights, g, d);
                }
                // The prompt's go on to grow with every branch.
                if segment.position > 0 {
                    self.store(
                        segment,
                        kv,
                        [&mut to_keys, &mut to_values],
                        [&mut to_k, &mut to_v],
                    );
                }
            }
            let prompt = Segment {
                row: p * self.op.attention.tree.prompt,
                position: 0,
                count: self.op.attention.tree.prompt,
            };
            self.store(prompt, kv, [&mut to_keys, &mut to_values], [&mut to_k, &mut to_v]);
        }
        [to_q, to_k, to_v]
    }

    /// Writes the gradients of a segment's keys and values, and empties them.
    #[inline(always)]
    fn store(
        &self,
        segment: Segment,
        kv: usize,
        from: [&mut Vec<F>; 2],
        to: [&mut Vec<F>; 2],
    ) {
        let d = self.head_dim();
        let ([keys, values], [to_k, to_v]) = (from, to);
        for i in 0..segment.count {
            let at = ((segment.row + i) * self.op.attention.kv_heads + kv) * d;
            let j = segment.position + i;
            self.turn(&keys[j * d..][..d], &mut to_k[at..at + d], j, true);
            to_v[at..at + d].copy_from_slice(&values[j * d..][..d]);
            keys[j * d..][..d].fill(F::zero());
            values[j * d..][..d].fill(F::zero());
        }
    }
}
