//! The arguments that every chapter takes.
//!
//! Left out: a way to set every number of a chapter from the command line. The
//! settings are constants at the top of its `main.rs`, where the page shows them.

use crate::{Result, device, report::Output};
use candle_core::Device;
use clap::Args;
use std::path::PathBuf;

/// `--seed`, `--device` and `--out`.
#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// Seed of everything random in this run
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "cpu", value_parser = device::parse)]
    pub device: Device,
    /// Folder for figures and metrics [default: target/grpo/<chapter>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl RunArgs {
    /// Opens the folder for the figures and metrics of `chapter`.
    ///
    /// # Errors
    /// Names the folder when it cannot be made.
    pub fn output(&self, chapter: &str) -> Result<Output> {
        let default = || PathBuf::from("target/grpo").join(chapter);
        Output::create(&self.out.clone().unwrap_or_else(default))
    }
}

/// What `main` returns: nothing, or an error that ends the program with exit code 1.
pub type Outcome = std::result::Result<(), Failure>;

/// An error on its way to the terminal: `Error: what: why`, and never a backtrace,
/// because what a reader caused needs a sentence and not a stack.
pub struct Failure(anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// Parses a chapter's arguments. A wrong one ends the program with exit code 2 and a
/// message that names it; `… | head` ends it quietly.
pub fn parse<T: clap::Parser>() -> T {
    // `println!` panics when the reader of a pipe has gone. That is no failure.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.contains("Broken pipe")) {
            std::process::exit(0);
        }
        default(panic);
    }));
    T::parse()
}
