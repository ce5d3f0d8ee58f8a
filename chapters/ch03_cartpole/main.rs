//! Chapter 3: a pole that is balanced, by rules written by hand and by policies that
//! learn.
//!
//! `--study` runs the experiments that answer how the learning rate, the group size,
//! the network and the number of episodes matter; they take minutes.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
#[cfg(feature = "yours")]
use exercises::step_advantages;
use grpo::{
    Result, advantage,
    cli::{self, RunArgs},
    env::{
        End,
        cartpole::{self, Episodes, MAX_POSITION, State},
    },
    gradients, log_prob,
    objective::{self, Aggregation, Kl, Metrics, Objective, Ratio, Term},
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    report::{self, Kind, Output, Table},
    seed, stats,
};
use rand::{Rng, rngs::StdRng};

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
mod notebook;
mod study;
#[cfg(test)]
mod tests;
mod trace;

// ANCHOR: settings
/// Four starts, sixteen episodes from each: 64 episodes for every update.
const STARTS: usize = 4;
const GROUP_SIZE: usize = 16;
/// Gradient steps on the same episodes.
const EPOCHS: usize = 4;
const CLIP: Term = Term::clip(0.2);
const HIDDEN: usize = 64;
/// Falls in a straight line to zero over the run.
const LEARNING_RATE: f64 = 1e-2;
const MAX_NORM: f64 = 0.5;
/// A run ends after so many environment steps, whatever the method.
const BUDGET: usize = 600_000;
const SEEDS: u64 = 5;
/// What counts as balancing, in mean steps.
const GOOD: f64 = 475.0;
/// Episodes of every final comparison.
const FRESH: usize = 100;
// ANCHOR_END: settings

/// Chapter 3, CartPole: rules by hand, REINFORCE, and GRPO on groups of episodes.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Two seeds and a fifth of the environment steps: about ten seconds
    #[arg(long)]
    quick: bool,
    /// Instead of the chapter, study learning rate, group size, network and episodes
    #[arg(long)]
    study: bool,
}

/// How many seeds, and how many environment steps for each.
#[derive(Clone, Copy)]
struct Effort {
    seeds: u64,
    budget: usize,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let effort = match args.quick {
        true => Effort { seeds: 2, budget: BUDGET / 5 },
        false => Effort { seeds: SEEDS, budget: BUDGET },
    };
    if args.study {
        let mut out = args.run.output("ch03_cartpole_study")?;
        study::run(&mut out, &args.run, effort)?;
        return Ok(out.finish()?);
    }
    let mut out = args.run.output("ch03_cartpole")?;
    physics(&mut out);
    rules(&mut out, &args.run)?;
    let trained = methods(&mut out, &args.run, effort)?;
    survival(&mut out, &args.run, &trained)?;
    trace::write(&mut out, &args.run, &trained)?;
    notebook::counterfactual(&mut out, &args.run)?;
    Ok(out.finish()?)
}

fn physics(out: &mut Output) {
    out.section(Kind::Exact, "physics", "Nine pushes to the right");
    let mut table =
        Table::new(["step", "position", "velocity", "angle", "angular velocity"]);
    let mut state = [0.0; 4];
    for t in 0..=9 {
        let [x, v, angle, spin] = state.map(|number| format!("{number:+.4}"));
        let fallen = if cartpole::fallen(state) { " fallen" } else { "" };
        table.row([format!("{t}{fallen}"), x, v, angle, spin]);
        state = cartpole::step(state, true);
    }
    print!("{table}");
}

// ANCHOR: rules
/// The rule of the notebook: push to the side to which the pole leans.
fn angle(states: &[[f32; 4]]) -> Result<Vec<u32>> {
    Ok(states.iter().map(|[_, _, angle, _]| u32::from(*angle > 0.0)).collect())
}

/// A better one: push to the side to which the pole will lean in a second.
fn angle_and_spin(states: &[[f32; 4]]) -> Result<Vec<u32>> {
    Ok(states.iter().map(|[_, _, angle, spin]| u32::from(angle + spin > 0.0)).collect())
}
// ANCHOR_END: rules

