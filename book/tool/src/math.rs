//! `$…$` and `$$…$$` become HTML and MathML while the book is built.
//!
//! KaTeX runs here and not in the reader's browser, so a page needs no script and no network, and a formula that
//! does not parse fails the build instead of turning red on the page. What KaTeX returns is spliced into Markdown
//! that mdBook still has to parse, hence the escaping.
//!
//! Left out: macros for the whole book, because a formula that can be read alone can be copied alone.

use katex::{KatexContext, Settings, StrictMode, StrictSetting, render_to_string};
use regex::Regex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

/// `\sqrt N`: katex-rs 0.3 draws the root over a bare symbol, and beside one in braces.
static BARE_ROOT: LazyLock<Regex> = LazyLock::new(|| {
    // A constant; the tests compile it.
    Regex::new(r"\\sqrt\s*(\[[^\]]*\])?\s*([A-Za-z0-9]|\\[A-Za-z]+)")
        .expect("a constant pattern")
});

/// Renders formulas, and remembers them: while serving, most pages did not change.
#[derive(Default)]
pub struct Math {
    context: KatexContext,
    cache: RefCell<HashMap<(String, bool), Result<String, String>>>,
}

impl Math {
    /// The formula as inline HTML that Markdown leaves alone, or what KaTeX has against it.
    pub fn render(&self, tex: &str, display: bool) -> Result<String, String> {
        let key = (tex.to_owned(), display);
        if let Some(known) = self.cache.borrow().get(&key) {
            return known.clone();
        }
        let settings = Settings::builder()
            .display_mode(display)
            .strict(StrictSetting::Mode(StrictMode::Error))
            .build();
        if !display && tex.contains(r"\\") && !tex.contains(r"\begin") {
            // In a caption, most often a command with a backslash too many.
            return Err(r"a formula in a line cannot hold the line break \\".into());
        }
        let tex = BARE_ROOT.replace_all(tex, r"\sqrt$1{$2}");
        let rendered = render_to_string(&self.context, &tex, &settings)
            .map(|html| shield(&html))
            // KaTeX underlines the place with combining marks, which a terminal shows as noise.
            .map_err(|error| error.to_string().replace('\u{332}', ""));
        self.cache.borrow_mut().insert(key, rendered.clone());
        rendered
    }
}

/// Writes HTML so that a Markdown parser finds nothing in its text: each ASCII punctuation mark outside a tag
/// becomes a character reference, and line breaks become spaces. Existing references stay.
fn shield(html: &str) -> String {
    let mut out = String::with_capacity(html.len() * 2);
    let mut in_tag = false;
    let mut in_reference = false;
    for c in html.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '<' => {
                in_tag = true;
                out.push(c);
            }
            '>' if in_tag => {
                in_tag = false;
                out.push(c);
            }
            _ if in_tag => out.push(c),
            '&' => {
                in_reference = true;
                out.push(c);
            }
            ';' if in_reference => {
                in_reference = false;
                out.push(c);
            }
            '#' if in_reference => out.push(c),
            c if c.is_ascii_punctuation() => {
                in_reference = false;
                // Writing to a String cannot fail.
                let _ = write!(out, "&#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_has_markup_for_eyes_and_for_ears() {
        let html = Math::default().render(r"\frac{a_1}{b} * c", false).unwrap();
        assert!(html.contains("<math"), "{html}");
        assert!(html.contains("aria-hidden=\"true\""), "{html}");
        // The TeX source is kept as an annotation, in a form that Markdown does not read.
        assert!(html.contains("a&#95;1"), "{html}");
        assert!(!html.contains('\n'));
    }

    #[test]
    fn a_formula_katex_rejects_says_why() {
        let error = Math::default().render(r"\frac{1}{", true).unwrap_err();
        assert!(error.contains("end of input"), "{error}");
        let error = Math::default().render(r"\nosuch", false).unwrap_err();
        assert!(error.contains("nosuch"), "{error}");
    }

    #[test]
    fn a_root_stands_beside_what_it_covers() {
        let math = Math::default();
        for bare in [r"\sqrt N", r"\sqrt[3]\pi", r"\sqrt{N}"] {
            let html = math.render(bare, false).unwrap();
            assert!(html.contains("padding-left"), "{html}");
        }
    }

    #[test]
    fn a_line_break_in_a_line_is_a_slip() {
        assert!(Math::default().render(r"-\\tfrac12", false).is_err());
        assert!(Math::default().render(r"-\tfrac12", false).is_ok());
    }

    #[test]
    fn shielding_keeps_tags_and_references() {
        assert_eq!(
            shield("<a b=\"c_d\">x_y &lt; z</a>"),
            "<a b=\"c_d\">x&#95;y &lt; z</a>"
        );
    }
}
