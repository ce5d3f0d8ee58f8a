//! Chapter 1: the score-function estimator, from three tokens to a small network.

use anyhow::Context;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Optimizer, SGD, ops::softmax};
use clap::Parser;
use grpo::{
    Result,
    cli::{self, RunArgs},
    env::bandit::Bandit,
    gradients, log_prob,
    plot::{Figure, Panel, Scale},
    policy::{Mlp, Policy, Table},
    report::{self, Kind, Output},
    seed, stats,
};
use rand::rngs::StdRng;

// `cargo exercise run 1` throws the reader's die.
#[cfg(feature = "yours")]
use exercises::sample;
#[cfg(not(feature = "yours"))]
use grpo::sampling::sample;

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(test)]
mod tests;

// ANCHOR: settings
/// The policy of the first half: logits of three tokens, and what each token earns.
const LOGITS: [f64; 3] = [1.0, 0.5, -0.5];
const REWARDS: [f64; 3] = [0.2, 1.0, 0.0];

/// Sample sizes of the convergence figure: 10² to 10⁶.
const SAMPLES: [usize; 9] =
    [100, 316, 1_000, 3_162, 10_000, 31_623, 100_000, 316_228, 1_000_000];

/// The contextual bandit of the second half: contexts, features, actions.
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 0.5;
const STEPS: usize = 400;
const SEEDS: u64 = 5;
// ANCHOR_END: settings

/// Chapter 1, REINFORCE: learn from rewards through samples that have no derivative.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch01_reinforce")?;
    three_tokens(&mut out, &args.run.device)?;
    convergence(&mut out, &args.run)?;
    bandit(&mut out, &args.run)?;
    lost_gradient(&mut out, &args.run)?;
    Ok(out.finish()?)
}

// ANCHOR: one_sample
/// The REINFORCE loss of one sampled token, −R · log π(a), and its gradient with
/// respect to the three logits.
fn one_sample(token: u32, reward: f64, device: &Device) -> Result<(f64, Vec<f64>)> {
    let policy = Table::from_logits(&Tensor::new(&[LOGITS], device)?)?;
    let state = Tensor::new(&[0u32], device)?;
    let action = Tensor::new(&[token], device)?;
    let log_prob = log_prob::of(&policy.logits(&state)?, &action)?.sum_all()?;
    let loss = (log_prob * Tensor::new(-reward, device)?)?;
    let gradients = gradients::of(&loss, policy.variables())?;
    let gradient = gradients.get(&policy.variables()["logits"]).context("no gradient")?;
    Ok((loss.to_scalar()?, gradient.flatten_all()?.to_vec1()?))
}
// ANCHOR_END: one_sample

fn three_tokens(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "three_tokens", "One sampled token and its gradient");
    let probabilities = log_prob::probabilities(&Tensor::new(&LOGITS, device)?)?;
    let (loss, up) = one_sample(0, 1.0, device)?;
    let (_, down) = one_sample(0, -1.0, device)?;
    println!(
        "token 0 was sampled; loss {loss:.4} with reward +1, {:.4} with reward -1\n",
        -loss
    );
    let mut table = report::Table::new([
        "token",
        "logit",
        "probability",
        "gradient, R = +1",
        "gradient, R = -1",
    ]);
    for token in 0..3 {
        table.row([
            format!("{token}"),
            format!("{:.1}", LOGITS[token]),
            format!("{:.4}", probabilities[token]),
            format!("{:+.4}", up[token]),
            format!("{:+.4}", down[token]),
        ]);
    }
    print!("{table}");
    let panel = |title: &str, gradient: &[f64]| {
        let moves: Vec<_> =
            gradient.iter().enumerate().map(|(i, g)| (i as f64, -g)).collect();
        Panel::new("token", "where the logit is pushed")
            .title(title)
            .categories(["0 (sampled)", "1", "2"])
            .y_range(-0.6, 0.6)
            .signed_bars(0.6, &moves)
    };
    let figure = Figure::new(
        "Where one sampled token pushes the logits",
        "With reward +1 the logit of the sampled token rises by 0.45 and the others fall by \
         0.33 and 0.12; with reward -1 the same arrows point the other way.",
        vec![panel("reward +1", &up), panel("reward −1", &down)],
    );
    out.figure("three_tokens", &figure)
}

