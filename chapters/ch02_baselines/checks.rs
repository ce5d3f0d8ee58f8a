//! What the exercises of chapter 2 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use grpo::{
    advantage::{self, Gae},
    env::bandit::Bandit,
    moments::Moments,
    policy::{Mlp, Policy},
    seed,
};

exercise::checks! {
    two_constants => two_constants(two_constants);
    leave_one_out => leave_one_out(leave_one_out);
    optimal_baseline => optimal_baseline(optimal_baseline);
    explained_variance => explained_variance(explained_variance);
    gae => gae(gae);
    gae_truncated => gae_truncated(gae_truncated);
    train_with_critic => train_with_critic(train_with_critic);
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance)
}

fn two_constants(yours: fn() -> [f64; 2]) -> Result<()> {
    let [fair, hard] = yours();
    let sum: f64 = [0.8, 0.3, 0.9, 0.2].iter().map(|reward| reward - fair).sum();
    ensure!(
        sum.abs() < 1e-9,
        "with your first constant {fair} the four advantages sum to {sum:+.3}; they must sum to 0"
    );
    ensure!(
        hard >= 0.9,
        "with your second constant {hard} the best response still has an advantage above 0, so the \
         constant can grow further before all four are negative"
    );
    ensure!(
        hard <= 0.9,
        "with your second constant {hard} all four advantages are below 0 already; a smaller one \
         leaves the best response at 0"
    );
    Ok(())
}

fn leave_one_out(yours: fn(&[f64]) -> grpo::Result<Vec<f64>>) -> Result<()> {
    let mut rng = seed::rng(2);
    for n in [2, 3, 4, 7] {
        let rewards: Vec<f64> = (0..n).map(|_| rand::Rng::random(&mut rng)).collect();
        let advantages = yours(&rewards)?;
        ensure!(
            advantages.len() == n,
            "{n} rewards have {n} advantages; yours are {}",
            advantages.len()
        );
        let given = |mistake: &[f64]| close(&advantages, mistake, 1e-9);
        ensure!(
            !given(&advantage::batch_mean(&rewards)),
            "that is the reward minus the mean of all {n}; the reward itself is still in its \
             own baseline"
        );
        // The mean of the others, added up one by one.
        for (i, reward) in rewards.iter().enumerate() {
            let others = rewards.iter().enumerate().filter(|(j, _)| *j != i);
            let expected = reward - others.map(|(_, r)| r).sum::<f64>() / (n as f64 - 1.0);
            let factor = advantages[i] / expected;
            ensure!(
                (advantages[i] - expected).abs() < 1e-9,
                "with {n} rewards, reward {i} is {expected:+.4} away from the mean of the others; \
                 yours is {:+.4}, {factor:.3} times that: which factor turns a distance from \
                 the mean of all into one from the mean of the others?",
                advantages[i]
            );
        }
    }
    for rewards in [&[1.0][..], &[]] {
        let Err(error) = yours(rewards) else {
            anyhow::bail!(
                "{} rewards have no others to compare with; return an error, not {:?}",
                rewards.len(),
                yours(rewards)?
            )
        };
        ensure!(
            error.to_string().contains(&rewards.len().to_string()),
            "your error for {} rewards is `{error}`; it should say how many there are",
            rewards.len()
        );
    }
    Ok(())
}

/// The variance of R ∇ log π with a constant baseline, by enumeration.
fn variance_with(probabilities: &[f64], rewards: &[f64], baseline: f64) -> f64 {
    let mut moments = Moments::default();
    for (response, probability) in probabilities.iter().enumerate() {
        let push = rewards[response] - baseline;
        let mut gradient: Vec<f64> = probabilities.iter().map(|p| -push * p).collect();
        gradient[response] += push;
        moments.add(*probability, &gradient);
    }
    moments.variance()
}

