//! Adapters on disk, as PEFT keeps them: either side reads what the other has trained.
//!
//! ```text
//! adapter_config.json          r, α, which layers
//! adapter_model.safetensors    base_model.model.….lora_A.weight (r, in)
//!                              base_model.model.….lora_B.weight (out, r)
//! ```
//!
//! Left out: PEFT's other methods, and its settings that change the arithmetic of this
//! one. A file that asks for one is refused by name.

use crate::{
    Result,
    lm::{
        config::Config,
        folder::{load, text},
        lora::{Lora, Settings},
    },
    report::write_atomically,
    variables::Variables,
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT wraps the model twice, and the names say so.
const PREFIX: &str = "base_model.model.";

/// Writes the adapters. `base` names the model that they belong to, which PEFT loads
/// first: a folder, or a name on the Hugging Face hub.
///
/// # Errors
/// Names the file that cannot be written. What was there before is then untouched.
pub fn write(lora: &Lora, base: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    let Settings { rank, alpha, targets } = lora.settings();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": targets,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    let tensors = lora.variables().iter();
    let tensors = tensors.map(|(name, v)| (format!("{PREFIX}{name}"), v.as_tensor()));
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_atomically(
        &folder.join(WEIGHTS),
        &safetensors::serialize(tensors, Some(format))?,
    )?;
    let config = serde_json::to_string_pretty(&config)? + "\n";
    write_atomically(&folder.join(CONFIG), config.as_bytes())
}

/// Reads adapters for a decoder of this shape, with their numbers converted to `dtype`.
///
/// # Errors
/// Names the file, and in it the setting that is missing or not supported, or the tensor
/// that is missing, too many, of another type, or of another shape (found and wanted).
pub fn read(folder: &Path, config: &Config, dtype: DType, device: &Device) -> Result<Lora> {
    let path = folder.join(CONFIG);
    let settings = settings(&text(&path)?).with_context(|| path.display().to_string())?;
    let path = folder.join(WEIGHTS);
    let bytes =
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let read_file = || -> Result<Lora> {
        let tensors = SafeTensors::deserialize(&bytes).context("not a safetensors file")?;
        let mut variables = Variables::new();
        for (name, view) in tensors.iter() {
            let short = name
                .strip_prefix(PREFIX)
                .with_context(|| format!("{name} does not begin with {PREFIX}"))?;
            variables.insert(short.to_string(), load(name, &view, dtype, device)?);
        }
        Lora::from_variables(settings, config, variables)
    };
    read_file().with_context(|| path.display().to_string())
}

/// `adapter_config.json`, as far as it is read here.
#[derive(Deserialize)]
struct File {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Value,
    bias: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Settings that do not change the arithmetic. Any other must be absent, null, false or
/// empty: what is not known here is refused and not guessed.
const HARMLESS: [&str; 10] = [
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "lora_dropout",
    "auto_mapping",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "peft_version",
];

fn settings(text: &str) -> Result<Settings> {
    let file: File = serde_json::from_str(text)?;
    let kind = &file.peft_type;
    ensure!(kind == "LORA", "peft_type is `{kind}`; only LORA is supported");
    let bias = file.bias.as_deref().unwrap_or("none");
    ensure!(bias == "none", "bias is `{bias}`; only none is supported");
    for (name, value) in file.rest.iter().filter(|(n, _)| !HARMLESS.contains(&n.as_str())) {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            // Other starts than PEFT's own change the base as well.
            Value::Bool(true) => name == "init_lora_weights",
            Value::String(start) => name == "init_lora_weights" && start == "gaussian",
            Value::Number(_) => false,
        };
        ensure!(empty, "{name} is {value}; this is not supported");
    }
    let targets = file.target_modules;
    let targets = serde_json::from_value(targets.clone()).with_context(|| {
        format!("target_modules is {targets}; it must be a list of names")
    })?;
    Ok(Settings { rank: file.r, alpha: file.lora_alpha, targets })
}
