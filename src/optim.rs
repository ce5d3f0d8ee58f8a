//! AdamW with a state that has names, so that a run can stop and go on as if it had not.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! θ ← θ (1 − lr · λ) − lr · m̂ / (√v̂ + ε)      m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//! ```
//!
//! Candle's own AdamW computes the same bits but keeps m and v to itself: weights
//! reloaded without them take other steps. This one can be used wherever Candle's is,
//! through [`candle_nn::Optimizer`].
//!
//! Left out: groups of variables with settings of their own, because one group is enough
//! for every model of this book.

use crate::{Result, variables::Variables};
use anyhow::{Context, ensure};
use candle_core::{Result as CandleResult, Tensor, Var, backprop::GradStore};
use candle_nn::{Optimizer, ParamsAdamW};
use std::{collections::BTreeMap, f64::consts::PI};

/// The optimiser, and what it remembers of each variable.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_nn::{Optimizer, ParamsAdamW};
/// use grpo::{gradients, optim::AdamW, variables::Variables};
/// # fn main() -> grpo::Result<()> {
/// let weight = Var::from_tensor(&Tensor::new(&[1.0f64], &Device::Cpu)?)?;
/// let variables = Variables::from([("weight".to_string(), weight.clone())]);
/// let settings = ParamsAdamW { lr: 0.1, weight_decay: 0.0, ..Default::default() };
/// let mut optimizer = AdamW::new(&variables, settings)?;
/// let loss = weight.sqr()?.sum_all()?;
/// optimizer.step(&gradients::of(&loss, &variables)?)?;
/// // The first step is the learning rate, whatever the gradient's size.
/// assert!((weight.to_vec1::<f64>()?[0] - 0.9).abs() < 1e-8);
/// assert_eq!(optimizer.state().keys().collect::<Vec<_>>(), ["m.weight", "v.weight"]);
/// # Ok(())
/// # }
/// ```
pub struct AdamW {
    entries: BTreeMap<String, Entry>,
    settings: ParamsAdamW,
    steps: usize,
}

struct Entry {
    variable: Var,
    m: Tensor,
    v: Tensor,
}

impl AdamW {
    /// An optimiser that has not stepped yet.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn new(variables: &Variables, settings: ParamsAdamW) -> Result<Self> {
        for (name, beta) in [("beta1", settings.beta1), ("beta2", settings.beta2)] {
            ensure!(
                (0.0..1.0).contains(&beta),
                "{name} is {beta}; it must be from 0 to below 1"
            );
        }
        for (name, value) in [("lr", settings.lr), ("weight_decay", settings.weight_decay)]
        {
            let good = value.is_finite() && value >= 0.0;
            ensure!(good, "{name} is {value}; it must be at least 0");
        }
        ensure!(settings.eps > 0.0, "eps is {}; it must be above 0", settings.eps);
        let entry = |(name, variable): (&String, &Var)| {
            let (m, v) = (variable.zeros_like()?, variable.zeros_like()?);
            Ok((name.clone(), Entry { variable: variable.clone(), m, v }))
        };
        let entries = variables.iter().map(entry).collect::<Result<_>>()?;
        Ok(Self { entries, settings, steps: 0 })
    }

    /// t, the steps taken so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// m and v of every variable, named `m.…` and `v.…`. With [`AdamW::steps`] they are
    /// all that a resumed run needs.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let pair = |(name, entry): (&String, &Entry)| {
            [(format!("m.{name}"), entry.m.clone()), (format!("v.{name}"), entry.v.clone())]
        };
        self.entries.iter().flat_map(pair).collect()
    }

    /// Goes on from a saved state. Nothing changes when it is refused.
    ///
    /// # Errors
    /// Names the tensor that is missing, too many, or of another shape or type.
    pub fn restore(
        &mut self,
        mut state: BTreeMap<String, Tensor>,
        steps: usize,
    ) -> Result<()> {
        let mut restored = Vec::with_capacity(self.entries.len());
        for (name, entry) in &self.entries {
            let mut take = |kind: &str| -> Result<Tensor> {
                let name = format!("{kind}.{name}");
                let found =
                    state.remove(&name).with_context(|| format!("there is no {name}"))?;
                let (wanted, dtype) = (entry.m.dims(), entry.m.dtype());
                ensure!(
                    found.dims() == wanted && found.dtype() == dtype,
                    "{name} is {:?} {:?}; it must be {wanted:?} {dtype:?}",
                    found.dims(),
                    found.dtype()
                );
                Ok(found.to_device(entry.m.device())?)
            };
            restored.push((take("m")?, take("v")?));
        }
        if let Some(name) = state.keys().next() {
            anyhow::bail!("{name} belongs to no variable");
        }
        for (entry, (m, v)) in self.entries.values_mut().zip(restored) {
            (entry.m, entry.v) = (m, v);
        }
        self.steps = steps;
        Ok(())
    }
}

impl Optimizer for AdamW {
    type Config = ParamsAdamW;

    /// Variables without names get their number as name.
    fn new(variables: Vec<Var>, settings: ParamsAdamW) -> CandleResult<Self> {
        let named = variables.into_iter().enumerate();
        let named =
            named.map(|(index, variable)| (format!("{index:05}"), variable)).collect();
        Self::new(&named, settings).map_err(|e| candle_core::Error::Msg(e.to_string()))
    }

    /// Skips a variable without a gradient, as Candle does; [`crate::gradients::of`]
    /// refuses such gradients before they come here.
    fn step(&mut self, gradients: &GradStore) -> CandleResult<()> {
        self.steps += 1;
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self.settings;
        let scale = |beta: f64| 1.0 / (1.0 - beta.powi(self.steps as i32));
        let (scale_m, scale_v) = (scale(beta1), scale(beta2));
        for Entry { variable, m, v } in self.entries.values_mut() {
            let Some(g) = gradients.get(variable) else { continue };
            *m = ((&*m * beta1)? + (g * (1.0 - beta1))?)?;
            *v = ((&*v * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
            let direction = ((&*m * scale_m)? / ((&*v * scale_v)?.sqrt()? + eps)?)?;
            let decayed = (variable.as_tensor() * (1.0 - lr * weight_decay))?;
            variable.set(&(decayed - (direction * lr)?)?)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.settings.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.settings.lr = lr;
    }
}

/// The factor of the learning rate at a step counted from 0: a straight rise over
/// `warm_up` steps, then half a cosine from 1 down to `floor` at the last of `steps`.
///
/// ```
/// let factor = |step| grpo::optim::warm_up_cosine(step, 2, 12, 0.1);
/// assert_eq!([0, 1, 2].map(factor), [0.5, 1.0, 1.0]);
/// assert!((factor(11) - 0.1).abs() < 1e-12);
/// assert_eq!(factor(50), factor(11));
/// ```
pub fn warm_up_cosine(step: usize, warm_up: usize, steps: usize, floor: f64) -> f64 {
    if step < warm_up {
        return (step + 1) as f64 / warm_up as f64;
    }
    let length = steps.saturating_sub(warm_up + 1).max(1) as f64;
    let done = ((step - warm_up) as f64 / length).min(1.0);
    floor + (1.0 - floor) * 0.5 * (1.0 + (PI * done).cos())
}
