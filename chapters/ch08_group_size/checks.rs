//! What the exercises of chapter 8 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Result, ensure};
use grpo::{
    advantage::{Scale, group_relative},
    seed,
};
use rand::{Rng, rngs::StdRng};

exercise::checks! {
    half_speak => half_speak(half_speak);
    silent_share => silent_share(silent_share);
    silent_estimate => silent_estimate(silent_estimate);
    group_means => group_means(group_means);
    diminishing => diminishing(diminishing);
    advantage_variance => advantage_variance(advantage_variance);
    best_group_size => best_group_size(best_group_size);
    ablation => ablation(ablation);
}

/// Every way in which `size` answers can be right (1) or wrong (0), with its probability.
fn patterns(p: f64, size: usize) -> Vec<(Vec<f64>, f64)> {
    let pattern = |bits: u32| {
        let right: Vec<bool> = (0..size).map(|i| bits >> i & 1 == 1).collect();
        let chance = right.iter().map(|r| if *r { p } else { 1.0 - p }).product();
        (right.iter().map(|r| f64::from(u8::from(*r))).collect(), chance)
    };
    (0..1 << size).map(pattern).collect()
}

fn half_speak(yours: fn() -> usize) -> Result<()> {
    let size = yours();
    // One answer after the other: the chance that all so far were wrong, or all right.
    let speaking = |size: usize| {
        let (mut wrong, mut right) = (1.0, 1.0);
        for _ in 0..size {
            wrong *= 0.98;
            right *= 0.02;
        }
        1.0 - wrong - right
    };
    let share = speaking(size);
    ensure!(
        share >= 0.5,
        "with G = {size} only {share:.3} of the groups speak; at least half must: did you round \
         up?"
    );
    let fewer = speaking(size - 1);
    ensure!(
        fewer < 0.5,
        "with G = {size} it is {share:.3}, and with one answer fewer still {fewer:.3}: the \
         smallest was asked for"
    );
    Ok(())
}

fn silent_share(yours: fn(f64, usize) -> f64) -> Result<()> {
    for (p, size) in [(0.3, 2), (0.1, 4), (0.9, 4), (0.6, 7), (0.25, 1)] {
        let all = patterns(p, size);
        let sum = |wanted: &dyn Fn(&[f64]) -> bool| -> f64 {
            all.iter()
                .filter(|(rewards, _)| wanted(rewards))
                .map(|(_, chance)| chance)
                .sum()
        };
        let expected = sum(&|rewards| rewards.iter().all(|r| *r == rewards[0]));
        let wrong = sum(&|rewards| rewards.iter().all(|r| *r == 0.0));
        let found = yours(p, size);
        let why = if (found - wrong).abs() < 1e-9 {
            "that is the share of groups that are all wrong; a group that is all right is silent \
             too"
        } else if (found - (expected - wrong)).abs() < 1e-9 {
            "that is the share of groups that are all right; a group that is all wrong is silent \
             too"
        } else if (found - (1.0 - expected)).abs() < 1e-9 {
            "that is the share of groups that speak"
        } else {
            "the answers are independent, so their chances multiply"
        };
        ensure!(
            (found - expected).abs() < 1e-9,
            "with p = {p} and G = {size}, all {} ways a group can come out sum to a silent share \
             of {expected:.4}; yours is {found:.4}: {why}",
            all.len()
        );
    }
    for p in [0.0, 1.0] {
        let found = yours(p, 8);
        ensure!(
            found == 1.0,
            "with p = {p} every group is silent, and the share is 1; yours is {found}"
        );
    }
    Ok(())
}

/// The reader's estimate.
type Estimate = fn(&[f64], usize, usize, &mut StdRng) -> [f64; 3];

