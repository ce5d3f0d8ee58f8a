//! The command line of the exercises: `cargo exercise`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use exercise::{catalogue::Usage, commands::Desk};
use std::process::ExitCode;

/// The exercises of the book: where you stand, and whether your code is right.
///
/// Without a command it lists them all.
#[derive(Parser)]
#[command(name = "cargo exercise", bin_name = "cargo exercise", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// List every exercise with its state, and the next one to do
    List,
    /// Check your code: one exercise, a chapter, or everything
    Check {
        /// A chapter, such as 4
        chapter: Option<String>,
        /// An exercise of it
        #[arg(requires = "chapter")]
        name: Option<String>,
    },
    /// Show one more hint, from gentle to plain
    Hint {
        chapter: String,
        name: String,
        /// Show all of them
        #[arg(long)]
        all: bool,
    },
    /// Check a chapter, or any, each time you save its file
    Watch { chapter: Option<String> },
    /// Put a stub back; what you wrote is kept in .exercise/kept
    Reset {
        chapter: String,
        /// Only this exercise
        name: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Show the solution of an exercise that passed
    Solution {
        chapter: String,
        name: String,
        /// Even if it has not passed
        #[arg(long)]
        peek: bool,
    },
    /// Run a chapter with your functions in place of the library's
    Run {
        chapter: String,
        /// Arguments of the chapter, after --
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    quiet_about_pipes();
    let cli = Cli::parse();
    match run(cli.command.unwrap_or(Command::List)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// `cargo exercise | head` closes the pipe before the list ends. That is no failure.
fn quiet_about_pipes() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.contains("Broken pipe")) {
            std::process::exit(0);
        }
        default(panic);
    }));
}

fn run(command: Command) -> Result<ExitCode> {
    let mut desk = Desk::open()?;
    let code = |passed: bool| ExitCode::from(u8::from(!passed));
    match command {
        Command::List => desk.list()?,
        Command::Check { chapter, name } => {
            return Ok(code(desk.check(chapter.as_deref(), name.as_deref())?));
        }
        Command::Hint { chapter, name, all } => desk.hint(&chapter, &name, all)?,
        Command::Watch { chapter } => desk.watch(chapter.as_deref())?,
        Command::Reset { chapter, name, yes } => {
            desk.reset(&chapter, name.as_deref(), yes)?
        }
        Command::Solution { chapter, name, peek } => {
            desk.solution(&chapter, &name, peek)?
        }
        Command::Run { chapter, arguments } => {
            let status = desk.run(&chapter, &arguments)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
