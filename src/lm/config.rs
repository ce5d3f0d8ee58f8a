//! What a decoder looks like, and `config.json`, which says it.
//!
//! Qwen2, Qwen3 and Llama are one design with three switches:
//!
//! | | q/k/v bias | q/k norm | head size |
//! |---|---|---|---|
//! | Llama | no | no | hidden / heads, or as given |
//! | Qwen2 | yes | no | hidden / heads |
//! | Qwen3 | no | yes | as given |
//!
//! Left out: sliding windows, scaled rotary embeddings, biases elsewhere, quantised
//! weights, because each changes the arithmetic. A configuration with one is refused.

use crate::Result;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// V, how many tokens there are.
    pub vocab_size: usize,
    /// D, width of the stream that the layers read and write.
    pub hidden_size: usize,
    /// F, width inside the feed-forward part.
    pub intermediate_size: usize,
    /// How many layers.
    pub layers: usize,
    /// H, heads of queries.
    pub heads: usize,
    /// K, heads of keys and values; each serves H / K heads of queries.
    pub kv_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// The longest sequence, prompt and completion together, in tokens.
    pub context: usize,
    /// θ, the base of the rotary angles.
    pub rope_theta: f64,
    /// ε, added to the mean square before its root.
    pub rms_norm_eps: f64,
    /// Whether the projections to queries, keys and values have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether each head's query and key are normalised (Qwen3).
    pub qk_norm: bool,
    /// Whether the output layer is the embedding, transposed.
    pub tied: bool,
    /// The tokens that end a completion.
    pub eos: Vec<u32>,
}

/// `config.json`, as far as it is read here. The rest does not change the arithmetic.
#[derive(Deserialize)]
struct File {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<Value>,
    rope_scaling: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<OneOrMany>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    partial_rotary_factor: Option<f64>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// Names what is missing, what has the wrong type, and what this decoder cannot do.
    ///
    /// ```
    /// let error = grpo::lm::config::Config::parse(r#"{"model_type": "gemma"}"#);
    /// assert!(error.unwrap_err().to_string().contains("model_type is `gemma`"));
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("this is not JSON")?;
        // The architecture first: another one may lack any of the other fields.
        let kind =
            value.get("model_type").and_then(Value::as_str).context("no model_type")?;
        let (qkv_bias, qk_norm) = match kind {
            "llama" => (false, false),
            "qwen2" => (true, false),
            "qwen3" => (false, true),
            other => bail!("model_type is `{other}`; it must be llama, qwen2 or qwen3"),
        };
        let file: File = serde_json::from_value(value)?;
        refuse_unsupported(&file)?;
        let heads = file.num_attention_heads;
        let kv_heads = match file.num_key_value_heads {
            Some(kv_heads) => kv_heads,
            None if file.model_type == "llama" => heads,
            None => bail!("num_key_value_heads is missing"),
        };
        let head_dim = match file.head_dim {
            Some(head_dim) => head_dim,
            None if file.model_type == "qwen3" => bail!("head_dim is missing"),
            None => file.hidden_size / heads.max(1),
        };
        let config = Self {
            vocab_size: file.vocab_size,
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            context: file.max_position_embeddings,
            rope_theta: rope_theta(&file)?,
            rms_norm_eps: file.rms_norm_eps,
            qkv_bias,
            qk_norm,
            tied: file.tie_word_embeddings,
            eos: match file.eos_token_id {
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
                None => Vec::new(),
            },
        };
        config.check()?;
        Ok(config)
    }

    /// Whether the sizes fit together.
    ///
    /// # Errors
    /// Names the size that does not, and what is allowed.
    pub fn check(&self) -> Result<()> {
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("context", self.context),
        ] {
            ensure!(size > 0, "{name} is 0; it must be at least 1");
        }
        let Self { heads, kv_heads, head_dim, .. } = *self;
        ensure!(
            heads.is_multiple_of(kv_heads),
            "there are {heads} heads of queries and {kv_heads} of keys; the first must be a \
             multiple of the second"
        );
        ensure!(head_dim.is_multiple_of(2), "head_dim is {head_dim}; it must be even");
        for (name, value) in
            [("rope_theta", self.rope_theta), ("rms_norm_eps", self.rms_norm_eps)]
        {
            ensure!(value > 0.0, "{name} is {value}; it must be above 0");
        }
        Ok(())
    }

    /// Every tensor of the model with its shape, under its Hugging Face name. A weight
    /// is (outputs, inputs).
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self { vocab_size: v, hidden_size: d, intermediate_size: f, head_dim, .. } =
            *self;
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![v, d])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                all.push((format!("model.layers.{layer}.{name}"), shape));
            };
            add("input_layernorm.weight", vec![d]);
            for (name, outputs) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{name}_proj.weight"), vec![outputs, d]);
                if self.qkv_bias {
                    add(&format!("self_attn.{name}_proj.bias"), vec![outputs]);
                }
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", vec![head_dim]);
                add("self_attn.k_norm.weight", vec![head_dim]);
            }
            add("self_attn.o_proj.weight", vec![d, q]);
            add("post_attention_layernorm.weight", vec![d]);
            add("mlp.gate_proj.weight", vec![f, d]);
            add("mlp.up_proj.weight", vec![f, d]);
            add("mlp.down_proj.weight", vec![d, f]);
        }
        all.push(("model.norm.weight".to_string(), vec![d]));
        if !self.tied {
            all.push(("lm_head.weight".to_string(), vec![v, d]));
        }
        all
    }
}

