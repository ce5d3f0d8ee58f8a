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
    Result, gradients,
    lm::{generate::left_pad, student::Student},
    mask,
    optim::{AdamW, warm_up_cosine},
    policy::Policy,
    task::Demonstration,
};
use anyhow::{Context, ensure};
use candle_core::{DType, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};

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
/// Those of the tokenizer, and of [`gradients::of`] and [`gradients::clip_norm`].
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
    let loss = loss(student, shown)?;
    let mut gradients = gradients::of(&loss, variables)?;
    gradients::clip_norm(&mut gradients, variables, MAX_NORM)?;
    optimizer.step(&gradients)?;
    Ok(loss.to_dtype(DType::F64)?.to_scalar()?)
}

/// Minus the mean log-probability of the demonstrated tokens, a scalar.
///
/// # Errors
/// Those of the tokenizer; names a demonstration without a completion.
pub fn loss(student: &Student, shown: &[Demonstration]) -> Result<Tensor> {
    let Student { decoder, tokenizer, end, .. } = student;
    let encode = |text: fn(&Demonstration) -> &str| {
        shown.iter().map(|one| tokenizer.encode(text(one))).collect::<Result<Vec<_>>>()
    };
    let prompts = encode(|one| &one.prompt)?;
    let (prompts, prompt_mask) = left_pad(&prompts, *end, decoder.device())?;
    let (tokens, mask) =
        right_pad(&encode(|one| &one.completion)?, *end, decoder.device())?;
    let scores = decoder.score(&prompts, prompt_mask.as_ref(), &tokens, 1.0)?;
    Ok(mask::token_mean(&scores.log_probs, &mask)?.neg()?)
}
// ANCHOR_END: step

/// Completions of any lengths in one tensor (B, T), and their mask (B, T).
fn right_pad(
    completions: &[Vec<u32>],
    pad: u32,
    device: &candle_core::Device,
) -> Result<(Tensor, Tensor)> {
    let lengths: Vec<usize> = completions.iter().map(Vec::len).collect();
    let width = lengths.iter().copied().max().context("there are no demonstrations")?;
    ensure!(width > 0, "the demonstrations have no completions");
    let padded = |ids: &Vec<u32>| {
        let missing = width - ids.len();
        ids.iter().copied().chain(std::iter::repeat_n(pad, missing)).collect::<Vec<_>>()
    };
    let ids: Vec<u32> = completions.iter().flat_map(padded).collect();
    let tokens = Tensor::from_vec(ids, (completions.len(), width), device)?;
    Ok((tokens, mask::of_lengths(&lengths, width, device)?))
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