/// Pushes without looking.
fn random(rng: &mut StdRng) -> impl FnMut(&[[f32; 4]]) -> Result<Vec<u32>> {
    |states| Ok(states.iter().map(|_| rng.random_range(0..2)).collect())
}

/// The more likely action of a policy, without a draw.
fn greedy(
    policy: &impl Policy,
    device: &Device,
) -> impl FnMut(&[[f32; 4]]) -> Result<Vec<u32>> {
    |states| {
        let logits = policy.logits(&cartpole::batch(states, device)?)?;
        Ok(logits.argmax(D::Minus1)?.to_vec1()?)
    }
}

/// The starts on which everything is compared.
fn fresh_starts(seed: u64) -> Vec<State> {
    cartpole::group_starts(FRESH, 1, &mut seed::stream(seed, &[3, 1]))
}

fn rules(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "rules", "Rules written by hand");
    let starts = fresh_starts(run.seed);
    let mut rng = seed::stream(run.seed, &[3, 2]);
    let rows = [
        ("random", cartpole::rollout(starts.clone(), random(&mut rng))?),
        ("angle", cartpole::rollout(starts.clone(), angle)?),
        ("angle + angular velocity", cartpole::rollout(starts, angle_and_spin)?),
    ];
    let mut table =
        Table::new(["rule", "steps", "shortest", "pole fell", "left the track", "stood"]);
    for (name, episodes) in rows {
        let (mean, std) = stats::mean_std(&episodes.returns());
        let shortest = episodes.steps.iter().min().copied().unwrap_or(0);
        let stood = episodes.ends.iter().filter(|end| **end == End::Truncated).count();
        let left =
            episodes.last.iter().filter(|state| state[0].abs() > MAX_POSITION).count();
        let fell = episodes.ends.len() - stood - left;
        let counts = [shortest, fell, left, stood].map(|n| n.to_string());
        let [shortest, fell, left, stood] = counts;
        table.row([
            name.into(),
            format!("{mean:.1} ± {std:.1}"),
            shortest,
            fell,
            left,
            stood,
        ]);
    }
    print!(
        "{table}\n{FRESH} episodes of each, from the same starts; mean ± standard deviation\n"
    );
    Ok(())
}

// ANCHOR: judge
/// What the return of an episode is compared with to become its advantage.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Judge {
    /// Nothing: the return itself.
    Return,
    /// The mean of all episodes of the batch.
    BatchMean,
    /// Mean and standard deviation of the episodes from the same start.
    Group,
}

impl Judge {
    /// One advantage for each step (S): that of its episode.
    fn advantages(self, episodes: &Episodes, group_size: usize) -> Result<Vec<f64>> {
        let (returns, episode) = (episodes.returns(), &episodes.episode);
        match self {
            Self::Return => Ok(credit(&returns, episode)),
            Self::BatchMean => Ok(credit(&advantage::batch_mean(&returns), episode)),
            Self::Group => step_advantages(&returns, episode, group_size),
        }
    }
}

/// Gives every step (S) the number of the episode (N) to which it belongs.
fn credit(numbers: &[f64], episode: &[usize]) -> Vec<f64> {
    episode.iter().map(|&episode| numbers[episode]).collect()
}
// ANCHOR_END: judge

#[cfg(not(feature = "yours"))]
/// Compares within each group, then credits every step of an episode.
fn step_advantages(
    returns: &[f64],
    episode: &[usize],
    group_size: usize,
) -> Result<Vec<f64>> {
    let scale = advantage::Scale::Trl;
    Ok(credit(&advantage::group_relative(returns, group_size, scale)?, episode))
}

/// One way to train a policy.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    judge: Judge,
    /// Different starts in a batch, and episodes from each.
    starts: usize,
    group_size: usize,
    epochs: usize,
    clip: Term,
    learning_rate: f64,
    budget: usize,
}

impl Recipe {
    /// 64 different starts and one gradient step: the ratio is 1, and nothing is clipped.
    fn reinforce(judge: Judge, budget: usize) -> Self {
        let (starts, group_size) = (STARTS * GROUP_SIZE, 1);
        Self { judge, starts, group_size, epochs: 1, ..Self::grpo(budget) }
    }