/// Names the first setting that would change the arithmetic.
fn refuse_unsupported(file: &File) -> Result<()> {
    let rotary = file.partial_rotary_factor.unwrap_or(1.0);
    ensure!(rotary == 1.0, "partial_rotary_factor is {rotary}; only 1 is supported");
    let activation = file.hidden_act.as_deref().unwrap_or("silu");
    ensure!(activation == "silu", "hidden_act is `{activation}`; only silu is supported");
    let dropout = file.attention_dropout;
    ensure!(dropout == 0.0, "attention_dropout is {dropout}; only 0 is supported");
    for (name, on) in [
        ("attention_bias", file.attention_bias),
        ("mlp_bias", file.mlp_bias),
        ("use_sliding_window", file.use_sliding_window),
    ] {
        ensure!(!on, "{name} is true; only false is supported");
    }
    for kind in file.layer_types.iter().flatten() {
        ensure!(
            kind == "full_attention",
            "a layer is `{kind}`; only full_attention is supported"
        );
    }
    ensure!(file.quantization_config.is_none(), "quantised weights are not supported");
    Ok(())
}

/// θ, which newer files keep in `rope_parameters` and older ones at the top. Scaled
/// angles are refused.
fn rope_theta(file: &File) -> Result<f64> {
    for (name, value) in
        [("rope_scaling", &file.rope_scaling), ("rope_parameters", &file.rope_parameters)]
    {
        let Some(value) = value else { continue };
        let kind = ["rope_type", "type"].iter().find_map(|key| value.get(key));
        let kind = kind.and_then(Value::as_str).unwrap_or("default");
        ensure!(kind == "default", "{name} asks for `{kind}`; only `default` is supported");
        let factor = value.get("factor").and_then(Value::as_f64).unwrap_or(1.0);
        ensure!(factor == 1.0, "{name} asks for a factor of {factor}; only 1 is supported");
    }
    let inner = file.rope_parameters.as_ref().and_then(|p| p.get("rope_theta"));
    match (inner.and_then(Value::as_f64), file.rope_theta) {
        (Some(a), Some(b)) if a != b => {
            bail!("rope_theta is {b}, and {a} in rope_parameters; they must agree")
        }
        (Some(theta), _) | (None, Some(theta)) => Ok(theta),
        (None, None) => Ok(10_000.0),
    }
}
