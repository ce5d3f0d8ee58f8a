//! What the exercises of chapter 1 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use grpo::{
    gradients, log_prob,
    policy::{Policy, Table},
    seed,
};
use rand::{RngCore, rngs::StdRng};

exercise::checks! {
    moved => moved(moved);
    traced => traced(traced);
    rewards_to_go => rewards_to_go(rewards_to_go);
    score_estimate => score_estimate(score_estimate);
    variance => variance(variance);
    sample => sample(sample);
    pair_loss => pair_loss(pair_loss);
    learn_pairs => learn_pairs(learn_pairs);
}

/// The three tokens of the page.
const LOGITS: [f64; 3] = [1.0, 0.5, -0.5];

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance)
}

fn moved(yours: fn() -> [f64; 3]) -> Result<()> {
    let moves = yours();
    // From PyTorch's autograd: 2 · the gradient of log π(2).
    let expected = [-1.0931, -0.6630, 1.7561];
    let sum: f64 = moves.iter().sum();
    ensure!(
        sum.abs() < 0.005,
        "the three moves must sum to 0, because log π does not change when all logits rise \
         together; yours sum to {sum:.3}"
    );
    ensure!(
        !close(&moves, &expected.map(|m| -m), 0.005),
        "you return the gradient of the loss; the optimiser walks against it, so the logits \
         move the other way"
    );
    ensure!(
        !close(&moves, &expected.map(|m| m / 2.0), 0.005),
        "that is the step for a reward of 1; here the reward is 2"
    );
    ensure!(
        moves[2] > 0.0 && moves[0] < 0.0 && moves[1] < 0.0,
        "token 2 was sampled and its reward is positive, so logit 2 rises and the two others \
         fall; yours move by {moves:.3?}"
    );
    ensure!(
        close(&moves, &expected, 0.005),
        "your signs are right, and the sizes {moves:.3?} are not: the probabilities of the \
         tokens are 0.5465, 0.3315 and 0.1220"
    );
    Ok(())
}

fn traced(yours: fn() -> [(f64, bool); 2]) -> Result<()> {
    let [good, bad] = yours();
    ensure!(
        good.1 && !bad.1,
        "a positive reward must make an answer more likely and a negative one less likely, \
         whatever the sign of the loss; you say {} and {}",
        good.1,
        bad.1
    );
    ensure!(
        !(good.0 == -7.5 && bad.0 == 7.5),
        "you return R · log π; the loss has a minus before it"
    );
    for ((loss, _), (reward, expected)) in
        [good, bad].iter().zip([(0.5, 7.5), (-0.5, -7.5)])
    {
        ensure!(
            (loss - expected).abs() < 1e-9,
            "with the reward {reward:+} and log π = −15 the contribution is {expected}; yours \
             is {loss}"
        );
    }
    Ok(())
}

fn rewards_to_go(yours: fn(&[f64], f64) -> Vec<f64>) -> Result<()> {
    ensure!(yours(&[], 0.9).is_empty(), "no rewards give no numbers");
    let to_go = yours(&[1.0, 2.0, 4.0, 8.0], 1.0);
    ensure!(to_go.len() == 4, "four steps have four numbers; you return {}", to_go.len());
    ensure!(
        to_go != [15.0; 4],
        "every step of yours has the sum of the whole episode; step t must not be judged by \
         rewards that came before it"
    );
    ensure!(
        to_go != [1.0, 3.0, 7.0, 15.0],
        "yours sums what came up to a step; sum what comes from it on"
    );
    ensure!(
        to_go != [14.0, 12.0, 8.0, 0.0],
        "the reward of step t itself belongs to what is to come at t"
    );
    ensure!(
        close(&to_go, &[15.0, 14.0, 12.0, 8.0], 1e-9),
        "with gamma = 1 the rewards 1, 2, 4, 8 leave 15, 14, 12, 8 to come; yours are {to_go:?}"
    );
    let to_go = yours(&[0.0, 0.0, 1.0, 0.0], 0.5);
    ensure!(
        !close(&to_go, &[0.25, 0.25, 0.25, 0.0], 1e-9),
        "you discount from the start of the episode; seen from step 2, the reward of step 2 \
         has not to wait"
    );
    ensure!(
        close(&to_go, &[0.25, 0.5, 1.0, 0.0], 1e-9),
        "one reward of 1 at step 2 with gamma = 0.5 is worth 0.25, 0.5, 1 and 0 at the four \
         steps; yours are {to_go:?}"
    );
    let rewards = [0.3, -1.0, 2.5];
    let to_go = yours(&rewards, 0.0);
    ensure!(
        close(&to_go, &rewards, 1e-12),
        "with gamma = 0 only the reward of the step itself counts; yours are {to_go:?}"
    );
    let constant = yours(&[1.0; 2000], 0.9);
    ensure!(
        (constant[0] - 10.0).abs() < 1e-9,
        "a reward of 1 for ever with gamma = 0.9 is worth 1/(1 − 0.9) = 10; yours is {:.4}",
        constant[0]
    );
    Ok(())
}

