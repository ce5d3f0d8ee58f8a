//! What the book promises of its exercises: every stub compiles and fails its own check,
//! every solution passes it, and each has hints and stubs where they should be.

use exercise::{
    catalogue::{Chapter, chapters, read, section},
    check::{Report, State},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The checks of each chapter.
const CHECKS: [&str; 10] = [
    env!("CARGO_BIN_EXE_ch01_exercises"),
    env!("CARGO_BIN_EXE_ch02_exercises"),
    env!("CARGO_BIN_EXE_ch03_exercises"),
    env!("CARGO_BIN_EXE_ch04_exercises"),
    env!("CARGO_BIN_EXE_ch05_exercises"),
    env!("CARGO_BIN_EXE_ch06_exercises"),
    env!("CARGO_BIN_EXE_ch07_exercises"),
    env!("CARGO_BIN_EXE_ch08_exercises"),
    env!("CARGO_BIN_EXE_ch09_exercises"),
    env!("CARGO_BIN_EXE_ch10_exercises"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Each chapter with the program that checks it.
fn all() -> Vec<(Chapter, &'static str)> {
    let chapters = chapters(&root()).unwrap();
    assert_eq!(chapters.len(), CHECKS.len(), "a chapter has exercises and no checks here");
    let with = |chapter: Chapter| {
        let is_its = |path: &&str| path.contains(&chapter.binary());
        let path = CHECKS.into_iter().find(|path| is_its(path));
        let path = path.unwrap_or_else(|| panic!("{} is not in CHECKS", chapter.binary()));
        (chapter, path)
    };
    chapters.into_iter().map(with).collect()
}

fn report(binary: &str, arguments: &[&str]) -> Vec<(String, State)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let output =
        Command::new(binary).args(arguments).arg("--report").arg(&file).output().unwrap();
    let bytes = std::fs::read(&file).unwrap_or_else(|_| {
        panic!("{binary} wrote no report: {}", String::from_utf8_lossy(&output.stderr))
    });
    serde_json::from_slice::<Report>(&bytes).unwrap().0
}

#[test]
fn every_solution_passes_its_check() {
    for (chapter, binary) in all() {
        let states = report(binary, &["--solutions"]);
        let names: Vec<&str> = states.iter().map(|(name, _)| name.as_str()).collect();
        let listed: Vec<&str> = chapter.exercises.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, listed, "{}: checks and exercises.toml disagree", chapter.name);
        for (name, state) in states {
            assert_eq!(state, State::Passed, "{} {name}", chapter.name);
        }
    }
}

#[test]
fn every_stub_fails_its_check() {
    for (chapter, binary) in all() {
        let pristine = read(&chapter.exercises_file()).unwrap()
            == read(&chapter.stubs_file()).unwrap();
        // A reader who has begun must still see green tests.
        if !pristine {
            let name = chapter.name;
            assert!(
                std::env::var_os("CI").is_none(),
                "{name}: exercises.rs is not book/stubs"
            );
            println!("{name} has been worked on");
            continue;
        }
        for (name, state) in report(binary, &[]) {
            assert_eq!(state, State::Todo, "{} {name}", chapter.name);
        }
    }
}

#[test]
fn every_exercise_has_a_stub_a_solution_and_hints() {
    for (chapter, _) in all() {
        assert!(chapter.exercises.len() >= 4, "{} has too few exercises", chapter.name);
        let stubs = read(&chapter.stubs_file()).unwrap();
        let solutions = read(&chapter.solutions_file()).unwrap();
        for exercise in &chapter.exercises {
            let place = format!("{} {}", chapter.name, exercise.name);
            let stub = &stubs[section(&stubs, &exercise.name).expect(&place)];
            assert!(stub.contains("todo!()") && stub.contains("/// "), "{place}: {stub}");
            let solution = &solutions[section(&solutions, &exercise.name).expect(&place)];
            assert!(!solution.contains("todo!"), "{place}: {solution}");
            assert!(exercise.hints.len() >= 2, "{place} has too few hints");
        }
    }
}
