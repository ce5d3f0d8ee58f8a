//! Your answers to the exercises of chapter 8. `cargo exercise watch 8` checks them
//! each time you save.

use rand::{Rng, rngs::StdRng};

// ANCHOR: half_speak
/// An answer to a prompt is right with probability p = 0.02. Returns the smallest
/// group size with which at least half of the groups speak, which means that they
/// hold a right answer and a wrong one. Work it out on paper: ln 0.5 is −0.693, ln
/// 0.98 is −0.0202, and the groups that are right throughout hardly count.
pub fn half_speak() -> usize {
    todo!()
}
// ANCHOR_END: half_speak

// ANCHOR: silent_share
/// The share of groups in which all answers earn the same, when each is right
/// (reward 1) with probability `p` and else wrong (reward 0). `p` is from 0 to 1,
/// both included, and `group_size` at least 1.
pub fn silent_share(p: f64, group_size: usize) -> f64 {
    todo!()
}
// ANCHOR_END: silent_share

// ANCHOR: silent_estimate
/// The same by sampling, over prompts that differ: `chances` holds each prompt's
/// p. Draws `trials` groups, for each one a prompt, any as likely as any other,
/// and then `group_size` answers to it. Returns three shares of the groups that
/// sum to 1: `[silent and all wrong, silent and all right, speaking]`.
pub fn silent_estimate(
    chances: &[f64],
    group_size: usize,
    trials: usize,
    rng: &mut StdRng,
) -> [f64; 3] {
    todo!()
}
// ANCHOR_END: silent_estimate

// ANCHOR: group_means
/// The notebook's simulation. Returns the mean reward of each of `trials` groups.
/// A group has `group_size` rewards, each 1, −0.5 or −1 with equal chance: `[1.0,
/// -0.5, -1.0][rng.random_range(0..3)]`, and nothing else is drawn from `rng`.
pub fn group_means(group_size: usize, trials: usize, rng: &mut StdRng) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: group_means

// ANCHOR: diminishing
/// When is the next answer no longer worth it? The deviation of the mean of a
/// group falls with its size. Returns the smallest G at which one more answer
/// would make it fall by less than `share` of what it is. `share` is between 0 and
/// 1, and G at least 1.
///
/// `diminishing(0.05)` says from which G on the next answer removes less than 5 %
/// of the error.
pub fn diminishing(share: f64) -> usize {
    todo!()
}
// ANCHOR_END: diminishing

// ANCHOR: advantage_variance
/// The variance of the advantage of one answer, exactly. Each of the `group_size`
/// answers earns 1 with probability `p` and else 0. Returns it for two kinds of
/// advantages:
///
/// 1. the reward minus the mean of the group,
/// 2. the same divided by σ with n − 1, and 0 in a silent group.
///
/// Nothing is sampled: a group with k right answers is as likely as the binomial
/// distribution says. `group_size` is from 2 to 64.
pub fn advantage_variance(p: f64, group_size: usize) -> [f64; 2] {
    todo!()
}
// ANCHOR_END: advantage_variance

// ANCHOR: best_group_size
/// The best G at equal work. Prompts differ, and so do the answers to one prompt: the
/// gradient of one group has the variance `between` + `within` / G. A prompt is read
/// once, so a group costs `prompt` + G · `answer` tokens. A step has a fixed number
/// of tokens to spend on groups, and its gradient is their mean.
///
/// Returns the G from 2 to 1024 whose step has the smallest variance; of two that
/// are equal the smaller. Ignore that the number of groups should be whole.
/// `between` and `answer` are above 0, `within` and `prompt` 0 or more.
pub fn best_group_size(between: f64, within: f64, prompt: f64, answer: f64) -> usize {
    todo!()
}
// ANCHOR_END: best_group_size

// ANCHOR: ablation
/// Designs and carries out an ablation of G that is fair. One training run is
/// `train(group_size, [prompts, steps], learning_rate, seed)`, with so many
/// prompts in each of so many steps; it returns the true reward at the end. What
/// is fair:
///
/// - Every run samples `answers` answers in each step, in groups of its G, and
///   `budget` answers in all. All numbers divide without a rest.
/// - Each G gets a learning rate of its own: the one of `rates` with the highest
///   mean over the seeds 0..`seeds`; of two that are equal the earlier.
/// - What is reported is measured on seeds that had no part in that choice,
///   `seeds`..2 · `seeds`, the same for every G, and only at the chosen rate.
///
/// Returns `[learning rate, mean, standard deviation (n − 1)]` of the reported
/// runs for each of `group_sizes`, in their order. `seeds` is at least 2, and
/// `rates` holds at least one.
pub fn ablation(
    group_sizes: &[usize],
    rates: &[f64],
    seeds: u64,
    [answers, budget]: [usize; 2],
    train: &mut dyn FnMut(usize, [usize; 2], f64, u64) -> f64,
) -> Vec<[f64; 3]> {
    todo!()
}
// ANCHOR_END: ablation
