//! Chapter 8: how many answers to each prompt?

use candle_core::{DType, Device};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW, SGD};
use clap::Parser;
use grpo::{
    Result,
    advantage::{self, Scale, group_relative},
    cli::{self, RunArgs},
    env::bandit::{Bandit, roll_out, score},
    gradients,
    moments::Moments,
    objective::{Kl, Objective, recipe},
    plot::{self, Figure, Panel},
    policy::{Mlp, Policy},
    report::{self, Kind, Output, Table},
    rollout::Rollout,
    seed, stats,
    update::{Steps, update},
};
#[cfg(not(feature = "yours"))]
use rand::Rng;
use rand::rngs::StdRng;

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(feature = "yours")]
use exercises::{group_means, silent_share};

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
/// Sampled tokens of one training run, of a short one, and between two dots of a curve.
const BUDGET: usize = 8_192;
const SHORT: usize = 2_048;
const EVERY: usize = 256;
/// Plain gradient descent, so that nothing hides the length of the gradient.
const OPTIMIZER: Optimizer = Optimizer::Sgd(0.3);
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
    let lab = Lab { run: args.run, seeds: if args.quick { 3 } else { 16 } };
    let signal = network(&mut out, &lab)?;
    let curves = learning(&mut out, &lab)?;
    silent_in_training(&mut out, &curves)?;
    first_group(&mut out, &lab)?;
    convention(&mut out, &lab)?;
    step_size(&mut out, &lab)?;
    prefill(&mut out)?;
    per_token(&mut out, &signal)?;
    Ok(out.finish()?)
}

#[cfg(not(feature = "yours"))]
// ANCHOR: baselines
/// Means of `trials` groups of rewards, each 1, −.5 or −1 with equal chance.
fn group_means(group_size: usize, trials: usize, rng: &mut StdRng) -> Vec<f64> {
    let reward = |rng: &mut StdRng| [1.0, -0.5, -1.0][rng.random_range(0..3)];
    let sum = |_| (0..group_size).map(|_| reward(rng)).sum::<f64>();
    (0..trials).map(sum).map(|sum| sum / group_size as f64).collect()
}

/// Slope and constant of the straight line through (x, y) with the least squares.
fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    let mean = |f: fn(f64, f64) -> f64| {
        points.iter().map(|&(x, y)| f(x, y)).sum::<f64>() / points.len() as f64
    };
    let (x, y) = (mean(|x, _| x), mean(|_, y| y));
    let slope = (mean(|x, y| x * y) - x * y) / (mean(|x, _| x * x) - x * x);
    (slope, y - slope * x)
}
// ANCHOR_END: baselines

