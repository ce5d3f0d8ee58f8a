//! Rollouts, gradient steps, and what they refuse.

use crate::numbers;
use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use grpo::{
    Result,
    advantage::{self, Scale, group_relative},
    log_prob::{self, Scores},
    mask,
    objective::{Aggregation, Batch, Kl, Objective, Term, recipe},
    policy::{Policy, Table},
    rollout::Rollout,
    sampling, seed,
    update::{Steps, update},
};

const STEPS: Steps = Steps { epochs: 2, max_norm: 1.0 };

fn adamw(policy: &Table, lr: f64) -> AdamW {
    let variables = policy.variables().values().cloned().collect();
    AdamW::new(variables, ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() })
        .unwrap()
}

/// A table policy scores one-token completions of prompts that are states.
fn score(policy: &Table, rollout: &Rollout) -> Result<Scores> {
    let logits = policy.logits(&rollout.prompts.squeeze(1)?)?.unsqueeze(1)?;
    let entropy = Some(log_prob::entropy(&logits, 1.0)?);
    Ok(Scores { log_probs: log_prob::of(&logits, &rollout.tokens)?, entropy })
}

/// Two prompts, G completions each, rewarded where the token equals the prompt.
fn roll(
    policy: &Table,
    group_size: usize,
    rng: &mut rand::rngs::StdRng,
) -> Result<Rollout> {
    let prompts: Vec<u32> =
        [0u32, 1].into_iter().flat_map(|p| vec![p; group_size]).collect();
    let rows = prompts.len();
    let prompts = Tensor::from_vec(prompts, (rows, 1), &Cpu)?;
    let logits = policy.logits(&prompts.squeeze(1)?)?;
    let tokens = sampling::sample(&logits, rng)?.unsqueeze(1)?;
    let old_log_probs = log_prob::of(&logits.unsqueeze(1)?, &tokens)?;
    let rewards = tokens.eq(&prompts)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let mask = mask::of_lengths(&vec![1; rows], 1, &Cpu)?;
    Rollout::new(prompts, tokens, mask, old_log_probs, rewards, group_size, Scale::Trl)
}

#[test]
fn a_policy_learns() {
    let policy = Table::uniform(2, 4, DType::F32, &Cpu).unwrap();
    let mut optimizer = adamw(&policy, 0.1);
    let objective = recipe("grpo", 1).unwrap().objective;
    let objective = Objective { kl: Kl::new(0.0), ..objective };
    let mut rng = seed::rng(0);
    let mut first = None;
    for _ in 0..60 {
        let rollout = roll(&policy, 8, &mut rng).unwrap();
        let steps = update(
            |rollout| score(&policy, rollout),
            policy.variables(),
            &mut optimizer,
            &rollout,
            &objective,
            STEPS,
        );
        let steps = steps.unwrap();
        assert!(
            (steps[0].metrics.ratio_mean - 1.0).abs() < 1e-6,
            "fresh samples have ratio 1"
        );
        first.get_or_insert(steps[0]);
    }
    let first = first.unwrap().metrics;
    assert!((first.entropy.unwrap() - 4f64.ln()).abs() < 1e-6);
    assert!(first.loss.abs() < 1e-6, "the loss starts at 0");
    let rewards = roll(&policy, 64, &mut rng).unwrap().rewards;
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    assert!(mean > 0.95, "mean reward {mean}");
}

#[test]
fn minibatches_are_whole_groups() {
    let policy = Table::uniform(2, 2, DType::F32, &Cpu).unwrap();
    let rollout = roll(&policy, 4, &mut seed::rng(1)).unwrap();
    let second = rollout.select(&[1]).unwrap();
    assert_eq!(second.rewards, rollout.rewards[4..]);
    assert_eq!(numbers(&second.prompts), [1.0; 4]);
    assert_eq!(numbers(&second.advantages), numbers(&rollout.advantages)[4..]);
    let error = rollout.select(&[2]).unwrap_err().to_string();
    assert_eq!(error, "there is no group 2; there are 2");
}

