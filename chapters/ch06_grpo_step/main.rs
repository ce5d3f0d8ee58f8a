//! Chapter 6: one GRPO step, by hand and by the library, and what each of its parts does.

use anyhow::Context;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
use grpo::{
    Result,
    advantage::{Scale, group_relative, is_silent},
    cli::{self, RunArgs},
    env::bandit::{Bandit, roll_out, score},
    gradients,
    kl::{self, Estimator},
    log_prob,
    memory::BytesPerParameter as Bytes,
    objective::{Aggregation, Batch, Kl, Objective, Ratio, Term},
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    report::{self, Kind, Output, Table},
    rollout::Rollout,
    seed, stats,
    update::{Step, Steps},
};

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(feature = "yours")]
use exercises::update;
#[cfg(not(feature = "yours"))]
use grpo::update::update;

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// Four answers to one prompt: what each earned, and its log-probability.
const REWARDS: [f64; 4] = [1.0, -0.5, 1.0, -1.0];
const LOG_PROBS: [f64; 4] = [-15.2, -18.7, -12.3, -22.1];
/// The same answers after the policy has moved: log-probability minus the old one.
const MOVED: [f64; 4] = [0.30, 0.26, -0.36, -0.49];
const CLIP_EPS: f64 = 0.2;
const KL_COEF: f64 = 0.04;

/// A policy and a reference over six tokens.
const POLICY: [f64; 6] = [
    0.05352731844,
    0.04761516541,
    0.04984293039,
    0.1697789337,
    0.07149001619,
    0.6077456358,
];
const REFERENCE: [f64; 6] =
    [0.07009123227, 0.1096396551, 0.2908589685, 0.09964307056, 0.1265368677, 0.3032302059];

/// The bandit: contexts, features, actions. One action of each context is right.
const WORLD: [usize; 3] = [20, 8, 10];
const HIDDEN: usize = 32;
/// Answers sampled for each rollout, whatever the group size.
const SAMPLES: usize = 128;
const ROLLOUTS: usize = 100;
const LEARNING_RATE: f64 = 0.01;
const MAX_NORM: f64 = 1.0;
const SEEDS: u64 = 8;
// ANCHOR_END: settings

/// Chapter 6, the GRPO step: ratio, clip, KL and aggregation, one by one and together.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// G, answers to each prompt; it must divide 128
    #[arg(long, default_value = "8", value_parser = group_size)]
    group_size: usize,
    /// ε, how far the ratio may go before it is clipped: at least 0 and below 1
    #[arg(long, default_value = "0.2", value_parser = clip_eps)]
    clip_eps: f64,
    /// β, weight of the KL penalty: at least 0
    #[arg(long, default_value = "0", value_parser = kl_coef, allow_negative_numbers = true)]
    kl_coef: f64,
    /// μ, gradient steps on each rollout: at least 1
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    epochs: u16,
}

fn group_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(1) => {
            Err("a group of 1 has nobody to be compared with; it must be at least 2".into())
        }
        Ok(size) if size > 1 && SAMPLES.is_multiple_of(size) => Ok(size),
        _ => Err(format!("it must be a whole number from 2 that divides {SAMPLES}")),
    }
}

fn clip_eps(text: &str) -> std::result::Result<f64, String> {
    let fits = text.parse().ok().filter(|eps| (0.0..1.0).contains(eps));
    fits.ok_or_else(|| "it must be a number of at least 0 and below 1".into())
}

fn kl_coef(text: &str) -> std::result::Result<f64, String> {
    let fits = text.parse().ok().filter(|coef: &f64| coef.is_finite() && *coef >= 0.0);
    fits.ok_or_else(|| "it must be a number of at least 0".into())
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch06_grpo_step")?;
    by_hand(&mut out, &args.run.device)?;
    moved(&mut out, &args.run.device)?;
    clip_figure(&mut out, &args.run.device)?;
    kl_table(&mut out, &args.run.device)?;
    skip_table(&mut out)?;
    let settings = Settings {
        group_size: args.group_size,
        epochs: args.epochs.into(),
        loss: Loss::Objective(Term::clip(args.clip_eps)),
        kl_coef: args.kl_coef,
        learning_rate: LEARNING_RATE,
    };
    one_run(&mut out, &args.run, settings)?;
    epochs_and_clip(&mut out, &args.run)?;
    leash(&mut out, &args.run)?;
    memory_table(&mut out);
    Ok(out.finish()?)
}

