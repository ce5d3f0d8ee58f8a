//! The meaning of a Rust file, without what does not change a result.
//!
//! Comments, documentation, white space and tests may be improved without running anything again, so the hash of a
//! source is taken over its tokens after these are gone. Two formats of one program differ at most in a trailing comma.
//!
//! Left out: resolving names, because a module that is named but not used costs one needless recording at worst.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item, Meta};

/// The tokens of a source that can change what it computes.
pub fn meaningful(source: &str, keep: &dyn Fn(&Item) -> bool) -> Result<Vec<String>> {
    let mut file = syn::parse_file(source).map_err(|error| {
        let at = error.span().start();
        anyhow!("line {}: {error}", at.line)
    })?;
    file.items.retain(keep);
    drop_tests(&mut file.items);
    let mut words = Vec::new();
    flatten(file.into_token_stream(), &mut words);
    Ok(words)
}

/// FNV-1a, 64 bits: short to write, the same everywhere, and no adversary is about.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // A separator: ["ab", "c"] and ["a", "bc"] are different programs.
        for byte in part.iter().chain(&[0xff]) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{state:016x}")
}

fn drop_tests(items: &mut Vec<Item>) {
    items.retain(|item| !attributes(item).iter().any(is_test));
    for item in items {
        if let Item::Mod(module) = item
            && let Some((_, inner)) = &mut module.content
        {
            drop_tests(inner);
        }
    }
}

fn is_test(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        Meta::Path(path) => path.is_ident("test"),
        Meta::NameValue(_) => false,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// Writes each token as a word, and leaves documentation out.
fn flatten(stream: TokenStream, words: &mut Vec<String>) {
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let inner = tokens
                    .next_if(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == '!'));
                let documents = tokens.next_if(|t| match t {
                    TokenTree::Group(group) => {
                        group.delimiter() == Delimiter::Bracket
                            && matches!(group.stream().into_iter().next(),
                                Some(TokenTree::Ident(name)) if name == "doc")
                    }
                    _ => false,
                });
                if documents.is_none() {
                    words.push("#".into());
                    words.extend(inner.map(|_| "!".to_owned()));
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                words.push(open.into());
                flatten(group.stream(), words);
                words.push(close.into());
            }
            other => words.push(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> String {
        let words = meaningful(source, &|_| true).unwrap();
        hash(words.iter().map(|word| word.as_bytes()))
    }

    #[test]
    fn comments_layout_and_tests_do_not_matter() {
        let plain = of("fn f(x: f64) -> f64 { x + 1.0 }");
        let dressed = of(
            "//! Module.\n/// Adds.\nfn f(x: f64) -> f64 {\n    // why\n    x + 1.0\n}\n#[cfg(test)]\nmod tests { #[test] fn t() {} }",
        );
        assert_eq!(plain, dressed);
    }

    #[test]
    fn a_changed_number_matters() {
        assert_ne!(of("const X: f64 = 1.0;"), of("const X: f64 = 2.0;"));
        assert_ne!(of("#[derive(Clone)] struct S;"), of("struct S;"));
    }

    #[test]
    fn a_file_that_does_not_parse_names_its_line() {
        let error = meaningful("fn f() {}\nfn {", &|_| true).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