#[test]
fn the_first_bad_quantity_is_named() {
    let policy = Table::uniform(2, 4, DType::F64, &Cpu).unwrap();
    let mut optimizer = adamw(&policy, 0.1);
    let rollout = roll(&policy, 2, &mut seed::rng(0)).unwrap();
    let objective = recipe("grpo", 1).unwrap().objective;
    let mut refused = |rollout: &Rollout, objective: &Objective| {
        let scores = |rollout: &Rollout| score(&policy, rollout);
        let steps =
            update(scores, policy.variables(), &mut optimizer, rollout, objective, STEPS);
        format!("{:#}", steps.unwrap_err())
    };
    let error = refused(&rollout, &objective);
    assert!(error.contains("kl_coef is 0.04, so the batch needs ref_log_probs"), "{error}");
    let column =
        |numbers: [f64; 4]| Tensor::new(&numbers, &Cpu).unwrap().unsqueeze(1).unwrap();
    let spoilt =
        rollout.clone().with_reference(&column([0.0, 0.0, f64::NAN, 0.0])).unwrap();
    let error = refused(&spoilt, &objective);
    assert!(
        error.contains("epoch 0") && error.contains("ref_log_probs is NaN in row 2"),
        "{error}"
    );
    let far = rollout.clone().with_reference(&column([0.0, 800.0, 0.0, 0.0])).unwrap();
    assert!(refused(&far, &objective).contains("the KL is inf in row 1"));
    let objective = Objective { kl: Kl::new(0.0), ..objective };
    let old_log_probs = column([-1.0, -1.0, -1.0, -800.0]);
    let wild = Rollout { old_log_probs, ..rollout.clone() };
    assert!(refused(&wild, &objective).contains("the ratio is inf in row 3"));
    let advantages = Tensor::new(&[0.0, f64::INFINITY, 0.0, 0.0], &Cpu).unwrap();
    let wild = Rollout { advantages, ..rollout.clone() };
    assert!(refused(&wild, &objective).contains("advantages is inf in row 1"));
    let constant = |_: &Rollout| Ok(rollout.old_log_probs.clone().into());
    let blind =
        update(constant, policy.variables(), &mut optimizer, &rollout, &objective, STEPS);
    assert!(
        format!("{:#}", blind.unwrap_err())
            .contains("1 of 1 variables got no gradient: logits")
    );
}

#[test]
fn bad_rewards_are_named() {
    let refused = |rewards: &[f64], group_size: usize, scale: Scale| {
        group_relative(rewards, group_size, scale).unwrap_err().to_string()
    };
    let error = refused(&[1.0, 0.0, 1.0], 2, Scale::None);
    assert_eq!(
        error,
        "there are 3 rewards; their number must be a multiple of group_size, 2"
    );
    assert!(refused(&[], 2, Scale::None).contains("there are 0 rewards"));
    assert!(refused(&[1.0], 0, Scale::None).contains("group_size is 0"));
    assert!(
        refused(&[1.0, 0.0], 1, Scale::Population)
            .contains("at least 2 rewards; there is 1")
    );
    assert!(refused(&[1.0, f64::NAN], 2, Scale::Trl).contains("reward 1 is NaN"));
    assert!(refused(&[f64::INFINITY, 1.0], 2, Scale::Trl).contains("reward 0 is inf"));
    assert!(advantage::clip(&[1.0], 0.0).unwrap_err().to_string().contains("limit is 0"));
}

