//! Exercises on a page and their solutions on another.

mod common;

use common::Mini;

const TOML: &str = r#"
[[exercise]]
name = "double"
title = "Twice a number"
effort = "a line"
hints = ["Which *operation*?", "$2 x$"]
"#;

const STUB: &str = "\
// ANCHOR: double
/// Twice x.
pub fn double(x: i32) -> i32 {
    todo!()
}
// ANCHOR_END: double
";

fn with_an_exercise() -> Mini {
    let mini = Mini::new();
    mini.write("chapters/ch01_one/exercises.toml", TOML);
    mini.write("book/stubs/ch01_one.rs", STUB);
    // A reader's answer, which must not be seen in the book.
    mini.write("chapters/ch01_one/exercises.rs", &STUB.replace("todo!()", "mine(x)"));
    mini.write("chapters/ch01_one/solutions.rs", &STUB.replace("todo!()", "2 * x"));
    mini.append("### Twice a number\n\n{{#exercise double}}");
    mini.write("book/text/solutions/ch01_one.md", "# Solutions\n\n{{#solution double}}\n");
    mini.edit(
        "book/text/SUMMARY.md",
        "- [One](ch01_one.md)\n",
        "- [One](ch01_one.md)\n\n---\n\n[Solutions](solutions/ch01_one.md)\n",
    );
    mini
}

#[test]
fn the_page_shows_the_stub_and_the_hints_and_never_an_answer() {
    let mini = with_an_exercise();
    assert_eq!(mini.complaints(), Vec::<String>::new());
    let dest = mini.path("built");
    book::site::build(&mini.workspace, &dest, &Default::default()).unwrap();
    let page = mini.read("built/ch01_one.html");
    for part in [
        "id=\"exercise-double\"",
        "todo!()",
        "cargo exercise check 1 double",
        "<summary>Hint 1 of 2</summary>",
        "Which <em>operation</em>?",
        "class=\"katex\"",
        "href=\"solutions/ch01_one.html#solution-double\"",
    ] {
        assert!(page.contains(part), "{part:?} is not on the page");
    }
    assert!(!page.contains("mine(x)") && !page.contains("2 * x"));
    let solutions = mini.read("built/solutions/ch01_one.html");
    assert!(solutions.contains("2 * x"));
    assert!(solutions.contains("href=\"../ch01_one.html#exercise-double\""));
}

#[test]
fn an_exercise_without_its_place_is_found() {
    let mini = with_an_exercise();
    mini.edit("book/text/ch01_one.md", "{{#exercise double}}", "");
    mini.edit("book/text/solutions/ch01_one.md", "{{#solution double}}", "");
    let complaints = mini.complaints();
    for part in [
        "book/text/ch01_one.md: {{#exercise double}} stands here 0 times",
        "book/text/solutions/ch01_one.md: {{#solution double}} stands here 0 times",
    ] {
        assert!(complaints.iter().any(|c| c.starts_with(part)), "{complaints:#?}");
    }
}

#[test]
fn an_unknown_exercise_or_one_without_a_stub_is_named() {
    let mini = with_an_exercise();
    mini.append("{{#exercise triple}}");
    let complaints = mini.complaints();
    let known = "has no exercise triple; it has: double";
    assert!(complaints.iter().any(|c| c.contains(known)), "{complaints:#?}");

    let mini = with_an_exercise();
    mini.write("book/stubs/ch01_one.rs", "");
    let complaints = mini.complaints();
    let missing = "// ANCHOR: double";
    assert!(complaints.iter().any(|c| c.contains(missing)), "{complaints:#?}");
}
