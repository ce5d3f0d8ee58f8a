//! Models on disk, as Hugging Face keeps them.
//!
//! ```text
//! config.json                      the shape (and generation_config.json: what ends a text)
//! model.safetensors                the weights, or
//! model.safetensors.index.json     which of several files holds which tensor
//! ```
//!
//! A file may come from anywhere, so each tensor's name, type and shape are checked
//! before it is used, and every error names the file.
//!
//! Left out: PyTorch's own `.bin` files, because reading one can run code.

use crate::{
    Result,
    lm::{config::Config, decoder::Decoder},
    variables::Variables,
};
use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, Var, safetensors::Load};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

/// Reads a model, with its weights converted to `dtype`.
///
/// # Errors
/// Names the file, and in it the tensor that is missing, too many, of another type, or of
/// another shape (found and wanted).
///
/// ```
/// use candle_core::{DType, Device};
/// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-qwen2");
/// let decoder = grpo::lm::folder::read(folder.as_ref(), DType::F32, &Device::Cpu).unwrap();
/// assert_eq!((decoder.config().layers, decoder.config().vocab_size), (2, 300));
/// ```
pub fn read(folder: &Path, dtype: DType, device: &Device) -> Result<Decoder> {
    ensure!(dtype.is_float(), "dtype is {dtype:?}; weights need a float type");
    let config = config(folder)?;
    let mut wanted: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
    let mut variables = Variables::new();
    for (file, names) in files(folder)? {
        let path = folder.join(&file);
        let bytes =
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let read_file = || -> Result<Variables> {
            let tensors =
                SafeTensors::deserialize(&bytes).context("not a safetensors file")?;
            let names = names
                .unwrap_or_else(|| tensors.names().into_iter().map(String::from).collect());
            let mut found = Variables::new();
            for name in names {
                let Ok(view) = tensors.tensor(&name) else {
                    bail!("{name} is missing, though the index says it is here")
                };
                if config.tied && name == "lm_head.weight" {
                    same_as_embedding(&tensors, &view)?;
                    continue;
                }
                let shape = wanted.remove(&name);
                let shape =
                    shape.with_context(|| format!("{name} has no place in this model"))?;
                let size = view.shape();
                ensure!(
                    size == shape,
                    "{name} is {size:?}; by config.json it must be {shape:?}"
                );
                let variable = load(&name, &view, dtype, device)?;
                found.insert(name, variable);
            }
            Ok(found)
        };
        variables.extend(read_file().with_context(|| path.display().to_string())?);
    }
    if let Some((name, shape)) = wanted.first_key_value() {
        let (missing, folder) = (wanted.len(), folder.display());
        bail!("{folder}: {missing} tensors are missing, the first is {name} {shape:?}");
    }
    Decoder::from_variables(&config, variables)
}

/// Reads the shape of a model.
///
/// # Errors
/// Names the file, and what in it is missing, wrong or unsupported.
pub fn config(folder: &Path) -> Result<Config> {
    let path = folder.join("config.json");
    let mut config =
        Config::parse(&text(&path)?).with_context(|| path.display().to_string())?;
    // A chat model often ends its turn with another token than its texts.
    let path = folder.join("generation_config.json");
    if path.exists() {
        let value: Value = serde_json::from_str(&text(&path)?)
            .with_context(|| path.display().to_string())?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        config.eos = match value.get("eos_token_id") {
            None | Some(Value::Null) => config.eos,
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
        };
    }
    Ok(config)
}

/// Writes `config.json` and `model.safetensors`, so that [`read`] and transformers can
/// read them.
///
/// # Errors
/// Names the file that cannot be written; refuses a model that is none of the three
/// architectures, or that has adapters (merge them, or write them with
/// [`crate::lm::peft::write`]).
pub fn write(decoder: &Decoder, folder: &Path) -> Result<()> {
    let adapted = decoder.lora().is_some();
    ensure!(!adapted, "this decoder has adapters; merge them, or write them as adapters");
    let describe = || format!("cannot write to {}", folder.display());
    let config = serde_json::to_string_pretty(&to_json(decoder.config())?)?;
    fs::create_dir_all(folder).with_context(describe)?;
    fs::write(folder.join("config.json"), config + "\n").with_context(describe)?;
    let tensors = decoder.weights().iter().map(|(name, v)| (name, v.as_tensor()));
    // transformers refuses a file that does not say this.
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(tensors, Some(format), &path).with_context(describe)
}

fn to_json(config: &Config) -> Result<Value> {
    let (kind, class) = match (config.qkv_bias, config.qk_norm) {
        (false, false) => ("llama", "LlamaForCausalLM"),
        (true, false) => ("qwen2", "Qwen2ForCausalLM"),
        (false, true) => ("qwen3", "Qwen3ForCausalLM"),
        (true, true) => {
            bail!("a model with q/k/v bias and q/k norm is none that others can read")
        }
    };
    Ok(json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tied,
        "eos_token_id": config.eos,
        "hidden_act": "silu",
    }))
}

/// The weight files, each with the tensors it holds, or `None` for all that are in it.
fn files(folder: &Path) -> Result<BTreeMap<String, Option<BTreeSet<String>>>> {
    let single = "model.safetensors".to_string();
    if folder.join(&single).exists() {
        return Ok([(single, None)].into());
    }
    let path = folder.join("model.safetensors.index.json");
    ensure!(
        path.exists(),
        "{}: there is neither {single} nor {single}.index.json",
        folder.display()
    );
    let read_index = || -> Result<BTreeMap<String, Option<BTreeSet<String>>>> {
        let index: Value = serde_json::from_str(&text(&path)?)?;
        let map =
            index.get("weight_map").and_then(Value::as_object).context("no weight_map")?;
        let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, file) in map {
            let file = file.as_str().unwrap_or_default();
            let plain = Path::new(file).file_name().is_some_and(|name| name == file);
            ensure!(plain, "{name} is in `{file}`; it must be in a file of this folder");
            files.entry(file.to_string()).or_default().insert(name.clone());
        }
        Ok(files.into_iter().map(|(file, names)| (file, Some(names))).collect())
    };
    read_index().with_context(|| path.display().to_string())
}

/// One tensor as a variable.
pub(crate) fn load(
    name: &str,
    view: &TensorView,
    dtype: DType,
    device: &Device,
) -> Result<Var> {
    let found = view.dtype();
    ensure!(
        matches!(found, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16),
        "{name} has dtype {found:?}; it must be F64, F32, F16 or BF16"
    );
    Ok(Var::from_tensor(&view.load(device)?.to_dtype(dtype)?)?)
}

/// Some files hold the output layer though it is the embedding; it must then be equal.
fn same_as_embedding(tensors: &SafeTensors, output: &TensorView) -> Result<()> {
    let embedding = tensors.tensor("model.embed_tokens.weight");
    let same =
        embedding.is_ok_and(|e| e.data() == output.data() && e.dtype() == output.dtype());
    ensure!(
        same,
        "lm_head.weight differs from the embedding, but tie_word_embeddings is true"
    );
    Ok(())
}

pub(crate) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