/// The lowest point of the parabola through three values of the variance.
fn vertex(probabilities: &[f64], rewards: &[f64]) -> f64 {
    let [low, middle, high] =
        [-1.0, 0.0, 1.0].map(|b| variance_with(probabilities, rewards, b));
    0.5 * (low - high) / (high - 2.0 * middle + low)
}

fn optimal_baseline(yours: fn(&[f64], &[f64]) -> f64) -> Result<()> {
    let cases: [(&[f64], &[f64]); 4] = [
        (&[0.276, 0.167, 0.102, 0.455], &[0.8, 0.3, 0.9, 0.2]),
        (&[0.01, 0.01, 0.01, 0.97], &[0.8, 0.3, 0.9, 0.2]),
        (&[0.2, 0.5, 0.3], &[-4.0, 2.0, 7.0]),
        (&[0.6, 0.4], &[1.0, 0.0]),
    ];
    for (probabilities, rewards) in cases {
        let baseline = yours(probabilities, rewards);
        let expected = vertex(probabilities, rewards);
        let mean: f64 = probabilities.iter().zip(rewards).map(|(p, r)| p * r).sum();
        let case =
            format!("with the probabilities {probabilities:?} and the rewards {rewards:?}");
        ensure!(
            !close(&[baseline], &[mean], 1e-9),
            "{case} you return the expected reward {mean:.4}: each reward must also count by the \
             squared length of its score, ‖∇ log π(a)‖²"
        );
        let plain = |power: f64| {
            let length = |a: usize| -> f64 {
                let entry = |v: usize| probabilities[v] - f64::from(u8::from(v == a));
                (0..rewards.len()).map(|v| entry(v).powi(2)).sum::<f64>().powf(power)
            };
            let weights: Vec<f64> = (0..rewards.len()).map(length).collect();
            weights.iter().zip(rewards).map(|(w, r)| w * r).sum::<f64>()
                / weights.iter().sum::<f64>()
        };
        ensure!(
            rewards.len() == 2 || !close(&[baseline], &[plain(1.0)], 1e-9),
            "{case} you return {baseline:.4}: the weights lack the probability of each response"
        );
        let own = |p: &f64| p * (1.0 - p).powi(2);
        let short: f64 = probabilities.iter().zip(rewards).map(|(p, r)| own(p) * r).sum();
        let short = short / probabilities.iter().map(own).sum::<f64>();
        ensure!(
            rewards.len() == 2 || !close(&[baseline], &[short], 1e-9),
            "{case} you return {baseline:.4}: (1 − π(a))² is the square of one entry of the score; \
             the other entries are −π(v), and their squares belong to its length too"
        );
        ensure!(
            (baseline - expected).abs() < 1e-6,
            "{case} the variance is smallest at {expected:.4}, where it is {:.4}; yours is \
             {baseline:.4}, where it is {:.4}",
            variance_with(probabilities, rewards, expected),
            variance_with(probabilities, rewards, baseline)
        );
    }
    let certain = yours(&[0.0, 1.0, 0.0], &[3.0, 0.7, 5.0]);
    ensure!(
        (certain - 0.7).abs() < 1e-9,
        "a policy that is certain of a response with reward 0.7 should get 0.7; yours is \
         {certain}: what is the sum of the weights there?"
    );
    Ok(())
}

