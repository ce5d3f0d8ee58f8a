//! Try the model: a prompt a line, answered greedily and with a sample.

use super::*;
use grpo::reward::verify;
use std::io::{BufRead, IsTerminal};

/// Answers every line of `input` until it ends.
///
/// # Errors
/// When `input` cannot be read. A prompt that cannot be answered is no error: the reason
/// is printed.
pub fn run(course: &Course, mut input: impl BufRead) -> Result<()> {
    let task = course.plan.lesson.task();
    if std::io::stdin().is_terminal() {
        let example = &course.split.held_out[0].prompt;
        eprintln!("\nType a prompt such as {example} and Enter; Ctrl-D ends.");
    }
    let mut line = Vec::new();
    for number in 0.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let prompt = String::from_utf8_lossy(&line);
        let prompt = prompt.trim();
        if prompt.is_empty() {
            continue;
        }
        match answer(course, task.read, prompt, number) {
            Ok(answers) => println!("{answers}"),
            Err(error) => println!("{prompt:?} is refused: {error:#}"),
        }
    }
    Ok(())
}

/// Both answers to a prompt, and whether they are right.
fn answer(
    course: &Course,
    read: fn(&str) -> Result<grpo::task::Problem>,
    prompt: &str,
    number: u64,
) -> Result<String> {
    let student = &course.student;
    let problem = read(prompt)?;
    let streams =
        Streams { seed: course.plan.seed, step: u64::MAX - 1, first_prompt: number };
    let say = |name: &str, sampler: Sampler| -> Result<String> {
        let answers =
            student.answer(std::slice::from_ref(&problem), 1, sampler, streams)?;
        let text = student.texts(&answers)?.remove(0);
        let mark = if verify(&problem, &text) { "right" } else { "wrong" };
        Ok(format!("{name}  {prompt}{}   {mark}", show::plain(&text)))
    };
    let greedy = say("greedy ", Sampler::greedy())?;
    Ok(format!("{greedy}\n{}", say("sampled", Sampler::at(1.0))?))
}
