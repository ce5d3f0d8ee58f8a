//! Your answers to the exercises of chapter 4. `cargo exercise watch 4` checks them
//! each time you save.

use grpo::{Result, advantage::Scale};
use rand::rngs::StdRng;

// ANCHOR: by_hand
/// Three answers to a prompt are wrong, reward 0, and the last is right, reward 1.
/// Returns their four advantages, first with σ over n (the population σ), then with σ
/// over n − 1. Work them
/// out on paper, to three digits.
pub fn by_hand() -> [[f64; 4]; 2] {
    todo!()
}
// ANCHOR_END: by_hand

// ANCHOR: silent
/// The chance that a group of `size` answers is silent, when each is right, independently
/// of the others, with probability `p`. A right answer earns 1 and a wrong one 0.
pub fn silent(p: f64, size: usize) -> f64 {
    todo!()
}
// ANCHOR_END: silent

// ANCHOR: clipped
/// The advantages of one group, with σ over n − 1, cut to −`limit` ..= `limit`. A group
/// whose rewards are all equal has advantages of exactly 0.
pub fn clipped(rewards: &[f64], limit: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: clipped

// ANCHOR: equal_rewards
/// The advantages of one group in single precision, with σ over n − 1.
///
/// A group whose rewards are all equal gets exactly 0. A group whose rewards differ keeps
/// its full advantages, however little they differ: add nothing to σ, and compare it with
/// no small number. A group has at least two rewards.
pub fn equal_rewards(rewards: &[f32]) -> Vec<f32> {
    todo!()
}
// ANCHOR_END: equal_rewards

// ANCHOR: by_rank
/// The advantages of one group, of which only the order of the rewards counts.
///
/// Replace each reward by its rank: 0 for the smallest, then 1, 2, up to G − 1. Equal
/// rewards share the mean of the ranks that they take up together. Then subtract the mean
/// of the ranks and divide by their σ, over n − 1. If all rewards are equal, the
/// advantages are exactly 0.
pub fn by_rank(rewards: &[f64]) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: by_rank

// ANCHOR: shares
/// How the update of a batch is shared out among prompts, in very large groups.
///
/// The policy answers prompt i rightly with probability `chances[i]`. A right answer
/// earns 1, a wrong one 0. Returns the share of each prompt in the expected update, first
/// with centred rewards, then with standardised ones. Each list sums to 1, unless no
/// prompt gets any update; then all its shares are 0.
pub fn shares(chances: &[f64]) -> [Vec<f64>; 2] {
    todo!()
}
// ANCHOR_END: shares

// ANCHOR: group_size
/// The best advantage: its mean, and its standard deviation (n − 1), over groups. A group
/// is `size` neighbours in `rewards`. Advantages have σ over n − 1; a silent group's best
/// advantage is 0.
pub fn best_of_groups(rewards: &[f64], size: usize) -> Result<(f64, f64)> {
    todo!()
}

/// The advantage of one and the same answer: its mean, and its standard deviation
/// (n − 1), over groups. In each group the answer earns `reward`, and its companions are
/// the next `size` − 1 numbers of `others`; what is left at the end, too few for a group,
/// is not used. Advantages have σ over n − 1, and in a silent group they are 0.
pub fn one_answer(reward: f64, others: &[f64], size: usize) -> Result<(f64, f64)> {
    todo!()
}
// ANCHOR_END: group_size

// ANCHOR: two_prompts
/// Trains one policy on two prompts with ten possible answers each. To prompt 0 the right
/// answer is 3, and it earns 1. To prompt 1 it is 7, and another grader gives 10 for it.
/// All other answers earn 0.
///
/// The policy is a fresh `Table::uniform(2, 10, …)` in double precision. Each step samples
/// a group of 8 answers to each prompt, turns the rewards of each group into advantages
/// with `scale`, and takes one step of plain gradient descent (`candle_nn::SGD`) on minus
/// the mean, over all 16 answers, of A · log π.
///
/// Returns `steps` pairs: the probabilities of the two right answers before each step.
pub fn two_prompts(
    scale: Scale,
    learning_rate: f64,
    steps: usize,
    rng: &mut StdRng,
) -> Result<Vec<[f64; 2]>> {
    todo!()
}
// ANCHOR_END: two_prompts
