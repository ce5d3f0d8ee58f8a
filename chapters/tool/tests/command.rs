//! The program as a reader uses it, on a small workspace with a chapter of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const TOML: &str = r#"
[[exercise]]
name = "double"
title = "Twice a number"
effort = "a line"
hints = ["Which operation doubles?", "`2 * x`"]

[[exercise]]
name = "half"
title = "Half a number"
effort = "minutes"
hints = ["Division.", "`x / 2`"]
"#;

const STUBS: &str = "\
// ANCHOR: double
/// Twice x.
pub fn double(x: i32) -> i32 {
    todo!()
}
// ANCHOR_END: double

// ANCHOR: half
/// Half of x.
pub fn half(x: i32) -> i32 {
    todo!()
}
// ANCHOR_END: half
";

/// A chapter's checks without a dependency, so that they compile in a moment.
const CHECKS: &str = r#"
#[allow(unused)]
mod exercises;
fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    let state = |right: fn() -> bool| match std::panic::catch_unwind(right) {
        Ok(true) => "\"passed\"",
        Ok(false) => "{\"failed\":\"half of 6 is 3: did you divide?\"}",
        Err(_) => "\"todo\"",
    };
    let double = state(|| exercises::double(4) == 8);
    let half = state(|| exercises::half(6) == 3);
    let report = format!("[[\"double\",{double}],[\"half\",{half}]]");
    let path = std::env::args().skip_while(|a| a != "--report").nth(1).unwrap();
    std::fs::write(path, report).unwrap();
}
"#;

struct Mini(tempfile::TempDir);

