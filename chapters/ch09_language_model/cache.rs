//! What the cache of keys and values saves: multiplications, counted, and time, measured.
//!
//! Left out: the multiplications outside matrix products, which are few.

use candle_core::{DType, Device};
use grpo::{
    Result,
    lm::{
        config::Config,
        decoder::Decoder,
        generate::{Settings, Streams, generate},
    },
    plot::{Figure, Panel, Scale},
    report::{self, Kind, Output, Table},
    sampling::Sampler,
    seed,
};
use std::time::Instant;

// ANCHOR: count
/// Multiplications of one pass that reads `new` tokens of one row after `seen` others,
/// whose keys and values are there, and says what comes next.
pub fn multiplications(config: &Config, seen: usize, new: usize) -> u64 {
    let Config { hidden_size: d, intermediate_size: f, heads, kv_heads, head_dim, .. } =
        *config;
    let projections = d * head_dim * (2 * heads + 2 * kv_heads) + 3 * d * f;
    // Each query meets every key, and every value is weighted for it.
    let attention = 2 * heads * head_dim * (seen + new);
    let layers = new * config.layers * (projections + attention);
    (layers + d * config.vocab_size) as u64
}

/// A completion of `length` tokens after a prompt, read anew for each token.
pub fn without_cache(config: &Config, prompt: usize, length: usize) -> u64 {
    (0..length).map(|done| multiplications(config, 0, prompt + done)).sum()
}

/// The same with a cache: the prompt once, then one token at a time.
pub fn with_cache(config: &Config, prompt: usize, length: usize) -> u64 {
    let steps = (1..length).map(|done| multiplications(config, prompt + done - 1, 1));
    multiplications(config, 0, prompt) + steps.sum::<u64>()
}
// ANCHOR_END: count

/// The shape of Qwen2.5-0.5B, a model people really train.
pub fn qwen() -> Config {
    Config {
        vocab_size: 151_936,
        hidden_size: 896,
        intermediate_size: 4864,
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        context: 32_768,
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        qkv_bias: true,
        qk_norm: false,
        tied: true,
        eos: vec![],
    }
}

/// The prompt of every completion here, in tokens.
const PROMPT: usize = 12;
const LENGTHS: [usize; 6] = [1, 4, 16, 64, 256, 1024];

pub fn counted(out: &mut Output, small: &Config) -> Result<()> {
    out.section(Kind::Exact, "cache", "What the cache saves");
    let mut table = Table::new([
        "tokens written",
        "read without",
        "read with",
        "our model",
        "Qwen2.5-0.5B without",
        "with",
        "ratio",
    ]);
    let large = qwen();
    let ratio = |config: &Config, length| {
        without_cache(config, PROMPT, length) as f64
            / with_cache(config, PROMPT, length) as f64
    };
    for length in LENGTHS {
        let read: usize = (0..length).map(|done| PROMPT + done).sum();
        let count = |n: u64| format!("{:.1e}", n as f64);
        table.row([
            length.to_string(),
            read.to_string(),
            (PROMPT + length - 1).to_string(),
            format!("{:.1}×", ratio(small, length)),
            count(without_cache(&large, PROMPT, length)),
            count(with_cache(&large, PROMPT, length)),
            format!("{:.1}×", ratio(&large, length)),
        ]);
    }
    println!("{table}");
    let Config { layers, kv_heads, head_dim, .. } = large;
    println!(
        "its price in Qwen2.5-0.5B: {} numbers a token",
        2 * layers * kv_heads * head_dim
    );
    let curve = |config: &Config| -> Vec<(f64, f64)> {
        (0..=40)
            .map(|i| 1024f64.powf(f64::from(i) / 40.0).round() as usize)
            .map(|length| (length as f64, ratio(config, length)))
            .collect()
    };
    let panel =
        Panel::new("tokens written after a prompt of 12", "times fewer multiplications")
            .scales(Scale::Log10, Scale::Log10)
            .line(0, "our model", &curve(small))
            .line(1, "Qwen2.5-0.5B", &curve(&large));
    let figure = Figure::new(
        "Multiplications saved by the cache",
        "Both lines start at 1 for one token and rise to several hundred for a thousand.",
        vec![panel],
    );
    out.figure("cache", &figure)
}

/// Rows of the batch, and lengths that are timed.
const ROWS: u32 = 8;
const TIMED: [usize; 6] = [4, 8, 16, 32, 64, 128];

/// Some prompts of [`PROMPT`] tokens.
pub fn prompts(rows: u32) -> Vec<Vec<u32>> {
    (0..rows).map(|row| (0..PROMPT as u32).map(|i| (row + i) % 13).collect()).collect()
}

/// The likeliest tokens after the prompts, with the cache.
pub fn write(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    max_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let (stop, sampler) = (vec![], Sampler::greedy());
    let settings = Settings { group_size: 1, max_tokens, sampler, stop, pad: 0, shards: 1 };
    let streams = Streams { seed: 0, step: 0, first_prompt: 0 };
    generate(decoder, prompts, &settings, streams)?.ids()
}

/// The same without: everything is a prompt, each time.
pub fn write_again(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    max_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let mut rows = prompts.to_vec();
    for _ in 0..max_tokens {
        let next = write(decoder, &rows, 1)?;
        rows.iter_mut().zip(next).for_each(|(row, next)| row.extend(next));
    }
    Ok(rows.into_iter().map(|row| row[PROMPT..].to_vec()).collect())
}

/// How much faster on the clock: what the counts come to on this machine.
pub fn timed(out: &mut Output, device: &Device, tries: usize) -> Result<()> {
    out.section(Kind::Trained, "time", "With and without the cache, measured");
    let config = Config { context: 256, ..super::student_config(device)? };
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F32, device)?;
    let prompts = prompts(ROWS);
    let mut table = Table::new(["tokens written", "times faster", "counted"]);
    let (mut measured, mut counted) = (Vec::new(), Vec::new());
    let bar = report::progress((TIMED.len() * tries) as u64, "timing");
    for length in TIMED {
        let (mut without, mut with) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..tries {
            without = without.min(clock(|| write_again(&decoder, &prompts, length))?);
            with = with.min(clock(|| write(&decoder, &prompts, length))?);
            bar.inc(1);
        }
        let exact = without_cache(&config, PROMPT, length) as f64
            / with_cache(&config, PROMPT, length) as f64;
        measured.push((length as f64, without / with));
        counted.push((length as f64, exact));
        table.row([
            length.to_string(),
            format!("{:.1}×", without / with),
            format!("{exact:.1}×"),
        ]);
    }
    bar.finish_and_clear();
    println!("{table}\n{ROWS} rows at once on one thread, best of {tries}");
    let panel =
        Panel::new("tokens written after a prompt of 12", "times faster with the cache")
            .scales(Scale::Log10, Scale::Log10)
            .line(0, "measured", &measured)
            .points(0, "", &measured)
            .dashed(1, "multiplications", &counted);
    let figure = Figure::new(
        "Time saved by the cache",
        "Measured time and counted multiplications both rise with the length; time rises less.",
        vec![panel],
    );
    out.figure("time", &figure)
}

fn clock<T>(f: impl Fn() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(1e3 * start.elapsed().as_secs_f64())
}
