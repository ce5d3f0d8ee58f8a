//! Chapter 2: baselines, critics, and what they cost.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use clap::Parser;
use grpo::{
    Result, advantage,
    cli::{self, RunArgs},
    env::bandit::{Bandit, Contexts},
    gradients, log_prob,
    memory::BytesPerParameter as Bytes,
    moments::Moments,
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    report::{self, Kind, Output, Table},
    sampling, seed, stats,
};
use rand::{Rng, rngs::StdRng};
use rand_distr::StandardNormal;

// `cargo exercise run 2` takes the reader's two.
#[cfg(feature = "yours")]
use exercises::{gae, leave_one_out};
#[cfg(not(feature = "yours"))]
use grpo::advantage::{gae, leave_one_out};

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(test)]
mod tests;

// ANCHOR: settings
/// Four responses, how likely the policy is to give each, and what each earns.
const LOGITS: [f64; 4] = [0.5, 0.0, -0.5, 1.0];
const REWARDS: [f64; 4] = [0.8, 0.3, 0.9, 0.2];

/// The true quality of eight essays on one topic, and the noise of the critic.
const ESSAYS: [f64; 8] = [3.2, 7.1, 2.0, 8.5, 5.0, 6.3, 1.5, 4.8];
const CRITIC_NOISE: f64 = 2.0;

/// The bandit of chapter 1: contexts, features, actions.
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;
const BATCH: usize = 8;
const LEARNING_RATE: f64 = 0.5;
const STEPS: usize = 300;
const SEEDS: u64 = 20;
// ANCHOR_END: settings

/// Chapter 2, baselines and critics: keep the mean of the gradient, change its variance.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch02_baselines")?;
    all_positive(&mut out);
    variance_figure(&mut out)?;
    group_scaling(&mut out)?;
    essays(&mut out, args.run.seed)?;
    gae_table(&mut out)?;
    critic_memory(&mut out)?;
    bandit(&mut out, &args.run)?;
    Ok(out.finish()?)
}

fn all_positive(out: &mut Output) {
    out.section(Kind::Exact, "all_positive", "Four rewards, all positive");
    let centred = advantage::batch_mean(&REWARDS);
    let says = |x: f64| if x > 0.0 { "more of this" } else { "less of this" }.to_string();
    let mut table =
        Table::new(["response", "reward", "says", "minus the mean", "then says"]);
    for (i, (&reward, advantage)) in REWARDS.iter().zip(centred).enumerate() {
        let (raw, signed) = (format!("{reward:.1}"), format!("{advantage:+.2}"));
        table.row([format!("{i}"), raw, says(reward), signed, says(advantage)]);
    }
    print!("{table}");
}

// ANCHOR: enumeration
/// The probabilities of the four responses.
fn probabilities() -> [f64; 4] {
    let weights = LOGITS.map(f64::exp);
    let total: f64 = weights.iter().sum();
    weights.map(|w| w / total)
}

/// ∇ log π(a) with respect to the logits: 1 at the sampled response, minus π everywhere.
fn score(response: usize) -> [f64; 4] {
    let mut score = probabilities().map(|p| -p);
    score[response] += 1.0;
    score
}

/// Mean and variance of one estimate: advantages in, gradient out, summed over every
/// batch of `size` responses, each weighted by its probability.
fn moments(
    size: usize,
    advantages: impl Fn(&[f64]) -> Result<Vec<f64>>,
) -> Result<Moments> {
    let probabilities = probabilities();
    let mut moments = Moments::default();
    for code in 0..4usize.pow(size as u32) {
        let batch: Vec<usize> =
            (0..size).map(|i| code / 4usize.pow(i as u32) % 4).collect();
        let probability: f64 = batch.iter().map(|&a| probabilities[a]).product();
        let rewards: Vec<f64> = batch.iter().map(|&a| REWARDS[a]).collect();
        let mut gradient = [0.0; 4];
        for (&response, advantage) in batch.iter().zip(advantages(&rewards)?) {
            let scores = score(response);
            (0..4).for_each(|k| gradient[k] += advantage * scores[k] / size as f64);
        }
        moments.add(probability, &gradient);
    }
    Ok(moments)
}
// ANCHOR_END: enumeration

