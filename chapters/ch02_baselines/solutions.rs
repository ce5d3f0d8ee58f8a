//! Answers to the exercises of chapter 2.

use anyhow::ensure;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Optimizer, SGD};
use grpo::{
    Result,
    advantage::Gae,
    env::bandit::Bandit,
    gradients, log_prob,
    policy::{Mlp, Policy},
    sampling, seed,
};

// ANCHOR: two_constants
/// The mean of the four makes them sum to 0. The largest reward is the last to stay
/// at 0 or above.
pub fn two_constants() -> [f64; 2] {
    [(0.8 + 0.3 + 0.9 + 0.2) / 4.0, 0.9]
}
// ANCHOR_END: two_constants

// ANCHOR: leave_one_out
/// With m the mean of all n, the others sum to n m − r, and
/// r − (n m − r)/(n − 1) = (r − m) · n/(n − 1).
pub fn leave_one_out(rewards: &[f64]) -> Result<Vec<f64>> {
    let n = rewards.len() as f64;
    ensure!(n >= 2.0, "leave-one-out needs at least 2 rewards; there are {n}");
    let mean = rewards.iter().sum::<f64>() / n;
    Ok(rewards.iter().map(|reward| (reward - mean) * n / (n - 1.0)).collect())
}
// ANCHOR_END: leave_one_out

// ANCHOR: optimal_baseline
/// A mean of the rewards, each weighted by π(a) ‖∇ log π(a)‖². The score is 1 − π(a)
/// at a and −π(v) elsewhere, so its squared length is 1 − 2 π(a) + Σ_v π(v)².
pub fn optimal_baseline(probabilities: &[f64], rewards: &[f64]) -> f64 {
    let squares: f64 = probabilities.iter().map(|p| p * p).sum();
    let weight = |p: &f64| p * (1.0 - 2.0 * p + squares);
    let mut weights: Vec<f64> = probabilities.iter().map(weight).collect();
    if weights.iter().sum::<f64>() <= 0.0 {
        weights = probabilities.to_vec();
    }
    let weighted: f64 = weights.iter().zip(rewards).map(|(w, r)| w * r).sum();
    weighted / weights.iter().sum::<f64>()
}
// ANCHOR_END: optimal_baseline

// ANCHOR: explained_variance
/// Both variances are over the same samples, so their sums of squares will do.
pub fn explained_variance(rewards: &[f64], values: &[f64]) -> f64 {
    let variance = |numbers: &[f64]| {
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    if rewards.iter().all(|&reward| reward == rewards[0]) {
        return 0.0;
    }
    let missed: Vec<f64> = rewards.iter().zip(values).map(|(r, v)| r - v).collect();
    1.0 - variance(&missed) / variance(rewards)
}
// ANCHOR_END: explained_variance

// ANCHOR: gae
/// `goes_on` is 0 at the end of an episode. It stands in two places: nothing is
/// expected after the end, and nothing that happened there comes back.
pub fn gae(
    rewards: &[f64],
    values: &[f64],
    done: &[bool],
    gamma: f64,
    lambda: f64,
) -> Result<Gae> {
    let steps = rewards.len();
    ensure!(
        values.len() == steps + 1 && done.len() == steps,
        "{steps} rewards need {} values and {steps} done flags; there are {} and {}",
        steps + 1,
        values.len(),
        done.len()
    );
    let (mut deltas, mut advantages) = (vec![0.0; steps], vec![0.0; steps]);
    let mut next = 0.0;
    for t in (0..steps).rev() {
        let goes_on = f64::from(u8::from(!done[t]));
        deltas[t] = rewards[t] + goes_on * gamma * values[t + 1] - values[t];
        next = deltas[t] + goes_on * gamma * lambda * next;
        advantages[t] = next;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    Ok(Gae { deltas, advantages, returns })
}
// ANCHOR_END: gae

// ANCHOR: gae_truncated
/// After an end nothing is expected. After a cut the critic's value stands for what
/// was not seen, but the advantage of the next entry is another episode's.
pub fn gae_truncated(
    rewards: &[f64],
    values: &[f64],
    next_values: &[f64],
    ended: &[bool],
    cut: &[bool],
    gamma: f64,
    lambda: f64,
) -> Vec<f64> {
    let mut advantages = vec![0.0; rewards.len()];
    let mut next = 0.0;
    for t in (0..rewards.len()).rev() {
        let expected = if ended[t] { 0.0 } else { next_values[t] };
        let carried = if ended[t] || cut[t] { 0.0 } else { next };
        next = rewards[t] + gamma * expected - values[t] + gamma * lambda * carried;
        advantages[t] = next;
    }
    advantages
}
// ANCHOR_END: gae_truncated

// ANCHOR: train_with_critic
/// The loop of the page, with a second network and a second optimiser. The values
/// become plain numbers before they meet the policy's loss.
pub fn train_with_critic(world: &Bandit, seed: u64) -> Result<(Mlp, Mlp)> {
    let mut rng = seed::rng(seed);
    let policy = Mlp::new([8, 32, 10], &mut rng, DType::F32, &Device::Cpu)?;
    let critic = Mlp::new([8, 32, 1], &mut rng, DType::F32, &Device::Cpu)?;
    let sgd = |network: &Mlp, rate: f64| {
        SGD::new(network.variables().values().cloned().collect(), rate)
    };
    let (mut policy_sgd, mut critic_sgd) = (sgd(&policy, 0.5)?, sgd(&critic, 0.03)?);
    for _ in 0..300 {
        let contexts = world.draw(8, &mut rng)?;
        let logits = policy.logits(&contexts.features)?;
        let actions = sampling::sample(&logits, &mut rng)?;
        let rewards = world.rewards(&contexts, &actions)?;
        let rewards = Tensor::new(rewards, &Device::Cpu)?.to_dtype(DType::F32)?;
        let missed = (rewards - critic.logits(&contexts.features)?.squeeze(1)?)?;

        let log_probs = log_prob::of(&logits, &actions)?;
        let loss = (missed.detach() * log_probs)?.mean_all()?.neg()?;
        policy_sgd.step(&gradients::of(&loss, policy.variables())?)?;

        let loss = missed.sqr()?.mean_all()?;
        critic_sgd.step(&gradients::of(&loss, critic.variables())?)?;
    }
    Ok((policy, critic))
}
// ANCHOR_END: train_with_critic
