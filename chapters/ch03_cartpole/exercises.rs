//! Your answers to the exercises of chapter 3. `cargo exercise watch 3` checks them
//! each time you save.

use candle_core::Tensor;
use candle_nn::Linear;
use grpo::{
    Result,
    env::{
        End,
        cartpole::{Episodes, State},
    },
    variables::Init,
};

// ANCHOR: first_loss
/// Four episodes of one group last 20, 20, 20 and 500 steps. All their steps form one
/// batch, and each step has the advantage of its episode: the return, minus the mean of
/// the group, divided by the group's standard deviation σ. σ² is the sum of the four
/// squared distances from the mean, divided by n − 1 = 3.
///
/// Returns the loss at the first gradient step, where every ratio is 1, and then the same
/// for episodes of 20, 20, 20 and 30 steps. Work them out on paper, to three digits.
pub fn first_loss() -> [f64; 2] {
    todo!()
}
// ANCHOR_END: first_loss

// ANCHOR: rule
/// A rule that balances the pole *and* keeps the cart on the track. For each state
/// (position, velocity, angle, angular velocity) it returns 1 to push to the right or 0 to
/// push to the left.
///
/// It must stand for all 500 steps from each of a hundred starts.
pub fn rule(states: &[[f32; 4]]) -> Result<Vec<u32>> {
    todo!()
}
// ANCHOR_END: rule

// ANCHOR: step_advantages
/// One advantage for every step of a batch of N episodes.
///
/// `returns` has N numbers. A group is `group_size` neighbours in it. `episode` has S
/// numbers: which of the N episodes each step belongs to. Returns S advantages: that of
/// the step's episode, compared within its group. Divide by σ + 1e-4, where σ is the
/// standard deviation with n − 1: `grpo::advantage` has this as `Scale::Trl`.
pub fn step_advantages(
    returns: &[f64],
    episode: &[usize],
    group_size: usize,
) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: step_advantages

// ANCHOR: shaped
/// The returns (N) of the same episodes with another reward: a step earns `upright`, but
/// `leaning` if the state seen before it leans more than 6° to either side.
pub fn shaped(episodes: &Episodes, upright: f64, leaning: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: shaped

// ANCHOR: largest_fall
/// The largest fall of a learning curve: the place of the peak and, after it, that of the
/// trough, so that no other pair of places falls deeper. `None` if the curve never falls.
/// If several falls are equally deep, any of them will do.
pub fn largest_fall(curve: &[f64]) -> Option<(usize, usize)> {
    todo!()
}
// ANCHOR_END: largest_fall

// ANCHOR: step_all
/// One step of N environments together, of which some have ended. All three slices have N
/// entries: the states, the steps that each has lasted, and whether and how it ended.
///
/// `actions` has one entry for each environment that is still `End::Running`, in their
/// order: 1 pushes to the right, 0 to the left. `cartpole::step` gives the next state. An
/// environment that has then `cartpole::fallen` is `Terminated`, and one that has lasted
/// `cartpole::MAX_STEPS` without falling is `Truncated`. Environments that had ended stay as
/// they are. A wrong number of actions, or an action other than 0 and 1, is an error, and
/// nothing has moved.
pub fn step_all(
    states: &mut [State],
    steps: &mut [usize],
    ends: &mut [End],
    actions: &[u32],
) -> Result<()> {
    todo!()
}
// ANCHOR_END: step_all

// ANCHOR: network
/// The layers of a network of any depth. `sizes` are the numbers of features, of units in
/// each hidden layer, and of actions: [4, 64, 2] has two layers and [4, 2] one.
///
/// Layer i gets its numbers from `init`: first a weight named "i.weight" of shape
/// (outputs, inputs), normal with standard deviation 1/√inputs, and a hundred times
/// smaller in the last layer; then a bias of zeros, named "i.bias".
pub fn layers(sizes: &[usize], init: &mut Init) -> Result<Vec<Linear>> {
    todo!()
}

/// Features (B, …, F) → logits (B, …, A): one layer after the other, with tanh between
/// them.
pub fn forward(layers: &[Linear], features: &Tensor) -> Result<Tensor> {
    todo!()
}
// ANCHOR_END: network

// ANCHOR: reward_to_go
/// Advantages that credit a step only with what came after it. Takes and returns what
/// `step_advantages` does.
///
/// Steps are in the order in which they happened: the first of every episode, then the
/// second of those that still ran, and so on. At time t, counted from 0, an episode of
/// return R has R − t still to earn. The advantage of its step is that, minus the mean of
/// the same over all episodes of its group that still run at time t (itself among them),
/// divided by σ + 1e-4, where σ is the standard deviation (n − 1) of the group's returns.
pub fn reward_to_go(
    returns: &[f64],
    episode: &[usize],
    group_size: usize,
) -> Result<Vec<f64>> {
    todo!()
}
// ANCHOR_END: reward_to_go
