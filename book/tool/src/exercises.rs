//! `{{#exercise NAME}}` on a chapter's page, `{{#solution NAME}}` on the page of its solutions.
//!
//! The stub is taken from `book/stubs`, not from the chapter's folder, because a reader who writes there would find
//! their own answer in the book.
//!
//! Left out: the task in a page's words. Prose belongs to the page.

use crate::outputs::escape;
use crate::problem::Problem;
use crate::workspace::{Workspace, chapter_number, read};
use anyhow::{Context, Result};
use exercise::catalogue::{Chapter, chapters, section};
use std::path::Path;

/// The folder, below the pages, of the solutions.
const SOLUTIONS: &str = "solutions";

/// What a page shows of an exercise: Markdown, because the stub is highlighted like other code.
pub fn exercise(
    workspace: &Workspace,
    page: &Path,
    name: &str,
    inline: impl Fn(&str) -> Result<String, String>,
) -> Result<String, String> {
    let chapter = of_page(workspace, page)?;
    let exercise = chapter.exercise(name).map_err(|e| format!("{e:#}"))?;
    let stub = part(&chapter.stubs_file(), name)?;
    let (number, folder) = (chapter.number, &chapter.name);
    let (task, stub) = task(&stub);
    let count = exercise.hints.len();
    // A plainer hint stands inside of the gentler one, so that it is not read by accident.
    let mut hints = String::new();
    for (at, hint) in exercise.hints.iter().enumerate().rev() {
        let (at, hint) = (at + 1, inline(&hint.trim().replace('\n', " "))?);
        hints = format!(
            "<details><summary>Hint {at} of {count}</summary><p>{hint}</p>{hints}</details>"
        );
    }
    Ok(format!(
        "{task}\n\n\
         <div class=\"source-name\" id=\"exercise-{name}\"><code>chapters/{folder}/exercises.rs</code></div>\n\n\
         ```rust\n{stub}```\n\n\
         <div class=\"exercise\"><p><code>cargo exercise check {number} {name}</code> \
         <span class=\"exercise-effort\">{}</span> \
         <a href=\"{SOLUTIONS}/{folder}.html#solution-{name}\">Solution</a></p>{hints}</div>\n",
        escape(&exercise.effort.to_string()),
    ))
}

/// The documentation at the head of a stub as Markdown, and the rest. A page can break the lines of prose; those of
/// code would scroll.
fn task(stub: &str) -> (String, &str) {
    let is_doc = |line: &&str| line.starts_with("///");
    let lines = stub.split_inclusive('\n').take_while(is_doc);
    let end = lines.clone().map(str::len).sum();
    let text = |line: &str| line.trim_start_matches("///").trim().to_owned();
    let task: Vec<String> = lines.map(text).collect();
    // Links to items mean something to rustdoc only.
    (task.join("\n").replace("[`", "`").replace("`]", "`"), &stub[end..])
}

/// What the page of solutions shows of one.
pub fn solution(workspace: &Workspace, page: &Path, name: &str) -> Result<String, String> {
    let chapter = of_page(workspace, page)?;
    chapter.exercise(name).map_err(|e| format!("{e:#}"))?;
    let code = part(&chapter.solutions_file(), name)?;
    let folder = &chapter.name;
    Ok(format!(
        "<div class=\"source-name\" id=\"solution-{name}\"><code>chapters/{folder}/solutions.rs</code></div>\n\n\
         ```rust\n{code}```\n\n\
         <div class=\"exercise\"><p><a href=\"../{folder}.html#exercise-{name}\">Back to the exercise</a></p></div>\n"
    ))
}

/// Each exercise stands once on the page of its chapter and once among the solutions.
pub fn check(workspace: &Workspace, problems: &mut Vec<Problem>) -> Result<()> {
    for chapter in chapters(workspace.root())? {
        for (directive, file) in [
            ("exercise", format!("book/text/{}.md", chapter.name)),
            ("solution", format!("book/text/{SOLUTIONS}/{}.md", chapter.name)),
        ] {
            let text = read(&workspace.root().join(&file)).unwrap_or_default();
            for exercise in &chapter.exercises {
                let wanted = format!("{{{{#{directive} {}}}}}", exercise.name);
                let times = text.matches(&wanted).count();
                if times != 1 {
                    let message =
                        format!("{wanted} stands here {times} times; it must once");
                    problems.push(Problem::new(&file, None, message));
                }
            }
        }
    }
    Ok(())
}

/// The chapter that a page belongs to, by the name of its file.
fn of_page(workspace: &Workspace, page: &Path) -> Result<Chapter, String> {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    let known = chapters(workspace.root()).map_err(|e| format!("{e:#}"))?;
    let found = known.into_iter().find(|chapter| chapter.name == stem);
    found.ok_or_else(|| match chapter_number(&stem) {
        Some(_) => format!("there is no chapters/{stem}/exercises.toml"),
        None => "exercises stand on the pages of chapters".to_owned(),
    })
}

fn part(file: &Path, name: &str) -> Result<String, String> {
    let cut = || -> Result<String> {
        let text = read(file)?;
        let range = section(&text, name).with_context(|| file.display().to_string())?;
        Ok(text[range].to_owned())
    };
    cut().map_err(|error| format!("{error:#}"))
}
