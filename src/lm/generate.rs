//! Completions: G to each prompt, all in one batch.
//!
//! ```text
//! encode the prompts, once each                  P rows, padded on the left
//! spread keys and values over the groups         B = P · G rows
//! until all have ended: draw a token for each row, feed it, drop the rows that ended
//! ```
//!
//! Each completion draws from a stream of its own, named by (step, prompt, completion).
//! How the prompts are split over batches, threads or machines then changes nothing but
//! the last digit of a log-probability.
//!
//! Left out: adding new prompts as rows become free, because a training step waits for
//! all its completions anyway.

use crate::{
    Result,
    lm::{
        cache::Cache,
        decoder::{Decoder, score_dtype},
    },
    mask,
    sampling::Sampler,
    seed, shards,
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use rand::rngs::StdRng;
use std::ops::Range;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// G, completions for each prompt.
    pub group_size: usize,
    /// The most tokens of a completion. One that has not ended by then is truncated.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: Sampler,
    /// Tokens that end a completion. They belong to it and are scored with it.
    pub stop: Vec<u32>,
    /// What fills the rows, on the left of prompts and on the right of completions. It
    /// may be one of `stop`: length decides what counts, never the token.
    pub pad: u32,
    /// How many parts the prompts are cut into, each a batch of its own: see
    /// [`crate::shards`].
    pub shards: usize,
}

/// Where the randomness comes from: completion `c` of the i-th prompt draws from
/// [`seed::stream`]`(seed, [step, first_prompt + i, c])`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// The seed of the run.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The number of the first prompt, where a part of a batch is generated.
    pub first_prompt: u64,
}

/// B = P · G completions of at most T tokens, those of one prompt side by side.
#[derive(Debug, Clone)]
pub struct Completions {
    /// The prompts, once for each completion, padded on the left: ids (B, L).
    pub prompts: Tensor,
    /// Which of their tokens count, (B, L) of dtype `U8`; `None` where all do.
    pub prompt_mask: Option<Tensor>,
    /// The completions, padded on the right: ids (B, T).
    pub tokens: Tensor,
    /// Which of their tokens count, (B, T) of dtype `U8`.
    pub mask: Tensor,
    /// log π of each token at the sampler's temperature, (B, T); 0 at padding.
    pub log_probs: Tensor,
    /// How many tokens each has.
    pub lengths: Vec<usize>,
    /// Which ones were cut off at `max_tokens`.
    pub truncated: Vec<bool>,
}

impl Completions {
    /// The ids of each completion, without padding.
    ///
    /// # Errors
    /// Passes on Candle's error.
    pub fn ids(&self) -> Result<Vec<Vec<u32>>> {
        let mut rows = self.tokens.to_vec2::<u32>()?;
        rows.iter_mut().zip(&self.lengths).for_each(|(row, &length)| row.truncate(length));
        Ok(rows)
    }
}

/// Samples completions of the prompts, which are ids of any lengths.
///
/// # Errors
/// Names the setting out of range, the empty prompt, or the longest one when it does not
/// fit the context; passes on what [`Sampler::draw`] refuses.
///
/// ```
/// use candle_core::{DType, Device};
/// use grpo::{lm::{folder, generate::{Settings, Streams, generate}}, sampling::Sampler};
/// # fn main() -> grpo::Result<()> {
/// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-qwen3");
/// let decoder = folder::read(folder.as_ref(), DType::F32, &Device::Cpu)?;
/// let sampler = Sampler::at(1.0);
/// let settings =
///     Settings { group_size: 2, max_tokens: 5, sampler, stop: vec![2], pad: 0, shards: 1 };
/// let streams = Streams { seed: 7, step: 0, first_prompt: 0 };
/// let sampled = generate(&decoder, &[vec![289, 267], vec![19]], &settings, streams)?;
/// assert_eq!(sampled.prompts.to_vec2::<u32>()?, [[289, 267], [289, 267], [0, 19], [0, 19]]);
/// // The same completions, scored in one pass.
/// let scores = decoder.score(&sampled.prompts, sampled.prompt_mask.as_ref(), &sampled.tokens, 1.0)?;
/// let difference = (scores.log_probs - &sampled.log_probs)?.abs()?;
/// assert!(grpo::mask::token_mean(&difference, &sampled.mask)?.to_scalar::<f32>()? < 1e-4);
/// # Ok(())
/// # }
/// ```
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    settings: &Settings,
    streams: Streams,
) -> Result<Completions> {
    check(decoder, prompts, settings)?;
    let device = decoder.device();
    let (padded, prompt_mask) = left_pad(prompts, settings.pad, device)?;
    let shards = shards::cut(0..prompts.len(), settings.shards);
    let rows = shards::run(shards.len(), |shard| {
        let part = |x: &Tensor| x.narrow(0, shards[shard].start, shards[shard].len());
        let mask = prompt_mask.as_ref().map(part).transpose()?;
        let rows = rows(shards[shard].clone(), settings.group_size, streams);
        complete(decoder, &part(&padded)?, mask.as_ref(), rows, settings)
    })?;
    let groups = (0..prompts.len() as u32)
        .flat_map(|prompt| std::iter::repeat_n(prompt, settings.group_size));
    let groups = Tensor::from_iter(groups, device)?;
    let prompt_mask = prompt_mask.map(|mask| mask.index_select(&groups, 0)).transpose()?;
    collect(
        rows.into_iter().flatten().collect(),
        padded.index_select(&groups, 0)?,
        prompt_mask,
        settings.pad,
        score_dtype(decoder.dtype()),
    )
}

