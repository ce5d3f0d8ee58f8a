//! What is remembered of one round of sampling.
//!
//! A rollout holds B = P · G completions, G of them to each of P prompts. The G
//! completions of a prompt are neighbours: rows 0..G answer the first prompt, G..2G the
//! second. In any other order the rewards of one prompt would judge the answers to
//! another.
//!
//! `old_` is the policy that sampled; `ref_` is the one that the KL is measured against.
//!
//! Left out: the texts, because a reward reads them before anything is remembered.

use crate::{
    Result,
    advantage::{Scale, group_relative, groups, is_silent},
    mask,
    objective::Batch,
    shards::Split,
};
use anyhow::{bail, ensure};
use candle_core::{DType, Tensor};
use std::ops::Range;

/// B sampled completions of at most T tokens, scored.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// What was answered, one row for each completion: (B, …), ids (B, P) for a language
    /// model.
    pub prompts: Tensor,
    /// Which tokens of the prompts count, (B, P) of dtype `U8`; `None` where all do.
    pub prompt_mask: Option<Tensor>,
    /// The completions, ids (B, T) of dtype `U32`, padded on the right.
    pub tokens: Tensor,
    /// Which tokens count, (B, T) of dtype `U8`.
    pub mask: Tensor,
    /// log π_old of each token, (B, T), without a gradient.
    pub old_log_probs: Tensor,
    /// log π_ref of each token, (B, T), without a gradient.
    pub ref_log_probs: Option<Tensor>,
    /// Reward of each completion: B numbers.
    pub rewards: Vec<f64>,
    /// Advantage of each completion, (B).
    pub advantages: Tensor,
    /// G, completions for each prompt.
    pub group_size: usize,
}

impl Rollout {
    /// Remembers the completions `tokens` and compares their rewards within each group.
    ///
    /// # Errors
    /// Names the shapes that disagree, the completion without a token, the log-probability
    /// or reward that is not finite, and what
    /// [`group_relative`] refuses: a number of rewards that is not a multiple of
    /// `group_size`, a σ of one reward.
    ///
    /// ```
    /// use candle_core::{Device::Cpu, Tensor};
    /// use grpo::{advantage::Scale, mask, rollout::Rollout};
    /// let prompts = Tensor::new(&[[1u32], [1]], &Cpu).unwrap();
    /// let tokens = Tensor::new(&[[4u32, 0], [5, 4]], &Cpu).unwrap();
    /// let mask = mask::of_lengths(&[1, 2], 2, &Cpu).unwrap();
    /// let old = Tensor::new(&[[-0.5f64, 0.0], [-1.0, -0.5]], &Cpu).unwrap();
    /// let rewards = vec![1.0, 0.0];
    /// let rollout =
    ///     Rollout::new(prompts, tokens, mask, old, rewards, 2, Scale::Population).unwrap();
    /// assert_eq!(rollout.advantages.to_vec1::<f64>().unwrap(), [1.0, -1.0]);
    /// ```
    pub fn new(
        prompts: Tensor,
        tokens: Tensor,
        mask: Tensor,
        old_log_probs: Tensor,
        rewards: Vec<f64>,
        group_size: usize,
        scale: Scale,
    ) -> Result<Self> {
        let shape = tokens.dims();
        let &[rows, _] = shape else { bail!("tokens is {shape:?}; it must be (B, T)") };
        for (name, other) in [("mask", &mask), ("old_log_probs", &old_log_probs)] {
            let other = other.dims();
            ensure!(
                other == shape,
                "{name} is {other:?} and tokens {shape:?}; they must agree"
            );
        }
        for (name, count) in
            [("prompts", prompts.dims().first()), ("rewards", Some(&rewards.len()))]
        {
            let count = count.copied().unwrap_or(0);
            ensure!(count == rows, "there are {count} {name} for {rows} completions");
        }
        let dtype = mask.dtype();
        ensure!(dtype == DType::U8, "mask has dtype {dtype:?}; it must be U8");
        for (row, &length) in
            mask.to_dtype(DType::U32)?.sum(1)?.to_vec1::<u32>()?.iter().enumerate()
        {
            ensure!(length > 0, "completion {row} is empty: its mask is 0 everywhere");
        }
        let old_log_probs = old_log_probs.detach();
        let sum = mask::keep(&old_log_probs, &mask)?.to_dtype(DType::F64)?.sum_all()?;
        let sum = sum.to_scalar::<f64>()?;
        ensure!(sum.is_finite(), "old_log_probs sum to {sum}; each must be finite");
        let advantages = group_relative(&rewards, group_size, scale)?;
        let advantages =
            Tensor::new(advantages, tokens.device())?.to_dtype(old_log_probs.dtype())?;
        let (prompt_mask, ref_log_probs) = (None, None);
        Ok(Self {
            prompts,
            prompt_mask,
            tokens,
            mask,
            old_log_probs,
            ref_log_probs,
            rewards,
            advantages,
            group_size,
        })
    }