fn explained_variance(yours: fn(&[f64], &[f64]) -> f64) -> Result<()> {
    let rewards = [0.8, 0.3, 0.9, 0.2];
    let shifted = rewards.map(|reward| reward + 2.0);
    let cases = [
        (rewards, 1.0, "a critic that is always right explains everything"),
        ([0.55; 4], 0.0, "a critic that always says the mean explains nothing"),
        (
            shifted,
            1.0,
            "a critic that is 2 too high everywhere explains the *variance* all the same: \
             did you take the mean square of R − V?",
        ),
        (
            rewards.map(|reward| -reward),
            -3.0,
            "a critic that says −R doubles every distance: 1 − 4 = −3",
        ),
    ];
    for (values, expected, words) in cases {
        let explained = yours(&rewards, &values);
        ensure!(
            (explained - expected).abs() < 1e-9,
            "{words}; for the values {values:.1?} that is {expected}, and yours is {explained:.4}"
        );
    }
    let equal = yours(&[0.5; 3], &[0.1, 0.2, 0.3]);
    ensure!(
        equal == 0.0,
        "three equal rewards have no variance to explain: return 0; yours is {equal}"
    );
    // The mean of three times 0.1 is not 0.1 in floating point.
    let rounded = yours(&[0.1; 3], &[0.1, 0.2, 0.3]);
    ensure!(
        rounded == 0.0,
        "three rewards of 0.1 are equal too: return 0; yours is {rounded}. Their mean is rounded, \
         so their computed variance is not quite 0: ask the rewards whether they are equal"
    );
    Ok(())
}

type GaeFunction = fn(&[f64], &[f64], &[bool], f64, f64) -> grpo::Result<Gae>;

fn gae(yours: GaeFunction) -> Result<()> {
    let one = yours(&[1.0], &[5.0, 5.5], &[false], 0.99, 0.95)?;
    ensure!(
        close(&one.deltas, &[1.445], 1e-9) && close(&one.advantages, &[1.445], 1e-9),
        "r = 1, V(s) = 5, V(next) = 5.5 and gamma = 0.99 give δ = 1.445, and A = δ for one step; \
         yours are {:?} and {:?}",
        one.deltas,
        one.advantages
    );
    ensure!(
        close(&one.returns, &[6.445], 1e-9),
        "the return is A + V(s) = 6.445; yours is {:?}",
        one.returns
    );
    // Two episodes in one: the first ends with step 2. From the reference implementation.
    let rewards = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    let values = [2.0, 1.5, 0.5, 3.0, 2.2, 1.1, 0.4];
    let done = [false, false, true, false, false, false];
    let two = yours(&rewards, &values, &done, 0.99, 0.95)?;
    ensure!(
        two.deltas.len() == 6 && two.advantages.len() == 6 && two.returns.len() == 6,
        "six steps have six numbers of each kind; yours have {}, {} and {}",
        two.deltas.len(),
        two.advantages.len(),
        two.returns.len()
    );
    ensure!(
        !close(&two.deltas[2..3], &[2.47], 1e-9),
        "step 2 ends its episode, and its δ is 0 − 0.5; yours is 2.47: the value of the next \
         episode's first state came in"
    );
    ensure!(
        !close(&two.deltas[1..2], &[-0.5], 1e-9),
        "δ of step 1 is 1 + 0.99 · 0.5 − 1.5 = −0.005; yours is −0.5: `done[t]` is about the end \
         of step t itself, not of the one before or after"
    );
    let deltas = [0.485, -0.005, -0.5, 0.178, -0.111, 0.296];
    ensure!(
        close(&two.deltas, &deltas, 1e-9),
        "the rewards {rewards:?}, the values {values:?} and an end at step 2 give the δ \
         {deltas:?}; yours are {:.4?}",
        two.deltas
    );
    let leak = -0.5 + 0.99 * 0.95 * two.advantages[3];
    ensure!(
        !close(&two.advantages[2..3], &[leak], 1e-9),
        "your δ are right, but the advantage of step 2 is {leak:.4} and not −0.5: what came \
         after the end of its episode was carried back"
    );
    let advantages = [0.038027375, -0.47525, -0.5, 0.335428414, 0.167388, 0.296];
    ensure!(
        !close(&two.advantages[1..2], &[-0.005 - 0.5 * 0.99], 1e-9),
        "each step back counts less by gamma · lambda; yours uses gamma alone"
    );
    ensure!(
        close(&two.advantages, &advantages, 1e-8),
        "your δ are right, and their sums are not. They should be {advantages:.4?}; yours are \
         {:.4?}",
        two.advantages
    );
    let returns: Vec<f64> = advantages.iter().zip(values).map(|(a, v)| a + v).collect();
    ensure!(
        close(&two.returns, &returns, 1e-8),
        "the returns are A_t + V(s_t), {returns:.3?}; yours are {:.3?}",
        two.returns
    );
    // lambda = 1 is what really came, minus the value.
    let long =
        yours(&[1.0, 2.0, 3.0], &[0.5, 1.5, 2.5, 9.0], &[false, false, true], 0.9, 1.0)?;
    ensure!(
        (long.advantages[0] - (1.0 + 0.9 * 2.0 + 0.81 * 3.0 - 0.5)).abs() < 1e-9,
        "with lambda = 1 the advantage of step 0 is all discounted rewards minus V(s_0), 4.73; \
         yours is {:.4}",
        long.advantages[0]
    );
    ensure!(
        yours(&[1.0, 1.0], &[1.0, 1.0], &[false, false], 0.9, 0.9).is_err(),
        "two rewards need three values: with two of each, return an error"
    );
    ensure!(
        yours(&[1.0, 1.0], &[1.0; 3], &[false; 3], 0.9, 0.9).is_err(),
        "two rewards need two flags: with three in `done`, return an error"
    );
    Ok(())
}

