//! Every chapter's binary, run as a reader runs it: the same bytes twice, and a clear
//! word about bad input.

use std::{
    path::Path,
    process::{Command, Output},
};

/// Each binary, and the arguments that keep it short.
const CHAPTERS: [(&str, &[&str]); 10] = [
    (env!("CARGO_BIN_EXE_ch01_reinforce"), &[]),
    (env!("CARGO_BIN_EXE_ch02_baselines"), &[]),
    (env!("CARGO_BIN_EXE_ch03_cartpole"), &["--quick"]),
    (env!("CARGO_BIN_EXE_ch04_advantages"), &[]),
    (env!("CARGO_BIN_EXE_ch05_log_probs"), &[]),
    (env!("CARGO_BIN_EXE_ch06_grpo_step"), &[]),
    (env!("CARGO_BIN_EXE_ch07_reward_model"), &["--quick"]),
    (env!("CARGO_BIN_EXE_ch08_group_size"), &["--quick"]),
    (env!("CARGO_BIN_EXE_ch09_language_model"), &["--quick"]),
    (env!("CARGO_BIN_EXE_ch10_rlvr"), &["--quick", "--sft-steps", "20", "--steps", "3"]),
];

fn run(binary: &str, arguments: &[&str], out: &Path, threads: &str) -> Output {
    Command::new(binary)
        .args(arguments)
        .args(["--out".as_ref(), out.as_os_str()])
        .env("RAYON_NUM_THREADS", threads)
        .env("CANDLE_NUM_THREADS", threads)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn two_runs_print_and_write_the_same_bytes() {
    for (binary, arguments) in CHAPTERS {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = run(binary, arguments, one.path(), "1");
        let second = run(binary, arguments, two.path(), "2");
        assert!(first.status.success(), "{binary}: {}", text(&first.stderr));
        assert_eq!(text(&first.stdout), text(&second.stdout), "{binary}");
        let mut files = 0;
        for file in std::fs::read_dir(one.path()).unwrap() {
            let name = file.unwrap().file_name();
            let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
            assert_eq!(read(one.path()), read(two.path()), "{binary}: {name:?}");
            files += 1;
        }
        assert!(files >= 2, "{binary} wrote {files} files");
        let out = one.path().to_string_lossy().into_owned();
        assert!(
            !text(&first.stdout).contains(&out),
            "{binary} prints a path to standard output"
        );
    }
}

#[test]
fn wrong_arguments_are_named_and_exit_with_2() {
    for (binary, _) in CHAPTERS {
        for (arguments, says) in [
            (["--seed", "x"], "invalid value 'x' for '--seed <SEED>'"),
            (
                ["--device", "gpu"],
                "there is no device `gpu`; it must be cpu, cuda, cuda:N or metal",
            ),
            (["--speed", "3"], "unexpected argument '--speed'"),
        ] {
            let output = Command::new(binary).args(arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{binary} {arguments:?}");
            assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
            assert!(output.stdout.is_empty());
        }
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_missing_feature_is_a_usage_error() {
    let output = Command::new(CHAPTERS[0].0).args(["--device", "cuda"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("cargo run --features cuda"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_output_folder_that_cannot_be_written_is_a_failure_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, "kept").unwrap();
    for (binary, arguments) in CHAPTERS {
        let output = run(binary, arguments, &file, "1");
        assert_eq!(output.status.code(), Some(1), "{binary}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("cannot write to the output folder")
                && stderr.contains("taken")
        );
        assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    let out = tempfile::tempdir().unwrap();
    let command = format!("{} --out {} | head -n 1", CHAPTERS[0].0, out.path().display());
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}