/// A column (B, 1) of numbers: B answers of one token.
fn column(numbers: &[f64], device: &Device) -> Result<Tensor> {
    Ok(Tensor::new(numbers, device)?.unsqueeze(1)?)
}

// ANCHOR: by_hand
/// −A log π / G of each answer, and the derivative of their sum by each log π.
fn reinforce_loss(advantages: &[f64], device: &Device) -> Result<(Vec<f64>, Vec<f64>)> {
    let log_probs = Var::from_tensor(&Tensor::new(&LOG_PROBS, device)?)?;
    let advantages = Tensor::new(advantages, device)?;
    let parts = ((advantages * log_probs.as_tensor())?.neg()? / REWARDS.len() as f64)?;
    let gradients = parts.sum_all()?.backward()?;
    let gradient = gradients.get(&log_probs).context("no gradient")?;
    Ok((parts.to_vec1()?, gradient.to_vec1()?))
}
// ANCHOR_END: by_hand

// ANCHOR: objective
/// GRPO's choices: a ratio for each token, a clip, every sequence the same weight.
fn objective(term: Term, kl_coef: f64) -> Objective {
    Objective {
        ratio: Ratio::Token,
        term,
        aggregation: Aggregation::SequenceMean,
        kl: Kl { coef: kl_coef, estimator: Estimator::K3, corrected: true },
        off_policy_threshold: None,
    }
}

/// The objective's loss, and its derivative by each log π. `moved`: log π − log π_old.
fn grpo_loss(
    objective: &Objective,
    advantages: &[f64],
    moved: &[f64],
    device: &Device,
) -> Result<(f64, Vec<f64>)> {
    let old_log_probs = Tensor::zeros((moved.len(), 1), DType::F64, device)?;
    let log_probs = Var::from_tensor(&column(moved, device)?)?;
    let advantages = Tensor::new(advantages, device)?;
    let mask = Tensor::ones((moved.len(), 1), DType::U8, device)?;
    let batch = Batch {
        old_log_probs: Some(&old_log_probs),
        ref_log_probs: Some(&old_log_probs),
        ..Batch::new(&log_probs, &advantages, &mask)
    };
    let (loss, _) = objective.loss(&batch)?;
    let gradients = loss.backward()?;
    let gradient = gradients.get(&log_probs).context("no gradient")?;
    Ok((loss.to_scalar()?, gradient.flatten_all()?.to_vec1()?))
}
// ANCHOR_END: objective

fn by_hand(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "by_hand", "One step by hand");
    let advantages = group_relative(&REWARDS, 4, Scale::None)?;
    let (parts, gradient) = reinforce_loss(&advantages, device)?;
    let (zero, same) =
        grpo_loss(&objective(Term::clip(CLIP_EPS), 0.0), &advantages, &[0.0; 4], device)?;
    let mut table = Table::new([
        "answer",
        "reward",
        "A",
        "log π",
        "−A log π / G",
        "gradient",
        "with ratio",
    ]);
    for i in 0..4 {
        table.row([
            format!("{}", i + 1),
            format!("{:+.1}", REWARDS[i]),
            format!("{:+.3}", advantages[i]),
            format!("{:.1}", LOG_PROBS[i]),
            format!("{:+.4}", parts[i]),
            format!("{:+.5}", gradient[i]),
            format!("{:+.5}", same[i]),
        ]);
    }
    let total: f64 = parts.iter().sum();
    print!(
        "{table}\nloss −Σ A log π / G: {total:.4}; loss −mean(ρ A): {:.4}\n",
        zero.abs()
    );
    Ok(())
}

