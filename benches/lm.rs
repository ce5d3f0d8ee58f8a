//! The parts of a training step of a language model: 862,848 parameters, 8 prompts of 12
//! tokens, 8 completions of 24 tokens each.
//!
//! ```text
//! cargo bench --profile dev --bench lm              the table
//! cargo bench --profile dev --bench lm -- 20        the best of 20 rounds
//! cargo bench --profile dev --bench lm -- train     only parts of this name
//! python benches/lm_pytorch.py 20                   the same work in PyTorch
//! ```
//!
//! Every round takes all parts in turn, and a part's time is that of its best round: the
//! least disturbed. `floor` is nothing but the matrix products of a forward and backward
//! pass over all 64 · 35 tokens: what training would take if everything else were free and
//! no prompt was shared.

use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{
    Result,
    advantage::Scale,
    backward, gradients,
    lm::{
        config::Config,
        decoder::Decoder,
        generate::{Completions, Settings, Streams, generate},
    },
    log_prob::Scores,
    objective::{Kl, Objective, recipe},
    optim::AdamW,
    policy::Policy,
    rollout::Rollout,
    sampling::Sampler,
    seed,
    shards::{self, Split},
    update::{Steps, update_in_shards},
    variables,
};
use std::time::Instant;

const PROMPTS: usize = 8;
const GROUP: usize = 8;
const PROMPT: usize = 12;
const NEW: usize = 24;

fn decoder() -> Result<Decoder> {
    let config = Config {
        vocab_size: 64,
        hidden_size: 128,
        intermediate_size: 384,
        layers: 4,
        heads: 4,
        kv_heads: 4,
        head_dim: 32,
        context: PROMPT + NEW,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        qkv_bias: true,
        qk_norm: false,
        tied: true,
        eos: vec![0],
    };
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F32, &Cpu)?;
    assert_eq!(variables::count(decoder.variables()), 862_848);
    Ok(decoder)
}

fn sample(decoder: &Decoder, shards: usize) -> Result<Completions> {
    let prompt = |p: usize| (0..PROMPT).map(|t| ((7 * p + t) % 64) as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..PROMPTS).map(prompt).collect();
    let settings = Settings {
        group_size: GROUP,
        max_tokens: NEW,
        sampler: Sampler::at(1.0),
        // Nothing stops: every row runs to the end.
        stop: Vec::new(),
        pad: 0,
        shards,
    };
    generate(decoder, &prompts, &settings, Streams { seed: 0, step: 0, first_prompt: 0 })
}

fn rollout(sampled: &Completions) -> Result<Rollout> {
    let rewards = (0..PROMPTS * GROUP).map(|row| (row * 7 % 5) as f64).collect();
    let Completions { prompts, tokens, mask, log_probs, .. } = sampled.clone();
    Rollout::new(prompts, tokens, mask, log_probs, rewards, GROUP, Scale::Trl)
}

fn score(decoder: &Decoder, part: &Rollout) -> Result<Scores> {
    decoder.score(&part.prompts, None, &part.tokens, 1.0)
}

/// Every prompt read again for each of its completions.
fn score_alone(decoder: &Decoder, part: &Rollout) -> Result<Scores> {
    decoder.score_groups(&part.prompts, None, &part.tokens, 1.0)
}

/// Forward, backward, clip and AdamW.
fn train(
    decoder: &Decoder,
    rollout: &Rollout,
    optimizer: &mut AdamW,
    shards: usize,
    score: fn(&Decoder, &Rollout) -> Result<Scores>,
) -> Result<()> {
    let parts = rollout.split(Split::over(shards))?;
    let loss = |scores: &Scores| Ok((scores.log_probs.mean_all()?.neg()?, ()));
    let score = |part: &Rollout| score(decoder, part);
    let (mut gradients, ()) =
        backward::in_shards(&parts, decoder.variables(), score, loss)?;
    gradients::clip_norm(&mut gradients, decoder.variables(), 1.0)?;
    Ok(optimizer.step(&gradients)?)
}

