//! Exercises that check themselves, and the program that shows where the reader stands.
//!
//! ```text
//! chapters/chNN_name/exercises.toml   names, titles, hints
//! chapters/chNN_name/exercises.rs     the reader's file, at first the stubs
//! chapters/chNN_name/solutions.rs     the same functions, written
//! chapters/chNN_name/checks.rs        what both must do: a binary over `check`
//! book/stubs/chNN_name.rs             the stubs as they were, for the book and for `reset`
//! ```
//!
//! Left out: a server, points, and dates. The state of an exercise is whether it passes.

pub mod catalogue;
pub mod check;
pub mod commands;
pub mod compile;
pub mod progress;
pub mod verdict;
