//! The decoder: tokens (B, T) → logits (B, T, V).
//!
//! ```text
//! x = embedding[token]
//! each layer:  x += attention(norm(x));  x += SwiGLU(norm(x))
//! logits = output(norm(x))
//! ```
//!
//! A position is the number of a column. A row padded on the left therefore starts
//! late, which changes nothing: rotary attention sees differences of positions only.
//! What does matter is that no token looks at padding, and that is the mask's job. A row
//! padded on the right needs no mask, since no token looks ahead.
//!
//! Left out: packing several texts into one row, because completions of a group have
//! similar lengths.

use crate::{
    Result,
    lm::{
        cache::Cache,
        config::Config,
        layers::{Norm, Pass, Rope, SwiGlu, attention},
        lora::{Linear, Lora},
    },
    log_prob::{self, Scores},
    policy::Policy,
    seed,
    variables::{self, Variables},
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Module, Tensor, Var};
use rand::rngs::StdRng;

/// What is added to the score of a token that may not be looked at. Not −∞: a row of
/// nothing but padding would be NaN. It is added twice to a token that is both ahead and
/// padding, and F16 ends at −65504.
fn hidden(dtype: DType) -> f64 {
    if dtype == DType::F16 { -3e4 } else { -1e9 }
}

/// A language model, and its variables under their Hugging Face names.
pub struct Decoder {
    config: Config,
    net: Net,
    sampler: Net,
    weights: Variables,
    lora: Option<Lora>,
}

impl Decoder {
    /// A decoder with fresh random weights: embeddings normal with standard deviation
    /// 0.02, projections 1/√inputs, those that write into the stream smaller by
    /// 1/√(2 · layers), norms 1, biases 0.
    ///
    /// # Errors
    /// What [`Config::check`] refuses.
    pub fn new(
        config: &Config,
        rng: &mut StdRng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        let depth = (2.0 * config.layers as f64).sqrt();
        let fresh = |(name, shape): (String, Vec<usize>)| {
            let std = match shape[..] {
                [_, _] if name.contains("embed_tokens") || name.contains("lm_head") => 0.02,
                [_, inputs] if name.contains("o_proj") || name.contains("down_proj") => {
                    1.0 / (inputs as f64).sqrt() / depth
                }
                [_, inputs] => 1.0 / (inputs as f64).sqrt(),
                _ => 0.0,
            };
            let values = match shape[..] {
                [_, _] => seed::normal(rng, shape, std, dtype, device)?,
                _ if name.ends_with("bias") => Tensor::zeros(shape, dtype, device)?,
                _ => Tensor::ones(shape, dtype, device)?,
            };
            Ok((name, Var::from_tensor(&values)?))
        };
        let variables =
            config.tensors().into_iter().map(fresh).collect::<Result<Variables>>()?;
        Self::from_variables(config, variables)
    }

    /// A decoder of these variables, which it trains in place.
    ///
    /// # Errors
    /// Names the variable that is missing or too many, or that has another shape than
    /// [`Config::tensors`] says.
    pub fn from_variables(config: &Config, variables: Variables) -> Result<Self> {
        config.check()?;
        variables::check(&variables, &config.tensors())?;
        Self::of(config, variables, None)
    }

    fn of(config: &Config, weights: Variables, lora: Option<Lora>) -> Result<Self> {
        let net = Net::new(config, &weights, lora.as_ref(), Pass::Train)?;
        let sampler = Net::new(config, &weights, lora.as_ref(), Pass::Sample)?;
        Ok(Self { config: config.clone(), net, sampler, weights, lora })
    }

    /// The same weights, frozen, with adapters that are trained in their place. Both
    /// decoders share the weights: this one stays what it was, without a copy.
    ///
    /// # Errors
    /// Names the adapter that does not fit; refuses a decoder that has adapters already.
    pub fn adapted(&self, lora: Lora) -> Result<Self> {
        ensure!(self.lora.is_none(), "this decoder has adapters; merge them first");
        variables::check(lora.variables(), &lora.settings().tensors(&self.config)?)?;
        for (name, variable) in lora.variables() {
            let (found, wanted) = (variable.dtype(), self.dtype());
            ensure!(found == wanted, "{name} is {found:?}; the weights are {wanted:?}");
        }
        Self::of(&self.config, self.weights.clone(), Some(lora))
    }