// ANCHOR: exact_gradient
/// ∇J by enumeration: J = Σ_a π(a) R(a) is an ordinary function of the logits, so
/// autograd can differentiate it. This needs the reward of *every* token.
fn exact_gradient(device: &Device) -> Result<Vec<f64>> {
    let policy = Table::from_logits(&Tensor::new(&[LOGITS], device)?)?;
    let logits = policy.logits(&Tensor::new(&[0u32], device)?)?;
    let rewards = Tensor::new(&[REWARDS], device)?;
    let objective = (softmax(&logits, D::Minus1)? * rewards)?.sum_all()?;
    let gradients = gradients::of(&objective, policy.variables())?;
    let gradient = gradients.get(&policy.variables()["logits"]).context("no gradient")?;
    Ok(gradient.flatten_all()?.to_vec1()?)
}
// ANCHOR_END: exact_gradient

// ANCHOR: estimate
/// ∇J from `samples` sampled tokens: the mean of R(a) ∇ log π(a). This needs the
/// rewards of the sampled tokens only.
fn estimate(samples: usize, seed: u64, device: &Device) -> Result<Vec<f64>> {
    let mut rng = seed::stream(seed, &[samples as u64]);
    let policy = Table::from_logits(&Tensor::new(&[LOGITS], device)?)?;
    let logits = policy.logits(&Tensor::zeros(samples, DType::U32, device)?)?;
    let actions = sample(&logits, &mut rng)?;
    let rewards = Tensor::new(&REWARDS, device)?.index_select(&actions, 0)?;
    let objective = (rewards * log_prob::of(&logits, &actions)?)?.mean_all()?;
    let gradients = gradients::of(&objective, policy.variables())?;
    let gradient = gradients.get(&policy.variables()["logits"]).context("no gradient")?;
    Ok(gradient.flatten_all()?.to_vec1()?)
}
// ANCHOR_END: estimate

/// The distance between two vectors.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The slope of the least-squares line through (log x, log y).
fn log_log_slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean_x = logs.iter().map(|p| p.0).sum::<f64>() / n;
    let mean_y = logs.iter().map(|p| p.1).sum::<f64>() / n;
    let covariance: f64 = logs.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
    covariance / logs.iter().map(|p| (p.0 - mean_x).powi(2)).sum::<f64>()
}

/// The error of the estimate for every seed and every number of samples.
fn errors(run: &RunArgs) -> Result<Vec<Vec<f64>>> {
    let exact = exact_gradient(&run.device)?;
    seed::over_seeds(SEEDS, |seed| {
        let error =
            |&n| Ok(distance(&estimate(n, run.seed * SEEDS + seed, &run.device)?, &exact));
        SAMPLES.iter().map(error).collect()
    })
}

