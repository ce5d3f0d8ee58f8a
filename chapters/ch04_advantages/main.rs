//! Chapter 4: advantages from a group of answers to one prompt.

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
mod gru;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use clap::Parser;
#[cfg(feature = "yours")]
use exercises::{best_of_groups, one_answer};
use grpo::{
    Result,
    advantage::{self, Scale},
    cli::{self, RunArgs},
    gradients, log_prob,
    plot::{Figure, Panel},
    policy::Policy,
    report::{self, Kind, Output, Table},
    seed, stats,
    variables::{self, Variables},
};
use gru::Gru;
use rand::{Rng, rngs::StdRng};
use rand_distr::StandardNormal;

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// Marks of eight essays on one topic. The first five are a group of their own.
const MARKS: [f64; 8] = [2.0, 3.5, 1.0, 4.0, 2.5, 3.0, 1.5, 3.8];
/// Five marks that are nearly the same.
const CLOSE: [f64; 5] = [1.0, 1.01, 1.02, 1.0, 0.99];

/// The sequence policy: vocabulary and hidden units; what it is asked, and what for.
const NETWORK: [usize; 2] = [100, 64];
const PROMPT: [u32; 3] = [1, 5, 10];
const TARGET: u32 = 42;
const LENGTH: usize = 10;
const LEARNING_RATE: f64 = 3e-3;
const STEPS: usize = 80;
const SEEDS: u64 = 5;

/// The one-parameter problem: x ~ N(θ, 0.5), reward −|x − 3|, θ starts at 0.
const OPTIMUM: f64 = 3.0;
const SPREAD: f64 = 0.5;
const SAMPLES: usize = 8;
const CLIMB: usize = 200;
const CLIMBERS: u64 = 20;

/// Group sizes of the last experiment, and how often each is drawn.
const SIZES: [usize; 6] = [2, 4, 8, 16, 32, 64];
const DRAWS: usize = 2_000;
// ANCHOR_END: settings

/// Chapter 4, group-relative advantages: compare answers to the same prompt.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch04_advantages")?;
    three_steps(&mut out)?;
    conventions(&mut out)?;
    largest(&mut out)?;
    equal_rewards(&mut out)?;
    fresh_policy(&mut out, &args.run)?;
    learning(&mut out, &args.run)?;
    one_parameter(&mut out, &args.run)?;
    between_prompts(&mut out)?;
    group_sizes(&mut out, args.run.seed)?;
    Ok(out.finish()?)
}

fn numbered(numbers: &[f64]) -> Vec<(f64, f64)> {
    numbers.iter().enumerate().map(|(i, x)| (i as f64, *x)).collect()
}

// ANCHOR: three_steps
/// The three steps: marks, marks minus their mean, and that divided by σ.
fn steps(marks: &[f64], scale: Scale) -> Result<[Vec<f64>; 3]> {
    let centred = advantage::group_relative(marks, marks.len(), Scale::None)?;
    let standardised = advantage::group_relative(marks, marks.len(), scale)?;
    Ok([marks.to_vec(), centred, standardised])
}
// ANCHOR_END: three_steps

fn three_steps(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "three_steps", "Eight essays in three steps");
    let [marks, centred, standardised] = steps(&MARKS, Scale::Population)?;
    let mut table = Table::new(["essay", "mark", "minus the mean", "divided by sigma"]);
    for i in 0..marks.len() {
        let (mark, difference) =
            (format!("{:.1}", marks[i]), format!("{:+.4}", centred[i]));
        table.row([format!("{i}"), mark, difference, format!("{:+.4}", standardised[i])]);
    }
    println!("{table}");
    let teachers = [
        ("this teacher", 1.0, 0.0),
        ("one who adds 2", 1.0, 2.0),
        ("one who marks out of 100", 20.0, 0.0),
    ];
    let mut panels = Vec::new();
    for (teacher, factor, offset) in teachers {
        let theirs = steps(&MARKS.map(|mark| factor * mark + offset), Scale::Population)?;
        let apart = theirs[2].iter().zip(&standardised).map(|(a, b)| (a - b).abs());
        let same = if apart.fold(0.0, f64::max) < 1e-12 { "the same" } else { "OTHER" };
        if theirs[0] != marks {
            println!("{teacher}: {same} advantages");
        }
        if offset == 0.0 {
            panels.extend(step_panels(teacher, &theirs, factor));
        }
    }
    let figure = Figure::new(
        "The three steps from marks to advantages, for two teachers",
        "Two rows of eight bars three times. The marks with their mean as a dashed line; the \
         distances from the mean, four up and four down; the advantages. In the second row the \
         marks and distances are twenty times larger and the advantages are the same.",
        panels,
    );
    let figure = figure.columns(3).panel_size(310, 250);
    out.figure("three_steps", &figure)
}

