//! What is wrong with the book, and where.
//!
//! A check is only useful when it lists everything it found, so nothing here stops at the first problem:
//! each step adds to a list, and the caller prints the list and fails.
//!
//! Left out: severities, because a warning that fails nothing is read by nobody.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing to repair, at a file and, where it is known, a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Relative to the workspace, so that it can be clicked in a terminal there.
    pub file: PathBuf,
    /// Counted from 1; absent where the whole file is meant.
    pub line: Option<usize>,
    pub message: String,
}

impl Problem {
    pub fn new(
        file: impl Into<PathBuf>,
        line: impl Into<Option<usize>>,
        message: impl Into<String>,
    ) -> Self {
        Self { file: file.into(), line: line.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Forward slashes on every system: messages are compared and searched.
        let file = slashed(&self.file);
        match self.line {
            Some(line) => write!(f, "{file}:{line}: {}", self.message),
            None => write!(f, "{file}: {}", self.message),
        }
    }
}

/// All of the problems of one build or check, as an error.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 problem in the book"),
            n => write!(f, "{n} problems in the book"),
        }
    }
}

impl std::error::Error for Problems {}

/// A mistake in what was typed on the command line: exit status 2, where a failure is 1.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The line, counted from 1, on which a byte of the text stands.
pub fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// A path with forward slashes, as it is written in pages and recordings.
pub fn slashed(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}
