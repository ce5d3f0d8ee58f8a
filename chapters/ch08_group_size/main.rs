//! Chapter 8: how many answers to each prompt?

use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use clap::Parser;
use grpo::{
    Result,
    advantage::{self, Scale, group_relative},
    cli::{self, RunArgs},
    env::bandit::{Bandit, Contexts},
    gradients, log_prob,
    log_prob::Scores,
    mask,
    objective::{Kl, Objective, recipe},
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    report::{self, Kind, Output, Table},
    rollout::Rollout,
    sampling, seed,
    update::{Steps, update},
};
use rand::{Rng, rngs::StdRng};

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// G, answers to each prompt.
const GROUP_SIZES: [usize; 5] = [2, 4, 8, 16, 32];

/// Chapter 2's four responses, with graded rewards, and with a reward that only says
/// right or wrong.
const LOGITS: [f64; 4] = [0.5, 0.0, -0.5, 1.0];
const GRADED: [f64; 4] = [0.8, 0.3, 0.9, 0.2];
const VERIFIED: [f64; 4] = [0.0, 0.0, 1.0, 0.0];

/// The bandit: contexts, features, tokens. An answer is one token.
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;

/// One side holds the prompts of a step fixed, the other side its sampled tokens. They
/// meet at G = 8.
const PROMPTS: usize = 8;
const TOKENS: usize = 64;
/// Sampled tokens of one training run, and how often it is measured.
const BUDGET: usize = 8_192;
const EVERY: usize = 256;
// ANCHOR_END: settings

/// Chapter 8, how large a group: fixed prompts and fixed tokens give different answers.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Fewer seeds and learning rates
    #[arg(long)]
    quick: bool,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch08_group_size")?;
    baseline(&mut out, args.run.seed)?;
    best_advantage(&mut out)?;
    silent(&mut out)?;
    signal(&mut out)?;
    let lab = Lab::new(&args.run, if args.quick { 8 } else { 12 })?;
    let exp = lab.explore();
    exp?;
    Ok(out.finish()?)
}

// ANCHOR: baselines
/// Means of `trials` groups of rewards, each 1, −.5 or −1 with equal chance.
fn group_means(group_size: usize, trials: usize, rng: &mut StdRng) -> Vec<f64> {
    let reward = |rng: &mut StdRng| [1.0, -0.5, -1.0][rng.random_range(0..3)];
    let mean = |_| (0..group_size).map(|_| reward(rng)).sum::<f64>() / group_size as f64;
    (0..trials).map(mean).collect()
}

/// Slope and constant of the straight line through (x, y) with the least squares.
fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let [x, y] = [points.iter().map(|p| p.0).sum::<f64>(), points.iter().map(|p| p.1).sum()];
    let (x, y) = (x / n, y / n);
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
        / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    (slope, y - slope * x)
}
// ANCHOR_END: baselines

fn baseline(out: &mut Output, seed: u64) -> Result<()> {
    out.section(Kind::Exact, "baseline", "How good is the mean of a group?");
    let (trials, mut rng) = (10_000, seed::stream(seed, &[8]));
    let (mean, sigma) = (-1.0 / 6.0, (0.75f64 - 1.0 / 36.0).sqrt());
    let mut table = Table::new(["G", "mean of the baseline", "its deviation", "sigma / sqrt(G)"]);
    let mut points = Vec::new();
    for size in GROUP_SIZES {
        let (centre, deviation) = report::mean_std(&group_means(size, trials, &mut rng));
        let theory = sigma / (size as f64).sqrt();
        let [a, b, c] = [centre, deviation, theory].map(|x| format!("{x:.4}"));
        table.row([size.to_string(), a, b, c]);
        points.push(((size as f64).ln(), deviation.ln()));
    }
    let (slope, constant) = fit(&points);
    print!("{table}");
    println!("\ntrue mean {mean:.4}, sigma = sqrt(.75 - 1/36) = {sigma:.4}");
    println!("fitted: deviation = {:.3} * G^({slope:.3})", constant.exp());
    Ok(())
}

// ANCHOR: enumeration
/// Every way in which `size` responses can come out, as counts of the four, with its
/// probability: size! / (n₀! n₁! n₂! n₃!) · Π π(a)^nₐ. The order does not matter, which
/// leaves 6,545 cases for 32 responses in place of 4³².
fn outcomes(size: usize) -> Vec<([usize; 4], f64)> {
    let probabilities = probabilities();
    let log_factorial = |n: usize| (1..=n).map(|i| (i as f64).ln()).sum::<f64>();
    let mut all = Vec::new();
    for a in 0..=size {
        for b in 0..=size - a {
            for c in 0..=size - a - b {
                let counts = [a, b, c, size - a - b - c];
                let log = (0..4).map(|k| {
                    counts[k] as f64 * probabilities[k].ln() - log_factorial(counts[k])
                });
                all.push((counts, (log_factorial(size) + log.sum::<f64>()).exp()));
            }
        }
    }
    all
}