/// The three panels of one teacher, whose marks reach 4 · `factor`.
fn step_panels(
    teacher: &str,
    [marks, centred, advantages]: &[Vec<f64>; 3],
    factor: f64,
) -> [Panel; 3] {
    let mean = stats::mean_std(marks).0;
    let bars: Vec<_> = numbered(marks);
    let panel = |title: &str, label: &str, low: f64, high: f64| {
        Panel::new("essay", label).title(title).categories(0..8).y_range(low, high)
    };
    [
        panel(&format!("1 · {teacher}"), "mark", 0.0, 4.7 * factor)
            .bars(0, "", 0.7, &bars)
            .dashed(7, "", &[(-0.5, mean), (7.5, mean)]),
        panel("2 · minus the mean", "centred mark", -2.0 * factor, 2.0 * factor)
            .signed_bars(0.7, &numbered(centred)),
        panel("3 · divided by σ", "advantage", -2.0, 2.0)
            .signed_bars(0.7, &numbered(advantages)),
    ]
}

fn conventions(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "conventions", "Two conventions for sigma");
    for marks in [&MARKS[..5], &MARKS[..]] {
        let size = marks.len();
        let columns = [Scale::Population, Scale::Unbiased, Scale::Trl]
            .map(|scale| advantage::group_relative(marks, size, scale));
        let [population, unbiased, trl] = columns;
        let (population, unbiased, trl) = (population?, unbiased?, trl?);
        let mut table = Table::new(["mark", "over n", "over n-1", "over n-1, plus 1e-4"]);
        for i in 0..size {
            let [a, b, c] =
                [population[i], unbiased[i], trl[i]].map(|x| format!("{x:+.4}"));
            table.row([format!("{:.1}", marks[i]), a, b, c]);
        }
        // Advantage = centred / σ, so any pair gives σ back.
        let centred = advantage::batch_mean(marks);
        let [over_n, over_less] = [&population, &unbiased].map(|a| centred[0] / a[0]);
        println!(
            "{size} marks: sigma {over_n:.4} over n, {over_less:.4} over n-1\n\n{table}"
        );
    }
    println!(
        "the second is the first times sqrt((n-1)/n): 0.8944 for 5 marks, 0.9354 for 8"
    );
    Ok(())
}

// ANCHOR: search
/// The largest advantage in any group of `size` rewards out of 0, 1, 2, 3: all of them
/// are tried.
fn largest_by_search(size: usize, scale: Scale) -> Result<f64> {
    let mut largest = 0f64;
    for code in 0..4usize.pow(size as u32) {
        let group: Vec<f64> = (0..size).map(|i| (code >> (2 * i) & 3) as f64).collect();
        let advantages = advantage::group_relative(&group, size, scale)?;
        largest = advantages.into_iter().fold(largest, f64::max);
    }
    Ok(largest)
}
// ANCHOR_END: search

/// The largest advantage that a group of `size` can hold: σ over n − 1, and over n.
fn bounds(size: usize) -> (f64, f64) {
    let n = size as f64;
    ((n - 1.0) / n.sqrt(), (n - 1.0).sqrt())
}

fn largest(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "largest", "The largest advantage in a group");
    let mut table = Table::new([
        "G",
        "(G-1)/sqrt(G)",
        "found, over n-1",
        "sqrt(G-1)",
        "found, over n",
        "clip at 2 can act",
    ]);
    for size in 2..=8 {
        let (unbiased, population) = bounds(size);
        let found =
            [Scale::Unbiased, Scale::Population].map(|s| largest_by_search(size, s));
        let [found_unbiased, found_population] = found;
        let numbers = [unbiased, found_unbiased?, population, found_population?];
        let [a, b, c, d] = numbers.map(|x| format!("{x:.4}"));
        let exceeds = if population > 2.0 { "yes" } else { "no" };
        table.row([format!("{size}"), a, b, c, d, exceeds.into()]);
    }
    println!("{table}");
    println!("five nearly equal rewards, and the same differences times 100:");
    let mut table =
        Table::new(["reward", "advantage", "clipped at 2", "times 100", "advantage"]);
    let wide = CLOSE.map(|reward| 100.0 * (reward - 1.0));
    let advantages = advantage::group_relative(&CLOSE, 5, Scale::Unbiased)?;
    let of_wide = advantage::group_relative(&wide, 5, Scale::Unbiased)?;
    let clipped = advantage::clip(&advantages, 2.0)?;
    for i in 0..5 {
        let [a, b, c] = [advantages[i], of_wide[i], clipped[i]].map(|x| format!("{x:+.3}"));
        table.row([format!("{:.2}", CLOSE[i]), a, c, format!("{:.0}", wide[i]), b]);
    }
    print!("{table}");
    Ok(())
}

// ANCHOR: naive
/// The formula in single precision as it is often written, (r − mean) / (σ + ε), for
/// `size` rewards that are all `reward`. Returns the advantage that every one of them
/// gets, and σ.
fn naive(reward: f32, size: usize, epsilon: f32) -> (f32, f32) {
    let n = size as f32;
    let mean = std::iter::repeat_n(reward, size).sum::<f32>() / n;
    let squares: f32 = std::iter::repeat_n((reward - mean).powi(2), size).sum();
    let sigma = (squares / (n - 1.0)).sqrt();
    ((reward - mean) / (sigma + epsilon), sigma)
}
// ANCHOR_END: naive

/// The sizes of group in which [`naive`] is tried, with rewards 0.01, 0.02 … 1.
const EQUAL_SIZES: [usize; 4] = [3, 5, 8, 10];

