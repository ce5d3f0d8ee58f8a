//! What a recording was made from, so that its age shows without running anything.
//!
//! The arguments of the run, a hash of each source it can reach, and the versions of the crates that compute. It is
//! kept file by file: a message that names the file which changed is worth more than one hash.
//!
//! Which library modules count: those that the chapter's sources name after `grpo::`, and those that these name after
//! `crate::` or `super::`, and so on. A name that is no module is looked up among the `use` lines of `src/lib.rs`.
//!
//! Left out: the rest of the dependency graph and the compiler, because neither should change a printed digit, and
//! `check --run` would say so.

use crate::problem::slashed;
use crate::recording::Recording;
use crate::tokens::{hash, meaningful};
use crate::workspace::{Workspace, read};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::Item;

/// Crates whose version can change a number.
const COMPUTING: [&str; 4] = ["candle-core", "candle-nn", "rand", "rand_distr"];
/// Files of a chapter's folder that its run does not contain.
const NOT_RUN: [&str; 5] =
    ["checks.rs", "exercises.rs", "solutions.rs", "someone.rs", "tests.rs"];

/// What a recording depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub args: Vec<String>,
    pub sources: BTreeMap<String, String>,
    pub versions: BTreeMap<String, String>,
}

impl Fingerprint {
    /// The fingerprint that a recording made now would have.
    pub fn of(workspace: &Workspace, recording: &Recording) -> Result<Self> {
        Ok(Self {
            args: recording.args.clone(),
            sources: sources(workspace, &recording.bin)?,
            versions: workspace.locked_versions(&COMPUTING)?,
        })
    }

    /// Why a recording with this fingerprint is stale, or nothing.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.args != now.args {
            return Some(format!(
                "its arguments were {:?} and are now {:?}",
                self.args, now.args
            ));
        }
        let mut reasons = Vec::new();
        for (file, hash) in &now.sources {
            match self.sources.get(file) {
                None => reasons.push(format!("{file} is used now and was not")),
                Some(then) if then != hash => {
                    reasons.push(format!("{file} changed since it was recorded"));
                }
                Some(_) => {}
            }
        }
        let gone = self.sources.keys().filter(|f| !now.sources.contains_key(*f));
        reasons.extend(gone.map(|file| format!("{file} was used and is not now")));
        for (name, version) in &now.versions {
            let then = self.versions.get(name).map_or("absent", String::as_str);
            if then != version {
                reasons.push(format!("{name} was {then} and is now {version}"));
            }
        }
        if reasons.is_empty() { None } else { Some(reasons.join(", ")) }
    }
}

/// The hash of each source that a binary can reach.
fn sources(workspace: &Workspace, bin: &str) -> Result<BTreeMap<String, String>> {
    let library = Library::read(workspace)?;
    let mut hashes = BTreeMap::new();
    let mut waiting: BTreeSet<PathBuf> = BTreeSet::new();
    let main = workspace
        .binaries()?
        .remove(bin)
        .with_context(|| format!("Cargo.toml has no binary {bin}"))?;
    let folder = main.parent().unwrap_or(Path::new("chapters")).to_path_buf();
    waiting.extend(rust_files(workspace, &folder)?);
    while let Some(file) = waiting.pop_first() {
        let name = slashed(&file);
        if hashes.contains_key(&name) {
            continue;
        }
        let path = workspace.root().join(&file);
        if file.extension().is_none_or(|e| e != "rs") {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            hashes.insert(name, hash([bytes.as_slice()]));
            continue;
        }
        // Declaring one more module in lib.rs changes no result.
        let is_lib = file == Path::new("src/lib.rs");
        let keep = |item: &Item| !is_lib || !matches!(item, Item::Mod(_) | Item::Use(_));
        let words = meaningful(&read(&path)?, &keep).with_context(|| name.clone())?;
        waiting.extend(library.reached(&words, file.starts_with("src")));
        waiting.extend(embedded(&words, &file));
        hashes.insert(name, hash(words.iter().map(|word| word.as_bytes())));
    }
    Ok(hashes)
}

/// The `.rs` files below a folder which end up in a run, relative to the workspace.
fn rust_files(workspace: &Workspace, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let dir = workspace.root().join(folder);
    for entry in
        fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = folder.join(&name);
        if entry.path().is_dir() {
            files.extend(rust_files(workspace, &file)?);
        } else if name.ends_with(".rs") && !NOT_RUN.contains(&name.as_str()) {
            files.push(file);
        }
    }
    Ok(files)
}

