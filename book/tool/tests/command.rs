//! The program as a reader meets it: help, exit statuses, messages, the built pages, mdBook's protocol.

mod common;

use book::math::Math;
use book::site;
use common::Mini;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

fn book(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_book"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_command_has_help() {
    let mini = Mini::new();
    for command in [
        &["--help"][..],
        &["serve", "--help"],
        &["build", "--help"],
        &["record", "--help"],
        &["check", "--help"],
    ] {
        let output = book(mini.workspace.root(), command);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: cargo book"));
    }
}

#[test]
fn it_works_from_any_sub_folder() {
    let mini = Mini::new();
    let output = book(&mini.path("chapters/ch01_one"), &["build"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(mini.path("target/book/index.html").is_file());
    assert!(book(&mini.path("book/text"), &["check"]).status.success());
}

#[test]
fn a_mistake_in_usage_is_2_and_a_failure_is_1() {
    let mini = Mini::new();
    let root = mini.workspace.root();
    let output = book(root, &["record", "ch99_none"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there are: ch01_one"), "{}", stderr(&output));
    assert_eq!(book(root, &["--port", "x"]).status.code(), Some(2));
    assert_eq!(book(root, &["nonsense"]).status.code(), Some(2));
    mini.append("[gone](gone.md)");
    let output = book(root, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("book/text/ch01_one.md:17: dead link"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("1 problem in the book"));
}

#[test]
fn a_port_in_use_is_named() {
    let mini = Mini::new();
    let taken = book::serve::bind(0).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = book(mini.workspace.root(), &["serve", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(
        error.contains(&format!("port {port} is in use")) && error.contains("--port"),
        "{error}"
    );
    assert!(!error.contains("backtrace"), "{error}");
}

#[test]
fn a_broken_page_does_not_replace_a_built_book() {
    let mini = Mini::new();
    let dest = mini.path("target/book");
    let math = Rc::new(Math::default());
    site::build(&mini.workspace, &dest, &math).unwrap();
    mini.append("$\\nosuch$");
    let error = site::build(&mini.workspace, &dest, &math).unwrap_err().to_string();
    assert!(error.contains("ch01_one.md:17:"), "{error}");
    assert!(dest.join("ch01_one.html").is_file());
}

#[test]
fn a_folder_with_other_things_is_not_emptied() {
    let mini = Mini::new();
    mini.write("precious/letter.txt", "dear");
    let output = book(mini.workspace.root(), &["build", "--dest", "precious"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("precious"), "{}", stderr(&output));
    assert_eq!(mini.read("precious/letter.txt"), "dear");
}

#[test]
fn a_page_has_its_parts_without_any_script() {
    let mini = Mini::new();
    let dest = mini.path("site");
    site::build(&mini.workspace, &dest, &Rc::new(Math::default())).unwrap();
    let page = std::fs::read_to_string(dest.join("ch01_one.html")).unwrap();
    for part in [
        "<math",
        "class=\"katex\"",
        "<div class=\"source-name\"><code>chapters/ch01_one/main.rs</code></div>",
        "<code>cargo run --bin ch01_one</code>",
        "loss 0.6041",
        "Exact: your run prints the same.",
        "<span class=\"figure-number\">Figure 1.1</span>",
        "<a href=\"#fig-ch01-one-curve\">Figure 1.1</a>",
        "aria-labelledby=\"fig-ch01-one-curve-title fig-ch01-one-curve-desc\"",
        "id=\"fig-ch01-one-curve-line\"",
    ] {
        let found = page.contains(part)
            || page.contains(&part.replace("\"#fig", "\"ch01_one.html#fig"));
        assert!(found, "{part} is not in {page}");
    }
    // Marks of other anchors are not shown, nor what stands outside of this one.
    assert!(!page.contains("ANCHOR") && !page.contains("use grpo"));
    let print = std::fs::read_to_string(dest.join("print.html")).unwrap();
    assert!(print.contains("Figure 1.1") && print.contains("loss 0.6041"));
}

#[test]
fn mdbook_itself_gets_the_same_page() {
    let mini = Mini::new();
    let supports = book(mini.workspace.root(), &["preprocess", "supports", "html"]);
    assert_eq!(supports.status.code(), Some(0));
    let supports = book(mini.workspace.root(), &["preprocess", "supports", "epub"]);
    assert_eq!(supports.status.code(), Some(1));
    let chapter = serde_json::json!({"Chapter": {
        "name": "One", "content": mini.read("book/text/ch01_one.md"), "number": [1], "sub_items": [],
        "path": "ch01_one.md", "source_path": "ch01_one.md", "parent_names": []}});
    let context = serde_json::json!({
        "root": mini.path("book"), "config": {"book": {"src": "text"}}, "renderer": "html",
        "mdbook_version": mdbook_preprocessor::MDBOOK_VERSION});
    let input = serde_json::json!([context, {"items": [chapter]}]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_book"))
        .arg("preprocess")
        .current_dir(mini.path("book"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(
        answer.contains("katex")
            && answer.contains("Figure 1.1")
            && answer.contains("loss 0.6041")
    );
    // mdBook's own step expands includes.
    assert!(answer.contains("{{#include"));
}