/// The advantages of 100 groups of equal rewards: how many are not 0, and the largest.
fn amplified(size: usize, epsilon: f32, guard: f32) -> (usize, f32) {
    let advantages = (1..=100).map(|i| {
        let (advantage, sigma) = naive(i as f32 / 100.0, size, epsilon);
        if sigma < guard { 0.0 } else { advantage.abs() }
    });
    advantages.fold((0, 0.0), |(count, largest), a| {
        (count + usize::from(a > 0.0), largest.max(a))
    })
}

fn equal_rewards(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "equal_rewards", "Rewards that are all equal");
    let mut table = Table::new([
        "G",
        "sigma + 1e-8",
        "largest",
        "0 if sigma < 1e-8",
        "largest, sigma + 1e-4",
        "ours",
    ]);
    for size in EQUAL_SIZES {
        let (plain, largest) = amplified(size, 1e-8, 0.0);
        let (guarded, _) = amplified(size, 0.0, 1e-8);
        let (_, tamed) = amplified(size, 1e-4, 0.0);
        let mut ours = 0;
        for i in 1..=100 {
            let group = vec![f64::from(i as f32 / 100.0); size];
            let advantages = advantage::group_relative(&group, size, Scale::Unbiased)?;
            ours += usize::from(advantages.iter().any(|a| *a != 0.0));
        }
        table.row([
            format!("{size}"),
            format!("{plain}"),
            format!("{largest:.3}"),
            format!("{guarded}"),
            format!("{tamed:.4}"),
            format!("{ours}"),
        ]);
    }
    print!("{table}");
    Ok(())
}

// ANCHOR: reward
/// The share of token 42 in each completion: ids (B, T) → B numbers.
fn share_of_target(completions: &Tensor) -> Result<Vec<f64>> {
    let hits = completions.eq(TARGET)?.to_dtype(DType::F64)?;
    Ok(hits.mean(1)?.to_vec1()?)
}
// ANCHOR_END: reward

fn fresh_policy(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "fresh_policy", "A fresh policy answers");
    let mut rng = seed::stream(run.seed, &[1]);
    let policy = Gru::new(NETWORK, &mut rng, DType::F32, &run.device)?;
    println!("{} parameters; one group of 8:\n", variables::count(policy.variables()));
    let groups = 250;
    let completions = policy.sample(&PROMPT, 8 * groups, LENGTH, &mut rng)?;
    let rewards = share_of_target(&completions)?;
    // A group with something to say, for the page.
    let speaks = |group: &usize| !advantage::is_silent(&rewards[8 * group..8 * group + 8]);
    let first = (0..groups).find(speaks).unwrap_or(0);
    let rewards_of_first = &rewards[8 * first..8 * first + 8];
    let advantages = advantage::group_relative(rewards_of_first, 8, Scale::Unbiased)?;
    let rows = completions.narrow(0, 8 * first, 8)?.to_vec2::<u32>()?;
    let mut table = Table::new(["completion", "reward", "advantage"]);
    for (i, row) in rows.iter().enumerate() {
        let reward = format!("{:.1}", rewards_of_first[i]);
        table.row([sentence(row), reward, format!("{:+.3}", advantages[i])]);
    }
    println!("{table}");
    let silent = 100.0 * advantage::silent_groups(&rewards, 8)?;
    let none = 100.0 * 0.99f64.powi(8 * LENGTH as i32);
    println!("silent groups of 8: {silent:.0}% of {groups}; 0.99^80 = {none:.0}%");
    Ok(())
}

fn sentence(ids: &[u32]) -> String {
    ids.iter().map(|id| format!("{id:2}")).collect::<Vec<_>>().join(" ")
}

/// What the score of a sample is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Weight {
    Raw,
    Centred,
    Standardised,
}

impl Weight {
    fn of(self, rewards: &[f64]) -> Result<Vec<f64>> {
        match self {
            Self::Raw => Ok(rewards.to_vec()),
            Self::Centred => advantage::group_relative(rewards, rewards.len(), Scale::None),
            Self::Standardised => {
                advantage::group_relative(rewards, rewards.len(), Scale::Population)
            }
        }
    }
}

/// One way to train.
#[derive(Clone, Copy)]
struct Setting {
    weight: Weight,
    group_size: usize,
    /// What every answer earns on top, whatever it says.
    bonus: f64,
}

/// What one run leaves behind.
#[derive(Default)]
struct Learnt {
    /// Mean reward of the group sampled at each step.
    rewards: Vec<f64>,
    /// Whether that group was silent.
    silent: Vec<bool>,
    /// The first three completions of the first and of the last group.
    samples: [Vec<Vec<u32>>; 2],
}