/// The modules of the library, and the names that its root lends to them.
struct Library {
    modules: BTreeMap<String, Vec<PathBuf>>,
    /// A name exported by lib.rs → the modules on the line that exports it.
    lent: BTreeMap<String, BTreeSet<String>>,
}

impl Library {
    fn read(workspace: &Workspace) -> Result<Self> {
        let mut modules = BTreeMap::new();
        let mut lent: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let lib = workspace.root().join("src/lib.rs");
        if !lib.is_file() {
            return Ok(Self { modules, lent });
        }
        let source = read(&lib)?;
        let file = syn::parse_file(&source).context("src/lib.rs")?;
        for item in &file.items {
            let Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let mut files = Vec::new();
            let single = PathBuf::from(format!("src/{name}.rs"));
            if workspace.root().join(&single).is_file() {
                files.push(single);
            }
            let folder = PathBuf::from(format!("src/{name}"));
            if workspace.root().join(&folder).is_dir() {
                files.extend(rust_files(workspace, &folder)?);
            }
            modules.insert(name, files);
        }
        let words = meaningful(&source, &|item| matches!(item, Item::Use(_)))?;
        for line in words.split(|word| word == ";") {
            let on_line: BTreeSet<String> =
                line.iter().filter(|word| modules.contains_key(*word)).cloned().collect();
            for word in line {
                lent.entry(word.clone()).or_default().extend(on_line.iter().cloned());
            }
        }
        Ok(Self { modules, lent })
    }

    /// The files of the modules that a source names.
    fn reached(&self, words: &[String], in_library: bool) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for name in names_after_root(words, in_library) {
            if let Some(own) = self.modules.get(&name) {
                files.extend(own.iter().cloned());
            } else if name == "*" {
                files.extend(self.modules.values().flatten().cloned());
            } else {
                for module in self.lent.get(&name).into_iter().flatten() {
                    files.extend(self.modules[module].iter().cloned());
                }
                // Defined in lib.rs itself, or lent by it: its own items count either way.
                files.push(PathBuf::from("src/lib.rs"));
            }
        }
        files
    }
}

/// The names that follow `grpo::` (in the library `crate::` and `super::`), alone or in a `{…}` list.
fn names_after_root(words: &[String], in_library: bool) -> BTreeSet<String> {
    let roots: &[&str] = if in_library { &["crate", "super"] } else { &["grpo"] };
    let mut names = BTreeSet::new();
    for at in 0..words.len() {
        if !roots.contains(&words[at].as_str()) || !follows(words, at + 1, &[":", ":"]) {
            continue;
        }
        match words.get(at + 3).map(String::as_str) {
            Some("{") => names.extend(listed(&words[at + 4..])),
            Some(name) => {
                names.insert(name.to_owned());
            }
            None => {}
        }
    }
    names
}

/// The first name of each member of a `use` list, which ends at its own brace.
fn listed(words: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut first = true;
    for word in words {
        match word.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => break,
            "}" => depth -= 1,
            "," if depth == 0 => first = true,
            name if first => {
                first = false;
                if name != "self" {
                    names.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    names
}

/// Files that a source embeds with `include_str!` or `include_bytes!`.
fn embedded(words: &[String], from: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for at in 0..words.len() {
        let embeds = matches!(words[at].as_str(), "include_str" | "include_bytes");
        if embeds && follows(words, at + 1, &["!", "("]) {
            let literal = words.get(at + 3).map_or("", String::as_str);
            let path = literal.trim_matches('"');
            let folder = from.parent().unwrap_or(Path::new(""));
            files.push(normal(&folder.join(path)));
        }
    }
    files
}

fn follows(words: &[String], at: usize, expected: &[&str]) -> bool {
    words.len() >= at + expected.len()
        && words[at..at + expected.len()].iter().zip(expected).all(|(a, b)| a == b)
}

/// Resolves `..` in a relative path.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_alone_and_in_lists() {
        let words = meaningful(
            "use grpo::{seed::Seed, self, plot, report::{Table, csv}}; fn f() { grpo::advantage::gae(); }",
            &|_| true,
        )
        .unwrap();
        let names = names_after_root(&words, false);
        let expected = ["advantage", "plot", "report", "seed"];
        assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_difference_names_the_file() {
        let then = Fingerprint {
            sources: [("src/a.rs".to_owned(), "1".to_owned())].into(),
            ..Fingerprint::default()
        };
        let mut now = then.clone();
        assert_eq!(then.difference(&now), None);
        now.sources.insert("src/a.rs".into(), "2".into());
        let reason = then.difference(&now).unwrap();
        assert_eq!(reason, "src/a.rs changed since it was recorded");
    }
}
