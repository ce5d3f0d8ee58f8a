//! What the checks of a chapter are made of.
//!
//! A check is a function that calls the reader's function and says in a sentence what is
//! wrong with the answer. The same check is made of the solution.
//!
//! Left out: Rust's own test harness. It reports a failure as a panic with a backtrace,
//! and cannot tell a stub from a wrong answer.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    any::Any,
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
};

/// One exercise: its name, and its check made of the reader's function and of the solution.
pub struct Check {
    pub name: &'static str,
    pub yours: fn() -> Result<()>,
    pub solution: fn() -> Result<()>,
}

/// How one exercise stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The check found nothing wrong.
    Passed,
    /// The function is still the stub.
    Todo,
    /// What is wrong.
    Failed(String),
}

/// What the checks of a chapter found, in the order of its exercises.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report(pub Vec<(String, State)>);

/// `main` of a chapter's checks. Each line names an exercise and its check, a function
/// that takes the functions after it:
///
/// ```ignore
/// mod exercises;
/// mod solutions;
///
/// exercise::checks! {
///     clipped => clipped(clipped);
///     ranks => ranks(ranks, relative);
/// }
/// ```
#[macro_export]
macro_rules! checks {
    ($($name:ident => $check:ident($($function:ident),+);)+) => {
        fn main() -> std::process::ExitCode {
            $crate::check::run(&[$($crate::check::Check {
                name: stringify!($name),
                yours: || $check($(exercises::$function),+),
                solution: || $check($(solutions::$function),+),
            }),+])
        }
    };
}

/// Runs the checks and prints what they found, or writes it as JSON where `--report FILE`
/// asks for it. `--solutions` checks the solutions, `--only NAME` one exercise.
pub fn run(checks: &[Check]) -> ExitCode {
    match arguments().and_then(|arguments| report(checks, &arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Arguments {
    solutions: bool,
    only: Option<String>,
    report: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value =
            || given.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--solutions" => found.solutions = true,
            "--only" => found.only = Some(value()?),
            "--report" => found.report = Some(value()?.into()),
            _ => bail!(
                "there is no argument {argument}; use --solutions, --only NAME or --report FILE"
            ),
        }
    }
    Ok(found)
}

fn report(checks: &[Check], arguments: &Arguments) -> Result<bool> {
    let Arguments { solutions, only, report } = arguments;
    let chosen = |check: &&Check| only.as_ref().is_none_or(|only| only == check.name);
    let states: Vec<(String, State)> = checks
        .iter()
        .filter(chosen)
        .map(|check| {
            (
                check.name.into(),
                state(if *solutions { check.solution } else { check.yours }),
            )
        })
        .collect();
    if let (Some(only), true) = (only, states.is_empty()) {
        bail!("there is no exercise {only}");
    }
    let passed = states.iter().all(|(_, state)| *state == State::Passed);
    match report {
        Some(path) => std::fs::write(path, serde_json::to_vec(&Report(states))?)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => states.iter().for_each(|(name, state)| match state {
            State::Passed => println!("{name}: passed"),
            State::Todo => println!("{name}: not started"),
            State::Failed(why) => println!("{name}: {why}"),
        }),
    }
    Ok(passed)
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes one check. A panic is an answer too.
pub fn state(check: fn() -> Result<()>) -> State {
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line()));
        let message = format!("{}{}", text(info.payload()), place.unwrap_or_default());
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(message));
    }));
    let outcome = panic::catch_unwind(AssertUnwindSafe(check));
    panic::set_hook(quiet);
    match outcome {
        Ok(Ok(())) => State::Passed,
        Ok(Err(error)) => State::Failed(format!("{error:#}")),
        Err(payload) if text(&*payload).starts_with("not yet implemented") => State::Todo,
        Err(payload) => {
            let last = LAST_PANIC.with(|last| last.borrow_mut().take());
            let message = last.unwrap_or_else(|| text(&*payload).to_owned());
            State::Failed(format!("your code panicked: {message}"))
        }
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_a_mistake_a_panic_and_an_answer_are_told_apart() {
        assert_eq!(state(|| Ok(())), State::Passed);
        assert_eq!(state(|| todo!()), State::Todo);
        assert_eq!(state(|| todo!("later")), State::Todo);
        assert_eq!(state(|| bail!("no sum")), State::Failed("no sum".into()));
        let out_of_range = state(|| {
            let none: Vec<u32> = Vec::new();
            assert_eq!(none[std::hint::black_box(3)], 1);
            Ok(())
        });
        let State::Failed(why) = out_of_range else { panic!("{out_of_range:?}") };
        assert!(why.contains("index is 3") && why.contains("check.rs:"), "{why}");
    }
}