// ANCHOR: train
/// Each step samples one group in one batch, scores it, compares it, and takes one
/// gradient step.
fn train(setting: Setting, seed: u64, device: &Device) -> Result<Learnt> {
    let mut rng = seed::rng(seed);
    let policy = Gru::new(NETWORK, &mut rng, DType::F32, device)?;
    let variables = policy.variables().values().cloned().collect();
    let settings =
        ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(variables, settings)?;
    let mut learnt = Learnt::default();
    for step in 0..=STEPS {
        let completions = policy.sample(&PROMPT, setting.group_size, LENGTH, &mut rng)?;
        let shares = share_of_target(&completions)?;
        learnt.rewards.push(stats::mean_std(&shares).0);
        learnt.silent.push(advantage::is_silent(&shares));
        if step == 0 || step == STEPS {
            let shown = completions.narrow(0, 0, setting.group_size.min(3))?.to_vec2()?;
            learnt.samples[usize::from(step == STEPS)] = shown;
        }
        let rewards: Vec<f64> = shares.iter().map(|share| share + setting.bonus).collect();
        let loss = loss(&policy, &completions, &setting.weight.of(&rewards)?)?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(learnt)
}
// ANCHOR_END: train

// ANCHOR: loss
/// −mean over completions and tokens of A · log π(token | what stands before it).
fn loss(policy: &Gru, completions: &Tensor, advantages: &[f64]) -> Result<Tensor> {
    let (rows, length) = completions.dims2()?;
    let prompt =
        Tensor::new(&PROMPT, completions.device())?.expand((rows, PROMPT.len()))?;
    let tokens = Tensor::cat(&[prompt, completions.clone()], 1)?;
    // The logits at place t are about the token at t + 1.
    let logits = policy.logits(&tokens)?.narrow(1, PROMPT.len() - 1, length)?;
    let log_probs = log_prob::of(&logits.contiguous()?, completions)?;
    let advantages =
        Tensor::new(advantages, completions.device())?.to_dtype(log_probs.dtype())?;
    Ok(log_probs.broadcast_mul(&advantages.unsqueeze(1)?)?.mean_all()?.neg()?)
}
// ANCHOR_END: loss

// ANCHOR: settings_compared
/// What is compared: the group size, and what the score is multiplied with.
const SETTINGS: [(&str, Setting); 4] = {
    let advantage = Setting { weight: Weight::Standardised, group_size: 8, bonus: 0.0 };
    [
        ("G = 64", Setting { group_size: 64, ..advantage }),
        ("G = 8", advantage),
        ("raw", Setting { weight: Weight::Raw, ..advantage }),
        ("raw + 1", Setting { weight: Weight::Raw, bonus: 1.0, ..advantage }),
    ]
};
// ANCHOR_END: settings_compared

/// The runs of all seeds, for each setting.
fn train_all(seed: u64, device: &Device) -> Result<Vec<Vec<Learnt>>> {
    let bar = report::progress(SEEDS * SETTINGS.len() as u64, "training");
    let runs = SETTINGS.iter().map(|(_, setting)| {
        seed::over_seeds(SEEDS, |i| {
            let learnt = train(*setting, seed + i, device);
            bar.inc(1);
            learnt
        })
    });
    let runs = runs.collect();
    bar.finish_and_clear();
    runs
}

fn learning(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "learning", "A policy that learns to say 42");
    let runs = train_all(run.seed * SEEDS + 1, &run.device)?;
    let curves: Vec<Vec<Vec<f64>>> = runs
        .iter()
        .map(|runs| runs.iter().map(|run| run.rewards.clone()).collect())
        .collect();
    let mut table = Table::new([
        "step",
        "G = 64",
        "silent",
        "G = 8",
        "silent",
        "raw, G = 8",
        "raw + 1, G = 8",
    ]);
    for (from, to) in [(0, 0), (0, 10), (10, 20), (20, 40), (40, 60), (60, 80)] {
        let share = |which: usize| {
            let at: Vec<f64> = curves[which].iter().map(|curve| curve[to]).collect();
            let (mean, std) = stats::mean_std(&at);
            format!("{mean:.2} ± {std:.2}")
        };
        let silent = |which: usize| match to - from {
            0 => "–".to_string(),
            steps => {
                let groups = runs[which].iter().flat_map(|run| &run.silent[from..to]);
                let count = groups.filter(|silent| **silent).count();
                format!("{:.0}%", 100.0 * count as f64 / (steps as f64 * SEEDS as f64))
            }
        };
        let step = format!("{to}");
        table.row([step, share(0), silent(0), share(1), silent(1), share(2), share(3)]);
    }
    println!("{table}\nshare of token 42, mean ± standard deviation of {SEEDS} seeds;");
    println!("silent: share of the groups since the line above");
    for (when, rows) in ["before", "after"].iter().zip(&runs[0][0].samples) {
        println!("\n{when}, G = 64:");
        rows.iter().for_each(|row| println!("  {}", sentence(row)));
    }
    let steps: Vec<f64> = (0..=STEPS).map(|step| step as f64).collect();
    let panel = |title: &str, label: &str| {
        Panel::new(label, "share of token 42").title(title).y_range(-0.08, 1.08)
    };
    let by_step = panel("per step", "step")
        .mean_band(0, "G = 64", &steps, &curves[0])
        .mean_band(1, "G = 8", &steps, &curves[1]);
    let sampled =
        |size: f64| -> Vec<f64> { steps.iter().map(|s| size * (s + 1.0)).collect() };
    let by_sample = panel("per completion", "completions sampled")
        .scales(grpo::plot::Scale::Log10, grpo::plot::Scale::Linear)
        .mean_band(0, "G = 64", &sampled(64.0), &curves[0])
        .mean_band(1, "G = 8", &sampled(8.0), &curves[1]);
    let by_weight = panel("per weight, G = 8", "step")
        .mean_band(1, "advantage", &steps, &curves[1])
        .mean_band(3, "raw", &steps, &curves[2])
        .mean_band(4, "raw + 1", &steps, &curves[3]);
    let figure = Figure::new(
        "Share of token 42 while the policy learns",
        "Left, against steps: groups of 64 climb from 0.01 to 1 before groups of 8 do. Middle, \
         against completions sampled: groups of 8 climb first. Right: raw rewards climb like \
         advantages; with a bonus of 1 for every answer they stay at the bottom.",
        vec![by_step, by_sample, by_weight],
    );
    out.figure("learning", &figure)?;
    let mean =
        |w: usize, i: usize| curves[w].iter().map(|c| c[i]).sum::<f64>() / SEEDS as f64;
    let rows =
        (0..=STEPS).map(|i| [i as f64, mean(0, i), mean(1, i), mean(2, i), mean(3, i)]);
    out.csv("learning", ["step", "g64", "g8", "g8_raw", "g8_raw_bonus"], rows)
}