#[test]
fn bad_rollouts_are_named() {
    let ids =
        |rows: usize, width: usize| Tensor::zeros((rows, width), DType::U32, &Cpu).unwrap();
    let zeros =
        |rows: usize, width: usize| Tensor::zeros((rows, width), DType::F64, &Cpu).unwrap();
    let full = |rows: usize, width: usize| {
        mask::of_lengths(&vec![width; rows], width, &Cpu).unwrap()
    };
    let refused = |prompts: Tensor, mask: Tensor, old: Tensor, rewards: Vec<f64>| {
        let rollout = Rollout::new(prompts, ids(2, 3), mask, old, rewards, 2, Scale::Trl);
        rollout.unwrap_err().to_string()
    };
    let rewards = || vec![1.0, 0.0];
    let error = refused(ids(3, 1), full(2, 3), zeros(2, 3), rewards());
    assert_eq!(error, "there are 3 prompts for 2 completions");
    let error = refused(ids(2, 1), full(2, 3), zeros(2, 3), vec![1.0]);
    assert_eq!(error, "there are 1 rewards for 2 completions");
    let error = refused(ids(2, 1), full(2, 2), zeros(2, 3), rewards());
    assert_eq!(error, "mask is [2, 2] and tokens [2, 3]; they must agree");
    let error = refused(ids(2, 1), full(2, 3), zeros(3, 3), rewards());
    assert_eq!(error, "old_log_probs is [3, 3] and tokens [2, 3]; they must agree");
    let empty = Tensor::new(&[[1u8, 1, 0], [0, 0, 0]], &Cpu).unwrap();
    let error = refused(ids(2, 1), empty, zeros(2, 3), rewards());
    assert_eq!(error, "completion 1 is empty: its mask is 0 everywhere");
    let old = (zeros(2, 3) / 0.0).unwrap();
    assert!(refused(ids(2, 1), full(2, 3), old, rewards()).contains("each must be finite"));
    let error = mask::of_lengths(&[2, 0], 3, &Cpu).unwrap_err().to_string();
    assert_eq!(error, "completion 1 has 0 tokens; it must have from 1 to 3");
    assert!(mask::without_truncated(&full(2, 3), &[true]).is_err());
}

#[test]
fn bad_settings_and_batches_are_named() {
    let grpo = recipe("dapo", 2).unwrap().objective;
    let clip =
        |low, high, bound| Objective { term: Term::Clip { low, high, bound }, ..grpo };
    let term = |term| Objective { term, ..grpo };
    let bad = [
        (clip(1.0, 0.2, None), "clip_eps low is 1; it must be in [0, 1)"),
        (clip(-0.1, 0.2, None), "clip_eps low is -0.1"),
        (clip(0.2, -0.2, None), "clip_eps high is -0.2"),
        (clip(0.2, f64::NAN, None), "clip_eps high is NaN"),
        (clip(0.2, 0.2, Some(0.5)), "δ is 0.5"),
        (term(Term::Cispo { cap: 0.0 }), "cap is 0"),
        (term(Term::Sapo { tau_positive: 0.0, tau_negative: 1.0 }), "τ is 0"),
        (term(Term::Vespo { positive: (2.0, -3.0), negative: (3.0, 2.0) }), "λ is -3"),
        (Objective { kl: Kl::new(-0.1), ..grpo }, "kl_coef is -0.1; it must be at least 0"),
        (Objective { aggregation: Aggregation::ConstantLength(0), ..grpo }, "length is 0"),
        (
            Objective { off_policy_threshold: Some(f64::NAN), ..grpo },
            "off_policy_threshold",
        ),
    ];
    let log_probs = Tensor::zeros((2, 2), DType::F64, &Cpu).unwrap();
    let advantages = Tensor::zeros(2, DType::F64, &Cpu).unwrap();
    let mask = mask::of_lengths(&[1, 2], 2, &Cpu).unwrap();
    let batch = Batch::new(&log_probs, &advantages, &mask);
    for (objective, expected) in bad {
        let error = objective.loss(&batch).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let three = Tensor::zeros(3, DType::F64, &Cpu).unwrap();
    let nothing = mask.zeros_like().unwrap();
    let floats = mask.to_dtype(DType::F64).unwrap();
    let bad = [
        (Batch { log_probs: &three, ..batch }, "log_probs is [3]; it must be (B, T)"),
        (Batch { advantages: &three, ..batch }, "advantages is [3] and log_probs [2, 2]"),
        (Batch { mask: &nothing, ..batch }, "the mask is 0 everywhere"),
        (Batch { mask: &floats, ..batch }, "mask has dtype F64"),
        (Batch { old_log_probs: Some(&three), ..batch }, "old_log_probs is [3]"),
        (Batch { group_size: 3, ..batch }, "multiple of group_size, 3"),
        (Batch { micro_batches: 0, ..batch }, "micro_batches is 0"),
        (Batch { step_tokens: Some(0.0), ..batch }, "step_tokens is 0"),
    ];
    for (batch, expected) in bad {
        let error = grpo.loss(&batch).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