fn baseline(out: &mut Output, seed: u64) -> Result<()> {
    out.section(Kind::Exact, "baseline", "How good is the mean of a group?");
    let (trials, mut rng) = (10_000, seed::stream(seed, &[8]));
    let (mean, sigma) = (-1.0 / 6.0, (0.75f64 - 1.0 / 36.0).sqrt());
    let mut table =
        Table::new(["G", "mean of the baseline", "its deviation", "sigma / sqrt(G)"]);
    let mut points = Vec::new();
    for size in GROUP_SIZES {
        let (centre, deviation) = stats::mean_std(&group_means(size, trials, &mut rng));
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

// ANCHOR: outcomes
/// Every way in which `size` responses can come out, as counts of the four, with its
/// probability: size! / (n₀! n₁! n₂! n₃!) · Π π(a)^nₐ. The order does not matter, which
/// leaves 6,545 cases for 32 responses in place of 4³².
fn outcomes(size: usize) -> Vec<([usize; 4], f64)> {
    let log = probabilities().map(f64::ln);
    let log_factorial = |n: usize| (1..=n).map(|i| (i as f64).ln()).sum::<f64>();
    let mut all = Vec::new();
    for a in 0..=size {
        for b in 0..=size - a {
            for c in 0..=size - a - b {
                let counts = [a, b, c, size - a - b - c];
                let log_share =
                    |k: usize| counts[k] as f64 * log[k] - log_factorial(counts[k]);
                let share = (0..4).map(log_share).sum::<f64>();
                all.push((counts, (log_factorial(size) + share).exp()));
            }
        }
    }
    all
}
// ANCHOR_END: outcomes

// ANCHOR: moments
/// Mean and variance of the gradient that one group gives, with respect to the logits.
fn moments(
    size: usize,
    rewards: &[f64; 4],
    advantages: impl Fn(&[f64]) -> Result<Vec<f64>>,
) -> Result<Moments> {
    let probabilities = probabilities();
    let mut moments = Moments::default();
    for (counts, probability) in outcomes(size) {
        let advantages = advantages(&group_of(&counts, rewards))?;
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
// ANCHOR_END: moments

/// The rewards of a group in which each response came up that often.
fn group_of(counts: &[usize; 4], rewards: &[f64; 4]) -> Vec<f64> {
    counts.iter().zip(rewards).flat_map(|(&n, &reward)| vec![reward; n]).collect()
}

/// The probabilities of the four responses.
fn probabilities() -> [f64; 4] {
    let weights = LOGITS.map(f64::exp);
    let total: f64 = weights.iter().sum();
    weights.map(|w| w / total)
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
            let group = group_of(&counts, &GRADED);
            let advantages = group_relative(&group, size, Scale::Unbiased)?;
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

#[cfg(not(feature = "yours"))]
// ANCHOR: silent
/// The share of groups in which all answers are right or all are wrong, when each is
/// right with probability p: p^G + (1 − p)^G.
fn silent_share(p: f64, group_size: usize) -> f64 {
    p.powi(group_size as i32) + (1.0 - p).powi(group_size as i32)
}
// ANCHOR_END: silent

fn silent(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "silent", "Silent groups");
    let chances = [0.01, 0.1, 0.3, 0.5, 0.9, 0.99];
    let mut table = Table::new(["G", "p = .01", ".1", ".3", ".5", ".9", ".99"]);
    let mut panel =
        Panel::new("p, the chance that an answer is right", "share of silent groups")
            .y_range(0.0, 1.02);
    for (i, size) in GROUP_SIZES.into_iter().enumerate() {
        let [a, b, c, d, e, f] = chances.map(|p| format!("{:.3}", silent_share(p, size)));
        table.row([size.to_string(), a, b, c, d, e, f]);
        let grid = (0..=200).map(|i| f64::from(i) / 200.0);
        let curve: Vec<_> = grid.map(|p| (p, silent_share(p, size))).collect();
        panel = panel.line(i, &format!("G = {size}"), &curve);
    }
    print!("{table}");
    let (easy, hard) = (0.99, 0.01);
    println!("\nhalf of the prompts with p = {hard}, half with p = {easy}, G = 8:");
    let each = (silent_share(easy, 8) + silent_share(hard, 8)) / 2.0;
    let pooled = silent_share((easy + hard) / 2.0, 8);
    println!(
        "share of silent groups {each:.3}; computed from the mean p of .5 it would be {pooled:.3}"
    );
    let figure = Figure::new(
        "Share of silent groups against the chance to be right",
        "Curves for G = 2 to 32, each 1 at both ends and lowest at one half: for G = 2 never \
         below .5, for G = 32 near 0 between .1 and .9.",
        vec![panel],
    );
    out.figure("silent", &figure)
}

fn signal(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "signal", "Signal and noise, one prompt");
    println!("chance of the right response: {:.3}\n", probabilities()[2]);
    let mut panels = Vec::new();
    for (name, rewards) in [("graded rewards", &GRADED), ("right or wrong", &VERIFIED)] {
        let expected: f64 = probabilities().iter().zip(rewards).map(|(p, r)| p * r).sum();
        let perfect =
            moments(1, rewards, |r| Ok(advantage::constant(r, expected)))?.variance();
        let mut table = Table::new([
            "G",
            "variance",
            "S/N, 1 group",
            "S/N, 64 answers",
            "the same, with sigma",
        ]);
        let (mut one, mut many, mut with_sigma) = (Vec::new(), Vec::new(), Vec::new());
        for (i, size) in GROUP_SIZES.into_iter().enumerate() {
            let plain = moments(size, rewards, advantage::leave_one_out)?;
            let sigma =
                moments(size, rewards, |r| group_relative(r, size, Scale::Unbiased))?;
            let groups = (TOKENS as f64 / size as f64).sqrt();
            let numbers = [
                plain.variance() * size as f64 / perfect,
                plain.signal_to_noise(),
                plain.signal_to_noise() * groups,
                sigma.signal_to_noise() * groups,
            ];
            one.push((i as f64, numbers[1]));
            many.push((i as f64, numbers[2]));
            with_sigma.push((i as f64, numbers[3]));
            let [a, b, c, d] = numbers.map(|x| format!("{x:.3}"));
            table.row([size.to_string(), a, b, c, d]);
        }
        let gap = if panels.is_empty() { "" } else { "\n" };
        print!("{gap}{name}\n{table}");
        let panel = Panel::new("G", "signal to noise")
            .title(name)
            .categories(GROUP_SIZES)
            .y_range(0.0, 7.0)
            .line(0, "one group", &one)
            .points(0, "", &one)
            .line(1, "64 answers", &many)
            .points(1, "", &many)
            .dashed(2, "64 answers, with σ", &with_sigma);
        panels.push(panel);
    }
    let figure = Figure::new(
        "Signal to noise of the gradient against the size of the group, one prompt",
        "Two panels. The signal of one group rises steeply with G. At 64 answers in all it \
         rises from G = 2 to 8 and is nearly flat after that, unless divided by sigma.",
        panels,
    );
    out.figure("signal", &figure)
}

/// What the answers are worth.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reward {
    /// Anything between 0 and 1.
    Graded,
    /// 1 for the best token of a context, 0 for the other nine.
    Verified,
}

/// The rule that takes the steps, with its learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Optimizer {
    Sgd(f64),
    Adam(f64),
}

// ANCHOR: plan
/// How the tokens of a run are spent.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Graded, or right or wrong.
    reward: Reward,
    /// Prompts in a step.
    prompts: usize,
    /// G, answers to each prompt.
    group_size: usize,
    /// What a centred reward is divided by.
    scale: Scale,
    /// SGD or Adam, with the learning rate.
    optimizer: Optimizer,
    /// Tokens to sample before the run ends.
    budget: usize,
}
// ANCHOR_END: plan