// ANCHOR: try_around
/// SAMPLES noises of standard deviation 0.5, and the rewards of θ + noise.
fn try_around(theta: f64, factor: f64, rng: &mut StdRng) -> (Vec<f64>, Vec<f64>) {
    let noise = || SPREAD * rng.sample::<f64, _>(StandardNormal);
    let noises: Vec<f64> = std::iter::repeat_with(noise).take(SAMPLES).collect();
    let rewards = noises.iter().map(|n| -factor * (theta + n - OPTIMUM).abs()).collect();
    (noises, rewards)
}
// ANCHOR_END: try_around

// ANCHOR: not_a_loss
/// The notebook's loss, −mean(A · noise), and what its backward pass says.
fn not_a_loss(seed: u64) -> Result<(f64, String)> {
    let theta = Var::new(0f64, &Device::Cpu)?;
    let variables = Variables::from([("theta".to_string(), theta)]);
    let (noises, rewards) = try_around(0.0, 1.0, &mut seed::rng(seed));
    let advantages = Tensor::new(Weight::Standardised.of(&rewards)?, &Device::Cpu)?;
    let loss = (advantages * Tensor::new(noises, &Device::Cpu)?)?.mean_all()?.neg()?;
    let verdict = gradients::of(&loss, &variables).err().map(|error| error.to_string());
    Ok((loss.to_scalar()?, verdict.unwrap_or("every variable has a gradient".into())))
}
// ANCHOR_END: not_a_loss

// ANCHOR: density
/// log N(x; θ, 0.5) without its constant. Its derivative is the score, (x − θ)/0.5².
fn log_density(theta: &Tensor, samples: &Tensor) -> Result<Tensor> {
    let distance = samples.broadcast_sub(theta)?;
    Ok((distance.sqr()? / (-2.0 * SPREAD * SPREAD))?)
}
// ANCHOR_END: density

// ANCHOR: climb
/// θ before every step and at the end. `factor` multiplies all rewards.
fn climb(weight: Weight, learning_rate: f64, factor: f64, seed: u64) -> Result<Vec<f64>> {
    let mut rng = seed::rng(seed);
    let theta = Var::new(0f64, &Device::Cpu)?;
    let variables = Variables::from([("theta".to_string(), theta.clone())]);
    let mut optimizer = SGD::new(vec![theta.clone()], learning_rate)?;
    let mut path = vec![0.0];
    for _ in 0..CLIMB {
        let at = theta.to_scalar::<f64>()?;
        let (noises, rewards) = try_around(at, factor, &mut rng);
        let weights = Tensor::new(weight.of(&rewards)?, &Device::Cpu)?;
        let samples: Vec<f64> = noises.iter().map(|noise| at + noise).collect();
        let log_density = log_density(&theta, &Tensor::new(samples, &Device::Cpu)?)?;
        let loss = (weights * log_density)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, &variables)?)?;
        path.push(theta.to_scalar()?);
    }
    Ok(path)
}
// ANCHOR_END: climb

const CLIMBS: [(&str, Weight, f64, f64); 7] = [
    ("raw", Weight::Raw, 0.05, 1.0),
    ("centred", Weight::Centred, 0.05, 1.0),
    ("standardised", Weight::Standardised, 0.05, 1.0),
    ("raw", Weight::Raw, 0.1, 1.0),
    ("centred", Weight::Centred, 0.1, 1.0),
    ("centred", Weight::Centred, 0.05, 10.0),
    ("standardised", Weight::Standardised, 0.05, 10.0),
];

/// The step at which a path first comes within 0.3 of the optimum, and its distance from
/// the optimum over the last 50 steps (root mean square).
fn arrival(path: &[f64]) -> (f64, f64) {
    let arrived = path.iter().position(|theta| (theta - OPTIMUM).abs() <= 0.3);
    let tail = &path[path.len() - 50..];
    let square: f64 = tail.iter().map(|theta| (theta - OPTIMUM).powi(2)).sum();
    (arrived.unwrap_or(path.len()) as f64, (square / tail.len() as f64).sqrt())
}

