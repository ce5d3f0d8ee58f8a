//! What is rewarded, what a reward is compared with, and how tokens are weighed: the
//! choices that the studies change one at a time.

use super::*;
#[cfg(feature = "yours")]
use crate::exercises::verify;
#[cfg(not(feature = "yours"))]
use grpo::reward::verify;
use grpo::{
    objective::{Aggregation, Kl, Objective, Ratio, Term},
    reward,
    task::{END, Problem},
};
use std::collections::BTreeMap;

/// What a completion is rewarded for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Reward {
    /// 1 for the right answer, 0 for all else.
    Verified,
    /// The same, minus so much for each token.
    Brief(f64),
    /// The number of tokens, whatever they say.
    Long,
    /// 1 when the answer stands anywhere in the text.
    Mentioned,
    /// 1 when it is the answer that most of the group give.
    Majority,
}

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Baseline {
    /// Mean and σ of the group.
    Group,
    /// The mean of the group alone.
    GroupMean,
    /// Nothing: the advantage is the reward.
    None,
}

/// One way to learn from rewards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Method {
    pub reward: Reward,
    pub baseline: Baseline,
    /// Every completion weighs the same, 1/|o| a token, in place of every token.
    pub per_completion: bool,
    /// Imitates the teacher in place of all this, at the same cost.
    pub imitate: bool,
}

impl Default for Method {
    fn default() -> Self {
        let (reward, baseline) = (Reward::Verified, Baseline::Group);
        Self { reward, baseline, per_completion: false, imitate: false }
    }
}

// ANCHOR: rewards
impl Reward {
    /// The reward of completion `i` of a group, which all answer `problem`.
    pub fn of(self, problem: &Problem, group: &[String], i: usize) -> Result<f64> {
        let text = &group[i];
        let tokens = text.trim_end_matches(END).len() + usize::from(text.ends_with(END));
        let one_if = |good: bool| f64::from(u8::from(good));
        Ok(match self {
            Self::Verified => one_if(verify(problem, text)),
            Self::Brief(price) => one_if(verify(problem, text)) - price * tokens as f64,
            Self::Long => tokens as f64,
            Self::Mentioned => one_if(text.contains(&problem.answer)),
            Self::Majority => one_if(reward::answer(text) == majority(group)),
        })
    }
}
// ANCHOR_END: rewards

/// The answer that most of a group give; of several, the smallest.
fn majority(group: &[String]) -> Option<&str> {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    group.iter().filter_map(|text| reward::answer(text)).for_each(|answer| {
        *votes.entry(answer).or_default() += 1;
    });
    let most = votes.values().max().copied()?;
    votes.into_iter().find(|(_, count)| *count == most).map(|(answer, _)| answer)
}

impl Baseline {
    pub fn scale(self) -> Scale {
        match self {
            Self::Group => Scale::Trl,
            Self::GroupMean | Self::None => Scale::None,
        }
    }
}

impl Method {
    // ANCHOR: objective
    /// The clipped objective without a KL penalty.
    pub fn objective(&self) -> Objective {
        Objective {
            ratio: Ratio::Token,
            term: Term::clip(CLIP_EPS),
            aggregation: match self.per_completion {
                true => Aggregation::SequenceMean,
                false => Aggregation::TokenMean,
            },
            kl: Kl::new(0.0),
            off_policy_threshold: None,
        }
    }
    // ANCHOR_END: objective
}
