//! Worlds to act in, of plain numbers. A small one computes what it can exactly, so that
//! a learning curve shows the policy and not the luck of an evaluation.
//!
//! Left out: a trait for environments. A bandit and a cart have little in common but
//! that one acts in them.

pub mod bandit;
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
