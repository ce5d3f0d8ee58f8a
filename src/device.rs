//! The device a run computes on, chosen once by name: `cpu`, `cuda`, `cuda:1`, `metal`.
//!
//! No other function of the library names a device. A tensor carries its own, and
//! new tensors are made on the device of the tensors beside them.
//!
//! Left out: choosing a device automatically, because a run should print the same
//! numbers whether or not the machine has a GPU.

use crate::Result;
use anyhow::{Context, bail};
use candle_core::Device;

/// Reads a device from its name: `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// `cuda` and `metal` need the feature of the same name, and the hardware.
///
/// # Errors
/// Says what is allowed, or which feature is missing, or what the driver answered.
///
/// ```
/// assert!(grpo::device::parse("cpu").unwrap().is_cpu());
/// let error = grpo::device::parse("gpu").unwrap_err().to_string();
/// assert!(error.contains("cpu, cuda, cuda:N or metal"));
/// ```
pub fn parse(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind @ "cuda", index)) => {
            let index = index.parse::<usize>().ok();
            (kind, index.with_context(|| unknown(name))?)
        }
        _ => (name, 0),
    };
    match kind {
        "cpu" => Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(index)
            .with_context(|| format!("cannot open CUDA device {index}")),
        "metal" if cfg!(feature = "metal") => {
            Device::new_metal(0).context("cannot open the Metal device")
        }
        "cuda" | "metal" => bail!(
            "this program was built without `{kind}`; build it with `cargo run --features {kind} …`"
        ),
        _ => bail!(unknown(name)),
    }
}

fn unknown(name: &str) -> String {
    format!("there is no device `{name}`; it must be cpu, cuda, cuda:N or metal")
}
