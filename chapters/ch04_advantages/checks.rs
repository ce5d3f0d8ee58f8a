//! What the exercises of chapter 4 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, ensure};
use grpo::{
    advantage::{self, Scale},
    seed,
};
use rand::{Rng, rngs::StdRng};

exercise::checks! {
    by_hand => by_hand(by_hand);
    silent => silent(silent);
    clipped => clipped(clipped);
    equal_rewards => equal_rewards(equal_rewards);
    by_rank => by_rank(by_rank);
    shares => shares(shares);
    group_size => group_size(best_of_groups, one_answer);
    two_prompts => two_prompts(two_prompts);
}

/// Whether all numbers of two lists are within `tolerance` of each other.
fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

fn by_hand(yours: fn() -> [[f64; 4]; 2]) -> Result<()> {
    for (advantages, over) in yours().iter().zip(["n", "n − 1"]) {
        let sum: f64 = advantages.iter().sum();
        ensure!(
            sum.abs() < 0.01,
            "the advantages of a group must sum to 0; with σ over {over} yours sum to {sum:.3}: \
             did you subtract the mean?"
        );
    }
    let [population, sample] = yours();
    let sum_of_squares = |list: &[f64; 4]| list.iter().map(|a| a * a).sum::<f64>();
    ensure!(
        !close(&[sum_of_squares(&population), sum_of_squares(&sample)], &[3.0, 4.0], 0.02),
        "your lists stand the wrong way round: σ over n comes first"
    );
    let squares = sum_of_squares(&population);
    ensure!(
        (squares - 4.0).abs() < 0.02,
        "with σ over n the mean square of the advantages is 1; yours is {:.3}",
        squares / 4.0
    );
    let squares = sum_of_squares(&sample);
    ensure!(
        (squares - 3.0).abs() < 0.02,
        "with σ over n − 1 the squares of four advantages sum to 3; yours sum to {squares:.3}"
    );
    ensure!(
        population[3] > 0.0 && sample[3] > 0.0,
        "the last answer was the right one; its advantages must be above 0"
    );
    for advantages in [population, sample] {
        ensure!(
            advantages[..3].iter().all(|a| (a - advantages[0]).abs() < 0.002),
            "the three wrong answers earned the same, so their advantages are equal"
        );
    }
    Ok(())
}

fn silent(yours: fn(f64, usize) -> f64) -> Result<()> {
    for size in 2..=8 {
        for p in [0.0f64, 0.1, 0.5, 0.7, 1.0] {
            // Every group that can be, with its probability; bit i is answer i.
            let groups = (0..1u32 << size).map(|group| {
                let right = group.count_ones() as i32;
                let chance = p.powi(right) * (1.0 - p).powi(size as i32 - right);
                if right == 0 || right == size as i32 { chance } else { 0.0 }
            });
            let (expected, found) = (groups.sum::<f64>(), yours(p, size));
            let ends = [p, 1.0 - p].map(|chance| chance.powi(size as i32));
            let one_end = ends.iter().any(|end| close(&[found], &[*end], 1e-9));
            ensure!(
                (found - expected).abs() < 1e-9 || !one_end,
                "groups of {size} with chance {p} are silent with probability {expected:.4}; you \
                 say {found:.4}: silence has two ends, none right and all right"
            );
            ensure!(
                (found - expected).abs() < 1e-9,
                "groups of {size} with chance {p} are silent with probability {expected:.4}, if \
                 you add up every group there can be; you say {found:.4}"
            );
        }
    }
    Ok(())
}

