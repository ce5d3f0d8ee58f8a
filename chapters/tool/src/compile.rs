//! Compiles the checks of a chapter and passes on the compiler's messages about the
//! reader's file, and no others.
//!
//! Left out: warnings. An unused variable is no mistake in a half-written exercise.

use crate::catalogue::Chapter;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What came of compiling.
pub enum Compiled {
    /// The program to run.
    Binary(PathBuf),
    /// The compiler's messages, as it formats them.
    Errors(String),
}

/// Compiles the checks of a chapter.
///
/// # Errors
/// When Cargo cannot be started, or fails without a message about a source file.
pub fn compile(root: &Path, chapter: &Chapter, colours: bool) -> Result<Compiled> {
    let binary = chapter.binary();
    let rendered = if colours { "json-diagnostic-rendered-ansi" } else { "json" };
    let output = cargo(root)
        .args(["build", "--quiet", "--bin", &binary, "--message-format", rendered])
        .stderr(Stdio::piped())
        .output()
        .context("cannot start cargo")?;
    let messages: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if output.status.success() {
        let executable = messages
            .iter()
            .filter(|m| {
                m["reason"] == "compiler-artifact" && m["target"]["name"] == *binary
            })
            .find_map(|m| m["executable"].as_str());
        let executable = executable.with_context(|| format!("cargo built no {binary}"))?;
        return Ok(Compiled::Binary(executable.into()));
    }
    let errors: Vec<&Value> = messages
        .iter()
        .filter(|m| m["reason"] == "compiler-message" && m["message"]["level"] == "error")
        .map(|m| &m["message"])
        .filter(|m| !m["spans"].as_array().is_none_or(Vec::is_empty))
        .collect();
    let own = format!("{}/exercises.rs", chapter.name);
    let theirs: Vec<&&Value> =
        errors.iter().filter(|error| is_about(error, &own)).collect();
    // A changed signature is an error where the function is called, in the checks.
    let shown = if theirs.is_empty() { errors.iter().collect() } else { theirs };
    if shown.is_empty() {
        bail!("cargo cannot build {binary}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = shown.iter().filter_map(|error| error["rendered"].as_str()).collect();
    Ok(Compiled::Errors(text))
}

/// Cargo itself, in the workspace. The one that started this program, where there is one.
pub fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    command
}

fn is_about(error: &Value, file: &str) -> bool {
    let mut spans = error["spans"].as_array().into_iter().flatten();
    spans.any(|span| {
        let name = span["file_name"].as_str().unwrap_or_default().replace('\\', "/");
        span["is_primary"] == true && name.ends_with(file)
    })
}
