//! The trap: layers and models that compute the right numbers and train nothing.
//!
//! Each is a function of a few variables. Autograd says what it has for each variable,
//! finite differences say what it should be.
//!
//! Left out: other devices than the CPU, and models with other layers than these, because
//! the table shows the pattern.

use anyhow::Context;
use candle_core::{D, DType, Device, Result as CandleResult, Tensor, Var};
use candle_nn::{
    LayerNorm, Module, RmsNorm, VarBuilder, VarMap,
    kv_cache::{ConcatKvCache, KvCache},
    ops, rotary_emb,
};
use candle_transformers::models::{bert, gemma, llama, mistral, phi3, qwen2, qwen3};
use grpo::{
    Result, gradients,
    lm::{config::Config, decoder::Decoder},
    policy::Policy,
    seed,
    variables::Variables,
};
use rand::rngs::StdRng;
use serde_json::{Value, json};

// ANCHOR: judge
/// The step of the finite differences. In single precision a smaller one drowns in rounding.
const STEP: f64 = 1e-2;
/// How far a gradient may be from the finite differences, relative to their length.
const CLOSE: f64 = 0.03;

/// For each variable, how far its gradient is from the finite differences, relative to
/// their length; `None` where it has no gradient.
pub type Errors = Vec<(String, Option<f64>)>;

/// Compares every gradient of a loss with finite differences.
pub fn errors(variables: &Variables, loss: impl Fn() -> Result<Tensor>) -> Result<Errors> {
    let truth = gradients::finite_differences(variables, STEP, &loss)?;
    let gradients = loss()?.backward()?;
    let error = |(name, variable): (&String, &Var)| -> Result<(String, Option<f64>)> {
        let Some(gradient) = gradients.get(variable) else {
            return Ok((name.clone(), None));
        };
        let gradient = gradient.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let truth = &truth[name];
        let apart: f64 = gradient.iter().zip(truth).map(|(a, b)| (a - b).powi(2)).sum();
        let length: f64 = truth.iter().map(|x| x * x).sum();
        Ok((name.clone(), Some((apart / length).sqrt())))
    };
    variables.iter().map(error).collect()
}

/// How many variables there are, how many get a gradient, and how many the right one.
pub fn count(errors: &[(String, Option<f64>)]) -> [usize; 3] {
    let gradients = errors.iter().filter_map(|(_, error)| *error);
    [errors.len(), gradients.clone().count(), gradients.filter(|e| *e < CLOSE).count()]
}
// ANCHOR_END: judge

/// A number that depends on everything in `output`: its product with fixed random numbers.
fn probe(output: &Tensor) -> Result<Tensor> {
    let probe =
        seed::normal(&mut seed::rng(1), output.shape(), 1.0, DType::F32, output.device())?;
    Ok((output * probe)?.sum_all()?)
}

type Function = fn(&[Tensor]) -> CandleResult<Tensor>;

/// A layer of Candle, and what does the same with a backward pass.
pub struct Layer {
    pub name: &'static str,
    pub instead: &'static str,
    /// The shapes of what it reads.
    inputs: &'static [&'static [usize]],
    stock: Function,
    right: Function,
}

/// x (B, heads, T, head_dim), a weight and a bias for its last dimension.
const X: &[usize] = &[1, 2, 3, 4];
const LAST: &[usize] = &[4];