    /// All weights, frozen or not, without the adapters.
    pub fn weights(&self) -> &Variables {
        &self.weights
    }

    /// The adapters, where there are any.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The type of the weights. Logits have at least single precision.
    pub fn dtype(&self) -> DType {
        self.net.embedding.dtype()
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.net.embedding.device()
    }

    /// The same weights without a gradient, for sampling. They follow every update: only
    /// the connection to the backward pass is cut.
    pub(crate) fn sampler(&self) -> &Net {
        &self.sampler
    }

    /// A copy that does not follow updates: the reference of a KL. Adapters are merged
    /// into it.
    ///
    /// # Errors
    /// Passes on Candle's error when there is no memory for it.
    pub fn frozen(&self) -> Result<Self> {
        let copy = |(name, variable): (&String, &Var)| {
            Ok((name.clone(), Var::from_tensor(&variable.as_tensor().copy()?)?))
        };
        let weights = self.weights.iter().map(copy).collect::<Result<Variables>>()?;
        if let Some(lora) = &self.lora {
            lora.merge(&weights)?;
        }
        Self::of(&self.config, weights, None)
    }

    /// Logits of rows of unequal length: tokens (B, T) and mask (B, T), both as in
    /// [`crate::mask`], padded on the left, the right or both → (B, T, V). At a padded
    /// position they mean nothing.
    ///
    /// # Errors
    /// Names the shapes that disagree, a token outside the vocabulary, or a row longer
    /// than the context.
    pub fn masked_logits(&self, tokens: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.net.head(&self.net.forward(tokens, mask, None)?)
    }

    /// Log-probabilities and entropies of completions: prompts (B, P) and tokens (B, T),
    /// with the mask (B, P) of the prompts where they are padded on the left → (B, T).
    ///
    /// Only the columns that say something about a completion go through the output
    /// layer, the widest of all.
    ///
    /// # Errors
    /// As [`Decoder::masked_logits`]; refuses a temperature that is not above 0.
    pub fn score(
        &self,
        prompts: &Tensor,
        prompt_mask: Option<&Tensor>,
        tokens: &Tensor,
        temperature: f64,
    ) -> Result<Scores> {
        let (prompt, length) = (prompts.dim(1)?, tokens.dim(1)?);
        ensure!(prompt > 0, "the prompts have no tokens; they must have at least 1");
        ensure!(length > 0, "the completions have no tokens; they must have at least 1");
        let mask = match prompt_mask {
            Some(mask) => {
                Some(Tensor::cat(&[mask, &tokens.ones_like()?.to_dtype(mask.dtype())?], 1)?)
            }
            None => None,
        };
        // The last token predicts nothing that is scored.
        let sequences = Tensor::cat(&[prompts, &tokens.narrow(1, 0, length - 1)?], 1)?;
        let mask = mask.map(|mask| mask.narrow(1, 0, prompt + length - 1)).transpose()?;
        let hidden = self.net.forward(&sequences, mask.as_ref(), None)?;
        let logits = self.net.head(&hidden.narrow(1, prompt - 1, length)?)?;
        let log_probs = log_prob::at_temperature(&logits, tokens, temperature)?;
        Ok(Scores { log_probs, entropy: Some(log_prob::entropy(&logits, temperature)?) })
    }
}

impl Policy for Decoder {
    fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        self.masked_logits(tokens, None)
    }

    /// The weights, or in their place the adapters.
    fn variables(&self) -> &Variables {
        self.lora.as_ref().map_or(&self.weights, Lora::variables)
    }
}

/// The type of logits and log-probabilities for weights of this type.
pub(crate) fn score_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}