/// Draws the completions of one shard: prompts (P, L) and their mask, P · G rows.
fn complete(
    decoder: &Decoder,
    prompts: &Tensor,
    prompt_mask: Option<&Tensor>,
    mut rows: Vec<Row>,
    settings: &Settings,
) -> Result<Vec<Row>> {
    let Settings { group_size, max_tokens, .. } = *settings;
    let (net, device) = (decoder.sampler(), decoder.device());
    let width = prompts.dim(1)?;
    let mut cache = Cache::new(decoder.config().layers, width);
    let hidden = net.over_cache(prompts, prompt_mask, &mut cache)?;
    let hidden = hidden.reshape((prompts.dim(0)?, width, ()))?;
    let mut logits = host(&net.head(&hidden.narrow(1, width - 1, 1)?.squeeze(1)?)?)?;
    logits = logits.into_iter().flat_map(|l| std::iter::repeat_n(l, group_size)).collect();

    let prompt_of: Vec<u32> = rows.iter().map(|row| row.prompt).collect();
    let prompt_of = Tensor::new(prompt_of, device)?;
    let capacity = width + max_tokens - 1;
    let mut cache = cache.rows(&prompt_of, capacity)?;
    let mut seen = match prompt_mask {
        Some(mask) => {
            let new = Tensor::ones((rows.len(), max_tokens - 1), DType::U8, device)?;
            Some(Tensor::cat(&[&mask.contiguous()?.index_select(&prompt_of, 0)?, &new], 1)?)
        }
        None => None,
    };

    // The rows of the batch, by number. One that has ended stays until a quarter have:
    // dropping a row copies the keys and values of all others.
    let mut batch: Vec<usize> = (0..rows.len()).collect();
    loop {
        for (&row, logits) in batch.iter().zip(&logits) {
            let row = &mut rows[row];
            row.draw(logits, settings)
                .with_context(|| format!("completion {}", row.number))?;
        }
        let running: Vec<u32> =
            (0..batch.len()).filter(|&i| !rows[batch[i]].ended).map(|i| i as u32).collect();
        if running.is_empty() {
            break;
        }
        if running.len() * 4 <= batch.len() * 3 {
            batch = running.iter().map(|&i| batch[i as usize]).collect();
            let running = Tensor::new(running, device)?;
            cache = cache.rows(&running, capacity)?;
            seen = seen.map(|seen| seen.index_select(&running, 0)).transpose()?;
        }
        let last = |&row: &usize| rows[row].tokens.last().copied().unwrap_or(settings.pad);
        let tokens: Vec<u32> = batch.iter().map(last).collect();
        let tokens = Tensor::from_vec(tokens, (batch.len(), 1), device)?;
        let mask =
            seen.as_ref().map(|seen| seen.narrow(1, 0, cache.length + 1)).transpose()?;
        logits =
            host(&net.head(&net.over_cache(&tokens, mask.as_ref(), &mut cache)?)?)?;
    }
    Ok(rows)
}

