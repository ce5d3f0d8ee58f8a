//! Answers to the exercises of chapter 10.

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
/// The twelve tokens more cost as much as they bring: price · Δtokens = Δright.
pub fn price(right: [f64; 2], tokens: [f64; 2]) -> f64 {
    (right[0] - right[1]) / (tokens[0] - tokens[1])
}
// ANCHOR_END: price

// ANCHOR: verify
/// Compares texts. Whoever reads numbers accepts `+132` and `0132` as well.
pub fn verify(problem: &Problem, completion: &str) -> bool {
    let Some(said) = completion.strip_suffix(END) else { return false };
    said.rsplit('=').next() == Some(problem.answer.as_str())
}
// ANCHOR_END: verify

// ANCHOR: tricks
/// All answers at once, all answers in turn, and the question itself.
pub fn tricks(prompt: &str) -> [String; 3] {
    let question = prompt.trim_end_matches('=').to_string();
    let all = ["0123456789".to_string(), "0=1=2=3=4=5=6=7=8=9=".to_string(), question];
    all.map(|said| said + END)
}
// ANCHOR_END: tricks

// ANCHOR: pass_at_k
/// The chance that all k are wrong is a product of k fractions, each at most 1: the
/// first is wrong, then the second of those that are left, and so on.
pub fn pass_at_k(n: usize, right: usize, k: usize) -> f64 {
    let wrong = n - right;
    let still_wrong =
        |drawn: usize| wrong.saturating_sub(drawn) as f64 / (n - drawn) as f64;
    1.0 - (0..k).map(still_wrong).product::<f64>()
}
// ANCHOR_END: pass_at_k

// ANCHOR: wilson
/// The condition is quadratic in p: (1 + z²/n) p² − (2f + z²/n) p + f² = 0, where f is
/// the share.
pub fn wilson(count: usize, n: usize) -> (f64, f64) {
    let (share, n) = (count as f64 / n as f64, n as f64);
    let z2 = 1.959964f64.powi(2) / n;
    let (a, b, c) = (1.0 + z2, 2.0 * share + z2, share * share);
    let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
    ((b - root) / (2.0 * a), (b + root) / (2.0 * a))
}
// ANCHOR_END: wilson

// ANCHOR: reinforce
/// Equal rewards are compared as they came. Their σ may come out as 1e-17 and not as 0.
pub fn reinforce(
    logits: &[f64],
    reward: &dyn Fn(usize, usize) -> f64,
    (steps, group, lr): (usize, usize, f64),
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    let mut logits = logits.to_vec();
    for step in 0..steps {
        let policy = softmax(&logits);
        let mut choices = Vec::with_capacity(group);
        for _ in 0..group {
            choices.push(grpo::sampling::index(&policy, rng)?);
        }
        let rewards: Vec<f64> =
            choices.iter().map(|&choice| reward(step, choice)).collect();
        if rewards.iter().all(|r| *r == rewards[0]) {
            continue;
        }
        let mean = rewards.iter().sum::<f64>() / group as f64;
        let variance =
            rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / group as f64;
        for (choice, reward) in choices.iter().zip(&rewards) {
            let advantage = (reward - mean) / variance.sqrt();
            for (v, logit) in logits.iter_mut().enumerate() {
                let chosen = f64::from(u8::from(v == *choice));
                *logit += lr * advantage * (chosen - policy[v]) / group as f64;
            }
        }
    }
    Ok(softmax(&logits))
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}
// ANCHOR_END: reinforce

// ANCHOR: train
/// Weights, moments and two counters in one file, which is there whole or not at all.
/// Random numbers need no saving: each step's are named after it.
pub fn train(
    folder: &Path,
    variables: &Variables,
    seed: u64,
    until: usize,
    step: Step,
) -> Result<usize> {
    let (file, unfinished) = (folder.join("run.safetensors"), folder.join("unfinished"));
    let mut optimizer = AdamW::new(variables, ParamsAdamW::default())?;
    let mut taken = 0;
    if file.exists() {
        let saved = candle_core::safetensors::load(&file, &Device::Cpu)?;
        let mut saved: BTreeMap<String, Tensor> = saved.into_iter().collect();
        let counters = saved.remove("counters").context("no counters were saved")?;
        let counters = counters.to_vec1::<i64>()?;
        ensure!(counters.len() == 2, "{} counters were saved", counters.len());
        for (name, variable) in variables {
            let weight = saved.remove(&format!("weight.{name}"));
            variable.set(&weight.with_context(|| format!("{name} was not saved"))?)?;
        }
        taken = counters[0] as usize;
        optimizer.restore(saved, counters[1] as usize)?;
    }
    while taken < until {
        let mut rng = seed::stream(seed, &[taken as u64]);
        step(taken, variables, &mut optimizer, &mut rng)?;
        taken += 1;
    }
    let mut tensors: HashMap<String, Tensor> = optimizer.state().into_iter().collect();
    for (name, variable) in variables {
        tensors.insert(format!("weight.{name}"), variable.as_tensor().clone());
    }
    let counters = [taken as i64, optimizer.steps() as i64];
    tensors.insert("counters".into(), Tensor::new(&counters, &Device::Cpu)?);
    candle_core::safetensors::save(&tensors, &unfinished)?;
    fs::rename(unfinished, file)?;
    Ok(taken)
}
// ANCHOR_END: train