fn all_climbs(seed: u64) -> Result<Vec<Vec<Vec<f64>>>> {
    let climb_all = |(_, weight, rate, factor): &(&str, Weight, f64, f64)| {
        seed::over_seeds(CLIMBERS, |i| climb(*weight, *rate, *factor, seed + i))
    };
    CLIMBS.iter().map(climb_all).collect()
}

// ANCHOR: estimates
/// Many estimates of dJ/dθ, each from one group: the mean of weight · (x − θ)/0.5².
fn estimates(
    weight: Weight,
    theta: f64,
    groups: usize,
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    let estimate = |_| {
        let (noises, rewards) = try_around(theta, 1.0, rng);
        let terms = weight.of(&rewards)?.into_iter().zip(noises);
        Ok(terms.map(|(w, noise)| w * noise / (SPREAD * SPREAD)).sum::<f64>()
            / SAMPLES as f64)
    };
    (0..groups).map(estimate).collect()
}
// ANCHOR_END: estimates

fn estimate_table(out: &mut Output, seed: u64) -> Result<()> {
    out.section(
        Kind::Exact,
        "estimates",
        "One gradient estimate, far from the optimum and on it",
    );
    let mut rng = seed::stream(seed, &[3]);
    let mut table =
        Table::new(["weights", "at theta = 0", "at theta = 3", "ratio of spreads"]);
    let weights = [
        ("raw", Weight::Raw),
        ("centred", Weight::Centred),
        ("standardised", Weight::Standardised),
    ];
    for (name, weight) in weights {
        let far = stats::mean_std(&estimates(weight, 0.0, 20_000, &mut rng)?);
        let near = stats::mean_std(&estimates(weight, OPTIMUM, 20_000, &mut rng)?);
        // Plus zero, so that no mean prints as -0.00.
        let cell = |(mean, std): (f64, f64)| {
            format!("{:.2} ± {std:.2}", (100.0 * mean).round() / 100.0 + 0.0)
        };
        table.row([name.into(), cell(far), cell(near), format!("{:.2}", near.1 / far.1)]);
    }
    print!(
        "{table}\nmean ± standard deviation of 20000 groups of {SAMPLES}; the true gradients are 1 and 0\n"
    );
    Ok(())
}

fn one_parameter(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "not_a_loss", "A loss that does not know theta");
    let (loss, verdict) = not_a_loss(run.seed)?;
    println!("loss {loss:.4}; {verdict}");
    estimate_table(out, run.seed)?;
    out.section(Kind::Trained, "one_parameter", "One parameter, optimum at 3");
    let paths = all_climbs(run.seed)?;
    let mut table = Table::new([
        "weights",
        "learning rate",
        "rewards",
        "steps to 2.7",
        "distance at the end",
    ]);
    for ((name, _, rate, factor), paths) in CLIMBS.iter().zip(&paths) {
        let (arrivals, ends): (Vec<f64>, Vec<f64>) =
            paths.iter().map(|p| arrival(p)).unzip();
        let ((steps, steps_std), (end, end_std)) =
            (stats::mean_std(&arrivals), stats::mean_std(&ends));
        table.row([
            name.to_string(),
            format!("{rate}"),
            format!("times {factor}"),
            format!("{steps:.0} ± {steps_std:.0}"),
            format!("{end:.2} ± {end_std:.2}"),
        ]);
    }
    print!(
        "{table}\nmean ± standard deviation of {CLIMBERS} seeds, {SAMPLES} samples a step\n"
    );
    let steps: Vec<f64> = (0..=CLIMB).map(|step| step as f64).collect();
    let panel = |title: &str, shown: &[(usize, usize)]| {
        let mut panel = Panel::new("step", "theta").title(title).y_range(-0.3, 3.9);
        for &(climb, colour) in shown {
            let (name, _, rate, _) = CLIMBS[climb];
            panel =
                panel.mean_band(colour, &format!("{name}, {rate}"), &steps, &paths[climb]);
        }
        panel.dashed(7, "", &[(0.0, OPTIMUM), (CLIMB as f64, OPTIMUM)])
    };
    let far = |climb: usize| -> Vec<(f64, f64)> {
        let square = |step: usize| {
            let away = paths[climb].iter().map(|path| (path[step] - OPTIMUM).powi(2));
            (away.sum::<f64>() / CLIMBERS as f64).sqrt()
        };
        (0..=CLIMB).map(|step| (step as f64, square(step))).collect()
    };
    let distance = Panel::new("step", "distance from 3")
        .title("the same three, closer")
        .scales(grpo::plot::Scale::Linear, grpo::plot::Scale::Log10)
        .y_range(0.03, 4.0)
        .line(1, "raw, 0.1", &far(3))
        .line(0, "centred, 0.1", &far(4))
        .line(2, "standardised, 0.05", &far(2));
    let figure = Figure::new(
        "Theta against step for raw, centred and standardised rewards",
        "Left, one learning rate for all: standardised rewards arrive first, centred ones \
         later along a thin band, raw ones in a wide band. Middle, with twice the rate for \
         raw and centred rewards: all climb as the standardised ones do. Right, their distance \
         from 3 on a logarithmic axis: centred rewards end closest.",
        vec![
            panel("the same learning rate", &[(0, 1), (1, 0), (2, 2)]),
            panel("matched on the way up", &[(3, 1), (4, 0), (2, 2)]),
            distance,
        ],
    );
    out.figure("one_parameter", &figure)
}

