//! Finds `{{#name arguments}}` in a page.
//!
//! Arguments are separated by blanks; one that holds blanks or `}}` stands in double quotes, with `\"` for a quote
//! inside. Any other backslash is itself, because captions hold TeX.
//!
//! Left out: nesting, because a caption that needs a figure is a section.

use std::ops::Range;

/// One directive as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The bytes of the page from `{{#` to `}}`.
    pub range: Range<usize>,
    pub name: String,
    pub args: Vec<String>,
}

/// All directives of a page, and the offsets at which one begins and never ends.
pub fn find(text: &str) -> (Vec<Directive>, Vec<usize>) {
    let mut found = Vec::new();
    let mut open = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("{{#") {
        let start = from + at;
        if text[..start].ends_with('\\') {
            from = start + 3;
            continue;
        }
        match parse(text, start) {
            Some(directive) => {
                from = directive.range.end;
                found.push(directive);
            }
            None => {
                open.push(start);
                from = start + 3;
            }
        }
    }
    (found, open)
}

/// Reads the directive whose `{{#` stands at `start`; a paragraph's end before its `}}` means there is none.
fn parse(text: &str, start: usize) -> Option<Directive> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let body = start + 3;
    let mut chars = text[body..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        match c {
            '\\' if quoted && next == Some('"') => {
                chars.next();
                word.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '}' if !quoted && next == Some('}') => {
                words.extend(word);
                let mut words = words.into_iter();
                return Some(Directive {
                    range: start..body + at + 2,
                    name: words.next()?,
                    args: words.collect(),
                });
            }
            '\n' if next == Some('\n') => return None,
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c if c.is_whitespace() => word.get_or_insert_default().push(' '),
            c => word.get_or_insert_default().push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_may_hold_tex_and_quotes() {
        let text = r#"Before {{#figure a/b.svg "the \"best\" $\frac{a}{b_{c}}$"}} after"#;
        let (found, open) = find(text);
        assert!(open.is_empty());
        assert_eq!(found[0].name, "figure");
        assert_eq!(found[0].args, ["a/b.svg", r#"the "best" $\frac{a}{b_{c}}$"#]);
        assert!(text[found[0].range.clone()].ends_with("\"}}"));
    }

    #[test]
    fn an_unclosed_directive_is_reported_and_the_next_one_found() {
        let (found, open) = find("{{#output ch01\n\n{{#ref x}} \\{{#not}}");
        assert_eq!(open, [0]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "ref");
    }
}
