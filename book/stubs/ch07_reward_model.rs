//! Your answers to the exercises of chapter 7. `cargo exercise watch 7` checks them
//! each time you save.

use candle_core::Tensor;
use grpo::{Result, dpo::Pairs};
use rand::rngs::StdRng;

// ANCHOR: surprise
/// Two answers have the strengths 2 and 0.5. Bradley and Terry say how often the
/// stronger one wins, and their loss pushes the winner's reward up. Returns three
/// numbers, worked out on paper, to three digits:
///
/// 1. the probability that the stronger answer wins,
/// 2. the push on the winner, −∂loss/∂r_w, in a comparison that the stronger one
///    won,
/// 3. the push on the winner in a comparison that the *weaker* one won.
///
/// e^−1.5 is 0.223.
pub fn surprise() -> [f64; 3] {
    todo!()
}
// ANCHOR_END: surprise

// ANCHOR: preference_loss
/// The loss of Bradley and Terry: rewards of the chosen answers (B) and of the
/// rejected ones (B) → the mean of −log σ(r_w − r_l), a scalar, with a gradient to
/// both.
///
/// Rewards may be 1000 apart, and then the loss is still a finite number with the
/// right gradient. At two equal rewards the gradient is right as well. B is at
/// least 1.
pub fn preference_loss(chosen: &Tensor, rejected: &Tensor) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: preference_loss

// ANCHOR: dpo_loss
/// The loss of DPO: log-probs (B) of the chosen and of the rejected answers, by
/// the policy and by the reference → a scalar. The implicit reward of an answer is
/// β (log π − log π_ref), and the loss is that of Bradley and Terry for these
/// rewards.
///
/// The policy gets a gradient, and the reference none, even if its log-probs come
/// straight from variables. `beta` is above 0.
pub fn dpo_loss(policy: Pairs, reference: Pairs, beta: f64) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: dpo_loss

// ANCHOR: tilted
/// The policy with the most reward under a leash, for one prompt: the probabilities
/// π with the largest value of Σ π r − β KL(π ‖ π_ref). `reference` (A) holds π_ref,
/// probabilities that sum to 1 and may be 0; `rewards` (A) holds r; `beta` is above 0.
///
/// Rewards of 500 and a `beta` of 0.01 must not overflow. Returns A probabilities.
pub fn tilted(reference: &[f64], rewards: &[f64], beta: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: tilted

// ANCHOR: at_equal_kl
/// Reads a line of the landscape. `line` holds the points (KL, true reward) of one
/// method, one for each β, in any order, no two with the same KL. Returns the
/// reward at the given `kl`, on the straight line between the two neighbours;
/// `None` where the method has no point on one of the two sides. A point exactly at
/// `kl` is a neighbour on both.
pub fn at_equal_kl(line: &[(f64, f64)], kl: f64) -> Option<f64> {
    todo!()
}
// ANCHOR_END: at_equal_kl

// ANCHOR: train
/// A whole training, for one prompt with A answers of one token. The policy is a
/// softmax over A logits and starts at `reference` (A), probabilities above 0.
/// Takes 3,000 steps of plain gradient descent with a learning rate of 0.05. In
/// each step:
///
/// - draw `group_size` answers from the policy as it is now,
/// - the advantage of an answer is its entry in `rewards` (A) minus the mean
///   reward of the group, without σ,
/// - the loss is −mean(advantage · log π), plus `beta` times KL(π ‖ π_ref), the
///   exact one, a sum over all A answers.
///
/// Returns the mean of the probabilities (A) over the last 1,500 steps. `group_size`
/// is at least 2, and `beta` 0 or more. Autograd or a gradient by hand, as you like;
/// all randomness comes from `rng`.
pub fn train(
    reference: &[f64],
    rewards: &[f64],
    group_size: usize,
    beta: f64,
    rng: &mut StdRng,
) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: train

// ANCHOR: rounds
/// Asks again. For one prompt with A answers, in each of `rounds` rounds:
///
/// - draw `comparisons` pairs of two different answers from the policy as it is
///   now, each pair a first answer from the policy, and a second from the policy
///   without the first,
/// - let `prefers(a, b, rng)` say for each pair whether a wins,
/// - fit rewards (A) to *all* comparisons so far, by Bradley and Terry, with the
///   penalty 0.5 Σ r² added to the sum of the losses, so that an answer that
///   always wins keeps a finite reward,
/// - the next policy is the best one for these rewards under the leash `beta`,
///   with `reference` (A) as π_ref in every round.
///
/// The first round draws from `reference`, whose probabilities are above 0.
/// Returns the policy (A) after the last round. All randomness comes from `rng`.
pub fn rounds(
    reference: &[f64],
    prefers: &dyn Fn(usize, usize, &mut StdRng) -> bool,
    [rounds, comparisons]: [usize; 2],
    beta: f64,
    rng: &mut StdRng,
) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: rounds
