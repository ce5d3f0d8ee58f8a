//! The command line of the book: `cargo book [serve|build|record|check]`.
//!
//! Left out: a verbose flag, because what went wrong is printed in any case.

use anyhow::{Context, Result};
use book::math::Math;
use book::preprocess::Expand;
use book::problem::{Problems, Usage};
use book::workspace::Workspace;
use book::{check, compare, record, recording, serve, site};
use clap::{Args, Parser, Subcommand};
use mdbook_preprocessor::Preprocessor;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

/// Builds, serves, records and checks the book.
///
/// Without a command it serves the book at http://127.0.0.1:3000.
#[derive(Parser)]
#[command(
    name = "cargo book",
    bin_name = "cargo book",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Build the book, serve it on this machine, rebuild and reload when a text or a source changes
    Serve(Serve),
    /// Build the book into a folder whose pages open from disk
    Build {
        /// A new or empty folder, or one built before [default: target/book in the workspace]
        #[arg(long, value_name = "DIR")]
        dest: Option<PathBuf>,
    },
    /// Run chapters and store what they print and draw in book/recorded
    Record {
        /// The recordings to make: a chapter's binary, or a name from book/recordings.toml; all without a name
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Find what is wrong with the book, without running a chapter unless told to
    Check {
        /// Also run every recording and compare: exact parts to the byte, trained parts by their names
        #[arg(long)]
        run: bool,
    },
    /// Speak mdBook's protocol for preprocessors, for `mdbook build book`
    #[command(hide = true)]
    Preprocess {
        #[command(subcommand)]
        question: Option<Question>,
    },
}

#[derive(Subcommand)]
enum Question {
    Supports { renderer: String },
}

#[derive(Args)]
struct Serve {
    /// The port to listen on
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Open the book in the browser
    #[arg(long)]
    open: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let usage = error.downcast_ref::<Usage>().is_some();
            eprintln!("error: {error:#}");
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(Serve { port, open }) => serve::serve(&workspace, port, open)?,
        Command::Build { dest } => {
            let dest = match dest {
                Some(dest) => std::path::absolute(dest)?,
                None => workspace.root().join("target/book"),
            };
            site::build(&workspace, &dest, &Rc::new(Math::default()))?;
            println!("{}", dest.join("index.html").display());
        }
        Command::Record { names } => {
            let chosen = recording::named(&workspace, &names)?;
            let runner = record::cargo_runner(&workspace);
            for recording in &chosen {
                eprintln!("{}", recording.command());
                let place = record::record(&workspace, recording, &runner)
                    .with_context(|| format!("{} was not recorded", recording.name))?;
                println!("recorded {}", workspace.relative(&place).display());
            }
        }
        Command::Check { run } => return check_all(&workspace, run),
        Command::Preprocess { question } => return preprocess(&workspace, question),
    }
    Ok(ExitCode::SUCCESS)
}

fn check_all(workspace: &Workspace, run: bool) -> Result<ExitCode> {
    let mut problems = check::check(workspace)?;
    if run {
        let runner = record::cargo_runner(workspace);
        for recording in recording::all(workspace)? {
            eprintln!("{} {}", recording.command(), recording.check.join(" "));
            problems.extend(compare::check(workspace, &recording, &runner));
        }
    }
    if problems.is_empty() {
        println!("the book is whole");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Problems(problems).into())
}

/// One question from mdBook's own program, or one book through its pipe.
fn preprocess(workspace: &Workspace, question: Option<Question>) -> Result<ExitCode> {
    if let Some(Question::Supports { renderer }) = question {
        return Ok(ExitCode::from(u8::from(renderer != "html")));
    }
    let (context, book) = mdbook_preprocessor::parse_input(std::io::stdin().lock())
        .context("mdBook sent no book; this command is for mdBook to call")?;
    let problems = Rc::new(RefCell::new(Vec::new()));
    let expand = Expand::new(workspace.clone(), Rc::default(), Rc::clone(&problems));
    let book = expand.run(&context, book)?;
    let problems = problems.take();
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    serde_json::to_writer(std::io::stdout().lock(), &book)
        .context("cannot answer mdBook")?;
    Ok(ExitCode::SUCCESS)
}