    /// Adds the mask (B, P) of prompts that are padded on the left.
    ///
    /// # Errors
    /// Says the two shapes when they disagree.
    pub fn with_prompt_mask(mut self, prompt_mask: Option<&Tensor>) -> Result<Self> {
        if let Some(mask) = prompt_mask {
            let (found, shape) = (mask.dims(), self.prompts.dims());
            ensure!(
                found == shape,
                "prompt_mask is {found:?} and prompts {shape:?}; they must agree"
            );
        }
        self.prompt_mask = prompt_mask.cloned();
        Ok(self)
    }

    /// Adds the log-probabilities (B, T) of the reference.
    ///
    /// # Errors
    /// Says the two shapes when they disagree.
    pub fn with_reference(mut self, ref_log_probs: &Tensor) -> Result<Self> {
        let (found, shape) = (ref_log_probs.dims(), self.tokens.dims());
        ensure!(
            found == shape,
            "ref_log_probs is {found:?} and tokens {shape:?}; they must agree"
        );
        self.ref_log_probs = Some(ref_log_probs.detach());
        Ok(self)
    }

    /// Prompt and completion in one row, as a language model reads them: ids (B, P + T).
    ///
    /// # Errors
    /// Passes on Candle's error when the prompts are not ids (B, P).
    pub fn sequences(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&[&self.prompts, &self.tokens], 1)?)
    }

    /// The groups with these numbers, in this order: a minibatch of whole groups.
    ///
    /// # Errors
    /// Names a group that does not exist.
    pub fn select(&self, chosen: &[usize]) -> Result<Self> {
        let count = self.rewards.len() / self.group_size;
        ensure!(!chosen.is_empty(), "no group was chosen; a rollout needs at least one");
        let mut rows = Vec::with_capacity(chosen.len() * self.group_size);
        for &group in chosen {
            ensure!(group < count, "there is no group {group}; there are {count}");
            rows.extend((0..self.group_size).map(|i| (group * self.group_size + i) as u32));
        }
        let rewards = rows.iter().map(|&row| self.rewards[row as usize]).collect();
        let rows = Tensor::new(rows, self.tokens.device())?;
        let take =
            |x: &Tensor| Ok::<_, anyhow::Error>(x.contiguous()?.index_select(&rows, 0)?);
        Ok(Self {
            prompts: take(&self.prompts)?,
            prompt_mask: self.prompt_mask.as_ref().map(take).transpose()?,
            tokens: take(&self.tokens)?,
            mask: take(&self.mask)?,
            old_log_probs: take(&self.old_log_probs)?,
            ref_log_probs: self.ref_log_probs.as_ref().map(take).transpose()?,
            rewards,
            advantages: take(&self.advantages)?,
            group_size: self.group_size,
        })
    }

    /// The pieces of each shard, all of them whole groups, in the order of the rollout.
    ///
    /// # Errors
    /// Passes on Candle's error.
    pub fn split(&self, split: Split) -> Result<Vec<Vec<Self>>> {
        let piece = |groups: Range<usize>| self.select(&groups.collect::<Vec<_>>());
        let shard = |pieces: Vec<_>| pieces.into_iter().map(piece).collect();
        let shards = split.of(self.rewards.len() / self.group_size);
        shards.into_iter().map(shard).collect()
    }

    /// The numbers of the groups whose rewards differ, for [`Rollout::select`].
    ///
    /// # Errors
    /// When `rewards` was changed to something that [`groups`] refuses.
    pub fn speaking_groups(&self) -> Result<Vec<usize>> {
        let groups = groups(&self.rewards, self.group_size)?.enumerate();
        Ok(groups.filter(|(_, group)| !is_silent(group)).map(|(i, _)| i).collect())
    }

    /// What an objective needs, given fresh log-probabilities (B, T).
    pub fn batch<'a>(&'a self, log_probs: &'a Tensor) -> Batch<'a> {
        Batch {
            old_log_probs: Some(&self.old_log_probs),
            ref_log_probs: self.ref_log_probs.as_ref(),
            group_size: self.group_size,
            ..Batch::new(log_probs, &self.advantages, &self.mask)
        }
    }
}
