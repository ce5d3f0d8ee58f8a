//! Reads a built page: its ids, its links, what it loads, and the text outside of code.
//!
//! Left out: a tree, because four lists answer every question that the check asks.

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What the check wants to know of a page.
#[derive(Debug, Default)]
pub struct Page {
    pub ids: BTreeSet<String>,
    /// Ids that appear twice.
    pub doubled: Vec<String>,
    /// The targets of `<a href>`.
    pub links: Vec<String>,
    /// What a browser fetches when it opens the page.
    pub loads: Vec<String>,
    /// Text that a reader sees as prose.
    pub prose: String,
    /// Whether a code block would ask a remote playground about itself.
    pub playground: bool,
}

impl Page {
    pub fn read(html: &str) -> Self {
        let sink = Sink::default();
        let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
        let queue = BufferQueue::default();
        queue.push_back(StrTendril::from(html));
        let _ = tokenizer.feed(&queue);
        tokenizer.end();
        tokenizer.sink.page.take()
    }
}

#[derive(Default)]
struct Sink {
    page: RefCell<Page>,
    /// How many open elements hold text that is not prose.
    silent: RefCell<usize>,
    in_style: RefCell<bool>,
}

/// Elements whose text is code, data or TeX.
fn is_silent(tag: &str) -> bool {
    matches!(tag, "code" | "pre" | "script" | "style" | "annotation" | "samp" | "template")
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        match token {
            Token::TagToken(tag) => {
                let name: &str = &tag.name;
                let mut silent = self.silent.borrow_mut();
                if tag.kind == TagKind::EndTag {
                    if is_silent(name) {
                        *silent = silent.saturating_sub(1);
                        *self.in_style.borrow_mut() = false;
                    }
                    return TokenSinkResult::Continue;
                }
                self.page.borrow_mut().see(&tag);
                if is_silent(name) && !tag.self_closing {
                    *silent += 1;
                }
                match name {
                    "script" => return TokenSinkResult::RawData(RawKind::ScriptData),
                    "style" => {
                        *self.in_style.borrow_mut() = true;
                        return TokenSinkResult::RawData(RawKind::Rawtext);
                    }
                    _ => {}
                }
            }
            Token::CharacterTokens(text) => {
                if *self.in_style.borrow() {
                    self.page.borrow_mut().loads.extend(css_loads(&text));
                } else if *self.silent.borrow() == 0 {
                    self.page.borrow_mut().prose.push_str(&text);
                }
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Page {
    fn see(&mut self, tag: &Tag) {
        let attribute = |name: &str| {
            let found = tag.attrs.iter().find(|a| &*a.name.local == name);
            found.map(|a| a.value.to_string())
        };
        if let Some(id) = attribute("id")
            && !self.ids.insert(id.clone())
        {
            self.doubled.push(id);
        }
        if let Some(style) = attribute("style") {
            self.loads.extend(css_loads(&style));
        }
        if attribute("class").is_some_and(|c| c.split(' ').any(|c| c == "playground")) {
            self.playground = true;
        }
        let fetched = match &*tag.name {
            "a" => {
                self.links.extend(attribute("href"));
                vec![]
            }
            "link" => vec!["href"],
            "script" | "iframe" | "img" | "audio" | "video" | "source" | "embed"
            | "track" | "input" => vec!["src", "poster"],
            "object" => vec!["data"],
            "use" | "image" | "feimage" => vec!["href", "xlink:href"],
            _ => vec![],
        };
        self.loads.extend(fetched.into_iter().filter_map(attribute));
        if let Some(set) = attribute("srcset") {
            let urls = set.split(',').filter_map(|s| s.split_whitespace().next());
            self.loads.extend(urls.map(str::to_owned));
        }
    }
}

/// What a style sheet loads: `url(…)` and `@import "…"`.
pub fn css_loads(css: &str) -> Vec<String> {
    let mut loads = Vec::new();
    for (at, _) in css.match_indices("url(") {
        let inner = css[at + 4..].split(')').next().unwrap_or("");
        loads.push(inner.trim().trim_matches(['"', '\'']).to_owned());
    }
    for (at, _) in css.match_indices("@import") {
        let rest = css[at + 7..].trim_start();
        if let Some(quote) = rest.chars().next().filter(|c| "\"'".contains(*c)) {
            let inner = rest[1..].split(quote).next().unwrap_or("");
            loads.push(inner.to_owned());
        }
    }
    loads
}

/// Whether a URL leaves the machine that serves the book.
pub fn is_foreign(url: &str) -> bool {
    let url = url.trim().to_ascii_lowercase();
    url.starts_with("//")
        || ["http:", "https:", "ftp:", "ws:", "wss:"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_apart() {
        let page = Page::read(
            "<p id=a>x $$ <code>{{#no</code></p><a href='b.html#c'>l</a><img src='//far/x.png'>\
             <style>@import 'http://far/a.css'; b { background: url(\"c.png\") }</style><script>'$$'</script>",
        );
        assert!(page.ids.contains("a"));
        assert_eq!(page.links, ["b.html#c"]);
        assert_eq!(page.loads, ["//far/x.png", "c.png", "http://far/a.css"]);
        assert!(page.prose.contains("$$") && !page.prose.contains("{{#"));
    }
}
