//! The preprocessor: directives and formulas of a page become HTML before mdBook reads it.
//!
//! It runs before mdBook's own `links` step, so a page is seen as it was written and each problem has its line.
//! mdBook then expands `{{#include …}}`; here it is only verified and given a caption with the name of its file.
//! Two passes over the book: figures get their numbers first, so that `{{#ref …}}` may look ahead.
//!
//! Left out: numbers for equations and tables, because a page is short enough to say "above".

use crate::directives::{self, Directive};
use crate::exercises;
use crate::figures;
use crate::includes;
use crate::math::Math;
use crate::outputs;
use crate::problem::{Problem, line_at};
use crate::recording::{self, Recording, Stored};
use crate::workspace::{Workspace, chapter_number, read};
use anyhow::Result;
use mdbook_preprocessor::book::{Book, BookItem, Chapter};
use mdbook_preprocessor::{Preprocessor, PreprocessorContext};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd, html};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The name in `[preprocessor.NAME]` of book.toml.
pub const NAME: &str = "grpo-book";

/// Expands the pages of one workspace; keeps what it found wrong for its owner to read.
pub struct Expand {
    workspace: Workspace,
    math: Rc<Math>,
    problems: Rc<RefCell<Vec<Problem>>>,
}

/// A change to a page: these bytes become that text.
type Edit = (Range<usize>, String);

/// Where a figure stands and what it is called there.
struct Numbered {
    page: PathBuf,
    label: String,
}

/// All that the expansion of a page needs to know of the book around it.
struct Around<'a> {
    workspace: &'a Workspace,
    math: &'a Math,
    recordings: &'a [Recording],
    figures: &'a BTreeMap<String, Numbered>,
    explained_at: Option<&'a str>,
}

impl Expand {
    pub fn new(
        workspace: Workspace,
        math: Rc<Math>,
        problems: Rc<RefCell<Vec<Problem>>>,
    ) -> Self {
        Self { workspace, math, problems }
    }
}

impl Preprocessor for Expand {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, _: &PreprocessorContext, mut book: Book) -> Result<Book> {
        let mut problems = self.problems.borrow_mut();
        let recordings = recording::all(&self.workspace)?;
        let figures = number_figures(&self.workspace, &book, &mut problems);
        let preface = self.workspace.text().join("preface.md");
        let explained = read(&preface)
            .is_ok_and(|t| t.contains(&format!("{{#{}}}", outputs::KINDS_FRAGMENT)));
        let href = format!("preface.html#{}", outputs::KINDS_FRAGMENT);
        let around = Around {
            workspace: &self.workspace,
            math: &self.math,
            recordings: &recordings,
            figures: &figures,
            explained_at: explained.then_some(href.as_str()),
        };
        book.for_each_mut(|item| {
            if let BookItem::Chapter(chapter) = item
                && let Some(page) = chapter.path.clone()
            {
                chapter.content = expand(&chapter.content, &page, &around, &mut problems);
            }
        });
        Ok(book)
    }
}