fn moved(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "moved", "The same answers after the policy has moved");
    let advantages = group_relative(&REWARDS, 4, Scale::None)?;
    let losses = [
        objective(Term::clip(CLIP_EPS), 0.0),
        objective(Term::clip(CLIP_EPS), KL_COEF),
        objective(NO_CLIP, 0.0),
    ]
    .map(|objective| grpo_loss(&objective, &advantages, &MOVED, device));
    let [clip, with_kl, free] = losses;
    let (clip, with_kl, free) = (clip?, with_kl?, free?);
    let mut table =
        Table::new(["answer", "A", "ratio", "clipped", "gradient", "+ KL", "no clip"]);
    for i in 0..4 {
        let ratio = MOVED[i].exp();
        let [a, b, c] = [clip.1[i], with_kl.1[i], free.1[i]].map(|g| format!("{g:+.4}"));
        table.row([
            format!("{}", i + 1),
            format!("{:+.3}", advantages[i]),
            format!("{ratio:.3}"),
            format!("{:.3}", ratio.clamp(1.0 - CLIP_EPS, 1.0 + CLIP_EPS)),
            a,
            b,
            c,
        ]);
    }
    let [clip, with_kl, free] = [clip.0, with_kl.0, free.0];
    print!(
        "{table}\nloss: clip {clip:+.4}, clip and KL {with_kl:+.4}, no clip {free:+.4}\n"
    );
    Ok(())
}

/// A clip that never acts.
const NO_CLIP: Term = Term::Clip { low: 1.0 - 1e-9, high: 1e9, bound: None };

fn clip_figure(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "clip", "What the clip does");
    let objective = objective(Term::clip(CLIP_EPS), 0.0);
    let ratios: Vec<f64> = (2..=40).map(|i| f64::from(i) * 0.05 + 1e-9).collect();
    let mut panels = Vec::new();
    let mut rows = Vec::new();
    for (title, advantage) in
        [("A = +1: more of this", 1.0), ("A = −1: less of this", -1.0)]
    {
        let (mut gain, mut slope) = (Vec::new(), Vec::new());
        for &ratio in &ratios {
            let (loss, gradient) =
                grpo_loss(&objective, &[advantage], &[ratio.ln()], device)?;
            gain.push((ratio, -loss));
            // The gradient is by log π, which is ρ times the gradient by ρ.
            slope.push((ratio, -gradient[0] / ratio));
            rows.push([advantage, ratio, -loss, -gradient[0] / ratio]);
        }
        let panel = Panel::new("ratio ρ", "")
            .title(title)
            .y_range(-2.1, 2.1)
            .line(0, "objective", &gain)
            .points(1, "its slope", &slope);
        panels.push(panel);
    }
    let mut table = Table::new(["A", "ratio", "objective", "slope"]);
    let shown = |ratio: f64| [0.5, 0.9, 1.1, 1.5].iter().any(|r| (ratio - r).abs() < 1e-6);
    for [advantage, ratio, gain, slope] in rows.iter().filter(|row| shown(row[1])) {
        let cells = [gain, slope].map(|x| format!("{:+.2}", x + 0.0));
        let [gain, slope] = cells;
        table.row([format!("{advantage:+.0}"), format!("{ratio:.2}"), gain, slope]);
    }
    print!("{table}");
    let figure = Figure::new(
        "The clipped objective and its slope against the ratio",
        "For a positive advantage the objective rises with the ratio up to 1.2 and is flat \
         beyond. For a negative advantage it is flat below 0.8 and falls without end above.",
        panels,
    );
    out.figure("clip", &figure)?;
    out.csv("clip", ["advantage", "ratio", "objective", "slope"], rows)
}

// ANCHOR: kl
/// Mean, variance and mean gradient of an estimate of KL(π ‖ π_ref), summed over all six
/// tokens, each weighted by its probability. `corrected`: times the ratio.
fn moments(estimator: Estimator, corrected: bool, device: &Device) -> Result<Moments> {
    let logits = Var::from_tensor(&Tensor::new(&POLICY, device)?.log()?)?;
    let log_probs = log_prob::table(&logits)?;
    let ref_log_probs = log_prob::table(&Tensor::new(&REFERENCE, device)?.log()?)?;
    // What a sample is drawn from has no gradient: this is what autograd sees.
    let weight = log_probs.detach().exp()?;
    let mut estimate = estimator.policy_ref(&log_probs, &ref_log_probs)?;
    if corrected {
        estimate = (estimate * (&log_probs - log_probs.detach())?.exp()?)?;
    }
    let mean = (&weight * &estimate)?.sum_all()?;
    let square = (&weight * estimate.sqr()?)?.sum_all()?.to_scalar::<f64>()?;
    let gradients = mean.backward()?;
    let gradient = gradients.get(&logits).context("no gradient")?.to_vec1()?;
    let mean = mean.to_scalar::<f64>()?;
    Ok(Moments { mean, variance: square - mean * mean, gradient })
}
// ANCHOR_END: kl

