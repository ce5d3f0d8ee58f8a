//! Questions whose answers a program can check, and teachers who answer them.
//!
//! A [`Task`] is plain strings: it draws questions, reads one that somebody typed, and
//! knows the one correct answer. Its teachers write demonstrations, with a habit that a
//! model learns from them:
//!
//! ```text
//! carry   47+85=        132 rightly, 022 in a hurry        the sloppy teacher
//! steps   3*7+2*4=      3*7=1+2=3*4=2 worked, 2 blurted    the lazy student
//! ```
//!
//! Left out: a trait. Two tasks differ in two functions and two constants, which a
//! struct holds.

pub mod carry;
pub mod steps;

use crate::Result;
use anyhow::ensure;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

/// The token that ends every completion.
pub const END: &str = "<eos>";

/// A question, and its one correct answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What the model reads.
    pub prompt: String,
    /// What its completion must end with, before [`END`].
    pub answer: String,
}

/// A question, and what a teacher wrote after it, [`END`] included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demonstration {
    /// What the model reads.
    pub prompt: String,
    /// What it shall say.
    pub completion: String,
}

/// Where problems come from.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// Every character that a prompt or a completion needs.
    pub characters: &'static str,
    /// The most tokens of a completion, [`END`] included: one that is longer is cut off.
    pub max_tokens: usize,
    /// Reads a prompt, or says why it is none.
    pub read: fn(&str) -> Result<Problem>,
    /// Draws a prompt.
    pub draw: fn(&mut StdRng) -> Result<Problem>,
}

/// The problems of a task in two parts without a common prompt: some to be examined on,
/// and all others to learn from.
pub struct Split {
    /// The task.
    pub task: Task,
    /// What is kept for examinations.
    pub held_out: Vec<Problem>,
    kept: BTreeSet<String>,
}

impl Split {
    /// Keeps `count` different problems back.
    ///
    /// # Errors
    /// Refuses to keep more than the task seems to have.
    ///
    /// ```
    /// use grpo::{seed, task::{Split, carry}};
    /// let mut rng = seed::rng(0);
    /// let split = Split::new(carry::TASK, 500, &mut rng).unwrap();
    /// let drawn = split.draw(&mut rng).unwrap();
    /// assert!(split.held_out.iter().all(|problem| problem.prompt != drawn.prompt));
    /// ```
    pub fn new(task: Task, count: usize, rng: &mut StdRng) -> Result<Self> {
        let (mut held_out, mut kept) = (Vec::with_capacity(count), BTreeSet::new());
        for _ in 0..100 * count {
            if held_out.len() == count {
                break;
            }
            let problem = (task.draw)(rng)?;
            if kept.insert(problem.prompt.clone()) {
                held_out.push(problem);
            }
        }
        let found = held_out.len();
        ensure!(found == count, "{} has hardly more than {found} problems", task.name);
        Ok(Self { task, held_out, kept })
    }

    /// Draws a problem to learn from.
    ///
    /// # Errors
    /// When nearly all problems of the task were kept back.
    pub fn draw(&self, rng: &mut StdRng) -> Result<Problem> {
        for _ in 0..1000 {
            let problem = (self.task.draw)(rng)?;
            if !self.kept.contains(&problem.prompt) {
                return Ok(problem);
            }
        }
        anyhow::bail!("too many problems of {} are kept for examinations", self.task.name)
    }
}
