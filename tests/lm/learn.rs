//! All of it together: sample, score, reward, update. A small model learns to answer with
//! its prompt, from nothing but a reward.

use crate::tiny;
use candle_core::{DType, Device::Cpu};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{
    advantage::Scale,
    lm::{
        config::Config,
        decoder::Decoder,
        generate::{Settings, Streams, generate},
    },
    objective::{Kl, Objective, recipe},
    optim::{AdamW, warm_up_cosine},
    policy::Policy,
    rollout::Rollout,
    sampling::Sampler,
    seed,
    shards::Split,
    update::{Steps, update_in_shards},
};

const PROMPTS: [u32; 6] = [1, 2, 3, 4, 5, 6];
const STEPS: usize = 60;
const LR: f64 = 5e-3;

fn settings(group_size: usize, sampler: Sampler) -> Settings {
    Settings { group_size, max_tokens: 3, sampler, stop: vec![0], pad: 0, shards: 2 }
}

/// Prompts of two lengths, so that padding takes part. Each begins with another token
/// than its own: attention is an average, and to it one `a` alone is the same as two.
fn prompts() -> Vec<Vec<u32>> {
    PROMPTS
        .iter()
        .map(|&id| if id % 2 == 0 { vec![0, id] } else { vec![0, 0, id] })
        .collect()
}

/// 1 when the first token is the prompt's last.
fn reward(prompt: u32, completion: &[u32]) -> f64 {
    f64::from(u8::from(completion.first() == Some(&prompt)))
}

fn greedy_reward(decoder: &Decoder) -> f64 {
    let streams = Streams { seed: 0, step: 0, first_prompt: 0 };
    let answers =
        generate(decoder, &prompts(), &settings(1, Sampler::greedy()), streams).unwrap();
    let answers = answers.ids().unwrap();
    let rewards = PROMPTS.iter().zip(&answers).map(|(&id, answer)| reward(id, answer));
    rewards.sum::<f64>() / PROMPTS.len() as f64
}

/// The mean greedy reward before and after, with `sign` times the reward.
fn run(seed: u64, sign: f64) -> [f64; 2] {
    let config =
        Config { hidden_size: 24, intermediate_size: 32, head_dim: 6, ..tiny("qwen2") };
    let decoder = Decoder::new(&config, &mut seed::rng(seed), DType::F32, &Cpu).unwrap();
    let adam = ParamsAdamW { lr: LR, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(decoder.variables(), adam).unwrap();
    let objective = Objective { kl: Kl::new(0.0), ..recipe("grpo", 3).unwrap().objective };
    let before = greedy_reward(&decoder);
    for step in 0..STEPS {
        let streams = Streams { seed, step: step as u64, first_prompt: 0 };
        let sampled =
            generate(&decoder, &prompts(), &settings(32, Sampler::at(1.0)), streams)
                .unwrap();
        let ids = sampled.ids().unwrap();
        let rewards =
            ids.iter().enumerate().map(|(i, ids)| sign * reward(PROMPTS[i / 32], ids));
        let rollout = Rollout::new(
            sampled.prompts.clone(),
            sampled.tokens.clone(),
            sampled.mask.clone(),
            sampled.log_probs.clone(),
            rewards.collect(),
            32,
            Scale::Trl,
        )
        .unwrap()
        .with_prompt_mask(sampled.prompt_mask.as_ref())
        .unwrap();
        optimizer.set_learning_rate(LR * warm_up_cosine(step, 5, STEPS, 0.1));
        let score = |part: &Rollout| {
            decoder.score(&part.prompts, part.prompt_mask.as_ref(), &part.tokens, 1.0)
        };
        let steps = Steps { epochs: 1, max_norm: 1.0 };
        let taken = update_in_shards(
            score,
            decoder.variables(),
            &mut optimizer,
            &rollout,
            &objective,
            steps,
            Split::over(2),
        )
        .unwrap();
        // The scorer agrees with the sampler, so the first epoch's ratio is 1.
        assert!((taken[0].metrics.ratio_mean - 1.0).abs() < 1e-4);
    }
    [before, greedy_reward(&decoder)]
}

#[test]
fn a_reward_teaches_it_and_the_opposite_reward_does_not() {
    let runs = seed::over_seeds(5, |seed| Ok((run(20 + seed, 1.0), run(20 + seed, -1.0))));
    for (seed, ([before, after], [_, opposite])) in runs.unwrap().into_iter().enumerate() {
        println!("seed {seed}: {before:.2} {after:.2} {opposite:.2}");
        assert!(before < 0.7 && after == 1.0, "seed {seed}: {before} {after}");
        assert!(opposite < 0.2, "seed {seed}: {opposite}");
    }
}
