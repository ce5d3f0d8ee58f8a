//! Checks the exercises of a chapter: compile, run, read the report.
//!
//! Left out: checking in the same process. The reader's code may loop or overflow the
//! stack, and this program must live on to say so.

use crate::{
    catalogue::{Chapter, read, section},
    check::{Report, State},
    compile::{Compiled, compile},
};
use anyhow::{Context, Result};
use std::{
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// An exercise takes a second or two. One that takes this long never ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a check of a chapter came to.
pub enum Verdict {
    /// The state of each exercise that was asked for.
    States(Vec<(String, State)>),
    /// It does not compile: the compiler's messages.
    DoesNotCompile(String),
    /// The program of the checks ended without a report, and this is why.
    Died(String),
}

/// Checks all exercises of a chapter, or one.
///
/// # Errors
/// Names the file that cannot be read, or what Cargo could not do.
pub fn check(
    root: &Path,
    chapter: &Chapter,
    only: Option<&str>,
    colours: bool,
) -> Result<Verdict> {
    if untouched(chapter, None)? {
        let chosen = |name: &&str| only.is_none_or(|only| only == *name);
        let names = chapter.exercises.iter().map(|e| e.name.as_str()).filter(chosen);
        return Ok(Verdict::States(names.map(|n| (n.to_owned(), State::Todo)).collect()));
    }
    let binary = match compile(root, chapter, colours)? {
        Compiled::Binary(binary) => binary,
        Compiled::Errors(text) => return Ok(Verdict::DoesNotCompile(text)),
    };
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let report = folder.path().join("report.json");
    let mut command = Command::new(&binary);
    command.current_dir(root).arg("--report").arg(&report);
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    // As in .cargo/config.toml, for those who start this program without Cargo.
    command.env("CANDLE_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1");
    // A message is a sentence. What a backtrace shows is the inside of the checks.
    command.env("RUST_BACKTRACE", "0").env("RUST_LIB_BACKTRACE", "0");
    let child = command.spawn().context("cannot start the checks")?;
    let Some(status) = wait(child)? else {
        let seconds = PATIENCE.as_secs();
        return Ok(Verdict::Died(format!(
            "the check did not end within {seconds} seconds and was stopped: is there a loop that never ends?"
        )));
    };
    let Ok(bytes) = std::fs::read(&report) else {
        return Ok(Verdict::Died(format!(
            "the check ended without a verdict ({status}): does a function call itself without end?"
        )));
    };
    let Report(states) =
        serde_json::from_slice(&bytes).context("the report is not whole")?;
    Ok(Verdict::States(states))
}

/// Whether the reader's file, or one exercise in it, is still the stub.
///
/// # Errors
/// Names the file that cannot be read, or the marks that it lacks.
pub fn untouched(chapter: &Chapter, only: Option<&str>) -> Result<bool> {
    let (yours, stubs) = (chapter.exercises_file(), chapter.stubs_file());
    let (yours_text, stubs_text) = (read(&yours)?, read(&stubs)?);
    let Some(name) = only else { return Ok(yours_text == stubs_text) };
    let cut = |text: &str, path: &Path| -> Result<String> {
        let range = section(text, name).with_context(|| path.display().to_string())?;
        Ok(text[range].to_owned())
    };
    Ok(cut(&yours_text, &yours)? == cut(&stubs_text, &stubs)?)
}

fn wait(mut child: Child) -> Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the checks")? {
            return Ok(Some(status));
        }
        if began.elapsed() > PATIENCE {
            child.kill().context("cannot stop the checks")?;
            child.wait().context("cannot stop the checks")?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
