//! Which exercises there are, and where they stand in the files.
//!
//! Left out: the task itself. It is written once, in the documentation of the stub.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// A mistake in what was typed on the command line: exit code 2, where a failure is 1.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A chapter that has exercises.
#[derive(Debug, Clone)]
pub struct Chapter {
    /// `ch04_advantages`.
    pub name: String,
    /// 4.
    pub number: u32,
    pub exercises: Vec<Exercise>,
    root: PathBuf,
}

/// An entry of `exercises.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// The name of its anchor, in all files.
    pub name: String,
    /// Its heading on the page.
    pub title: String,
    /// How long it takes: `a line`, `minutes`, `an hour`, `an evening`.
    pub effort: Effort,
    /// From gentle to plain.
    pub hints: Vec<String>,
}

/// How long an exercise takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Effort {
    #[serde(rename = "a line")]
    Line,
    #[serde(rename = "minutes")]
    Minutes,
    #[serde(rename = "an hour")]
    Hour,
    #[serde(rename = "an evening")]
    Evening,
}

impl std::fmt::Display for Effort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Line => "a line",
            Self::Minutes => "minutes",
            Self::Hour => "an hour",
            Self::Evening => "an evening",
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    exercise: Vec<Exercise>,
}

impl Chapter {
    /// The reader's file.
    pub fn exercises_file(&self) -> PathBuf {
        self.file("exercises.rs")
    }

    pub fn solutions_file(&self) -> PathBuf {
        self.file("solutions.rs")
    }

    /// The stubs as they were.
    pub fn stubs_file(&self) -> PathBuf {
        self.root.join("book/stubs").join(format!("{}.rs", self.name))
    }

    /// The binary of its checks: `ch04_exercises`.
    pub fn binary(&self) -> String {
        format!("ch{:02}_exercises", self.number)
    }

    /// The exercise of this name, or which there are.
    ///
    /// # Errors
    /// Names the exercises of the chapter.
    pub fn exercise(&self, name: &str) -> Result<&Exercise> {
        let known = || self.exercises.iter().map(|e| e.name.as_str()).collect::<Vec<_>>();
        self.exercises.iter().find(|e| e.name == name).ok_or_else(|| {
            let (number, known) = (self.number, known().join(", "));
            Usage(format!("chapter {number} has no exercise {name}; it has: {known}"))
                .into()
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.join("chapters").join(&self.name).join(name)
    }
}

/// The chapters of the workspace that have exercises, in order.
///
/// # Errors
/// Names the file that cannot be read or understood.
pub fn chapters(root: &Path) -> Result<Vec<Chapter>> {
    let folder = root.join("chapters");
    let mut chapters = Vec::new();
    if !folder.is_dir() {
        return Ok(chapters);
    }
    for entry in fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name).join("exercises.toml");
        let (Some(number), true) = (number(&name), path.is_file()) else { continue };
        let listed: Listed = toml::from_str(&read(&path)?)
            .with_context(|| format!("cannot parse {}", path.display()))?;
        chapters.push(Chapter {
            name,
            number,
            exercises: listed.exercise,
            root: root.to_path_buf(),
        });
    }
    chapters.sort_by_key(|chapter| chapter.number);
    Ok(chapters)
}

/// The chapter that the reader means by `4`, `04`, `ch04` or `ch04_advantages`.
///
/// # Errors
/// Says which chapters there are.
pub fn chapter<'a>(chapters: &'a [Chapter], meant: &str) -> Result<&'a Chapter> {
    let digits = meant.strip_prefix("ch").unwrap_or(meant);
    let found = chapters
        .iter()
        .find(|c| c.name == meant || digits.parse::<u32>().is_ok_and(|n| n == c.number));
    let Some(found) = found else {
        let known: Vec<String> = chapters.iter().map(|c| c.number.to_string()).collect();
        let known = known.join(", ");
        bail!(Usage(format!(
            "there is no chapter {meant} with exercises; there are: {known}"
        )))
    };
    Ok(found)
}

/// The bytes between `// ANCHOR: name` and `// ANCHOR_END: name`, whole lines without the
/// marks.
///
/// # Errors
/// When either mark is missing.
pub fn section(text: &str, name: &str) -> Result<Range<usize>> {
    let (mut at, mut start) = (0, None);
    for line in text.split_inclusive('\n') {
        let mark = line.trim();
        if mark.strip_prefix("// ANCHOR: ") == Some(name) {
            start = Some(at + line.len());
        } else if mark.strip_prefix("// ANCHOR_END: ") == Some(name) {
            return Ok(start.with_context(|| format!("{name} ends before it begins"))?..at);
        }
        at += line.len();
    }
    bail!("the lines `// ANCHOR: {name}` and `// ANCHOR_END: {name}` are not there")
}

/// Reads a text file; line ends become `\n`.
///
/// # Errors
/// Names the file.
pub fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.replace("\r\n", "\n"))
}

/// `ch04_advantages` → 4.
fn number(name: &str) -> Option<u32> {
    let (digits, _) = name.strip_prefix("ch")?.split_once('_')?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_what_stands_between_its_marks() {
        let text =
            "// ANCHOR: a\nfn a() {}\n// ANCHOR_END: a\n// ANCHOR: ab\n// ANCHOR_END: ab\n";
        assert_eq!(&text[section(text, "a").unwrap()], "fn a() {}\n");
        assert!(text[section(text, "ab").unwrap()].is_empty());
        let missing = section(text, "b").unwrap_err().to_string();
        assert!(missing.contains("// ANCHOR: b"), "{missing}");
    }
}
