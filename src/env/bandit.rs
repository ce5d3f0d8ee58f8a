//! A contextual bandit: see a context, choose one action, receive a reward, done.
//!
//! It is the smallest world with something to learn in it. Because contexts and
//! actions can be counted, the expected reward of a policy is a finite sum,
//!
//! ```text
//! J = (1/C) Σ_c Σ_a π(a | c) r(c, a)
//! ```
//!
//! Left out: noise in the rewards. Sampling actions is noise enough.

use crate::{
    Result,
    advantage::Scale,
    log_prob::{self, Scores},
    policy::Policy,
    rollout::Rollout,
    sampling, seed,
};
use candle_core::{D, DType, Device, Tensor};
use rand::{Rng, rngs::StdRng};

/// C contexts described by F features, and a reward for each of A actions.
pub struct Bandit {
    /// What a policy sees of each context, (C, F), standard normal.
    pub features: Tensor,
    /// Rewards (C, A), uniform in 0..1.
    pub rewards: Tensor,
}

/// A batch of decisions to take.
#[derive(Clone)]
pub struct Contexts {
    /// Which contexts, (B).
    pub ids: Tensor,
    /// The features of each, (B, F).
    pub features: Tensor,
}

impl Bandit {
    /// A random world of `[contexts, features, actions]`.
    ///
    /// # Errors
    /// Passes on Candle's error when a tensor cannot be made.
    pub fn random(
        [contexts, features, actions]: [usize; 3],
        rng: &mut StdRng,
        device: &Device,
    ) -> Result<Self> {
        let features = seed::normal(rng, (contexts, features), 1.0, DType::F32, device)?;
        let rewards: Vec<f32> = (0..contexts * actions).map(|_| rng.random()).collect();
        let rewards = Tensor::from_vec(rewards, (contexts, actions), device)?;
        Ok(Self { features, rewards })
    }

    /// The same world with a reward that can be verified: 1 for the best action of a
    /// context, 0 for all others. [`Bandit::values`] is then the chance to be right.
    ///
    /// # Errors
    /// Passes on Candle's error.
    pub fn verifiable(&self) -> Result<Self> {
        let best = self.rewards.max_keepdim(1)?;
        let rewards = self.rewards.broadcast_ge(&best)?.to_dtype(self.rewards.dtype())?;
        Ok(Self { features: self.features.clone(), rewards })
    }

    /// `count` contexts, each as likely as any other.
    ///
    /// # Errors
    /// Passes on Candle's error.
    pub fn draw(&self, count: usize, rng: &mut StdRng) -> Result<Contexts> {
        let contexts = self.features.dim(0)? as u32;
        let ids: Vec<u32> = (0..count).map(|_| rng.random_range(0..contexts)).collect();
        let ids = Tensor::new(ids, self.features.device())?;
        Ok(Contexts { features: self.features.index_select(&ids, 0)?, ids })
    }

