//! `// ANCHOR: name` … `// ANCHOR_END: name`: the part of a source that a page shows.
//!
//! A part that begins or ends inside an item shows code that means nothing alone, so the lines between the marks must
//! be whole items, whole members of an `impl`, or whole statements, and fit on a screen.
//!
//! Left out: anchors around single match arms or fields, because a reader cannot compile them in their head.

use crate::problem::Problem;
use crate::workspace::{Workspace, read};
use anyhow::Result;
use proc_macro2::Span;
use regex::Regex;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ImplItem, Item, Stmt, TraitItem};

/// More lines than this do not fit on a screen beside the prose about them.
pub const SCREEN: usize = 45;

static MARK: LazyLock<Regex> = LazyLock::new(|| {
    // A constant; the tests compile it.
    Regex::new(r"ANCHOR(_END)?:\s*([\w_-]+)").expect("a constant pattern")
});

/// The lines of an anchor, counted from 1, both included, without its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    pub first: usize,
    pub last: usize,
}

/// A mark in a source: its line, whether it ends an anchor, and the anchor's name.
fn marks(text: &str) -> Vec<(usize, bool, &str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(mark) = MARK.captures(line) {
            let name = mark.get(2).map_or("", |m| m.as_str());
            found.push((at + 1, mark.get(1).is_some(), name));
        }
    }
    found
}

/// The lines of the named anchor.
pub fn find(text: &str, name: &str) -> Result<Lines, String> {
    let marks = marks(text);
    let starts: Vec<_> = marks.iter().filter(|m| !m.1 && m.2 == name).collect();
    let Some((start, ..)) = starts.first() else {
        let known: Vec<&str> = marks.iter().filter(|m| !m.1).map(|m| m.2).collect();
        return Err(if known.is_empty() {
            format!("there is no anchor {name:?}, nor any other")
        } else {
            format!("there is no anchor {name:?}; there are: {}", known.join(", "))
        });
    };
    let end = marks.iter().find(|m| m.1 && m.2 == name && m.0 > *start);
    match end {
        Some((end, ..)) => Ok(Lines { first: start + 1, last: end - 1 }),
        None => Err(format!("the anchor {name:?} of line {start} is never ended")),
    }
}

/// Whether the lines are whole items, members or statements of the source, and not too many.
pub fn whole(text: &str, lines: Lines) -> Result<(), String> {
    let source: Vec<&str> = text.lines().collect();
    let is_code = |line: usize| {
        let line = source[line - 1].trim();
        !line.is_empty() && !line.starts_with("//")
    };
    let code: Vec<usize> = (lines.first..=lines.last).filter(|l| is_code(*l)).collect();
    if code.is_empty() {
        return Err("holds no code".into());
    }
    let shown =
        (lines.first..=lines.last).filter(|line| !MARK.is_match(source[line - 1])).count();
    if shown > SCREEN {
        return Err(format!("has {shown} lines; {SCREEN} fit on a screen"));
    }
    let file = syn::parse_file(text).map_err(|error| {
        format!("cannot be checked, line {}: {error}", error.span().start().line)
    })?;
    let mut parts = Parts::default();
    parts.visit_file(&file);
    for part in &parts.0 {
        let contained = part.bare >= lines.first && part.last <= lines.last;
        let contains = part.first < lines.first && part.last > lines.last;
        let apart = part.last < lines.first || part.first > lines.last;
        if !(contained || contains || apart) {
            return Err(format!(
                "splits the {} of lines {} to {}",
                part.what, part.first, part.last
            ));
        }
    }
    let inside = |line: &usize| {
        parts.0.iter().any(|part| {
            part.bare >= lines.first
                && part.last <= lines.last
                && (part.first..=part.last).contains(line)
        })
    };
    match code.iter().find(|line| !inside(line)) {
        Some(line) => Err(format!("splits the item around line {line}")),
        None => Ok(()),
    }
}

/// Something that may be shown alone.
struct Part {
    what: &'static str,
    /// With its documentation.
    first: usize,
    /// Without: a page may leave the documentation out.
    bare: usize,
    last: usize,
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, what: &'static str, span: Span, bare: usize) {
        self.0.push(Part { what, first: span.start().line, bare, last: span.end().line });
    }
}