/// Mean and variance of the estimate from one response with a constant baseline.
fn with_constant(baseline: f64) -> Result<Moments> {
    moments(1, |rewards| Ok(advantage::constant(rewards, baseline)))
}

// ANCHOR: optimal_baseline
/// The constant with the smallest variance: b* = E[R ‖∇ log π‖²] / E[‖∇ log π‖²].
/// Not the mean reward: each reward is weighted by how hard its response pushes.
fn optimal_baseline() -> f64 {
    let probabilities = probabilities();
    let weight = |a: usize| probabilities[a] * score(a).iter().map(|s| s * s).sum::<f64>();
    (0..4).map(|a| weight(a) * REWARDS[a]).sum::<f64>() / (0..4).map(weight).sum::<f64>()
}
// ANCHOR_END: optimal_baseline

fn variance_figure(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "variance", "Same mean, different variance");
    let expected: f64 = probabilities().iter().zip(REWARDS).map(|(p, r)| p * r).sum();
    let best = optimal_baseline();
    let exact = with_constant(0.0)?;
    let size = 4;
    // The variance of a batch of four, times four, is the variance for each response.
    let batch_mean = moments(size, |r| Ok(advantage::batch_mean(r)))?;
    let others = moments(size, leave_one_out)?;
    let rows = [
        ("zero", 0.0, with_constant(0.0)?.variance(), exact.length()),
        (
            "expected reward",
            expected,
            with_constant(expected)?.variance(),
            with_constant(expected)?.length(),
        ),
        (
            "the optimum",
            best,
            with_constant(best)?.variance(),
            with_constant(best)?.length(),
        ),
        ("one", 1.0, with_constant(1.0)?.variance(), with_constant(1.0)?.length()),
        (
            "mean of the batch of 4",
            f64::NAN,
            4.0 * batch_mean.variance(),
            batch_mean.length(),
        ),
        ("mean of the other 3", f64::NAN, 4.0 * others.variance(), others.length()),
    ];
    let mut table = Table::new([
        "baseline",
        "value",
        "variance per response",
        "length of the mean gradient",
    ]);
    for (name, value, variance, length) in rows {
        let value = if value.is_nan() { "–".into() } else { format!("{value:.4}") };
        table.row([name.into(), value, format!("{variance:.4}"), format!("{length:.6}")]);
    }
    print!("{table}");
    let grid: Vec<f64> = (0..=100).map(|i| f64::from(i) / 100.0).collect();
    let mut curve = Vec::new();
    let mut furthest = 0f64;
    for &b in &grid {
        let at = with_constant(b)?;
        curve.push((b, at.variance()));
        let apart = at.mean.iter().zip(&exact.mean).map(|(a, b)| (a - b).abs());
        furthest = apart.fold(furthest, f64::max);
    }
    let verdict = if furthest < 1e-12 { "less than 1e-12" } else { "MORE than 1e-12" };
    println!("\nover 101 constants from 0 to 1 the mean gradient moves by {verdict}");
    let panel = Panel::new("baseline b", "variance of the gradient, per response")
        .line(0, "constant baseline", &curve)
        .points(1, "zero", &[(0.0, rows[0].2)])
        .points(2, "the optimum", &[(best, rows[2].2)])
        .points(3, "batch mean, G = 4", &[(expected, rows[4].2)])
        .points(4, "mean of the others, G = 4", &[(expected, rows[5].2)]);
    let figure = Figure::new(
        "Variance of the gradient against the baseline",
        "A parabola over the baseline from 0 to 1 with its lowest point near 0.5. Zero lies \
         high on its left arm; the batch mean and the mean of the others lie near the bottom.",
        vec![panel],
    );
    out.figure("variance", &figure)?;
    out.csv("variance", ["baseline", "variance"], curve.iter().map(|p| [p.0, p.1]))
}

