//! Chapter 7: from preferences to policies.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, ops::softmax};
use clap::Parser;
use grpo::{
    Result,
    advantage::{self, Scale},
    cli::{self, RunArgs},
    dpo::{self, Pairs},
    env::bandit::{Bandit, Contexts, roll_out, score},
    gradients, kl, log_prob,
    objective::{Aggregation, Kl, Objective, Ratio, Term},
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    ppo::Ppo,
    report::{self, Kind, Output, Table},
    reward_model::{self, RewardModel},
    rollout::Rollout,
    sampling, seed,
    update::{Steps, update},
    variables::{self, Variables},
};
use rand::{Rng, rngs::StdRng};

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// The toy world: contexts, features, tokens. A prompt is a context, an answer is one token.
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;
/// How decided the annotators are: they prefer a to b with probability σ(8 (r_a − r_b)).
const DECIDED: f64 = 8.0;
/// How decided the teacher is, who writes the demonstrations: p ∝ e^{5 r}.
const TEACHER: f64 = 5.0;
/// Comparisons that the reward model and DPO learn from.
const COMPARISONS: usize = 200;

/// Every training here: batch, learning rate of Adam.
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 1e-2;
const SFT_STEPS: usize = 400;
const REWARD_STEPS: usize = 200;
/// Policies: steps of 64 sampled tokens, in groups of 8 where the method has groups.
const STEPS: usize = 200;
const GROUP_SIZE: usize = 8;
const CLIP: f64 = 0.2;
const KL_COEF: f64 = 0.1;
// ANCHOR_END: settings

/// Chapter 7, from preferences to policies: SFT, a reward model, GRPO, and the others.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Three seeds in place of ten
    #[arg(long)]
    quick: bool,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let seeds = if args.quick { 3 } else { 10 };
    let mut out = args.run.output("ch07_reward_model")?;
    explore(&args.run, seeds)?;
    Ok(out.finish()?)
}

/// What the demonstrations look like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Teacher {
    /// Prefers better tokens. Its favourite is the best one.
    Good,
    /// The same, but has never understood the best token: gives it the probability
    /// of the median one.
    Mediocre,
}

impl Teacher {
    /// The probabilities of its demonstrations, (C, A).
    fn probabilities(self, world: &Bandit) -> Result<Tensor> {
        let mut quality = world.rewards.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        if self == Self::Mediocre {
            for row in &mut quality {
                let mut sorted = row.clone();
                sorted.sort_by(f64::total_cmp);
                let (best, median) = (sorted[row.len() - 1], sorted[row.len() / 2 - 1]);
                row.iter_mut().filter(|q| **q == best).for_each(|q| *q = median);
            }
        }
        let quality = Tensor::new(quality, world.rewards.device())?.to_dtype(DType::F32)?;
        Ok(softmax(&(quality * TEACHER)?, 1)?)
    }
}

fn adam(variables: &Variables) -> Result<AdamW> {
    let settings = ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
    Ok(AdamW::new(variables.values().cloned().collect(), settings)?)
}