fn convergence(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "convergence", "The estimate closes in on the exact gradient");
    let exact = exact_gradient(&run.device)?;
    let million = estimate(1_000_000, run.seed * SEEDS, &run.device)?;
    let mut table =
        report::Table::new(["token", "exact gradient", "from 1,000,000 samples"]);
    for token in 0..3 {
        let cells = [exact[token], million[token]].map(|g| format!("{g:+.3}"));
        let [exact, sampled] = cells;
        table.row([format!("{token}"), exact, sampled]);
    }
    println!("{table}");
    let errors = errors(run)?;
    let rms =
        |i: usize| (errors.iter().map(|e| e[i].powi(2)).sum::<f64>() / SEEDS as f64).sqrt();
    let means: Vec<_> =
        SAMPLES.iter().enumerate().map(|(i, &n)| (n as f64, rms(i))).collect();
    let mut table = report::Table::new(["samples", "error (RMS of five seeds)"]);
    for &(n, error) in means.iter().step_by(2) {
        table.row([format!("{n}"), format!("{error:.5}")]);
    }
    print!("{table}");
    println!("\nslope in the log-log plot: {:.2} (theory: -0.5)", log_log_slope(&means));
    let theory: Vec<_> =
        means.iter().map(|p| (p.0, means[0].1 * (means[0].0 / p.0).sqrt())).collect();
    let mut panel = Panel::new("samples N", "distance to the exact gradient")
        .scales(Scale::Log10, Scale::Log10)
        .dashed(1, "1/√N", &theory)
        .line(0, "five seeds, root mean square", &means);
    for seed in &errors {
        let points: Vec<_> =
            SAMPLES.iter().map(|&n| n as f64).zip(seed.iter().copied()).collect();
        panel = panel.points(2, "one seed", &points);
    }
    let figure = Figure::new(
        "Error of the sampled gradient against the number of samples",
        "On logarithmic axes the error of five seeds falls along a straight line of slope \
         minus one half, from 100 to 1,000,000 samples.",
        vec![panel],
    );
    out.figure("convergence", &figure)?;
    out.csv("convergence", ["samples", "error"], means.iter().map(|p| [p.0, p.1]))
}

/// Whether the log-probabilities keep their connection to the weights.
#[derive(Clone, Copy, PartialEq)]
enum Forward {
    Attached,
    Detached,
}

// ANCHOR: loss
/// One batch of REINFORCE: choose, receive, and return −mean(R · log π(a)).
fn loss(
    policy: &Mlp,
    world: &Bandit,
    forward: Forward,
    rng: &mut StdRng,
) -> Result<Tensor> {
    let contexts = world.draw(BATCH, rng)?;
    let mut logits = policy.logits(&contexts.features)?;
    if forward == Forward::Detached {
        logits = logits.detach();
    }
    let actions = sample(&logits, rng)?;
    let rewards = Tensor::new(world.rewards(&contexts, &actions)?, logits.device())?;
    let log_probs = log_prob::of(&logits, &actions)?;
    Ok((rewards.to_dtype(DType::F32)? * log_probs)?.mean_all()?.neg()?)
}
// ANCHOR_END: loss

/// −J itself, without a sample: what REINFORCE estimates. Needs every reward.
fn exact_loss(policy: &Mlp, world: &Bandit) -> Result<Tensor> {
    let probabilities = softmax(&policy.logits(&world.features)?, D::Minus1)?;
    let values = (probabilities * &world.rewards)?.sum(D::Minus1)?;
    Ok(values.mean_all()?.neg()?)
}

// ANCHOR: train
/// Trains one policy; returns its exact expected reward before every step and at the end.
fn train(
    world: &Bandit,
    seed: u64,
    device: &Device,
    loss: impl Fn(&Mlp, &mut StdRng) -> Result<Tensor>,
) -> Result<Vec<f64>> {
    let mut rng = seed::rng(seed);
    let [_, features, actions] = WORLD;
    let policy = Mlp::new([features, HIDDEN, actions], &mut rng, DType::F32, device)?;
    let variables = policy.variables().values().cloned().collect();
    let mut optimizer = SGD::new(variables, LEARNING_RATE)?;
    let mut curve = vec![world.expected_reward(&policy)?];
    for _ in 0..STEPS {
        let loss = loss(&policy, &mut rng)?;
        let gradients = gradients::of(&loss, policy.variables())?;
        optimizer.step(&gradients)?;
        curve.push(world.expected_reward(&policy)?);
    }
    Ok(curve)
}
// ANCHOR_END: train

/// The world of this run. Its own stream of numbers, so that it is the same whatever
/// the policies draw.
fn world(run: &RunArgs) -> Result<Bandit> {
    Bandit::random(WORLD, &mut seed::stream(run.seed, &[0]), &run.device)
}