/// Prompts of any lengths in one tensor (P, L), padded on the left, and their mask
/// (P, L), or `None` where all have the same length.
///
/// # Errors
/// Names the empty prompt; refuses no prompts at all.
///
/// ```
/// use candle_core::Device;
/// let prompts = [vec![5, 6], vec![7]];
/// let (ids, mask) = grpo::lm::generate::left_pad(&prompts, 0, &Device::Cpu).unwrap();
/// assert_eq!(ids.to_vec2::<u32>().unwrap(), [[5, 6], [0, 7]]);
/// assert_eq!(mask.unwrap().to_vec2::<u8>().unwrap(), [[1, 1], [0, 1]]);
/// ```
pub fn left_pad(
    prompts: &[Vec<u32>],
    pad: u32,
    device: &Device,
) -> Result<(Tensor, Option<Tensor>)> {
    let width = prompts.iter().map(Vec::len).max().context("there are no prompts")?;
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (index, prompt) in prompts.iter().enumerate() {
        ensure!(
            !prompt.is_empty(),
            "prompt {index} has no tokens; it must have at least 1"
        );
        let missing = width - prompt.len();
        ids.extend(std::iter::repeat_n(pad, missing).chain(prompt.iter().copied()));
        mask.extend((0..width).map(|column| u8::from(column >= missing)));
    }
    let shape = (prompts.len(), width);
    let padded = mask.contains(&0);
    let mask = padded.then(|| Tensor::from_vec(mask, shape, device)).transpose()?;
    Ok((Tensor::from_vec(ids, shape, device)?, mask))
}

/// One completion as it grows.
struct Row {
    /// Among all completions.
    number: usize,
    /// Among the prompts of its shard.
    prompt: u32,
    rng: StdRng,
    tokens: Vec<u32>,
    log_probs: Vec<f64>,
    ended: bool,
    truncated: bool,
}

impl Row {
    fn draw(&mut self, logits: &[f64], settings: &Settings) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let (token, log_prob) = settings.sampler.draw(logits, &mut self.rng)?;
        self.tokens.push(token);
        self.log_probs.push(log_prob);
        let stopped = settings.stop.contains(&token);
        self.truncated = !stopped && self.tokens.len() == settings.max_tokens;
        self.ended = stopped || self.truncated;
        Ok(())
    }
}

fn rows(prompts: Range<usize>, group_size: usize, streams: Streams) -> Vec<Row> {
    let Streams { seed, step, first_prompt } = streams;
    let first = prompts.start;
    let row = |prompt: usize, completion: usize| Row {
        number: prompt * group_size + completion,
        prompt: (prompt - first) as u32,
        rng: seed::stream(seed, &[step, first_prompt + prompt as u64, completion as u64]),
        tokens: Vec::new(),
        log_probs: Vec::new(),
        ended: false,
        truncated: false,
    };
    prompts.flat_map(|p| (0..group_size).map(move |c| row(p, c))).collect()
}

fn check(decoder: &Decoder, prompts: &[Vec<u32>], settings: &Settings) -> Result<()> {
    let Settings { group_size, max_tokens, ref sampler, ref stop, pad, shards } = *settings;
    ensure!(group_size > 0, "group_size is 0; it must be at least 1");
    ensure!(shards > 0, "shards is 0; it must be at least 1");
    ensure!(max_tokens > 0, "max_tokens is 0; it must be at least 1");
    sampler.check()?;
    let (vocabulary, context) = (decoder.config().vocab_size, decoder.config().context);
    for (name, id) in stop.iter().map(|id| ("stop", *id)).chain([("pad", pad)]) {
        ensure!(
            (id as usize) < vocabulary,
            "{name} is the token {id}; the vocabulary has 0 to {}",
            vocabulary - 1
        );
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    ensure!(
        longest + max_tokens <= context,
        "a prompt of {longest} tokens and {max_tokens} new ones do not fit the context of {context}"
    );
    Ok(())
}

/// Logits (B, V) as plain numbers.
fn host(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(logits.to_dtype(DType::F64)?.to_vec2()?)
}

fn collect(
    rows: Vec<Row>,
    prompts: Tensor,
    prompt_mask: Option<Tensor>,
    pad: u32,
    dtype: DType,
) -> Result<Completions> {
    let device = prompts.device();
    let lengths: Vec<usize> = rows.iter().map(|row| row.tokens.len()).collect();
    let width = lengths.iter().copied().max().unwrap_or(0);
    let mut tokens = Vec::with_capacity(rows.len() * width);
    let mut log_probs = Vec::with_capacity(rows.len() * width);
    for row in &rows {
        let missing = width - row.tokens.len();
        tokens.extend(row.tokens.iter().copied().chain(std::iter::repeat_n(pad, missing)));
        log_probs
            .extend(row.log_probs.iter().copied().chain(std::iter::repeat_n(0.0, missing)));
    }
    let shape = (rows.len(), width);
    Ok(Completions {
        tokens: Tensor::from_vec(tokens, shape, device)?,
        mask: mask::of_lengths(&lengths, width, device)?,
        log_probs: Tensor::from_vec(log_probs, shape, device)?.to_dtype(dtype)?,
        truncated: rows.iter().map(|row| row.truncated).collect(),
        lengths,
        prompts,
        prompt_mask,
    })
}
