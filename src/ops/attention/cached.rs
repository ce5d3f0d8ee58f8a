//! Attention of new tokens to keys and values in a cache, without a backward pass.
//!
//! A step of generation has one query for each row, and matrix products of one row are
//! mostly preparation. Here each query walks over its keys where they lie.
//!
//! Left out: sharing the keys of a prompt within its group, because each row's cache is
//! its own.

use super::Cached;
use crate::ops::float::{
    Float, NullaryFnOnce, add_rows, dot, map, slice, softmax, turn, wide, with_slices,
};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};

/// The operation, with the mask as numbers: B · S, empty where every token counts.
pub(super) struct Loops<'a> {
    pub attention: &'a Cached,
    pub mask: Vec<bool>,
}

impl CustomOp3 for Loops<'_> {
    fn name(&self) -> &'static str {
        "cached_attention"
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
            op: &Loops,
            (q, q_layout): (&CpuStorage, &Layout),
            [k, v]: [(&CpuStorage, &Layout); 2],
        ) -> Result<CpuStorage> {
            let (batch, _, total, d) = k.1.shape().dims4()?;
            let &[row, head, token, 1] = k.1.stride() else {
                bail!("the keys have strides {:?}; the last must be 1", k.1.stride())
            };
            if v.1.stride() != k.1.stride() || token != d {
                bail!("keys and values must lie alike, token after token");
            }
            let q = slice::<F>(q, q_layout)?;
            let k = &k.0.as_slice::<F>()?[k.1.start_offset()..];
            let v = &v.0.as_slice::<F>()?[v.1.start_offset()..];
            let [cos, sin] = &op.attention.turns;
            with_slices([cos, sin], |turns| {
                let place = Place { batch, total, d, row, head };
                F::to_cpu_storage_owned(wide(Pass { op, place, q, k, v, turns }))
            })
        }
        let seen = match q {
            CpuStorage::F32(_) => {
                run::<f32>(self, (q, q_layout), [(k, k_layout), (v, v_layout)])?
            }
            CpuStorage::F64(_) => {
                run::<f64>(self, (q, q_layout), [(k, k_layout), (v, v_layout)])?
            }
            _ => bail!("attention needs F32 or F64"),
        };
        Ok((seen, q_layout.shape().clone()))
    }
}

/// Where the keys and values are: B rows of S tokens of d numbers, and how many numbers
/// apart two rows and two heads begin.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    total: usize,
    d: usize,
    row: usize,
    head: usize,
}

/// The numbers of one pass: q (B · T, H · d), keys and values as the place says, cos and
/// sin (T, d / 2).
struct Pass<'a, F> {
    op: &'a Loops<'a>,
    place: Place,
    q: &'a [F],
    k: &'a [F],
    v: &'a [F],
    turns: [&'a [F]; 2],
}

impl<F: Float> NullaryFnOnce for Pass<'_, F> {
    type Output = Vec<F>;

    #[inline(always)]
    fn call(self) -> Vec<F> {
        let Place { batch, total, d, row, head } = self.place;
        let Cached { heads, kv_heads, .. } = *self.op.attention;
        let new = self.q.len() / (batch * heads * d);
        let scale = F::from_f64((d as f64).powf(-0.5));
        let lowest = F::from_f64(f64::NEG_INFINITY);
        let mut out = vec![F::zero(); self.q.len()];
        let (mut query, mut weights) = (vec![F::zero(); d], vec![F::zero(); total]);
        for at in 0..batch * new * heads {
            let (b, t, h) = (at / (new * heads), at / heads % new, at % heads);
            let start = b * row + h / (heads / kv_heads) * head;
            let seen = total - new + t + 1;
            let [cos, sin] = self.turns;
            let angles = t * d / 2..(t + 1) * d / 2;
            let angles = [&cos[angles.clone()], &sin[angles]];
            turn(&self.q[at * d..][..d], &mut query, angles, F::one());
            map(&mut query, |x| x * scale);
            let weights = &mut weights[..seen];
            for (weight, key) in weights.iter_mut().zip(self.k[start..].chunks_exact(d)) {
                *weight = dot(&query, key);
            }
            if !self.op.mask.is_empty() {
                let mask = &self.op.mask[b * total..][..seen];
                for (weight, _) in weights.iter_mut().zip(mask).filter(|(_, may)| !**may) {
                    *weight = lowest;
                }
            }
            softmax(weights);
            add_rows(&mut out[at * d..][..d], weights, &self.v[start..], d);
        }
        out
    }
}