fn group_scaling(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "group_scaling", "A mean that contains its own sample");
    let exact = with_constant(0.0)?.length();
    let mut table = Table::new(["G", "batch mean", "(G−1)/G", "mean of the others"]);
    for size in 2..=6 {
        let batch = moments(size, |r| Ok(advantage::batch_mean(r)))?.length() / exact;
        let others = moments(size, leave_one_out)?.length() / exact;
        let theory = (size - 1) as f64 / size as f64;
        let [batch, theory, others] = [batch, theory, others].map(|x| format!("{x:.4}"));
        table.row([format!("{size}"), batch, theory, others]);
    }
    print!("length of the mean gradient, as a share of the exact one\n\n{table}");
    Ok(())
}

// ANCHOR: essays
/// Advantages of the eight essays under three judges.
struct Judged {
    /// The notebook's critic: its guess for each essay is the truth plus noise.
    essay_critic: Vec<f64>,
    /// A critic as PPO has it: one guess for the topic, before any essay is read.
    topic_critic: Vec<f64>,
    /// No critic: the mean of the group.
    group: Vec<f64>,
}

fn judge(rng: &mut StdRng) -> Judged {
    let mut noise = || CRITIC_NOISE * rng.sample::<f64, _>(StandardNormal);
    let essay_critic = ESSAYS.map(|quality| quality - (quality + noise())).to_vec();
    let mean = ESSAYS.iter().sum::<f64>() / ESSAYS.len() as f64;
    let topic_critic = advantage::constant(&ESSAYS, mean + noise());
    Judged { essay_critic, topic_critic, group: advantage::batch_mean(&ESSAYS) }
}
// ANCHOR_END: essays

/// How many essays are pushed the wrong way: better than average and discouraged, or
/// worse and encouraged.
fn wrong_signs(advantages: &[f64]) -> f64 {
    let fair = advantage::batch_mean(&ESSAYS);
    advantages.iter().zip(fair).filter(|(a, f)| *a * f < 0.0).count() as f64
}

fn essays(out: &mut Output, seed: u64) -> Result<()> {
    out.section(Kind::Exact, "essays", "Eight essays, three judges");
    let mut rng = seed::stream(seed, &[2]);
    let one = judge(&mut rng);
    let mut table = Table::new([
        "essay",
        "quality",
        "critic per essay",
        "critic per topic",
        "group mean",
    ]);
    for (i, quality) in ESSAYS.iter().enumerate() {
        let numbers = [one.essay_critic[i], one.topic_critic[i], one.group[i]];
        let [essay, topic, group] = numbers.map(|a| format!("{a:+.2}"));
        table.row([format!("{i}"), format!("{quality:.1}"), essay, topic, group]);
    }
    print!("{table}");
    let mut wrong = [0.0; 3];
    let draws = 10_000;
    for _ in 0..draws {
        let judged = judge(&mut rng);
        let all = [&judged.essay_critic, &judged.topic_critic, &judged.group];
        wrong
            .iter_mut()
            .zip(all)
            .for_each(|(w, a)| *w += wrong_signs(a) / f64::from(draws));
    }
    let [essay, topic, group] = wrong.map(|w| format!("{w:.1}"));
    println!("\nessays pushed the wrong way, of 8, mean of {draws} critics:");
    println!("critic per essay {essay}, critic per topic {topic}, group mean {group}");
    let panel = |title: &str, advantages: &[f64]| {
        let bars: Vec<_> =
            advantages.iter().enumerate().map(|(i, a)| (i as f64, *a)).collect();
        Panel::new("essay", "advantage")
            .title(title)
            .categories(0..8)
            .y_range(-6.5, 6.5)
            .signed_bars(0.7, &bars)
    };
    let figure = Figure::new(
        "Advantages of eight essays under three judges",
        "The critic with a guess for each essay gives bars without relation to quality. The \
         critic with one guess for the topic gives the pattern of the group mean, shifted.",
        vec![
            panel("a noisy guess per essay", &one.essay_critic),
            panel("one noisy guess per topic", &one.topic_critic),
            panel("mean of the group", &one.group),
        ],
    );
    out.figure("essays", &figure)
}

