//! Gradients that are really there.
//!
//! In Candle a variable that the loss does not reach gets no gradient, and nothing
//! says so: the optimiser skips it and the loss may still fall. [`of`] runs the
//! backward pass and refuses with the name of every such variable. It is the canary
//! of this book: every training step goes through it.
//!
//! [`finite_differences`] is the other half of the proof: a gradient that exists can
//! still be wrong.
//!
//! Left out: a training loop. Four lines in a chapter show more than a `Trainer` hides.

use crate::{Result, variables::Variables};
use anyhow::{bail, ensure};
use candle_core::{DType, Tensor, backprop::GradStore};
use std::collections::BTreeMap;

/// The gradients of the scalar `loss` with respect to all `variables`.
///
/// # Errors
/// Names every variable without a gradient; refuses a loss that is not one finite number.
/// A factor that is the plain number 0 makes Candle drop the gradient as well: a reward
/// that may be 0 belongs in a tensor.
///
/// ```
/// use candle_core::{DType, Device};
/// let mut rng = grpo::seed::rng(0);
/// let mut init = grpo::variables::Init::new(&mut rng, DType::F64, &Device::Cpu);
/// let used = init.normal("used", 3, 1.0).unwrap();
/// let _forgotten = init.normal("forgotten", 3, 1.0).unwrap();
/// let variables = init.finish();
/// let loss = used.sqr().unwrap().sum_all().unwrap();
/// let error = grpo::gradients::of(&loss, &variables).err().unwrap().to_string();
/// assert_eq!(error, "1 of 2 variables got no gradient: forgotten");
/// ```
// ANCHOR: of
pub fn of(loss: &Tensor, variables: &Variables) -> Result<GradStore> {
    ensure!(
        loss.elem_count() == 1,
        "a loss is one number; this one has shape {:?}",
        loss.shape()
    );
    let value = loss.flatten_all()?.get(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    ensure!(value.is_finite(), "the loss is {value}; it must be a finite number");
    let gradients = loss.backward()?;
    let missing: Vec<&str> = variables
        .iter()
        .filter(|(_, variable)| gradients.get(variable).is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let (count, total) = (missing.len(), variables.len());
        bail!("{count} of {total} variables got no gradient: {}", missing.join(", "));
    }
    Ok(gradients)
}
// ANCHOR_END: of

/// The Euclidean norm of all gradients together.
///
/// # Errors
/// Names a variable without a gradient.
pub fn norm(gradients: &GradStore, variables: &Variables) -> Result<f64> {
    let mut sum = 0.0;
    for (name, variable) in variables {
        let Some(gradient) = gradients.get(variable) else {
            bail!("variable {name} got no gradient");
        };
        sum += gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum.sqrt())
}

/// Scales all gradients so that their norm is at most `max_norm`; returns the norm
/// before. The direction does not change.
///
/// # Errors
/// Refuses a norm that is not finite, and names a variable without a gradient.
pub fn clip_norm(
    gradients: &mut GradStore,
    variables: &Variables,
    max_norm: f64,
) -> Result<f64> {
    ensure!(max_norm > 0.0, "max_norm is {max_norm}; it must be above 0");
    let norm = norm(gradients, variables)?;
    ensure!(
        norm.is_finite(),
        "the gradient norm is {norm}; the step would spoil every variable"
    );
    if norm > max_norm {
        for variable in variables.values() {
            if let Some(gradient) = gradients.get(variable) {
                let scaled = (gradient * (max_norm / norm))?;
                gradients.insert(variable, scaled);
            }
        }
    }
    Ok(norm)
}

/// The gradient of `loss` by central differences: each number of each variable is
/// moved by ±`step` in turn, (f(θ + h) − f(θ − h)) / 2h. Slow, and independent of
/// autograd. Variables should be `F64`; `step` 1e-5 then leaves an error near 1e-10.
///
/// # Errors
/// Passes on the errors of `loss`; the variables are put back in any case.
pub fn finite_differences(
    variables: &Variables,
    step: f64,
    loss: impl Fn() -> Result<Tensor>,
) -> Result<BTreeMap<String, Vec<f64>>> {
    let value =
        || Ok::<f64, anyhow::Error>(loss()?.to_dtype(DType::F64)?.to_scalar::<f64>()?);
    let mut all = BTreeMap::new();
    for (name, variable) in variables {
        let before = variable.as_tensor().copy()?;
        let numbers = before.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let moved = |index: usize, by: f64| -> Result<f64> {
            let mut numbers = numbers.clone();
            numbers[index] += by;
            let tensor = Tensor::from_vec(numbers, before.shape(), before.device())?;
            variable.set(&tensor.to_dtype(before.dtype())?)?;
            value()
        };
        let gradient: Result<Vec<f64>> = (0..numbers.len())
            .map(|i| Ok((moved(i, step)? - moved(i, -step)?) / (2.0 * step)))
            .collect();
        variable.set(&before)?;
        all.insert(name.clone(), gradient?);
    }
    Ok(all)
}
