//! Rotary attention over groups of completions.
//!
//! ```text
//! seen_i = Σ_j softmax_j(q_i · k_j / √d) v_j        q, k turned by their positions
//! ```
//!
//! The tokens of a [`Tree`]: each prompt sees itself, and each of its branches sees the
//! prompt and itself. So what belongs to the prompt is computed once for its group, and
//! the gradients of all branches meet in it. A token that may look at nothing, at padding,
//! sees something that means nothing.
//!
//! Left out: attention within a window, which the models here do not have.

mod cached;
mod fused;
pub(crate) mod slow;

use crate::Result;
use anyhow::ensure;
use candle_core::Tensor;

/// Which token stands where: P prompts of L tokens, each followed by G branches of T
/// tokens. In a flat tensor (N, …) the P · L rows of the prompts come first, then the
/// P · G · T of the branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// P
    pub prompts: usize,
    /// L
    pub prompt: usize,
    /// G
    pub branches: usize,
    /// T
    pub branch: usize,
}

impl Tree {
    /// N, all tokens.
    pub fn tokens(&self) -> usize {
        self.prompts * (self.prompt + self.branches * self.branch)
    }

    /// The row of token t of branch b of prompt p.
    pub(crate) fn row(&self, p: usize, b: usize) -> usize {
        self.prompts * self.prompt + (p * self.branches + b) * self.branch
    }
}

/// What is seen, and with how many heads.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Which tokens stand where.
    pub tree: Tree,
    /// H, heads of the queries.
    pub heads: usize,
    /// K, heads of the keys and values, each serving H / K neighbours.
    pub kv_heads: usize,
    /// Which tokens of the prompts may be seen, (P, L) of dtype `U8`; `None`: all.
    pub mask: Option<Tensor>,
    /// cos and sin of the angles of all L + T positions, (L + T, d / 2).
    pub turns: [Tensor; 2],
}

impl Attention {
    /// q (N, H · d), k and v (N, K · d) → (N, H · d).
    ///
    /// # Errors
    /// Says which shapes disagree.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if !super::fits(&[q, k, v, &self.turns[0], &self.turns[1]]) {
            return self.slow(q, k, v);
        }
        self.check(q, k, v)?;
        let op = fused::Fused { attention: self.clone(), mask: flags(self.mask.as_ref())? };
        Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)?)
    }

    /// [`Attention::forward`] in Candle's own operations, on any device.
    ///
    /// # Errors
    /// Says which shapes disagree.
    pub fn slow(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.check(q, k, v)?;
        Ok(slow::over_tree(self, q, k, v)?)
    }

    fn head_dim(&self) -> candle_core::Result<usize> {
        Ok(self.turns[0].dim(1)? * 2)
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let Self { tree, heads, kv_heads, .. } = *self;
        let (n, d) = (tree.tokens(), self.head_dim()?);
        for (name, x, heads) in [("q", q, heads), ("k", k, kv_heads), ("v", v, kv_heads)] {
            let (found, wanted) = (x.dims(), [n, heads * d]);
            ensure!(found == wanted, "{name} is {found:?}; it must be {wanted:?}");
        }
        if let Some(mask) = &self.mask {
            let (found, wanted) = (mask.dims(), [tree.prompts, tree.prompt]);
            ensure!(
                found == wanted,
                "mask is {found:?} and must be {wanted:?}, one number a token"
            );
        }
        let (found, wanted) = (self.turns[0].dims(), [tree.prompt + tree.branch, d / 2]);
        ensure!(found == wanted, "the angles are {found:?}; they must be {wanted:?}");
        Ok(())
    }
}

/// Attention of T new tokens in each of B rows to themselves and to those in a cache,
/// without a gradient.
#[derive(Debug, Clone)]
pub struct Cached {
    /// H, heads of the queries.
    pub heads: usize,
    /// K, heads of the keys and values, each serving H / K neighbours.
    pub kv_heads: usize,
    /// Which tokens may be seen, (B, S) of dtype `U8`; `None`: all.
    pub mask: Option<Tensor>,
    /// cos and sin of the angles of the new positions, (T, d / 2).
    pub turns: [Tensor; 2],
}

impl Cached {
    /// q (B · T, H · d), not turned yet; k and v (B, K, S, d), the keys turned, the new
    /// tokens last → (B · T, H · d).
    ///
    /// # Errors
    /// Says which shapes disagree.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        if !super::fits(&[q, k, v, &self.turns[0], &self.turns[1]]) {
            return self.slow(q, k, v);
        }
        self.check(q, k, v)?;
        let op = cached::Loops { attention: self, mask: flags(self.mask.as_ref())? };
        Ok(q.contiguous()?.apply_op3_no_bwd(k, v, &op)?)
    }

    /// [`Cached::forward`] in Candle's own operations, on any device.
    ///
    /// # Errors
    /// Says which shapes disagree.
    pub fn slow(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.check(q, k, v)?;
        Ok(slow::over_cache(self, q, k, v)?)
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let ((batch, kv_heads, _, d), new) = (k.dims4()?, self.turns[0].dim(0)?);
        let wanted = [batch * new, self.heads * d];
        ensure!(q.dims() == wanted, "q is {:?}; it must be {wanted:?}", q.dims());
        let found = (kv_heads, v.dims(), self.turns[0].dim(1)? * 2);
        let wanted = (self.kv_heads, k.dims(), d);
        ensure!(
            found == wanted,
            "keys, values and angles are {found:?}; they must be {wanted:?}"
        );
        Ok(())
    }
}

/// A mask as plain numbers; none where there is no mask.
fn flags(mask: Option<&Tensor>) -> Result<Vec<bool>> {
    let Some(mask) = mask else { return Ok(Vec::new()) };
    let flags = mask.ne(0u32)?.flatten_all()?.to_vec1::<u8>()?;
    Ok(flags.into_iter().map(|may| may != 0).collect())
}