    fn grpo(budget: usize) -> Self {
        let (starts, group_size, epochs) = (STARTS, GROUP_SIZE, EPOCHS);
        let (judge, clip, learning_rate) = (Judge::Group, CLIP, LEARNING_RATE);
        Self { judge, starts, group_size, epochs, clip, learning_rate, budget }
    }
}

/// All steps that have something to say, in one batch of S.
struct Batch {
    /// What was seen (S, 1, 4).
    states: Tensor,
    /// What was done (S, 1): to the objective, each step is an answer of one token.
    actions: Tensor,
    /// The advantage of each step (S).
    advantages: Tensor,
    /// Every step counts: (S, 1) of ones.
    mask: Tensor,
}

impl Batch {
    /// The steps whose advantage, one of S, is not 0; `None` when there is none.
    fn new(
        episodes: &Episodes,
        advantages: &[f64],
        device: &Device,
    ) -> Result<Option<Self>> {
        let kept: Vec<usize> =
            (0..episodes.actions.len()).filter(|&s| advantages[s] != 0.0).collect();
        if kept.is_empty() {
            return Ok(None);
        }
        let states: Vec<[f32; 4]> = kept.iter().map(|&s| episodes.states[s]).collect();
        let actions: Vec<u32> = kept.iter().map(|&s| episodes.actions[s]).collect();
        let advantages: Vec<f32> = kept.iter().map(|&s| advantages[s] as f32).collect();
        let one_each = (kept.len(), 1);
        Ok(Some(Self {
            states: cartpole::batch(&states, device)?.unsqueeze(1)?,
            actions: Tensor::from_vec(actions, one_each, device)?,
            advantages: Tensor::new(advantages, device)?,
            mask: Tensor::ones(one_each, DType::U8, device)?,
        }))
    }
}

// ANCHOR: objective
/// The clipped objective, averaged over steps. Chapter 6 takes it apart.
fn objective(clip: Term) -> Objective {
    Objective {
        ratio: Ratio::Token,
        term: clip,
        aggregation: Aggregation::TokenMean,
        kl: Kl::new(0.0),
        off_policy_threshold: None,
    }
}
// ANCHOR_END: objective

// ANCHOR: update
/// `epochs` gradient steps on one batch; returns what the last of them saw.
fn update(
    policy: &impl Policy,
    optimizer: &mut AdamW,
    batch: &Batch,
    recipe: &Recipe,
) -> Result<Option<Step>> {
    let (mut old, mut last) = (None, None);
    for _ in 0..recipe.epochs {
        let logits = policy.logits(&batch.states)?;
        let new = log_prob::of(&logits, &batch.actions)?;
        // Before the first step, new and old are the same numbers. `detach` makes old a
        // constant; without it their difference has no gradient.
        let old = old.get_or_insert_with(|| new.detach());
        let entropy = log_prob::entropy(&logits, 1.0)?;
        let (loss, metrics) = objective(recipe.clip).loss(&objective::Batch {
            old_log_probs: Some(old),
            entropy: Some(&entropy),
            ..objective::Batch::new(&new, &batch.advantages, &batch.mask)
        })?;
        let mut gradients = gradients::of(&loss, policy.variables())?;
        let norm = gradients::clip_norm(&mut gradients, policy.variables(), MAX_NORM)?;
        optimizer.step(&gradients)?;
        last = Some(Step { metrics, norm });
    }
    Ok(last)
}
// ANCHOR_END: update

/// One gradient step, as it was before the weights moved.
struct Step {
    metrics: Metrics,
    /// Norm of the gradient before it is clipped.
    norm: f64,
}

/// One batch of the curve.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Environment steps taken before it.
    used: f64,
    /// Mean steps survived.
    steps: f64,
    /// Share of the groups in which all episodes lasted equally long.
    silent: f64,
    /// Norm of the gradient, share of clipped steps and entropy, at the last gradient
    /// step; NaN where there was none.
    norm: f64,
    clipped: f64,
    entropy: f64,
}