fn step(decoder: &Decoder, optimizer: &mut AdamW, shards: usize) -> Result<()> {
    let rollout = rollout(&sample(decoder, shards)?)?;
    let objective = Objective { kl: Kl::new(0.0), ..recipe("grpo", NEW)?.objective };
    let steps = Steps { epochs: 1, max_norm: 1.0 };
    let score = |part: &Rollout| score(decoder, part);
    let (variables, split) = (decoder.variables(), Split::over(shards));
    update_in_shards(score, variables, optimizer, &rollout, &objective, steps, split)?;
    Ok(())
}

/// Every weight times a stream of activations, three times: forward, and back to the
/// activations and to the weights.
fn floor(decoder: &Decoder, shards: usize) -> Result<()> {
    let rows = PROMPTS * GROUP * (PROMPT + NEW - 1) / shards;
    shards::run(shards, |_| {
        for variable in decoder.variables().values().filter(|v| v.rank() == 2) {
            let (outputs, inputs) = variable.dims2()?;
            let weight = variable.as_detached_tensor();
            let x = Tensor::zeros((rows, inputs), DType::F32, &Cpu)?;
            let y = Tensor::zeros((rows, outputs), DType::F32, &Cpu)?;
            x.matmul(&weight.t()?)?;
            y.matmul(&weight)?;
            y.t()?.matmul(&x)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn main() -> Result<()> {
    // `cargo test --all-targets` runs this too, without `--bench` and only to see it run.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::args().find_map(|argument| argument.parse().ok());
    let rounds = if is_test { 1 } else { rounds.unwrap_or(10) };
    let wanted =
        std::env::args().skip(1).find(|argument| argument.starts_with(char::is_alphabetic));
    let decoder = decoder()?;
    let rollout = rollout(&sample(&decoder, 1)?)?;
    let settings = ParamsAdamW { lr: 1e-6, ..Default::default() };
    let mut optimizer = AdamW::new(decoder.variables(), settings)?;
    let names = ["floor", "sample", "score", "train, prompts read again", "train", "step"];
    let mut best = [[f64::INFINITY; 6]; 2];
    for _ in 0..rounds {
        for shards in [1, 2] {
            let mut time = |part: usize, f: &mut dyn FnMut() -> Result<()>| -> Result<()> {
                let is_wanted =
                    wanted.as_ref().is_none_or(|wanted| names[part].contains(wanted));
                if part > 0 && !is_wanted {
                    return Ok(());
                }
                let began = Instant::now();
                f()?;
                let took = began.elapsed().as_secs_f64();
                best[shards - 1][part] = best[shards - 1][part].min(took);
                Ok(())
            };
            time(0, &mut || floor(&decoder, shards))?;
            time(1, &mut || sample(&decoder, shards).map(drop))?;
            time(2, &mut || {
                let parts = rollout.split(Split::over(shards))?.concat();
                shards::run(shards, |i| score(&decoder, &parts[i])).map(drop)
            })?;
            let mut training =
                |score| train(&decoder, &rollout, &mut optimizer, shards, score);
            time(3, &mut || training(score_alone))?;
            time(4, &mut || training(score))?;
            time(5, &mut || step(&decoder, &mut optimizer, shards))?;
        }
    }
    println!(
        "{:28}{:>16}{:>16}{:>14}{:>10}",
        "best of", "1 shard, ms", "2 shards, ms", "tokens/s", "floor"
    );
    for (part, name) in names.into_iter().enumerate() {
        if best[1][part].is_infinite() {
            continue;
        }
        let [one, two] = [best[0][part], best[1][part]];
        let tokens = (PROMPTS * GROUP * NEW) as f64 / two;
        let share = 100.0 * best[1][0] / two;
        println!("{name:28}{:16.1}{:16.1}{tokens:14.0}{share:9.0}%", 1e3 * one, 1e3 * two);
    }
    Ok(())
}