fn fine_tune(world: &Bandit, teacher: Teacher, rng: &mut StdRng) -> Result<Mlp> {
    let device = world.features.device();
    let [_, features, tokens] = WORLD;
    let policy = Mlp::new([features, HIDDEN, tokens], rng, DType::F32, device)?;
    let mut optimizer = adam(policy.variables())?;
    let demonstrations = teacher.probabilities(world)?.log()?;
    for _ in 0..SFT_STEPS {
        let contexts = world.draw(BATCH, rng)?;
        let shown = sampling::sample(&demonstrations.index_select(&contexts.ids, 0)?, rng)?;
        let loss = log_prob::of(&policy.logits(&contexts.features)?, &shown)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}

struct Comparisons {
    contexts: Contexts,
    chosen: Tensor,
    rejected: Tensor,
}

fn compare(world: &Bandit, policy: &Mlp, count: usize, rng: &mut StdRng) -> Result<Comparisons> {
    let contexts = world.draw(count, rng)?;
    let logits = policy.logits(&contexts.features)?;
    let a = sampling::sample(&logits, rng)?;
    // The second answer is another one: its token is sampled with the first taken out.
    let taken = one_hot(&a)?;
    let b = sampling::sample(&(logits.detach() - (taken * 1e9)?)?, rng)?;
    let (ra, rb) = (world.rewards(&contexts, &a)?, world.rewards(&contexts, &b)?);
    let margins = ra.iter().zip(&rb).map(|(a, b)| DECIDED * (a - b));
    let a_wins: Vec<u8> =
        margins.map(|m| u8::from(rng.random::<f64>() < 1.0 / (1.0 + (-m).exp()))).collect();
    let a_wins = Tensor::new(a_wins, a.device())?;
    let (chosen, rejected) = (a_wins.where_cond(&a, &b)?, a_wins.where_cond(&b, &a)?);
    Ok(Comparisons { contexts, chosen, rejected })
}

fn one_hot(ids: &Tensor) -> Result<Tensor> {
    let all = Tensor::arange(0u32, WORLD[2] as u32, ids.device())?.unsqueeze(0)?;
    Ok(ids.unsqueeze(1)?.broadcast_eq(&all)?.to_dtype(DType::F32)?)
}

fn learn_rewards(pairs: &Comparisons, rng: &mut StdRng) -> Result<RewardModel> {
    let device = pairs.chosen.device();
    let [_, features, tokens] = WORLD;
    let model = RewardModel::new([features, HIDDEN, tokens], rng, DType::F32, device)?;
    let mut optimizer = adam(model.variables())?;
    for _ in 0..REWARD_STEPS {
        let pairs = pairs.draw(BATCH, rng)?;
        let reward = |tokens: &Tensor| model.rewards(&pairs.contexts.features, tokens);
        let loss = reward_model::loss(&reward(&pairs.chosen)?, &reward(&pairs.rejected)?)?;
        optimizer.step(&gradients::of(&loss, model.variables())?)?;
    }
    Ok(model)
}

impl Comparisons {
    fn draw(&self, count: usize, rng: &mut StdRng) -> Result<Self> {
        let total = self.chosen.elem_count() as u32;
        let rows: Vec<u32> = (0..count).map(|_| rng.random_range(0..total)).collect();
        let rows = Tensor::new(rows, self.chosen.device())?;
        let take = |x: &Tensor| x.index_select(&rows, 0);
        let contexts =
            Contexts { ids: take(&self.contexts.ids)?, features: take(&self.contexts.features)? };
        Ok(Self { contexts, chosen: take(&self.chosen)?, rejected: take(&self.rejected)? })
    }
}

/// Everything that a policy is trained from, and measured by.
struct Lab {
    world: Bandit,
    sft: Mlp,
    pairs: Comparisons,
    model: RewardModel,
    /// The world as the reward model sees it: scores with mean 0 and standard deviation 1
    /// over the answers of the SFT policy.
    judged: Bandit,
}

impl Lab {
    fn new(teacher: Teacher, comparisons: usize, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = seed::stream(seed, &[7]);
        let world = Bandit::random(WORLD, &mut rng, device)?;
        let sft = fine_tune(&world, teacher, &mut rng)?;
        let pairs = compare(&world, &sft, comparisons, &mut rng)?;
        let model = learn_rewards(&pairs, &mut rng)?;
        let scores = model.table(&world.features)?;
        let mean = |x: &Tensor| -> Result<f64> {
            Bandit { features: world.features.clone(), rewards: x.clone() }.expected_reward(&sft)
        };
        let centred = (&scores - mean(&scores)?)?;
        let std = mean(&centred.sqr()?)?.sqrt();
        let judged = Bandit { features: world.features.clone(), rewards: (centred / std)? };
        Ok(Self { world, sft, pairs, model, judged })
    }

    fn measure(&self, policy: &Mlp) -> Result<Measured> {
        let logits = policy.logits(&self.world.features)?.detach();
        let kl = kl::exact_policy_ref(&logits, &self.sft.logits(&self.world.features)?)?;
        let greedy = logits.argmax_keepdim(1)?;
        let greedy = self.world.rewards.gather(&greedy, 1)?.mean_all()?;
        Ok(Measured {
            reward: self.world.expected_reward(policy)?,
            greedy: f64::from(greedy.to_scalar::<f32>()?),
            judged: self.judged.expected_reward(policy)?,
            kl: f64::from(kl.mean_all()?.to_scalar::<f32>()?),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    reward: f64,
    greedy: f64,
    judged: f64,
    kl: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Reinforce,
    Rloo,
    Ppo,
    Grpo,
    Verified,
    Dpo,
}

fn objective(kl_coef: f64) -> Objective {
    Objective {
        ratio: Ratio::Token,
        term: Term::clip(CLIP),
        aggregation: Aggregation::SequenceMean,
        kl: Kl::new(kl_coef),
        off_policy_threshold: None,
    }
}

fn sample(
    lab: &Lab,
    policy: &Mlp,
    method: Method,
    world: &Bandit,
    rng: &mut StdRng,
) -> Result<Rollout> {
    let (size, scale) = match method {
        Method::Reinforce | Method::Ppo => (1, Scale::None),
        Method::Rloo => (GROUP_SIZE, Scale::None),
        _ => (GROUP_SIZE, Scale::Trl),
    };
    let contexts = world.draw(BATCH / size, rng)?.in_groups(size)?;
    let judge = |contexts: &Contexts, tokens: &Tensor| world.rewards(contexts, tokens);
    let mut rollout = roll_out(policy, &contexts, size, scale, judge, rng)?;
    let advantages = match method {
        Method::Reinforce => Some(rollout.rewards.clone()),
        Method::Rloo => {
            let groups = advantage::groups(&rollout.rewards, size)?;
            let all: Result<Vec<_>> = groups.map(advantage::leave_one_out).collect();
            Some(all?.concat())
        }
        _ => None,
    };
    if let Some(a) = advantages {
        rollout.advantages = Tensor::new(a, policy_device(policy))?.to_dtype(DType::F32)?;
    }
    let reference = score(&lab.sft, &rollout)?.log_probs;
    rollout.with_reference(&reference)
}

fn policy_device(policy: &Mlp) -> &Device {
    policy.variables().values().next().map_or(&Device::Cpu, |v| v.device())
}

fn train(
    lab: &Lab,
    method: Method,
    kl_coef: f64,
    steps: usize,
    seed: u64,
    mut watch: impl FnMut(usize, &Mlp, &Rollout) -> Result<()>,
) -> Result<Mlp> {
    let mut rng = seed::stream(seed, &[8]);
    let policy = lab.sft.copy()?;
    let verified = lab.world.verifiable()?;
    let world = if method == Method::Verified { &verified } else { &lab.judged };
    let critic = Mlp::new([WORLD[1], HIDDEN, 1], &mut rng, DType::F32, policy_device(&policy))?;
    let ppo = Ppo { objective: objective(kl_coef), gamma: 1.0, lambda: 0.95, value_coef: 0.5 };
    let mut variables = policy.variables().clone();
    if method == Method::Ppo {
        variables
            .extend(critic.variables().iter().map(|(n, v)| (format!("critic.{n}"), v.clone())));
    }
    let mut optimizer = adam(&variables)?;
    let epochs = if matches!(method, Method::Reinforce | Method::Rloo) { 1 } else { 2 };
    for step in 0..steps {
        let rollout = sample(lab, &policy, method, world, &mut rng)?;
        watch(step, &policy, &rollout)?;
        if method == Method::Ppo {
            let values = critic.logits(&rollout.prompts)?;
            let estimates = ppo.estimate(&rollout, &values)?.whitened(&rollout.mask)?;
            for _ in 0..epochs {
                let (loss, _) = ppo.loss(
                    &rollout,
                    &estimates,
                    &score(&policy, &rollout)?.log_probs,
                    &critic.logits(&rollout.prompts)?,
                )?;
                optimizer.step(&gradients::of(&loss, &variables)?)?;
            }
        } else {
            let steps = Steps { epochs, max_norm: f64::INFINITY };
            update(
                |r| score(&policy, r),
                policy.variables(),
                &mut optimizer,
                &rollout,
                &ppo.objective,
                steps,
            )?;
        }
    }
    Ok(policy)
}

fn train_dpo(lab: &Lab, beta: f64, steps: usize, seed: u64) -> Result<Mlp> {
    let mut rng = seed::stream(seed, &[9]);
    let policy = lab.sft.copy()?;
    let mut optimizer = adam(policy.variables())?;
    for _ in 0..steps {
        let pairs = lab.pairs.draw(BATCH, &mut rng)?;
        let of = |policy: &Mlp, tokens: &Tensor| {
            log_prob::of(&policy.logits(&pairs.contexts.features)?, tokens)
        };
        let (chosen, rejected) = (of(&policy, &pairs.chosen)?, of(&policy, &pairs.rejected)?);
        let (rc, rr) = (of(&lab.sft, &pairs.chosen)?, of(&lab.sft, &pairs.rejected)?);
        let loss = dpo::loss(
            Pairs { chosen: &chosen, rejected: &rejected },
            Pairs { chosen: &rc, rejected: &rr },
            beta,
        )?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}

/// π ∝ π_ref e^{judged/β}: (reward, judged, kl)
fn optimum(lab: &Lab, beta: f64) -> Result<[f64; 3]> {
    let reference = lab.sft.logits(&lab.world.features)?.detach();
    let logits = (&reference + (&lab.judged.rewards / beta)?)?;
    let p = softmax(&logits, D::Minus1)?;
    let mean = |t: &Tensor| -> Result<f64> {
        Ok(f64::from((&p * t)?.sum(1)?.mean_all()?.to_scalar::<f32>()?))
    };
    let kl = kl::exact_policy_ref(&logits, &reference)?.mean_all()?.to_scalar::<f32>()?;
    Ok([mean(&lab.world.rewards)?, mean(&lab.judged.rewards)?, f64::from(kl)])
}

fn explore(run: &RunArgs, seeds: u64) -> Result<()> {
    let ms = |x: &[f64]| {
        let (m, s) = report::mean_std(x);
        format!("{m:.3}±{s:.3}")
    };
    for teacher in [Teacher::Good, Teacher::Mediocre] {
        for n in [50usize, 100, 200, 1000] {
            let t = std::time::Instant::now();
            let labs =
                seed::over_seeds(seeds, |s| Lab::new(teacher, n, run.seed + s, &run.device))?;
            let sft: Vec<Measured> =
                labs.iter().map(|l| l.measure(&l.sft)).collect::<Result<_>>()?;
            let best: Vec<f64> =
                labs.iter().map(|l| l.world.best_reward()).collect::<Result<_>>()?;
            println!(
                "{teacher:?} n={n} sft {} greedy {} best {} ({:?})",
                ms(&sft.iter().map(|m| m.reward).collect::<Vec<_>>()),
                ms(&sft.iter().map(|m| m.greedy).collect::<Vec<_>>()),
                ms(&best),
                t.elapsed()
            );
            for beta in [10.0, 3.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.03] {
                let o: Vec<[f64; 3]> =
                    labs.iter().map(|l| optimum(l, beta)).collect::<Result<_>>()?;
                let c = |i: usize| ms(&o.iter().map(|x| x[i]).collect::<Vec<_>>());
                println!("   beta {beta}: true {} judged {} kl {}", c(0), c(1), c(2));
            }
            if n != 200 && n != 100 {
                continue;
            }
            for kl_coef in [0.05, 0.2, 0.5] {
                for method in [
                    Method::Reinforce,
                    Method::Rloo,
                    Method::Ppo,
                    Method::Grpo,
                    Method::Verified,
                    Method::Dpo,
                ] {
                    let t = std::time::Instant::now();
                    let m = seed::over_seeds(seeds, |s| {
                        let lab = &Lab::new(teacher, n, run.seed + s, &run.device)?;
                        let p = match method {
                            Method::Dpo => train_dpo(lab, kl_coef, STEPS, s)?,
                            m => train(lab, m, kl_coef, STEPS, s, |_, _, _| Ok(()))?,
                        };
                        lab.measure(&p)
                    })?;
                    let c = |f: fn(&Measured) -> f64| ms(&m.iter().map(f).collect::<Vec<_>>());
                    println!(
                        "   b={kl_coef} {method:?} true {} greedy {} judged {} kl {} ({:?})",
                        c(|m| m.reward),
                        c(|m| m.greedy),
                        c(|m| m.judged),
                        c(|m| m.kl),
                        t.elapsed()
                    );
                }
            }
        }
    }
    Ok(())
}
