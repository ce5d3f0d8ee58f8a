//! The trainable tensors of a policy, by name and sorted by name.
//!
//! Candle's own `VarMap` hands its variables out in a different order in every
//! process. Sums over them (a gradient norm, say) would then differ in the last digit
//! from run to run, so every policy in this book keeps a [`Variables`] instead.
//!
//! Left out: loading and saving, which is the business of checkpoints.

use crate::{Result, seed};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Shape, Tensor, Var};
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Trainable tensors, sorted by name.
pub type Variables = BTreeMap<String, Var>;

/// Makes variables and remembers them under their names.
///
/// ```
/// use candle_core::{DType, Device};
/// let mut rng = grpo::seed::rng(0);
/// let mut init = grpo::variables::Init::new(&mut rng, DType::F32, &Device::Cpu);
/// init.normal("weight", (10, 4), 0.1).unwrap();
/// init.zeros("bias", 10).unwrap();
/// let variables = init.finish();
/// assert_eq!(variables.keys().collect::<Vec<_>>(), ["bias", "weight"]);
/// assert_eq!(grpo::variables::count(&variables), 50);
/// ```
pub struct Init<'a> {
    rng: &'a mut StdRng,
    dtype: DType,
    device: Device,
    variables: Variables,
}

impl<'a> Init<'a> {
    /// Draws from `rng`, in the order in which the variables are asked for.
    pub fn new(rng: &'a mut StdRng, dtype: DType, device: &Device) -> Self {
        let (device, variables) = (device.clone(), Variables::new());
        Self { rng, dtype, device, variables }
    }

    /// A variable of normal numbers with standard deviation `std`.
    ///
    /// # Errors
    /// Passes on Candle's error when the tensor cannot be made.
    pub fn normal(
        &mut self,
        name: &str,
        shape: impl Into<Shape>,
        std: f64,
    ) -> Result<Tensor> {
        let values = seed::normal(self.rng, shape, std, self.dtype, &self.device)?;
        self.insert(name, values)
    }

    /// A variable of zeros.
    ///
    /// # Errors
    /// Passes on Candle's error when the tensor cannot be made.
    pub fn zeros(&mut self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let zeros = Tensor::zeros(shape, self.dtype, &self.device)?;
        self.insert(name, zeros)
    }

    /// The variables made so far.
    pub fn finish(self) -> Variables {
        self.variables
    }

    fn insert(&mut self, name: &str, values: Tensor) -> Result<Tensor> {
        let variable = Var::from_tensor(&values)?;
        // A `Var` and its tensor share storage: the tensor follows every later update.
        let tensor = variable.as_tensor().clone();
        let before = self.variables.insert(name.to_string(), variable);
        ensure!(before.is_none(), "there are two variables named `{name}`");
        Ok(tensor)
    }
}

/// How many numbers the variables hold together.
pub fn count(variables: &Variables) -> usize {
    variables.values().map(|v| v.elem_count()).sum()
}

/// Whether these are the variables that a model needs: names and shapes.
///
/// # Errors
/// Names the variable that is missing or too many, or that has another shape than it must.
pub fn check(variables: &Variables, wanted: &[(String, Vec<usize>)]) -> Result<()> {
    for (name, shape) in wanted {
        let found = variables.get(name).with_context(|| format!("there is no {name}"))?;
        let found = found.dims();
        ensure!(found == shape, "{name} is {found:?}; it must be {shape:?}");
    }
    let extra = variables.keys().find(|name| !wanted.iter().any(|(w, _)| w == *name));
    ensure!(extra.is_none(), "{} has no place in this model", extra.map_or("", |n| n));
    Ok(())
}
