//! Your answers to the exercises of chapter 10. `cargo exercise watch 10` checks them
//! each time you save.

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use candle_nn::ParamsAdamW;
use grpo::{
    Result,
    optim::AdamW,
    seed,
    task::{END, Problem},
    variables::Variables,
};
use rand::{Rng, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

/// One step of training: its number, the variables, the optimiser, and random numbers.
pub type Step<'a> = &'a dyn Fn(usize, &Variables, &mut AdamW, &mut StdRng) -> Result<()>;

// ANCHOR: price
/// Answers with work are right in a share `right[0]` of cases and have `tokens[0]` tokens;
/// blurted ones are right in `right[1]` of cases and have `tokens[1]`, which are fewer.
/// The reward is 1 for a right answer, minus a price for each token.
///
/// Returns the price at which both kinds have the same mean reward. It is negative where
/// working does not even make answers better.
pub fn price(right: [f64; 2], tokens: [f64; 2]) -> f64 {
    todo!()
}
// ANCHOR_END: price

// ANCHOR: verify
/// Whether a completion gives the answer to the problem.
///
/// It must have ended by itself, which is to say that its last characters are [`END`]. The
/// answer is what stands before that and behind the last `=`, or all of it where there
/// is no `=`. It must be `problem.answer`, character by character: no spaces, no sign,
/// no other digits. What stands before the last `=` is not read.
pub fn verify(problem: &Problem, completion: &str) -> bool {
    todo!()
}
// ANCHOR_END: verify

// ANCHOR: tricks
/// Three completions that fool three verifiers, without doing the sum. `prompt` is one
/// of the lazy student's, such as `3*7+2*4+9=`. The answer is one digit.
///
/// Each completion ends with [`END`] and has at most 24 characters before it. A right
/// answer is no trick: it must fool its verifier for every prompt, and the strict
/// verifier of the page must refuse it. The three accept a completion
///
/// 0. when the answer stands anywhere in it,
/// 1. when one of the parts between its `=` is the answer,
/// 2. when it is a sum that comes to the answer, such as `2+9` for the answer 1 (from left
///    to right, last digit only).
pub fn tricks(prompt: &str) -> [String; 3] {
    todo!()
}
// ANCHOR_END: tricks

// ANCHOR: pass_at_k
/// pass@k: of `n` completions to one problem `right` are right. The chance that at least
/// one is right among `k` that are drawn from them without putting any back.
///
/// 1 ≤ k ≤ n, and `right` ≤ n. n may be in the hundreds: binomial coefficients overflow.
pub fn pass_at_k(n: usize, right: usize, k: usize) -> f64 {
    todo!()
}
// ANCHOR_END: pass_at_k

// ANCHOR: wilson
/// The 95 % interval of a share, `count` of `n`, after Wilson: its two ends. n is at least 1.
///
/// The ends are the two p for which the share that was found, count/n, is exactly 1.959964
/// standard errors away from p: (count/n − p)² = 1.959964² · p(1 − p)/n.
pub fn wilson(count: usize, n: usize) -> (f64, f64) {
    todo!()
}
// ANCHOR_END: wilson

// ANCHOR: reinforce
/// What GRPO makes of a policy that is one row of logits, in plain numbers: logits of all
/// choices → their probabilities after `steps` steps.
///
/// At each step (numbered from 0)
///
/// - draw `group` choices from the softmax of the logits,
/// - ask `reward(step, choice)` for the reward of each,
/// - make advantages (r − mean) / σ of them, with σ² the mean of (r − mean)². Where all
///   rewards of a group are equal, all advantages are 0 and nothing changes, in no digit,
/// - add `lr` times the mean of A · ∇ log π(choice) to the logits. The derivative of
///   log π(a) by logit v is 1 − π(v) where v = a, and −π(v) elsewhere.
pub fn reinforce(
    logits: &[f64],
    reward: &dyn Fn(usize, usize) -> f64,
    (steps, group, lr): (usize, usize, f64),
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: reinforce

// ANCHOR: train
/// Trains until `until` steps have been taken, counted over all calls with this `folder`,
/// and leaves in the folder what the next call needs. Returns how many have been taken.
///
/// In an empty folder `variables` hold the initial weights. Later they hold anything, and
/// must first get back what they had. The optimiser is
/// `AdamW::new(variables, ParamsAdamW::default())`, with its state where there is one:
/// [`AdamW::state`], [`AdamW::steps`] and [`AdamW::restore`]. A step may leave it alone, so
/// that its steps are not always those of the training.
///
/// `step(number, variables, &mut optimizer, &mut rng)` takes one step. Give each its
/// number (from 0) and random numbers of its own, an [`StdRng`] made from `seed`. However
/// often a run is stopped, it must end in the same bits. When more steps have been taken
/// than `until`, take none. When `step` fails, pass its error on; the next call must be
/// able to go on from the last state that was saved.
pub fn train(
    folder: &Path,
    variables: &Variables,
    seed: u64,
    until: usize,
    step: Step,
) -> Result<usize> {
    todo!()
}
// ANCHOR_END: train