/// What [`moments`] found.
struct Moments {
    mean: f64,
    variance: f64,
    gradient: Vec<f64>,
}

/// KL(π ‖ π_ref), or KL(π_ref ‖ π), and its gradient, without any estimate.
fn exact_kl(towards_reference: bool, device: &Device) -> Result<(f64, Vec<f64>)> {
    let logits = Var::from_tensor(&Tensor::new(&POLICY, device)?.log()?)?;
    let ref_logits = Tensor::new(&REFERENCE, device)?.log()?;
    let kl = match towards_reference {
        true => kl::exact_policy_ref(&logits, &ref_logits)?,
        false => kl::exact_ref_policy(&logits, &ref_logits)?,
    };
    let gradients = kl.backward()?;
    let gradient = gradients.get(&logits).context("no gradient")?.to_vec1()?;
    Ok((kl.to_scalar()?, gradient))
}

const ESTIMATORS: [(&str, Estimator, bool); 5] = [
    ("k1", Estimator::K1, false),
    ("k2", Estimator::K2, false),
    ("k3", Estimator::K3, false),
    ("k1 · ρ", Estimator::K1, true),
    ("k3 · ρ", Estimator::K3, true),
];

fn length(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

fn kl_table(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "kl", "Three estimates of one KL");
    let (forward, to_ref) = exact_kl(true, device)?;
    let (backward, from_ref) = exact_kl(false, device)?;
    println!("KL(π ‖ π_ref) = {forward:.4}, KL(π_ref ‖ π) = {backward:.4}\n");
    let mut table =
        Table::new(["estimate", "mean", "variance", "its mean gradient is that of"]);
    let mut found = Vec::new();
    for (name, estimator, corrected) in ESTIMATORS {
        let Moments { mean, variance, gradient } = moments(estimator, corrected, device)?;
        let verdict = match gradient.as_slice() {
            g if length(g) < 1e-9 => "nothing: it is 0",
            g if distance(g, &to_ref) < 1e-9 => "KL(π ‖ π_ref)",
            g if distance(g, &from_ref) < 1e-9 => "KL(π_ref ‖ π), the other direction",
            _ => "neither",
        };
        let (mean, variance) = (format!("{mean:.4}"), format!("{variance:.4}"));
        table.row([name.into(), mean, variance, verdict.into()]);
        found.push(gradient);
    }
    print!("{table}");
    let at = |offset: f64, numbers: &[f64]| -> Vec<(f64, f64)> {
        numbers.iter().enumerate().map(|(i, g)| (i as f64 + offset, *g)).collect()
    };
    let panel = |title: &str| {
        Panel::new("token", "gradient").title(title).categories(0..6).y_range(-0.3, 0.4)
    };
    let figure = Figure::new(
        "Gradients of the estimates and of the two divergences",
        "Left, the gradient of KL(π ‖ π_ref) as bars; k2 and k3 times the ratio lie on them, \
         k1 is zero. Right, the gradient of KL(π_ref ‖ π) as bars; k3 lies on them.",
        vec![
            panel("the KL you want: KL(π ‖ π_ref)")
                .bars(0, "exact", 0.6, &at(0.0, &to_ref))
                .points(1, "k2", &at(-0.15, &found[1]))
                .points(2, "k3 · ρ", &at(0.15, &found[4]))
                .points(7, "k1", &at(0.0, &found[0])),
            panel("the other direction: KL(π_ref ‖ π)")
                .bars(3, "exact", 0.6, &at(0.0, &from_ref))
                .points(1, "k3", &at(0.0, &found[2])),
        ],
    );
    out.figure("kl", &figure)
}

