//! The whole work of a popular notebook on GRPO, and what it costs.
//!
//! ```text
//! cargo bench --profile dev --bench notebook_001
//! ```
//!
//! In PyTorch, on one thread, the notebook takes 21.7 CPU-seconds. This does the same:
//! the same sizes, batches, steps and learning rates, with a reward model that scores
//! every rollout, a reference, a clip and a KL. Two things differ. The KL is estimated
//! from the sampled tokens, where the notebook sums over the vocabulary. And the whole
//! batch is sampled at once, where the notebook samples one prompt at a time: that is
//! where most of its time goes.
//!
//! Left out: repetitions and error bars, because the question is about a factor of ten.

use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, ops::softmax};
use grpo::{
    Result,
    advantage::Scale,
    env::bandit::{Bandit, Contexts, roll_out, score},
    gradients, log_prob,
    objective::{Kl, Objective, recipe},
    policy::{Mlp, Policy},
    reward_model::{self, RewardModel},
    sampling, seed,
    update::{Steps, update},
    variables::Variables,
};
use rand::{Rng, rngs::StdRng};
use std::time::Instant;

/// What the notebook takes in PyTorch on one thread, in CPU-seconds.
const NOTEBOOK: f64 = 21.7;
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;
const PROMPTS: usize = 8;

fn main() -> Result<()> {
    let mut clock = Clock::start();
    let mut rng = seed::rng(42);
    let world = world(&mut rng)?;
    let sft = fine_tune(&world, &mut rng)?;
    clock.lap("SFT, 2,000 steps of 32");
    let model = learn_rewards(&world, &mut rng)?;
    clock.lap("reward model, 200 steps of 64");
    let judged = |contexts: &Contexts, tokens: &Tensor| -> Result<Vec<f64>> {
        let rewards = model.rewards(&contexts.features, tokens)?;
        Ok(rewards.detach().to_dtype(DType::F64)?.to_vec1()?)
    };
    grpo(&world, &sft, 8, 500, 2, judged, &mut rng)?;
    clock.lap("GRPO, 500 rollouts of 8 x 8, 2 epochs");
    for group_size in [2, 4, 8, 16] {
        grpo(&world, &sft, group_size, 300, 2, judged, &mut rng)?;
    }
    clock.lap("G in 2, 4, 8, 16: 300 rollouts each, 2 epochs");
    let verified = world.verifiable()?;
    let right = |contexts: &Contexts, tokens: &Tensor| verified.rewards(contexts, tokens);
    let policy = grpo(&world, &sft, 16, 500, 1, right, &mut rng)?;
    clock.lap("verified rewards, 500 rollouts of 8 x 16");
    println!("right answers: SFT {:.3}", verified.expected_reward(&sft)?);
    println!("      verified rewards {:.3}", verified.expected_reward(&policy)?);
    clock.finish();
    Ok(())
}

/// The notebook's preferences: the softmax of twice a normal number.
fn world(rng: &mut StdRng) -> Result<Bandit> {
    let [contexts, features, tokens] = WORLD;
    let features = seed::normal(rng, (contexts, features), 1.0, DType::F32, &Cpu)?;
    let rewards =
        softmax(&seed::normal(rng, (contexts, tokens), 2.0, DType::F32, &Cpu)?, 1)?;
    Ok(Bandit { features, rewards })
}

fn adam(variables: &Variables, lr: f64) -> Result<AdamW> {
    let settings = ParamsAdamW { lr, weight_decay: 0.0, ..ParamsAdamW::default() };
    Ok(AdamW::new(variables.values().cloned().collect(), settings)?)
}

