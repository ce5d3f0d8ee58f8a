//! What a student can do: all held-out problems, answered in one batch and marked.
//!
//! Say of each accuracy how the answers were chosen. *Sampled* answers are drawn as in
//! training and show what the policy usually does; *greedy* ones take the likeliest token
//! each time and show what it prefers. The first is what the reward measures.
//!
//! Left out: the best of n samples, because no chapter asks for it.

use crate::{
    Result,
    lm::{
        generate::{Completions, Streams},
        student::Student,
    },
    reward,
    sampling::Sampler,
    stats,
    task::Problem,
};
use anyhow::ensure;

/// Answers and marks.
pub struct Exam {
    /// One completion to each problem.
    pub completions: Completions,
    /// Their texts.
    pub texts: Vec<String>,
    /// Which are right.
    pub right: Vec<bool>,
}

/// Examines with sampled answers (`Sampler::at(1.0)`) or greedy ones
/// ([`Sampler::greedy`]). The same `seed` draws the same random numbers, whatever the
/// student has learnt in between, so that two examinations differ by the student alone.
///
/// # Errors
/// Those of [`Student::answer`].
// ANCHOR: exam
pub fn exam(
    student: &Student,
    problems: &[Problem],
    sampler: Sampler,
    seed: u64,
) -> Result<Exam> {
    ensure!(!problems.is_empty(), "there are no problems to be examined on");
    // No training step has this number.
    let streams = Streams { seed, step: u64::MAX, first_prompt: 0 };
    let completions = student.answer(problems, 1, sampler, streams)?;
    let texts = student.texts(&completions)?;
    let marked = problems.iter().zip(&texts);
    let right = marked.map(|(problem, text)| reward::verify(problem, text)).collect();
    Ok(Exam { completions, texts, right })
}
// ANCHOR_END: exam

impl Exam {
    /// The share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.count() as f64 / self.right.len() as f64
    }

    /// Between which two numbers the accuracy on all problems of this kind lies, in 19 of
    /// 20 such examinations: [`stats::wilson`].
    pub fn interval(&self) -> (f64, f64) {
        stats::wilson(self.count(), self.right.len())
    }

    /// The mean number of tokens, the one that ends a completion included.
    pub fn length(&self) -> f64 {
        let lengths = &self.completions.lengths;
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
    }

    fn count(&self) -> usize {
        self.right.iter().filter(|right| **right).count()
    }
}