impl Plan {
    fn fixed_prompts(reward: Reward, group_size: usize) -> Self {
        let (scale, optimizer) = (Scale::Unbiased, OPTIMIZER);
        Self { reward, prompts: PROMPTS, group_size, scale, optimizer, budget: BUDGET }
    }

    fn fixed_tokens(reward: Reward, group_size: usize) -> Self {
        Self { prompts: TOKENS / group_size, ..Self::fixed_prompts(reward, group_size) }
    }
}

/// One step of a run, before the policy moved.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Tokens sampled so far, those of this step not among them.
    tokens: usize,
    /// Exact expected reward over all contexts, as a share of the best possible.
    reward: f64,
    /// Share of silent groups in this step.
    silent: f64,
    /// What was to be expected, from the chance to be right in each context.
    expected_silent: f64,
    /// The same, computed from the mean chance.
    pooled_silent: f64,
    /// Mean reward of the first group of the step, as a share of the best possible.
    first_group: f64,
}

// ANCHOR: roll_out
/// Draws prompts, and lets the policy answer each `group_size` times.
fn sample(world: &Bandit, policy: &Mlp, plan: &Plan, rng: &mut StdRng) -> Result<Rollout> {
    let Plan { prompts, group_size, scale, .. } = *plan;
    let contexts = world.draw(prompts, rng)?.in_groups(group_size)?;
    let judge = |contexts: &_, answers: &_| world.rewards(contexts, answers);
    roll_out(policy, &contexts, group_size, scale, judge, rng)
}
// ANCHOR_END: roll_out

/// GRPO's objective without the leash.
fn objective() -> Result<Objective> {
    Ok(Objective { kl: Kl::new(0.0), ..recipe("grpo", 1)?.objective })
}

/// Samples and steps until the budget of tokens is spent.
fn train(world: &Bandit, plan: &Plan, seed: u64, device: &Device) -> Result<Vec<Point>> {
    let mut rng = seed::stream(seed, &[1]);
    let [_, features, tokens] = WORLD;
    let policy = Mlp::new([features, HIDDEN, tokens], &mut rng, DType::F32, device)?;
    let variables: Vec<_> = policy.variables().values().cloned().collect();
    match plan.optimizer {
        Optimizer::Sgd(rate) => {
            learn(world, plan, &policy, &mut SGD::new(variables, rate)?, &mut rng)
        }
        Optimizer::Adam(lr) => {
            let settings = ParamsAdamW { lr, weight_decay: 0.0, ..ParamsAdamW::default() };
            learn(world, plan, &policy, &mut AdamW::new(variables, settings)?, &mut rng)
        }
    }
}

// ANCHOR: learn
/// Sample, compare, step. The policy is measured before each step, and once at the end.
fn learn(
    world: &Bandit,
    plan: &Plan,
    policy: &Mlp,
    optimizer: &mut impl candle_nn::Optimizer,
    rng: &mut StdRng,
) -> Result<Vec<Point>> {
    let objective = objective()?;
    let steps = Steps { epochs: 1, max_norm: f64::INFINITY };
    let tokens = plan.prompts * plan.group_size;
    let mut points = Vec::new();
    for step in 0..=plan.budget / tokens {
        let rollout = sample(world, policy, plan, rng)?;
        points.push(measure(world, policy, plan, &rollout, step * tokens)?);
        let score = |rollout: &Rollout| score(policy, rollout);
        update(score, policy.variables(), optimizer, &rollout, &objective, steps)?;
    }
    Ok(points)
}
// ANCHOR_END: learn

