//! Drawing a choice from a policy: the step that has no derivative.
//!
//! A [`Sampler`] draws tokens of text: temperature first, then the k likeliest, then the
//! likeliest that together have probability p, as transformers does it.
//!
//! Left out: repetition penalties, because a policy that is trained can learn not to
//! repeat itself.

use crate::Result;
use anyhow::ensure;
use candle_core::{DType, Tensor};
use rand::{Rng, rngs::StdRng};

/// Draws one index with the given probabilities. They need not sum to exactly 1: the
/// last index with a positive probability takes the rounding.
///
/// # Errors
/// Says which weight is negative or not finite, or that none is positive.
///
/// ```
/// let mut rng = grpo::seed::rng(0);
/// assert_eq!(grpo::sampling::index(&[0.0, 1.0, 0.0], &mut rng).unwrap(), 1);
/// assert!(grpo::sampling::index(&[0.5, f64::NAN], &mut rng).is_err());
/// ```
pub fn index(probabilities: &[f64], rng: &mut StdRng) -> Result<usize> {
    let mut total = 0.0;
    for (i, p) in probabilities.iter().enumerate() {
        ensure!(
            p.is_finite() && *p >= 0.0,
            "probability {i} is {p}; it must be at least 0"
        );
        total += p;
    }
    ensure!(total > 0.0, "none of the {} probabilities is above 0", probabilities.len());
    let mut left = rng.random::<f64>() * total;
    let mut last = 0;
    for (i, &p) in probabilities.iter().enumerate() {
        if p > 0.0 {
            last = i;
            if left < p {
                break;
            }
            left -= p;
        }
    }
    Ok(last)
}

/// Draws one id a row. Logits (B, V) → ids (B) of dtype `U32`, on the same device.
///
/// Adding Gumbel noise and taking the largest logit draws from the softmax; doing it
/// by the cumulative sum on the host costs one uniform number a row and is exact.
///
/// # Errors
/// Refuses logits that are not (B, V) or not finite.
pub fn sample(logits: &Tensor, rng: &mut StdRng) -> Result<Tensor> {
    let rows = logits.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let mut ids = Vec::with_capacity(rows.len());
    for mut row in rows {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|logit| *logit = (*logit - max).exp());
        ids.push(index(&row, rng)? as u32);
    }
    Ok(Tensor::new(ids, logits.device())?)
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// T: logits are divided by it.
    pub temperature: f64,
    /// Only the k likeliest tokens can be drawn. At equal logits the lower id is likelier.
    pub top_k: Option<usize>,
    /// Only the fewest likeliest tokens that together have at least this probability.
    pub top_p: Option<f64>,
}

impl Sampler {
    /// The whole distribution at this temperature: the sampler to learn from.
    pub fn at(temperature: f64) -> Self {
        Self { temperature, top_k: None, top_p: None }
    }

    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { top_k: Some(1), ..Self::at(1.0) }
    }

    /// Whether the settings are in range.
    ///
    /// # Errors
    /// Names the one that is not.
    pub fn check(&self) -> Result<()> {
        let Self { temperature, top_k, top_p } = *self;
        let good = temperature > 0.0 && temperature.is_finite();
        ensure!(good, "temperature is {temperature}; it must be above 0");
        ensure!(top_k != Some(0), "top_k is 0; it must be at least 1");
        let p = top_p.unwrap_or(1.0);
        ensure!(p > 0.0 && p <= 1.0, "top_p is {p}; it must be above 0 and at most 1");
        Ok(())
    }

    /// Draws one token: V logits → its id and log π(id), in nats. π is the whole
    /// distribution at the temperature, as [`crate::log_prob`] scores it, also where
    /// top-k or top-p draw from a part of it. One number is taken from `rng` a token.
    ///
    /// # Errors
    /// Names a setting out of range, or the logit that is NaN or +∞.
    ///
    /// ```
    /// use grpo::{sampling::Sampler, seed};
    /// let (id, log_prob) = Sampler::greedy().draw(&[0.5, 1.0, -0.5], &mut seed::rng(0)).unwrap();
    /// assert_eq!(id, 1);
    /// assert!((log_prob + 0.6041).abs() < 1e-4);
    /// ```
    pub fn draw(&self, logits: &[f64], rng: &mut StdRng) -> Result<(u32, f64)> {
        self.check()?;
        let wrong = logits.iter().position(|l| l.is_nan() || *l == f64::INFINITY);
        ensure!(wrong.is_none(), "logit {} is not a number to draw by", wrong.unwrap_or(0));
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |logit: &f64| ((logit - max) / self.temperature).exp();
        let weights: Vec<f64> = logits.iter().map(weight).collect();
        let id = match self.likeliest(&weights) {
            None => index(&weights, rng)?,
            Some(ids) => {
                let kept: Vec<f64> = ids.iter().map(|&id| weights[id]).collect();
                ids[index(&kept, rng)?]
            }
        };
        let log_prob =
            (logits[id] - max) / self.temperature - weights.iter().sum::<f64>().ln();
        Ok((id as u32, log_prob))
    }

    /// The ids that can be drawn, likeliest first; `None` for all.
    fn likeliest(&self, weights: &[f64]) -> Option<Vec<usize>> {
        if self.top_k.is_none() && self.top_p.is_none() {
            return None;
        }
        let mut ids: Vec<usize> = (0..weights.len()).collect();
        ids.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        ids.truncate(self.top_k.unwrap_or(ids.len()));
        if let Some(p) = self.top_p {
            let enough = p * ids.iter().map(|&id| weights[id]).sum::<f64>();
            let mut sum = 0.0;
            let before = |id: &usize| {
                let before = sum;
                sum += weights[*id];
                before < enough
            };
            ids = ids.into_iter().take_while(before).collect();
        }
        Some(ids)
    }
}