/// A page with its directives and formulas expanded.
fn expand(text: &str, page: &Path, around: &Around, problems: &mut Vec<Problem>) -> String {
    let file = around.workspace.relative(&around.workspace.text().join(page));
    let code = code_ranges(text);
    let (found, open) = directives::find(text);
    let mut report = |at: usize, message: String| {
        problems.push(Problem::new(&file, line_at(text, at), message));
    };
    for at in open {
        if !inside(&code, at) {
            report(at, "{{# begins a directive that }} does not end".into());
        }
    }
    let mut edits: Vec<Edit> = Vec::new();
    let mut masked = text.as_bytes().to_vec();
    for directive in &found {
        let at = directive.range.start;
        if inside(&code, at) && directive.name != "include" {
            continue;
        }
        if directive.name != "include" {
            // The formulas of a caption are not formulas of the page.
            for byte in &mut masked[directive.range.clone()] {
                if *byte != b'\n' {
                    *byte = b'x';
                }
            }
        }
        match directive_edit(text, directive, page, around, &code) {
            Ok(Some(edit)) => edits.push(edit),
            Ok(None) => {}
            Err(messages) => messages.into_iter().for_each(|m| report(at, m)),
        }
    }
    // Only whole directives were overwritten, and only by ASCII.
    let masked = String::from_utf8_lossy(&masked);
    let parser = Parser::new_ext(&masked, markdown_options());
    let mut in_heading = false;
    for (event, range) in parser.into_offset_iter() {
        let (tex, display) = match event {
            Event::InlineMath(tex) => (tex, false),
            Event::DisplayMath(tex) => (tex, true),
            Event::Start(Tag::Heading { .. }) => {
                in_heading = true;
                continue;
            }
            Event::End(TagEnd::Heading(_)) => {
                in_heading = false;
                continue;
            }
            _ => continue,
        };
        if in_heading {
            let message = "a formula in a heading: the table of contents would show its TeX; use words";
            report(range.start, message.into());
            continue;
        }
        match around.math.render(&tex, display) {
            Ok(html) if display => {
                edits.push((range, format!("<span class=\"formula\">{html}</span>")));
            }
            Ok(html) => edits.push((range, html)),
            Err(error) => {
                report(range.start, format!("KaTeX rejects the formula: {error}"))
            }
        }
    }
    for at in lone_dollars(text) {
        report(
            at,
            "this $ begins no formula: balance its braces, close it, or write \\$ for the sign"
                .into(),
        );
    }
    apply(text, edits)
}

/// Single dollars in prose. Markdown takes `$…$` with unbalanced braces for text, and would show the TeX.
fn lone_dollars(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let alone = |at: usize| {
        let before = at.checked_sub(1).map(|b| bytes[b]);
        let after = bytes.get(at + 1).copied();
        before != Some(b'$') && before != Some(b'\\') && after != Some(b'$')
    };
    let prose = prose_places(text, "$");
    prose.into_iter().filter(|at| alone(*at)).collect()
}

/// What a directive becomes: an edit, nothing (mdBook does the rest), or what is wrong with it.
fn directive_edit(
    text: &str,
    directive: &Directive,
    page: &Path,
    around: &Around,
    code: &[Range<usize>],
) -> Result<Option<Edit>, Vec<String>> {
    let one = |message: String| vec![message];
    let args: Vec<&str> = directive.args.iter().map(String::as_str).collect();
    match (directive.name.as_str(), args.as_slice()) {
        ("include", [target]) => {
            let from = around.workspace.text().join(page);
            let caption = includes::verify(around.workspace, &from, target)?;
            // Only an include that opens a fenced block gets a caption; elsewhere it is text.
            let at = directive.range.start;
            let Some(block) = code.iter().find(|range| range.contains(&at)) else {
                return Ok(None);
            };
            let first_line = text[block.start..at].trim_end();
            if first_line.contains('\n') {
                return Ok(None);
            }
            let start = text[..block.start].rfind('\n').map_or(0, |n| n + 1);
            let indent = &text[start..block.start];
            if !indent.is_empty() {
                // mdBook indents only the first of the included lines, and the block would end after it.
                return Err(one("an include cannot stand in a list or a quotation".into()));
            }
            let label = outputs::escape(&caption);
            // The blank line ends the HTML block.
            let html = format!("<div class=\"source-name\"><code>{label}</code></div>\n\n");
            Ok(Some((start..start, html)))
        }
        ("output", [name]) => block(text, directive, output(around, name, None)),
        ("output", [name, section]) => block(text, directive, output(around, name, Some(section))),
        ("figure", [path, caption]) => block(text, directive, figure(around, path, caption)),
        ("exercise", [name]) => {
            let inline = |text: &str| inline_markdown(text, around.math);
            let shown = exercises::exercise(around.workspace, page, name, inline);
            block(text, directive, shown)
        }
        ("solution", [name]) => {
            block(text, directive, exercises::solution(around.workspace, page, name))
        }
        ("ref", [path]) => match around.figures.get(*path) {
            Some(numbered) => {
                let mut target = String::new();
                for _ in page.components().skip(1) {
                    target.push_str("../");
                }
                target.push_str(&crate::problem::slashed(&numbered.page));
                let id = figures::id(path);
                let link = format!("[{}]({target}#{id})", numbered.label);
                Ok(Some((directive.range.clone(), link)))
            }
            None => Err(one(format!("no page shows the figure {path:?}"))),
        },
        ("title", _) => Ok(None),
        ("include", _) => Err(one("an include is written {{#include PATH:ANCHOR}}".into())),
        ("output", _) => Err(one("an output is written {{#output RECORDING}} or {{#output RECORDING SECTION}}".into())),
        ("figure", _) => Err(one("a figure is written {{#figure RECORDING/NAME.svg \"caption\"}} or {{#figure drawings/NAME.svg \"caption\"}}".into())),
        ("exercise" | "solution", _) => Err(one("an exercise is written {{#exercise NAME}}, its solution {{#solution NAME}}".into())),
        ("ref", _) => Err(one("a reference is written {{#ref RECORDING/NAME.svg}}".into())),
        (other, _) => Err(one(format!(
            "there is no directive {other:?}; there are: include, output, figure, ref, exercise, solution"
        ))),
    }
}