/// J = Σ π(a) R(a) in plain numbers: what the estimates are held against.
fn objective(logits: &[f64], rewards: &[f64]) -> f64 {
    let weights: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().zip(rewards).map(|(w, r)| w / total * r).sum()
}

/// The slope of `f` at `at`, by central differences.
fn slope(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let moved = |i: usize, by: f64| {
        let mut there = at.to_vec();
        there[i] += by;
        f(&there)
    };
    (0..at.len()).map(|i| (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5).collect()
}

type Estimate = fn(&[f64], &[u32], &[f64]) -> Vec<f64>;

fn score_estimate(yours: Estimate) -> Result<()> {
    let unknown = f64::NAN;
    let one = yours(&LOGITS, &[1, 0, 0], &[1.0, unknown, unknown]);
    ensure!(one.len() == 3, "three logits have three numbers; you return {}", one.len());
    ensure!(
        one.iter().all(|g| g.is_finite()),
        "token 0 came up once and the others never, so their rewards are not known and must \
         not be used; yours is {one:?}. 0 times NaN is NaN"
    );
    let sum: f64 = one.iter().sum();
    ensure!(
        sum.abs() < 1e-9,
        "the entries must sum to 0, because log π does not change when all logits rise \
         together; yours sum to {sum:.4}: did you leave out −π?"
    );
    ensure!(
        one[0] > 0.0,
        "token 0 earned 1, and the gradient of J must raise its logit; yours is {:.4}: is it \
         the gradient of a loss?",
        one[0]
    );
    // From PyTorch, which gives the gradient of the loss.
    ensure!(
        close(&one, &[0.4535, -0.3315, -0.1220], 1e-3),
        "one sample of token 0 with reward 1 gives 0.4535, −0.3315, −0.1220; yours is {one:.4?}"
    );
    let ten = yours(&LOGITS, &[10, 0, 0], &[1.0, unknown, unknown]);
    ensure!(
        close(&ten, &one, 1e-9),
        "ten samples of one token say the same as one, because the estimate is a mean; yours \
         are {:.4} and {:.4} for logit 0: did you divide by the number of samples?",
        ten[0],
        one[0]
    );
    // Logits whose probabilities are 5/10, 3/10 and 2/10 exactly: then counts of 5, 3 and 2
    // are the expectation itself.
    let counts = [5, 3, 2];
    let logits = counts.map(|count| f64::from(count).ln() + 0.7);
    for rewards in [[0.2, 1.0, 0.0], [-3.0, 0.5, 12.0]] {
        let (exact, estimate) = (
            slope(&logits, |logits| objective(logits, &rewards)),
            yours(&logits, &counts, &rewards),
        );
        ensure!(
            close(&estimate, &exact, 1e-7),
            "where tokens came up exactly as often as π says, the estimate is ∇J itself, \
             {exact:.4?} for the rewards {rewards:?}; yours is {estimate:.4?}"
        );
    }
    Ok(())
}

fn variance(yours: fn(&[f64], &[f64]) -> f64) -> Result<()> {
    // A fair coin that pays for heads: g is (½, −½) or (0, 0), each half of the time.
    let coin = yours(&[0.0, 0.0], &[1.0, 0.0]);
    ensure!(
        !close(&[coin], &[0.25], 1e-9),
        "a fair coin that pays 1 for heads has the variance 0.125; yours is 0.25, the mean \
         squared length: subtract the squared length of the mean"
    );
    ensure!(
        !close(&[coin], &[0.0625], 1e-9),
        "a fair coin that pays 1 for heads has the variance 0.125; yours is half of it: sum \
         over the logits, do not average"
    );
    ensure!(
        (coin - 0.125).abs() < 1e-9,
        "a fair coin that pays 1 for heads gives (0.5, −0.5) or (0, 0), so its variance is \
         0.125; yours is {coin:.4}"
    );
    // ‖∇ log π(a)‖² = 1 − 2π(a) + Σπ², and the mean comes from finite differences.
    for (logits, rewards) in [
        (vec![1.0, 0.5, -0.5], vec![0.2, 1.0, 0.0]),
        (vec![1.0, 0.5, -0.5], vec![5.2, 6.0, 5.0]),
        (vec![0.0, 3.0, -1.0, 0.4], vec![-1.0, 2.0, 0.3, 0.0]),
    ] {
        let total: f64 = logits.iter().map(|x| f64::exp(*x)).sum();
        let p: Vec<f64> = logits.iter().map(|x| f64::exp(*x) / total).collect();
        let collision: f64 = p.iter().map(|p| p * p).sum();
        let square: f64 = p
            .iter()
            .zip(&rewards)
            .map(|(p, r)| p * r * r * (1.0 - 2.0 * p + collision))
            .sum();
        let mean = slope(&logits, |logits| objective(logits, &rewards));
        let expected = square - mean.iter().map(|m| m * m).sum::<f64>();
        let variance = yours(&logits, &rewards);
        ensure!(
            (variance - expected).abs() < 1e-7,
            "with the logits {logits:?} and the rewards {rewards:?} the variance is \
             {expected:.4}; yours is {variance:.4}: does each token count with its probability?"
        );
    }
    Ok(())
}

fn sample(yours: fn(&Tensor, &mut StdRng) -> grpo::Result<Tensor>) -> Result<()> {
    const ROWS: usize = 20_000;
    let cpu = &Device::Cpu;
    let draw = |logits: &Tensor, seed: u64| -> Result<Vec<u32>> {
        let actions = yours(logits, &mut seed::rng(seed))?;
        ensure!(
            actions.dims() == [logits.dim(0)?],
            "logits {:?} give one action a row, ({}); yours have the shape {:?}",
            logits.dims(),
            logits.dim(0)?,
            actions.dims()
        );
        ensure!(
            actions.dtype() == DType::U32,
            "actions are indices of dtype U32; yours are {:?}",
            actions.dtype()
        );
        Ok(actions.to_vec1()?)
    };
    let logits = Tensor::new(&[LOGITS], cpu)?.broadcast_as((ROWS, 3))?.contiguous()?;
    let drawn = draw(&logits, 1)?;
    ensure!(
        drawn == draw(&logits, 1)?,
        "two calls with the same seed must draw the same actions; yours differ: did you use a \
         generator other than `rng`?"
    );
    ensure!(
        drawn.iter().all(|a| *a < 3),
        "of three actions you drew one that is not there"
    );
    let share =
        |action: u32| drawn.iter().filter(|a| **a == action).count() as f64 / ROWS as f64;
    let shares = [share(0), share(1), share(2)];
    ensure!(
        shares[0] < 1.0 || drawn != draw(&logits, 2)?,
        "you drew action 0 in each of {ROWS} rows: that is the likeliest action, and the die \
         was not thrown"
    );
    ensure!(
        shares.iter().all(|share| *share < 1.0),
        "all {ROWS} rows drew the same action: every row needs a random number of its own"
    );
    // Five standard deviations of a share.
    let tolerance = 5.0 * 0.5 / (ROWS as f64).sqrt();
    ensure!(
        !close(&shares, &[1.0 / 3.0; 3], tolerance),
        "with the logits {LOGITS:?} you draw every action equally often: use the softmax of \
         the row"
    );
    let expected = log_prob::probabilities(&Tensor::new(&LOGITS, cpu)?)?;
    ensure!(
        close(&shares, &expected, tolerance),
        "with the logits {LOGITS:?} the actions have the probabilities {expected:.3?}; of \
         {ROWS} rows yours drew the shares {shares:.3?}"
    );
    let rows: Vec<Vec<f32>> = (0..1000)
        .map(|row| if row % 2 == 0 { vec![40.0, -40.0] } else { vec![-40.0, 40.0] })
        .collect();
    let drawn = draw(&Tensor::new(rows, cpu)?, 3)?;
    ensure!(
        drawn.iter().enumerate().all(|(row, action)| *action == row as u32 % 2),
        "every row has its own logits: where the first is 40 and the second −40, action 0 \
         comes up, and the reverse; yours mixes rows"
    );
    let rows = vec![vec![1000f32, 1000.0, -1000.0]; 1000];
    let drawn = draw(&Tensor::new(rows, cpu)?, 4)
        .context("logits of 1000: subtract the largest logit of a row before exp")?;
    let share = drawn.iter().filter(|a| **a == 1).count();
    ensure!(
        (400..600).contains(&share) && !drawn.contains(&2),
        "with the logits 1000, 1000, −1000 half of 1000 rows draw action 1; of yours {share} \
         do: subtract the largest logit of a row before exp, or it becomes infinity"
    );
    Ok(())
}

/// A table for pairs of three tokens, with logits that have no symmetry.
fn pair_table() -> Result<Table> {
    let logits = [[0.3, -0.4, 0.9], [1.0, 0.5, -0.5], [-1.2, 0.1, 0.6], [0.2, 0.8, -0.3]];
    Table::from_logits(&Tensor::new(&logits, &Device::Cpu)?)
}

/// log π(b | row) of a table, in plain numbers.
fn row_log_probs(logits: &[f64]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x - total.ln()).collect()
}

