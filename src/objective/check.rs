//! What an objective refuses, and what it says then.
//!
//! Left out: checks of what cannot be told from numbers, such as rows in the wrong order.

use super::{Aggregation, Batch, Kl, Objective};
use crate::{Result, mask};
use anyhow::{bail, ensure};
use candle_core::{DType, Tensor};

impl Objective {
    /// Names the setting that is out of range.
    ///
    /// # Errors
    /// Says its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        let Kl { coef, .. } = self.kl;
        ensure!(
            coef >= 0.0 && coef.is_finite(),
            "kl_coef is {coef}; it must be at least 0"
        );
        if let Aggregation::ConstantLength(length) = self.aggregation {
            ensure!(length > 0, "the constant length is 0; it must be at least 1");
        }
        if let Some(threshold) = self.off_policy_threshold {
            ensure!(
                !threshold.is_nan(),
                "off_policy_threshold is NaN; it must be a number"
            );
        }
        self.term.check()
    }
}

impl Batch<'_> {
    /// Names shapes that disagree and numbers out of range.
    pub(super) fn check(&self) -> Result<()> {
        let shape = self.log_probs.dims();
        let &[sequences, _] = shape else {
            bail!("log_probs is {shape:?}; it must be (B, T)")
        };
        let agree = |name: &str, tensor: &Tensor, expected: &[usize]| {
            let found = tensor.dims();
            ensure!(
                found == expected,
                "{name} is {found:?} and log_probs {shape:?}; {name} must be {expected:?}"
            );
            Ok(())
        };
        agree("advantages", self.advantages, &[sequences])?;
        agree("mask", self.mask, shape)?;
        let others = [("old", self.old_log_probs), ("ref", self.ref_log_probs)];
        for (name, tensor) in others {
            tensor.map_or(Ok(()), |t| agree(&format!("{name}_log_probs"), t, shape))?;
        }
        self.entropy.map_or(Ok(()), |entropy| agree("entropy", entropy, shape))?;
        let dtype = self.mask.dtype();
        ensure!(dtype == DType::U8, "mask has dtype {dtype:?}; it must be U8");
        ensure!(mask::total(self.mask)? > 0.0, "the mask is 0 everywhere; no token counts");
        let group = self.group_size;
        ensure!(
            group > 0 && sequences.is_multiple_of(group),
            "there are {sequences} sequences; their number must be a multiple of group_size, {group}"
        );
        ensure!(self.micro_batches > 0, "micro_batches is 0; it must be at least 1");
        let tokens = self.step_tokens.unwrap_or(1.0);
        ensure!(tokens >= 1.0, "step_tokens is {tokens}; it must be at least 1");
        Ok(())
    }
}

/// Refuses `x` when an entry is NaN or infinite, and says where.
pub(super) fn check_finite(name: &str, x: &Tensor) -> Result<()> {
    let numbers = x.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let Some(i) = numbers.iter().position(|number| !number.is_finite()) else {
        return Ok(());
    };
    let number = numbers[i];
    let place = match x.dims() {
        [_, width] if *width > 1 => format!(" in row {}, token {}", i / width, i % width),
        [_, _] => format!(" in row {i}"),
        _ => String::new(),
    };
    bail!("{name} is {number}{place}; it must be finite")
}
