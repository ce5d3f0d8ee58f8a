//! LoRA: leave the weights alone, and train a small addition to some of them.
//!
//! ```text
//! y = W x + (α / r) · B A x          W (out, in) frozen;  A (r, in) and B (out, r) trained
//! ```
//!
//! The addition has rank r and therefore r · (in + out) numbers in place of in · out. B
//! starts at 0, so that an adapted model starts as the model it adapts (Hu et al., 2021).
//! And that model is still there: as the reference of a KL it needs no second copy.
//!
//! Left out: dropout before A, and variants that scale otherwise, because plain LoRA does
//! what a policy update needs.

use crate::{
    Result,
    lm::config::Config,
    ops, seed,
    variables::{self, Variables},
};
use anyhow::{Context, ensure};
use candle_core::{DType, Device, Module, Result as CandleResult, Tensor, Var};
use rand::rngs::StdRng;

/// What can be adapted, by the last part of its name.
const TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
/// What stands behind the name of a layer.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// How large the addition is, and what it is added to.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// r, the rank.
    pub rank: usize,
    /// α: the addition is scaled by α / r.
    pub alpha: f64,
    /// What is adapted in every layer of the decoder: some of `q_proj`, `k_proj`,
    /// `v_proj`, `o_proj`, `gate_proj`, `up_proj` and `down_proj`.
    pub targets: Vec<String>,
}

impl Settings {
    /// α / r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Every A (r, in) and B (out, r), under the name of its layer with
    /// `.lora_A.weight` or `.lora_B.weight` behind.
    ///
    /// # Errors
    /// Names the setting out of range, or the target that is no layer of the decoder.
    pub fn tensors(&self, config: &Config) -> Result<Vec<(String, Vec<usize>)>> {
        let Self { rank, alpha, ref targets } = *self;
        ensure!(rank > 0, "rank is 0; it must be at least 1");
        ensure!(alpha.is_finite() && alpha > 0.0, "alpha is {alpha}; it must be above 0");
        ensure!(!targets.is_empty(), "there are no targets; there must be at least 1");
        for target in targets {
            ensure!(
                TARGETS.contains(&target.as_str()),
                "there is no layer `{target}` to adapt; it must be one of {}",
                TARGETS.join(", ")
            );
        }
        let mut all = Vec::new();
        for (name, shape) in config.tensors() {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            let last = layer.rsplit('.').next().unwrap_or_default();
            if let ([outputs, inputs], true) =
                (&shape[..], targets.iter().any(|target| target == last))
            {
                all.push((format!("{layer}{A}"), vec![rank, *inputs]));
                all.push((format!("{layer}{B}"), vec![*outputs, rank]));
            }
        }
        Ok(all)
    }
}

/// The adapters of one decoder.
///
/// ```
/// use candle_core::{DType, Device::Cpu, Tensor};
/// use grpo::{lm::{folder, lora::{Lora, Settings}}, policy::Policy, seed, variables};
/// # fn main() -> grpo::Result<()> {
/// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-qwen2");
/// let base = folder::read(folder.as_ref(), DType::F32, &Cpu)?;
/// let targets = ["q_proj", "v_proj"].map(String::from).to_vec();
/// let settings = Settings { rank: 2, alpha: 4.0, targets };
/// let lora = Lora::new(settings, base.config(), &mut seed::rng(0), DType::F32, &Cpu)?;
/// let policy = base.adapted(lora)?;
/// // Two layers, each with 2 · (64 + 64) numbers for q and 2 · (64 + 32) for v.
/// assert_eq!(variables::count(policy.variables()), 2 * (256 + 192));
/// // B is 0, so nothing has changed yet.
/// let tokens = Tensor::new(&[[5u32, 6, 7]], &Cpu)?;
/// let difference = (policy.logits(&tokens)? - base.logits(&tokens)?)?.abs()?;
/// assert_eq!(difference.max_all()?.to_scalar::<f32>()?, 0.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Lora {
    settings: Settings,
    variables: Variables,
}

