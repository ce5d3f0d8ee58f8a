//! Each thing that `cargo book check` guards, broken on purpose.

mod common;

use common::Mini;

const PAGE: &str = "book/text/ch01_one.md";

/// The only complaint must begin with the place and contain the words.
#[track_caller]
fn expect(mini: &Mini, place: &str, words: &str) {
    let complaints = mini.complaints();
    let found =
        complaints.iter().any(|c| c.starts_with(&format!("{place}:")) && c.contains(words));
    assert!(found, "expected {place}: … {words} …; got {complaints:#?}");
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
}

#[test]
fn a_whole_book_passes() {
    assert_eq!(Mini::new().complaints(), Vec::<String>::new());
}

#[test]
fn a_missing_include() {
    let mini = Mini::new();
    let line = mini.append("```rust,ignore\n{{#include ../../src/no.rs:x}}\n```") + 1;
    expect(&mini, &format!("{PAGE}:{line}"), "\"../../src/no.rs\" does not exist");
}

#[test]
fn a_missing_anchor() {
    let mini = Mini::new();
    let line = mini
        .append("```rust,ignore\n{{#include ../../chapters/ch01_one/main.rs:no}}\n```")
        + 1;
    expect(&mini, &format!("{PAGE}:{line}"), "there are: main, call");
}

#[test]
fn an_anchor_left_open() {
    let mini = Mini::new();
    mini.edit("chapters/ch01_one/main.rs", "    // ANCHOR_END: call\n", "");
    expect(&mini, "chapters/ch01_one/main.rs:6", "\"call\" is never ended");
}

#[test]
fn an_anchor_that_splits_an_item() {
    let mini = Mini::new();
    mini.edit(
        "chapters/ch01_one/main.rs",
        "}\n// ANCHOR_END: main\n",
        "// ANCHOR_END: main\n}\n",
    );
    expect(&mini, &format!("{PAGE}:8"), "splits the item of lines 5 to");
}

#[test]
fn an_include_by_lines() {
    let mini = Mini::new();
    let line =
        mini.append("```rust,ignore\n{{#include ../../src/log_prob.rs:1:2}}\n```") + 1;
    expect(&mini, &format!("{PAGE}:{line}"), "by an anchor");
}

#[test]
fn an_include_in_a_list() {
    let mini = Mini::new();
    let line = mini
        .append("- a\n\n  ```rust,ignore\n  {{#include ../../src/log_prob.rs}}\n  ```")
        + 3;
    expect(&mini, &format!("{PAGE}:{line}"), "cannot stand in a list");
}

#[test]
fn a_directive_that_does_not_exist_or_end() {
    let mini = Mini::new();
    let line = mini.append("{{#outptu ch01_one}}");
    expect(&mini, &format!("{PAGE}:{line}"), "there is no directive \"outptu\"");
    let mini = Mini::new();
    let line = mini.append("{{#output ch01_one");
    expect(&mini, &format!("{PAGE}:{line}"), "does not end");
}

#[test]
fn a_directive_inside_of_a_sentence() {
    let mini = Mini::new();
    let line = mini.append("Look: {{#output ch01_one}} there.");
    expect(&mini, &format!("{PAGE}:{line}"), "on a line of its own");
}

#[test]
fn code_may_show_directives_and_dollars() {
    let mini = Mini::new();
    mini.append("`{{#output x}}` and `$$`\n\n```text\n{{#figure y}} $$\n```");
    assert_eq!(mini.complaints(), Vec::<String>::new());
}

#[test]
fn raw_dollars_in_the_output() {
    let mini = Mini::new();
    let line = mini.append("An unpaired $$ reaches the page.");
    expect(&mini, &format!("{PAGE}:{line}"), "raw $$");
}

#[test]
fn a_raw_directive_in_the_output() {
    let mini = Mini::new();
    let line = mini.append("An escaped \\{{#output x}} in prose.");
    expect(&mini, &format!("{PAGE}:{line}"), "raw {{#");
}

#[test]
fn a_formula_that_katex_rejects() {
    let mini = Mini::new();
    let line = mini.append("Here $\\frac{1}$ is wrong.");
    expect(&mini, &format!("{PAGE}:{line}"), "KaTeX rejects the formula");
    let mini = Mini::new();
    let line = mini.append("The braces of $\\frac{1}{$ are open, and \\$5 is money.");
    expect(&mini, &format!("{PAGE}:{line}"), "begins no formula");
}

