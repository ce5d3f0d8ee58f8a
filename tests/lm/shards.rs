//! A batch in shards, on several threads or piece by piece, is the batch in one piece.

use crate::{MODELS, numbers, read, tiny, worst};
use candle_core::{DType, Device::Cpu, backprop::GradStore};
use grpo::{
    Result,
    advantage::Scale,
    backward, gradients,
    lm::{
        decoder::Decoder,
        generate::{Settings, Streams, generate},
    },
    log_prob::Scores,
    mask,
    objective::{Aggregation, Metrics, Objective, recipe, recipes},
    policy::Policy,
    rollout::Rollout,
    sampling::Sampler,
    seed,
    shards::{self, Split},
};

const GROUP: usize = 3;

fn settings(shards: usize) -> Settings {
    let sampler = Sampler::at(1.0);
    Settings { group_size: GROUP, max_tokens: 6, sampler, stop: vec![0], pad: 0, shards }
}

fn streams(step: u64) -> Streams {
    Streams { seed: 5, step, first_prompt: 10 }
}

fn fresh(dtype: DType) -> Decoder {
    Decoder::new(&tiny("qwen2"), &mut seed::rng(3), dtype, &Cpu).unwrap()
}

/// Five prompts of three lengths, so that padding takes part and nothing divides evenly.
fn prompts() -> Vec<Vec<u32>> {
    vec![vec![1, 2, 3], vec![4], vec![5, 6], vec![2], vec![3, 3, 1]]
}

/// Completions of a model that is not the one that is trained, with a reference.
fn rollout(decoder: &Decoder) -> Rollout {
    let sampled = generate(decoder, &prompts(), &settings(1), streams(0)).unwrap();
    assert!(sampled.lengths.iter().any(|&length| length < 6), "no padding");
    let rewards = sampled.lengths.iter().enumerate().map(|(i, &l)| (i * 7 % 5 + l) as f64);
    let mut rng = seed::rng(9);
    let mut moved = |by: f64| {
        let shape = sampled.tokens.dims();
        let noise = seed::normal(&mut rng, shape, by, decoder.dtype(), &Cpu).unwrap();
        (&sampled.log_probs + noise).unwrap()
    };
    let (old_log_probs, ref_log_probs) = (moved(0.2), moved(0.3));
    Rollout::new(
        sampled.prompts.clone(),
        sampled.tokens.clone(),
        sampled.mask.clone(),
        old_log_probs,
        rewards.collect(),
        GROUP,
        Scale::Trl,
    )
    .unwrap()
    .with_prompt_mask(sampled.prompt_mask.as_ref())
    .unwrap()
    .with_reference(&ref_log_probs)
    .unwrap()
}

fn score(decoder: &Decoder, part: &Rollout) -> Result<Scores> {
    decoder.score(&part.prompts, part.prompt_mask.as_ref(), &part.tokens, 1.0)
}

fn in_shards(
    decoder: &Decoder,
    rollout: &Rollout,
    objective: &Objective,
    split: Split,
) -> (GradStore, Metrics) {
    let loss = |scores: &Scores| {
        let batch = rollout.batch(&scores.log_probs);
        objective
            .loss(&grpo::objective::Batch { entropy: scores.entropy.as_ref(), ..batch })
    };
    let parts = rollout.split(split).unwrap();
    backward::in_shards(&parts, decoder.variables(), |part| score(decoder, part), loss)
        .unwrap()
}

fn whole(
    decoder: &Decoder,
    rollout: &Rollout,
    objective: &Objective,
) -> (GradStore, Metrics) {
    let scores = score(decoder, rollout).unwrap();
    let batch = grpo::objective::Batch {
        entropy: scores.entropy.as_ref(),
        ..rollout.batch(&scores.log_probs)
    };
    let (loss, metrics) = objective.loss(&batch).unwrap();
    (gradients::of(&loss, decoder.variables()).unwrap(), metrics)
}

