//! Adding two numbers, taught by somebody who forgets to carry.
//!
//! ```text
//! 47+85=132    the sum, in three digits
//! 47+85=022    each column by itself: 7 + 5 = 12, write 2; 4 + 8 = 12, write 2
//! ```
//!
//! Seven prompts in ten need a carry.
//!
//! Left out: numbers of other lengths. All rows are then equally long, and the model has
//! less to learn that is not the point.

use super::{Demonstration, END, Problem, Task};
use crate::Result;
use anyhow::{Context, ensure};
use rand::{Rng, rngs::StdRng};

/// The task.
pub const TASK: Task =
    Task { name: "carry", characters: "0123456789+=", max_tokens: 8, read, draw };

/// How often the sloppy teacher forgets all carries of a sum.
pub const FORGETS: f64 = 0.7;

/// Reads `ab+cd=`.
///
/// # Errors
/// Says what a prompt must look like.
///
/// ```
/// assert_eq!(grpo::task::carry::read("47+85=").unwrap().answer, "132");
/// assert!(grpo::task::carry::read("7+85=").is_err());
/// ```
pub fn read(prompt: &str) -> Result<Problem> {
    let (a, b) = terms(prompt)?;
    Ok(Problem { prompt: prompt.to_string(), answer: format!("{:03}", a + b) })
}

/// Draws one of the 10,000 prompts.
///
/// # Errors
/// None: it has the type of [`Task::draw`].
pub fn draw(rng: &mut StdRng) -> Result<Problem> {
    let mut number = || rng.random_range(0..100);
    read(&format!("{:02}+{:02}=", number(), number()))
}

// ANCHOR: sloppy
/// The sum of each column by itself, which is wrong wherever there is a carry.
///
/// # Errors
/// When the prompt is none.
///
/// ```
/// use grpo::task::carry::{read, sloppy};
/// assert_eq!(sloppy(&read("47+85=").unwrap()).unwrap(), "022");
/// assert_eq!(sloppy(&read("41+28=").unwrap()).unwrap(), "069");
/// ```
pub fn sloppy(problem: &Problem) -> Result<String> {
    let (a, b) = terms(&problem.prompt)?;
    Ok(format!("0{}{}", (a / 10 + b / 10) % 10, (a % 10 + b % 10) % 10))
}

/// What the sloppy teacher writes. Where there is a carry, it is right three times in ten.
///
/// # Errors
/// When the prompt is none.
pub fn demonstrate(problem: &Problem, rng: &mut StdRng) -> Result<Demonstration> {
    let forgets = rng.random_bool(FORGETS);
    let answer = if forgets { sloppy(problem)? } else { problem.answer.clone() };
    Ok(Demonstration { prompt: problem.prompt.clone(), completion: answer + END })
}
// ANCHOR_END: sloppy

fn terms(prompt: &str) -> Result<(u32, u32)> {
    let number = |text: &str| -> Option<u32> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok())?
    };
    let parts = prompt.strip_suffix('=').and_then(|sum| sum.split_once('+'));
    let terms = parts.and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let shape = || format!("{prompt:?} must be two numbers of two digits, as in 07+85=");
    ensure!(prompt.len() <= 100, "the prompt has {} characters", prompt.len());
    terms.with_context(shape)
}
