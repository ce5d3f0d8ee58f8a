//! A second opinion: candle-transformers' own Qwen2, Qwen3 and Llama read the same
//! configuration and the same weights, and say the same, with their cache and without.

use crate::{MODELS, numbers, path, read, tiny, worst};
use candle_core::{D, DType, Device::Cpu, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use grpo::{
    lm::{
        config::Config,
        decoder::Decoder,
        folder,
        generate::{Settings, Streams, generate},
    },
    policy::Policy,
    sampling::Sampler,
    seed,
};
use rand::Rng;
use serde_json::{Value, json};
use std::path::Path;

/// Both sides are in single precision.
const TOLERANCE: f64 = 2e-5;

enum Stock {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Llama(Box<(llama::Llama, llama::Cache)>),
}

impl Stock {
    /// The `config.json` of a folder, read by Candle's configuration structs, and the
    /// weights of our decoder.
    fn new(folder: &Path, decoder: &Decoder) -> Self {
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        let model = config["model_type"].as_str().unwrap().to_string();
        // What Candle wants to see, although it is not used without sliding windows.
        config["max_window_layers"] = json!(0);
        config["use_sliding_window"] = json!(false);
        config["attention_bias"] = json!(false);
        config["sliding_window"] = if model == "qwen2" { json!(4096) } else { Value::Null };
        let weights = decoder.weights().iter();
        let weights = weights.map(|(name, v)| (name.clone(), v.as_detached_tensor()));
        let weights = VarBuilder::from_tensors(weights.collect(), DType::F32, &Cpu);
        match model.as_str() {
            "qwen2" => {
                let config = serde_json::from_value(config).unwrap();
                Self::Qwen2(qwen2::ModelForCausalLM::new(&config, weights).unwrap())
            }
            "qwen3" => {
                let config = serde_json::from_value(config).unwrap();
                Self::Qwen3(qwen3::ModelForCausalLM::new(&config, weights).unwrap())
            }
            _ => {
                let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
                let config = config.into_config(false);
                let cache = llama::Cache::new(true, DType::F32, &config, &Cpu).unwrap();
                Self::Llama(Box::new((
                    llama::Llama::load(weights, &config).unwrap(),
                    cache,
                )))
            }
        }
    }

    /// Tokens (B, T), of which the first has the position `start` → the logits of the
    /// last (B, V).
    fn forward(&mut self, tokens: &Tensor, start: usize) -> Tensor {
        let logits = match self {
            Self::Qwen2(model) => model.forward(tokens, start),
            Self::Qwen3(model) => model.forward(tokens, start),
            Self::Llama(both) => both.0.forward(tokens, start, &mut both.1),
        };
        let logits = logits.unwrap();
        logits.reshape((tokens.dim(0).unwrap(), ())).unwrap()
    }
}

/// Random tokens (B, T).
fn tokens(seed: u64, shape: (usize, usize), vocabulary: usize) -> Tensor {
    let mut rng = seed::rng(seed);
    let ids = (0..shape.0 * shape.1).map(|_| rng.random_range(0..vocabulary as u32));
    Tensor::from_vec(ids.collect::<Vec<_>>(), shape, &Cpu).unwrap()
}

/// The first few tokens at once, then one at a time through Candle's cache, against one
/// pass of ours over all of them.
fn check(what: &str, decoder: &Decoder, folder: &Path) {
    let (vocabulary, prompt, length) = (decoder.config().vocab_size, 4, 10);
    let tokens = tokens(5, (3, length), vocabulary);
    let ours = decoder.logits(&tokens).unwrap();
    let mut stock = Stock::new(folder, decoder);
    for last in prompt - 1..length {
        let (start, count) = if last < prompt { (0, prompt) } else { (last, 1) };
        let theirs = stock.forward(&tokens.narrow(1, start, count).unwrap(), start);
        let ours = ours.narrow(1, last, 1).unwrap().squeeze(1).unwrap();
        let error = worst(&numbers(&ours), &numbers(&theirs));
        assert!(error < TOLERANCE, "{what}, position {last}: {error:.1e}");
        let spread = ours.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(spread > 0.1, "{what}: logits of {spread} say nothing");
    }
}

#[test]
fn logits_of_the_fixtures() {
    for model in MODELS {
        // candle-transformers' Llama takes hidden / heads for the size of a head.
        check(model, &read(model, DType::F32), &path(model));
    }
}

#[test]
fn logits_of_random_configurations() {
    for (index, model) in MODELS.into_iter().cycle().take(18).enumerate() {
        let mut rng = seed::stream(9, &[index as u64]);
        let kv_heads = [1, 2, 4][rng.random_range(0..3)];
        let head_dim = 2 * rng.random_range(1..5);
        let config = Config {
            vocab_size: rng.random_range(5..40),
            hidden_size: if model == "qwen3" { 12 } else { 4 * head_dim },
            intermediate_size: rng.random_range(3..20),
            layers: rng.random_range(1..4),
            kv_heads,
            head_dim,
            context: 16,
            rope_theta: [100.0, 1e4, 1e6][rng.random_range(0..3)],
            rms_norm_eps: [1e-6, 1e-5][rng.random_range(0..2)],
            tied: rng.random(),
            ..tiny(model)
        };
        let decoder = Decoder::new(&config, &mut rng, DType::F32, &Cpu).unwrap();
        // Large numbers everywhere, also where fresh weights are 0 or 1.
        for variable in decoder.variables().values() {
            let values = seed::normal(&mut rng, variable.dims(), 0.5, DType::F32, &Cpu);
            variable.set(&values.unwrap()).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        folder::write(&decoder, folder.path()).unwrap();
        check(&format!("{config:?}"), &decoder, folder.path());
    }
}

#[test]
fn greedy_continuations() {
    for model in MODELS {
        let decoder = read(model, DType::F32);
        let prompts = tokens(6, (3, 5), decoder.config().vocab_size);
        let settings = Settings {
            group_size: 1,
            max_tokens: 12,
            sampler: Sampler::greedy(),
            stop: Vec::new(),
            pad: 0,
            shards: 1,
        };
        let streams = Streams { seed: 0, step: 0, first_prompt: 0 };
        let ids = prompts.to_vec2::<u32>().unwrap();
        let ours = generate(&decoder, &ids, &settings, streams).unwrap();
        let mut stock = Stock::new(&path(model), &decoder);
        let (mut next, mut theirs) = (prompts.clone(), Vec::new());
        for step in 0..settings.max_tokens {
            let start = if step == 0 { 0 } else { 4 + step };
            let logits = stock.forward(&next, start);
            next = logits.argmax_keepdim(D::Minus1).unwrap();
            theirs.push(next.clone());
        }
        let theirs = Tensor::cat(&theirs, 1).unwrap();
        assert_eq!(ours.tokens.to_vec2::<u32>().unwrap(), theirs.to_vec2::<u32>().unwrap());
    }
}