/// The largest difference over all variables, relative to the norm of `a` where that is above 1.
fn apart(decoder: &Decoder, a: &GradStore, b: &GradStore) -> f64 {
    let difference = |v: &candle_core::Var| {
        let pairs = numbers(a.get(v).unwrap()).into_iter().zip(numbers(b.get(v).unwrap()));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let worst = decoder.variables().values().map(difference).fold(0.0, f64::max);
    let norm = gradients::norm(a, decoder.variables()).unwrap();
    println!("apart by {worst:.1e}, norm {norm:.2}");
    worst / norm.max(1.0)
}

fn values(metrics: &Metrics) -> Vec<f64> {
    let Metrics { loss, ratio_mean, ratio_max, clip_low, clip_high, .. } = *metrics;
    let rest = [metrics.kl.unwrap(), metrics.entropy.unwrap(), metrics.silent_groups];
    [&[loss, ratio_mean, ratio_max, clip_low, clip_high], &rest[..]].concat()
}

const SPLITS: [Split; 6] = [
    Split::WHOLE,
    Split::over(2),
    Split::over(9),
    Split { shards: 1, pieces: 2 },
    Split { shards: 2, pieces: 2 },
    Split { shards: 1, pieces: 5 },
];

#[test]
fn completions_are_the_same_token_for_token() {
    for model in MODELS {
        for dtype in [DType::F32, DType::F64] {
            let decoder = read(model, dtype);
            let settings = |shards| Settings {
                stop: (0..300).step_by(10).collect(),
                ..settings(shards)
            };
            let prompts =
                [vec![289, 267, 223, 19], vec![13], vec![25, 33], vec![7], vec![9]];
            let whole = generate(&decoder, &prompts, &settings(1), streams(1)).unwrap();
            for shards in [2, 3, 8] {
                let parts =
                    generate(&decoder, &prompts, &settings(shards), streams(1)).unwrap();
                assert_eq!(whole.ids().unwrap(), parts.ids().unwrap(), "{model} {shards}");
                assert_eq!(whole.truncated, parts.truncated);
                assert_eq!(numbers(&whole.mask), numbers(&parts.mask));
                assert_eq!(numbers(&whole.prompts), numbers(&parts.prompts));
                let masks =
                    [&whole, &parts].map(|c| numbers(c.prompt_mask.as_ref().unwrap()));
                assert_eq!(masks[0], masks[1]);
                let error = worst(&numbers(&whole.log_probs), &numbers(&parts.log_probs));
                assert!(error < 1e-5, "{model} {shards}: {error}");
            }
        }
    }
}

/// In single precision the sums of other parts round otherwise: that is all there is.
#[test]
fn gradients_and_metrics_are_those_of_the_whole_for_every_recipe() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let decoder = fresh(dtype);
        let rollout = rollout(&decoder);
        for recipe in recipes(6) {
            let objective = recipe.objective;
            let (gradients, metrics) = whole(&decoder, &rollout, &objective);
            for split in SPLITS {
                let (parts, said) = in_shards(&decoder, &rollout, &objective, split);
                let error = apart(&decoder, &gradients, &parts);
                assert!(error < tolerance, "{} {split:?}: {error}", recipe.name);
                let error = worst(&values(&metrics), &values(&said));
                assert!(error < tolerance, "{} {split:?}: {error}", recipe.name);
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_whole_for_every_aggregation() {
    let decoder = fresh(DType::F64);
    let rollout = rollout(&decoder);
    for aggregation in [
        Aggregation::SequenceMean,
        Aggregation::TokenMean,
        Aggregation::ConstantLength(6),
        Aggregation::GlobalTokens,
        Aggregation::LengthWeighted,
    ] {
        let objective = Objective { aggregation, ..recipe("grpo", 6).unwrap().objective };
        let (gradients, _) = whole(&decoder, &rollout, &objective);
        for split in SPLITS {
            let (parts, _) = in_shards(&decoder, &rollout, &objective, split);
            let error = apart(&decoder, &gradients, &parts);
            assert!(error < 1e-12, "{aggregation:?} {split:?}: {error}");
        }
    }
}

/// Were each half given its own mean, short halves would weigh too much: the test above
/// would see it.
#[test]
fn the_mean_of_the_halves_is_another_gradient() {
    let decoder = fresh(DType::F64);
    let rollout = rollout(&decoder);
    let grpo = recipe("grpo", 6).unwrap().objective;
    let objective = Objective { aggregation: Aggregation::TokenMean, ..grpo };
    let (gradients, _) = whole(&decoder, &rollout, &objective);
    let mut halves = GradStore::default();
    for half in rollout.split(Split::over(2)).unwrap().concat() {
        let (mut part, _) = whole(&decoder, &half, &objective);
        for variable in decoder.variables().values() {
            let scaled = (part.remove(variable).unwrap() / 2.0).unwrap();
            let sum = match halves.remove(variable) {
                Some(sum) => (sum + scaled).unwrap(),
                None => scaled,
            };
            halves.insert(variable, sum);
        }
    }
    assert!(apart(&decoder, &gradients, &halves) > 1e-3);
}

/// Inside of a shard everything stays on one thread.
#[test]
fn one_thread_and_two_give_the_same_bits() {
    let decoder = fresh(DType::F32);
    let rollout = rollout(&decoder);
    let objective = recipe("grpo", 6).unwrap().objective;
    let bits = || {
        let split = Split { shards: 3, pieces: 2 };
        let (gradients, _) = in_shards(&decoder, &rollout, &objective, split);
        let sampled = generate(&decoder, &prompts(), &settings(3), streams(2)).unwrap();
        let variables = decoder.variables().values();
        let mut all: Vec<_> =
            variables.flat_map(|v| numbers(gradients.get(v).unwrap())).collect();
        all.extend(numbers(&sampled.log_probs));
        all.into_iter().map(f64::to_bits).collect::<Vec<_>>()
    };
    let alone = shards::run(2, |_| Ok(bits())).unwrap();
    assert_eq!(alone[0], alone[1]);
    assert_eq!(alone[0], bits());
}

#[test]
fn supervised_steps_are_cut_the_same_way() {
    let decoder = fresh(DType::F64);
    let rollout = rollout(&decoder);
    let loss = |scores: &Scores| {
        let nll = mask::token_mean(&scores.log_probs, &rollout.mask)?.neg()?;
        let value = nll.to_scalar::<f64>()?;
        Ok((nll, value))
    };
    let (nll, value) = loss(&score(&decoder, &rollout).unwrap()).unwrap();
    let whole = gradients::of(&nll, decoder.variables()).unwrap();
    for split in SPLITS {
        let parts = rollout.split(split).unwrap();
        let score = |part: &Rollout| score(&decoder, part);
        let (gradients, said) =
            backward::in_shards(&parts, decoder.variables(), score, loss).unwrap();
        assert!((said - value).abs() < 1e-12);
        let error = apart(&decoder, &whole, &gradients);
        assert!(error < 1e-12, "{split:?}: {error}");
    }
}

#[test]
fn a_shard_without_a_gradient_is_refused() {
    let decoder = fresh(DType::F32);
    let rollout = rollout(&decoder);
    let parts = rollout.split(Split::over(2)).unwrap();
    let blind = |part: &Rollout| {
        let Scores { log_probs, entropy } = score(&decoder, part)?;
        let second = part.rewards == parts[1][0].rewards;
        let log_probs = if second { log_probs.detach() } else { log_probs };
        Ok(Scores { log_probs, entropy })
    };
    let loss = |scores: &Scores| Ok((scores.log_probs.sum_all()?, ()));
    let error = backward::in_shards(&parts, decoder.variables(), blind, loss);
    let error = error.err().unwrap().to_string();
    assert!(error.starts_with("26 of 26 variables got no gradient"), "{error}");
}

/// Padding may hold anything, also in a shard.
#[test]
fn what_stands_at_padding_changes_nothing() {
    let decoder = fresh(DType::F32);
    let rollout = rollout(&decoder);
    let grpo = recipe("grpo", 6).unwrap().objective;
    let (clean, _) = in_shards(&decoder, &rollout, &grpo, Split::over(2));
    let parts = rollout.split(Split::over(2)).unwrap();
    let nowhere = |part: &Rollout| {
        let Scores { log_probs, .. } = score(&decoder, part)?;
        let infinite = (log_probs.ones_like()? * f64::NEG_INFINITY)?;
        Ok(part.mask.where_cond(&log_probs, &infinite)?.into())
    };
    let loss = |scores: &Scores| grpo.loss(&rollout.batch(&scores.log_probs));
    let (wild, _) =
        backward::in_shards(&parts, decoder.variables(), nowhere, loss).unwrap();
    assert_eq!(apart(&decoder, &clean, &wild), 0.0);
}
