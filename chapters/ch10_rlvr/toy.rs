//! The notebook's toy: five contexts, one correct token of ten in each.

use super::*;
use candle_nn::{AdamW, ParamsAdamW};
use grpo::{
    env::bandit::{Bandit, roll_out, score},
    gradients, log_prob,
    objective::{Kl, Objective, recipe},
    policy::Mlp,
    sampling,
    update::update,
};

// ANCHOR: toy
const WORLD: [usize; 3] = [5, 8, 10];
/// How often the demonstrations are right.
const SHOWN_RIGHT: f64 = 0.84;
const ITERATIONS: usize = 500;
const PROMPTS: usize = 8;
const GROUP_SIZE: usize = 16;
const LR: f64 = 1e-3;
const KL_COEF: f64 = 0.05;
// ANCHOR_END: toy
const SEEDS: u64 = 5;
const TABLE_EVERY: usize = 100;

/// Chances to be right, without sampling: of a sampled answer, and of the likeliest.
type Chances = [f64; 2];

pub fn run(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "toy", "Five contexts, one correct token each");
    let all = seed::over_seeds(SEEDS, |seed| train(run.seed + seed, &run.device))?;
    let mut table = Table::new(["iteration", "sampled", "greedy"]);
    for i in 0..all[0].len() {
        let mean = |which: usize| {
            let chances: Vec<f64> =
                all.iter().map(|seed: &Vec<Chances>| seed[i][which]).collect();
            format!("{:.3}", stats::mean_std(&chances).0)
        };
        table.row([(i * TABLE_EVERY).to_string(), mean(0), mean(1)]);
    }
    print!(
        "{table}\nchances to be right, summed over all answers; mean of {SEEDS} seeds\n"
    );
    Ok(())
}

/// The chances at every hundredth iteration.
pub fn train(seed: u64, device: &Device) -> Result<Vec<Chances>> {
    let rng = &mut seed::stream(seed, &[10]);
    let world = Bandit::random(WORLD, rng, device)?.verifiable()?;
    let policy = fine_tuned(&world, rng)?;
    let reference = policy.copy()?;
    let mut optimizer = adam(&policy, LR)?;
    let objective = Objective { kl: Kl::new(KL_COEF), ..recipe("grpo", 1)?.objective };
    let mut chances = vec![measure(&world, &policy)?];
    for iteration in 1..=ITERATIONS {
        let contexts = world.draw(PROMPTS, rng)?.in_groups(GROUP_SIZE)?;
        let verify = |contexts: &_, tokens: &_| world.rewards(contexts, tokens);
        let rollout =
            roll_out(&policy, &contexts, GROUP_SIZE, Scale::Unbiased, verify, rng)?;
        let ref_log_probs = score(&reference, &rollout)?.log_probs;
        let rollout = rollout.with_reference(&ref_log_probs)?;
        let steps = Steps { epochs: EPOCHS, max_norm: f64::MAX };
        let score = |rollout: &Rollout| score(&policy, rollout);
        update(score, policy.variables(), &mut optimizer, &rollout, &objective, steps)?;
        if iteration.is_multiple_of(TABLE_EVERY) {
            chances.push(measure(&world, &policy)?);
        }
    }
    Ok(chances)
}

fn adam(policy: &Mlp, lr: f64) -> Result<AdamW> {
    let settings = ParamsAdamW { lr, weight_decay: 0.0, ..ParamsAdamW::default() };
    Ok(AdamW::new(policy.variables().values().cloned().collect(), settings)?)
}

/// A policy that has imitated demonstrations, which are right in 84 of 100 cases and any
/// other token else.
fn fine_tuned(world: &Bandit, rng: &mut StdRng) -> Result<Mlp> {
    let [_, features, tokens] = WORLD;
    let policy =
        Mlp::new([features, 32, tokens], rng, DType::F32, world.features.device())?;
    let mut optimizer = adam(&policy, 1e-2)?;
    let wrong = (1.0 - SHOWN_RIGHT) / (tokens - 1) as f64;
    let shows = ((&world.rewards * (SHOWN_RIGHT - wrong))? + wrong)?.log()?;
    for _ in 0..400 {
        let contexts = world.draw(64, rng)?;
        let shown = sampling::sample(&shows.index_select(&contexts.ids, 0)?, rng)?;
        let loss = log_prob::of(&policy.logits(&contexts.features)?, &shown)?.mean_all()?;
        optimizer.step(&gradients::of(&loss.neg()?, policy.variables())?)?;
    }
    Ok(policy)
}

fn measure(world: &Bandit, policy: &Mlp) -> Result<Chances> {
    let favourite = policy.logits(&world.features)?.argmax_keepdim(1)?;
    let greedy = world.rewards.gather(&favourite, 1)?.mean_all()?;
    let greedy = greedy.to_dtype(DType::F64)?.to_scalar()?;
    Ok([world.expected_reward(policy)?, greedy])
}
