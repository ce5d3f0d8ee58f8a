//! The gradient of a loss over log-probabilities, computed in shards.
//!
//! ```text
//! each shard    log-probabilities of its rows, with a graph of its own
//! once          the loss of all log-probabilities, and its gradient g = ∂L/∂log π (B, T)
//! each shard    backward of Σ log π · g over its rows:  ∂L/∂θ = Σ g · ∂log π/∂θ
//! once          the sum of the shards' gradients, in the order of the shards
//! ```
//!
//! The loss sees the whole batch, however the batch was cut. Means over sequences, tokens
//! or groups, every metric and every check are therefore those of the batch in one piece,
//! for any loss; averaging the losses of unequal parts would change what is averaged.
//!
//! A shard of several pieces scores them twice: first for their values, then one after
//! the other for their gradients. That costs one more forward pass, and no more than one
//! piece of the shard has a graph in memory.
//!
//! Left out: machines. Over several of them the two sums in the middle become an
//! exchange, and the rest stays as it is.

use crate::{Result, gradients, log_prob::Scores, mask, shards, variables::Variables};
use anyhow::{Context, ensure};
use candle_core::{Tensor, Var, backprop::GradStore};

/// The gradients of a loss with respect to all `variables`, and what else the loss says.
///
/// `parts` has the pieces of each shard; `score` gives the log-probabilities (b, T) of
/// one piece, with a gradient; `loss` reads those of the whole batch (B, T).
///
/// # Errors
/// What `score` or `loss` refuse, and what [`gradients::of`] refuses, for each piece.
// ANCHOR: in_shards
pub fn in_shards<Part: Sync, M>(
    parts: &[Vec<Part>],
    variables: &Variables,
    score: impl Fn(&Part) -> Result<Scores> + Sync,
    loss: impl FnOnce(&Scores) -> Result<(Tensor, M)>,
) -> Result<(GradStore, M)> {
    let scored = shards::run(parts.len(), |shard| match &parts[shard][..] {
        [whole] => score(whole),
        pieces => joined(pieces.iter().map(|piece| Ok(detached(&score(piece)?)))),
    })?;
    let all = joined(scored.iter().map(|scores| Ok(detached(scores))))?;
    let leaf = Var::from_tensor(&all.log_probs)?;
    let (loss, said) = loss(&Scores { log_probs: leaf.as_tensor().clone(), ..all })?;
    let named = Variables::from([("log_probs".to_string(), leaf.clone())]);
    let weights = gradients::of(&loss, &named)?.remove(&leaf).context("no gradient")?;

    let starts = starts(scored.iter().map(|scores| &scores.log_probs))?;
    let sums = shards::run(parts.len(), |shard| {
        let mut sum = GradStore::default();
        let mut row = starts[shard];
        for piece in &parts[shard] {
            let log_probs = match parts[shard].len() {
                1 => scored[shard].log_probs.clone(),
                _ => score(piece)?.log_probs,
            };
            let rows = log_probs.dim(0)?;
            let weights = weights.narrow(0, row, rows)?;
            sum.extend(of_weighted(&log_probs, &weights, variables)?)?;
            row += rows;
        }
        Ok(sum)
    })?;
    let mut total = GradStore::default();
    sums.into_iter().try_for_each(|sum| total.extend(sum))?;
    Ok((total, said))
}
// ANCHOR_END: in_shards

/// The gradients of Σ log π · weight, of the variables only: a store also holds what the
/// backward pass left behind.
fn of_weighted(
    log_probs: &Tensor,
    weights: &Tensor,
    variables: &Variables,
) -> Result<GradStore> {
    // Where the weight is 0, at padding, the log-probability may be anything.
    let counted = mask::keep(log_probs, &weights.ne(0.0)?)?;
    let mut all = gradients::of(&(counted * weights)?.sum_all()?, variables)?;
    let mut kept = GradStore::default();
    for variable in variables.values() {
        all.remove(variable).and_then(|gradient| kept.insert(variable, gradient));
    }
    Ok(kept)
}

fn detached(scores: &Scores) -> Scores {
    Scores { log_probs: scores.log_probs.detach(), entropy: scores.entropy.clone() }
}

/// Rows after rows. There is an entropy where all have one.
fn joined(parts: impl Iterator<Item = Result<Scores>>) -> Result<Scores> {
    let parts = parts.collect::<Result<Vec<_>>>()?;
    ensure!(!parts.is_empty(), "there is nothing to score");
    let log_probs: Vec<_> = parts.iter().map(|scores| &scores.log_probs).collect();
    let entropies: Option<Vec<_>> = parts.iter().map(|s| s.entropy.as_ref()).collect();
    Ok(Scores {
        log_probs: Tensor::cat(&log_probs, 0)?,
        entropy: entropies.map(|all| Tensor::cat(&all, 0)).transpose()?,
    })
}

/// The row at which each of these tensors starts when they are joined.
fn starts<'a>(parts: impl Iterator<Item = &'a Tensor>) -> Result<Vec<usize>> {
    let mut next = 0;
    let start = |part: &Tensor| {
        let start = next;
        next += part.dim(0)?;
        Ok(start)
    };
    parts.map(start).collect()
}
