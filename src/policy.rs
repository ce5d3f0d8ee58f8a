//! A policy turns what it sees into logits over its choices.
//!
//! [`Table`] keeps one row of logits for each state. It can represent every policy of
//! a small world exactly, which makes it the first teaching model and, later, the
//! double that stands in for a language model in tests.
//!
//! Left out: a method that samples. Sampling needs logits and a generator, not a policy.

use crate::{
    Result,
    variables::{Init, Variables},
};
use candle_core::{DType, Device, Tensor, Var};
use rand::rngs::StdRng;

/// Something that chooses, and can be trained.
pub trait Policy {
    /// Logits of the choices, one row for each input. What an input is, the policy
    /// says: state ids (B) for a table, features (B, F) for a network, tokens (B, T)
    /// for a language model, whose logits are (B, T, V).
    ///
    /// # Errors
    /// When the input does not have the shape that the policy reads.
    fn logits(&self, input: &Tensor) -> Result<Tensor>;

    /// All trainable tensors.
    fn variables(&self) -> &Variables;
}

/// A table of logits (S, A): one row for each of S states, one column for each of A
/// actions. Reads state ids (B) of dtype `U32`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use grpo::policy::{Policy, Table};
/// let logits = Tensor::new(&[[1.0f64, 0.5, -0.5]], &Device::Cpu).unwrap();
/// let policy = Table::from_logits(&logits).unwrap();
/// let state = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
/// assert_eq!(policy.logits(&state).unwrap().dims(), [2, 3]);
/// ```
pub struct Table {
    logits: Tensor,
    variables: Variables,
}

impl Table {
    /// A table that starts from the given logits (S, A).
    ///
    /// # Errors
    /// Passes on Candle's error when the variable cannot be made.
    pub fn from_logits(logits: &Tensor) -> Result<Self> {
        let variable = Var::from_tensor(logits)?;
        let logits = variable.as_tensor().clone();
        Ok(Self { logits, variables: Variables::from([("logits".to_string(), variable)]) })
    }

    /// A table of zeros: every action is equally likely in every state.
    ///
    /// # Errors
    /// Passes on Candle's error when the variable cannot be made.
    pub fn uniform(
        states: usize,
        actions: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Self::from_logits(&Tensor::zeros((states, actions), dtype, device)?)
    }
}

impl Policy for Table {
    fn logits(&self, states: &Tensor) -> Result<Tensor> {
        Ok(self.logits.index_select(states, 0)?)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}

/// A network with one hidden layer: features (B, F) → logits (B, A).
///
/// ```text
/// logits = tanh(x W₁ᵀ + b₁) W₂ᵀ + b₂
/// ```
///
/// Weights start normal with standard deviation 1/√inputs, the last layer a hundred
/// times smaller, so that a fresh policy is close to uniform.
pub struct Mlp {
    hidden: candle_nn::Linear,
    output: candle_nn::Linear,
    variables: Variables,
}

impl Mlp {
    /// A fresh network with the given numbers of features, hidden units and actions.
    ///
    /// # Errors
    /// Passes on Candle's error when a variable cannot be made.
    pub fn new(
        [features, hidden, actions]: [usize; 3],
        rng: &mut StdRng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut init = Init::new(rng, dtype, device);
        let std = |inputs: usize| 1.0 / (inputs as f64).sqrt();
        init.normal("hidden.weight", (hidden, features), std(features))?;
        init.zeros("hidden.bias", hidden)?;
        init.normal("output.weight", (actions, hidden), 0.01 * std(hidden))?;
        init.zeros("output.bias", actions)?;
        Ok(Self::from_variables(init.finish()))
    }

    /// A second network with the same numbers, which then goes its own way: what a
    /// policy starts from and what it is compared with must not share variables.
    ///
    /// # Errors
    /// Passes on Candle's error when a variable cannot be made.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use grpo::policy::{Mlp, Policy};
    /// let policy = Mlp::new([8, 32, 10], &mut grpo::seed::rng(0), DType::F32, &Device::Cpu).unwrap();
    /// let reference = policy.copy().unwrap();
    /// let bias = &policy.variables()["output.bias"];
    /// bias.set(&bias.ones_like().unwrap()).unwrap();
    /// let kept = reference.variables()["output.bias"].to_vec1::<f32>().unwrap();
    /// assert_eq!(kept, [0.0; 10]);
    /// ```
    pub fn copy(&self) -> Result<Self> {
        let copy = |(name, variable): (&String, &Var)| {
            Ok((name.clone(), Var::from_tensor(&variable.as_tensor().copy()?)?))
        };
        Ok(Self::from_variables(self.variables.iter().map(copy).collect::<Result<_>>()?))
    }

    fn from_variables(variables: Variables) -> Self {
        let layer = |name: &str| {
            let tensor =
                |part: &str| variables[&format!("{name}.{part}")].as_tensor().clone();
            candle_nn::Linear::new(tensor("weight"), Some(tensor("bias")))
        };
        Self { hidden: layer("hidden"), output: layer("output"), variables }
    }
}

impl Policy for Mlp {
    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        use candle_core::Module;
        let hidden = self.hidden.forward(features)?.tanh()?;
        Ok(self.output.forward(&hidden)?)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}
