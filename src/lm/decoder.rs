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
        layers::{Norm, Rope, SwiGlu},
        lora::{Linear, Lora},
    },
    log_prob::{self, Scores},
    ops::attention::{Attention, Cached, Tree, slow},
    policy::Policy,
    seed,
    variables::{self, Variables},
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Module, Tensor, Var};
use rand::rngs::StdRng;

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
        let (prompts, prompt) = tokens.dims2().context("tokens must be (B, T)")?;
        let tree = Tree { prompts, prompt, branches: 0, branch: 0 };
        let hidden = self.net.over_tree(&tokens.flatten_all()?, tree, mask)?;
        Ok(self.net.head(&hidden)?.reshape((prompts, prompt, ()))?)
    }

    /// Log-probabilities and entropies of completions: prompts (B, P) and tokens (B, T),
    /// with the mask (B, P) of the prompts where they are padded on the left → (B, T).
    ///
    /// Where neighbouring rows have the same prompt, as in a group, it is read once for
    /// all of them. And only the columns that say something about a completion go through
    /// the output layer, the widest of all.
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
        let group = repeats(prompts, prompt_mask)?;
        let first = |x: &Tensor| -> Result<Tensor> {
            let rows = (0..x.dim(0)? as u32).step_by(group);
            Ok(x.contiguous()?.index_select(&Tensor::from_iter(rows, x.device())?, 0)?)
        };
        let mask = prompt_mask.map(first).transpose()?;
        self.score_groups(&first(prompts)?, mask.as_ref(), tokens, temperature)
    }

    /// [`Decoder::score`] of groups: prompts (P, L), and tokens (P · G, T) of which
    /// G neighbours each complete one prompt.
    ///
    /// # Errors
    /// As [`Decoder::score`].
    pub fn score_groups(
        &self,
        prompts: &Tensor,
        prompt_mask: Option<&Tensor>,
        tokens: &Tensor,
        temperature: f64,
    ) -> Result<Scores> {
        let ((groups, prompt), (rows, length)) = (prompts.dims2()?, tokens.dims2()?);
        ensure!(prompt > 0, "the prompts have no tokens; they must have at least 1");
        ensure!(length > 0, "the completions have no tokens; they must have at least 1");
        ensure!(
            groups > 0 && rows.is_multiple_of(groups),
            "there are {rows} completions of {groups} prompts; each must have as many"
        );
        // The last token predicts nothing that is scored.
        let branch = length - 1;
        let tree = Tree { prompts: groups, prompt, branches: rows / groups, branch };
        let ids = match branch {
            0 => prompts.flatten_all()?,
            _ => Tensor::cat(
                &[prompts.flatten_all()?, tokens.narrow(1, 0, branch)?.flatten_all()?],
                0,
            )?,
        };
        self.net.check_ids(tokens)?;
        let hidden = self.net.over_tree(&ids, tree, prompt_mask)?;
        // The first token follows the prompt, every other one the token before it.
        let speakers = (0..rows).flat_map(|row| {
            let first = row / tree.branches * prompt + prompt - 1;
            let rest = groups * prompt + row * branch;
            std::iter::once(first).chain(rest..rest + branch).map(|row| row as u32)
        });
        let speakers = Tensor::from_iter(speakers, tokens.device())?;
        let logits = self.net.head(&hidden.index_select(&speakers, 0)?)?;
        let logits = logits.reshape((rows, length, ()))?;
        let log_probs = log_prob::at_temperature(&logits, tokens, temperature)?;
        Ok(Scores { log_probs, entropy: Some(log_prob::entropy(&logits, temperature)?) })
    }
}

/// The largest G of which every G neighbouring rows have the same prompt and mask.
fn repeats(prompts: &Tensor, mask: Option<&Tensor>) -> Result<usize> {
    let ids = prompts.to_vec2::<u32>().context("prompts must be ids (B, P)")?;
    let mask = match mask {
        Some(mask) => mask.to_dtype(DType::U8)?.to_vec2::<u8>()?,
        None => vec![Vec::new(); ids.len()],
    };
    let rows: Vec<_> = ids.iter().zip(&mask).collect();
    let runs = rows.chunk_by(|a, b| a == b).map(<[_]>::len);
    let divisor = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    Ok(runs.fold(0, divisor).max(1))
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

/// What the weights are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// A gradient may be wanted.
    Train,
    /// No gradient.
    Sample,
}