/// The edit for a directive that becomes a block and so must stand alone on its lines.
fn block(
    text: &str,
    directive: &Directive,
    html: Result<String, String>,
) -> Result<Option<Edit>, Vec<String>> {
    let Range { start, end } = directive.range;
    let line_start = text[..start].rfind('\n').map_or(0, |n| n + 1);
    let line_end = text[end..].find('\n').map_or(text.len(), |n| end + n);
    let before_is_layout = text[line_start..start].chars().all(|c| " \t>-*".contains(c));
    if !before_is_layout || !text[end..line_end].trim().is_empty() {
        return Err(vec![format!(
            "{{{{#{} …}}}} must stand on a line of its own",
            directive.name
        )]);
    }
    let mut html = html.map_err(|message| vec![message])?;
    // An HTML block lasts until a blank line.
    html.push('\n');
    Ok(Some((directive.range.clone(), html)))
}

fn output(around: &Around, name: &str, section: Option<&str>) -> Result<String, String> {
    let recording = known(around, name)?;
    let stored = Stored::load(around.workspace, name).map_err(|e| format!("{e:#}"))?;
    outputs::block(recording, &stored, section, around.explained_at)
}

fn known<'a>(around: &'a Around, name: &str) -> Result<&'a Recording, String> {
    let found = around.recordings.iter().find(|r| r.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = around.recordings.iter().map(|r| r.name.as_str()).collect();
        format!("there is no recording {name:?}; there are: {}", names.join(", "))
    })
}

fn figure(around: &Around, path: &str, caption: &str) -> Result<String, String> {
    let Some((folder, name)) = path.split_once('/') else {
        return Err(format!(
            "{path:?} names no folder; write RECORDING/NAME.svg or drawings/NAME.svg"
        ));
    };
    let file = if folder == "drawings" {
        around.workspace.drawings().join(name)
    } else {
        known(around, folder)?;
        around.workspace.recorded().join(folder).join(name)
    };
    let shown = around.workspace.relative(&file);
    let Ok(svg) = read(&file) else {
        let advice = if folder == "drawings" {
            String::new()
        } else {
            format!("; `cargo book record {folder}` records what the chapter draws")
        };
        return Err(format!(
            "there is no figure {}{advice}",
            crate::problem::slashed(&shown)
        ));
    };
    let id = figures::id(path);
    let svg = figures::inline(&svg, &id)
        .map_err(|error| format!("{}: {error}", crate::problem::slashed(&shown)))?;
    let caption = inline_markdown(caption, around.math)?;
    let label = &around.figures.get(path).ok_or("the figure has no number")?.label;
    Ok(format!(
        "<figure class=\"figure\" id=\"{id}\"><div class=\"figure-box\">{svg}</div>\
         <figcaption><span class=\"figure-number\">{label}</span> {caption}</figcaption></figure>"
    ))
}