/// The arithmetic, over weights with a gradient or without.
pub(crate) struct Net {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    output: Linear,
    pass: Pass,
    /// (head_dim, θ).
    angles: (usize, f64),
    context: usize,
}

impl Net {
    fn new(
        config: &Config,
        weights: &Variables,
        lora: Option<&Lora>,
        pass: Pass,
    ) -> Result<Self> {
        let view = |variable: &Var| match pass {
            Pass::Train => variable.as_tensor().clone(),
            Pass::Sample => variable.as_detached_tensor(),
        };
        let get = |name: &str| -> Result<Tensor> {
            let weight =
                weights.get(name).with_context(|| format!("there is no {name}"))?;
            Ok(if lora.is_some() { weight.as_detached_tensor() } else { view(weight) })
        };
        let norm = |name: &str| -> Result<Norm> {
            Ok(Norm { weight: get(&format!("{name}.weight"))?, eps: config.rms_norm_eps })
        };
        let linear = |name: &str, bias: bool| -> Result<Linear> {
            let bias = bias.then(|| get(&format!("{name}.bias"))).transpose()?;
            let adapter = lora.and_then(|lora| lora.adapter(name, view));
            Ok(Linear::new(get(&format!("{name}.weight"))?, bias).with(adapter))
        };
        let embedding = get("model.embed_tokens.weight")?;
        let layer = |index: usize| -> Result<Layer> {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            let head_norm =
                |part: &str| config.qk_norm.then(|| norm(&name(part))).transpose();
            Ok(Layer {
                input_norm: norm(&name("input_layernorm"))?,
                q: linear(&name("self_attn.q_proj"), config.qkv_bias)?,
                k: linear(&name("self_attn.k_proj"), config.qkv_bias)?,
                v: linear(&name("self_attn.v_proj"), config.qkv_bias)?,
                q_norm: head_norm("self_attn.q_norm")?,
                k_norm: head_norm("self_attn.k_norm")?,
                o: linear(&name("self_attn.o_proj"), false)?,
                mlp_norm: norm(&name("post_attention_layernorm"))?,
                mlp: SwiGlu {
                    gate: linear(&name("mlp.gate_proj"), false)?,
                    up: linear(&name("mlp.up_proj"), false)?,
                    down: linear(&name("mlp.down_proj"), false)?,
                },
                head_dim: config.head_dim,
            })
        };
        let output = match config.tied {
            true => Linear::new(embedding.clone(), None),
            false => linear("lm_head", false)?,
        };
        Ok(Self {
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: norm("model.norm")?,
            output,
            embedding,
            pass,
            angles: (config.head_dim, config.rope_theta),
            context: config.context,
        })
    }