fn silent_estimate(yours: Estimate) -> Result<()> {
    let (chances, size, trials) = ([0.02, 0.9, 0.5], 4, 20_000);
    let found = yours(&chances, size, trials, &mut seed::rng(1));
    let sum: f64 = found.iter().sum();
    ensure!(
        (sum - 1.0).abs() < 1e-9,
        "every group is of one of the three kinds, so the shares sum to 1; yours sum to {sum:.3}: \
         did you divide by the number of groups?"
    );
    let share = |p: f64| {
        let mut kinds = [0.0; 3];
        for (rewards, chance) in patterns(p, size) {
            let right: f64 = rewards.iter().sum();
            let kind = if right == 0.0 {
                0
            } else if right == size as f64 {
                1
            } else {
                2
            };
            kinds[kind] += chance;
        }
        kinds
    };
    let each = chances.map(share);
    let expected: [f64; 3] =
        std::array::from_fn(|k| each.iter().map(|kinds| kinds[k]).sum::<f64>() / 3.0);
    let apart = |other: [f64; 3]| {
        found.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let pooled = share(chances.iter().sum::<f64>() / 3.0);
    let why = if apart(pooled) < 0.015 {
        "that is what the MEAN chance gives: draw the prompt once for the whole group, and answer \
         with its own chance"
    } else if apart([expected[1], expected[0], expected[2]]) < 0.015 {
        "all wrong comes first, then all right"
    } else {
        "draw a prompt, then answers to it, and count the right ones"
    };
    ensure!(
        apart(expected) < 0.015,
        "prompts with chances {chances:?} and G = 4 have the shares {expected:.3?}; yours are \
         {found:.3?}: {why}"
    );
    let other = yours(&chances, size, trials, &mut seed::rng(2));
    ensure!(
        found != other,
        "two seeds gave the same estimate to the last digit: sample from rng"
    );
    let one = yours(&[0.5], 1, 1000, &mut seed::rng(3));
    ensure!(
        one[2] == 0.0,
        "a group of one answer has nothing to compare with and is always silent; in yours a share \
         of {:.3} speaks",
        one[2]
    );
    Ok(())
}

fn group_means(yours: fn(usize, usize, &mut StdRng) -> Vec<f64>) -> Result<()> {
    let (size, trials) = (16, 4000);
    let mut rng = seed::rng(11);
    let means = yours(size, trials, &mut rng);
    let count = means.len();
    ensure!(count == trials, "{trials} groups have {trials} means; yours are {count}");
    let deviation = |means: &[f64]| {
        let centre = means.iter().sum::<f64>() / means.len() as f64;
        let squares: f64 = means.iter().map(|m| (m - centre).powi(2)).sum();
        (centre, (squares / means.len() as f64).sqrt())
    };
    let (centre, spread) = deviation(&means);
    ensure!(
        (centre + 1.0 / 6.0).abs() < 0.02,
        "rewards of 1, −0.5 and −1 with equal chance have the mean −1/6; yours is {centre:.3}: did \
         you divide by the size of the group?"
    );
    // σ² = (1 + 1/4 + 1)/3 − 1/36 = 0.7222.
    let expected = 0.7222f64.sqrt() / 4.0;
    ensure!(
        (spread - expected).abs() < 0.02,
        "means of 16 rewards have the deviation σ/4 = {expected:.3}; yours have {spread:.3}: does \
         each reward get a draw of its own?"
    );
    let mut other = seed::rng(11);
    for _ in 0..size * trials {
        let _: usize = other.random_range(0..3);
    }
    ensure!(
        rng.random::<u64>() == other.random::<u64>(),
        "{trials} groups of {size} take {} draws of `rng.random_range(0..3)` as an index, and \
         nothing else; with yours the chapter's table would be another",
        size * trials
    );
    Ok(())
}

fn diminishing(yours: fn(f64) -> usize) -> Result<()> {
    // G/(G + 1) against 0.95² = 0.9025 and so on, by hand.
    let cases = [(0.05, 10, 20), (0.01, 50, 100), (0.3, 1, 3), (0.29, 2, 3), (0.18, 3, 5)];
    for (share, expected, of_variance) in cases {
        let found = yours(share);
        let why = if found == of_variance {
            "that is where the VARIANCE falls by less; the deviation goes with the root of G"
        } else if found == expected + 1 {
            "that is the size after the answer that was not worth it"
        } else {
            "the deviation of a mean is σ/√G; what do G + 1 answers leave of it?"
        };
        ensure!(
            found == expected,
            "one more answer first saves less than {share} of the deviation at G = {expected}; \
             yours says {found}: {why}"
        );
    }
    Ok(())
}

fn advantage_variance(yours: fn(f64, usize) -> [f64; 2]) -> Result<()> {
    for (p, size) in [(0.3, 3), (0.5, 2), (0.1, 5), (0.8, 8)] {
        let mut expected = [0.0; 2];
        for (kind, scale) in [Scale::None, Scale::Unbiased].into_iter().enumerate() {
            let (mut mean, mut square) = (0.0, 0.0);
            for (rewards, chance) in patterns(p, size) {
                let first = group_relative(&rewards, size, scale)?[0];
                mean += chance * first;
                square += chance * first * first;
            }
            expected[kind] = square - mean * mean;
        }
        let found = yours(p, size);
        let whole = size as f64 / (size as f64 - 1.0);
        let why = if (found[0] - expected[0] * whole).abs() < 1e-9 && whole > 1.0 {
            "your first is the variance of the reward itself: the mean of the group contains the \
             answer, and takes 1/G of it away"
        } else if (found[0] - expected[0]).abs() > 1e-9 {
            "for the first, what are the advantages when k of G answers are right?"
        } else if (found[1] - expected[1] * whole).abs() < 1e-9 {
            "your second has σ with n in the denominator; it should be n − 1"
        } else if (found[1] - (size as f64 - 1.0) / size as f64).abs() < 1e-9 {
            "your second forgets the silent groups, whose advantages are 0"
        } else {
            "for the second, to what do the squares of a group's advantages sum, once they are \
             divided by σ?"
        };
        ensure!(
            found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9),
            "with p = {p} and G = {size} the variances are {expected:.4?}, summed over all {} \
             groups; yours are {found:.4?}: {why}",
            1 << size
        );
    }
    let found = yours(0.01, 64);
    // 0.01 · 0.99 · 63/64, and a share of 0.99⁶⁴ = 0.5256 silent groups.
    ensure!(
        (found[0] - 0.009745).abs() < 1e-5 && (found[1] - 0.46701).abs() < 1e-4,
        "with p = 0.01 and G = 64 the variances are 0.0097 and 0.467; yours are {found:.4?}: does \
         a factorial or a count overflow?"
    );
    Ok(())
}