/// J of a table for pairs: the sum over all of them. Logits are those of the rows in turn.
fn pair_objective(logits: &[f64], rewards: &[Vec<f64>]) -> f64 {
    let rows: Vec<_> = logits.chunks(rewards.len()).map(row_log_probs).collect();
    let all = (0..rewards.len()).flat_map(|a| (0..rewards.len()).map(move |b| (a, b)));
    all.map(|(a, b)| (rows[0][a] + rows[1 + a][b]).exp() * rewards[a][b]).sum()
}

type PairLoss = fn(&Table, &[[u32; 2]], &[f64]) -> grpo::Result<Tensor>;

fn pair_loss(yours: PairLoss) -> Result<()> {
    let policy = pair_table()?;
    let logits = policy.variables()["logits"].flatten_all()?.to_vec1::<f64>()?;
    let rows: Vec<_> = logits.chunks(3).map(row_log_probs).collect();
    let value = |pairs: &[[u32; 2]], rewards: &[f64]| -> Result<f64> {
        let loss = yours(&policy, pairs, rewards)?;
        ensure!(
            loss.elem_count() == 1,
            "a loss is one number; yours has the shape {:?}: take the mean over the batch",
            loss.dims()
        );
        Ok(loss.flatten_all()?.get(0)?.to_dtype(DType::F64)?.to_scalar()?)
    };
    let loss = value(&[[0, 2]], &[1.0])?;
    let (first, second) = (rows[0][0], rows[1][2]);
    for (mistake, words) in [
        (-first, "that is −log π of the first token alone: the second was chosen too"),
        (-second, "that is −log π of the second token alone: the first was chosen too"),
        (
            -(first + second) / 2.0,
            "that is the mean over the two tokens: the pair needs their sum",
        ),
        (
            first + second,
            "the sign is wrong: this loss falls when a rewarded pair gets less likely",
        ),
        (
            -(first + rows[0][2]),
            "you scored both tokens with row 0: after token a comes row 1 + a",
        ),
        ((first + second).exp(), "that is π: the loss has log π"),
        (-(first + second).exp(), "that is −π: the loss has log π"),
    ] {
        ensure!(
            !close(&[loss], &[mistake], 1e-6),
            "for the pair (0, 2) with reward 1 you return {loss:.4}; {words}"
        );
    }
    ensure!(
        (loss + first + second).abs() < 1e-6,
        "for the pair (0, 2) with reward 1 the loss is −log π(0) − log π(2 | 0) = {:.4}; yours \
         is {loss:.4}",
        -first - second
    );
    let both = value(&[[0, 2], [1, 1]], &[1.0, -2.0])?;
    let expected = (loss - 2.0 * value(&[[1, 1]], &[1.0])?) / 2.0;
    ensure!(
        (both - expected).abs() < 1e-6,
        "the loss of a batch is the mean over its pairs, each with its own reward: {expected:.4} \
         for (0, 2) with 1 and (1, 1) with −2; yours is {both:.4}"
    );
    // The gradient, weighted by the probability of every pair, against ∇J.
    let rewards = vec![vec![0.1, 0.7, -0.3], vec![1.0, 0.0, 0.4], vec![0.2, -0.6, 0.9]];
    let mut mean = vec![0.0; logits.len()];
    for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
        let loss = yours(&policy, &[[a as u32, b as u32]], &[rewards[a][b]])?;
        let gradients = gradients::of(&loss, policy.variables())
            .context("was something detached, or turned into plain numbers?")?;
        let gradient =
            gradients.get(&policy.variables()["logits"]).context("no gradient")?;
        let probability = (rows[0][a] + rows[1 + a][b]).exp();
        let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
        mean.iter_mut().zip(gradient).for_each(|(m, g)| *m -= probability * g);
    }
    let exact = slope(&logits, |logits| pair_objective(logits, &rewards));
    ensure!(
        close(&mean, &exact, 1e-6),
        "summed over all nine pairs, the gradient is not that of the expected reward. It should \
         be {exact:.3?}; yours is {mean:.3?}"
    );
    Ok(())
}