type GaeTruncated = fn(&[f64], &[f64], &[f64], &[bool], &[bool], f64, f64) -> Vec<f64>;

fn gae_truncated(yours: GaeTruncated) -> Result<()> {
    // Three episodes: the first ends, the second is cut, the third is still going.
    let rewards = [1.0, 0.5, 2.0, -1.0, 0.3, 1.0, 0.7];
    let values = [0.4, 1.1, 0.9, 0.2, 1.7, 0.6, 1.3];
    let next_values = [1.1, 5.0, 0.2, 1.7, 3.0, 1.3, 0.8];
    let ended = [false, true, false, false, false, false, false];
    let cut = [false, false, false, false, true, false, false];
    let (gamma, lambda) = (0.9, 0.8);
    // Each episode by itself, by the library: only its own entries are there to be seen.
    let alone = |steps: std::ops::Range<usize>| -> Result<Vec<f64>> {
        let mut values = values[steps.clone()].to_vec();
        values.push(next_values[steps.end - 1]);
        let rewards = &rewards[steps.clone()];
        let gae = advantage::gae(rewards, &values, &ended[steps.clone()], gamma, lambda)?;
        Ok(gae.advantages)
    };
    let expected = [alone(0..2)?, alone(2..5)?, alone(5..7)?].concat();
    let advantages = yours(&rewards, &values, &next_values, &ended, &cut, gamma, lambda);
    ensure!(
        advantages.len() == 7,
        "seven steps have seven advantages; yours are {}",
        advantages.len()
    );
    let [last, end, cut_off] = [advantages[6], advantages[1], advantages[4]];
    ensure!(
        (last - expected[6]).abs() < 1e-9,
        "the last step goes on to a state worth {}, so its advantage is {:.3}; yours is {last:.3}",
        next_values[6],
        expected[6]
    );
    ensure!(
        (end - expected[1]).abs() < 1e-9,
        "step 1 ends its episode: its advantage is 0.5 − 1.1 = −0.6, whatever stands in \
         next_values; yours is {end:.3}"
    );
    ensure!(
        !close(&[cut_off], &[0.3 - 1.7], 1e-9),
        "step 4 was cut off, and you treat it as an end: the critic expects 3.0 from the state it \
         led to, so its advantage is 0.3 + 0.9 · 3.0 − 1.7 = 1.3 and not −1.4"
    );
    ensure!(
        !close(&[cut_off], &[0.3 + gamma * values[5] - 1.7], 1e-9),
        "the entry after step 4 belongs to another episode, and so does its value: what step 4 \
         led to stands in next_values"
    );
    ensure!(
        (cut_off - expected[4]).abs() < 1e-9,
        "step 4 was cut off, and its advantage is 0.3 + 0.9 · 3.0 − 1.7 = 1.3; yours is \
         {cut_off:.3}: was the advantage of the next episode carried back?"
    );
    ensure!(
        close(&advantages, &expected, 1e-9),
        "each episode by itself has the advantages {expected:.3?}; yours are {advantages:.3?}"
    );
    Ok(())
}

