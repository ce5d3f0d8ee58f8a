//! A recording: what one run of a chapter printed and drew, as it is stored in `book/recorded/NAME/`.
//!
//! `stdout.txt` beside the figures and tables, and `manifest.json`, which names the sections of the text, says of
//! each section and file whether it is exact or trained, and holds the fingerprint of what it was made from.
//!
//! Left out: the time and the machine of the run, because a recording that changes on each run cannot be compared.

use crate::fingerprint::Fingerprint;
use crate::problem::Usage;
use crate::workspace::{Workspace, read};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Whether another machine must print the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Worked numbers, enumerations: the same on every machine.
    Exact,
    /// The result of training: processors round differently, and training amplifies it.
    Trained,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Exact => "exact",
            Kind::Trained => "trained",
        })
    }
}

/// One headed part of what a chapter prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub name: String,
    pub title: String,
    pub kind: Kind,
}

/// `manifest.json`: the first two fields come from the chapter, the others from the recorder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub sections: Vec<Section>,
    #[serde(default)]
    pub files: BTreeMap<String, Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// A hash of each stored file: a number typed into a recording is found out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<String, String>,
}

impl Manifest {
    /// Trained as soon as one part is.
    pub fn kind(&self) -> Kind {
        let trained = self.sections.iter().any(|s| s.kind == Kind::Trained);
        if trained { Kind::Trained } else { Kind::Exact }
    }
}

/// What to run for a recording.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Its folder in `book/recorded`.
    pub name: String,
    pub bin: String,
    #[serde(default)]
    pub args: Vec<String>,
    /// More arguments for `check --run`, where the full run is long.
    #[serde(default)]
    pub check: Vec<String>,
}

impl Recording {
    /// What the reader types to get this output.
    pub fn command(&self) -> String {
        let mut command = format!("cargo run --bin {}", self.bin);
        if !self.args.is_empty() {
            command.push_str(" -- ");
            command.push_str(&self.args.join(" "));
        }
        command
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordingsToml {
    #[serde(default)]
    recording: Vec<Recording>,
}

/// Every recording of the book: one per chapter, and those of `book/recordings.toml`.
pub fn all(workspace: &Workspace) -> Result<Vec<Recording>> {
    let binaries = workspace.binaries()?;
    let path = workspace.book().join("recordings.toml");
    let mut recordings = if path.is_file() {
        let file: RecordingsToml = toml::from_str(&read(&path)?)
            .with_context(|| format!("cannot parse {}", path.display()))?;
        file.recording
    } else {
        Vec::new()
    };
    for (at, recording) in recordings.iter().enumerate() {
        if !binaries.contains_key(&recording.bin) {
            bail!(
                "book/recordings.toml: recording {:?} runs {:?}, and no chapter has that binary",
                recording.name,
                recording.bin
            );
        }
        if recordings[..at].iter().any(|r| r.name == recording.name) {
            bail!("book/recordings.toml: two recordings are named {:?}", recording.name);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if recording.name.is_empty() || !recording.name.chars().all(plain) {
            bail!(
                "book/recordings.toml: {:?} cannot name a folder; use letters, digits, _ and -",
                recording.name
            );
        }
    }
    for bin in binaries.keys() {
        if !recordings.iter().any(|r| r.name == *bin) {
            recordings.push(Recording {
                name: bin.clone(),
                bin: bin.clone(),
                args: Vec::new(),
                check: Vec::new(),
            });
        }
    }
    recordings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(recordings)
}

/// The recordings with these names, or all of them where no name is given.
pub fn named(workspace: &Workspace, names: &[String]) -> Result<Vec<Recording>> {
    let all = all(workspace)?;
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen = Vec::new();
    for name in names {
        let Some(recording) = all.iter().find(|r| r.name == *name) else {
            let known: Vec<&str> = all.iter().map(|r| r.name.as_str()).collect();
            return Err(Usage(format!(
                "there is no recording {name:?}; there are: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
            .into());
        };
        chosen.push(recording.clone());
    }
    Ok(chosen)
}

/// A recording as stored.
pub struct Stored {
    pub dir: PathBuf,
    pub stdout: String,
    pub manifest: Manifest,
}

impl Stored {
    /// Reads `book/recorded/NAME`.
    pub fn load(workspace: &Workspace, name: &str) -> Result<Self> {
        let dir = workspace.recorded().join(name);
        if !dir.is_dir() {
            bail!("{name} is not recorded; run `cargo book record {name}`");
        }
        let stdout = read(&dir.join("stdout.txt"))?;
        let manifest = dir.join("manifest.json");
        let manifest = serde_json::from_str(&read(&manifest)?)
            .with_context(|| format!("cannot parse {}", manifest.display()))?;
        Ok(Self { dir, stdout, manifest })
    }
}

/// Splits what a chapter prints at its `== Title ==` lines: the preamble, then title and text of each section.
pub fn split_sections(stdout: &str) -> (String, Vec<(String, String)>) {
    let mut preamble = String::new();
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in stdout.lines() {
        let title = line.strip_prefix("== ").and_then(|rest| rest.strip_suffix(" =="));
        if let Some(title) = title {
            sections.push((title.to_owned(), String::new()));
            continue;
        }
        let part = match sections.last_mut() {
            Some((_, text)) => text,
            None => &mut preamble,
        };
        part.push_str(line);
        part.push('\n');
    }
    (preamble, sections)
}

/// Whether the text has just the sections that the manifest names, in its order.
pub fn agree(stdout: &str, manifest: &Manifest) -> Result<()> {
    let printed: Vec<String> =
        split_sections(stdout).1.into_iter().map(|(title, _)| title).collect();
    let named: Vec<&String> = manifest.sections.iter().map(|s| &s.title).collect();
    if printed.iter().collect::<Vec<_>>() != named {
        bail!(
            "the sections printed and those in manifest.json differ: {printed:?} against {named:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_split_at_its_headers() {
        let (preamble, sections) = split_sections("hello\n== One ==\n1\n\n== Two ==\n2\n");
        assert_eq!(preamble, "hello\n");
        assert_eq!(
            sections,
            [("One".into(), "1\n\n".into()), ("Two".into(), "2\n".into())]
        );
    }

    #[test]
    fn the_command_shows_its_arguments() {
        let recording = Recording {
            name: "ch10_seeds".into(),
            bin: "ch10".into(),
            args: vec!["--study".into(), "seeds".into()],
            check: vec![],
        };
        assert_eq!(recording.command(), "cargo run --bin ch10 -- --study seeds");
    }
}
