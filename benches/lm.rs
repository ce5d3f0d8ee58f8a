//! The parts of a training step of a language model, in tokens per second: 862,848
//! parameters, 64 prompts of 12 tokens, 24 new ones each.
//!
//! ```text
//! cargo bench --profile dev --bench lm
//! ```
//!
//! `floor` is nothing but the matrix products of forward and backward pass: what `train`
//! would take if everything else were free.

use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use grpo::{
    Result, gradients,
    lm::{
        config::Config,
        decoder::Decoder,
        generate::{Completions, Settings, Streams, generate},
    },
    mask,
    optim::AdamW,
    policy::Policy,
    sampling::Sampler,
    seed, variables,
};

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

fn sample(decoder: &Decoder) -> Result<Completions> {
    let prompt = |p: usize| (0..PROMPT).map(|t| ((7 * p + t) % 64) as u32).collect();
    let prompts: Vec<Vec<u32>> = (0..PROMPTS).map(prompt).collect();
    // Nothing stops: every row runs to the end.
    let sampler = Sampler::at(1.0);
    let settings = Settings {
        group_size: GROUP,
        max_tokens: NEW,
        sampler,
        stop: Vec::new(),
        pad: 0,
        shards: 1,
    };
    generate(decoder, &prompts, &settings, Streams { seed: 0, step: 0, first_prompt: 0 })
}

fn score(decoder: &Decoder, sampled: &Completions) -> Result<Tensor> {
    let mask = sampled.prompt_mask.as_ref();
    let scores = decoder.score(&sampled.prompts, mask, &sampled.tokens, 1.0)?;
    mask::token_mean(&scores.log_probs, &sampled.mask)
}

fn train(decoder: &Decoder, sampled: &Completions, optimizer: &mut AdamW) -> Result<()> {
    let mut gradients = gradients::of(&score(decoder, sampled)?, decoder.variables())?;
    gradients::clip_norm(&mut gradients, decoder.variables(), 1.0)?;
    Ok(optimizer.step(&gradients)?)
}

/// Every weight times a stream of activations, three times: forward, and back to the
/// activations and to the weights.
fn floor(decoder: &Decoder) -> Result<()> {
    let rows = PROMPTS * GROUP * (PROMPT + NEW - 1);
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
}

fn bench(criterion: &mut Criterion) {
    let decoder = decoder().unwrap();
    let sampled = sample(&decoder).unwrap();
    let settings = ParamsAdamW { lr: 1e-6, ..Default::default() };
    let mut optimizer = AdamW::new(decoder.variables(), settings).unwrap();
    let mut group = criterion.benchmark_group("lm");
    group.sample_size(10).throughput(Throughput::Elements((PROMPTS * GROUP * NEW) as u64));
    group.bench_function("sample", |b| b.iter(|| sample(&decoder).unwrap()));
    group.bench_function("score", |b| b.iter(|| score(&decoder, &sampled).unwrap()));
    group.bench_function("train", |b| {
        b.iter(|| train(&decoder, &sampled, &mut optimizer).unwrap())
    });
    group.bench_function("floor", |b| b.iter(|| floor(&decoder).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
