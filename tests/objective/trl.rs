//! Equal to TRL: losses, gradients, metrics, advantages, and the three KL estimators.

use crate::{fixture, numbers, tensor, worst};
use candle_core::{DType, Device::Cpu, Tensor, Var};
use grpo::{
    advantage::{Scale, group_relative},
    kl::{self, Estimator},
    log_prob, mask,
    objective::{Batch, Kl, Metrics, Objective, Ratio, Term, recipe},
};
use serde::Deserialize;
use std::collections::BTreeMap;

type Rows = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Losses {
    group_size: usize,
    rewards: Vec<f64>,
    lengths: Vec<usize>,
    truncated: Vec<bool>,
    masks: BTreeMap<String, Vec<Vec<u8>>>,
    inputs: BTreeMap<String, BTreeMap<String, Rows>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    set: String,
    loss_type: String,
    importance_sampling_level: String,
    beta: f64,
    epsilon: f64,
    epsilon_high: f64,
    delta: Option<f64>,
    scale_rewards: String,
    use_bias_correction_kl: bool,
    old_logps: String,
    mask: String,
    off_policy_mask_threshold: Option<f64>,
    gradient_accumulation_steps: usize,
    steps_per_generation: usize,
    loss: f64,
    grad: Rows,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    /// TRL's settings in our words.
    fn objective(&self) -> Objective {
        let named = recipe(&self.loss_type, 12).unwrap().objective;
        let term = match named.term {
            Term::Clip { .. } => {
                Term::Clip { low: self.epsilon, high: self.epsilon_high, bound: self.delta }
            }
            Term::Cispo { .. } => Term::Cispo { cap: self.epsilon_high },
            other => other,
        };
        let ratio = match self.importance_sampling_level.as_str() {
            "token" => Ratio::Token,
            _ => Ratio::Sequence,
        };
        let corrected = self.use_bias_correction_kl;
        let kl = Kl { coef: self.beta, estimator: Estimator::K3, corrected };
        let off_policy_threshold = self.off_policy_mask_threshold;
        Objective { ratio, term, kl, off_policy_threshold, ..named }
    }

    fn name(&self) -> String {
        let Self { set, loss_type, importance_sampling_level: level, .. } = self;
        let Self { beta, epsilon, epsilon_high, delta, mask, old_logps, .. } = self;
        format!(
            "{loss_type} {set} {level} β {beta} ε {epsilon} {epsilon_high} δ {delta:?} {mask} old {old_logps}"
        )
    }
}

fn trl_scale(name: &str) -> Scale {
    match name {
        "group" => Scale::Trl,
        "batch" => Scale::TrlBatch,
        _ => Scale::None,
    }
}

/// Loss, gradient and metrics of one case.
fn run(data: &Losses, case: &Case, dtype: DType) -> (f64, Vec<f64>, Metrics) {
    let input = |name: &str| tensor(&data.inputs[&case.set][name], dtype);
    let scale = trl_scale(&case.scale_rewards);
    let advantages = group_relative(&data.rewards, data.group_size, scale).unwrap();
    let advantages = Tensor::new(advantages, &Cpu).unwrap().to_dtype(dtype).unwrap();
    let mut mask = mask::of_lengths(&data.lengths, 12, &Cpu).unwrap();
    if case.mask == "truncated_masked" {
        mask = mask::without_truncated(&mask, &data.truncated).unwrap();
    }
    assert_eq!(mask.to_vec2::<u8>().unwrap(), data.masks[&case.mask]);
    let log_probs = Var::from_tensor(&input("per_token_logps")).unwrap();
    let (old, reference) = (input("old_per_token_logps"), input("ref_per_token_logps"));
    let share = case.gradient_accumulation_steps as f64 / case.steps_per_generation as f64;
    let batch = Batch {
        old_log_probs: (case.old_logps == "given").then_some(&old),
        ref_log_probs: (case.beta > 0.0).then_some(&reference),
        group_size: data.group_size,
        micro_batches: case.gradient_accumulation_steps,
        step_tokens: Some(mask::total(&mask).unwrap() * share),
        ..Batch::new(&log_probs, &advantages, &mask)
    };
    let (loss, metrics) = case.objective().loss(&batch).unwrap();
    let gradient = numbers(loss.backward().unwrap().get(&log_probs).unwrap());
    (numbers(&loss)[0], gradient, metrics)
}

fn equals_trl(dtype: DType, tolerance: f64) {
    let data: Losses = fixture("grpo_loss");
    assert!(data.cases.len() >= 103);
    for case in &data.cases {
        let (loss, gradient, metrics) = run(&data, case, dtype);
        let name = case.name();
        let off = (loss - case.loss).abs();
        assert!(off < tolerance, "{name}: loss {loss}, TRL {}", case.loss);
        let off = worst(&gradient, &case.grad.concat());
        assert!(off < tolerance, "{name}: gradient is off by {off:e}");
        let ours = [
            ("clip_ratio/low_mean", Some(metrics.clip_low)),
            ("clip_ratio/high_mean", Some(metrics.clip_high)),
            ("cispo_clip_ratio", Some(metrics.clip_high)),
            ("kl", metrics.kl),
        ];
        for (key, ours) in ours {
            let Some(theirs) = case.metrics.get(key) else { continue };
            let ours = ours.unwrap();
            assert!((ours - theirs).abs() < 1e-5, "{name}: {key} is {ours}, TRL {theirs}");
        }
    }
}