fn clipped(yours: fn(&[f64], f64) -> Vec<f64>) -> Result<()> {
    let advantages = yours(&[1.0, 1.0, 1.0], 2.0);
    ensure!(
        advantages == [0.0; 3],
        "three equal rewards must give advantages of exactly 0; yours are {advantages:?}: \
         what is σ there?"
    );
    // The mean of ten times 0.1 is not 0.1 in floating point.
    let advantages = yours(&[0.1; 10], 2.0);
    ensure!(
        advantages == [0.0; 10],
        "ten rewards of 0.1 are equal too and must give exactly 0; yours are {advantages:?}: the \
         mean is rounded, so ask the rewards, and not σ, whether they are equal"
    );
    // Numbers of TRL's fixture would end in + 1e-4; these are of the notebook's text.
    let advantages = yours(&[2.0, 3.5, 1.0, 4.0, 2.5], 10.0);
    let expected = [-0.5026, 0.7539, -1.3403, 1.1728, -0.0838];
    let sum: f64 = advantages.iter().sum();
    ensure!(
        sum.abs() < 1e-9,
        "the advantages of a group must sum to 0; yours sum to {sum:.4}: did you subtract the mean?"
    );
    ensure!(
        close(&advantages, &expected, 1e-3),
        "rewards 2, 3.5, 1, 4, 2.5 have the advantages {expected:?} with σ over n − 1; \
         yours are {advantages:.4?}: did you divide by σ over n?"
    );
    let advantages = yours(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0], 1.5);
    let largest = advantages.iter().copied().fold(f64::MIN, f64::max);
    ensure!(
        (largest - 1.5).abs() < 1e-12,
        "seven rewards of 0 and one of 8: its advantage is 2.475 and must be cut to the limit \
         1.5; yours is {largest:.3}"
    );
    let smallest = advantages.iter().copied().fold(f64::MAX, f64::min);
    ensure!(
        (smallest + 0.3536).abs() < 1e-3,
        "only what lies beyond the limit is cut; the others there have −0.354 and yours {smallest:.3}: \
         did you cut the rewards, and not the advantages?"
    );
    let smallest = yours(&[8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 0.0], 1.5)
        .into_iter()
        .fold(f64::MAX, f64::min);
    ensure!(
        (smallest + 1.5).abs() < 1e-12,
        "an answer that is alone at the bottom has −2.475 and must be cut to −1.5; yours is \
         {smallest:.3}"
    );
    Ok(())
}

fn equal_rewards(yours: fn(&[f32]) -> Vec<f32>) -> Result<()> {
    for size in [3, 5, 8, 10] {
        let mut loud = Vec::new();
        for reward in (1..=100).map(|i| i as f32 / 100.0) {
            let advantages = yours(&vec![reward; size]);
            let count = advantages.len();
            ensure!(
                count == size,
                "{size} rewards have {size} advantages; yours has {count}"
            );
            if advantages.iter().any(|a| *a != 0.0) {
                loud.push((reward, advantages[0]));
            }
        }
        if let Some((reward, advantage)) = loud.first() {
            let count = loud.len();
            anyhow::bail!(
                "{size} equal rewards of {reward} must give exactly 0; yours give {advantage}, and \
                 not 0 in {count} of 100 such groups: the mean is rounded, so do not ask it, nor σ, \
                 whether the rewards are equal"
            );
        }
    }
    for unit in [1.0, 1e-6, 1e-12, 1e6] {
        let group = [2.0f32, 3.5, 1.0, 4.0, 2.5].map(|reward| reward * unit);
        let advantages: Vec<f64> = yours(&group).into_iter().map(f64::from).collect();
        let expected = [-0.5026, 0.7539, -1.3403, 1.1728, -0.0838];
        ensure!(
            unit >= 1.0 || advantages.iter().any(|a| *a != 0.0),
            "rewards of about {unit:e} that differ have the advantages of any others; yours are 0: \
             did you compare σ with a small number?"
        );
        ensure!(
            close(&advantages, &expected, 2e-3),
            "rewards {group:?} have the advantages {expected:?} whatever their unit; yours are \
             {advantages:.4?}: {}",
            if unit < 1.0 { "did you add something to σ?" } else { "is σ over n − 1?" }
        );
    }
    Ok(())
}