/// How the stream is divided for attention.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// The arithmetic, over weights with a gradient or without.
pub(crate) struct Net {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    output: Linear,
    heads: Heads,
    /// θ of the rotary angles.
    theta: f64,
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
            heads: Heads {
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
            },
            theta: config.rope_theta,
            context: config.context,
        })
    }

    /// The stream after the last norm: N tokens, laid out as the tree says → (N, D). The
    /// mask (P, L) says which tokens of the prompts count.
    fn over_tree(&self, ids: &Tensor, tree: Tree, mask: Option<&Tensor>) -> Result<Tensor> {
        let rope = self.rope(0, tree.prompt + tree.branch)?;
        let Heads { heads, kv_heads, .. } = self.heads;
        let (mask, turns) = (mask.cloned(), rope.tables());
        let attention = Attention { tree, heads, kv_heads, mask, turns };
        self.stream(ids, |_, [q, k, v]| attention.forward(&q, &k, &v))
    }

    /// The same for new tokens (B, T) after those in the cache, which then has them too
    /// → (B · T, D). The mask covers both: (B, S).
    pub(crate) fn over_cache(
        &self,
        tokens: &Tensor,
        mask: Option<&Tensor>,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let (batch, length) = tokens.dims2()?;
        let (start, d) = (cache.length, self.heads.head_dim);
        let rope = self.rope(start, length)?;
        let Heads { heads, kv_heads, .. } = self.heads;
        let attention =
            Cached { heads, kv_heads, mask: mask.cloned(), turns: rope.tables() };
        let out = self.stream(&tokens.flatten_all()?, |layer, [q, k, v]| {
            let k = rope.forward(&slow::split(&k, batch, d)?)?;
            let (k, v) = cache.append(layer, &k, &slow::split(&v, batch, d)?)?;
            attention.forward(&q, &k, &v)
        })?;
        cache.length = start + length;
        Ok(out)
    }

    /// The turns of the positions from `start`, as many as `length`.
    fn rope(&self, start: usize, length: usize) -> Result<Rope> {
        let (total, context) = (start + length, self.context);
        ensure!(total <= context, "{total} tokens do not fit the context of {context}");
        let angles = (self.heads.head_dim, self.theta);
        Rope::new([start, length], angles, self.embedding.dtype(), self.embedding.device())
    }

    /// Everything but attention, which is the same for every token: ids (N) → (N, D).
    /// `attend` gets the layer's number and its queries, keys and values (N, …).
    fn stream(
        &self,
        ids: &Tensor,
        mut attend: impl FnMut(usize, [Tensor; 3]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.check_ids(ids)?;
        let mut x = self.embedding.index_select(ids, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, |qkv| attend(index, qkv))?;
        }
        self.norm.forward(&x)
    }

    /// The output layer: (…, D) → (…, V). Of half precision it makes single precision: a
    /// log-probability with three digits would be a useless ratio.
    pub(crate) fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.output.forward(&hidden.contiguous()?)?;
        Ok(logits.to_dtype(score_dtype(logits.dtype()))?)
    }

    fn check_ids(&self, tokens: &Tensor) -> Result<()> {
        let dtype = tokens.dtype();
        ensure!(tokens.elem_count() > 0, "there are no tokens");
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
    /// x (N, D) → (N, D).
    fn forward(
        &self,
        x: &Tensor,
        attend: impl FnOnce([Tensor; 3]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let normed = self.input_norm.forward(x)?;
        let q = self.by_head(self.q_norm.as_ref(), self.q.forward(&normed)?)?;
        let k = self.by_head(self.k_norm.as_ref(), self.k.forward(&normed)?)?;
        let v = self.v.forward(&normed)?;
        let x = (x + self.o.forward(&attend([q, k, v])?)?)?;
        let added = self.mlp.forward(&self.mlp_norm.forward(&x)?)?;
        Ok((x + added)?)
    }

    /// x (N, heads · head_dim), normalised head by head where there is a norm.
    fn by_head(&self, norm: Option<&Norm>, x: Tensor) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        let (n, width) = x.dims2()?;
        Ok(norm.forward(&x.reshape((n, (), self.head_dim))?)?.reshape((n, width))?)
    }
}
