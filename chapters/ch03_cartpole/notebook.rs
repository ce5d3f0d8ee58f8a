//! The training loop of a popular notebook, with its bugs as switches.
//!
//! In the notebook the weights never move. Two bugs cause it, each of them alone; a
//! third one keeps the loop from learning once they do move.

use super::{LEARNING_RATE, SEEDS, network};
use candle_core::{D, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use grpo::{
    Result, advantage,
    cli::RunArgs,
    env::cartpole::{self, Episodes},
    gradients, log_prob,
    policy::{Mlp, Policy},
    report::{Kind, Output, Table},
    seed, stats,
};

/// Episodes in a group, and groups in a run.
const GROUP_SIZE: usize = 4;
const UPDATES: usize = 100;

/// What of the notebook's loop is repaired.
#[derive(Debug, Clone, Copy)]
pub struct Repairs {
    /// `old` is a constant, and not the same tensor as `new`.
    pub detached: bool,
    /// Log-probabilities (4) meet advantages (4), and not (4, 1) meets (4).
    pub same_shape: bool,
    /// Every step of every episode counts, and not the last four of the last one.
    pub all_steps: bool,
}

// ANCHOR: loss
/// The loss of one group of four episodes.
fn loss(policy: &Mlp, chosen: Chosen, repairs: Repairs) -> Result<Tensor> {
    let Chosen { states, actions, mut advantages } = chosen;
    let new = log_prob::of(&policy.logits(&states)?, &actions)?;
    let old = if repairs.detached { new.detach() } else { new.clone() };
    let mut ratio = (new - old)?.exp()?;
    if !repairs.same_shape {
        // NumPy and PyTorch make (4, 4) of (4, 1) × (4) unasked. Candle refuses, so the
        // bug has to be written out.
        let square = (ratio.elem_count(), advantages.elem_count());
        ratio = ratio.unsqueeze(D::Minus1)?.broadcast_as(square)?;
        advantages = advantages.broadcast_as(square)?;
    }
    let clipped = (ratio.clamp(0.8, 1.2)? * &advantages)?;
    Ok((ratio * advantages)?.minimum(&clipped)?.mean_all()?.neg()?)
}
// ANCHOR_END: loss

/// What enters the loss: states (S, 4), actions (S), advantages (S).
struct Chosen {
    states: Tensor,
    actions: Tensor,
    advantages: Tensor,
}

fn chosen(played: &Episodes, all_steps: bool, device: &Device) -> Result<Chosen> {
    let judged: Vec<f32> = group(&played.returns()).iter().map(|a| *a as f32).collect();
    let (states, actions, advantages) = match all_steps {
        true => {
            let each = played.episode.iter().map(|&episode| judged[episode]).collect();
            (played.states.clone(), played.actions.clone(), each)
        }
        false => {
            let last = played.trace(GROUP_SIZE - 1);
            let last_four = last[last.len() - GROUP_SIZE..].iter().copied();
            let (states, actions): (Vec<_>, Vec<_>) = last_four.unzip();
            (states, actions, judged)
        }
    };
    Ok(Chosen {
        states: cartpole::batch(&states, device)?,
        actions: Tensor::new(actions, device)?,
        advantages: Tensor::new(advantages, device)?,
    })
}

/// The notebook's advantages: (r − mean) / (population σ + 1e-8).
fn group(returns: &[f64]) -> Vec<f64> {
    let centred = advantage::batch_mean(returns);
    let variance = centred.iter().map(|a| a * a).sum::<f64>() / centred.len() as f64;
    centred.iter().map(|a| a / (variance.sqrt() + 1e-8)).collect()
}

/// What a run of the loop shows.
pub struct Seen {
    /// Largest gradient norm of all updates.
    pub gradient: f64,
    /// Largest |loss| of all updates.
    pub loss: f64,
    /// How far all weights together have moved.
    pub moved: f64,
    /// Mean steps survived in the first and in the last ten groups.
    pub first: f64,
    pub last: f64,
}

/// The loop, on one seed.
pub fn run(repairs: Repairs, seed: u64, device: &Device) -> Result<Seen> {
    let mut rng = seed::rng(seed);
    let policy = network(&mut rng, device)?;
    let before = weights(&policy)?;
    let settings =
        ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..Default::default() };
    let mut optimizer =
        AdamW::new(policy.variables().values().cloned().collect(), settings)?;
    let mut curve = Vec::new();
    let (mut largest_gradient, mut largest_loss) = (0f64, 0f64);
    for _ in 0..UPDATES {
        let starts = cartpole::group_starts(GROUP_SIZE, 1, &mut rng);
        let played =
            cartpole::rollout(starts, cartpole::sampled(&policy, &mut rng, device))?;
        curve.push(stats::mean_std(&played.returns()).0);
        let chosen = chosen(&played, repairs.all_steps, device)?;
        let loss = loss(&policy, chosen, repairs)?;
        let gradients = gradients::of(&loss, policy.variables())?;
        largest_gradient =
            largest_gradient.max(gradients::norm(&gradients, policy.variables())?);
        largest_loss = largest_loss.max(f64::from(loss.to_scalar::<f32>()?.abs()));
        optimizer.step(&gradients)?;
    }
    let moved =
        weights(&policy)?.iter().zip(before).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    Ok(Seen {
        gradient: largest_gradient,
        loss: largest_loss,
        moved: moved.sqrt(),
        first: stats::mean_std(&curve[..10]).0,
        last: stats::mean_std(&curve[UPDATES - 10..]).0,
    })
}