fn by_rank(yours: fn(&[f64]) -> Vec<f64>) -> Result<()> {
    let advantages = yours(&[3.0, 1.0, 4.0, 0.0, 2.0]);
    // Ranks 0 to 4 have the mean 2, and σ² = (4 + 1 + 0 + 1 + 4)/4 = 2.5.
    let unit = 1.0 / 2.5f64.sqrt();
    let expected = [unit, -unit, 2.0 * unit, -2.0 * unit, 0.0];
    ensure!(
        close(&advantages, &expected, 1e-9),
        "rewards 3, 1, 4, 0, 2 are their own ranks, with advantages {expected:.4?}; yours are \
         {advantages:.4?}: each advantage must stand where its reward stood"
    );
    for (name, group) in [
        ("with one far ahead", [30.0, 1.0, 4e6, -7.0, 2.0]),
        ("close together", [0.503, 0.501, 0.504, 0.5, 0.502]),
    ] {
        let found = yours(&group);
        ensure!(
            close(&found, &expected, 1e-9),
            "rewards {group:?}, {name}, have the order of 3, 1, 4, 0, 2 and so its advantages \
             {expected:.4?}; yours are {found:.4?}: did the rewards themselves slip in?"
        );
    }
    let (first, second) = (yours(&[1.0, 0.0, 1.0, 0.0]), yours(&[0.0, 1.0, 1.0, 0.0]));
    ensure!(
        close(&[first[0], first[1]], &[first[2], first[3]], 1e-12)
            && close(&[second[1]], &[first[0]], 1e-12),
        "rewards 1, 0, 1, 0: equal rewards share the mean of their ranks, so they have equal \
         advantages; yours are {first:.4?}"
    );
    // Two ranks, 0.5 and 2.5: one from their mean on each side, and σ² = 4/3.
    let half = 0.75f64.sqrt();
    ensure!(
        close(&first, &[half, -half, half, -half], 1e-9),
        "rewards 1, 0, 1, 0 have the ranks 2.5, 0.5, 2.5, 0.5 and the advantages ±{half:.4}; \
         yours are {first:.4?}"
    );
    let equal = yours(&[0.1; 5]);
    ensure!(equal == [0.0; 5], "five equal rewards have no order; yours gives {equal:?}");
    // The same right answers, one of them with a bonus: three-way ties have one middle.
    let ties = yours(&[2.0, 1.0, 1.0, 1.0, 0.0]);
    ensure!(
        close(&ties[1..4], &[0.0; 3], 1e-9) && (ties[0] + ties[4]).abs() < 1e-9,
        "rewards 2, 1, 1, 1, 0: the three in the middle share the rank 2, so their advantages \
         are 0; yours are {ties:.4?}"
    );
    Ok(())
}

/// The share of each prompt by counting: every number of right answers in a group of
/// `size`, with its probability, and what the group would then do to the prompt's logit.
fn counted(chances: &[f64], size: usize, scale: Scale) -> Result<Vec<f64>> {
    let mut updates = Vec::new();
    for &p in chances {
        let (mut update, mut probability) = (0.0, (1.0 - p).powi(size as i32));
        for right in 0..=size {
            let rewards: Vec<f64> = (0..size).map(|i| f64::from(i < right)).collect();
            let advantages = advantage::group_relative(&rewards, size, scale)?;
            let terms = advantages.iter().zip(&rewards).map(|(a, r)| a * (r - p));
            update += probability * terms.sum::<f64>();
            probability *= (size - right) as f64 / (right + 1) as f64 * p / (1.0 - p);
        }
        updates.push(update);
    }
    let total: f64 = updates.iter().sum();
    Ok(updates.into_iter().map(|update| update / total).collect())
}

fn shares(yours: fn(&[f64]) -> [Vec<f64>; 2]) -> Result<()> {
    let found = yours(&[0.5, 1.0, 0.0, 0.5]);
    for (shares, name) in found.iter().zip(["centred", "standardised"]) {
        ensure!(
            close(shares, &[0.5, 0.0, 0.0, 0.5], 1e-9),
            "chances 0.5, 1, 0, 0.5: a prompt that is always or never answered rightly is silent \
             and gets nothing, the other two half each; yours, {name}, are {shares:.3?}"
        );
    }
    let silent = yours(&[0.0, 1.0]);
    ensure!(
        silent.iter().all(|shares| close(shares, &[0.0; 2], 0.0)),
        "chances 0 and 1: nobody gets any update, so all shares are 0; yours are {silent:?}"
    );
    let chances = [0.05, 0.2, 0.45];
    let [centred, standardised] = yours(&chances);
    let expected =
        [counted(&chances, 500, Scale::None)?, counted(&chances, 500, Scale::Population)?];
    ensure!(
        !(close(&centred, &expected[1], 0.01) && close(&standardised, &expected[0], 0.01)),
        "your lists stand the wrong way round: centred rewards come first"
    );
    for ((name, found), expected) in
        [("centred", &centred), ("standardised", &standardised)].into_iter().zip(&expected)
    {
        let sum: f64 = found.iter().sum();
        ensure!(
            (sum - 1.0).abs() < 1e-9,
            "shares sum to 1; yours, {name}, sum to {sum:.4}: did you divide by the total?"
        );
        ensure!(
            close(found, expected, 0.01),
            "chances {chances:?}: counting all groups of 500 gives the shares {expected:.3?}, {name}; \
             yours are {found:.3?}: what is the variance of a reward that is 1 with probability p?"
        );
    }
    Ok(())
}

type MeanStd = Result<(f64, f64)>;