// ANCHOR: update
/// The exact expected gradient with respect to the logit of a prompt that the policy
/// answers rightly with probability `p`, from groups of `size`; a right answer earns
/// `mark`, a wrong one 0. All that matters of a group is how many are right.
fn expected_update(p: f64, mark: f64, size: usize, scale: Scale) -> Result<f64> {
    let mut expected = 0.0;
    let mut probability = (1.0 - p).powi(size as i32);
    for right in 0..=size {
        let hit = |i: usize| f64::from(u8::from(i < right));
        let rewards: Vec<f64> = (0..size).map(|i| mark * hit(i)).collect();
        let advantages = advantage::group_relative(&rewards, size, scale)?;
        // The score of the logit: 1 − p for a right answer, −p for a wrong one.
        let terms = advantages.iter().enumerate().map(|(i, a)| a * (hit(i) - p));
        expected += probability * terms.sum::<f64>() / size as f64;
        probability *= (size - right) as f64 / (right + 1) as f64 * p / (1.0 - p);
    }
    Ok(expected)
}
// ANCHOR_END: update

/// Chances of a right answer, and what it earns.
const PROMPTS: [(f64, f64); 5] =
    [(0.02, 1.0), (0.1, 1.0), (0.5, 1.0), (0.9, 1.0), (0.98, 1.0)];
const GRADERS: [(f64, f64); 2] = [(0.5, 1.0), (0.5, 10.0)];

/// For each prompt its part of the true gradient, of the centred update, and of the
/// standardised one with groups of 8 and of 64.
fn updates(prompts: &[(f64, f64)]) -> Result<[Vec<f64>; 4]> {
    let all = |size, scale| -> Result<Vec<f64>> {
        prompts.iter().map(|&(p, mark)| expected_update(p, mark, size, scale)).collect()
    };
    let exact = prompts.iter().map(|(p, mark)| mark * p * (1.0 - p)).collect();
    let standardised = Scale::Population;
    Ok([exact, all(8, Scale::None)?, all(8, standardised)?, all(64, standardised)?])
}

fn shares(parts: &[f64]) -> Vec<f64> {
    let total: f64 = parts.iter().sum();
    parts.iter().map(|part| 100.0 * part / total).collect()
}

/// The angle between two directions, in degrees.
fn angle(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).min(1.0).acos().to_degrees()
}

fn between_prompts(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "between_prompts", "Who gets the update");
    let mut panels = Vec::new();
    for (title, prompts) in [
        ("five prompts, one grader", &PROMPTS[..]),
        ("one prompt, two graders", &GRADERS[..]),
    ] {
        let parts = updates(prompts)?;
        let [_, centred, standardised, large] = parts.each_ref().map(|parts| shares(parts));
        let mut table = Table::new([
            "chance",
            "mark",
            "true gradient",
            "centred",
            "share",
            "standardised",
            "share",
            "share, G = 64",
        ]);
        for (i, (p, mark)) in prompts.iter().enumerate() {
            let [a, b, c] = [0, 1, 2].map(|which: usize| format!("{:.3}", parts[which][i]));
            let [centred, standardised, large] = [&centred, &standardised, &large]
                .map(|shares| format!("{:.0}%", shares[i]));
            let (chance, mark) = (format!("{p:.2}"), format!("{mark:.0}"));
            table.row([chance, mark, a, b, centred, c, standardised, large]);
        }
        let gap = if panels.is_empty() { "" } else { "\n" };
        println!("{gap}{title}\n\n{table}");
        let [straight, turned, further] =
            [1, 2, 3].map(|which| angle(&parts[which], &parts[0]));
        print!("angle to the true gradient: centred {straight:.1} degrees, ");
        println!("standardised {turned:.1}, with G = 64 {further:.1}");
        let at = |offset: f64, shares: &[f64]| -> Vec<(f64, f64)> {
            shares.iter().enumerate().map(|(i, s)| (i as f64 + offset, *s)).collect()
        };
        let names: Vec<String> = match prompts.len() {
            2 => prompts.iter().map(|(_, mark)| format!("mark {mark}")).collect(),
            _ => prompts.iter().map(|(p, _)| format!("{p}")).collect(),
        };
        let label = if prompts.len() == 2 {
            "a right answer earns"
        } else {
            "chance of a right answer"
        };
        panels.push(
            Panel::new(label, "share of the update, %")
                .title(title)
                .categories(names)
                .y_range(0.0, 100.0)
                .bars(0, "centred", 0.25, &at(-0.27, &centred))
                .bars(2, "standardised, G = 8", 0.25, &at(0.0, &standardised))
                .bars(4, "G = 64", 0.25, &at(0.27, &large)),
        );
    }
    let figure = Figure::new(
        "Share of the update that each prompt gets",
        "Left: of five prompts the middling one dominates the centred update; standardising \
         evens the shares out. Right: of two graders the one who gives ten marks gets nine \
         tenths of the centred update and half of the standardised one.",
        panels,
    );
    out.figure("between_prompts", &figure)
}