#[test]
fn a_formula_in_a_caption_that_katex_rejects() {
    let mini = Mini::new();
    mini.edit(PAGE, "with $y$", "with $\\nosuch$");
    expect(&mini, &format!("{PAGE}:13"), "formula of the caption");
}

#[test]
fn an_output_that_is_not_recorded() {
    let mini = Mini::new();
    let line = mini.append("{{#output ch01_one nothing}}");
    expect(&mini, &format!("{PAGE}:{line}"), "it has: three_tokens, bandit");
    let mini = Mini::new();
    let line = mini.append("{{#output ch02_two}}");
    expect(&mini, &format!("{PAGE}:{line}"), "there are: ch01_one");
    let mini = Mini::new();
    std::fs::remove_dir_all(mini.path("book/recorded/ch01_one")).unwrap();
    let complaints = mini.complaints();
    assert!(
        complaints.iter().any(|c| c.starts_with(&format!("{PAGE}:11:"))
            && c.contains("run `cargo book record ch01_one`")),
        "{complaints:#?}"
    );
}

#[test]
fn a_figure_that_is_not_there_or_has_no_name() {
    let mini = Mini::new();
    let line = mini.append("{{#figure ch01_one/other.svg \"x\"}}");
    expect(
        &mini,
        &format!("{PAGE}:{line}"),
        "there is no figure book/recorded/ch01_one/other.svg",
    );
    let mini = Mini::new();
    mini.write("book/drawings/d.svg", "<svg viewBox=\"0 0 1 1\"></svg>");
    let line = mini.append("{{#figure drawings/d.svg \"x\"}}");
    expect(&mini, &format!("{PAGE}:{line}"), "<title>");
}

#[test]
fn a_figure_shown_twice() {
    let mini = Mini::new();
    mini.append("{{#figure ch01_one/curve.svg \"again\"}}");
    let complaints = mini.complaints();
    assert!(complaints.iter().any(|c| c.contains("shown twice")), "{complaints:#?}");
}

#[test]
fn a_reference_to_no_figure() {
    let mini = Mini::new();
    let line = mini.append("See {{#ref ch01_one/none.svg}}.");
    expect(&mini, &format!("{PAGE}:{line}"), "no page shows");
}

#[test]
fn a_stale_recording_names_the_file() {
    let manifest = "book/recorded/ch01_one/manifest.json";
    for (file, from, to) in [
        ("src/log_prob.rs", "x[0]", "x[1]"),
        ("src/tensor.rs", "f64", "f32"),
        ("chapters/ch01_one/main.rs", "2.0", "3.0"),
    ] {
        let mini = Mini::new();
        mini.edit(file, from, to);
        let words = format!(
            "stale: {file} changed since it was recorded; run `cargo book record ch01_one`"
        );
        expect(&mini, manifest, &words);
    }
    let mini = Mini::new();
    mini.edit("Cargo.lock", "0.11.1", "0.12.0");
    expect(&mini, manifest, "candle-core was 0.11.1 and is now 0.12.0");
    let mini = Mini::new();
    mini.write(
        "book/recordings.toml",
        "[[recording]]\nname = \"ch01_one\"\nbin = \"ch01_one\"\nargs = [\"--seed\", \"1\"]\n",
    );
    expect(&mini, manifest, "its arguments were []");
}

#[test]
fn what_changes_no_result_makes_nothing_stale() {
    let mini = Mini::new();
    mini.edit("src/log_prob.rs", "//! Doc.", "//! Better documentation.\n// and a comment");
    mini.edit("src/unused.rs", "{}", "{ let _ = 1; }");
    mini.edit("src/lib.rs", "pub mod unused;", "pub mod unused;\npub mod more;");
    mini.write("src/more.rs", "pub fn more() {}\n");
    mini.edit("chapters/ch01_one/exercises.rs", "todo", "done");
    assert_eq!(mini.complaints(), Vec::<String>::new());
}

#[test]
fn a_recording_changed_by_hand() {
    let mini = Mini::new();
    mini.edit("book/recorded/ch01_one/stdout.txt", "0.6041", "0.6042");
    expect(&mini, "book/recorded/ch01_one/stdout.txt", "not what the chapter wrote");
}