fn measure(
    world: &Bandit,
    policy: &Mlp,
    plan: &Plan,
    rollout: &Rollout,
    tokens: usize,
) -> Result<Point> {
    let size = plan.group_size;
    let values = world.values(policy)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
    let expected: Vec<f64> = values.iter().map(|&p| silent_share(p, size)).collect();
    Ok(Point {
        tokens,
        reward: mean(&values) / world.best_reward()?,
        silent: advantage::silent_groups(&rollout.rewards, size)?,
        expected_silent: mean(&expected),
        pooled_silent: silent_share(mean(&values), size),
        first_group: mean(&rollout.rewards[..size]) / world.best_reward()?,
    })
}

/// What all trainings share.
struct Lab {
    run: RunArgs,
    /// How many runs a mean is taken over.
    seeds: u64,
}

impl Lab {
    /// A world of its own for each seed, so that no result hangs on one world.
    fn world(&self, reward: Reward, seed: u64) -> Result<Bandit> {
        let mut rng = seed::stream(self.run.seed, &[0, seed]);
        let world = Bandit::random(WORLD, &mut rng, &self.run.device)?;
        match reward {
            Reward::Graded => Ok(world),
            Reward::Verified => world.verifiable(),
        }
    }

    /// One run for each seed.
    fn train(&self, plan: &Plan) -> Result<Vec<Vec<Point>>> {
        seed::over_seeds(self.seeds, |seed| {
            let world = self.world(plan.reward, seed)?;
            train(&world, plan, self.run.seed * self.seeds + seed, &self.run.device)
        })
    }
}

/// The reward of each run at the first step at or after `tokens`.
fn reward_at(runs: &[Vec<Point>], tokens: usize) -> Vec<f64> {
    let at = |run: &Vec<Point>| {
        run.iter().find(|point| point.tokens >= tokens).map(|p| p.reward)
    };
    runs.iter().filter_map(at).collect()
}

/// The mean of a quantity over every stretch of [`EVERY`] tokens, one curve a run.
fn binned(runs: &[Vec<Point>], quantity: impl Fn(&Point) -> f64) -> Vec<Vec<f64>> {
    let mean =
        |points: &[Point]| points.iter().map(&quantity).sum::<f64>() / points.len() as f64;
    let bins = |run: &Vec<Point>| {
        let bin = |point: &Point| point.tokens / EVERY;
        let run = &run[..run.len() - 1];
        run.chunk_by(|a, b| bin(a) == bin(b)).map(mean).collect()
    };
    runs.iter().map(bins).collect()
}

/// Mean and standard deviation over runs, as a cell of a table.
fn cell(numbers: &[f64]) -> String {
    let (mean, deviation) = stats::mean_std(numbers);
    format!("{mean:.2} ± {deviation:.2}")
}

// ANCHOR: group_gradient
/// The gradient that one group of answers gives, all parameters in one row.
fn group_gradient(
    world: &Bandit,
    policy: &Mlp,
    plan: &Plan,
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    let rollout = sample(world, policy, plan, rng)?;
    let scores = score(policy, &rollout)?;
    let (loss, _) = objective()?.loss(&rollout.batch(&scores.log_probs))?;
    let gradients = gradients::of(&loss, policy.variables())?;
    let mut row = Vec::new();
    for variable in policy.variables().values() {
        if let Some(gradient) = gradients.get(variable) {
            let ascent = gradient.flatten_all()?.to_dtype(DType::F64)?.neg()?;
            row.extend(ascent.to_vec1::<f64>()?);
        }
    }
    Ok(row)
}
// ANCHOR_END: group_gradient

/// Signal and noise, both squared: the length of the mean of `rows`, less what chance
/// adds to it, and their total variance.
fn signal_and_noise(rows: &[Vec<f64>]) -> (f64, f64) {
    let (mut signal, mut noise) = (0.0, 0.0);
    for i in 0..rows[0].len() {
        let column: Vec<f64> = rows.iter().map(|row| row[i]).collect();
        let (mean, deviation) = stats::mean_std(&column);
        signal += mean * mean;
        noise += deviation * deviation;
    }
    (signal - noise / rows.len() as f64, noise)
}

/// Squared signal to noise of the gradient of one group, for each of [`GROUP_SIZES`],
/// of fresh policies in as many worlds as there are seeds.
fn measured_signal(lab: &Lab, reward: Reward, scale: Scale) -> Result<Vec<f64>> {
    let draws = 400;
    let mut ratios = Vec::new();
    for group_size in GROUP_SIZES {
        let plan = Plan { prompts: 1, scale, ..Plan::fixed_prompts(reward, group_size) };
        let all = seed::over_seeds(lab.seeds, |seed| {
            let world = lab.world(reward, seed)?;
            let mut rng = seed::stream(lab.run.seed * lab.seeds + seed, &[2]);
            let [_, features, tokens] = WORLD;
            let shape = [features, HIDDEN, tokens];
            let policy = Mlp::new(shape, &mut rng, DType::F32, &lab.run.device)?;
            let draw = |_| group_gradient(&world, &policy, &plan, &mut rng);
            Ok(signal_and_noise(&(0..draws).map(draw).collect::<Result<Vec<_>>>()?))
        })?;
        let sum = |part: fn(&(f64, f64)) -> f64| all.iter().map(part).sum::<f64>();
        ratios.push(sum(|x| x.0) / sum(|x| x.1));
    }
    Ok(ratios)
}

