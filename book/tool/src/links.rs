//! Checks the built book: dead links and fragments, what a page loads from elsewhere, and Markdown left unexpanded.
//!
//! Left out: whether a page on the web still exists, because a book must build and pass on a train.

use crate::html::{Page, css_loads, is_foreign};
use crate::preprocess::prose_places;
use crate::problem::{Problem, line_at, slashed};
use crate::workspace::{Workspace, read};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// All problems of the built book in `dir`.
pub fn check(workspace: &Workspace, dir: &Path) -> Result<Vec<Problem>> {
    let mut files = Vec::new();
    list(dir, Path::new(""), &mut files)?;
    let mut pages = BTreeMap::new();
    for file in &files {
        if file.extension().is_some_and(|e| e == "html") {
            pages.insert(file.clone(), Page::read(&read(&dir.join(file))?));
        }
    }
    let mut problems = Vec::new();
    for (name, page) in &pages {
        let source = Source::of(workspace, name);
        if name != Path::new("print.html") {
            problems.extend(page_problems(page, &source));
        }
        // mdBook writes 404.html for whatever place it is served at, and print.html from the pages already seen.
        if name != Path::new("404.html") && name != Path::new("print.html") {
            problems.extend(dead_links(name, page, &pages, &files, &source));
            problems.extend(missing_files(name, page, &files, &source));
        }
    }
    for file in &files {
        problems.extend(asset_problems(dir, file)?);
    }
    if problems.is_empty()
        && let Some((name, print)) = pages.get_key_value(Path::new("print.html"))
    {
        let source = Source::of(workspace, name);
        problems.extend(dead_links(name, print, &pages, &files, &source));
    }
    Ok(problems)
}

/// The Markdown behind a built page, to name the line a problem comes from.
struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    fn of(workspace: &Workspace, page: &Path) -> Self {
        let path = workspace.text().join(page.with_extension("md"));
        match read(&path) {
            Ok(text) => Self { file: workspace.relative(&path), text },
            // print.html, toc.html, index.html: made by mdBook.
            Err(_) => {
                Self { file: Path::new("the built book").join(page), text: String::new() }
            }
        }
    }

    fn problem(&self, needles: &[&str], message: String) -> Problem {
        let mut places = needles.iter().filter_map(|n| self.text.find(n));
        let line = places.next().map(|at| line_at(&self.text, at));
        Problem::new(&self.file, line, message)
    }
}

fn page_problems(page: &Page, source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for raw in ["{{#", "$$"] {
        if page.prose.contains(raw) {
            let message = format!("a raw {raw} reaches the reader");
            let at = prose_places(&source.text, raw);
            let line = at.first().map(|at| line_at(&source.text, *at));
            problems.push(Problem::new(&source.file, line, message));
        }
    }
    for load in page.loads.iter().filter(|load| is_foreign(load)) {
        let message = format!("opening the page would request {load} from another host");
        problems.push(source.problem(&[load], message));
    }
    if page.playground {
        let message = "a runnable code block asks a remote playground; set [output.html.playground] runnable = false";
        problems.push(source.problem(&["```rust"], message.into()));
    }
    for id in &page.doubled {
        let message = format!("two elements have the id {id:?}");
        problems.push(source.problem(&[id], message));
    }
    problems
}

fn dead_links(
    name: &Path,
    page: &Page,
    pages: &BTreeMap<PathBuf, Page>,
    files: &[PathBuf],
    source: &Source,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for link in &page.links {
        let has_scheme = link
            .split_once(':')
            .is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
        if has_scheme || link.starts_with("//") {
            continue;
        }
        let (path, fragment) = match link.split_once('#') {
            Some((path, fragment)) => (path, Some(fragment)),
            None => (link.as_str(), None),
        };
        let target = if path.is_empty() {
            name.to_path_buf()
        } else {
            normal(&name.parent().unwrap_or(Path::new("")).join(path))
        };
        let written = link.replace(".html", ".md");
        let mut needles = vec![written.as_str(), link.as_str()];
        needles.extend(fragment);
        if !files.contains(&target) {
            let target = slashed(&target.with_extension("md"));
            let message = format!("dead link {written:?}: the book has no {target}");
            problems.push(source.problem(&needles, message));
        } else if let (Some(fragment), Some(page)) = (fragment, pages.get(&target))
            && !fragment.is_empty()
            && !page.ids.contains(fragment)
        {
            let message =
                format!("dead link {written:?}: nothing there has the id {fragment:?}");
            problems.push(source.problem(&needles, message));
        }
    }
    problems
}

/// Pictures, scripts and style sheets that a page loads from the book, and that are not in it.
fn missing_files(
    name: &Path,
    page: &Page,
    files: &[PathBuf],
    source: &Source,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for load in page.loads.iter().filter(|load| !is_foreign(load)) {
        let path = load.split(['#', '?']).next().unwrap_or("");
        let target = normal(&name.parent().unwrap_or(Path::new("")).join(path));
        if !path.is_empty() && !path.starts_with("data:") && !files.contains(&target) {
            let message = format!("the page loads {path:?}, and the book has no such file");
            problems.push(source.problem(&[path], message));
        }
    }
    problems
}

/// Style sheets that load from elsewhere, and our own scripts that name another host.
fn asset_problems(dir: &Path, file: &Path) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let shown = Path::new("the built book").join(file);
    let is = |extension: &str| file.extension().is_some_and(|e| e == extension);
    if is("css") {
        let css = read(&dir.join(file))?;
        for load in css_loads(&css).iter().filter(|load| is_foreign(load)) {
            let message = format!("the style sheet would request {load} from another host");
            problems.push(Problem::new(&shown, None, message));
        }
    }
    // mdBook's scripts mention hosts in comments, and use one for the playground alone, which a page check covers.
    if is("js") && file.starts_with("theme") {
        let script = read(&dir.join(file))?;
        for (at, line) in script.lines().enumerate() {
            if line.contains("http://") || line.contains("https://") {
                let message = "the script names another host".to_owned();
                problems.push(Problem::new(&shown, at + 1, message));
            }
        }
    }
    Ok(problems)
}

fn list(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            list(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}