#[test]
fn loss_gradient_and_metrics_equal_trl_in_f64() {
    equals_trl(DType::F64, 1e-8);
}

#[test]
fn loss_gradient_and_metrics_equal_trl_in_f32() {
    equals_trl(DType::F32, 1e-5);
}

#[derive(Deserialize)]
struct Advantages {
    cases: Vec<AdvantageCase>,
}

#[derive(Deserialize)]
struct AdvantageCase {
    name: String,
    group_size: usize,
    scale_rewards: String,
    rewards: Vec<Reward>,
    #[serde(default)]
    weights: Vec<f64>,
    advantages: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reward {
    One(f64),
    Several(Vec<f64>),
}

impl AdvantageCase {
    /// The rewards, one list for each reward function, times its weight.
    fn columns(&self) -> Vec<Vec<f64>> {
        let column = |j: usize| {
            let pick = |reward: &Reward| match reward {
                Reward::One(reward) => *reward,
                Reward::Several(rewards) => rewards[j],
            };
            self.rewards.iter().map(pick).collect()
        };
        (0..self.weights.len().max(1)).map(column).collect()
    }

    fn weighted_sum(&self, columns: &[Vec<f64>]) -> Vec<f64> {
        let weight = |j: usize| self.weights.get(j).copied().unwrap_or(1.0);
        let sum =
            |i: usize| columns.iter().enumerate().map(|(j, c)| weight(j) * c[i]).sum();
        (0..self.rewards.len()).map(sum).collect()
    }
}

#[test]
fn advantages_equal_trl() {
    let data: Advantages = fixture("advantages");
    for case in data.cases {
        let (g, scale) = (case.group_size, trl_scale(&case.scale_rewards));
        let ours = if case.name.ends_with("normalize_then_sum") {
            let standardise = |c: &Vec<f64>| group_relative(c, g, scale).unwrap();
            let columns: Vec<Vec<f64>> = case.columns().iter().map(standardise).collect();
            let sum = case.weighted_sum(&columns);
            group_relative(&sum, sum.len(), scale).unwrap()
        } else {
            group_relative(&case.weighted_sum(&case.columns()), g, scale).unwrap()
        };
        let off = worst(&ours, &case.advantages);
        assert!(off < 1e-9, "{} {}: off by {off:e}", case.name, case.scale_rewards);
    }
}

/// Every estimator, averaged over the whole vocabulary: its mean, its variance, and the
/// mean of what autograd makes of it.
#[test]
fn kl_estimators_equal_enumeration() {
    let data: BTreeMap<String, serde_json::Value> = fixture("kl");
    let list = |key: &str| serde_json::from_value::<Vec<f64>>(data[key].clone()).unwrap();
    let near = |ours: f64, key: &str| {
        let theirs = data[key].as_f64().unwrap();
        assert!((ours - theirs).abs() < 1e-8, "{key}: {ours}, enumeration {theirs}");
    };
    let logits =
        Var::from_tensor(&Tensor::new(list("p"), &Cpu).unwrap().log().unwrap()).unwrap();
    let ref_logits = Tensor::new(list("q"), &Cpu).unwrap().log().unwrap();
    let log_probs = log_prob::table(&logits).unwrap();
    let ref_log_probs = log_prob::table(&ref_logits).unwrap();
    let p = log_probs.detach().exp().unwrap();
    let ratio = (&log_probs - log_probs.detach()).unwrap().exp().unwrap();
    let gradient = |x: &Tensor, key: &str| {
        let loss = x.sum_all().unwrap();
        let ours = numbers(loss.backward().unwrap().get(&logits).unwrap());
        let off = worst(&ours, &list(key));
        assert!(off < 1e-8, "{key}: off by {off:e}");
    };
    for (estimator, k) in
        [(Estimator::K1, "k1"), (Estimator::K2, "k2"), (Estimator::K3, "k3")]
    {
        let value = estimator.policy_ref(&log_probs, &ref_log_probs).unwrap();
        assert!(worst(&numbers(&value), &list(k)) < 1e-8, "{k}");
        let mean: f64 = numbers(&(&p * &value).unwrap()).iter().sum();
        let square: f64 = numbers(&(&p * value.sqr().unwrap()).unwrap()).iter().sum();
        near(mean, &format!("E_{k}"));
        near(square - mean * mean, &format!("var_{k}"));
        let key = format!("grad_expected_autodiff_{k}_wrt_logits");
        gradient(&(&p * &value).unwrap(), &key);
        if estimator == Estimator::K3 {
            let corrected = ((&p * &value).unwrap() * &ratio).unwrap();
            gradient(&corrected, "grad_expected_autodiff_k3_times_ratio_wrt_logits");
        }
    }
    let forward = kl::exact_policy_ref(&logits, &ref_logits).unwrap();
    let backward = kl::exact_ref_policy(&logits, &ref_logits).unwrap();
    near(numbers(&forward)[0], "exact_kl");
    near(numbers(&backward)[0], "exact_reverse_kl");
    gradient(&forward, "grad_exact_kl_wrt_logits");
    gradient(&backward, "grad_reverse_kl_q_p_wrt_logits");
}