fn network(out: &mut Output, lab: &Lab) -> Result<Vec<f64>> {
    out.section(Kind::Trained, "network", "Signal and noise, a network and five prompts");
    let mut panels = Vec::new();
    let mut kept = Vec::new();
    for (name, reward) in
        [("graded rewards", Reward::Graded), ("right or wrong", Reward::Verified)]
    {
        let plain = measured_signal(lab, reward, Scale::None)?;
        let sigma = measured_signal(lab, reward, Scale::Unbiased)?;
        let prompts = |squared: &f64| (squared.max(0.0) * PROMPTS as f64).sqrt();
        let tokens = |i: usize, squared: f64| {
            (squared.max(0.0) * (TOKENS / GROUP_SIZES[i]) as f64).sqrt()
        };
        let mut table =
            Table::new(["G", "8 prompts", "64 answers", "64 answers, with sigma"]);
        let mut points = [Vec::new(), Vec::new(), Vec::new()];
        for (i, size) in GROUP_SIZES.into_iter().enumerate() {
            let numbers = [prompts(&plain[i]), tokens(i, plain[i]), tokens(i, sigma[i])];
            (0..3).for_each(|k| points[k].push((i as f64, numbers[k])));
            let [a, b, c] = numbers.map(|x| format!("{x:.2}"));
            table.row([size.to_string(), a, b, c]);
        }
        let gap = if panels.is_empty() { "" } else { "\n" };
        print!("{gap}{name}\n{table}");
        panels.push(
            Panel::new("G", "signal to noise")
                .title(name)
                .categories(GROUP_SIZES)
                .line(0, "8 prompts", &points[0])
                .points(0, "", &points[0])
                .line(1, "64 answers", &points[1])
                .points(1, "", &points[1])
                .y_range(0.0, 1.4)
                .dashed(2, "64 answers, with σ", &points[2]),
        );
        kept = plain;
    }
    let figure = Figure::new(
        "Signal to noise of the gradient of the network",
        "Two panels. At 8 prompts a step the signal rises with G throughout. At 64 answers a \
         step it has its maximum at small groups and falls towards G = 32, two prompts a step.",
        panels,
    );
    out.figure("network", &figure)?;
    Ok(kept)
}

/// The runs for each reward, then for both budgets, then for each group size.
type Curves = Vec<[Vec<Vec<Vec<Point>>>; 2]>;