fn skip_table(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "skip", "Groups that teach nothing");
    let mut table = Table::new(["group", "rewards", "mean", "advantages", ""]);
    for (name, rewards) in [
        ("all correct", [1.0, 1.0, 1.0, 1.0]),
        ("all wrong", [-0.5, -0.5, -0.5, -0.5]),
        ("mixed", [1.0, -0.5, 1.0, -1.0]),
        ("3 correct, 1 wrong", [1.0, 1.0, 1.0, -0.5]),
    ] {
        let list = |numbers: &[f64]| {
            numbers.iter().map(|x| format!("{x:+.3}")).collect::<Vec<_>>().join(" ")
        };
        let rewarded = rewards.map(|r: f64| format!("{r:+.1}")).join(" ");
        let advantages = list(&group_relative(&rewards, 4, Scale::None)?);
        let says = if is_silent(&rewards) { "silent" } else { "learns" };
        let mean = format!("{:+.3}", rewards.iter().sum::<f64>() / 4.0);
        table.row([name.into(), rewarded, mean, advantages, says.into()]);
    }
    print!("{table}");
    Ok(())
}

/// What a gradient step makes smaller.
#[derive(Clone, Copy, PartialEq)]
enum Loss {
    /// The library's objective with this term.
    Objective(Term),
    /// A bug that is often seen: `max` of the two gains in place of `min`.
    MaxBug,
}

/// One training run.
#[derive(Clone, Copy)]
struct Settings {
    group_size: usize,
    epochs: usize,
    loss: Loss,
    kl_coef: f64,
    learning_rate: f64,
}

/// What is remembered of one rollout and the steps on it.
struct Record {
    /// Chance of a right answer before the rollout, exact.
    accuracy: f64,
    /// KL(π ‖ π_ref) before the rollout, exact, the mean over contexts.
    kl: f64,
    steps: Vec<Step>,
}

// ANCHOR: train
/// GRPO, whole: sample groups, compare, take μ steps, repeat.
fn train(
    world: &Bandit,
    settings: Settings,
    seed: u64,
    device: &Device,
) -> Result<Vec<Record>> {
    let mut rng = seed::rng(seed);
    let [_, features, actions] = WORLD;
    let policy = Mlp::new([features, HIDDEN, actions], &mut rng, DType::F32, device)?;
    let reference = policy.copy()?;
    let mut optimizer = adam(&policy, settings.learning_rate)?;
    let mut records = Vec::new();
    for _ in 0..ROLLOUTS {
        // Sample: G answers to each prompt, all in one batch, judged within their group.
        let prompts = world.draw(SAMPLES / settings.group_size, &mut rng)?;
        let prompts = prompts.in_groups(settings.group_size)?;
        let judge = |prompts: &_, answers: &_| world.rewards(prompts, answers);
        let rollout =
            roll_out(&policy, &prompts, settings.group_size, Scale::Trl, judge, &mut rng)?;
        // Remember what the reference thinks of them.
        let ref_log_probs = score(&reference, &rollout)?.log_probs;
        let rollout = rollout.with_reference(&ref_log_probs)?;
        // Learn: μ gradient steps on the same answers.
        let (accuracy, kl) =
            (world.expected_reward(&policy)?, distance_to(&reference, &policy, world)?);
        let steps = learn(&policy, &mut optimizer, &rollout, settings)?;
        records.push(Record { accuracy, kl, steps });
    }
    Ok(records)
}
// ANCHOR_END: train

/// KL(π ‖ π_ref), exact, the mean over contexts.
fn distance_to(reference: &Mlp, policy: &Mlp, world: &Bandit) -> Result<f64> {
    let logits =
        |policy: &Mlp| Ok::<_, anyhow::Error>(policy.logits(&world.features)?.detach());
    let kl = kl::exact_policy_ref(&logits(policy)?, &logits(reference)?)?;
    Ok(kl.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
}

fn adam(policy: &Mlp, lr: f64) -> Result<AdamW> {
    let variables = policy.variables().values().cloned().collect();
    Ok(AdamW::new(variables, ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() })?)
}