/// All weights in one row.
fn weights(policy: &Mlp) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for variable in policy.variables().values() {
        let numbers = variable.flatten_all()?.to_vec1::<f32>()?;
        all.extend(numbers.into_iter().map(f64::from));
    }
    Ok(all)
}

/// The rows of the table, from the loop as it is to one that learns.
pub const REPAIRS: [(&str, [bool; 3]); 5] = [
    ("as it is", [false, false, false]),
    ("old detached", [true, false, false]),
    ("shapes equal", [false, true, false]),
    ("both", [true, true, false]),
    ("both, and every step", [true, true, true]),
];

impl From<[bool; 3]> for Repairs {
    fn from([detached, same_shape, all_steps]: [bool; 3]) -> Self {
        Self { detached, same_shape, all_steps }
    }
}

pub fn counterfactual(out: &mut Output, args: &RunArgs) -> Result<()> {
    out.section(Kind::Trained, "notebook", "The loop whose weights never move");
    let mut table = Table::new([
        "repaired",
        "loss",
        "gradient",
        "weights moved",
        "first 40",
        "last 40",
    ]);
    for (name, repairs) in REPAIRS {
        let seen = seed::over_seeds(SEEDS, |seed| {
            run(repairs.into(), args.seed + seed, &args.device)
        })?;
        let largest = |f: fn(&Seen) -> f64| seen.iter().map(f).fold(0.0, f64::max);
        let mean = |f: fn(&Seen) -> f64| {
            let (mean, std) = stats::mean_std(&seen.iter().map(f).collect::<Vec<_>>());
            format!("{mean:.1} ± {std:.1}")
        };
        table.row([
            name.into(),
            short(largest(|s| s.loss)),
            short(largest(|s| s.gradient)),
            short(largest(|s| s.moved)),
            mean(|s| s.first),
            mean(|s| s.last),
        ]);
    }
    let episodes = UPDATES * GROUP_SIZE;
    println!(
        "{table}\n{episodes} episodes in groups of {GROUP_SIZE}; the largest of {SEEDS} seeds,"
    );
    println!("and mean steps survived ± standard deviation over the seeds");
    Ok(())
}

/// A number that may be tiny: 0, 2.1e-9 or 0.53.
fn short(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x < 1e-3 => format!("{x:.0e}"),
        x => format!("{x:.2}"),
    }
}
