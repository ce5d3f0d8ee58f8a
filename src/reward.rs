//! Rewards that are programs.
//!
//! A verifier is trusted by everything that comes after it, and a policy will find
//! whatever it accepts. So it reads the answer exactly: the completion has ended by
//! itself, what stands after its last `=` is digits and nothing else, and these are the
//! answer's, character by character. There is one place for an answer, so two cannot be
//! tried at once.
//!
//! Left out: leniency (`57` for `057`, a space). The demonstrations show the form, and
//! each exception is a door.

use crate::{
    Result,
    task::{END, Problem},
};
use anyhow::{Context, ensure};

// ANCHOR: verify
/// The answer that a completion gives, where it gives one: the digits after its last `=`,
/// or all of it, when it has ended.
///
/// ```
/// use grpo::reward::answer;
/// assert_eq!(answer("3*7=1+2=3*4=2<eos>"), Some("2"));
/// assert_eq!(answer("132<eos>"), Some("132"));
/// assert_eq!(answer("132"), None); // cut off
/// assert_eq!(answer("132=<eos>"), None);
/// assert_eq!(answer("1+3<eos>"), None);
/// ```
pub fn answer(completion: &str) -> Option<&str> {
    let said = completion.strip_suffix(END)?;
    let (_, answer) = said.rsplit_once('=').unwrap_or(("", said));
    let digits = !answer.is_empty() && answer.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(answer)
}

/// Whether a completion gives the answer to the problem.
///
/// ```
/// use grpo::{reward::verify, task::carry::read};
/// let problem = read("47+85=").unwrap();
/// assert!(verify(&problem, "132<eos>"));
/// assert!(!verify(&problem, "132022<eos>"));
/// ```
pub fn verify(problem: &Problem, completion: &str) -> bool {
    answer(completion) == Some(problem.answer.as_str())
}
// ANCHOR_END: verify

/// What came of judging some completions.
#[derive(Debug)]
pub struct Judged {
    /// The reward of each, 0 where judging failed.
    pub rewards: Vec<f64>,
    /// How often judging failed.
    pub failures: usize,
    /// What went wrong first.
    pub error: Option<anyhow::Error>,
}

impl Judged {
    /// The mean reward.
    pub fn mean(&self) -> f64 {
        self.rewards.iter().sum::<f64>() / self.rewards.len() as f64
    }
}

// ANCHOR: judge
/// Judges the completions 0..`count`. One on which `reward` fails, or whose reward is not
/// a finite number, gets 0 and is counted: a run of hours does not end for one of them.
///
/// ```
/// let judged = grpo::reward::judge(3, |i| match i {
///     1 => anyhow::bail!("the compiler ran out of time"),
///     i => Ok(i as f64),
/// });
/// assert_eq!(judged.rewards, [0.0, 0.0, 2.0]);
/// assert_eq!(judged.failures, 1);
/// assert_eq!(format!("{:#}", judged.error.unwrap()), "completion 1: the compiler ran out of time");
/// ```
pub fn judge(count: usize, reward: impl Fn(usize) -> Result<f64>) -> Judged {
    let mut judged =
        Judged { rewards: Vec::with_capacity(count), failures: 0, error: None };
    for completion in 0..count {
        let finite = |reward: f64| {
            ensure!(reward.is_finite(), "its reward is {reward}; it must be finite");
            Ok(reward)
        };
        let result = reward(completion).and_then(finite);
        match result.with_context(|| format!("completion {completion}")) {
            Ok(reward) => judged.rewards.push(reward),
            Err(error) => {
                judged.rewards.push(0.0);
                judged.failures += 1;
                judged.error.get_or_insert(error);
            }
        }
    }
    judged
}
// ANCHOR_END: judge
