//! A reward learnt from comparisons.
//!
//! People find it hard to say what an answer is worth, and easy to say which of two is
//! better. Bradley and Terry (1952) give every answer a strength r and let the winner be
//! drawn:
//!
//! ```text
//! P(w beats l) = σ(r_w − r_l)          σ(x) = 1 / (1 + e^−x)
//! loss         = −log σ(r_w − r_l)     mean over comparisons
//! ```
//!
//! Only differences count: r + c fits as well as r, and each prompt may have its own c.
//!
//! Left out: ties and margins, because the annotators of this book always decide, and
//! never say by how much; and a network that reads text, which scores the last token of
//! a completion and is trained by the same loss.

use crate::{
    Result,
    policy::{Mlp, Policy},
    variables::{Init, Variables},
};
use anyhow::ensure;
use candle_core::{DType, Device, Tensor};
use rand::rngs::StdRng;

/// −log σ(r_w − r_l), the mean over comparisons: rewards of the chosen (B) and of the
/// rejected answers (B) → a scalar with a gradient to both.
///
/// # Errors
/// Says the two shapes when they disagree or hold no comparison.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let chosen = Tensor::new(&[1.5f64], &Device::Cpu).unwrap();
/// let rejected = Tensor::new(&[0.5f64], &Device::Cpu).unwrap();
/// let loss = grpo::reward_model::loss(&chosen, &rejected).unwrap();
/// assert!((loss.to_scalar::<f64>().unwrap() - 0.3133).abs() < 1e-4);
/// ```
// ANCHOR: loss
pub fn loss(chosen: &Tensor, rejected: &Tensor) -> Result<Tensor> {
    check(chosen, rejected)?;
    let margin = (chosen - rejected)?;
    // −log σ(m) = log(e⁰ + e^−m), which neither overflows nor has a corner at 0.
    let zero = margin.zeros_like()?;
    Ok(Tensor::stack(&[zero, margin.neg()?], 1)?.log_sum_exp(1)?.mean_all()?)
}
// ANCHOR_END: loss

/// The share of comparisons in which the chosen answer has the higher reward. A tie
/// counts one half, so that a model that knows nothing gets .5.
///
/// # Errors
/// Says the two shapes when they disagree or hold no comparison.
///
/// ```
/// use candle_core::{Device, Tensor};
/// let chosen = Tensor::new(&[2.0f32, 1.0, 0.0], &Device::Cpu).unwrap();
/// let rejected = Tensor::new(&[1.0f32, 1.0, 3.0], &Device::Cpu).unwrap();
/// assert_eq!(grpo::reward_model::accuracy(&chosen, &rejected).unwrap(), 0.5);
/// ```
pub fn accuracy(chosen: &Tensor, rejected: &Tensor) -> Result<f64> {
    check(chosen, rejected)?;
    let share = |won: Tensor| won.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>();
    Ok(share(chosen.gt(rejected)?)? + 0.5 * share(chosen.eq(rejected)?)?)
}

/// A network that reads the features of a prompt and one token, and says what the token
/// is worth there: features (B, F) and an embedding (B, H) of the token, side by side,
/// through one hidden layer to one number.
pub struct RewardModel {
    embedding: Tensor,
    network: Mlp,
    variables: Variables,
}

impl RewardModel {
    /// A fresh model for prompts of F features, H hidden units and V tokens.
    ///
    /// # Errors
    /// Passes on Candle's error when a variable cannot be made.
    ///
    /// ```
    /// use candle_core::{DType, Device::Cpu, Tensor};
    /// use grpo::reward_model::RewardModel;
    /// let mut rng = grpo::seed::rng(0);
    /// let model = RewardModel::new([8, 32, 10], &mut rng, DType::F32, &Cpu).unwrap();
    /// let features = Tensor::ones((2, 8), DType::F32, &Cpu).unwrap();
    /// let tokens = Tensor::new(&[0u32, 9], &Cpu).unwrap();
    /// assert_eq!(model.rewards(&features, &tokens).unwrap().dims(), [2]);
    /// ```
    pub fn new(
        [features, hidden, tokens]: [usize; 3],
        rng: &mut StdRng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut init = Init::new(rng, dtype, device);
        let embedding = init.normal("embedding", (tokens, hidden), 1.0)?;
        let mut variables = init.finish();
        let network = Mlp::new([features + hidden, hidden, 1], rng, dtype, device)?;
        variables
            .extend(network.variables().iter().map(|(name, v)| (name.clone(), v.clone())));
        Ok(Self { embedding, network, variables })
    }

    /// The reward of each token (B) after the prompt beside it: features (B, F) → (B).
    ///
    /// # Errors
    /// When the two differ in number, or the features are not those of the model.
    pub fn rewards(&self, features: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let input = Tensor::cat(&[features, &self.embedding.index_select(tokens, 0)?], 1)?;
        Ok(self.network.logits(&input)?.squeeze(1)?)
    }

    /// The rewards of all V tokens after each prompt: features (C, F) → (C, V).
    ///
    /// # Errors
    /// When the features are not those of the model.
    pub fn table(&self, features: &Tensor) -> Result<Tensor> {
        let (prompts, width) = features.dims2()?;
        let tokens = self.embedding.dim(0)?;
        let ids = Tensor::arange(0u32, tokens as u32, features.device())?;
        let ids = ids.broadcast_as((prompts, tokens))?.flatten_all()?;
        let rows = features.unsqueeze(1)?.broadcast_as((prompts, tokens, width))?;
        let rows = rows.reshape((prompts * tokens, width))?;
        Ok(self.rewards(&rows, &ids)?.reshape((prompts, tokens))?.detach())
    }

    /// All trainable tensors.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }
}

fn check(chosen: &Tensor, rejected: &Tensor) -> Result<()> {
    let (a, b) = (chosen.dims(), rejected.dims());
    ensure!(
        a == b && a.len() == 1 && a[0] > 0,
        "chosen is {a:?} and rejected {b:?}; both must be (B), with B at least 1"
    );
    Ok(())
}