// ANCHOR: learn
/// The steps on one rollout.
fn learn(
    policy: &Mlp,
    optimizer: &mut AdamW,
    rollout: &Rollout,
    settings: Settings,
) -> Result<Vec<Step>> {
    let (variables, epochs) = (policy.variables(), settings.epochs);
    if let Loss::Objective(term) = settings.loss {
        let (objective, steps) =
            (objective(term, settings.kl_coef), Steps { epochs, max_norm: MAX_NORM });
        return update(
            |r| score(policy, r),
            variables,
            optimizer,
            rollout,
            &objective,
            steps,
        );
    }
    for _ in 0..epochs {
        let loss = max_loss(&score(policy, rollout)?.log_probs, rollout)?;
        let mut gradients = gradients::of(&loss, variables)?;
        gradients::clip_norm(&mut gradients, variables, MAX_NORM)?;
        optimizer.step(&gradients)?;
    }
    Ok(Vec::new())
}
// ANCHOR_END: learn

/// −mean max(ρA, clip(ρ) A). With `max` the clip stops what is good and nothing else.
fn max_loss(log_probs: &Tensor, rollout: &Rollout) -> Result<Tensor> {
    let ratio = (log_probs - &rollout.old_log_probs)?.exp()?;
    let advantages = rollout.advantages.unsqueeze(1)?;
    let free = (&ratio * &advantages)?;
    let clipped = (ratio.clamp(1.0 - CLIP_EPS, 1.0 + CLIP_EPS)? * advantages)?;
    Ok(free.maximum(&clipped)?.mean_all()?.neg()?)
}

fn world(run: &RunArgs) -> Result<Bandit> {
    Bandit::random(WORLD, &mut seed::stream(run.seed, &[0]), &run.device)?.verifiable()
}

fn one_run(out: &mut Output, run: &RunArgs, settings: Settings) -> Result<()> {
    out.section(Kind::Trained, "one_run", "The steps on one rollout, early and late");
    let records = train(&world(run)?, settings, run.seed + 1, &run.device)?;
    let mut table = Table::new([
        "rollout",
        "accuracy",
        "step",
        "loss",
        "gradient",
        "largest ratio",
        "clipped",
        "KL",
        "entropy",
        "silent",
    ]);
    for rollout in [0, 20, ROLLOUTS - 1] {
        let Record { accuracy, steps, .. } = &records[rollout];
        for (i, Step { metrics, grad_norm }) in steps.iter().enumerate() {
            table.row([
                format!("{rollout}"),
                format!("{accuracy:.2}"),
                format!("{}", i + 1),
                format!("{:+.3}", metrics.loss + 0.0),
                format!("{grad_norm:.2}"),
                format!("{:.2}", metrics.ratio_max),
                format!("{:.2}", metrics.clip_low + metrics.clip_high),
                format!("{:.2}", metrics.kl.unwrap_or(0.0)),
                format!("{:.2}", metrics.entropy.unwrap_or(0.0)),
                format!("{:.2}", metrics.silent_groups),
            ]);
        }
    }
    print!("{table}");
    Ok(())
}