fn learning(out: &mut Output, lab: &Lab) -> Result<Curves> {
    out.section(Kind::Trained, "learning", "The same tokens, spent in two ways");
    let rewards = [("graded", Reward::Graded), ("right or wrong", Reward::Verified)];
    let bar = report::progress(4 * GROUP_SIZES.len() as u64, "training");
    let mut all: Curves = Vec::new();
    let mut panels = Vec::new();
    for (name, reward) in rewards {
        let plans: [fn(Reward, usize) -> Plan; 2] =
            [Plan::fixed_prompts, Plan::fixed_tokens];
        let mut both = [Vec::new(), Vec::new()];
        for (way, plan) in plans.into_iter().enumerate() {
            let title =
                format!("{name}, {}", ["8 prompts a step", "64 answers a step"][way]);
            let mut panel = Panel::new("thousands of sampled tokens", "true reward")
                .title(&title)
                .y_range(0.0, 1.02);
            for (i, size) in GROUP_SIZES.into_iter().enumerate() {
                let runs = lab.train(&plan(reward, size))?;
                let curves = binned(&runs, |point| point.reward);
                let x: Vec<f64> = (0..curves[0].len())
                    .map(|i| ((2 * i + 1) * EVERY) as f64 / 2e3)
                    .collect();
                panel = panel.mean_band(i, &format!("G = {size}"), &x, &curves);
                both[way].push(runs);
                bar.inc(1);
            }
            panels.push(panel);
        }
        all.push(both);
    }
    bar.finish_and_clear();
    for (r, ((name, _), both)) in rewards.iter().zip(&all).enumerate() {
        let mut table = Table::new([
            "G",
            "8 prompts: 32 steps",
            "2,048 tokens",
            "8,192 tokens",
            "64 answers: 2,048 tokens",
            "8,192 tokens",
        ]);
        for (i, size) in GROUP_SIZES.into_iter().enumerate() {
            let [prompts, tokens] = [&both[0][i], &both[1][i]];
            let steps: Vec<f64> = prompts.iter().map(|run| run[32].reward).collect();
            table.row([
                size.to_string(),
                cell(&steps),
                cell(&reward_at(prompts, SHORT)),
                cell(&reward_at(prompts, BUDGET)),
                cell(&reward_at(tokens, SHORT)),
                cell(&reward_at(tokens, BUDGET)),
            ]);
        }
        let gap = if r == 0 { "" } else { "\n" };
        print!("{gap}{name}\n{table}");
    }
    println!(
        "\ntrue reward as a share of the best possible, mean ± deviation of {} seeds",
        lab.seeds
    );
    let places =
        (0..2).flat_map(|r| (0..2).flat_map(move |w| (0..5).map(move |i| (r, w, i))));
    let rows = places.flat_map(|(r, w, i)| {
        let curves = binned(&all[r][w][i], |point| point.reward);
        let row = |k: usize| {
            let at: Vec<f64> = curves.iter().map(|curve| curve[k]).collect();
            let (mean, deviation) = stats::mean_std(&at);
            let middle = ((2 * k + 1) * EVERY / 2) as f64;
            [r as f64, w as f64, GROUP_SIZES[i] as f64, middle, mean, deviation]
        };
        (0..curves[0].len()).map(row).collect::<Vec<_>>()
    });
    let columns = ["verified", "fixed_tokens", "group_size", "tokens", "mean", "deviation"];
    out.csv("learning", columns, rows)?;
    let figure = Figure::new(
        "Learning curves for five group sizes and two ways to spend tokens",
        "Four panels of true reward against sampled tokens. At 8 prompts a step the smallest \
         group rises first and the largest last. At 64 answers a step G = 2 rises last.",
        panels,
    );
    out.figure("learning", &figure.columns(2))?;
    Ok(all)
}

fn silent_in_training(out: &mut Output, curves: &Curves) -> Result<()> {
    out.section(Kind::Trained, "silent_training", "Silent groups while learning");
    let runs = &curves[1][1];
    let mut table = Table::new(["G", "measured", "each context's p", "the mean p"]);
    let mut panels = Vec::new();
    for (i, size) in GROUP_SIZES.into_iter().enumerate() {
        let quantities: [fn(&Point) -> f64; 3] =
            [|p| p.silent, |p| p.expected_silent, |p| p.pooled_silent];
        let curves = quantities.map(|quantity| {
            let curves = binned(&runs[i], quantity);
            let at =
                |k: usize| curves.iter().map(|c| c[k]).sum::<f64>() / curves.len() as f64;
            (0..curves[0].len()).map(at).collect::<Vec<f64>>()
        });
        let mean = |curve: &Vec<f64>| curve.iter().sum::<f64>() / curve.len() as f64;
        let [a, b, c] = curves.each_ref().map(|curve| format!("{:.3}", mean(curve)));
        table.row([size.to_string(), a, b, c]);
        if [2, 8, 32].contains(&size) {
            let [measured, expected, pooled] = curves.map(|curve| {
                let x = |k: usize| ((2 * k + 1) * EVERY) as f64 / 2e3;
                curve.into_iter().enumerate().map(|(k, y)| (x(k), y)).collect::<Vec<_>>()
            });
            panels.push(
                Panel::new("thousands of sampled tokens", "share of silent groups")
                    .title(&format!("G = {size}"))
                    .y_range(0.0, 1.02)
                    .points(0, "measured", &measured)
                    .line(1, "from each p", &expected)
                    .dashed(3, "from the mean p", &pooled),
            );
        }
    }
    print!("{table}\nmean over 8,192 tokens, 64 answers a step, right or wrong\n");
    let figure = Figure::new(
        "Share of silent groups during training, measured and expected",
        "Three panels, for G = 2, 8 and 32. The dots lie on the line that is computed from the \
         chance in each context. The dashed line from the mean chance runs far below.",
        panels,
    );
    out.figure("silent_training", &figure)
}

/// The notebook's ablation: 300 steps of 8 prompts for each group size.
const NOTEBOOK_SIZES: [usize; 4] = [2, 4, 8, 16];
const NOTEBOOK_STEPS: usize = 300;
const NOTEBOOK_WINDOW: usize = 30;