/// A caption: Markdown and formulas, without the paragraph around them, on one line.
fn inline_markdown(text: &str, math: &Math) -> Result<String, String> {
    let mut failed = None;
    let events: Vec<Event> = Parser::new_ext(text, markdown_options())
        .filter(|event| {
            !matches!(event, Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph))
        })
        .map(|event| {
            let (tex, display) = match event {
                Event::InlineMath(tex) => (tex, false),
                Event::DisplayMath(tex) => (tex, true),
                other => return other,
            };
            match math.render(&tex, display) {
                Ok(html) => Event::InlineHtml(html.into()),
                Err(error) => {
                    failed =
                        Some(format!("KaTeX rejects a formula of the caption: {error}"));
                    Event::Text("".into())
                }
            }
        })
        .collect();
    let mut out = String::new();
    html::push_html(&mut out, events.into_iter());
    match failed {
        Some(error) => Err(error),
        None => Ok(out.trim().replace('\n', " ")),
    }
}

/// Numbers the figures of the book in the order of its pages.
fn number_figures(
    workspace: &Workspace,
    book: &Book,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Numbered> {
    let mut figures: BTreeMap<String, Numbered> = BTreeMap::new();
    for item in book.iter() {
        let BookItem::Chapter(chapter) = item else {
            continue;
        };
        let Some(page) = &chapter.path else { continue };
        let code = code_ranges(&chapter.content);
        let mut count = 0;
        for directive in directives::find(&chapter.content).0 {
            let at = directive.range.start;
            if directive.name != "figure" || inside(&code, at) {
                continue;
            }
            let Some(path) = directive.args.first() else {
                continue;
            };
            count += 1;
            let label = figure_label(chapter, page, count);
            let page = page.clone();
            let numbered = Numbered { page, label };
            if let Some(other) = figures.insert(path.clone(), numbered) {
                let file = workspace.text().join(&figures[path].page);
                let message = format!(
                    "the figure {path:?} is shown twice, first as {}; refer to it with {{{{#ref {path}}}}}",
                    other.label
                );
                let line = line_at(&chapter.content, at);
                problems.push(Problem::new(workspace.relative(&file), line, message));
            }
        }
    }
    figures
}

fn figure_label(chapter: &Chapter, page: &Path, count: usize) -> String {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    let by_name = chapter_number(&stem).map(|n| n.to_string());
    let by_place = chapter.number.as_ref().map(|n| n.to_string());
    match by_name.or(by_place) {
        Some(number) => format!("Figure {}.{count}", number.trim_end_matches('.')),
        None => format!("Figure {count}"),
    }
}

/// mdBook's options and formulas.
pub fn markdown_options() -> Options {
    Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_SMART_PUNCTUATION
        | Options::ENABLE_DEFINITION_LIST
        | Options::ENABLE_GFM
        | Options::ENABLE_MATH
}

/// The bytes of a page that are code: fenced blocks (from their fence) and spans.
fn code_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (event, range) in Parser::new_ext(text, markdown_options()).into_offset_iter() {
        match event {
            Event::Code(_) => ranges.push(range),
            Event::Start(Tag::CodeBlock(
                CodeBlockKind::Fenced(_) | CodeBlockKind::Indented,
            )) => {
                ranges.push(range);
            }
            _ => {}
        }
    }
    ranges
}

/// The places where a text stands in prose, and not in code, a formula, HTML or a directive.
pub fn prose_places(text: &str, needle: &str) -> Vec<usize> {
    let mut other = code_ranges(text);
    for (event, range) in Parser::new_ext(text, markdown_options()).into_offset_iter() {
        if matches!(
            event,
            Event::InlineMath(_)
                | Event::DisplayMath(_)
                | Event::Html(_)
                | Event::InlineHtml(_)
        ) {
            other.push(range);
        }
    }
    other.extend(directives::find(text).0.into_iter().map(|d| d.range));
    let places = text.match_indices(needle).map(|(at, _)| at);
    places.filter(|at| !inside(&other, *at)).collect()
}

fn inside(ranges: &[Range<usize>], at: usize) -> bool {
    ranges.iter().any(|range| range.contains(&at))
}

/// Applies edits from the last to the first, so that the places of the earlier ones hold.
fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = text.to_owned();
    for (range, with) in edits.into_iter().rev() {
        out.replace_range(range, &with);
    }
    out
}