impl Mini {
    fn new() -> Self {
        let mini = Self(tempfile::tempdir().unwrap());
        mini.write(
            "Cargo.toml",
            "[package]\nname = \"mini\"\nedition = \"2024\"\n[workspace]\n\
             [[bin]]\nname = \"ch01_exercises\"\npath = \"chapters/ch01_one/checks.rs\"\n",
        );
        mini.write("chapters/ch01_one/exercises.toml", TOML);
        mini.write("chapters/ch01_one/exercises.rs", STUBS);
        mini.write("chapters/ch01_one/solutions.rs", &STUBS.replace("todo!()", "2 * x"));
        mini.write("chapters/ch01_one/checks.rs", CHECKS);
        mini.write("book/stubs/ch01_one.rs", STUBS);
        mini
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn answer(&self, double: &str, half: &str) {
        let text = STUBS.replacen("todo!()", double, 1).replacen("todo!()", half, 1);
        self.write("chapters/ch01_one/exercises.rs", &text);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_exercise"))
            .args(arguments)
            .current_dir(self.0.path())
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("CARGO", option_env!("CARGO").unwrap_or("cargo"))
            .output()
            .unwrap()
    }

    /// What a run printed, which must have ended with this status.
    fn says(&self, arguments: &[&str], status: i32) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(!text.contains('\x1b'), "colours without a terminal: {text}");
        text
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn from_the_first_look_to_the_last_exercise() {
    let mini = Mini::new();
    let list = mini.says(&[], 0);
    has(
        &list,
        &["· double", "0 of 2", "Next: 1 double", "chapters/ch01_one/exercises.rs:2"],
    );
    // Nothing written: nothing to compile.
    has(&mini.says(&["check"], 1), &["double", "not started"]);
    assert!(!mini.path("target").exists());

    mini.answer("2 * x", "x");
    let check = mini.says(&["check", "1"], 1);
    has(&check, &["✓ double", "✗ half", "did you divide?"]);
    has(&mini.says(&["list"], 0), &["✓ double", "✗ half", "1 of 2", "Next: 1 half"]);
    // Passed exercises show their solution, others do not.
    has(&mini.says(&["solution", "ch01", "double"], 0), &["pub fn double", "2 * x"]);
    has(&mini.says(&["solution", "1", "half"], 1), &["has not passed", "--peek"]);
    has(&mini.says(&["solution", "1", "half", "--peek"], 0), &["pub fn half"]);

    // What has changed since its check counts as begun.
    mini.answer("2 * x", "x - 3");
    has(&mini.says(&["list"], 0), &["✓ double", "… half"]);
    mini.answer("2 * x", "x / 2");
    has(&mini.says(&["check", "ch01_one"], 0), &["✓ double", "✓ half"]);
    has(&mini.says(&[], 0), &["2 of 2", "That was the last one"]);
}

#[test]
fn a_mistake_of_the_language_is_the_compilers_to_explain() {
    let mini = Mini::new();
    mini.answer("2 * y", "x / 2");
    let text = mini.says(&["check", "1"], 1);
    has(&text, &["cannot find value `y`", "exercises.rs:4", "does not compile yet"]);
    // Another signature is an error where the check calls it.
    let other = STUBS.replace("double(x: i32)", "double(x: &str)").replace("todo!()", "0");
    mini.write("chapters/ch01_one/exercises.rs", &other);
    has(&mini.says(&["check", "1"], 1), &["mismatched types", "checks.rs"]);
}

#[test]
fn a_crash_is_reported() {
    let mini = Mini::new();
    mini.answer("std::process::abort()", "x");
    has(&mini.says(&["check", "1"], 1), &["ended without a verdict"]);
}

#[test]
fn a_loop_without_an_end_is_stopped() {
    let mini = Mini::new();
    mini.answer("loop {}", "x");
    has(&mini.says(&["check", "1"], 1), &["a loop that never ends?"]);
}

#[test]
fn hints_come_one_by_one() {
    let mini = Mini::new();
    let first = mini.says(&["hint", "1", "double"], 0);
    has(&first, &["Hint 1 of 2. Which operation", "Ask again"]);
    assert!(!first.contains("2 * x"));
    let second = mini.says(&["hint", "1", "double"], 0);
    has(&second, &["Hint 2 of 2. `2 * x`"]);
    has(&mini.says(&["hint", "1", "half", "--all"], 0), &["Hint 1 of 2", "Hint 2 of 2"]);
}

#[test]
fn a_reset_keeps_what_the_reader_wrote() {
    let mini = Mini::new();
    mini.answer("2 * x", "x / 2");
    let yours = mini.read("chapters/ch01_one/exercises.rs");
    // Nobody can be asked here.
    has(&mini.says(&["reset", "1"], 1), &["--yes"]);
    assert_eq!(mini.read("chapters/ch01_one/exercises.rs"), yours);
    has(&mini.says(&["reset", "1", "half", "--yes"], 0), &[".exercise/kept/ch01_one.1.rs"]);
    assert_eq!(mini.read(".exercise/kept/ch01_one.1.rs"), yours);
    assert_eq!(
        mini.read("chapters/ch01_one/exercises.rs"),
        STUBS.replacen("todo!()", "2 * x", 1)
    );
    mini.says(&["reset", "1", "--yes"], 0);
    assert_eq!(mini.read("chapters/ch01_one/exercises.rs"), STUBS);
    has(&mini.says(&["reset", "1", "--yes"], 0), &["is the stub already"]);
}

#[test]
fn a_corrupt_progress_file_costs_only_the_marks() {
    let mini = Mini::new();
    mini.answer("2 * x", "x / 2");
    mini.says(&["check"], 0);
    mini.write(".exercise/progress.json", "{ torn");
    let yours = mini.read("chapters/ch01_one/exercises.rs");
    has(&mini.says(&[], 0), &["the marks start afresh", "0 of 2"]);
    has(&mini.says(&["check"], 0), &["✓ double"]);
    let again = mini.says(&[], 0);
    has(&again, &["2 of 2"]);
    assert!(!again.contains("afresh"));
    assert_eq!(mini.read("chapters/ch01_one/exercises.rs"), yours);
}

#[test]
fn wrong_names_are_answered_with_the_right_ones() {
    let mini = Mini::new();
    has(&mini.says(&["check", "7"], 2), &["no chapter 7", "there are: 1"]);
    has(&mini.says(&["hint", "1", "triple"], 2), &["no exercise triple", "double, half"]);
    mini.says(&["check", "--all"], 2);
    let outside = Command::new(env!("CARGO_BIN_EXE_exercise"))
        .current_dir(Path::new("/"))
        .output()
        .unwrap();
    has(&String::from_utf8_lossy(&outside.stderr), &["no exercises here"]);
}