fn first_group(out: &mut Output, lab: &Lab) -> Result<()> {
    out.section(Kind::Trained, "first_group", "A reward curve that shows something else");
    let mut table = Table::new([
        "G",
        "answers sampled",
        "first group moves by",
        "true reward moves by",
    ]);
    let mut plotted =
        Panel::new("step", "reward, mean of 30 steps").title("first group only");
    let mut exact = Panel::new("step", "reward").title("true reward");
    for (i, size) in NOTEBOOK_SIZES.into_iter().enumerate() {
        let budget = NOTEBOOK_STEPS * PROMPTS * size;
        let plan = Plan { budget, ..Plan::fixed_prompts(Reward::Graded, size) };
        let runs = lab.train(&plan)?;
        let moves = |quantity: fn(&Point) -> f64| {
            let late = |run: &Vec<Point>| -> Vec<f64> {
                run[NOTEBOOK_STEPS - 100..NOTEBOOK_STEPS].iter().map(quantity).collect()
            };
            let each = runs.iter().map(|run| stats::mean_std(&late(run)).1);
            format!("{:.3}", each.sum::<f64>() / runs.len() as f64)
        };
        let (score, truth) = (moves(|p| p.first_group), moves(|p| p.reward));
        table.row([size.to_string(), budget.to_string(), score, truth]);
        let mean = |points: &[Point]| {
            points.iter().map(|p| p.first_group).sum::<f64>() / points.len() as f64
        };
        let smooth = runs[0].windows(NOTEBOOK_WINDOW).map(mean);
        let smooth: Vec<_> = smooth.enumerate().map(|(k, y)| (k as f64, y)).collect();
        let truth: Vec<_> =
            runs[0].iter().enumerate().map(|(k, p)| (k as f64, p.reward)).collect();
        let name = format!("G = {size}");
        plotted = plotted.line(i, &name, &smooth);
        exact = exact.line(i, &name, &truth);
    }
    print!(
        "{table}\nstandard deviation over the last 100 of 300 steps, mean of the runs\n"
    );
    let figure = Figure::new(
        "The notebook's reward curve, and the true reward of the same runs",
        "Two panels. Left, the reward of the first group of each step: four curves that rise \
         and then wander through each other. Right, the true reward: four smooth curves.",
        vec![plotted.y_range(0.4, 1.1), exact.y_range(0.4, 1.1)],
    );
    out.figure("first_group", &figure)
}

fn convention(out: &mut Output, lab: &Lab) -> Result<()> {
    out.section(Kind::Trained, "convention", "n or n - 1");
    let adam = Optimizer::Adam(0.01);
    let mut table =
        Table::new(["G", "factor", "SGD, n - 1", "SGD, n", "Adam, n - 1", "Adam, n"]);
    for size in GROUP_SIZES {
        let run = |optimizer: Optimizer, scale: Scale| -> Result<String> {
            let plan = Plan::fixed_tokens(Reward::Verified, size);
            let runs = lab.train(&Plan { optimizer, scale, budget: SHORT, ..plan })?;
            Ok(cell(&reward_at(&runs, SHORT)))
        };
        table.row([
            size.to_string(),
            format!("{:.3}", (size as f64 / (size as f64 - 1.0)).sqrt()),
            run(OPTIMIZER, Scale::Unbiased)?,
            run(OPTIMIZER, Scale::Population)?,
            run(adam, Scale::Unbiased)?,
            run(adam, Scale::Population)?,
        ]);
    }
    print!("{table}\ntrue reward after 2,048 tokens, 64 answers a step, right or wrong\n");
    Ok(())
}

/// Five learning rates for each rule.
const SGD_RATES: [f64; 5] = [0.1, 0.3, 1.0, 3.0, 10.0];
const ADAM_RATES: [f64; 5] = [0.001, 0.003, 0.01, 0.03, 0.1];