/// The world of the page.
fn world() -> Result<Bandit> {
    Bandit::random([5, 8, 10], &mut seed::stream(0, &[0]), &Device::Cpu)
}

/// How far a critic is from the values of a policy, at the furthest context.
fn worst_guess(world: &Bandit, policy: &Mlp, critic: &Mlp) -> Result<f64> {
    let guesses = critic.logits(&world.features)?.squeeze(1)?;
    let missed = (guesses - world.values(policy)?)?.abs()?.max(0)?;
    Ok(missed.to_dtype(DType::F64)?.to_scalar()?)
}

fn train_with_critic(yours: fn(&Bandit, u64) -> grpo::Result<(Mlp, Mlp)>) -> Result<()> {
    const SEEDS: u64 = 20;
    let world = world()?;
    let ends = seed::over_seeds(SEEDS, |seed| {
        let (policy, critic) = yours(&world, 1 + seed).context(
            "the training stopped; a loss that is not finite means that a learning rate is far \
             too large: lower that of the critic",
        )?;
        let shape = |network: &Mlp| network.variables()["output.weight"].dims().to_vec();
        ensure!(
            shape(&policy) == [10, 32] && shape(&critic) == [1, 32],
            "the policy has ten outputs and the critic one, both after 32 hidden units; the \
             last layers of yours are {:?} and {:?}",
            shape(&policy),
            shape(&critic)
        );
        let bias = critic.variables()["output.bias"].to_vec1::<f32>()?[0];
        ensure!(
            bias != 0.0,
            "your critic never moved: does its own optimiser take a step on (R − V)²?"
        );
        Ok((world.expected_reward(&policy)?, worst_guess(&world, &policy, &critic)?))
    })?;
    let mean = |f: fn(&(f64, f64)) -> f64| ends.iter().map(f).sum::<f64>() / SEEDS as f64;
    let (reward, missed) = (mean(|end| end.0), mean(|end| end.1));
    ensure!(
        missed < 0.1,
        "in its worst context your critic is off by {missed:.2}, mean of {SEEDS} seeds; it must \
         be below 0.1: raise its learning rate, or look whether it is trained on the same \
         contexts as the rewards come from"
    );
    ensure!(
        reward > 0.6,
        "the expected reward starts at 0.47 and ends at {reward:.2} over {SEEDS} seeds: does \
         the policy's loss have its minus?"
    );
    ensure!(
        reward > 0.85,
        "the expected reward ends at {reward:.2} over {SEEDS} seeds; without a baseline it ends \
         at 0.83, and with your critic it must be above 0.85: are the values subtracted from \
         the rewards?"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use candle_nn::{Optimizer, SGD};
    use grpo::{gradients, log_prob, sampling};

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_turns_of_the_warm_ups() {
        says(two_constants(|| [0.5, 0.9]), "sum to +0.200");
        says(two_constants(|| [0.55, 0.55]), "still has an advantage above 0");
        says(two_constants(|| [0.55, 1.0]), "a smaller one");
        says(leave_one_out(|r| Ok(advantage::batch_mean(r))), "in its own baseline");
        let upside_down = |r: &[f64]| {
            let factor = (r.len() as f64 - 1.0) / r.len() as f64;
            Ok(advantage::batch_mean(r).iter().map(|a| a * factor).collect())
        };
        says(leave_one_out(upside_down), "0.250 times that");
        let divides_by_zero = |r: &[f64]| match r.len() {
            0 | 1 => Ok(vec![f64::NAN; r.len()]),
            _ => solutions::leave_one_out(r),
        };
        says(leave_one_out(divides_by_zero), "return an error");
    }

    #[test]
    fn wrong_turns_with_the_best_constant() {
        let expected = |p: &[f64], r: &[f64]| p.iter().zip(r).map(|(p, r)| p * r).sum();
        says(optimal_baseline(expected), "the expected reward");
        let unweighted = |p: &[f64], r: &[f64]| {
            let squares: f64 = p.iter().map(|p| p * p).sum();
            let weights: Vec<f64> = p.iter().map(|p| 1.0 - 2.0 * p + squares).collect();
            weights.iter().zip(r).map(|(w, r)| w * r).sum::<f64>()
                / weights.iter().sum::<f64>()
        };
        says(optimal_baseline(unweighted), "lack the probability");
        let one_entry = |p: &[f64], r: &[f64]| {
            let weights: Vec<f64> = p.iter().map(|p| p * (1.0 - p) * (1.0 - p)).collect();
            weights.iter().zip(r).map(|(w, r)| w * r).sum::<f64>()
                / weights.iter().sum::<f64>()
        };
        says(optimal_baseline(one_entry), "the other entries");
        says(optimal_baseline(|_, _| f64::NAN), "yours is NaN");
        let divides_by_zero = |p: &[f64], r: &[f64]| match p.contains(&1.0) {
            true => f64::NAN,
            false => solutions::optimal_baseline(p, r),
        };
        says(optimal_baseline(divides_by_zero), "sum of the weights");
    }

    #[test]
    fn wrong_turns_with_explained_variance() {
        let mean_square = |r: &[f64], v: &[f64]| {
            let centre = r.iter().sum::<f64>() / r.len() as f64;
            let total: f64 = r.iter().map(|r| (r - centre).powi(2)).sum();
            let missed: f64 = r.iter().zip(v).map(|(r, v)| (r - v).powi(2)).sum();
            1.0 - missed / total
        };
        says(explained_variance(mean_square), "mean square of R − V");
        let share = |r: &[f64], v: &[f64]| 1.0 - solutions::explained_variance(r, v);
        says(explained_variance(share), "explains everything");
        let asks_the_variance = |r: &[f64], v: &[f64]| {
            let missed: Vec<f64> = r.iter().zip(v).map(|(r, v)| r - v).collect();
            let (total, left) =
                (grpo::stats::mean_std(r).1, grpo::stats::mean_std(&missed).1);
            if total == 0.0 { 0.0 } else { 1.0 - (left / total).powi(2) }
        };
        says(explained_variance(asks_the_variance), "ask the rewards");
    }

    #[test]
    fn wrong_turns_with_gae() {
        says(
            gae(|r, v, d, g, l| solutions::gae(r, v, &vec![false; d.len()], g, l)),
            "came in",
        );
        let late: GaeFunction = |r, v, d, g, l| {
            let moved: Vec<bool> =
                (0..d.len()).map(|t| *d.get(t + 1).unwrap_or(&false)).collect();
            let mut gae = solutions::gae(r, v, &moved, g, l)?;
            if d.len() > 2 {
                gae.deltas[2] = -0.5;
            }
            Ok(gae)
        };
        says(gae(late), "about the end of step t itself");
        let carries: GaeFunction = |r, v, d, g, l| {
            let mut gae = solutions::gae(r, v, d, g, l)?;
            let mut next = 0.0;
            for t in (0..r.len()).rev() {
                next = gae.deltas[t] + g * l * next;
                gae.advantages[t] = next;
            }
            Ok(gae)
        };
        says(gae(carries), "was carried back");
        says(gae(|r, v, d, g, _| solutions::gae(r, v, d, g, 1.0)), "uses gamma alone");
        let any_flags: GaeFunction =
            |r, v, d, g, l| solutions::gae(r, v, &d[..r.len().min(d.len())], g, l);
        says(gae(any_flags), "two flags");
    }

    #[test]
    fn wrong_turns_with_cuts() {
        let as_end: GaeTruncated = |r, v, n, e, c, g, l| {
            let over: Vec<bool> = e.iter().zip(c).map(|(e, c)| e | c).collect();
            solutions::gae_truncated(r, v, n, &over, c, g, l)
        };
        says(gae_truncated(as_end), "you treat it as an end");
        let as_step: GaeTruncated = |r, v, n, e, c, g, l| {
            solutions::gae_truncated(r, v, n, e, &vec![false; c.len()], g, l)
        };
        says(gae_truncated(as_step), "carried back");
        let neighbour: GaeTruncated = |r, v, n, e, c, g, l| {
            let mut next = v[1..].to_vec();
            next.push(n[n.len() - 1]);
            solutions::gae_truncated(r, v, &next, e, c, g, l)
        };
        says(gae_truncated(neighbour), "so does its value");
    }

    /// The numbers that the page's answers state.
    #[test]
    fn a_policy_that_is_nearly_certain() {
        let (p, r) = ([0.01, 0.01, 0.01, 0.97], [0.8, 0.3, 0.9, 0.2]);
        let best = solutions::optimal_baseline(&p, &r);
        assert!((best - 0.66).abs() < 0.005, "{best}");
        let shares =
            [0.0, 0.214].map(|b| variance_with(&p, &r, best) / variance_with(&p, &r, b));
        assert!(close(&shares, &[0.135, 0.255], 0.001), "{shares:?}");
    }

    #[test]
    fn wrong_turns_with_a_critic_that_learns() {
        says(
            train_with_critic(|world, seed| variant(world, seed, 0.0, 0.03)),
            "subtracted",
        );
        says(
            train_with_critic(|world, seed| variant(world, seed, -1.0, 0.03)),
            "subtracted",
        );
        says(
            train_with_critic(|world, seed| variant(world, seed, 1.0, 0.0)),
            "never moved",
        );
        says(train_with_critic(|world, seed| variant(world, seed, 1.0, 0.001)), "raise");
        says(train_with_critic(|world, seed| variant(world, seed, 1.0, 0.5)), "lower");
    }

    /// The solution, with `share` of the critic's value subtracted.
    fn variant(world: &Bandit, seed: u64, share: f64, rate: f64) -> Result<(Mlp, Mlp)> {
        let cpu = &Device::Cpu;
        let mut rng = seed::rng(seed);
        let policy = Mlp::new([8, 32, 10], &mut rng, DType::F32, cpu)?;
        let critic = Mlp::new([8, 32, 1], &mut rng, DType::F32, cpu)?;
        let sgd = |network: &Mlp, rate: f64| {
            SGD::new(network.variables().values().cloned().collect(), rate)
        };
        let (mut policy_sgd, mut critic_sgd) = (sgd(&policy, 0.5)?, sgd(&critic, rate)?);
        for _ in 0..300 {
            let contexts = world.draw(8, &mut rng)?;
            let logits = policy.logits(&contexts.features)?;
            let actions = sampling::sample(&logits, &mut rng)?;
            let rewards = Tensor::new(world.rewards(&contexts, &actions)?, cpu)?
                .to_dtype(DType::F32)?;
            let values = critic.logits(&contexts.features)?.squeeze(1)?;
            let loss = (&rewards - &values)?.sqr()?.mean_all()?;
            critic_sgd.step(&gradients::of(&loss, critic.variables())?)?;
            let advantages = (rewards - (values.detach() * share)?)?;
            let loss =
                (advantages * log_prob::of(&logits, &actions)?)?.mean_all()?.neg()?;
            policy_sgd.step(&gradients::of(&loss, policy.variables())?)?;
        }
        Ok((policy, critic))
    }
}
