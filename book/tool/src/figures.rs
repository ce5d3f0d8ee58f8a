//! Puts an SVG into the page itself.
//!
//! An `<img>` cannot see the colours of the page around it; an inline `<svg>` can, so one file serves all themes.
//! print.html joins all pages into one, so each id inside a figure gets the figure's own prefix, and the title and
//! description that the drawing carries become its accessible name.
//!
//! Left out: an XML parser, because the files come from our own plots and drawings and keep to double-quoted attributes.

use regex::{Captures, Regex};
use std::sync::LazyLock;

static ROOT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)<svg\b([^>]*)>"));
static BEFORE_ROOT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)^.*?(<svg\b)"));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)<!--.*?-->"));
static ATTRIBUTE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"([\w:-]+)\s*=\s*"([^"]*)""#));
static ID: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(\sid=")([^"]+)""#));
static URL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"url\(\s*['"]?#([^)'"\s]+)['"]?\s*\)"#));
static HREF: LazyLock<Regex> = LazyLock::new(|| pattern(r##"(href=")#([^"]+)""##));
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?s)<svg\b[^>]*>\s*<title\b[^>]*>(.*?)</title>\s*<desc\b[^>]*>")
});

fn pattern(text: &str) -> Regex {
    // The patterns are constants and the tests compile each of them.
    Regex::new(text).expect("a constant pattern")
}

/// The drawing as one line of HTML whose ids begin with `prefix`, or what is wrong with the file.
pub fn inline(svg: &str, prefix: &str) -> Result<String, String> {
    let svg = BEFORE_ROOT.replace(svg, "$1");
    let svg = COMMENT.replace_all(svg.trim(), "");
    let Some(root) = ROOT.captures(&svg) else {
        return Err("it has no <svg> element".into());
    };
    let named = NAMED.captures(&svg).is_some_and(|c| !c[1].trim().is_empty());
    if !named {
        return Err(
            "its <svg> does not begin with <title> and <desc>, which readers who cannot see it need".into(),
        );
    }
    let mut view_box = None;
    let mut size = (None, None);
    for attribute in ATTRIBUTE.captures_iter(&root[1]) {
        let value = &attribute[2];
        match &attribute[1] {
            "viewBox" => view_box = Some(value.to_owned()),
            "width" => size.0 = pixels(value),
            "height" => size.1 = pixels(value),
            _ => {}
        }
    }
    let from_box = view_box.as_deref().and_then(|v| {
        let numbers: Vec<f64> =
            v.split([' ', ',']).filter_map(|n| n.parse().ok()).collect();
        (numbers.len() == 4).then(|| (numbers[2], numbers[3]))
    });
    let (Some(width), Some(height)) =
        (from_box.map(|b| b.0).or(size.0), from_box.map(|b| b.1).or(size.1))
    else {
        return Err(
            "its <svg> has neither a viewBox nor a width and height in pixels".into()
        );
    };
    let view_box = view_box.unwrap_or_else(|| format!("0 0 {width} {height}"));
    // The size in a variable: the style sheet decides how far a figure may shrink before it scrolls.
    let opening = format!(
        r#"<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="{view_box}" role="img" aria-labelledby="{prefix}-title {prefix}-desc" style="--width: {width}px">"#
    );
    let body = &svg[root.get(0).map_or(0, |m| m.end())..];
    let body =
        ID.replace_all(body, |c: &Captures| format!("{}{prefix}-{}\"", &c[1], &c[2]));
    let body = URL.replace_all(&body, |c: &Captures| format!("url(#{prefix}-{})", &c[1]));
    let body =
        HREF.replace_all(&body, |c: &Captures| format!("{}#{prefix}-{}\"", &c[1], &c[2]));
    let body = name(&body, "title", prefix);
    let body = name(&body, "desc", prefix);
    Ok(format!("{opening}{body}").replace(['\n', '\r'], " "))
}

/// Gives the first `<title>` or `<desc>` the id that `aria-labelledby` refers to.
fn name(body: &str, tag: &str, prefix: &str) -> String {
    let open = format!("<{tag}");
    match body.find(&open) {
        Some(at) => {
            let end = body[at..].find('>').map_or(body.len(), |e| at + e);
            format!("{}{open} id=\"{prefix}-{tag}\"{}", &body[..at], &body[end..])
        }
        None => body.to_owned(),
    }
}

fn pixels(value: &str) -> Option<f64> {
    value.trim_end_matches("px").parse().ok()
}

/// `ch01_reinforce/convergence.svg` → `fig-ch01-reinforce-convergence`: the id of a figure in its page.
pub fn id(path: &str) -> String {
    let stem = path.strip_suffix(".svg").unwrap_or(path);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut id = String::from("fig-");
    id.extend(stem.chars().map(plain));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const SVG: &str = "<?xml version=\"1.0\"?>\n<!-- a -->\n<svg width=\"720\" height=\"400\" viewBox=\"0 0 720 400\" xmlns=\"http://www.w3.org/2000/svg\">\n<title>T</title>\n<desc>D</desc><clipPath id=\"c\"></clipPath><g clip-path=\"url(#c)\"><use href=\"#c\"/></g></svg>";

    #[test]
    fn ids_become_unique_and_the_title_becomes_the_name() {
        let html = inline(SVG, "fig-a").unwrap();
        assert!(html.starts_with("<svg class=\"plot\""), "{html}");
        assert!(html.contains("aria-labelledby=\"fig-a-title fig-a-desc\""));
        assert!(html.contains("<title id=\"fig-a-title\">T</title>"));
        assert!(html.contains("id=\"fig-a-c\"") && html.contains("url(#fig-a-c)"));
        assert!(html.contains("href=\"#fig-a-c\""));
        assert!(!html.contains('\n'));
    }

    #[test]
    fn a_drawing_without_a_name_is_refused() {
        let error = inline("<svg viewBox=\"0 0 1 1\"><g/></svg>", "x").unwrap_err();
        assert!(error.contains("<title>"), "{error}");
    }
}