/// Mean and variance of the gradient that one group gives, with respect to the logits.
fn moments(
    size: usize,
    rewards: &[f64; 4],
    advantages: impl Fn(&[f64]) -> Result<Vec<f64>>,
) -> Result<Moments> {
    let probabilities = probabilities();
    let mut moments = Moments::default();
    for (counts, probability) in outcomes(size) {
        let group = counts.iter().zip(rewards).flat_map(|(&n, &reward)| vec![reward; n]);
        let advantages = advantages(&group.collect::<Vec<_>>())?;
        let mut gradient = [0.0; 4];
        let mut first = 0;
        for k in 0..4 {
            let pushed: f64 = advantages[first..first + counts[k]].iter().sum();
            (0..4).for_each(|j| gradient[j] -= pushed * probabilities[j] / size as f64);
            gradient[k] += pushed / size as f64;
            first += counts[k];
        }
        moments.add(probability, &gradient);
    }
    Ok(moments)
}
// ANCHOR_END: enumeration

/// The probabilities of the four responses.
fn probabilities() -> [f64; 4] {
    let weights = LOGITS.map(f64::exp);
    let total: f64 = weights.iter().sum();
    weights.map(|w| w / total)
}

/// The exact mean of a gradient estimate, and the mean of its square.
#[derive(Default)]
struct Moments {
    mean: [f64; 4],
    square: f64,
}

impl Moments {
    fn add(&mut self, probability: f64, gradient: &[f64; 4]) {
        (0..4).for_each(|k| self.mean[k] += probability * gradient[k]);
        self.square += probability * gradient.iter().map(|g| g * g).sum::<f64>();
    }

    fn length(&self) -> f64 {
        self.mean.iter().map(|g| g * g).sum::<f64>().sqrt()
    }

    fn variance(&self) -> f64 {
        self.square - self.length().powi(2)
    }

    /// Length of the mean over the standard deviation.
    fn signal_to_noise(&self) -> f64 {
        self.length() / self.variance().sqrt()
    }
}

fn best_advantage(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "best", "The best advantage of a group");
    let half = |scale| Ok::<_, anyhow::Error>(group_relative(&[1.0, 0.0], 2, scale)?[0]);
    println!(
        "one right answer of two: {:.4} with n - 1 in sigma, {:.4} with n\n",
        half(Scale::Unbiased)?,
        half(Scale::Population)?
    );
    let mut table = Table::new(["G", "best advantage", "largest possible"]);
    for size in GROUP_SIZES {
        let (mut mean, mut square) = (0.0, 0.0);
        for (counts, probability) in outcomes(size) {
            let group = counts.iter().zip(GRADED).flat_map(|(&n, reward)| vec![reward; n]);
            let advantages = group_relative(&group.collect::<Vec<_>>(), size, Scale::Unbiased)?;
            let best = advantages.into_iter().fold(f64::NEG_INFINITY, f64::max);
            mean += probability * best;
            square += probability * best * best;
        }
        let deviation = (square - mean * mean).sqrt();
        let limit = (size - 1) as f64 / (size as f64).sqrt();
        let best = format!("{mean:.3} ± {deviation:.3}");
        table.row([size.to_string(), best, format!("{limit:.3}")]);
    }
    print!("{table}");
    Ok(())
}

// ANCHOR: silent
/// The share of groups in which all answers are right or all are wrong, when each is
/// right with probability p: p^G + (1 − p)^G.
fn silent_share(p: f64, group_size: usize) -> f64 {
    p.powi(group_size as i32) + (1.0 - p).powi(group_size as i32)
}
// ANCHOR_END: silent

fn silent(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "silent", "Silent groups");
    Ok(())
}

fn signal(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "signal", "Signal and noise, one prompt");
    for (name, rewards) in [("graded", &GRADED), ("right or wrong", &VERIFIED)] {
        println!("{name}");
        let perfect: f64 = probabilities().iter().zip(rewards).map(|(p, r)| p * r).sum();
        let perfect = moments(1, rewards, |r| Ok(advantage::constant(r, perfect)))?.variance();
        let mut table = Table::new(["G", "noise per response", "S/N none", "S/N 64 none", "S/N sigma", "S/N 64 sigma", "S/N pop"]);
        for size in GROUP_SIZES {
            let none = moments(size, rewards, advantage::leave_one_out)?;
            let unbiased = moments(size, rewards, |r| group_relative(r, size, Scale::Unbiased))?;
            let pop = moments(size, rewards, |r| group_relative(r, size, Scale::Population))?;
            let many = (TOKENS as f64 / size as f64).sqrt();
            table.row([
                size.to_string(),
                format!("{:.3}", none.variance() * size as f64 / perfect),
                format!("{:.3}", none.signal_to_noise()),
                format!("{:.3}", none.signal_to_noise() * many),
                format!("{:.3}", unbiased.signal_to_noise()),
                format!("{:.3}", unbiased.signal_to_noise() * many),
                format!("{:.3}", pop.signal_to_noise()),
            ]);
        }
        print!("{table}");
    }
    Ok(())
}

/// How a step is spent.
#[derive(Debug, Clone, Copy)]
struct Plan {
    prompts: usize,
    group_size: usize,
    scale: Scale,
    learning_rate: f64,
}