fn step_size(out: &mut Output, lab: &Lab) -> Result<()> {
    out.section(Kind::Trained, "step_size", "Is it only the step size?");
    let sgd = SGD_RATES.map(Optimizer::Sgd);
    let adam = ADAM_RATES.map(Optimizer::Adam);
    let fixed_prompts: fn(Reward, usize) -> Plan = Plan::fixed_prompts;
    let fixed_tokens: fn(Reward, usize) -> Plan = Plan::fixed_tokens;
    let settings = [
        ("8 prompts, SGD", fixed_prompts, Scale::Unbiased, sgd),
        ("64 answers, SGD", fixed_tokens, Scale::Unbiased, sgd),
        ("64 answers, SGD, no σ", fixed_tokens, Scale::None, sgd),
        ("64 answers, Adam", fixed_tokens, Scale::Unbiased, adam),
    ];
    let bar = report::progress(100, "training");
    let mut panels = Vec::new();
    let mut rows = GROUP_SIZES.map(|size| vec![size.to_string()]);
    for (title, plan, scale, optimizers) in settings {
        let mut panel = Panel::new("learning rate", "true reward at 2,048 tokens")
            .title(title)
            .scales(plot::Scale::Log10, plot::Scale::Linear)
            .y_range(0.0, 1.02);
        for (i, size) in GROUP_SIZES.into_iter().enumerate() {
            let mut points = Vec::new();
            for optimizer in optimizers {
                let (Optimizer::Sgd(rate) | Optimizer::Adam(rate)) = optimizer;
                let plan = plan(Reward::Verified, size);
                let runs = lab.train(&Plan { optimizer, scale, budget: SHORT, ..plan })?;
                let (mean, deviation) = stats::mean_std(&reward_at(&runs, SHORT));
                points.push((rate, mean, deviation));
                bar.inc(1);
            }
            let best = points.iter().fold(points[0], |a, &b| if b.1 > a.1 { b } else { a });
            rows[i].push(format!("{:.2} at {}", best.1, best.0));
            let means: Vec<_> = points.iter().map(|p| (p.0, p.1)).collect();
            panel = panel.line(i, &format!("G = {size}"), &means).points(i, "", &means);
        }
        panels.push(panel);
    }
    bar.finish_and_clear();
    let mut table = Table::new([
        "G",
        "8 prompts, SGD",
        "64 answers, SGD",
        "no sigma",
        "64 answers, Adam",
    ]);
    for row in rows {
        let row: [String; 5] = std::array::from_fn(|i| row[i].clone());
        table.row(row);
    }
    print!("best of five learning rates, and where\n\n{table}");
    let figure = Figure::new(
        "Reward after a fixed number of tokens against the learning rate",
        "Four panels of true reward after 2,048 tokens, one curve for each G. At 64 answers \
         the curves of small groups are those of large ones shifted to larger rates; with Adam \
         they are closer together.",
        panels,
    );
    out.figure("step_size", &figure.columns(2))
}

// ANCHOR: prefill
/// A step of a language model: answers, tokens of an answer, tokens of a prompt.
const ANSWERS: usize = 256;
const ANSWER_TOKENS: usize = 256;
const PROMPT_TOKENS: usize = 512;

/// Tokens of prompts to be read in one step: each prompt once for its whole group, or
/// once for each answer.
fn prefill_tokens(group_size: usize, shared: bool) -> usize {
    PROMPT_TOKENS * if shared { ANSWERS / group_size } else { ANSWERS }
}
// ANCHOR_END: prefill

fn prefill(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "prefill", "Tokens of one step of a language model");
    let decode = ANSWERS * ANSWER_TOKENS;
    let mut table = Table::new([
        "G",
        "prompts",
        "written",
        "read, shared",
        "read, not shared",
        "all, shared",
    ]);
    for size in GROUP_SIZES {
        let [shared, repeated] = [true, false].map(|shared| prefill_tokens(size, shared));
        let all = format!("{:.2}×", (decode + shared) as f64 / decode as f64);
        let numbers =
            [size, ANSWERS / size, decode, shared, repeated].map(|n| n.to_string());
        let [a, b, c, d, e] = numbers;
        table.row([a, b, c, d, e, all]);
    }
    print!("{table}");
    Ok(())
}

fn per_token(out: &mut Output, squared: &[f64]) -> Result<()> {
    out.section(Kind::Trained, "per_token", "Signal for the tokens worked through");
    let ratios = [0.0, 2.0, 8.0, 32.0];
    let names = ["prompts free", "2 : 1", "8 : 1", "32 : 1"];
    let column = |ratio: f64| -> Vec<f64> {
        let worth = squared.iter().zip(GROUP_SIZES).map(|(s, g)| s / (ratio + g as f64));
        let best = worth.clone().fold(0.0, f64::max);
        worth.map(|w| w / best).collect()
    };
    let columns = ratios.map(column);
    let mut table = Table::new(["G", names[0], names[1], names[2], names[3]]);
    for (i, size) in GROUP_SIZES.into_iter().enumerate() {
        let [a, b, c, d] = columns.each_ref().map(|column| format!("{:.2}", column[i]));
        table.row([size.to_string(), a, b, c, d]);
    }
    print!("{table}\nsquared signal to noise per token, as a share of the best G\n");
    let mut panel = Panel::new("G", "squared signal to noise per token, best = 1")
        .categories(GROUP_SIZES)
        .y_range(0.0, 1.05);
    for (k, (name, column)) in names.into_iter().zip(&columns).enumerate() {
        let points: Vec<_> =
            column.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
        panel = panel.line(k, name, &points).points(k, "", &points);
    }
    let figure = Figure::new(
        "What a token buys, for prompts of different length",
        "Four curves over G. With free prompts a small group is best; the longer the prompt \
         against the answer, the further the best G moves to the right.",
        vec![panel],
    );
    out.figure("per_token", &figure)
}
