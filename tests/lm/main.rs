//! The language model against transformers. One binary, because linking takes longer
//! than running.

mod candle_transformers;
mod checkpoint;
mod decoder;
mod generate;
mod learn;
mod lora;
mod ops;
mod optim;
mod parity;
mod shards;
mod student;
mod tokenizer;

use candle_core::{DType, Device::Cpu, Tensor};
use grpo::lm::{config::Config, decoder::Decoder, folder};
use serde_json::Value;
use std::path::PathBuf;

const MODELS: [&str; 3] = ["qwen2", "qwen3", "llama"];

fn path(model: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/fixtures/tiny-{model}", env!("CARGO_MANIFEST_DIR")))
}

fn read(model: &str, dtype: DType) -> Decoder {
    folder::read(&path(model), dtype, &Cpu).unwrap()
}

/// What transformers computed.
fn oracle(model: &str) -> Value {
    let text = std::fs::read_to_string(path(model).join("parity.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn row(ids: &[u32]) -> Tensor {
    Tensor::new(ids, &Cpu).unwrap().unsqueeze(0).unwrap()
}

fn rows(value: &Value) -> Tensor {
    let rows: Vec<Vec<u32>> = serde_json::from_value(value.clone()).unwrap();
    Tensor::new(rows, &Cpu).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the size of `b` where that is above 1.
fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

/// A model of a few hundred numbers with the switches of the given architecture.
fn tiny(model: &str) -> Config {
    Config {
        vocab_size: 7,
        hidden_size: 8,
        intermediate_size: 6,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: if model == "qwen3" { 4 } else { 2 },
        context: 12,
        rope_theta: 100.0,
        rms_norm_eps: 1e-6,
        qkv_bias: model == "qwen2",
        qk_norm: model == "qwen3",
        tied: model == "qwen2",
        eos: vec![0],
    }
}
