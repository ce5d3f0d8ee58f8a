//! The same in Candle's own operations, on any device.
//!
//! Left out: a mask that is kept from layer to layer, because it is small beside the rest.

use super::{Attention, Cached, Tree};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::rotary_emb;

/// What is added to the score of a token that may not be looked at. Not −∞: a row of
/// nothing but padding would be NaN. It is added twice to a token that is both ahead and
/// padding, and F16 ends at −65504.
fn hidden(dtype: DType) -> f64 {
    if dtype == DType::F16 { -3e4 } else { -1e9 }
}

/// x (rows · T, heads · d) → (rows, heads, T, d).
pub(crate) fn split(x: &Tensor, rows: usize, d: usize) -> Result<Tensor> {
    x.reshape((rows, x.dim(0)? / rows, (), d))?.transpose(1, 2)?.contiguous()
}

/// The way back.
fn join(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)?.flatten_to(1)
}

/// One attention over the prompts and one over the branches, which see copies of their
/// prompt's keys and values.
pub(super) fn over_tree(
    op: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    let Tree { prompts, prompt, branches, branch } = op.tree;
    let (rows, d) = (prompts * branches, op.head_dim()?);
    let form = (q.dtype(), q.device());
    let turned = |x: Tensor, start: usize| -> Result<Tensor> {
        let length = x.dim(2)?;
        let [cos, sin] = [0, 1].map(|i| op.turns[i].narrow(0, start, length));
        rotary_emb::rope_slow(&x, &cos?, &sin?)
    };
    let first = |x: &Tensor| split(&x.narrow(0, 0, prompts * prompt)?, prompts, d);
    let (own_k, own_v) = (turned(first(k)?, 0)?, first(v)?);
    let hidden = bias([prompts, 0, prompt], op.mask.as_ref(), form)?;
    let seen = attention([&turned(first(q)?, 0)?, &own_k, &own_v], hidden.as_ref())?;
    let seen = join(&seen)?;
    if rows * branch == 0 {
        return Ok(seen);
    }
    let rest = |x: &Tensor| split(&x.narrow(0, prompts * prompt, rows * branch)?, rows, d);
    let groups = (0..prompts as u32).flat_map(|p| std::iter::repeat_n(p, branches));
    let groups = Tensor::from_iter(groups, q.device())?;
    let spread = |x: &Tensor| x.contiguous()?.index_select(&groups, 0);
    let k = Tensor::cat(&[spread(&own_k)?, turned(rest(k)?, prompt)?], 2)?;
    let v = Tensor::cat(&[spread(&own_v)?, rest(v)?], 2)?;
    let mask = match &op.mask {
        Some(mask) => {
            let new = Tensor::ones((rows, branch), mask.dtype(), mask.device())?;
            Some(Tensor::cat(&[spread(mask)?, new], 1)?)
        }
        None => None,
    };
    let hidden = bias([rows, prompt, branch], mask.as_ref(), form)?;
    let q = turned(rest(q)?, prompt)?;
    let new = join(&attention([&q, &k, &v], hidden.as_ref())?)?;
    Tensor::cat(&[seen, new], 0)
}

/// The new tokens are the last of those in the cache.
pub(super) fn over_cache(
    op: &Cached,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor> {
    let (batch, _, total, d) = k.dims4()?;
    let q = split(q, batch, d)?;
    let new = q.dim(2)?;
    let q = rotary_emb::rope(&q, &op.turns[0], &op.turns[1])?;
    let form = (q.dtype(), q.device());
    let hidden = bias([batch, total - new, new], op.mask.as_ref(), form)?;
    join(&attention([&q, k, v], hidden.as_ref())?)
}

/// (1 or B, 1, T, S): 0 where a token may look, [`hidden`] where not, for B rows of T
/// tokens after `start` others, S in all, with the mask (B, S) of what is not padding.
/// `None` where every token may look at everything.
fn bias(
    [batch, start, length]: [usize; 3],
    mask: Option<&Tensor>,
    (dtype, device): (DType, &Device),
) -> Result<Option<Tensor>> {
    let total = start + length;
    let hidden = hidden(dtype);
    let ahead = |(t, s)| if s > start + t { hidden } else { 0.0 };
    let pairs = (0..length).flat_map(|t| (0..total).map(move |s| (t, s)));
    let causal = match length {
        1 => None,
        _ => {
            let values: Vec<f64> = pairs.map(ahead).collect();
            let causal = Tensor::from_vec(values, (1, 1, length, total), device)?;
            Some(causal.to_dtype(dtype)?)
        }
    };
    let Some(mask) = mask else { return Ok(causal) };
    let padding = mask.eq(0u32)?.to_dtype(dtype)?.affine(hidden, 0.0)?;
    let padding = padding.reshape((batch, 1, 1, total))?;
    Ok(Some(match causal {
        Some(causal) => causal.broadcast_add(&padding)?,
        None => padding,
    }))
}

/// softmax(q kᵀ / √head_dim + bias) v. Queries (B, H, T, head_dim); keys and values
/// (B, K, S, head_dim), each serving H / K neighbouring heads; bias broadcasts to
/// (B, H, T, S), 0 where a query may look and very negative where not.
/// → (B, H, T, head_dim)
fn attention([q, k, v]: [&Tensor; 3], bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, length, head_dim) = q.dims4()?;
    let (kv_heads, total) = (k.dim(1)?, k.dim(2)?);
    // The heads that share keys stand in one matrix: nothing is repeated in memory.
    let grouped = (batch, kv_heads, heads / kv_heads * length, head_dim);
    let q = (q.contiguous()?.reshape(grouped)? * (head_dim as f64).powf(-0.5))?;
    let scores = q.matmul(&k.transpose(2, 3)?)?.reshape((batch, heads, length, total))?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let weights = weights.reshape((batch, kv_heads, heads / kv_heads * length, total))?;
    weights.matmul(v)?.reshape((batch, heads, length, head_dim))
}