#[test]
fn a_recording_of_nothing() {
    let mini = Mini::new();
    mini.write("book/recorded/ch09_gone/stdout.txt", "");
    expect(&mini, "book/recorded/ch09_gone", "no chapter");
}

#[test]
fn dead_links_and_fragments() {
    let mini = Mini::new();
    let line = mini.append("[gone](gone.md)");
    expect(&mini, &format!("{PAGE}:{line}"), "the book has no gone");
    let mini = Mini::new();
    let line = mini.append("[gone](preface.md#gone)");
    expect(&mini, &format!("{PAGE}:{line}"), "the id \"gone\"");
    let mini = Mini::new();
    let line = mini.append("[gone](#here-not)");
    expect(&mini, &format!("{PAGE}:{line}"), "the id \"here-not\"");
}

#[test]
fn a_picture_that_is_not_there() {
    let mini = Mini::new();
    let line = mini.append("![a picture](gone.png)");
    expect(&mini, &format!("{PAGE}:{line}"), "loads \"gone.png\"");
}

#[test]
fn a_request_to_another_host() {
    let mini = Mini::new();
    mini.append("A [link](https://example.org/) is no request.");
    assert_eq!(mini.complaints(), Vec::<String>::new());
    let line = mini.append("<img src=\"https://example.org/x.png\" alt=\"x\">");
    expect(&mini, &format!("{PAGE}:{line}"), "https://example.org/x.png from another host");
    let mini = Mini::new();
    mini.write("book/theme/far.css", "@import \"//example.org/a.css\";");
    mini.edit(
        "book/book.toml",
        "[output.html.playground]",
        "[output.html]\nadditional-css = [\"theme/far.css\"]\n[output.html.playground]",
    );
    let complaints = mini.complaints();
    assert!(complaints[0].contains("//example.org/a.css"), "{complaints:#?}");
    let mini = Mini::new();
    mini.edit("book/book.toml", "runnable = false", "runnable = true");
    mini.edit(PAGE, "```rust,ignore", "```rust");
    expect(&mini, &format!("{PAGE}:7"), "playground");
}

#[test]
fn a_chapter_without_binary_page_or_place() {
    let mini = Mini::new();
    mini.write("chapters/ch02_two/main.rs", "fn main() {}");
    let complaints = mini.complaints();
    for words in [
        "chapters/ch02_two: Cargo.toml has no [[bin]] named \"ch02_two\"",
        "chapters/ch02_two: the chapter has no page book/text/ch02_two.md",
        "book/text/SUMMARY.md: ch02_two.md has no place in the summary",
    ] {
        assert!(complaints.iter().any(|c| c == words), "{words}: {complaints:#?}");
    }
    let mini = Mini::new();
    mini.write("book/text/ch03_three.md", "# Three\n");
    let complaints = mini.complaints();
    let words = "book/text/ch03_three.md: the page has no folder chapters/ch03_three";
    assert!(complaints.iter().any(|c| c == words), "{complaints:#?}");
}

#[test]
fn a_summary_that_names_a_missing_page() {
    let mini = Mini::new();
    mini.edit("book/text/SUMMARY.md", "- [One]", "- [Gone](gone.md)\n- [One]");
    let complaints = mini.complaints();
    assert!(
        complaints
            .iter()
            .any(|c| c.starts_with("book/text/SUMMARY.md") && c.contains("gone.md")),
        "{complaints:#?}"
    );
}

#[test]
fn all_problems_are_listed() {
    let mini = Mini::new();
    mini.append("[gone](gone.md) $\\nosuch$\n\n{{#output none}}");
    mini.edit("src/tensor.rs", "f64", "f32");
    assert_eq!(mini.complaints().len(), 4, "{:#?}", mini.complaints());
}

#[test]
fn html_that_is_not_closed() {
    let mini = Mini::new();
    mini.append("A <b>bold word.");
    expect(&mini, PAGE, "unclosed HTML tag `<b>`");
}

#[test]
fn a_formula_in_a_heading() {
    let mini = Mini::new();
    let line = mini.append("## The gradient of $J$");
    expect(&mini, &format!("{PAGE}:{line}"), "a formula in a heading");
}
