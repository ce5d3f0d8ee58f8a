//! What the reader has passed and which hints they have seen.
//!
//! It is kept beside the sources and not in `target`, so that `cargo clean` costs no
//! progress, and Git does not see it. A file that cannot be read counts as empty: the
//! next check fills it again.
//!
//! Left out: the reader's code. It stays where they wrote it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// The folder, in the workspace, of progress and of kept copies.
pub const FOLDER: &str = ".exercise";

/// `.exercise/progress.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    marks: BTreeMap<String, Mark>,
    #[serde(skip)]
    path: PathBuf,
    /// What was wrong with the file, once.
    #[serde(skip)]
    pub trouble: Option<String>,
}

/// What is known of one exercise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// Whether its last check passed; `None` before the first.
    pub passed: Option<bool>,
    /// The checksum of the text that was checked.
    pub text: u64,
    /// How many hints were shown.
    pub hints: usize,
}

impl Progress {
    /// Reads the progress of the workspace.
    pub fn load(root: &Path) -> Self {
        let path = root.join(FOLDER).join("progress.json");
        let (mut progress, trouble) = match fs::read(&path) {
            Err(_) => (Self::default(), None),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(progress) => (progress, None),
                Err(error) => {
                    let shown = path.display();
                    let trouble =
                        format!("{shown} cannot be read ({error}); the marks start afresh");
                    (Self::default(), Some(trouble))
                }
            },
        };
        progress.path = path;
        progress.trouble = trouble;
        progress
    }

    /// The mark of an exercise.
    pub fn of(&self, chapter: &str, exercise: &str) -> Mark {
        self.marks.get(&key(chapter, exercise)).copied().unwrap_or_default()
    }

    /// Changes the mark of an exercise.
    pub fn mark(&mut self, chapter: &str, exercise: &str, change: impl FnOnce(&mut Mark)) {
        change(self.marks.entry(key(chapter, exercise)).or_default());
    }

    /// Writes the progress, whole or not at all.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self) -> Result<()> {
        let write = || -> Result<()> {
            let folder = self.path.parent().context("it has no folder")?;
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot save progress to {}", self.path.display()))
    }
}

fn key(chapter: &str, exercise: &str) -> String {
    format!("{chapter}/{exercise}")
}