impl Lora {
    /// Fresh adapters: A normal with standard deviation 1/√in, B 0.
    ///
    /// # Errors
    /// As [`Settings::tensors`].
    pub fn new(
        settings: Settings,
        config: &Config,
        rng: &mut StdRng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut variables = Variables::new();
        for (name, shape) in settings.tensors(config)? {
            let std = 1.0 / (shape[1] as f64).sqrt();
            let values = match name.ends_with(A) {
                true => seed::normal(rng, shape, std, dtype, device)?,
                false => Tensor::zeros(shape, dtype, device)?,
            };
            variables.insert(name, Var::from_tensor(&values)?);
        }
        Ok(Self { settings, variables })
    }

    /// Adapters of these variables, which are trained in place.
    ///
    /// # Errors
    /// As [`Settings::tensors`] and [`variables::check`].
    pub fn from_variables(
        settings: Settings,
        config: &Config,
        variables: Variables,
    ) -> Result<Self> {
        variables::check(&variables, &settings.tensors(config)?)?;
        Ok(Self { settings, variables })
    }

    /// How large the adapters are, and where.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All A and B.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Adds (α / r) · B A to the weights, in place: a plain decoder of these weights then
    /// computes what the adapted one did.
    ///
    /// # Errors
    /// Names the weight that is missing or has another shape; no weight has changed then.
    pub fn merge(&self, weights: &Variables) -> Result<()> {
        self.add_to(weights, self.settings.scale())
    }

    /// Takes off what [`Lora::merge`] added, up to rounding.
    ///
    /// # Errors
    /// As [`Lora::merge`].
    pub fn unmerge(&self, weights: &Variables) -> Result<()> {
        self.add_to(weights, -self.settings.scale())
    }

    fn add_to(&self, weights: &Variables, scale: f64) -> Result<()> {
        let mut sums = Vec::new();
        for (name, a) in &self.variables {
            let Some(layer) = name.strip_suffix(A) else { continue };
            let (b, name) =
                (&self.variables[&format!("{layer}{B}")], format!("{layer}.weight"));
            let weight =
                weights.get(&name).with_context(|| format!("there is no {name}"))?;
            let (found, wanted) = (weight.dims(), [b.dim(0)?, a.dim(1)?]);
            ensure!(found == wanted, "{name} is {found:?}; it must be {wanted:?}");
            let product = b.as_detached_tensor().matmul(&a.as_detached_tensor())?;
            sums.push((weight, (weight.as_detached_tensor() + (product * scale)?)?));
        }
        for (weight, sum) in sums {
            weight.set(&sum)?;
        }
        Ok(())
    }

    /// The adapter of one layer, if it has one. `view` takes the tensor of a variable,
    /// with a gradient or without.
    pub(crate) fn adapter(
        &self,
        layer: &str,
        view: impl Fn(&Var) -> Tensor,
    ) -> Option<Adapter> {
        let part = |part: &str| {
            let variable = self.variables.get(&format!("{layer}{part}"))?;
            Some(candle_nn::Linear::new(view(variable), None))
        };
        Some(Adapter { a: part(A)?, b: part(B)?, scale: self.settings.scale() })
    }
}

/// A and B of one layer.
pub(crate) struct Adapter {
    a: candle_nn::Linear,
    b: candle_nn::Linear,
    scale: f64,
}

/// A linear layer, with an adapter or without: x (…, in) → (…, out).
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<Adapter>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, adapter: None }
    }

    pub(crate) fn with(self, adapter: Option<Adapter>) -> Self {
        Self { adapter, ..self }
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let y = ops::linear::forward(x, &self.weight, self.bias.as_ref())?;
        match &self.adapter {
            None => Ok(y),
            Some(Adapter { a, b, scale }) => y + (b.forward(&a.forward(x)?)? * *scale)?,
        }
    }
}
