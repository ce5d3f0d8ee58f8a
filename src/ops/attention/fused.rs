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
use crate::ops::float::{
    Float, LANES, NullaryFnOnce, add_rows, add_to_rows, dot, each, map, slice, softmax,
    turn, wide, with_slices,
};
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
                let pass = Pass { op, q, k, v, cos, sin };
                F::to_cpu_storage_owned(wide(Forward(pass)))
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
                |[q, k, v, g, cos, sin]| wide(Backward(Pass { op, q, k, v, cos, sin }, g)),
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

/// How many keys are computed for the query at this position: all that it may see, and
/// some more to fill the lanes.
#[inline(always)]
fn lanes(position: usize) -> usize {
    (position + 1).next_multiple_of(LANES)
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

/// q (N, H · d) → what is seen (N, H · d).
struct Forward<'a, F>(Pass<'a, F>);

impl<F: Float> NullaryFnOnce for Forward<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn call(self) -> Vec<F> {
        self.0.forward()
    }
}

/// With ∂L/∂seen (N, H · d) → the gradients of q, k and v.
struct Backward<'a, F>(Pass<'a, F>, &'a [F]);

impl<F: Float> NullaryFnOnce for Backward<'_, F> {
    type Output = [Vec<F>; 3];

    #[inline(always)]
    fn call(self) -> [Vec<F>; 3] {
        self.0.backward(self.1)
    }
}

/// Neighbouring tokens: `count` of them from `row`, the first at `position`.
#[derive(Clone, Copy)]
struct Segment {
    row: usize,
    position: usize,
    count: usize,
}

/// The keys and values that one head sees, by position: room for S of them, L + T rounded
/// up to whole lanes. Behind the last stand zeros or what was there before.
struct Seen<F> {
    /// Turned keys (S, d), and the same as (d, S).
    keys: Vec<F>,
    keys_t: Vec<F>,
    values: Vec<F>,
    values_t: Vec<F>,
    span: usize,
}

impl<F: Float> Pass<'_, F> {
    #[inline(always)]
    fn head_dim(&self) -> usize {
        self.cos.len() * 2 / (self.op.attention.tree.prompt + self.op.attention.tree.branch)
    }

    /// The prompt p, then its branches.
    #[inline(always)]
    fn segments(&self, p: usize) -> impl Iterator<Item = Segment> {
        let tree = self.op.attention.tree;
        let Tree { prompt, branch, .. } = tree;
        let first = Segment { row: p * prompt, position: 0, count: prompt };
        let branch =
            move |b| Segment { row: tree.row(p, b), position: prompt, count: branch };
        std::iter::once(first).chain((0..tree.branches).map(branch))
    }

    /// Every prompt with every head of the keys.
    #[inline(always)]
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let (prompts, heads) = (self.op.attention.tree.prompts, self.op.attention.kv_heads);
        (0..prompts).flat_map(move |p| (0..heads).map(move |kv| (p, kv)))
    }

    /// The heads of the queries that read this head of the keys.
    #[inline(always)]
    fn readers(&self, kv: usize) -> std::ops::Range<usize> {
        let group = self.op.attention.heads / self.op.attention.kv_heads;
        kv * group..(kv + 1) * group
    }

    #[inline(always)]
    fn empty(&self) -> Seen<F> {
        let tree = self.op.attention.tree;
        let span = (tree.prompt + tree.branch).next_multiple_of(LANES);
        let zeros = || vec![F::zero(); span * self.head_dim()];
        let [keys, keys_t, values, values_t] = [zeros(), zeros(), zeros(), zeros()];
        Seen { keys, keys_t, values, values_t, span }
    }

    /// y = x turned by the angles of a position, or back.
    #[inline(always)]
    fn turn(&self, x: &[F], y: &mut [F], position: usize, back: bool) {
        let half = x.len() / 2;
        let angles = position * half..(position + 1) * half;
        let sign = if back { F::zero() - F::one() } else { F::one() };
        turn(x, y, [&self.cos[angles.clone()], &self.sin[angles]], sign);
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
            let rows = seen.keys_t.chunks_exact_mut(span);
            rows.zip(&seen.keys[j * d..]).for_each(|(row, &x)| row[j] = x);
            let rows = seen.values_t.chunks_exact_mut(span);
            rows.zip(&seen.values[j * d..]).for_each(|(row, &x)| row[j] = x);
        }
    }

    /// p_ij for all j: 0 where the token at `position` may not look. `query` gets q/√d,
    /// turned.
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
        map(query, |x| x * scale);
        weights.fill(F::zero());
        add_rows(weights, query, &seen.keys_t, seen.span);
        let lowest = F::from_f64(f64::NEG_INFINITY);
        weights[position + 1..].fill(lowest);
        if !self.op.mask.is_empty() {
            let mask = &self.op.mask[p * self.op.attention.tree.prompt..];
            let mask = &mask[..self.op.attention.tree.prompt];
            for (weight, _) in weights.iter_mut().zip(mask).filter(|(_, may)| !**may) {
                *weight = lowest;
            }
        }
        softmax(weights);
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
                    let weights = &mut weights[..lanes(position)];
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
                    let width = lanes(position);
                    let (weights, slopes) = (&mut weights[..width], &mut slopes[..width]);
                    self.weigh(&seen, (p, at, position), &mut query, weights);
                    let g = &gradient[at..at + d];
                    slopes.fill(F::zero());
                    add_rows(slopes, g, &seen.values_t, seen.span);
                    let mean: F = dot(weights, slopes);
                    each(slopes, weights, |slope, weight| weight * (slope - mean));
                    to_query.fill(F::zero());
                    add_rows(&mut to_query, slopes, &seen.keys, d);
                    map(&mut to_query, |x| x * scale);
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