/// The first line that is not documentation.
fn bare(tokens: impl quote::ToTokens) -> usize {
    let mut tokens = tokens.into_token_stream().into_iter().peekable();
    while let Some(token) = tokens.next() {
        let line = token.span().start().line;
        let hash = matches!(&token, proc_macro2::TokenTree::Punct(p) if p.as_char() == '#');
        // A page may leave out for which build an item is, too.
        let documents = hash
            && tokens.peek().is_some_and(|t| {
                let attribute = t.to_string();
                let attribute = attribute.trim_start_matches(['[', ' ']);
                attribute.starts_with("doc") || attribute.starts_with("cfg")
            });
        if !documents {
            return line;
        }
        tokens.next();
    }
    0
}

impl<'ast> Visit<'ast> for Parts {
    fn visit_item(&mut self, item: &'ast Item) {
        self.add("item", item.span(), bare(item));
        visit::visit_item(self, item);
    }
    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        self.add("impl member", item.span(), bare(item));
        visit::visit_impl_item(self, item);
    }
    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        self.add("trait member", item.span(), bare(item));
        visit::visit_trait_item(self, item);
    }
    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        // An item among statements is added as an item.
        if !matches!(stmt, Stmt::Item(_)) {
            self.add("statement", stmt.span(), bare(stmt));
        }
        visit::visit_stmt(self, stmt);
    }
}

/// Marks without a partner, in any source of the library and the chapters.
pub fn check_sources(workspace: &Workspace, problems: &mut Vec<Problem>) -> Result<()> {
    let chapters = workspace.chapters()?.into_iter().map(|name| format!("chapters/{name}"));
    for folder in ["src", "book/stubs"].map(String::from).into_iter().chain(chapters) {
        let dir = workspace.root().join(folder);
        if dir.is_dir() {
            check_folder(workspace, &dir, problems)?;
        }
    }
    Ok(())
}

fn check_folder(
    workspace: &Workspace,
    dir: &Path,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            check_folder(workspace, &path, problems)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let file = workspace.relative(&path);
            for (line, message) in unpaired(&read(&path)?) {
                problems.push(Problem::new(&file, line, message));
            }
        }
    }
    Ok(())
}

/// Anchors that are opened twice, never ended, or ended before they begin.
fn unpaired(text: &str) -> Vec<(usize, String)> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for (line, ends, name) in marks(text) {
        if ends {
            match open.iter().position(|(_, n)| *n == name) {
                Some(at) => {
                    open.remove(at);
                }
                None => found.push((line, format!("ANCHOR_END: {name} ends nothing"))),
            }
        } else {
            if seen.contains(&name) {
                found.push((line, format!("a second anchor {name:?} in this file")));
            }
            seen.push(name);
            open.push((line, name));
        }
    }
    let open = open.into_iter();
    found.extend(
        open.map(|(line, name)| (line, format!("the anchor {name:?} is never ended"))),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
/// Doc.
// ANCHOR: whole
fn a() {
    let x = 1;
    // ANCHOR: statement
    let y = {
        x
    };
    // ANCHOR_END: statement
    // ANCHOR: half
    let z = {
        // ANCHOR_END: half
        y
    };
}
// ANCHOR_END: whole
// ANCHOR: open
fn b() {}
";

    fn check(name: &str) -> Result<(), String> {
        whole(SOURCE, find(SOURCE, name)?)
    }

    #[test]
    fn whole_items_and_statements_pass() {
        assert_eq!(check("whole"), Ok(()));
        assert_eq!(check("statement"), Ok(()));
    }

    #[test]
    fn a_split_statement_is_found() {
        let error = check("half").unwrap_err();
        assert!(error.contains("splits the statement of lines 11 to 14"), "{error}");
    }

    #[test]
    fn the_head_of_a_function_alone_is_a_split() {
        let text = "// ANCHOR: a\nfn f() {\n    g();\n    // ANCHOR_END: a\n    h();\n}\n";
        let error = whole(text, find(text, "a").unwrap()).unwrap_err();
        assert!(error.contains("splits the item of lines 2 to 6"), "{error}");
    }

    #[test]
    fn open_and_missing_anchors_are_found() {
        assert!(find(SOURCE, "open").unwrap_err().contains("line 17"));
        assert!(find(SOURCE, "none").unwrap_err().contains("there are: whole"));
        assert_eq!(unpaired(SOURCE).len(), 1);
    }

    #[test]
    fn more_than_a_screen_is_too_much() {
        let text = format!(
            "// ANCHOR: a\nfn f() {{\n{}}}\n// ANCHOR_END: a\n",
            "    g();\n".repeat(60)
        );
        let error = whole(&text, find(&text, "a").unwrap()).unwrap_err();
        assert!(error.contains("62 lines"), "{error}");
    }
}