pub const LAYERS: [Layer; 8] = [
    Layer {
        name: "ops::softmax_last_dim",
        instead: "ops::softmax",
        inputs: &[X],
        stock: |x| ops::softmax_last_dim(&x[0]),
        right: |x| ops::softmax(&x[0], D::Minus1),
    },
    Layer {
        name: "ops::rms_norm",
        instead: "ops::rms_norm_slow",
        inputs: &[X, LAST],
        stock: |x| ops::rms_norm(&x[0], &x[1], 1e-5),
        right: |x| ops::rms_norm_slow(&x[0], &x[1], 1e-5),
    },
    Layer {
        name: "RmsNorm::forward",
        instead: "RmsNorm::forward_diff",
        inputs: &[X, LAST],
        stock: |x| RmsNorm::new(x[1].clone(), 1e-5).forward(&x[0]),
        right: |x| RmsNorm::new(x[1].clone(), 1e-5).forward_diff(&x[0]),
    },
    Layer {
        name: "LayerNorm::forward",
        instead: "ops::layer_norm_slow",
        inputs: &[X, LAST, LAST],
        stock: |x| LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5).forward(&x[0]),
        right: |x| ops::layer_norm_slow(&x[0], &x[1], &x[2], 1e-5),
    },
    Layer {
        name: "rotary_emb::rope",
        instead: "rotary_emb::rope_slow",
        inputs: &[X],
        stock: |x| with_angles(&x[0], rotary_emb::rope),
        right: |x| with_angles(&x[0], rotary_emb::rope_slow),
    },
    Layer {
        name: "rotary_emb::rope_i",
        instead: "rotary_emb::rope_i_slow",
        inputs: &[X],
        stock: |x| with_angles(&x[0], rotary_emb::rope_i),
        right: |x| with_angles(&x[0], rotary_emb::rope_i_slow),
    },
    Layer {
        name: "KvCache::append",
        instead: "Tensor::cat",
        inputs: &[X, X],
        stock: |x| {
            let mut cache = KvCache::new(2, 8);
            cache.append(&x[0], &x[0])?;
            cache.append(&x[1], &x[1])?.0.contiguous()
        },
        right: |x| Tensor::cat(&[&x[0], &x[1]], 2),
    },
    Layer {
        name: "ConcatKvCache::append",
        instead: "Tensor::cat",
        inputs: &[X, X],
        stock: |x| {
            let mut cache = ConcatKvCache::new(2);
            cache.append(&x[0], &x[0])?;
            cache.append(&x[1], &x[1])?.0.contiguous()
        },
        right: |x| Tensor::cat(&[&x[0], &x[1]], 2),
    },
];

fn with_angles(
    x: &Tensor,
    rope: fn(&Tensor, &Tensor, &Tensor) -> CandleResult<Tensor>,
) -> CandleResult<Tensor> {
    let angles: Vec<f32> = (0..6).map(|i| 0.4 * i as f32).collect();
    let angles = Tensor::from_vec(angles, (3, 2), x.device())?;
    rope(x, &angles.cos()?, &angles.sin()?)
}

impl Layer {
    /// The errors of the stock layer, then of its replacement, and whether both compute
    /// the same.
    pub fn judge(&self) -> Result<([Errors; 2], bool)> {
        let mut rng = seed::rng(0);
        let mut variables = Variables::new();
        for (index, shape) in self.inputs.iter().enumerate() {
            let values = seed::normal(&mut rng, *shape, 1.0, DType::F32, &Device::Cpu)?;
            variables.insert(format!("{index}"), Var::from_tensor(&values)?);
        }
        let tensors: Vec<Tensor> =
            variables.values().map(|variable| variable.as_tensor().clone()).collect();
        let both =
            [self.stock, self.right].map(|f| errors(&variables, || probe(&f(&tensors)?)));
        let [stock, right] = both;
        let apart = ((self.stock)(&tensors)? - (self.right)(&tensors)?)?.abs()?;
        Ok(([stock?, right?], apart.max_all()?.to_scalar::<f32>()? < 1e-5))
    }
}

/// A tiny model: its variables, and a scalar that depends on its output.
pub struct Model {
    pub name: &'static str,
    pub variables: Variables,
    loss: Box<dyn Fn() -> Result<Tensor> + Sync>,
}

impl Model {
    pub fn errors(&self) -> Result<Errors> {
        errors(&self.variables, &self.loss)
    }
}

/// What they all read.
const TOKENS: [[u32; 5]; 2] = [[1, 2, 3, 4, 5], [6, 5, 4, 9, 2]];

/// One configuration for all: every model takes from it what it knows.
fn config(act: &str) -> Value {
    json!({
        "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2,
        "max_position_embeddings": 8, "rope_theta": 100.0, "rms_norm_eps": 1e-6,
        "layer_norm_eps": 1e-6, "hidden_act": act, "attention_bias": false,
        "tie_word_embeddings": false, "use_sliding_window": false, "sliding_window": 8,
        "max_window_layers": 2, "use_flash_attn": false, "hidden_dropout_prob": 0.0,
        "type_vocab_size": 2, "initializer_range": 0.02, "pad_token_id": 0,
    })
}

