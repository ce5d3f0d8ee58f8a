//! A small model for a small task: the decoder, the characters it reads and writes, and
//! how long it may talk.
//!
//! 205,000 parameters, two layers: small enough to train on a laptop while you wait,
//! large enough to add with carries.
//!
//! Left out: sizes to choose from. One that works is enough for the book.

use crate::{
    Result,
    lm::{
        config::Config,
        decoder::Decoder,
        generate::{Completions, Settings, Streams, generate},
        tokenizer::Tokenizer,
    },
    sampling::Sampler,
    task::{END, Problem, Task},
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device};
use rand::rngs::StdRng;

/// How many parts a batch is cut into: a setting of the model, since it changes the last
/// digit of what is learnt. See [`crate::shards`].
pub const SHARDS: usize = 2;
/// The most tokens of a prompt and its completion together.
pub const CONTEXT: usize = 48;

/// A model that learns a task.
pub struct Student {
    /// The model.
    pub decoder: Decoder,
    /// Its characters.
    pub tokenizer: Tokenizer,
    /// The id of [`END`]. It also fills the rows, which is safe here: lengths decide what
    /// counts.
    pub end: u32,
    /// The most tokens of a completion.
    pub max_tokens: usize,
}

impl Student {
    /// A student with fresh weights, who knows the characters of the task.
    ///
    /// # Errors
    /// Passes on Candle's error when the weights cannot be made.
    ///
    /// ```
    /// use candle_core::Device::Cpu;
    /// use grpo::{lm::student::Student, policy::Policy, seed, task::carry, variables};
    /// let student = Student::new(&carry::TASK, &mut seed::rng(0), &Cpu).unwrap();
    /// assert_eq!(variables::count(student.decoder.variables()), 204_864);
    /// ```
    pub fn new(task: &Task, rng: &mut StdRng, device: &Device) -> Result<Self> {
        Self::knowing(task.characters, task, rng, device)
    }

    /// The same, for a student who knows these characters.
    ///
    /// # Errors
    /// Names the character of the task that is not among them.
    pub fn knowing(
        characters: &str,
        task: &Task,
        rng: &mut StdRng,
        device: &Device,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::characters(&[END], characters)?;
        let config = config(tokenizer.size(), tokenizer.id(END)?);
        Self::of(task, Decoder::new(&config, rng, DType::F32, device)?, tokenizer)
    }

    /// A student of this model and tokenizer.
    ///
    /// # Errors
    /// Names the character of the task that is not one token of the tokenizer, and a token
    /// that the model does not have.
    pub fn of(task: &Task, decoder: Decoder, tokenizer: Tokenizer) -> Result<Self> {
        let needs = || format!("the task {} needs a token that is missing", task.name);
        let end = tokenizer.id(END).with_context(needs)?;
        for character in task.characters.chars() {
            let id = tokenizer.id(&character.to_string()).with_context(needs)?;
            let size = decoder.config().vocab_size;
            ensure!(
                (id as usize) < size,
                "`{character}` is the token {id}; the model knows 0 to {}",
                size - 1
            );
        }
        Ok(Self { decoder, tokenizer, end, max_tokens: task.max_tokens })
    }

    /// Another student with the same weights, who then goes their own way.
    ///
    /// # Errors
    /// Passes on Candle's error when there is no memory for it.
    pub fn copy(&self) -> Result<Self> {
        let tokenizer = self.tokenizer.clone();
        Ok(Self { decoder: self.decoder.frozen()?, tokenizer, ..*self })
    }

    /// Samples `group_size` completions to each problem.
    ///
    /// # Errors
    /// Those of the tokenizer and of [`generate`].
    pub fn answer(
        &self,
        problems: &[Problem],
        group_size: usize,
        sampler: Sampler,
        streams: Streams,
    ) -> Result<Completions> {
        let prompts = problems.iter().map(|problem| self.tokenizer.encode(&problem.prompt));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let settings = Settings {
            group_size,
            max_tokens: self.max_tokens,
            sampler,
            stop: vec![self.end],
            pad: self.end,
            shards: SHARDS,
        };
        generate(&self.decoder, &prompts, &settings, streams)
    }

    /// The text of each completion, with [`END`] where it ended by itself.
    ///
    /// # Errors
    /// Passes on the tokenizer's error.
    pub fn texts(&self, completions: &Completions) -> Result<Vec<String>> {
        completions.ids()?.iter().map(|ids| self.tokenizer.decode(ids)).collect()
    }
}

/// Qwen2's design in small.
fn config(vocab_size: usize, end: u32) -> Config {
    Config {
        vocab_size,
        hidden_size: 96,
        intermediate_size: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        context: CONTEXT,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        qkv_bias: true,
        qk_norm: false,
        tied: true,
        eos: vec![end],
    }
}
