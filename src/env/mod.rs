//! Worlds that answer an action with a new state and a reward.
//!
//! Environments know plain numbers and nothing of policies or tensors' gradients: a
//! rollout asks for a function from states to actions, and a hand-written rule is as
//! good an answer as a network.
//!
//! Left out: a trait for environments, because there is one.

pub mod cartpole;

/// Whether an episode goes on, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    Running,
    /// The world ended it: no reward can follow. Here, the pole fell or the cart left.
    Terminated,
    /// Only the clock ended it. The state is as good as any, and a critic would have
    /// to be asked what it is still worth.
    Truncated,
}