/// candle-transformers' models, with random weights.
pub fn models() -> Result<Vec<Model>> {
    let tokens = Tensor::new(&TOKENS, &Device::Cpu)?;
    let common = config("silu");
    let t = tokens.clone();
    let qwen2 = stock("qwen2", |weights| {
        let model = qwen2::ModelForCausalLM::new(&read(&common)?, weights)?;
        Ok(Box::new(move || model.clone().forward(&t, 0)))
    })?;
    let t = tokens.clone();
    let qwen3 = stock("qwen3", |weights| {
        let model = qwen3::ModelForCausalLM::new(&read(&common)?, weights)?;
        Ok(Box::new(move || model.clone().forward(&t, 0)))
    })?;
    let t = tokens.clone();
    let llama = stock("llama", |weights| {
        let config = read::<llama::LlamaConfig>(&common)?.into_config(false);
        let model = llama::Llama::load(weights, &config)?;
        let cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        Ok(Box::new(move || model.forward(&t, 0, &mut cache.clone())))
    })?;
    let t = tokens.clone();
    let mistral = stock("mistral", |weights| {
        let model = mistral::Model::new(&read(&common)?, weights)?;
        Ok(Box::new(move || model.clone().forward(&t, 0)))
    })?;
    let t = tokens.clone();
    let phi3 = stock("phi3", |weights| {
        let model = phi3::Model::new(&read(&common)?, weights)?;
        Ok(Box::new(move || model.clone().forward(&t, 0)))
    })?;
    let t = tokens.clone();
    let gemma = stock("gemma", |weights| {
        let model = gemma::Model::new(false, &read(&common)?, weights)?;
        Ok(Box::new(move || model.clone().forward(&t, 0)))
    })?;
    let bert = stock("bert", |weights| {
        let model = bert::BertModel::load(weights, &read(&config("gelu"))?)?;
        Ok(Box::new(move || model.forward(&tokens, &tokens.zeros_like()?, None)))
    })?;
    Ok(vec![qwen2, qwen3, llama, mistral, phi3, gemma, bert])
}

fn read<T: serde::de::DeserializeOwned>(config: &Value) -> Result<T> {
    serde_json::from_value(config.clone()).context("this model wants another configuration")
}

type Forward = Box<dyn Fn() -> CandleResult<Tensor> + Sync>;

/// Lets a model make its variables, then gives them numbers that can be seeded.
fn stock(
    name: &'static str,
    build: impl FnOnce(VarBuilder) -> Result<Forward>,
) -> Result<Model> {
    let map = VarMap::new();
    let forward = build(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))
        .with_context(|| name.to_string())?;
    let lock = map.data().lock();
    let variables: Variables = match lock {
        Ok(all) => all.iter().map(|(name, v)| (name.clone(), v.clone())).collect(),
        Err(_) => anyhow::bail!("the variables of {name} cannot be read"),
    };
    randomise(&variables, &mut seed::rng(2))?;
    Ok(Model { name, variables, loss: Box::new(move || probe(&forward()?)) })
}

/// The decoder of this book, in the three designs.
pub fn ours() -> Result<Vec<Model>> {
    let designs = [
        ("ours, as qwen2", true, false),
        ("ours, as qwen3", false, true),
        ("ours, as llama", false, false),
    ];
    let model = |(name, qkv_bias, qk_norm)| -> Result<Model> {
        let config = Config {
            vocab_size: 10,
            hidden_size: 8,
            intermediate_size: 6,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 2,
            context: 8,
            rope_theta: 100.0,
            rms_norm_eps: 1e-6,
            qkv_bias,
            qk_norm,
            tied: qkv_bias,
            eos: vec![0],
        };
        let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F32, &Device::Cpu)?;
        let (variables, tokens) =
            (decoder.variables().clone(), Tensor::new(&TOKENS, &Device::Cpu)?);
        randomise(&variables, &mut seed::rng(2))?;
        // Of the last position only, as the models of candle-transformers.
        let loss = move || probe(&decoder.logits(&tokens)?.narrow(1, 4, 1)?);
        Ok(Model { name, variables, loss: Box::new(loss) })
    };
    designs.into_iter().map(model).collect()
}

/// Numbers large enough that every variable matters.
pub fn randomise(variables: &Variables, rng: &mut StdRng) -> Result<()> {
    for variable in variables.values() {
        let values =
            seed::normal(rng, variable.dims(), 0.5, variable.dtype(), variable.device())?;
        variable.set(&values)?;
    }
    Ok(())
}