    /// The rewards of `actions` (B), chosen in `contexts` (B).
    ///
    /// # Errors
    /// When the two differ in number.
    pub fn rewards(&self, contexts: &Contexts, actions: &Tensor) -> Result<Vec<f64>> {
        let rows = self.rewards.index_select(&contexts.ids, 0)?;
        let chosen = rows.gather(&actions.unsqueeze(1)?, 1)?.squeeze(1)?;
        Ok(chosen.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// The expected reward of the policy in each context, V(c) = Σ_a π(a|c) r(c, a): (C).
    ///
    /// # Errors
    /// When the policy does not read these features.
    pub fn values(&self, policy: &impl Policy) -> Result<Tensor> {
        let logits = policy.logits(&self.features)?.detach();
        let probabilities = candle_nn::ops::softmax(&logits, D::Minus1)?;
        Ok((probabilities * &self.rewards)?.sum(D::Minus1)?)
    }

    /// The expected reward J of the policy over all contexts.
    ///
    /// # Errors
    /// When the policy does not read these features.
    pub fn expected_reward(&self, policy: &impl Policy) -> Result<f64> {
        Ok(self.values(policy)?.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
    }

    /// The expected reward of always taking the best action.
    ///
    /// # Errors
    /// Passes on Candle's error.
    pub fn best_reward(&self) -> Result<f64> {
        Ok(self.rewards.max(1)?.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
    }
}

/// Lets the policy answer every context once and compares the rewards within groups of
/// `group_size` neighbours: see [`Contexts::in_groups`]. `judge` says what an answer is
/// worth. An answer is a completion of one token.
///
/// # Errors
/// Passes on those of `judge` and of [`Rollout::new`].
///
/// ```
/// use candle_core::{DType, Device::Cpu};
/// use grpo::{advantage::Scale, env::bandit::{Bandit, roll_out}, policy::Mlp, seed};
/// let mut rng = seed::rng(0);
/// let world = Bandit::random([5, 8, 10], &mut rng, &Cpu).unwrap();
/// let policy = Mlp::new([8, 32, 10], &mut rng, DType::F32, &Cpu).unwrap();
/// let contexts = world.draw(3, &mut rng).unwrap().in_groups(4).unwrap();
/// let rollout =
///     roll_out(&policy, &contexts, 4, Scale::None, |c, a| world.rewards(c, a), &mut rng).unwrap();
/// assert_eq!(rollout.tokens.dims(), [12, 1]);
/// ```
pub fn roll_out(
    policy: &impl Policy,
    contexts: &Contexts,
    group_size: usize,
    scale: Scale,
    judge: impl Fn(&Contexts, &Tensor) -> Result<Vec<f64>>,
    rng: &mut StdRng,
) -> Result<Rollout> {
    let logits = policy.logits(&contexts.features)?.detach();
    let answers = sampling::sample(&logits, rng)?;
    let old_log_probs = log_prob::of(&logits, &answers)?.unsqueeze(1)?;
    let rewards = judge(contexts, &answers)?;
    let tokens = answers.unsqueeze(1)?;
    let mask = Tensor::ones(tokens.shape(), DType::U8, tokens.device())?;
    let prompts = contexts.features.clone();
    Rollout::new(prompts, tokens, mask, old_log_probs, rewards, group_size, scale)
}

/// What the policy now says about the answers of a rollout.
///
/// # Errors
/// When the policy does not read the features of the rollout.
pub fn score(policy: &impl Policy, rollout: &Rollout) -> Result<Scores> {
    let logits = policy.logits(&rollout.prompts)?;
    let log_probs = log_prob::of(&logits, &rollout.tokens.squeeze(1)?)?.unsqueeze(1)?;
    let entropy = log_prob::entropy(&logits, 1.0)?.unsqueeze(1)?;
    Ok(Scores { log_probs, entropy: Some(entropy) })
}

impl Contexts {
    /// Each context `group_size` times, one after the other: the rows of a group are
    /// neighbours.
    ///
    /// # Errors
    /// Passes on Candle's error.
    ///
    /// ```
    /// use grpo::{env::bandit::Bandit, seed};
    /// let mut rng = seed::rng(0);
    /// let world = Bandit::random([5, 8, 10], &mut rng, &candle_core::Device::Cpu).unwrap();
    /// let groups = world.draw(3, &mut rng).unwrap().in_groups(2).unwrap();
    /// let rows = groups.features.to_vec2::<f32>().unwrap();
    /// assert_eq!((rows.len(), &rows[0]), (6, &rows[1]));
    /// ```
    pub fn in_groups(&self, group_size: usize) -> Result<Self> {
        let rows = 0..self.ids.elem_count() as u32;
        let rows: Vec<u32> = rows.flat_map(|row| vec![row; group_size]).collect();
        let rows = Tensor::new(rows, self.ids.device())?;
        let take = |table: &Tensor| table.index_select(&rows, 0);
        Ok(Self { ids: take(&self.ids)?, features: take(&self.features)? })
    }

    /// One number for each context in the batch, out of a table (C) of them.
    ///
    /// # Errors
    /// When the table has another length than the world.
    pub fn look_up(&self, table: &Tensor) -> Result<Vec<f64>> {
        Ok(table.index_select(&self.ids, 0)?.to_dtype(DType::F64)?.to_vec1()?)
    }
}