// ANCHOR: variants
/// The curves to compare at a small and at a large step: all see the same number of answers.
fn variants() -> [(f64, Vec<(&'static str, Settings)>); 2] {
    let clip = Loss::Objective(Term::clip(CLIP_EPS));
    let free = Loss::Objective(NO_CLIP);
    let small = |epochs, loss| settings(epochs, loss, 0.003);
    let large = |epochs, loss| settings(epochs, loss, 0.01);
    [
        (
            0.003,
            vec![
                ("1 step", small(1, clip)),
                ("4 steps, clip", small(4, clip)),
                ("4 steps, no clip", small(4, free)),
            ],
        ),
        (
            0.01,
            vec![
                ("1 step", large(1, clip)),
                ("16 steps, clip", large(16, clip)),
                ("16 steps, no clip", large(16, free)),
                ("16 steps, max for min", large(16, Loss::MaxBug)),
            ],
        ),
    ]
}
// ANCHOR_END: variants

fn settings(epochs: usize, loss: Loss, learning_rate: f64) -> Settings {
    Settings { group_size: 8, epochs, loss, kl_coef: 0.0, learning_rate }
}

/// Every record of every seed.
fn over_seeds(
    world: &Bandit,
    settings: Settings,
    run: &RunArgs,
) -> Result<Vec<Vec<Record>>> {
    seed::over_seeds(SEEDS, |seed| {
        train(world, settings, 1 + run.seed * SEEDS + seed, &run.device)
    })
}

/// Mean and standard deviation over seeds of a number of the records at `rollout`.
fn cell(seeds: &[Vec<Record>], rollout: usize, number: impl Fn(&Record) -> f64) -> String {
    let numbers: Vec<f64> = seeds.iter().map(|records| number(&records[rollout])).collect();
    let (mean, std) = stats::mean_std(&numbers);
    format!("{mean:.2} ± {std:.2}")
}

fn epochs_and_clip(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(
        Kind::Trained,
        "epochs",
        "More steps on each rollout, with and without the clip",
    );
    let world = world(run)?;
    let bar = report::progress(7, "training");
    let mut table =
        Table::new(["learning rate", "steps on a rollout", "rollout 10", "25", "99"]);
    let x: Vec<f64> = (0..ROLLOUTS).map(|i| i as f64).collect();
    let mut panels = Vec::new();
    for (rate, variants) in variants() {
        let mut panel =
            Panel::new("rollout", "accuracy").title(&format!("learning rate {rate}"));
        for (colour, (name, settings)) in variants.into_iter().enumerate() {
            let seeds = over_seeds(&world, settings, run)?;
            bar.inc(1);
            let at = |rollout| cell(&seeds, rollout, |record| record.accuracy);
            table.row([format!("{rate}"), name.into(), at(10), at(25), at(99)]);
            let curve =
                |records: &Vec<Record>| records.iter().map(|r| r.accuracy).collect();
            let curves: Vec<Vec<f64>> = seeds.iter().map(curve).collect();
            panel = panel.mean_band([2, 0, 1, 3][colour], name, &x, &curves);
        }
        panels.push(panel.y_range(0.0, 1.0));
    }
    bar.finish_and_clear();
    print!(
        "{table}\naccuracy before a rollout, mean ± standard deviation of {SEEDS} seeds\n"
    );
    let figure = Figure::new(
        "Accuracy with one and with several steps on each rollout",
        "At the smaller learning rate four steps learn faster than one, with and without the \
         clip alike. At the larger one sixteen steps end lower without the clip, and with \
         max in place of min.",
        panels,
    );
    out.figure("epochs", &figure)
}

fn leash(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "leash", "The KL penalty as a leash");
    let world = world(run)?;
    let mut table = Table::new(["β", "accuracy", "KL(π ‖ π_ref)"]);
    for kl_coef in [0.0, 0.04, 0.2, 1.0] {
        let clip = Loss::Objective(Term::clip(CLIP_EPS));
        let seeds =
            over_seeds(&world, Settings { kl_coef, ..settings(4, clip, 0.01) }, run)?;
        let last = ROLLOUTS - 1;
        let accuracy = cell(&seeds, last, |record| record.accuracy);
        table.row([format!("{kl_coef}"), accuracy, cell(&seeds, last, |record| record.kl)]);
    }
    print!("{table}");
    Ok(())
}

fn memory_table(out: &mut Output) {
    out.section(Kind::Exact, "memory", "Gigabytes of weights, gradients and optimiser");
    let trained = |billions| Bytes::TRAINED_MIXED.gigabytes(billions);
    let frozen = |billions| Bytes::FROZEN_16_BIT.gigabytes(billions);
    let mut table = Table::new([
        "parameters",
        "PPO",
        "GRPO, reward model",
        "GRPO, verifier",
        "GRPO, verifier, β = 0",
    ]);
    for billions in [0.5, 1.5, 7.0, 8.0, 70.0] {
        // PPO trains policy and critic, and keeps a reference and a reward model.
        let rows = [
            2.0 * trained(billions) + 2.0 * frozen(billions),
            trained(billions) + 2.0 * frozen(billions),
            trained(billions) + frozen(billions),
            trained(billions),
        ];
        let [ppo, judged, verified, alone] =
            rows.map(|gigabytes| format!("{gigabytes:.0}"));
        table.row([format!("{billions} B"), ppo, judged, verified, alone]);
    }
    print!("{table}");
}
