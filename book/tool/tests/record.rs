//! Recording: what is stored, what is refused, and that a failure costs nothing. And the comparison with a new run.

mod common;

use anyhow::bail;
use book::compare;
use book::problem::Usage;
use book::recording::{Stored, named};
use common::{MANIFEST, Mini, STDOUT, run};
use std::fs;

fn stored_files(mini: &Mini) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(mini.path("book/recorded"))
        .unwrap()
        .chain(fs::read_dir(mini.path("book/recorded/ch01_one")).unwrap())
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_recording_holds_all_that_the_chapter_made() {
    let mini = Mini::new();
    let expected = ["bandit.csv", "ch01_one", "curve.svg", "manifest.json", "stdout.txt"];
    assert_eq!(stored_files(&mini), expected);
    let stored = Stored::load(&mini.workspace, "ch01_one").unwrap();
    assert_eq!(stored.stdout, STDOUT);
    let fingerprint = stored.manifest.fingerprint.unwrap();
    let sources: Vec<&str> = fingerprint.sources.keys().map(String::as_str).collect();
    // lib.rs, because `grpo::Tensor` comes from it; not unused.rs, nor the exercises.
    let expected =
        ["chapters/ch01_one/main.rs", "src/lib.rs", "src/log_prob.rs", "src/tensor.rs"];
    assert_eq!(sources, expected);
    assert_eq!(fingerprint.versions["candle-core"], "0.11.1");
}

#[test]
fn recording_twice_stores_the_same_bytes() {
    let mini = Mini::new();
    let first = mini.read("book/recorded/ch01_one/manifest.json");
    mini.record().unwrap();
    assert_eq!(mini.read("book/recorded/ch01_one/manifest.json"), first);
}

#[test]
fn a_failing_run_leaves_the_old_recording() {
    let mini = Mini::new();
    let error = mini
        .record_with(&|_, args| {
            run(args, STDOUT, MANIFEST)?;
            bail!("it broke")
        })
        .unwrap_err();
    assert!(format!("{error:#}").contains("it broke"));
    assert_eq!(mini.read("book/recorded/ch01_one/stdout.txt"), STDOUT);
    assert_eq!(stored_files(&mini).len(), 5, "nothing half-written stays behind");
    assert!(fs::read_dir(mini.path("target")).unwrap().next().is_none());
}

#[test]
fn a_path_in_the_output_is_refused() {
    let mini = Mini::new();
    let root = mini.workspace.root().display().to_string();
    let error = mini
        .record_with(&|_, args| {
            run(args, &format!("seed 0\nwrote {root}/x.svg\n{STDOUT}"), MANIFEST)
        })
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("line 2") && error.contains(&root), "{error}");
    let error = mini
        .record_with(&|_, args| {
            run(args, &format!("out {}\n{STDOUT}", args.last().unwrap()), MANIFEST)
        })
        .unwrap_err();
    assert!(format!("{error:#}").contains("line 1"));
    assert_eq!(mini.read("book/recorded/ch01_one/stdout.txt"), STDOUT);
}

#[test]
fn a_manifest_that_does_not_agree_is_refused() {
    let mini = Mini::new();
    let cases = [
        (STDOUT.replace("== Bandit ==", "== Other =="), MANIFEST.to_owned(), "Other"),
        (
            STDOUT.to_owned(),
            MANIFEST.replace(",\"bandit.csv\":\"trained\"", ""),
            "bandit.csv",
        ),
        (STDOUT.to_owned(), MANIFEST.replace("bandit.csv", "gone.csv"), "gone.csv"),
        (STDOUT.to_owned(), MANIFEST.replace("exact", "guessed"), "guessed"),
    ];
    for (stdout, manifest, words) in cases {
        let error = mini.record_with(&|_, args| run(args, &stdout, &manifest)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn an_unknown_recording_is_named_with_those_that_exist() {
    let mini = Mini::new();
    let error = named(&mini.workspace, &["ch99_none".to_owned()]).unwrap_err();
    let usage = error.downcast_ref::<Usage>().expect("a usage error");
    assert_eq!(usage.0, "there is no recording \"ch99_none\"; there are: ch01_one");
}

#[test]
fn a_second_recording_of_a_chapter_has_its_own_arguments() {
    let mini = Mini::new();
    mini.write(
        "book/recordings.toml",
        "[[recording]]\nname = \"ch01_seeds\"\nbin = \"ch01_one\"\nargs = [\"--study\", \"seeds\"]\ncheck = [\"--quick\"]\n",
    );
    let all = named(&mini.workspace, &[]).unwrap();
    assert_eq!(
        all.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["ch01_one", "ch01_seeds"]
    );
    mini.edit("book/recordings.toml", "bin = \"ch01_one\"", "bin = \"ch01_two\"");
    let error = named(&mini.workspace, &[]).unwrap_err().to_string();
    assert!(error.contains("ch01_two"), "{error}");
}

/// The complaints of `check --run` when the chapter now does this.
fn compared(stdout: &str, manifest: &str) -> Vec<String> {
    let mini = Mini::new();
    let recording = named(&mini.workspace, &[]).unwrap().remove(0);
    let problems =
        compare::check(&mini.workspace, &recording, &|_, args| run(args, stdout, manifest));
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_run_that_agrees_passes() {
    assert_eq!(compared(STDOUT, MANIFEST), Vec::<String>::new());
}

#[test]
fn a_trained_number_may_differ_and_an_exact_one_may_not() {
    assert_eq!(compared(&STDOUT.replace("0.98", "0.97"), MANIFEST), Vec::<String>::new());
    let complaints = compared(&STDOUT.replace("0.6041", "0.6042"), MANIFEST);
    assert_eq!(complaints.len(), 1);
    for words in [
        "book/recorded/ch01_one/stdout.txt:3:",
        "recorded: loss 0.6041",
        "now:      loss 0.6042",
        "cargo book record ch01_one",
    ] {
        assert!(complaints[0].contains(words), "{complaints:#?}");
    }
}

#[test]
fn a_section_that_went_is_found() {
    let manifest = MANIFEST.replace("\"bandit\"", "\"other\"");
    let complaints = compared(STDOUT, &manifest);
    assert!(complaints[0].contains("its sections"), "{complaints:#?}");
}

#[test]
fn an_exact_figure_must_be_the_same() {
    let mini = Mini::new();
    let recording = named(&mini.workspace, &[]).unwrap().remove(0);
    let problems = compare::check(&mini.workspace, &recording, &|_, args| {
        let printed = run(args, STDOUT, MANIFEST)?;
        let out = std::path::Path::new(args.last().unwrap());
        fs::write(out.join("curve.svg"), common::SVG.replace("600", "601"))?;
        fs::write(out.join("bandit.csv"), "step,reward\n0,0.6\n")?;
        Ok(printed)
    });
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].file.to_string_lossy(), "book/recorded/ch01_one/curve.svg");
}
