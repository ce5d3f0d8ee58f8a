//! Answers to the exercises of chapter 3.

use anyhow::ensure;
use candle_core::{Module, Tensor};
use candle_nn::Linear;
use grpo::{
    Result,
    advantage::{self, Scale},
    env::{
        End,
        cartpole::{self, Episodes, State},
    },
    stats,
    variables::Init,
};

// ANCHOR: first_loss
/// Both groups have the advantages −½, −½, −½ and 1½. The loss is minus their mean over
/// steps: −(−½ · 60 + 1½ · 500)/560 and −(−½ · 60 + 1½ · 30)/90.
pub fn first_loss() -> [f64; 2] {
    [-1.286, -0.167]
}
// ANCHOR_END: first_loss

// ANCHOR: rule
/// To bring the cart back from the right, the pole must first lean to the left. So the
/// further right the cart is, and the faster it moves there, the more the rule pushes to
/// the right, under the pole.
pub fn rule(states: &[[f32; 4]]) -> Result<Vec<u32>> {
    let right = |[x, v, angle, spin]: &[f32; 4]| angle + spin + 0.1 * x + 0.2 * v > 0.0;
    Ok(states.iter().map(|state| u32::from(right(state))).collect())
}
// ANCHOR_END: rule

// ANCHOR: step_advantages
/// Compare episodes first, while there is one number for each. Then hand the numbers out.
pub fn step_advantages(
    returns: &[f64],
    episode: &[usize],
    group_size: usize,
) -> Result<Vec<f64>> {
    let advantages = advantage::group_relative(returns, group_size, Scale::Trl)?;
    Ok(episode.iter().map(|&episode| advantages[episode]).collect())
}
// ANCHOR_END: step_advantages

// ANCHOR: shaped
pub fn shaped(episodes: &Episodes, upright: f64, leaning: f64) -> Vec<f64> {
    let limit = 6f32.to_radians();
    let mut returns = vec![0.0; episodes.steps.len()];
    for ([_, _, angle, _], &episode) in episodes.states.iter().zip(&episodes.episode) {
        returns[episode] += if angle.abs() > limit { leaning } else { upright };
    }
    returns
}
// ANCHOR_END: shaped

// ANCHOR: largest_fall
/// The deepest fall to a place starts from the highest peak before it. One pass suffices.
pub fn largest_fall(curve: &[f64]) -> Option<(usize, usize)> {
    let depth = |(peak, trough): (usize, usize)| curve[peak] - curve[trough];
    let (mut peak, mut deepest) = (0, None);
    for at in 0..curve.len() {
        if curve[at] > curve[peak] {
            peak = at;
        }
        if depth((peak, at)) > deepest.map_or(0.0, depth) {
            deepest = Some((peak, at));
        }
    }
    deepest
}
// ANCHOR_END: largest_fall

// ANCHOR: step_all
/// The actions belong to the running environments, so who runs is found out before
/// anything moves, and all actions are looked at before the first is taken.
pub fn step_all(
    states: &mut [State],
    steps: &mut [usize],
    ends: &mut [End],
    actions: &[u32],
) -> Result<()> {
    let running: Vec<usize> =
        (0..ends.len()).filter(|&i| ends[i] == End::Running).collect();
    let (n, needed) = (actions.len(), running.len());
    ensure!(n == needed, "{needed} environments run; there are {n} actions");
    if let Some(action) = actions.iter().find(|action| **action > 1) {
        anyhow::bail!("an action is {action}; it must be 0 or 1");
    }
    for (i, &action) in running.into_iter().zip(actions) {
        states[i] = cartpole::step(states[i], action == 1);
        steps[i] += 1;
        ends[i] = match (cartpole::fallen(states[i]), steps[i]) {
            (true, _) => End::Terminated,
            (false, cartpole::MAX_STEPS) => End::Truncated,
            (false, _) => End::Running,
        };
    }
    Ok(())
}
// ANCHOR_END: step_all

// ANCHOR: network
pub fn layers(sizes: &[usize], init: &mut Init) -> Result<Vec<Linear>> {
    let last = sizes.len() - 2;
    let layer = |(i, pair): (usize, &[usize])| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let small = if i == last { 0.01 } else { 1.0 };
        let std = small / (inputs as f64).sqrt();
        let weight = init.normal(&format!("{i}.weight"), (outputs, inputs), std)?;
        let bias = init.zeros(&format!("{i}.bias"), outputs)?;
        Ok(Linear::new(weight, Some(bias)))
    };
    sizes.windows(2).enumerate().map(layer).collect()
}

/// Logits may be any number, so the last layer has no tanh after it. Nor has the first
/// one before it: features come as they are.
pub fn forward(layers: &[Linear], features: &Tensor) -> Result<Tensor> {
    let mut x = features.clone();
    for (i, layer) in layers.iter().enumerate() {
        x = if i == 0 { x } else { x.tanh()? };
        x = layer.forward(&x)?;
    }
    Ok(x)
}
// ANCHOR_END: network

// ANCHOR: reward_to_go
/// A step's time is the number of steps of its episode that came before it. At time t
/// those episodes run that last longer than t.
pub fn reward_to_go(
    returns: &[f64],
    episode: &[usize],
    group_size: usize,
) -> Result<Vec<f64>> {
    let deviations: Vec<f64> = advantage::groups(returns, group_size)?
        .map(|group| stats::mean_std(group).1 + 1e-4)
        .collect();
    let mut clock = vec![0.0; returns.len()];
    let mut advantages = Vec::with_capacity(episode.len());
    for &episode in episode {
        let (time, group) = (clock[episode], episode / group_size);
        clock[episode] += 1.0;
        let members = &returns[group * group_size..(group + 1) * group_size];
        let running = members.iter().filter(|&&other| other > time);
        let (count, sum) = running.fold((0.0, 0.0), |(n, sum), r| (n + 1.0, sum + r));
        // The time is the same for all of them, so it drops out of the difference.
        advantages.push((returns[episode] - sum / count) / deviations[group]);
    }
    Ok(advantages)
}
// ANCHOR_END: reward_to_go
