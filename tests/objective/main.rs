//! The objective and everything that feeds it. One binary, because linking takes longer
//! than running.

mod log_probs;
mod properties;
mod steps;
mod trl;

use candle_core::{DType, Device::Cpu, Tensor};
use grpo::{Result, gradients, variables::Variables};
use serde::de::DeserializeOwned;

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tensor(rows: &[Vec<f64>], dtype: DType) -> Tensor {
    let shape = (rows.len(), rows[0].len());
    Tensor::from_vec(rows.concat(), shape, &Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Gradients come out the same whether asked of Candle or measured.
fn agree_with_finite_differences(variables: &Variables, loss: impl Fn() -> Result<Tensor>) {
    let gradients = gradients::of(&loss().unwrap(), variables).unwrap();
    let measured = gradients::finite_differences(variables, 1e-5, loss).unwrap();
    for (name, variable) in variables {
        let off = worst(&numbers(gradients.get(variable).unwrap()), &measured[name]);
        assert!(off < 1e-7, "{name}: off by {off:e}");
    }
}
