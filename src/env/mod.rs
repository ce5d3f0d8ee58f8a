//! Worlds to act in. Each computes what it can exactly, so that a learning curve shows
//! the policy and not the luck of an evaluation.

pub mod bandit;