fn best_group_size(yours: fn(f64, f64, f64, f64) -> usize) -> Result<()> {
    let free = yours(1.0, 30.0, 0.0, 1.0);
    ensure!(
        (2..=1024).contains(&free),
        "G goes from 2 to 1024; yours is {free} where prompts cost nothing"
    );
    ensure!(
        free == 2,
        "where prompts cost nothing, another prompt always beats another answer, and the smallest \
         group is best; yours is {free}: a step has fewer groups when each holds more answers"
    );
    let alike = yours(1.0, 0.0, 5.0, 1.0);
    ensure!(
        alike == 2,
        "where all answers to a prompt say the same, more of them add nothing; yours takes {alike}"
    );
    let tie = yours(1.0, 6.0, 1.0, 1.0);
    ensure!(
        tie == 2,
        "with between 1, within 6, prompt 1 and answer 1, G = 2 and G = 3 are equally good, and the \
         smaller is 2; yours is {tie}: did a division round one of the two? The number of tokens is \
         the same for every G and can be left out"
    );
    let cases = [
        (1.0, 16.0, 4.0, 1.0),
        (2.0, 9.0, 300.0, 7.0),
        (0.5, 4.0, 8.0, 1.0),
        // The root is 2.49, and G = 3 is better all the same.
        (1.0, 6.2, 1.0, 1.0),
        (0.001, 100.0, 10.0, 1.0),
        (1e-9, 1.0, 1.0, 1.0),
    ];
    for (between, within, prompt, answer) in cases {
        let found = yours(between, within, prompt, answer);
        let of_step = |size: usize| {
            let tokens = 1e6;
            let groups = tokens / (prompt + answer * size as f64);
            (between + within / size as f64) / groups
        };
        ensure!(
            (2..=1024).contains(&found),
            "G goes from 2 to 1024; yours is {found} for {:?}",
            (between, within, prompt, answer)
        );
        let best =
            (2..=1024).min_by(|a, b| of_step(*a).total_cmp(&of_step(*b))).unwrap_or(2);
        ensure!(
            (of_step(found) / of_step(best) - 1.0) < 1e-9,
            "between {between}, within {within}, prompt {prompt}, answer {answer}: a step of a \
             million tokens has the variance {:.3e} with your G = {found}, and {:.3e} with \
             G = {best}: does the number of groups that the tokens pay for depend on G? And did you \
             try whole numbers, and not round a root?",
            of_step(found),
            of_step(best)
        );
    }
    Ok(())
}

