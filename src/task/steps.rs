//! Arithmetic from left to right, of which only the last digit is kept.
//!
//! ```text
//! 3*7+2*4=            3 · 7 = 21, keep 1;  1 + 2 = 3;  3 · 4 = 12, keep 2
//! 3*7=1+2=3*4=2       worked: each operation, what is left of it, and the next
//! 2                   blurted: the last digit at once
//! ```
//!
//! Either answer is correct. Who works it out has one easy step at a time; who blurts has
//! to do all of them in their head.
//!
//! Left out: precedence of `*`, because a rule that runs strictly from left to right
//! needs no look ahead.

use super::{Demonstration, END, Problem, Task};
use crate::Result;
use anyhow::{Context, ensure};
use rand::{Rng, rngs::StdRng};

/// The task with three operations.
pub const TASK: Task =
    Task { name: "steps", characters: "0123456789+*=", max_tokens: 20, read, draw };

/// How many operations a drawn prompt has.
pub const OPERATIONS: usize = 3;

/// Reads a digit and at least one operation with a digit.
///
/// # Errors
/// Says what a prompt must look like, and where this one does not.
///
/// ```
/// use grpo::task::steps::read;
/// assert_eq!(read("3*7+2*4+9=").unwrap().answer, "1");
/// let error = read("3*7-2=").unwrap_err().to_string();
/// assert_eq!(error, "`-` in \"3*7-2=\" is neither + nor *");
/// ```
pub fn read(prompt: &str) -> Result<Problem> {
    let states = states(prompt)?;
    let answer = states.last().context("a prompt has at least one operation")?;
    Ok(Problem { prompt: prompt.to_string(), answer: answer.to_string() })
}

/// Draws one of 32,768 prompts: digits from 2 to 9, [`OPERATIONS`] times `+` or
/// `*`.
///
/// # Errors
/// None: it has the type of [`Task::draw`].
pub fn draw(rng: &mut StdRng) -> Result<Problem> {
    let mut prompt = rng.random_range(2..10).to_string();
    for _ in 0..OPERATIONS {
        prompt.push(if rng.random() { '+' } else { '*' });
        prompt += &rng.random_range(2..10).to_string();
    }
    read(&(prompt + "="))
}

// ANCHOR: demonstrations
/// The answer with all its work.
///
/// # Errors
/// When the prompt is none.
///
/// ```
/// use grpo::task::steps::{read, worked};
/// let shown = worked(&read("3*7+2*4=").unwrap()).unwrap();
/// assert_eq!(shown.completion, "3*7=1+2=3*4=2<eos>");
/// ```
pub fn worked(problem: &Problem) -> Result<Demonstration> {
    // The prompt in pieces: a digit, then operations of two characters, then `=`.
    let (first, operations) = problem.prompt.split_at(1);
    let mut completion = first.to_string();
    for (operation, state) in (0..).step_by(2).zip(states(&problem.prompt)?) {
        completion += &format!("{}={state}", &operations[operation..operation + 2]);
    }
    Ok(Demonstration { prompt: problem.prompt.clone(), completion: completion + END })
}

/// The answer alone.
pub fn blurted(problem: &Problem) -> Demonstration {
    let completion = problem.answer.clone() + END;
    Demonstration { prompt: problem.prompt.clone(), completion }
}
// ANCHOR_END: demonstrations

/// Whether a completion shows any work.
pub fn is_worked(completion: &str) -> bool {
    completion.contains('=')
}

/// The last digit after each operation.
fn states(prompt: &str) -> Result<Vec<u32>> {
    let sum = prompt.strip_suffix('=');
    let sum = sum.with_context(|| format!("{prompt:?} does not end with ="))?;
    let digit = |c: char| {
        c.to_digit(10).with_context(|| format!("`{c}` in {prompt:?} is not a digit"))
    };
    let mut characters = sum.chars();
    let shape =
        || format!("{prompt:?} must be digits with + or * between them, as in 3*7+2=");
    let mut state = digit(characters.next().with_context(shape)?)?;
    let mut states = Vec::new();
    while let Some(operation) = characters.next() {
        let known = matches!(operation, '+' | '*');
        ensure!(known, "`{operation}` in {prompt:?} is neither + nor *");
        let operand = digit(characters.next().with_context(shape)?)?;
        state = if operation == '+' { state + operand } else { state * operand } % 10;
        states.push(state);
    }
    ensure!(!states.is_empty(), shape());
    Ok(states)
}
