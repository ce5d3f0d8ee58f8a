//! `cargo book check`: everything that can be wrong with the book and is found without running a chapter.
//!
//! Each part adds to one list, and the list is printed whole.
//!
//! Left out: spelling and style, because a person reads the book before it is published.

use crate::anchors;
use crate::exercises;
use crate::fingerprint::Fingerprint;
use crate::links;
use crate::math::Math;
use crate::problem::{Problem, line_at};
use crate::record::content_hash;
use crate::recording::{self, Stored, agree};
use crate::site;
use crate::workspace::{Workspace, chapter_number, read};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// All problems of the book, sorted by file and line.
pub fn check(workspace: &Workspace) -> Result<Vec<Problem>> {
    let mut problems = chapters(workspace)?;
    anchors::check_sources(workspace, &mut problems)?;
    exercises::check(workspace, &mut problems)?;
    match recording::all(workspace) {
        Ok(_) => recordings(workspace, &mut problems)?,
        Err(error) => {
            let file = "book/recordings.toml";
            problems.push(Problem::new(file, None, format!("{error:#}")));
        }
    }
    let dir = tempfile::tempdir().context("cannot create a temporary folder")?;
    let dir = dir.path().join("book");
    match site::render(workspace, &dir, &Rc::new(Math::default())) {
        Ok(found) => {
            let pages_are_whole = found.is_empty();
            problems.extend(found);
            let built = links::check(workspace, &dir)?;
            // A directive that failed stays on its page as written, and its figure is not there: say it once.
            let follows = |p: &Problem| {
                p.message.starts_with("a raw {{#") || p.message.contains("the id \"fig-")
            };
            let repeated = |p: &Problem| !pages_are_whole && follows(p);
            problems.extend(built.into_iter().filter(|p| !repeated(p)));
        }
        Err(error) => {
            let file = "book/text/SUMMARY.md";
            problems.push(Problem::new(file, None, format!("{error:#}")));
        }
    }
    problems.sort();
    problems.dedup();
    Ok(problems)
}

/// Folder, binary, page and place in the summary: each chapter has all four.
fn chapters(workspace: &Workspace) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let folders = workspace.chapters()?;
    let binaries = workspace.binaries()?;
    let summary = read(&workspace.text().join("SUMMARY.md"))?;
    let manifest = read(&workspace.root().join("Cargo.toml"))?;
    for name in &folders {
        let folder = format!("chapters/{name}");
        let expected = format!("{folder}/main.rs");
        match binaries.get(name) {
            None => {
                let message = format!("Cargo.toml has no [[bin]] named {name:?}");
                problems.push(Problem::new(&folder, None, message));
            }
            Some(path) if path != Path::new(&expected) => {
                let line = manifest.find(&format!("\"{name}\""));
                let line = line.map(|at| line_at(&manifest, at));
                let message = format!("the path of {name} is not {expected}");
                problems.push(Problem::new("Cargo.toml", line, message));
            }
            Some(_) if !workspace.root().join(&expected).is_file() => {
                problems.push(Problem::new(&folder, None, "it has no main.rs"));
            }
            Some(_) => {}
        }
        let page = format!("{name}.md");
        if !workspace.text().join(&page).is_file() {
            let message = format!("the chapter has no page book/text/{page}");
            problems.push(Problem::new(&folder, None, message));
        }
    }
    for name in binaries.keys().filter(|name| !folders.contains(name)) {
        let line = manifest.find(&format!("\"{name}\""));
        let line = line.map(|at| line_at(&manifest, at));
        let message = format!("the binary {name} has no folder chapters/{name}");
        problems.push(Problem::new("Cargo.toml", line, message));
    }
    let mut pages: Vec<String> = folders.clone();
    for entry in fs::read_dir(workspace.text())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".md")
            && chapter_number(stem).is_some()
        {
            if !folders.iter().any(|folder| folder == stem) {
                let file = format!("book/text/{name}");
                let message = format!("the page has no folder chapters/{stem}");
                problems.push(Problem::new(file, None, message));
            }
            pages.push(stem.to_owned());
        }
    }
    pages.sort();
    pages.dedup();
    for name in pages {
        if !summary.contains(&format!("({name}.md)")) {
            let message = format!("{name}.md has no place in the summary");
            problems.push(Problem::new("book/text/SUMMARY.md", None, message));
        }
    }
    Ok(problems)
}

/// Recordings that are stale, changed by hand, or of nothing.
fn recordings(workspace: &Workspace, problems: &mut Vec<Problem>) -> Result<()> {
    let all = recording::all(workspace)?;
    let dir = workspace.recorded();
    if dir.is_dir() {
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && !all.iter().any(|r| r.name == name) {
                let file = format!("book/recorded/{name}");
                let message =
                    "no chapter and no entry of book/recordings.toml makes this recording";
                problems.push(Problem::new(file, None, message));
            }
        }
    }
    for recording in &all {
        let folder = dir.join(&recording.name);
        // A recording that a page uses and that is not there is a problem of the page.
        if !folder.is_dir() {
            continue;
        }
        let file = format!("book/recorded/{}/manifest.json", recording.name);
        let advice = format!("run `cargo book record {}`", recording.name);
        let mut report = |file: &str, message: String| {
            problems.push(Problem::new(file, None, message));
        };
        let stored = match Stored::load(workspace, &recording.name) {
            Ok(stored) => stored,
            Err(error) => {
                report(&file, format!("{error:#}; {advice}"));
                continue;
            }
        };
        if let Err(error) = agree(&stored.stdout, &stored.manifest) {
            report(&file, format!("{error:#}; {advice}"));
        }
        for (name, hash) in &stored.manifest.contents {
            let file = format!("book/recorded/{}/{name}", recording.name);
            match fs::read(folder.join(name)) {
                Ok(bytes) if content_hash(&bytes) == *hash => {}
                Ok(_) => {
                    report(&file, format!("it is not what the chapter wrote; {advice}"))
                }
                Err(_) => report(&file, format!("it is missing; {advice}")),
            }
        }
        match (&stored.manifest.fingerprint, Fingerprint::of(workspace, recording)) {
            (None, _) => report(&file, format!("it has no fingerprint; {advice}")),
            (_, Err(error)) => {
                report(&file, format!("its sources cannot be read: {error:#}"))
            }
            (Some(then), Ok(now)) => {
                if let Some(reason) = then.difference(&now) {
                    report(&file, format!("stale: {reason}; {advice}"));
                }
            }
        }
    }
    Ok(())
}
