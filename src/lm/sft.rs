//! Supervised fine-tuning: make what a teacher wrote likely.
//!
//! ```text
//! loss = − mean of log π over the tokens of the completions
//! ```
//!
//! The prompt is read and not learnt: only completions have a loss. [`END`] is one of
//! their tokens, and so stopping is learnt like everything else.
//!
//! Left out: epochs over a fixed set. The teacher writes as much as the student reads.

use crate::{
    Result, backward, gradients,
    lm::{
        generate::left_pad,
        student::{SHARDS, Student},
    },
    log_prob::Scores,
    mask,
    optim::{AdamW, warm_up_cosine},
    policy::Policy,
    shards,
    task::Demonstration,
};
use anyhow::Context;
use candle_core::{DType, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use std::ops::Range;

/// How to learn from demonstrations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Gradient steps.
    pub steps: usize,
    /// Demonstrations in each.
    pub batch: usize,
    /// The highest learning rate. It rises to this over the first `warm_up` steps, and
    /// falls to a tenth along a cosine.
    pub lr: f64,
    /// Steps until the learning rate is at its highest.
    pub warm_up: usize,
}

/// What the learning rate ends at, as a part of the highest.
const FLOOR: f64 = 0.1;
/// The gradient is scaled down to this norm where it is longer.
const MAX_NORM: f64 = 1.0;

/// The optimiser for fine-tuning, without weight decay.
///
/// # Errors
/// Those of [`AdamW::new`].
pub fn optimizer(student: &Student, lr: f64) -> Result<AdamW> {
    let settings =
        ParamsAdamW { lr, beta2: 0.99, weight_decay: 0.0, ..ParamsAdamW::default() };
    AdamW::new(student.decoder.variables(), settings)
}

// ANCHOR: step
/// Step number `step`, counted from 0, on these demonstrations. Returns the loss before
/// it, in nats a token.
///
/// # Errors
/// Those of the tokenizer, and of [`backward::in_shards`] and [`gradients::clip_norm`].
pub fn step(
    student: &Student,
    optimizer: &mut AdamW,
    shown: &[Demonstration],
    settings: &Settings,
    step: usize,
) -> Result<f64> {
    let Settings { steps, lr, warm_up, .. } = *settings;
    optimizer.set_learning_rate(lr * warm_up_cosine(step, warm_up, steps, FLOOR));
    let variables = student.decoder.variables();
    let batch = Batch::new(student, shown)?;
    let loss = |scores: &Scores| {
        let loss = loss(&scores.log_probs, &batch.mask)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok((loss, value))
    };
    let score = |part: &Batch| part.score(student);
    let (mut gradients, loss) =
        backward::in_shards(&batch.shards()?, variables, score, loss)?;
    gradients::clip_norm(&mut gradients, variables, MAX_NORM)?;
    optimizer.step(&gradients)?;
    Ok(loss)
}

/// Minus the mean of the log-probabilities (B, T) where the mask (B, T) is 1: a scalar.
fn loss(log_probs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok(mask::token_mean(log_probs, mask)?.neg()?)
}
// ANCHOR_END: step

/// Demonstrations as ids.
struct Batch {
    /// (B, P), padded on the left.
    prompts: Tensor,
    /// (B, P), where prompts are padded.
    prompt_mask: Option<Tensor>,
    /// (B, T), padded on the right.
    tokens: Tensor,
    /// (B, T).
    mask: Tensor,
}

impl Batch {
    fn new(student: &Student, shown: &[Demonstration]) -> Result<Self> {
        let Student { decoder, tokenizer, end, .. } = student;
        let encode = |text: fn(&Demonstration) -> &str| {
            shown.iter().map(|one| tokenizer.encode(text(one))).collect::<Result<Vec<_>>>()
        };
        let (prompts, completions) =
            (encode(|one| &one.prompt)?, encode(|one| &one.completion)?);
        let (prompts, prompt_mask) = left_pad(&prompts, *end, decoder.device())?;
        let lengths: Vec<usize> = completions.iter().map(Vec::len).collect();
        let width = lengths.iter().copied().max().context("there are no demonstrations")?;
        let padded = |mut ids: Vec<u32>| {
            ids.resize(width, *end);
            ids
        };
        let tokens: Vec<u32> = completions.into_iter().flat_map(padded).collect();
        let tokens = Tensor::from_vec(tokens, (lengths.len(), width), decoder.device())?;
        let mask = mask::of_lengths(&lengths, width, decoder.device())?;
        Ok(Self { prompts, prompt_mask, tokens, mask })
    }

    /// One part for each thread that may work on it.
    fn shards(&self) -> Result<Vec<Vec<Self>>> {
        let part = |rows: Range<usize>| {
            let take = |x: &Tensor| x.narrow(0, rows.start, rows.len())?.contiguous();
            Ok(vec![Self {
                prompts: take(&self.prompts)?,
                prompt_mask: self.prompt_mask.as_ref().map(take).transpose()?,
                tokens: take(&self.tokens)?,
                mask: take(&self.mask)?,
            }])
        };
        shards::cut(0..self.tokens.dim(0)?, SHARDS).into_iter().map(part).collect()
    }

    fn score(&self, student: &Student) -> Result<Scores> {
        let Self { prompts, prompt_mask, tokens, .. } = self;
        student.decoder.score(prompts, prompt_mask.as_ref(), tokens, 1.0)
    }
}

// ANCHOR: fit
/// All steps. `draw` writes the demonstrations of a step, `watch` sees its loss.
///
/// # Errors
/// Says in which step what went wrong.
pub fn fit(
    student: &Student,
    settings: &Settings,
    draw: impl Fn(usize) -> Result<Vec<Demonstration>>,
    mut watch: impl FnMut(usize, f64) -> Result<()>,
) -> Result<()> {
    let mut optimizer = optimizer(student, settings.lr)?;
    for number in 0..settings.steps {
        let mut one = || {
            let loss = step(student, &mut optimizer, &draw(number)?, settings, number)?;
            watch(number, loss)
        };
        one().with_context(|| format!("step {number} of fine-tuning"))?;
    }
    Ok(())
}
// ANCHOR_END: fit