    /// The stream after the last norm: tokens (B, T) → (B, T, D). With a cache the tokens
    /// come after those that it holds, and the mask covers both: (B, S).
    pub(crate) fn forward(
        &self,
        tokens: &Tensor,
        mask: Option<&Tensor>,
        mut cache: Option<&mut Cache>,
    ) -> Result<Tensor> {
        let (batch, length) = tokens.dims2().context("tokens must be (B, T)")?;
        ensure!(batch * length > 0, "tokens is {:?}; neither may be 0", tokens.dims());
        let start = cache.as_ref().map_or(0, |cache| cache.length);
        let total = start + length;
        ensure!(
            total <= self.context,
            "{total} tokens do not fit the context of {}",
            self.context
        );
        self.check_ids(tokens)?;
        let bias = self.bias(batch, start, length, mask)?;
        let embedding = &self.embedding;
        let (dtype, device) = (embedding.dtype(), embedding.device());
        let rope = Rope::new([start, length], self.angles, dtype, device)?;
        let flat = embedding.index_select(&tokens.flatten_all()?, 0)?;
        let mut x = flat.reshape((batch, length, ()))?;
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            x = layer.forward(&x, &rope, bias.as_ref(), cache, self.pass)?;
        }
        if let Some(cache) = cache {
            cache.length = total;
        }
        self.norm.forward(&x, self.pass)
    }

    /// The output layer: (…, D) → (…, V). Of half precision it makes single precision: a
    /// log-probability with three digits would be a useless ratio.
    pub(crate) fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.output.forward(&hidden.contiguous()?)?;
        Ok(logits.to_dtype(score_dtype(logits.dtype()))?)
    }

    fn check_ids(&self, tokens: &Tensor) -> Result<()> {
        let dtype = tokens.dtype();
        ensure!(dtype == DType::U32, "tokens has dtype {dtype:?}; it must be U32");
        let (largest, size) =
            (tokens.max_all()?.to_scalar::<u32>()?, self.embedding.dim(0)?);
        ensure!(
            (largest as usize) < size,
            "there is a token {largest}; the vocabulary has 0 to {}",
            size - 1
        );
        Ok(())
    }

    /// (1 or B, 1, T, S): 0 where a token may look, [`hidden`] where not. `None` where
    /// every token may look at everything.
    fn bias(
        &self,
        batch: usize,
        start: usize,
        length: usize,
        mask: Option<&Tensor>,
    ) -> Result<Option<Tensor>> {
        let (total, device) = (start + length, self.embedding.device());
        let dtype = self.embedding.dtype();
        let hidden = hidden(dtype);
        let ahead = |(t, s)| if s > start + t { hidden } else { 0.0 };
        let pairs = (0..length).flat_map(|t| (0..total).map(move |s| (t, s)));
        let causal = match length {
            1 => None,
            _ => {
                let values: Vec<f64> = pairs.map(ahead).collect();
                let causal = Tensor::from_vec(values, (1, 1, length, total), device)?;
                Some(causal.to_dtype(dtype)?)
            }
        };
        let Some(mask) = mask else { return Ok(causal) };
        let shape = mask.dims();
        ensure!(
            shape == [batch, total],
            "mask is {shape:?} and must be {:?}, one number a token",
            [batch, total]
        );
        let padding = mask.eq(0u32)?.to_dtype(dtype)?.affine(hidden, 0.0)?;
        let padding = padding.reshape((batch, 1, 1, total))?;
        Ok(Some(match causal {
            Some(causal) => causal.broadcast_add(&padding)?,
            None => padding,
        }))
    }
}

struct Layer {
    input_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o: Linear,
    mlp_norm: Norm,
    mlp: SwiGlu,
    head_dim: usize,
}

impl Layer {
    fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        bias: Option<&Tensor>,
        cache: Option<(&mut Cache, usize)>,
        pass: Pass,
    ) -> Result<Tensor> {
        let normed = self.input_norm.forward(x, pass)?;
        let q = self.heads(&self.q, self.q_norm.as_ref(), &normed, pass)?;
        let k = self.heads(&self.k, self.k_norm.as_ref(), &normed, pass)?;
        let v = self.heads(&self.v, None, &normed, pass)?;
        let q = rope.forward(&q, pass)?;
        let k = rope.forward(&k, pass)?;
        let (k, v) = match cache {
            Some((cache, layer)) => cache.append(layer, &k, &v)?,
            None => (k, v),
        };
        let seen = attention([&q, &k, &v], bias, pass)?;
        let seen = self.o.forward(&seen.transpose(1, 2)?.flatten_from(2)?)?;
        let x = (x + seen)?;
        let added = self.mlp.forward(&self.mlp_norm.forward(&x, pass)?)?;
        Ok((x + added)?)
    }

    /// (B, T, D) → (B, heads, T, head_dim), normalised head by head where there is a norm.
    fn heads(
        &self,
        to: &Linear,
        norm: Option<&Norm>,
        x: &Tensor,
        pass: Pass,
    ) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        let split = to.forward(x)?.reshape((batch, length, (), self.head_dim))?;
        let split = match norm {
            Some(norm) => norm.forward(&split, pass)?,
            None => split,
        };
        Ok(split.transpose(1, 2)?.contiguous()?)
    }
}