fn fine_tune(world: &Bandit, rng: &mut StdRng) -> Result<Mlp> {
    let [_, features, tokens] = WORLD;
    let policy = Mlp::new([features, HIDDEN, tokens], rng, DType::F32, &Cpu)?;
    let mut optimizer = adam(policy.variables(), 1e-2)?;
    let shows = world.rewards.log()?;
    for _ in 0..2_000 {
        let contexts = world.draw(32, rng)?;
        let shown = sampling::sample(&shows.index_select(&contexts.ids, 0)?, rng)?;
        let loss =
            log_prob::of(&policy.logits(&contexts.features)?, &shown)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}

fn learn_rewards(world: &Bandit, rng: &mut StdRng) -> Result<RewardModel> {
    let [_, features, tokens] = WORLD;
    let model = RewardModel::new([features, HIDDEN, tokens], rng, DType::F32, &Cpu)?;
    let mut optimizer = adam(model.variables(), 1e-3)?;
    for _ in 0..200 {
        let contexts = world.draw(64, rng)?;
        let mut tokens = || -> Result<Tensor> {
            let ids: Vec<u32> =
                (0..64).map(|_| rng.random_range(0..tokens as u32)).collect();
            Ok(Tensor::new(ids, &Cpu)?)
        };
        let (a, b) = (tokens()?, tokens()?);
        let rewards =
            world.rewards(&contexts, &a)?.into_iter().zip(world.rewards(&contexts, &b)?);
        let wins = rewards
            .map(|(a, b)| u8::from(rng.random::<f64>() < 1.0 / (1.0 + (b - a).exp())));
        let wins = Tensor::new(wins.collect::<Vec<_>>(), &Cpu)?;
        let chosen = model.rewards(&contexts.features, &wins.where_cond(&a, &b)?)?;
        let rejected = model.rewards(&contexts.features, &wins.where_cond(&b, &a)?)?;
        let loss = reward_model::loss(&chosen, &rejected)?;
        optimizer.step(&gradients::of(&loss, model.variables())?)?;
    }
    Ok(model)
}

fn grpo(
    world: &Bandit,
    sft: &Mlp,
    group_size: usize,
    rollouts: usize,
    epochs: usize,
    judge: impl Fn(&Contexts, &Tensor) -> Result<Vec<f64>>,
    rng: &mut StdRng,
) -> Result<Mlp> {
    let policy = sft.copy()?;
    let mut optimizer = adam(policy.variables(), 1e-3)?;
    let objective = Objective { kl: Kl::new(0.05), ..recipe("grpo", 1)?.objective };
    let steps = Steps { epochs, max_norm: f64::INFINITY };
    for _ in 0..rollouts {
        let contexts = world.draw(PROMPTS, rng)?.in_groups(group_size)?;
        let rollout =
            roll_out(&policy, &contexts, group_size, Scale::Unbiased, &judge, rng)?;
        let reference = score(sft, &rollout)?.log_probs;
        let rollout = rollout.with_reference(&reference)?;
        let score = |rollout: &_| score(&policy, rollout);
        update(score, policy.variables(), &mut optimizer, &rollout, &objective, steps)?;
    }
    Ok(policy)
}

/// Wall time, and CPU time where the system tells.
struct Clock {
    start: (Instant, Option<f64>),
    lap: (Instant, Option<f64>),
}

impl Clock {
    fn start() -> Self {
        let now = (Instant::now(), cpu_seconds());
        Self { start: now, lap: now }
    }

    fn lap(&mut self, name: &str) {
        let (cpu, wall) = since(&self.lap);
        println!("{name:48} {} CPU-seconds  {wall:6.2} s", show(cpu));
        self.lap = (Instant::now(), cpu_seconds());
    }

    fn finish(self) {
        let (cpu, wall) = since(&self.start);
        println!("{:48} {} CPU-seconds  {wall:6.2} s", "all", show(cpu));
        // Without CPU time, wall time is the larger of the two.
        let factor = NOTEBOOK / cpu.unwrap_or(wall);
        let verdict = if factor >= 10.0 { "at most" } else { "MORE than" };
        println!(
            "the notebook in PyTorch: {NOTEBOOK}; {factor:.1} times as many, {verdict} a tenth here"
        );
    }
}

fn since((wall, cpu): &(Instant, Option<f64>)) -> (Option<f64>, f64) {
    (cpu.zip(cpu_seconds()).map(|(before, now)| now - before), wall.elapsed().as_secs_f64())
}

fn show(cpu: Option<f64>) -> String {
    cpu.map_or("     –".into(), |cpu| format!("{cpu:6.2}"))
}

/// CPU time of this process, all threads, user and system, where there is a /proc.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program comes second, in parentheses, and may hold spaces. Times are
    // in hundredths of a second on every Linux.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}
