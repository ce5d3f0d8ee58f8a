//! Shows what a chapter printed, with the command that prints it and what the reader may expect of their own run.
//!
//! Everything is one line of HTML (line breaks are written as character references), so the block may also stand in
//! a list or a quotation without Markdown taking it apart.
//!
//! Left out: colours in the output, because what the reader copies and compares is text.

use crate::recording::{Kind, Recording, Stored, split_sections};

/// The heading in the preface that explains the two kinds.
pub const KINDS_FRAGMENT: &str = "exact-and-trained";

/// The block for a whole recording or one section of it, or what is wrong.
pub fn block(
    recording: &Recording,
    stored: &Stored,
    section: Option<&str>,
    explained_at: Option<&str>,
) -> Result<String, String> {
    let (preamble, printed) = split_sections(&stored.stdout);
    let (text, kind, label) = match section {
        None => (stored.stdout.clone(), stored.manifest.kind(), recording.name.clone()),
        Some("preamble") => (preamble, Kind::Exact, recording.name.clone()),
        Some(name) => {
            let sections = &stored.manifest.sections;
            let Some(at) = sections.iter().position(|s| s.name == name) else {
                let known: Vec<&str> = sections.iter().map(|s| s.name.as_str()).collect();
                return Err(format!(
                    "{} has no section {name:?}; it has: {}",
                    recording.name,
                    known.join(", ")
                ));
            };
            let Some((title, text)) = printed.get(at) else {
                return Err(format!("{} did not print section {name:?}", recording.name));
            };
            (text.clone(), sections[at].kind, title.clone())
        }
    };
    let text = text.trim_matches('\n');
    let sentence = match kind {
        Kind::Exact => "Exact: your run prints the same.".to_owned(),
        Kind::Trained => {
            let word = match explained_at {
                Some(href) => format!("<a href=\"{href}\">Trained</a>"),
                None => "Trained".to_owned(),
            };
            format!("{word}: your numbers will differ in detail on another processor.")
        }
    };
    Ok(format!(
        "<figure class=\"output output-{kind}\"><div class=\"output-command\"><code>{}</code></div>\
         <pre class=\"output-text\" role=\"group\" aria-label=\"Output: {}\"><samp>{}</samp></pre>\
         <figcaption>{sentence}</figcaption></figure>",
        escape(&recording.command()),
        escape(&label),
        escape(text),
    ))
}

/// Text as HTML on one line.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '{' => out.push_str("&#123;"),
            '\n' => out.push_str("&#10;"),
            c => out.push(c),
        }
    }
    out
}
