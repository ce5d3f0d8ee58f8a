//! A workspace small enough to break: one chapter, one library module, two pages, one recording.
//!
//! Left out: a compiler; the chapter is never built, and a function stands in for its run.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use anyhow::Result;
use book::problem::Problem;
use book::record::record;
use book::recording::named;
use book::workspace::Workspace;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

pub struct Mini {
    pub workspace: Workspace,
    dir: TempDir,
}

pub const SVG: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"300\" viewBox=\"0 0 600 300\">\n<title>Curve</title>\n<desc>It rises.</desc>\n<path id=\"line\" d=\"M0 0L600 300\" stroke=\"var(--plot-1, #888)\"/>\n</svg>\n";
pub const STDOUT: &str =
    "seed 0\n== Three tokens ==\nloss 0.6041\n== Bandit ==\nreward 0.98\n";
pub const MANIFEST: &str = r#"{"sections":[
    {"name":"three_tokens","title":"Three tokens","kind":"exact"},
    {"name":"bandit","title":"Bandit","kind":"trained"}],
    "files":{"curve.svg":"exact","bandit.csv":"trained"}}"#;

const MAIN: &str = "\
use grpo::Tensor;
use grpo::log_prob::gather;

// ANCHOR: main
fn main() {
    // ANCHOR: call
    let total = gather(&[1.0, 2.0]);
    // ANCHOR_END: call
    println!(\"{total}\");
}
// ANCHOR_END: main
";

const PAGE: &str = "\
# One

A formula, $x^2$, and one alone:

$$\\sum_a \\pi(a)$$

```rust,ignore
{{#include ../../chapters/ch01_one/main.rs:main}}
```

{{#output ch01_one three_tokens}}

{{#figure ch01_one/curve.svg \"A curve with $y$ and `code`.\"}}

See {{#ref ch01_one/curve.svg}}, [the preface](preface.md) and [its part](preface.md#exact-and-trained).
";

impl Mini {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        // macOS reaches its temporary folder through a link.
        let root = dir.path().canonicalize().unwrap();
        let mini = Self { workspace: Workspace::at(root), dir };
        mini.write(
            "Cargo.toml",
            "[package]\nname = \"grpo\"\n\n[[bin]]\nname = \"ch01_one\"\npath = \"chapters/ch01_one/main.rs\"\n",
        );
        mini.write(
            "Cargo.lock",
            "[[package]]\nname = \"grpo\"\nversion = \"0.1.0\"\ndependencies = [\"candle-core\", \"rand 0.9.5\"]\n\n\
             [[package]]\nname = \"candle-core\"\nversion = \"0.11.1\"\n\n[[package]]\nname = \"rand\"\nversion = \"0.9.5\"\n",
        );
        mini.write(
            "src/lib.rs",
            "pub mod log_prob;\npub mod tensor;\npub mod unused;\npub use tensor::Tensor;\n",
        );
        mini.write(
            "src/log_prob.rs",
            "//! Doc.\nuse crate::tensor::Tensor;\npub fn gather(x: &Tensor) -> f64 { x[0] }\n",
        );
        mini.write("src/tensor.rs", "pub type Tensor = [f64];\n");
        mini.write("src/unused.rs", "pub fn nothing() {}\n");
        mini.write("chapters/ch01_one/main.rs", MAIN);
        mini.write("chapters/ch01_one/exercises.rs", "fn todo() {}\n");
        mini.write(
            "book/book.toml",
            "[book]\ntitle = \"Mini\"\nlanguage = \"en\"\nsrc = \"text\"\n\n[build]\ncreate-missing = false\n\n\
             [output.html.playground]\nrunnable = false\n",
        );
        mini.write(
            "book/text/SUMMARY.md",
            "# Summary\n\n[Preface](preface.md)\n\n- [One](ch01_one.md)\n",
        );
        mini.write(
            "book/text/preface.md",
            "# Preface\n\n## Exact and trained {#exact-and-trained}\n\nText.\n",
        );
        mini.write("book/text/ch01_one.md", PAGE);
        mini.record().unwrap();
        mini
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workspace.root().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a text that must be there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from:?}");
        self.write(name, &text.replace(from, to));
    }

    /// Adds to the chapter's page; returns the line of what was added.
    pub fn append(&self, text: &str) -> usize {
        let page = self.read("book/text/ch01_one.md");
        self.write("book/text/ch01_one.md", &format!("{page}\n{text}\n"));
        page.lines().count() + 2
    }

    /// Records the chapter, with a function in the place of its run.
    pub fn record(&self) -> Result<PathBuf> {
        self.record_with(&|_, args| run(args, STDOUT, MANIFEST))
    }

    pub fn record_with(&self, runner: book::record::Runner) -> Result<PathBuf> {
        let recording = named(&self.workspace, &["ch01_one".to_owned()])?.remove(0);
        record(&self.workspace, &recording, runner)
    }

    pub fn check(&self) -> Vec<Problem> {
        book::check::check(&self.workspace).unwrap()
    }

    /// The problems as lines of text.
    pub fn complaints(&self) -> Vec<String> {
        self.check().iter().map(ToString::to_string).collect()
    }
}

/// What a chapter does: writes its files into `--out` and prints.
pub fn run(args: &[String], stdout: &str, manifest: &str) -> Result<String> {
    let out = PathBuf::from(args.last().unwrap());
    fs::write(out.join("curve.svg"), SVG)?;
    fs::write(out.join("bandit.csv"), "step,reward\n0,0.5\n")?;
    fs::write(out.join("manifest.json"), manifest)?;
    Ok(stdout.to_owned())
}