// ANCHOR: train
/// Plays, compares, updates, until the budget is used.
fn train(
    policy: &impl Policy,
    recipe: &Recipe,
    rng: &mut StdRng,
    device: &Device,
) -> Result<Vec<Point>> {
    let variables = policy.variables().values().cloned().collect();
    let settings = ParamsAdamW { weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(variables, settings)?;
    let (mut used, mut curve) = (0, Vec::new());
    while used < recipe.budget {
        let left = 1.0 - used as f64 / recipe.budget as f64;
        optimizer.set_learning_rate(recipe.learning_rate * left);
        let starts = cartpole::group_starts(recipe.starts, recipe.group_size, rng);
        let act = cartpole::sampled(policy, rng, device);
        let episodes = cartpole::rollout(starts, act)?;
        let advantages = recipe.judge.advantages(&episodes, recipe.group_size)?;
        let step = match Batch::new(&episodes, &advantages, device)? {
            Some(batch) => update(policy, &mut optimizer, &batch, recipe)?,
            None => None,
        };
        curve.push(Point::new(used, &episodes.returns(), recipe.group_size, step)?);
        used += episodes.actions.len();
    }
    Ok(curve)
}
// ANCHOR_END: train

impl Point {
    fn new(
        used: usize,
        returns: &[f64],
        group_size: usize,
        step: Option<Step>,
    ) -> Result<Self> {
        let seen = |value: fn(&Step) -> f64| step.as_ref().map_or(f64::NAN, value);
        Ok(Self {
            used: used as f64,
            steps: stats::mean_std(returns).0,
            silent: advantage::silent_groups(returns, group_size)?,
            norm: seen(|step| step.norm),
            clipped: seen(|step| step.metrics.clip_low + step.metrics.clip_high),
            entropy: seen(|step| step.metrics.entropy.unwrap_or(f64::NAN)),
        })
    }
}

/// What one seed of one recipe left.
struct Trained<P> {
    policy: P,
    curve: Vec<Point>,
    /// Steps survived in fresh episodes with sampled actions, at the end of training.
    fresh: Vec<f64>,
}

/// Trains a policy made by `fresh` on one seed, then plays fresh episodes with it.
fn train_one<P: Policy>(
    new: impl Fn(&mut StdRng) -> Result<P>,
    recipe: &Recipe,
    seed: u64,
    device: &Device,
) -> Result<Trained<P>> {
    let mut rng = seed::rng(seed);
    let policy = new(&mut rng)?;
    let curve = train(&policy, recipe, &mut rng, device)?;
    let starts = fresh_starts(seed);
    let fresh = cartpole::rollout(starts, cartpole::sampled(&policy, &mut rng, device))?;
    Ok(Trained { policy, curve, fresh: fresh.returns() })
}

/// The network of this chapter: tanh, 4-64-2.
fn network(rng: &mut StdRng, device: &Device) -> Result<Mlp> {
    Mlp::new([4, HIDDEN, 2], rng, DType::F32, device)
}

/// Every seed of the three methods.
struct Methods {
    reinforce: Vec<Trained<Mlp>>,
    baseline: Vec<Trained<Mlp>>,
    grpo: Vec<Trained<Mlp>>,
}

impl Methods {
    fn named(&self) -> [(&str, &[Trained<Mlp>]); 3] {
        [
            ("REINFORCE", &self.reinforce),
            ("REINFORCE, minus the mean", &self.baseline),
            ("GRPO", &self.grpo),
        ]
    }
}

fn train_methods(run: &RunArgs, effort: Effort) -> Result<Methods> {
    let bar = report::progress(3 * effort.seeds, "training");
    let all = |recipe: Recipe| {
        seed::over_seeds(effort.seeds, |seed| {
            let new = |rng: &mut StdRng| network(rng, &run.device);
            let trained = train_one(new, &recipe, run.seed + seed, &run.device);
            bar.inc(1);
            trained
        })
    };
    let methods = Methods {
        reinforce: all(Recipe::reinforce(Judge::Return, effort.budget))?,
        baseline: all(Recipe::reinforce(Judge::BatchMean, effort.budget))?,
        grpo: all(Recipe::grpo(effort.budget))?,
    };
    bar.finish_and_clear();
    Ok(methods)
}

/// The mean of the fresh episodes of each seed.
fn final_means<P>(seeds: &[Trained<P>]) -> Vec<f64> {
    seeds.iter().map(|one| stats::mean_std(&one.fresh).0).collect()
}

/// Environment steps until a batch first lasted `GOOD` steps on average; `None` if a
/// seed never got there.
fn steps_to_good<P>(seeds: &[Trained<P>]) -> Option<Vec<f64>> {
    let first =
        |one: &Trained<P>| one.curve.iter().find(|p| p.steps >= GOOD).map(|p| p.used);
    seeds.iter().map(first).collect()
}

/// The row of a method in a table: when it was good, how good it is at the end.
fn summary<P>(name: &str, seeds: &[Trained<P>]) -> [String; 4] {
    let good = match steps_to_good(seeds) {
        Some(used) => format!("{:.0}", stats::mean_std(&used).0 / 1000.0),
        None => "–".into(),
    };
    let means = final_means(seeds);
    let (mean, std) = stats::mean_std(&means);
    let worst = means.iter().copied().fold(f64::INFINITY, f64::min);
    [name.into(), good, format!("{mean:.1} ± {std:.1}"), format!("{worst:.1}")]
}

const SUMMARY: [&str; 4] = ["method", "k steps to 475", "at the end", "worst seed"];

/// Curves of all seeds at the same numbers of environment steps, by interpolation between
/// the batches that have a finite value.
fn on_grid<P>(
    seeds: &[Trained<P>],
    grid: &[f64],
    value: impl Fn(&Point) -> f64,
) -> Vec<Vec<f64>> {
    let at = |curve: &[(f64, f64)], x: f64| {
        let right = curve.partition_point(|point| point.0 <= x);
        match (right.checked_sub(1).map(|left| curve[left]), curve.get(right)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
            (Some(a), None) => a.1,
            (None, b) => b.map_or(f64::NAN, |b| b.1),
        }
    };
    let one = |one: &Trained<P>| {
        let points = one.curve.iter().map(|point| (point.used, value(point)));
        let points: Vec<_> = points.filter(|point| point.1.is_finite()).collect();
        grid.iter().map(|&x| at(&points, x)).collect()
    };
    seeds.iter().map(one).collect()
}

/// Sixty numbers of environment steps, from none to the whole budget.
fn grid(budget: usize) -> Vec<f64> {
    (0..=60).map(|i| budget as f64 * f64::from(i) / 60.0).collect()
}

/// Learning curves of several recipes, each as a mean with a band.
fn curves<'a, P: 'a>(
    budget: usize,
    all: impl IntoIterator<Item = (usize, &'a str, &'a [Trained<P>])>,
) -> Panel {
    let grid = grid(budget);
    let thousands: Vec<f64> = grid.iter().map(|x| x / 1000.0).collect();
    let empty =
        Panel::new("environment steps, thousands", "steps survived").y_range(0.0, 520.0);
    all.into_iter().fold(empty, |panel, (colour, name, seeds)| {
        panel.mean_band(colour, name, &thousands, &on_grid(seeds, &grid, |p| p.steps))
    })
}

fn methods(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<Methods> {
    out.section(Kind::Trained, "methods", "Three ways to learn");
    let methods = train_methods(run, effort)?;
    let mut table = Table::new(SUMMARY);
    methods.named().iter().for_each(|(name, seeds)| table.row(summary(name, seeds)));
    println!("{table}\n{FRESH} fresh episodes with sampled actions after training,");
    println!("mean ± standard deviation of {} seeds", effort.seeds);
    let [reinforce, baseline, grpo] = methods.named();
    let panel = curves(
        effort.budget,
        [(1, reinforce.0, reinforce.1), (4, baseline.0, baseline.1), (0, grpo.0, grpo.1)],
    );
    let figure = Figure::new(
        "Steps survived while learning",
        "Mean steps survived against environment steps, with bands over the seeds, for \
         REINFORCE, REINFORCE minus the mean, and GRPO, which rises fastest and ends highest.",
        vec![panel.dashed(7, "475", &[(0.0, GOOD), (effort.budget as f64 / 1000.0, GOOD)])],
    );
    out.figure("methods", &figure)?;
    out.figure("metrics", &metrics(&methods.grpo, effort.budget))?;
    let columns = ["seed", "used", "steps", "silent", "norm", "clipped", "entropy"];
    let rows = methods.grpo.iter().enumerate().flat_map(|(seed, one)| {
        one.curve.iter().map(move |p| {
            [seed as f64, p.used, p.steps, p.silent, p.norm, p.clipped, p.entropy]
        })
    });
    out.csv("grpo", columns, rows)?;
    Ok(methods)
}

/// What to watch beside the reward, for GRPO.
fn metrics(seeds: &[Trained<Mlp>], budget: usize) -> Figure {
    let grid = grid(budget);
    let thousands: Vec<f64> = grid.iter().map(|x| x / 1000.0).collect();
    let panel = |label: &str| Panel::new("environment steps, thousands", label);
    let band = |label: &str, value: fn(&Point) -> f64| {
        panel(label).mean_band(0, "", &thousands, &on_grid(seeds, &grid, value))
    };
    // A share has a mean of 0 or 1 for long: a band would leave the range of shares.
    let silent = on_grid(seeds, &grid, |p| p.silent);
    let mean =
        |i: usize| stats::mean_std(&silent.iter().map(|c| c[i]).collect::<Vec<_>>()).0;
    let silent: Vec<_> = thousands.iter().enumerate().map(|(i, &x)| (x, mean(i))).collect();
    Figure::new(
        "Four metrics of GRPO on CartPole",
        "Against environment steps: the share of silent groups rises from 0 as episodes reach \
         the limit; the entropy falls; few steps are clipped; the gradient norm.",
        vec![
            panel("share of silent groups").y_range(0.0, 1.02).line(0, "", &silent),
            band("entropy, nats", |p| p.entropy),
            band("share of clipped steps", |p| p.clipped),
            band("gradient norm", |p| p.norm),
        ],
    )
    .columns(2)
}

fn survival(out: &mut Output, run: &RunArgs, methods: &Methods) -> Result<()> {
    out.section(Kind::Trained, "survival", "Steps survived, hand-written against learnt");
    let mut rng = seed::stream(run.seed, &[3, 2]);
    let starts = fresh_starts(run.seed);
    let mut table = Table::new(["policy", "steps survived", "shortest", "stood for 500"]);
    let mut row = |name: &str, all: &[Episodes]| {
        let returns: Vec<f64> = all.iter().flat_map(Episodes::returns).collect();
        let (mean, std) = stats::mean_std(&returns);
        let shortest = returns.iter().copied().fold(f64::INFINITY, f64::min);
        let stood =
            all.iter().flat_map(|e| &e.ends).filter(|end| **end == End::Truncated).count();
        let share = format!("{:.1}%", 100.0 * stood as f64 / returns.len() as f64);
        table.row([
            name.into(),
            format!("{mean:.1} ± {std:.1}"),
            format!("{shortest}"),
            share,
        ]);
    };
    row("random", &[cartpole::rollout(starts.clone(), random(&mut rng))?]);
    row("angle", &[cartpole::rollout(starts.clone(), angle)?]);
    row("angle + angular velocity", &[cartpole::rollout(starts.clone(), angle_and_spin)?]);
    for (name, seeds) in methods.named() {
        let mut draw = |one: &Trained<Mlp>| {
            let act = cartpole::sampled(&one.policy, &mut rng, &run.device);
            cartpole::rollout(starts.clone(), act)
        };
        row(name, &seeds.iter().map(&mut draw).collect::<Result<Vec<_>>>()?);
    }
    let argmax = |one: &Trained<Mlp>| {
        cartpole::rollout(starts.clone(), greedy(&one.policy, &run.device))
    };
    row(
        "GRPO, likelier action",
        &methods.grpo.iter().map(argmax).collect::<Result<Vec<_>>>()?,
    );
    print!("{table}\n{FRESH} starts, the same for all; learnt policies: of every seed\n");
    Ok(())
}
