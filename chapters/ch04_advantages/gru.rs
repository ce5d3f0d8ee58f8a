//! A recurrent network as a policy over sequences of tokens, and the drawing of
//! completions from it.
//!
//! ```text
//! h_t = GRU(embedding[token_t], h_{t−1})        logits_t = h_t Wᵀ + b
//! ```
//!
//! Left out: an end-of-sequence token, because every completion of this chapter has the
//! same length.

use anyhow::ensure;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{
    Linear, VarBuilder,
    rnn::{GRU, GRUConfig, GRUState, RNN},
};
use grpo::{
    Result,
    policy::Policy,
    sampling,
    variables::{Init, Variables},
};
use rand::rngs::StdRng;

// ANCHOR: policy
/// A gated recurrent unit between an embedding and a linear head.
pub struct Gru {
    embedding: Tensor,
    cell: GRU,
    head: Linear,
    variables: Variables,
}
// ANCHOR_END: policy

impl Gru {
    /// A fresh network for tokens `0..vocabulary`.
    pub fn new(
        [vocabulary, hidden]: [usize; 2],
        rng: &mut StdRng,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut init = Init::new(rng, dtype, device);
        let std = 1.0 / (hidden as f64).sqrt();
        let embedding = init.normal("embedding", (vocabulary, hidden), 1.0)?;
        for name in ["weight_ih_l0", "weight_hh_l0"] {
            init.normal(name, (3 * hidden, hidden), std)?;
        }
        for name in ["bias_ih_l0", "bias_hh_l0"] {
            init.zeros(name, 3 * hidden)?;
        }
        let weight = init.normal("head.weight", (vocabulary, hidden), 0.1 * std)?;
        let head = Linear::new(weight, Some(init.zeros("head.bias", vocabulary)?));
        let variables = init.finish();
        // Candle's cell asks for its tensors by name and gets the variables themselves.
        let named = variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone()));
        let builder = VarBuilder::from_tensors(named.collect(), dtype, device);
        let cell = GRU::new(hidden, hidden, GRUConfig::default(), builder)?;
        Ok(Self { embedding, cell, head, variables })
    }
}

// ANCHOR: logits
impl Policy for Gru {
    /// Tokens (B, T) → logits (B, T, V): at each place, those of the token after it.
    fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        let (rows, length) = tokens.dims2()?;
        let embedded = self.embedding.index_select(&tokens.flatten_all()?, 0)?;
        let states = self.cell.seq(&embedded.reshape((rows, length, ()))?)?;
        let states: Vec<&Tensor> = states.iter().map(GRUState::h).collect();
        Ok(self.head.forward(&Tensor::stack(&states, 1)?)?)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}
// ANCHOR_END: logits

// ANCHOR: read
impl Gru {
    /// Reads one more token in every row: ids (B), state → logits (B, V), next state.
    fn read(&self, ids: &Tensor, state: &GRUState) -> Result<(Tensor, GRUState)> {
        let state = self.cell.step(&self.embedding.index_select(ids, 0)?, state)?;
        Ok((self.head.forward(&state.h)?, GRUState { h: state.h.detach() }))
    }
}
// ANCHOR_END: read

// ANCHOR: sample
impl Gru {
    /// Answers `prompt` `count` times in one batch → ids (count, length). The rows share
    /// every step and draw their tokens independently.
    pub fn sample(
        &self,
        prompt: &[u32],
        count: usize,
        length: usize,
        rng: &mut StdRng,
    ) -> Result<Tensor> {
        ensure!(!prompt.is_empty(), "the prompt has no tokens");
        let column = |token: &u32| Tensor::full(*token, count, self.embedding.device());
        let mut columns =
            prompt.iter().map(column).collect::<candle_core::Result<Vec<_>>>()?;
        let mut state = self.cell.zero_state(count)?;
        for place in 0..prompt.len() + length - 1 {
            let (logits, next) = self.read(&columns[place], &state)?;
            state = next;
            if columns.len() == place + 1 {
                columns.push(sampling::sample(&logits, rng)?);
            }
        }
        Ok(Tensor::stack(&columns[prompt.len()..], 1)?)
    }
}
// ANCHOR_END: sample