fn learn_pairs(yours: fn(&[Vec<f64>], &mut StdRng) -> grpo::Result<Table>) -> Result<()> {
    // The first token alone earns 0.4, the second one 0.6 if it fits the first.
    let pays = |good: usize, shift: usize| -> Vec<Vec<f64>> {
        let cell = |a: usize, b: usize| {
            0.4 * f64::from(u8::from(a == good))
                + 0.6 * f64::from(u8::from(b == (a + shift) % 4))
        };
        (0..4).map(|a| (0..4).map(|b| cell(a, b)).collect()).collect()
    };
    for seed in 0..5 {
        let rewards = pays(seed % 4, 1 + seed % 3);
        let mut rng = seed::rng(seed as u64);
        let policy = yours(&rewards, &mut rng)?;
        let logits = &policy.variables()["logits"];
        ensure!(
            logits.dims() == [5, 4],
            "four tokens need a table of (5, 4) logits; yours is {:?}",
            logits.dims()
        );
        let logits = logits.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let reward = pair_objective(&logits, &rewards);
        let first = row_log_probs(&logits[..4])[seed % 4].exp();
        let why = if logits.iter().all(|logit| *logit == 0.0) {
            "the table never moved"
        } else if logits[..4].iter().all(|logit| *logit == 0.0) {
            "row 0 never moved: nobody taught the first token"
        } else if logits[4..].iter().all(|logit| *logit == 0.0) {
            "rows 1 to 4 never moved: nobody taught the second token"
        } else if first > 0.9 {
            "the first token is right and the second is not: does it look up row 1 + a?"
        } else {
            "try more steps, larger batches or another learning rate"
        };
        ensure!(
            reward > 0.9,
            "with seed {seed} the expected reward ends at {reward:.2}, and the best possible is \
             1; it must end above 0.9: {why}"
        );
        ensure!(
            rng.next_u64() != seed::rng(seed as u64).next_u64(),
            "you drew nothing from `rng`, so no pair was sampled: a policy that learns from samples \
             must not go through the table of rewards"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_turns_of_the_warm_ups() {
        says(moved(|| [0.0, 0.0, 2.0]), "sum to 0");
        says(moved(|| [1.093, 0.663, -1.756]), "walks against it");
        says(moved(|| [-0.5465, -0.3315, 0.878]), "a reward of 1");
        says(moved(|| [-1.0, -1.0, 2.0]), "sizes");
        says(traced(|| [(-7.5, true), (7.5, false)]), "a minus before it");
        says(traced(|| [(7.5, false), (-7.5, true)]), "more likely");
    }

    #[test]
    fn wrong_turns_with_rewards_to_go() {
        says(rewards_to_go(|r, _| vec![r.iter().sum(); r.len()]), "the whole episode");
        let discounts_from_the_start = |rewards: &[f64], gamma: f64| {
            let discounted: Vec<f64> =
                rewards.iter().zip(0..).map(|(r, t)| r * gamma.powi(t)).collect();
            solutions::rewards_to_go(&discounted, 1.0)
        };
        says(rewards_to_go(discounts_from_the_start), "from the start of the episode");
    }

    #[test]
    fn wrong_turns_with_the_estimator() {
        let right = solutions::score_estimate;
        says(score_estimate(|_, _, r| r.to_vec()), "must not be used");
        says(score_estimate(|_, _, _| vec![1.0, 0.0, 0.0]), "leave out −π");
        let loss = |l: &[f64], c: &[u32], r: &[f64]| {
            solutions::score_estimate(l, c, r).iter().map(|g| -g).collect()
        };
        says(score_estimate(loss), "gradient of a loss");
        let sum = |l: &[f64], c: &[u32], r: &[f64]| {
            let n = f64::from(c.iter().sum::<u32>());
            solutions::score_estimate(l, c, r).iter().map(|g| g * n).collect()
        };
        says(score_estimate(sum), "divide by the number");
        assert!(score_estimate(right).is_ok());
        says(variance(|_, _| 0.25), "squared length of the mean");
        says(variance(|_, _| f64::NAN), "yours is NaN");
        says(variance(|l, r| 0.5 * solutions::variance(l, r)), "do not average");
    }

    /// The numbers that the page of solutions states.
    #[test]
    fn five_more_for_everybody_is_noise() {
        let low = solutions::variance(&LOGITS, &[0.2, 1.0, 0.0]);
        let high = solutions::variance(&LOGITS, &[5.2, 6.0, 5.0]);
        assert!((low - 0.20).abs() < 0.01 && (high - 17.5).abs() < 0.1, "{low} {high}");
        assert!(((high / low).sqrt() - 9.0).abs() < 0.5);
    }

    #[test]
    fn wrong_turns_with_the_die() {
        says(sample(|logits, _| Ok(logits.argmax(1)?)), "the die was not thrown");
        let one_number = |logits: &Tensor, rng: &mut StdRng| {
            let one = solutions::sample(&logits.narrow(0, 0, 1)?, rng)?;
            Ok(one.broadcast_as(logits.dim(0)?)?.contiguous()?)
        };
        says(sample(one_number), "a random number of its own");
        says(sample(|l, rng| solutions::sample(&l.zeros_like()?, rng)), "equally often");
        says(sample(|l, rng| solutions::sample(&(l * 0.5)?, rng)), "the probabilities");
    }

    #[test]
    fn wrong_turns_with_pairs() {
        let half = |p: &Table, pairs: &[[u32; 2]], r: &[f64]| {
            Ok((solutions::pair_loss(p, pairs, r)? * 0.5)?)
        };
        says(pair_loss(half), "needs their sum");
        let detached = |p: &Table, pairs: &[[u32; 2]], r: &[f64]| {
            Ok(solutions::pair_loss(p, pairs, r)?.detach())
        };
        says(pair_loss(detached), "got no gradient");
        let fresh = |rewards: &[Vec<f64>], _: &mut StdRng| {
            let v = rewards.len();
            Table::uniform(1 + v, v, DType::F64, &Device::Cpu)
        };
        says(learn_pairs(fresh), "never moved");
        let looked_up = |rewards: &[Vec<f64>], _: &mut StdRng| {
            solutions::learn_pairs(rewards, &mut seed::rng(1))
        };
        says(learn_pairs(looked_up), "no pair was sampled");
    }
}
