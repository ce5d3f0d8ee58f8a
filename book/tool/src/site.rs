//! Builds the book, in this process, with mdBook's libraries.
//!
//! A book is built beside its destination and moved there when it is whole, so a broken page never leaves half a book
//! behind and the server can go on with the last good one.
//!
//! Left out: building only the pages that changed, because the whole book takes less than a second.

use crate::math::Math;
use crate::preprocess::{Expand, NAME};
use crate::problem::{Problem, Problems};
use crate::warnings;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use mdbook_driver::MDBook;
use mdbook_driver::config::Config;
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// Renders the book into an empty or new folder, and returns what is wrong with its pages.
pub fn render(workspace: &Workspace, dest: &Path, math: &Rc<Math>) -> Result<Vec<Problem>> {
    let config_path = workspace.book().join("book.toml");
    let mut config = Config::from_disk(&config_path)
        .with_context(|| format!("cannot read {}", config_path.display()))?;
    config.build.build_dir = dest.to_path_buf();
    // Pages are verified as they were written, before mdBook expands its includes.
    config.set(format!("preprocessor.{NAME}.before"), ["links"])?;
    config.set(format!("preprocessor.{NAME}.command"), "book preprocess")?;
    let mut book = MDBook::load_with_config(workspace.book(), config)
        .context("cannot load the book: book/text/SUMMARY.md")?;
    let problems = Rc::new(RefCell::new(Vec::new()));
    // Replaces the command of the same name in book.toml, which serves those who run mdBook's own program.
    book.with_preprocessor(Expand::new(
        workspace.clone(),
        Rc::clone(math),
        Rc::clone(&problems),
    ));
    let text = workspace.relative(&workspace.text());
    let (built, warnings) = warnings::heard(&text, || book.build());
    built.context("cannot build the book")?;
    let mut found = problems.take();
    // With a problem of ours on the page, mdBook's complaint is about what that left behind.
    if found.is_empty() {
        found = warnings;
    }
    Ok(found)
}

/// Builds the book into `dest`, which keeps its old contents unless all went well.
pub fn build(workspace: &Workspace, dest: &Path, math: &Rc<Math>) -> Result<()> {
    refuse_foreign_folder(dest)?;
    let parent = match dest.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    let fresh = tempfile::Builder::new()
        .prefix(".book-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    let pages = fresh.path().join("book");
    // Absolute, because mdBook takes a relative folder to be below book/.
    let pages = std::path::absolute(&pages)?;
    let problems = render(workspace, &pages, math)?;
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    let old = fresh.path().join("old");
    if dest.exists() {
        fs::rename(dest, &old)
            .with_context(|| format!("cannot replace {}", dest.display()))?;
    }
    fs::rename(&pages, dest).with_context(|| format!("cannot write {}", dest.display()))?;
    Ok(())
}

/// A build replaces its destination whole, so it must not be a folder that holds something else.
fn refuse_foreign_folder(dest: &Path) -> Result<()> {
    if !dest.exists() {
        return Ok(());
    }
    if !dest.is_dir() {
        bail!("{} is a file; --dest takes a folder", dest.display());
    }
    let empty = fs::read_dir(dest)
        .with_context(|| format!("cannot list {}", dest.display()))?
        .next()
        .is_none();
    if !empty && !dest.join("toc.html").is_file() {
        bail!(
            "{} holds something that is not a built book; --dest takes a new or empty folder, or one built before",
            dest.display()
        );
    }
    Ok(())
}
