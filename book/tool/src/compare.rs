//! `check --run`: runs each recording again and compares.
//!
//! What is exact must be the same to the byte. Of what is trained only the names are compared, because another
//! processor rounds differently; its claims are held by the learning tests.
//!
//! Left out: tolerances for trained numbers, because one wide enough for all machines would hold nothing.

use crate::problem::Problem;
use crate::record::{Run, Runner, run};
use crate::recording::{Kind, Recording, Stored, split_sections};
use crate::workspace::Workspace;
use std::fs;

/// Runs one recording and compares it with what is stored.
pub fn check(workspace: &Workspace, recording: &Recording, runner: Runner) -> Vec<Problem> {
    let folder = format!("book/recorded/{}", recording.name);
    let stored = match Stored::load(workspace, &recording.name) {
        Ok(stored) => stored,
        Err(error) => return vec![Problem::new(folder, None, format!("{error:#}"))],
    };
    let fresh = match run(workspace, recording, &recording.check, runner) {
        Ok(fresh) => fresh,
        Err(error) => return vec![Problem::new(folder, None, format!("{error:#}"))],
    };
    let advice = format!("; run `cargo book record {}`", recording.name);
    let mut problems = Vec::new();
    let mut report = |file: &str, line: Option<usize>, message: String| {
        let file = format!("{folder}/{file}");
        problems.push(Problem::new(file, line, message + &advice));
    };
    if fresh.manifest.sections != stored.manifest.sections {
        report(
            "manifest.json",
            None,
            "its sections are not those that the chapter prints now".into(),
        );
    } else {
        let (old, new) = (split_sections(&stored.stdout), split_sections(&fresh.stdout));
        if old.0 != new.0 {
            report("stdout.txt", Some(1), difference("the preamble", &old.0, &new.0));
        }
        let pairs = stored.manifest.sections.iter().zip(old.1.iter().zip(&new.1));
        for (section, ((_, old), (_, new))) in pairs {
            if section.kind == Kind::Exact && old != new {
                let header = format!("== {} ==", section.title);
                let at = stored.stdout.lines().position(|l| l == header);
                let line = at.map(|at| at + 2 + first_difference(old, new));
                let what = format!("the exact section {:?}", section.name);
                report("stdout.txt", line, difference(&what, old, new));
            }
        }
    }
    if fresh.manifest.files != stored.manifest.files {
        report(
            "manifest.json",
            None,
            "its files are not those that the chapter writes now".into(),
        );
    } else {
        for message in files(&stored, &fresh) {
            report(&message.0, Some(message.1), message.2);
        }
    }
    problems
}

/// The exact files that differ: name, line, message.
fn files(stored: &Stored, fresh: &Run) -> Vec<(String, usize, String)> {
    let mut found = Vec::new();
    for (name, bytes) in &fresh.files {
        if stored.manifest.files.get(name) != Some(&Kind::Exact) {
            continue;
        }
        let new = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
        let old = fs::read(stored.dir.join(name)).unwrap_or_default();
        let old = String::from_utf8_lossy(&old).replace("\r\n", "\n");
        if old != new {
            let line = first_difference(&old, &new) + 1;
            found.push((name.clone(), line, difference("this exact file", &old, &new)));
        }
    }
    found
}

/// The first line, counted from 0, on which two texts differ.
fn first_difference(old: &str, new: &str) -> usize {
    let same = old.lines().zip(new.lines()).take_while(|(a, b)| a == b);
    same.count()
}

/// One line of difference is enough to recognise most causes.
fn difference(what: &str, old: &str, new: &str) -> String {
    let at = first_difference(old, new);
    let shown = |text: &str| match text.lines().nth(at) {
        Some(line) if line.chars().count() > 100 => {
            format!("{}…", line.chars().take(100).collect::<String>())
        }
        Some(line) => line.to_owned(),
        None => "(nothing)".to_owned(),
    };
    format!(
        "{what} is different now\n    recorded: {}\n    now:      {}\n   ",
        shown(old),
        shown(new)
    )
}