fn gae_table(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "gae", "Advantages from a critic, step by step");
    let one = gae(&[1.0], &[5.0, 5.5], &[false], 0.99, 0.95)?;
    println!("delta = 1 + 0.99 * 5.5 - 5.0 = {:.3}\n", one.deltas[0]);
    let rewards = [1.0, 1.0, 1.0, 1.0, 0.0];
    let values = [5.0, 5.5, 4.0, 3.0, 1.0, 0.0];
    let done = [false, false, false, false, true];
    let [short, usual, long] =
        [0.0, 0.95, 1.0].map(|l| gae(&rewards, &values, &done, 0.99, l));
    let (short, usual, long) = (short?.advantages, usual?.advantages, long?.advantages);
    let mut table = Table::new([
        "step",
        "reward",
        "value",
        "lambda = 0",
        "lambda = 0.95",
        "lambda = 1",
    ]);
    for t in 0..rewards.len() {
        let [reward, value] = [rewards[t], values[t]].map(|x| format!("{x:.1}"));
        let [a, b, c] = [short[t], usual[t], long[t]].map(|x| format!("{x:+.3}"));
        table.row([format!("{t}"), reward, value, a, b, c]);
    }
    print!("{table}");
    Ok(())
}

fn critic_memory(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "memory", "What a critic costs, in gigabytes");
    let sizes = [0.5, 1.5, 7.0, 8.0, 70.0];
    let critic = Bytes::TRAINED_MIXED;
    let mut table = Table::new([
        "parameters",
        "weights",
        "gradients",
        "optimiser",
        "critic in all",
        "all in 16 bits",
    ]);
    for billions in sizes {
        let part = |bytes: f64| format!("{:.0}", bytes * billions);
        table.row([
            format!("{billions} B"),
            part(critic.weights),
            part(critic.gradients),
            part(critic.optimiser),
            format!("{:.0}", critic.gigabytes(billions)),
            format!("{:.0}", Bytes::TRAINED_16_BIT.gigabytes(billions)),
        ]);
    }
    print!("{table}");
    let at = |offset: f64, bytes: f64| -> Vec<(f64, f64)> {
        sizes.iter().enumerate().map(|(i, b)| (i as f64 + offset, bytes * b)).collect()
    };
    let panel = Panel::new("parameters of the critic", "gigabytes")
        .scales(grpo::plot::Scale::Linear, grpo::plot::Scale::Log10)
        .y_range(0.5, 2000.0)
        .categories(sizes.map(|b| format!("{b} B")))
        .bars(0, "weights", 0.2, &at(-0.3, critic.weights))
        .bars(4, "gradients", 0.2, &at(-0.1, critic.gradients))
        .bars(1, "optimiser", 0.2, &at(0.1, critic.optimiser))
        .bars(2, "in all", 0.2, &at(0.3, critic.gigabytes(1.0)));
    let figure = Figure::new(
        "Memory of a critic against its size",
        "Bars on a logarithmic axis for critics of 0.5 to 70 billion parameters. The optimiser \
         is the largest part; the whole is 8 GB at 0.5 billion and 1120 GB at 70 billion.",
        vec![panel],
    );
    out.figure("memory", &figure)
}

// ANCHOR: baseline
/// Where the advantages of the bandit come from.
#[derive(Clone, Copy, PartialEq)]
enum Baseline {
    /// The rewards themselves.
    None,
    /// Minus the mean of the batch.
    BatchMean,
    /// Minus a critic that knows the expected reward of the context.
    RightCritic,
    /// Minus a critic that is off by two in each context, up or down.
    WrongCritic,
}

impl Baseline {
    fn advantages(
        self,
        rewards: &[f64],
        contexts: &Contexts,
        values: &Tensor,
    ) -> Result<Vec<f64>> {
        let wrong = Tensor::new(&[2f32, -2.0, 2.0, -2.0, 2.0], values.device())?;
        let critic = match self {
            Self::None => return Ok(rewards.to_vec()),
            Self::BatchMean => return Ok(advantage::batch_mean(rewards)),
            Self::RightCritic => contexts.look_up(values)?,
            Self::WrongCritic => contexts.look_up(&(values + wrong)?)?,
        };
        Ok(rewards.iter().zip(critic).map(|(reward, value)| reward - value).collect())
    }
}
// ANCHOR_END: baseline