fn group_size(
    best: fn(&[f64], usize) -> MeanStd,
    one: fn(f64, &[f64], usize) -> MeanStd,
) -> Result<()> {
    let (mean, std) = best(&[1.0, 0.0, 3.0, 3.5, -2.0, 7.0, 5.0, 4.0], 2)?;
    let half = 0.5f64.sqrt();
    ensure!(
        (mean - half).abs() < 1e-9 && std.abs() < 1e-9,
        "best_of_groups: in a group of two the better answer always has 0.7071, so the standard \
         deviation is 0; yours are {mean:.4} and {std:.4}{}",
        if (mean - 1.0).abs() < 1e-9 { ": is σ over n − 1?" } else { "" }
    );
    // One winner of four has 1.5 over n − 1; a silent group has 0.
    let (mean, std) = best(&[0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4)?;
    ensure!(
        mean.abs() < 10.0,
        "best_of_groups: among the groups 0, 1, 0, 0 and 1, 1, 1, 1 one is silent, and its best \
         advantage is 0; yours is not a number, or has no size: did you divide 0 by 0?"
    );
    ensure!(
        (mean - 0.75).abs() < 1e-9,
        "best_of_groups: the groups 0, 1, 0, 0 and 1, 1, 1, 1 have the best advantages 1.5 and 0, \
         whose mean is 0.75; yours is {mean:.4}: is the silent group counted?"
    );
    ensure!(
        (std - 1.5 * half).abs() < 1e-9,
        "best_of_groups: the standard deviation of 1.5 and 0 over n − 1 is 1.0607; yours is \
         {std:.4}"
    );
    // Between 1 and 0 the answer is alone at the top once, in the middle, and last.
    let (mean, std) = one(1.0, &[0.0, 0.0, 0.0, 2.0, 2.0, 2.0], 3)?;
    let alone = 2.0 / 3f64.sqrt();
    ensure!(
        mean.abs() < 1e-9,
        "one_answer: reward 1 among 0, 0 then 0, 2 then 2, 2 has the advantages 1.1547, 0, \
         −1.1547, whose mean is 0; yours is {mean:.4}: each group takes the next size − 1 companions"
    );
    ensure!(
        (std - alone).abs() < 1e-9,
        "one_answer: 1.1547, 0, −1.1547 have the standard deviation 1.1547; yours is {std:.4}: \
         is it of one answer, over the groups?"
    );
    let (mean, _) = one(1.0, &[1.0, 1.0, 0.0, 0.0, 7.0], 3)?;
    ensure!(
        (mean - alone / 2.0).abs() < 1e-9,
        "one_answer: reward 1 among 1, 1 has the advantage 0, and among 0, 0 it has 1.1547; the \
         mean is 0.5774; yours is {mean:.4}: the first group is silent, and the 7 at the end is \
         one companion too few for a third"
    );
    // What the figure shows, on other numbers: sums of twelve uniform ones.
    let mut rng = seed::rng(40);
    let mut normals = |count: usize| -> Vec<f64> {
        let sum = |_| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        (0..count).map(sum).collect()
    };
    let (few, many) = (one(1.0, &normals(3_000), 4)?, one(1.0, &normals(31_000), 32)?);
    ensure!(
        (many.0 - 1.0).abs() < 0.06 && many.1 < 0.6 * few.1,
        "one_answer: an answer one σ above the mean of all has about 1 in groups of 32, and \
         varies less there than in groups of 4; yours are {many:.3?} and {few:.3?}"
    );
    Ok(())
}

type TwoPrompts = fn(Scale, f64, usize, &mut StdRng) -> Result<Vec<[f64; 2]>>;

fn two_prompts(yours: TwoPrompts) -> Result<()> {
    let start = yours(Scale::None, 0.1, 1, &mut seed::rng(0))?;
    let count = start.len();
    ensure!(count == 1, "1 step leaves 1 pair of probabilities; yours leaves {count}");
    ensure!(
        close(&start[0], &[0.1; 2], 1e-9),
        "a uniform table gives each of ten answers 0.1, and the first pair is from before the \
         first step; yours is {:?}",
        start[0]
    );
    first_step(yours)?;
    for (scale, times) in [(Scale::None, 3.0..f64::INFINITY), (Scale::Population, 0.5..2.0)]
    {
        let mut arrivals = [0.0; 2];
        for seed in 1..=5 {
            let curve = yours(scale, 1.0, 200, &mut seed::rng(seed))?;
            for (prompt, arrival) in arrivals.iter_mut().enumerate() {
                let found = curve.iter().position(|p| p[prompt] > 0.5);
                let last = curve.last().map_or(0.0, |p| p[prompt]);
                *arrival += found.with_context(|| {
                    format!(
                        "after 200 steps at learning rate 1 prompt {prompt} must be learnt with \
                         {scale:?}; your policy gives its right answer {last:.3}: do the rows of \
                         each group meet their own advantages?"
                    )
                })? as f64;
            }
        }
        let ratio = arrivals[0] / arrivals[1].max(1.0);
        ensure!(
            times.contains(&ratio),
            "with {scale:?} prompt 0 must take {} as many steps to 0.5 as prompt 1; yours takes \
             {ratio:.1} times as many: does each group have its own mean and its own σ?",
            if times.end.is_finite() { "about" } else { "more than three times" }
        );
    }
    Ok(())
}

/// The first step, on average over seeds, against its expectation. From a uniform table,
/// with centred rewards, the logits move by η · ½ · ⅞ · m · ∂p/∂z, where ½ is the prompt's
/// part of the batch, ⅞ what the mean of a group of 8 leaves, and m the mark. So p moves
/// by that times ‖∂p/∂z‖² = p² ((1 − p)² + 9 p²) = 0.009.
fn first_step(yours: TwoPrompts) -> Result<()> {
    let (rate, seeds) = (0.01, 600);
    let mut moved = [0.0; 2];
    for seed in 0..seeds {
        let curve = yours(Scale::None, rate, 2, &mut seed::rng(1_000 + seed))?;
        ensure!(curve.len() == 2, "2 steps leave 2 pairs; yours leaves {}", curve.len());
        (0..2).for_each(|i| moved[i] += (curve[1][i] - curve[0][i]) / seeds as f64);
    }
    for (prompt, mark) in [1.0, 10.0].into_iter().enumerate() {
        let (expected, found) = (rate * 0.5 * 0.875 * mark * 0.009, moved[prompt]);
        let times = found / expected;
        ensure!(
            times > 0.05,
            "the right answer to prompt {prompt} must become likelier; on average your first step \
             changes its probability by {found:.1e}: is the loss minus the mean, and does each \
             row meet its own advantage?"
        );
        ensure!(
            (times - 1.0).abs() < 0.3,
            "with centred rewards and learning rate {rate} the first step makes the right answer to \
             prompt {prompt} likelier by {expected:.2e} on average; yours by {times:.2} times as \
             much: is the loss a mean over all 16 answers, and is it one step of SGD?"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(check: Result<()>, words: &str) {
        let message = check.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_turns_get_the_message_for_them() {
        says(by_hand(|| [[0.0, 0.0, 0.0, 1.0]; 2]), "did you subtract the mean");
        says(by_hand(|| [[-0.5, -0.5, -0.5, 1.5]; 2]), "mean square");
        let swapped = || {
            let [population, sample] = solutions::by_hand();
            [sample, population]
        };
        says(by_hand(swapped), "wrong way round");
        says(silent(|p, size| (1.0 - p).powi(size as i32)), "two ends");
        says(silent(|p, size| 1.0 - p.powi(size as i32)), "every group there can be");
        says(silent(|_, _| f64::NAN), "every group there can be");
        says(clipped(|r, _| r.to_vec()), "exactly 0");
        let asks_sigma = |r: &[f64], limit: f64| {
            let (mean, sigma) = grpo::stats::mean_std(r);
            r.iter().map(|r| ((r - mean) / (sigma + 1e-8)).clamp(-limit, limit)).collect()
        };
        says(clipped(asks_sigma), "ask the rewards");
        says(clipped(|r, _| solutions::clipped(r, f64::INFINITY)), "cut to the limit");
        let above = |r: &[f64], limit: f64| {
            let advantages = solutions::clipped(r, f64::INFINITY);
            advantages.into_iter().map(|a| a.min(limit)).collect()
        };
        says(clipped(above), "at the bottom");
    }

    #[test]
    fn whoever_asks_sigma_is_told_not_to() {
        fn naive(rewards: &[f32], epsilon: f32, guard: f32) -> Vec<f32> {
            let n = rewards.len() as f32;
            let mean = rewards.iter().sum::<f32>() / n;
            let squares: f32 = rewards.iter().map(|r| (r - mean).powi(2)).sum();
            let sigma = (squares / (n - 1.0)).sqrt();
            let of =
                |r: &f32| if sigma < guard { 0.0 } else { (r - mean) / (sigma + epsilon) };
            rewards.iter().map(of).collect()
        }
        says(equal_rewards(|r| naive(r, 1e-8, 0.0)), "the mean is rounded");
        says(equal_rewards(|r| naive(r, 0.0, 1e-8)), "the mean is rounded");
        says(equal_rewards(|r| naive(r, 0.0, 1e-6)), "with a small number");
        let mixed = |r: &[f32]| match r.iter().all(|x| *x == r[0]) {
            true => vec![0.0; r.len()],
            false => naive(r, 1e-4, 0.0),
        };
        says(equal_rewards(mixed), "did you add something");
    }

    #[test]
    fn ranks_and_shares_say_what_was_mixed_up() {
        let sorted = |r: &[f64]| {
            let mut r = r.to_vec();
            r.sort_by(f64::total_cmp);
            solutions::by_rank(&r)
        };
        says(by_rank(sorted), "where its reward stood");
        says(by_rank(|r| solutions::clipped(r, f64::INFINITY)), "slip in");
        let first_come = |r: &[f64]| {
            let rank = |i: usize| (0..r.len()).filter(|&j| (r[j], j) < (r[i], i)).count();
            solutions::by_rank(&(0..r.len()).map(|i| rank(i) as f64).collect::<Vec<_>>())
        };
        says(by_rank(first_come), "share the mean of their ranks");
        let turned = |c: &[f64]| {
            let [centred, standardised] = solutions::shares(c);
            [standardised, centred]
        };
        says(shares(turned), "the wrong way round");
        says(shares(|c| [c.to_vec(), c.to_vec()]), "is silent and gets nothing");
        says(shares(|_| [vec![f64::NAN], vec![0.0]]), "is silent and gets nothing");
    }

    #[test]
    fn group_sizes_say_which_convention_and_which_groups() {
        let over_n = |r: &[f64], size: usize| {
            let (mean, std) = solutions::best_of_groups(r, size)?;
            let factor = (size as f64 / (size as f64 - 1.0)).sqrt();
            Ok((mean * factor, std * factor))
        };
        says(group_size(over_n, solutions::one_answer), "is σ over n − 1?");
        let speaking = |r: &[f64], size: usize| {
            let groups = r.chunks(size).filter(|g| !advantage::is_silent(g));
            solutions::best_of_groups(&groups.flatten().copied().collect::<Vec<_>>(), size)
        };
        says(group_size(speaking, solutions::one_answer), "is the silent group counted");
        let divides_by_zero = |r: &[f64], size: usize| {
            let best = |group: &[f64]| {
                let (mean, sigma) = grpo::stats::mean_std(group);
                let advantages = group.iter().map(|r| (r - mean) / sigma);
                advantages.fold(f64::NEG_INFINITY, f64::max)
            };
            Ok(grpo::stats::mean_std(&r.chunks(size).map(best).collect::<Vec<_>>()))
        };
        says(group_size(divides_by_zero, solutions::one_answer), "did you divide 0 by 0");
        let last_one_short = |reward: f64, others: &[f64], size: usize| {
            let groups = others.chunks(size - 1).map(|companions| {
                let group = [&[reward], companions].concat();
                let advantages =
                    advantage::group_relative(&group, group.len(), Scale::Unbiased)?;
                Ok(advantages[0])
            });
            Ok(grpo::stats::mean_std(&groups.collect::<Result<Vec<f64>>>()?))
        };
        says(
            group_size(solutions::best_of_groups, last_one_short),
            "one companion too few",
        );
        let fixed = |reward: f64, others: &[f64], size: usize| {
            solutions::one_answer(reward, &others[..size - 1], size)
        };
        says(group_size(solutions::best_of_groups, fixed), "the next size − 1");
    }

    #[test]
    fn two_prompts_say_what_went_the_wrong_way() {
        says(two_prompts(|_, _, steps, _| Ok(vec![[0.5; 2]; steps])), "a uniform table");
        let uphill: TwoPrompts =
            |scale, rate, steps, rng| solutions::two_prompts(scale, -rate, steps, rng);
        says(two_prompts(uphill), "must become likelier");
        let summed: TwoPrompts = |scale, rate, steps, rng| {
            solutions::two_prompts(scale, 16.0 * rate, steps, rng)
        };
        says(two_prompts(summed), "a mean over all 16 answers");
        let always: TwoPrompts =
            |_, rate, steps, rng| solutions::two_prompts(Scale::None, rate, steps, rng);
        says(two_prompts(always), "its own σ");
    }
}