/// The curves of all seeds: sampled as REINFORCE does, and with the exact gradient.
fn curves(world: &Bandit, run: &RunArgs) -> Result<[Vec<Vec<f64>>; 2]> {
    let bar = report::progress(2 * SEEDS, "training");
    let first = 1 + run.seed * SEEDS;
    let sampled = seed::over_seeds(SEEDS, |seed| {
        bar.inc(1);
        let loss = |policy: &_, rng: &mut _| loss(policy, world, Forward::Attached, rng);
        train(world, first + seed, &run.device, loss)
    })?;
    let exact = seed::over_seeds(SEEDS, |seed| {
        bar.inc(1);
        train(world, first + seed, &run.device, |policy, _| exact_loss(policy, world))
    })?;
    bar.finish_and_clear();
    Ok([sampled, exact])
}

fn bandit(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "bandit", "A network learns from its own choices");
    let world = world(run)?;
    let [sampled, exact] = curves(&world, run)?;
    let best = world.best_reward()?;
    let at = |curves: &[Vec<f64>], step: usize| {
        stats::mean_std(&curves.iter().map(|curve| curve[step]).collect::<Vec<_>>())
    };
    let mut table = report::Table::new(["step", "REINFORCE", "exact gradient"]);
    for step in [0, 25, 50, 100, 200, STEPS] {
        let cell = |(mean, std)| format!("{mean:.2} ± {std:.2}");
        table.row([format!("{step}"), cell(at(&sampled, step)), cell(at(&exact, step))]);
    }
    print!("{table}\nexpected reward, mean ± standard deviation of {SEEDS} seeds; ");
    println!("best possible {best:.2}");
    let steps: Vec<f64> = (0..=STEPS).map(|step| step as f64).collect();
    let panel = Panel::new("step", "expected reward")
        .y_range(0.4, 1.0)
        .mean_band(2, "exact gradient", &steps, &exact)
        .mean_band(0, "REINFORCE, five seeds", &steps, &sampled)
        .dashed(1, "best possible", &[(0.0, best), (STEPS as f64, best)]);
    let figure = Figure::new(
        "REINFORCE on a contextual bandit",
        "The expected reward of five policies rises from about one half towards the best \
         possible reward within 400 steps, a little below the curve of the exact gradient.",
        vec![panel],
    );
    out.figure("bandit", &figure)?;
    let row = |step: usize| {
        let ((mean, std), (exact, _)) = (at(&sampled, step), at(&exact, step));
        [step as f64, mean, std, exact]
    };
    let columns = ["step", "expected_reward", "std", "exact_gradient"];
    out.csv("bandit", columns, (0..=STEPS).map(row))
}

// ANCHOR: lost_gradient
/// The same loss twice, once with its connection to the weights cut.
fn lost_gradient(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "lost_gradient", "The gradient that is lost in silence");
    let world = world(run)?;
    let [_, features, actions] = WORLD;
    let policy = Mlp::new(
        [features, HIDDEN, actions],
        &mut seed::rng(run.seed),
        DType::F32,
        &run.device,
    )?;
    for (name, forward) in
        [("attached", Forward::Attached), ("detached", Forward::Detached)]
    {
        let loss = loss(&policy, &world, forward, &mut seed::rng(run.seed))?;
        let value = loss.to_scalar::<f32>()?;
        match gradients::of(&loss, policy.variables()) {
            Ok(_) => println!("{name}: loss {value:.4}\n  every variable has a gradient"),
            Err(error) => println!("{name}: loss {value:.4}\n  {error}"),
        }
    }
    let mut rng = seed::rng(run.seed);
    let mut optimizer =
        SGD::new(policy.variables().values().cloned().collect(), LEARNING_RATE)?;
    let before = world.expected_reward(&policy)?;
    for _ in 0..STEPS {
        optimizer.backward_step(&loss(&policy, &world, Forward::Detached, &mut rng)?)?;
    }
    let after = world.expected_reward(&policy)?;
    println!("{STEPS} detached steps with Candle's unchecked `backward_step`: no error");
    println!("expected reward before {before:.4}, after {after:.4}");
    Ok(())
}
// ANCHOR_END: lost_gradient