// ANCHOR: train
/// Chapter 1's loop, with advantages in place of rewards.
fn train(
    world: &Bandit,
    baseline: Baseline,
    seed: u64,
    device: &Device,
) -> Result<Vec<f64>> {
    let mut rng = seed::rng(seed);
    let [_, features, actions] = WORLD;
    let policy = Mlp::new([features, HIDDEN, actions], &mut rng, DType::F32, device)?;
    let mut optimizer =
        SGD::new(policy.variables().values().cloned().collect(), LEARNING_RATE)?;
    let mut curve = vec![world.expected_reward(&policy)?];
    for _ in 0..STEPS {
        let contexts = world.draw(BATCH, &mut rng)?;
        let logits = policy.logits(&contexts.features)?;
        let actions = sampling::sample(&logits, &mut rng)?;
        let rewards = world.rewards(&contexts, &actions)?;
        let advantages =
            baseline.advantages(&rewards, &contexts, &world.values(&policy)?)?;
        let advantages = Tensor::new(advantages, device)?.to_dtype(DType::F32)?;
        let loss = (advantages * log_prob::of(&logits, &actions)?)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
        curve.push(world.expected_reward(&policy)?);
    }
    Ok(curve)
}
// ANCHOR_END: train

const VARIANTS: [(&str, Baseline); 4] = [
    ("none", Baseline::None),
    ("batch mean", Baseline::BatchMean),
    ("right critic", Baseline::RightCritic),
    ("wrong critic", Baseline::WrongCritic),
];

/// The curves of every seed, for each of the four baselines.
fn all_curves(run: &RunArgs) -> Result<(f64, Vec<Vec<Vec<f64>>>)> {
    let world = Bandit::random(WORLD, &mut seed::stream(run.seed, &[0]), &run.device)?;
    let bar = report::progress(SEEDS * VARIANTS.len() as u64, "training");
    let train_all = |(_, baseline): &(&str, Baseline)| {
        seed::over_seeds(SEEDS, |seed| {
            let curve = train(&world, *baseline, 1 + run.seed * SEEDS + seed, &run.device);
            bar.inc(1);
            curve
        })
    };
    let curves = VARIANTS.iter().map(train_all).collect::<Result<Vec<_>>>()?;
    bar.finish_and_clear();
    Ok((world.best_reward()?, curves))
}

fn bandit(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "bandit", "The bandit with four baselines");
    let (best, curves) = all_curves(run)?;
    let mut table = Table::new(["baseline", "step 50", "step 100", "step 300"]);
    for ((name, _), curves) in VARIANTS.iter().zip(&curves) {
        let cell = |step: usize| {
            let at: Vec<f64> = curves.iter().map(|c| c[step]).collect();
            let (mean, std) = stats::mean_std(&at);
            format!("{mean:.2} ± {std:.2}")
        };
        table.row([name.to_string(), cell(50), cell(100), cell(300)]);
    }
    print!(
        "{table}\nexpected reward, mean ± standard deviation of {SEEDS} seeds; best possible {best:.2}\n"
    );
    let steps: Vec<f64> = (0..=STEPS).map(|step| step as f64).collect();
    let mut panel = Panel::new("step", "expected reward");
    for (i, ((name, _), curves)) in VARIANTS.iter().zip(&curves).enumerate() {
        panel = panel.mean_band([1, 0, 2, 3][i], name, &steps, curves);
    }
    let figure = Figure::new(
        "The bandit with four baselines",
        "Expected reward against step, mean and band of twenty seeds: the batch mean and the \
         right critic end alike and highest, no baseline ends lower, the wrong critic lowest.",
        vec![panel],
    );
    out.figure("bandit", &figure)?;
    let mean =
        |v: usize, i: usize| curves[v].iter().map(|c| c[i]).sum::<f64>() / SEEDS as f64;
    let rows =
        (0..=STEPS).map(|i| [i as f64, mean(0, i), mean(1, i), mean(2, i), mean(3, i)]);
    out.csv("bandit", ["step", "none", "batch_mean", "right_critic", "wrong_critic"], rows)
}