#[derive(Debug, Clone, Default)]
struct Curve {
    tokens: Vec<f64>,
    reward: Vec<f64>,
    silent: Vec<f64>,
    predicted: Vec<f64>,
    pooled: Vec<f64>,
}

struct Lab {
    graded: Bandit,
    verified: Bandit,
    seed: u64,
    seeds: u64,
    device: Device,
}

/// Samples one answer in each context, and compares within groups.
fn roll_out(world: &Bandit, policy: &Mlp, plan: Plan, rng: &mut StdRng) -> Result<Rollout> {
    let contexts = world.draw(plan.prompts, rng)?.in_groups(plan.group_size)?;
    let logits = policy.logits(&contexts.features)?.detach();
    let tokens = sampling::sample(&logits, rng)?;
    let old = log_prob::of(&logits, &tokens)?.unsqueeze(1)?;
    let rewards = world.rewards(&contexts, &tokens)?;
    let mask = tokens.ones_like()?.to_dtype(DType::U8)?.unsqueeze(1)?;
    Rollout::new(contexts.features, tokens.unsqueeze(1)?, mask, old, rewards, plan.group_size, plan.scale)
}

fn train(world: &Bandit, plan: Plan, seed: u64, device: &Device) -> Result<Curve> {
    let mut rng = seed::rng(seed);
    let [_, features, tokens] = WORLD;
    let policy = Mlp::new([features, HIDDEN, tokens], &mut rng, DType::F32, device)?;
    let adam = std::env::var("ADAM").is_ok();
    let vars: Vec<_> = policy.variables().values().cloned().collect();
    let mut sgd = SGD::new(vars.clone(), plan.learning_rate)?;
    let mut ad = candle_nn::AdamW::new(vars, candle_nn::ParamsAdamW{lr: plan.learning_rate, weight_decay: 0.0, ..Default::default()})?;
    let objective = Objective { kl: Kl::new(0.0), ..recipe("grpo", 1)?.objective };
    let score = |rollout: &Rollout| -> Result<Scores> {
        let logits = policy.logits(&rollout.prompts)?;
        Ok(log_prob::of(&logits, &rollout.tokens.squeeze(1)?)?.unsqueeze(1)?.into())
    };
    let steps = Steps { epochs: 1, max_norm: f64::INFINITY };
    let mut curve = Curve::default();
    curve.tokens.push(0.0);
    curve.reward.push(world.expected_reward(&policy)?);
    let per_step = plan.prompts * plan.group_size;
    for step in 1..=BUDGET / per_step {
        let rollout = roll_out(world, &policy, plan, &mut rng)?;
        if adam { update(score, policy.variables(), &mut ad, &rollout, &objective, steps)?; }
        else { update(score, policy.variables(), &mut sgd, &rollout, &objective, steps)?; }
        if step * per_step % EVERY == 0 {
            curve.tokens.push((step * per_step) as f64);
            curve.reward.push(world.expected_reward(&policy)?);
        }
    }
    Ok(curve)
}

impl Lab {
    fn new(run: &RunArgs, seeds: u64) -> Result<Self> {
        let graded = Bandit::random(WORLD, &mut seed::stream(run.seed, &[0]), &run.device)?;
        let verified = graded.verifiable()?;
        Ok(Self { graded, verified, seed: run.seed, seeds, device: run.device.clone() })
    }

    fn explore(&self) -> Result<()> {
        let lrs: Vec<f64> = std::env::var("LRS").unwrap_or("0.3,1,3".into()).split(',').map(|x| x.parse().unwrap()).collect();
        let scale = match std::env::var("SCALE").as_deref() { Ok("none") => Scale::None, Ok("pop") => Scale::Population, _ => Scale::Unbiased };
        println!("best {}", self.graded.best_reward()?);
        for (name, world) in [("graded", &self.graded), ("verified", &self.verified)] {
            for fixed in ["prompts", "tokens"] {
                for &lr in &lrs {
                    let t = std::time::Instant::now();
                    let mut line = format!("{name} {fixed} lr {lr:<5}");
                    for g in GROUP_SIZES {
                        let prompts = if fixed == "prompts" { PROMPTS } else { TOKENS / g };
                        let plan = Plan { prompts, group_size: g, scale, learning_rate: lr };
                        let curves = seed::over_seeds(self.seeds, |s| {
                            let w = Bandit::random(WORLD, &mut seed::stream(s, &[0]), &self.device)?;
                            let best = if name == "graded" { w.best_reward()? } else { 1.0 };
                            let w = if name == "graded" { w } else { w.verifiable()? };
                            let _ = world;
                            let mut c = train(&w, plan, self.seed + 1 + s, &self.device)?;
                            c.reward.iter_mut().for_each(|x| *x /= best);
                            Ok(c)
                        })?;
                        let cell = |i: usize| { let v: Vec<f64> = curves.iter().map(|c| c.reward[i]).collect(); report::mean_std(&v) };
                        line += &format!(" | {:.3} {:.3} {:.3}±{:.3}", cell(4).0, cell(16).0, cell(32).0, cell(32).1);
                    }
                    println!("{line}  {:?}", t.elapsed());
                }
            }
        }
        Ok(())
    }
}