#[cfg(not(feature = "yours"))]
/// Mean and standard deviation, over groups of `size` neighbours, of the best advantage.
fn best_of_groups(rewards: &[f64], size: usize) -> Result<(f64, f64)> {
    let advantages = advantage::group_relative(rewards, size, Scale::Unbiased)?;
    let best = |group: &[f64]| group.iter().copied().fold(0.0, f64::max);
    let best: Vec<f64> = advantages.chunks(size).map(best).collect();
    Ok(stats::mean_std(&best))
}

#[cfg(not(feature = "yours"))]
/// Mean and standard deviation of the advantage of one answer, whose companions are the
/// next `size` − 1 of `others`.
fn one_answer(reward: f64, others: &[f64], size: usize) -> Result<(f64, f64)> {
    let groups = others.chunks_exact(size - 1);
    let rewards: Vec<f64> =
        groups.flat_map(|companions| [&[reward], companions].concat()).collect();
    let advantages = advantage::group_relative(&rewards, size, Scale::Unbiased)?;
    let of_answer: Vec<f64> = advantages.into_iter().step_by(size).collect();
    Ok(stats::mean_std(&of_answer))
}

/// What groups of one size give, over many draws: means and standard deviations.
struct BySize {
    /// Best advantage when rewards are the share of token 42 under a uniform policy.
    best_share: (f64, f64),
    /// The share of those groups that were silent.
    silent: f64,
    /// Best advantage when rewards are normal.
    best_normal: (f64, f64),
    /// Advantage of an answer whose reward lies one σ above the mean of all answers.
    good_answer: (f64, f64),
}

fn by_size(size: usize, draws: usize, rng: &mut StdRng) -> Result<BySize> {
    let hit = |rng: &mut StdRng| f64::from(u8::from(rng.random_range(0..100) == TARGET));
    let share =
        |rng: &mut StdRng| (0..LENGTH).map(|_| hit(rng)).sum::<f64>() / LENGTH as f64;
    let shares: Vec<f64> = (0..draws * size).map(|_| share(rng)).collect();
    let normals: Vec<f64> = (0..draws * size).map(|_| rng.sample(StandardNormal)).collect();
    let others: Vec<f64> =
        normals.chunks(size).flat_map(|group| group[1..].to_vec()).collect();
    Ok(BySize {
        best_share: best_of_groups(&shares, size)?,
        silent: advantage::silent_groups(&shares, size)?,
        best_normal: best_of_groups(&normals, size)?,
        good_answer: one_answer(1.0, &others, size)?,
    })
}

fn group_sizes(out: &mut Output, seed: u64) -> Result<()> {
    out.section(Kind::Exact, "group_sizes", "Group size and the best advantage");
    let mut rng = seed::stream(seed, &[2]);
    let mut table = Table::new([
        "G",
        "largest possible",
        "best, token 42",
        "silent",
        "best, normal",
        "answer at one sigma",
    ]);
    let (mut bound, mut share, mut normal, mut good) = (vec![], vec![], vec![], vec![]);
    for (i, size) in SIZES.into_iter().enumerate() {
        let at = i as f64;
        let drawn = by_size(size, DRAWS, &mut rng)?;
        let stats = [drawn.best_share, drawn.best_normal, drawn.good_answer];
        let [a, b, c] = stats.map(|(mean, std)| format!("{mean:.2} ± {std:.2}"));
        let silent = format!("{:.0}%", 100.0 * drawn.silent);
        table.row([format!("{size}"), format!("{:.2}", bounds(size).0), a, silent, b, c]);
        bound.push((at, bounds(size).0));
        share.push((at, stats[0].0, stats[0].1));
        normal.push((at, stats[1].0, stats[1].1));
        good.push((at, stats[2].0, stats[2].1));
    }
    print!("{table}\nmean ± standard deviation of {DRAWS} groups of each size\n");
    let panel = |title: &str, label: &str, low: f64, high: f64| {
        Panel::new("group size G", label)
            .title(title)
            .categories(SIZES)
            .x_range(-0.4, 5.4)
            .y_range(low, high)
    };
    let figure = Figure::new(
        "Best advantage and the advantage of one answer against group size",
        "The best advantage grows with the group, below its bound, and for token 42 its error \
         bars grow too. The advantage of one fixed answer closes in on 1 with bars that shrink.",
        vec![
            panel("reward: share of token 42", "best advantage", -0.5, 8.5)
                .dashed(7, "largest possible", &bound)
                .errors(1, "best", &share),
            panel("reward: normal", "best advantage", -0.5, 8.5)
                .dashed(7, "largest possible", &bound)
                .errors(0, "best", &normal),
            panel("one answer, at +1 σ", "its advantage", -0.5, 1.6)
                .dashed(7, "true value", &[(0.0, 1.0), (5.0, 1.0)])
                .errors(2, "estimate", &good),
        ],
    );
    out.figure("group_sizes", &figure)
}