/// A training run as the reader's ablation asks for it.
type Train<'a> = &'a mut dyn FnMut(usize, [usize; 2], f64, u64) -> f64;
/// The reader's ablation.
type Ablation = fn(&[usize], &[f64], u64, [usize; 2], Train) -> Vec<[f64; 3]>;

/// A world that is known: the best rate is 1/G, one lucky seed flatters the rate 1, and
/// seeds from 4 on are worth 0.1 less.
fn pretend(group_size: usize, rate: f64, seed: u64) -> f64 {
    let off = (rate * group_size as f64).ln().abs();
    let luck = if rate == 1.0 && seed == 2 { 0.5 } else { 0.0 };
    let later = if seed < 4 { 0.0 } else { 0.1 };
    0.8 - 0.2 * off + luck - later + 0.01 * (seed % 4) as f64
}

fn ablation(yours: Ablation) -> Result<()> {
    let (sizes, rates, seeds, plan) = ([2, 8, 4], [1.0, 0.5, 0.25, 0.125], 4, [64, 1024]);
    let mut runs = Vec::new();
    let mut train = |size: usize, [prompts, steps]: [usize; 2], rate: f64, seed: u64| {
        runs.push((size, prompts, steps, rate, seed));
        pretend(size, rate, seed)
    };
    let rows = yours(&sizes, &rates, seeds, plan, &mut train);
    let count = rows.len();
    ensure!(count == 3, "three group sizes need three rows; yours are {count}");
    for &(size, prompts, steps, ..) in &runs {
        ensure!(
            size * prompts == 64,
            "a run with G = {size} and {prompts} prompts samples {} answers a step, and all must \
             sample 64: a larger group leaves fewer prompts",
            size * prompts
        );
        ensure!(
            size * prompts * steps == 1024,
            "a run with G = {size} takes {steps} steps of 64 answers, {} in all; the budget is \
             1024",
            64 * steps
        );
    }
    for (size, [rate, mean, deviation]) in sizes.into_iter().zip(rows) {
        for tried in rates {
            let of = |seed| {
                let same = |r: &&(usize, usize, usize, f64, u64)| {
                    (r.0, r.3, r.4) == (size, tried, seed)
                };
                runs.iter().filter(same).count()
            };
            let tuned: Vec<usize> = (0..seeds).map(of).collect();
            ensure!(
                tuned == [1; 4],
                "G = {size} must be tried once at the rate {tried} with each of the seeds 0 to 3; \
                 yours ran {tuned:?} times: every G needs the whole search for itself"
            );
            let fresh: usize = (seeds..2 * seeds).map(of).sum();
            ensure!(
                tried == rate || fresh == 0,
                "the seeds 4 to 7 are for the chosen rate alone, and G = {size} used them at \
                 {tried} too: whoever looks at them while choosing reports luck"
            );
        }
        let best = 1.0 / size as f64;
        ensure!(
            rate == best,
            "G = {size} learns best at the rate {best}; yours chose {rate}: is it chosen for each \
             G alone, and by the mean over seeds, not by the best seed?"
        );
        ensure!(
            (mean - 0.715).abs() < 1e-9,
            "on fresh seeds G = {size} earns 0.715 on average; yours reports {mean:.3}: are these \
             the seeds that chose the rate?"
        );
        // Numbers 0.70, 0.71, 0.72, 0.73.
        ensure!(
            (deviation - 0.012910).abs() < 1e-5,
            "0.70, 0.71, 0.72 and 0.73 have the deviation 0.0129 over n − 1; yours is \
             {deviation:.4}"
        );
    }
    let tie = yours(&[4], &[0.3, 0.1], 2, [8, 16], &mut |_, _, _, _| 0.5);
    ensure!(
        tie == [[0.3, 0.5, 0.0]],
        "of two rates that are equally good the earlier counts; yours reports {tie:?}"
    );
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
    fn wrong_shares_get_the_message_for_them() {
        says(half_speak(|| 34), "round up");
        says(half_speak(|| 50), "the smallest was asked for");
        says(silent_share(|p, n| (1.0 - p).powi(n as i32)), "all wrong; a group");
        says(silent_share(|p, n| p.powi(n as i32)), "all right; a group");
        says(silent_share(|p, n| 1.0 - solutions::silent_share(p, n)), "groups that speak");
        let pooled = |chances: &[f64], size, trials, rng: &mut StdRng| {
            let mean = chances.iter().sum::<f64>() / chances.len() as f64;
            solutions::silent_estimate(&[mean], size, trials, rng)
        };
        says(silent_estimate(pooled), "the MEAN chance");
        let swapped = |chances: &[f64], size, trials, rng: &mut StdRng| {
            let [wrong, right, rest] =
                solutions::silent_estimate(chances, size, trials, rng);
            [right, wrong, rest]
        };
        says(silent_estimate(swapped), "all wrong comes first");
    }

    #[test]
    fn wrong_simulations_get_the_message_for_them() {
        let sums = |size, trials, rng: &mut StdRng| {
            let means = solutions::group_means(size, trials, rng);
            means.iter().map(|m| m * size as f64).collect()
        };
        says(group_means(sums), "divide by the size");
        let repeated = |_, trials, rng: &mut StdRng| solutions::group_means(1, trials, rng);
        says(group_means(repeated), "a draw of its own");
        let wasteful = |size, trials, rng: &mut StdRng| {
            rng.random::<u64>();
            solutions::group_means(size, trials, rng)
        };
        says(group_means(wasteful), "another");
        let variance =
            |share: f64| (1..).find(|n| 1.0 / (*n as f64 + 1.0) < share).unwrap();
        says(diminishing(variance), "VARIANCE");
        says(diminishing(|share| solutions::diminishing(share) + 1), "not worth it");
    }

    #[test]
    fn wrong_variances_get_the_message_for_them() {
        let own =
            |p: f64, n: usize| [p * (1.0 - p), solutions::advantage_variance(p, n)[1]];
        says(advantage_variance(own), "takes 1/G of it away");
        let population = |p: f64, n: usize| {
            let [a, b] = solutions::advantage_variance(p, n);
            [a, b * n as f64 / (n as f64 - 1.0)]
        };
        says(advantage_variance(population), "n − 1");
        let loud = |p: f64, n: usize| {
            [solutions::advantage_variance(p, n)[0], (n as f64 - 1.0) / n as f64]
        };
        says(advantage_variance(loud), "forgets the silent groups");
        says(best_group_size(|_, _, _, _| 1024), "where prompts cost nothing");
        says(best_group_size(|_, _, _, _| 1), "from 2 to 1024");
        let prompts_paid_once = |b: f64, w: f64, p: f64, _: f64| {
            if p == 0.0 || w == 0.0 || w == 6.0 {
                2
            } else {
                (w / b).sqrt().clamp(2.0, 1024.0) as usize
            }
        };
        says(best_group_size(prompts_paid_once), "a million tokens");
        let rounded = |b: f64, w: f64, p: f64, a: f64| {
            (w * p / (b * a)).sqrt().clamp(2.0, 1024.0).round() as usize
        };
        says(best_group_size(rounded), "round a root");
    }

    #[test]
    fn unfair_ablations_get_the_message_for_them() {
        says(
            ablation(|sizes, rates, seeds, [answers, budget], train| {
                let mut equal_prompts =
                    |n: usize, [_, steps]: [usize; 2], r: f64, s: u64| {
                        train(n, [8, steps], r, s)
                    };
                solutions::ablation(
                    sizes,
                    rates,
                    seeds,
                    [answers, budget],
                    &mut equal_prompts,
                )
            }),
            "fewer prompts",
        );
        says(
            ablation(|sizes, rates, seeds, plan, train| {
                solutions::ablation(sizes, &rates[..1], seeds, plan, train)
            }),
            "the whole search",
        );
        // The seeds that chose also report.
        says(
            ablation(|sizes, rates, seeds, plan, train| {
                let mut same = |n: usize, p: [usize; 2], r: f64, s: u64| match s < seeds {
                    true => train(n, p, r, s),
                    false => pretend(n, r, s - seeds),
                };
                solutions::ablation(sizes, rates, seeds, plan, &mut same)
            }),
            "chose the rate",
        );
        let mut never = |_: usize, _: [usize; 2], _: f64, _: u64| 0.5;
        assert!(solutions::ablation(&[], &[1.0], 2, [8, 16], &mut never).is_empty());
    }
}
