//! Chapter 10 as a reader meets it: stopped, resumed, on a full disk, with a damaged
//! checkpoint, and in conversation.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The smallest run that goes through everything.
const SMALL: [&str; 7] =
    ["--task", "carry", "--quick", "--sft-steps", "10", "--group-size", "2"];

fn chapter(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ch10_rlvr"));
    command.args(arguments).env("CANDLE_NUM_THREADS", "1").env("RAYON_NUM_THREADS", "1");
    command
}

fn run(arguments: &[&str]) -> Output {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    chapter(arguments).args(["--out".as_ref(), out.as_os_str()]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn small(more: &[&str]) -> Vec<String> {
    SMALL.iter().chain(more).map(|s| s.to_string()).collect()
}

/// A finished run of two steps, saved.
fn saved() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = run_small(&["--steps", "2", "--save", path(folder.path())]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    folder
}

fn run_small(more: &[&str]) -> Output {
    let all = small(more);
    run(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Refused with this exit code and these words, without a panic.
fn refused(output: &Output, code: i32, says: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for words in says {
        assert!(stderr.contains(words), "{words:?} is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Starts a run, and waits until it has saved after `step` steps.
fn start(arguments: &[&str], folder: &Path, step: usize) -> Child {
    let mut child = chapter(arguments)
        .args(["--save", path(folder), "--out", path(&folder.join("out"))])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !folder.join(format!("step-{step:08}")).exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "nothing was saved");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_bytes() {
    let arguments = small(&["--steps", "40"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = run(&[&arguments[..], &["--save", path(whole.path())]].concat());
    assert!(expected.status.success(), "{}", text(&expected.stderr));

    let mut child = start(&arguments, killed.path(), 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = run(&["--resume", path(killed.path())]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(text(&resumed.stderr).contains("going on after step 20 of 50"));
    assert_eq!(text(&resumed.stdout), text(&expected.stdout));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read =
            |folder: &Path| fs::read(folder.join("step-00000050").join(file)).unwrap();
        assert!(read(whole.path()) == read(killed.path()), "{file} differs");
    }
}

#[cfg(unix)]
#[test]
fn control_c_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = small(&["--steps", "100000"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child = start(&arguments, folder.path(), 20);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    refused(&output, 130, &["go on with: cargo run --bin ch10_rlvr -- --resume"]);
    let stderr = text(&output.stderr);
    let step: usize = stderr
        .split("after step ")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(folder.path().join(format!("step-{step:08}")).exists(), "{stderr}");
}

/// As on a full disk, a write fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_the_save_and_not_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = small(&["--steps", "40"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = start(&arguments, folder.path(), 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let out = tempfile::tempdir().unwrap();
    // Blocks of 512 or 1024 bytes: a quarter or half a megabyte. The model has more.
    let script = "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_ch10_rlvr")])
        .args(["--resume", path(folder.path()), "--out", path(out.path())])
        .env("CANDLE_NUM_THREADS", "1")
        .output()
        .unwrap();
    refused(
        &output,
        1,
        &[
            "not saved at step 40",
            "not saved at step 50",
            "cannot save to",
            "model.safetensors",
        ],
    );
    // Nothing is lost: neither the results nor the last good checkpoint.
    assert!(text(&output.stdout).contains("== Nothing but a verifier =="));
    let again = run(&["--resume", path(folder.path())]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(text(&again.stdout), text(&output.stdout));
}

#[test]
fn a_folder_that_cannot_be_saved_to_is_told_before_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    let began = Instant::now();
    let output = run(&["--save", path(&file)]);
    refused(&output, 1, &["cannot save to", "file"]);
    assert!(output.stdout.is_empty());
    assert!(began.elapsed() < Duration::from_secs(20), "it trained first");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    // Another run's checkpoints are not overwritten.
    let other = saved();
    let output = run_small(&["--steps", "2", "--save", path(other.path())]);
    refused(
        &output,
        1,
        &["is of step 12, and this run is at step 0", "save to another folder"],
    );
}

#[test]
fn a_checkpoint_that_cannot_be_resumed_is_refused_with_the_reason() {
    let empty = tempfile::tempdir().unwrap();
    refused(&run(&["--resume", path(empty.path())]), 1, &["there is no checkpoint in"]);
    let missing = empty.path().join("missing");
    refused(&run(&["--resume", path(&missing)]), 1, &["cannot read", "missing"]);

    let folder = saved();
    let resume = |more: &[&str]| run(&[&["--resume", path(folder.path())], more].concat());
    for (arguments, says) in [
        (["--task", "lazy"], "--task is lazy, and the saved run has carry"),
        (["--seed", "7"], "--seed is 7, and the saved run has 0"),
        (["--group-size", "4"], "--group-size is 4, and the saved run has 2"),
        (["--steps", "9"], "--steps is 9, and the saved run has 2"),
        (["--sft-steps", "9"], "--sft-steps is 9, and the saved run has 10"),
        (["--lr", "0.1"], "--lr is 0.1, and the saved run has 0.0003"),
    ] {
        refused(&resume(&arguments), 1, &["cannot resume from", says]);
    }
    let newest = folder.path().join("step-00000012");
    let json = newest.join("checkpoint.json");
    let good = fs::read_to_string(&json).unwrap();
    for (from, to, says) in [
        ("\"lesson\": \"carry\"", "\"lesson\": \"chess\"", "the settings in"),
        (
            "\"characters\": \"0123456789+=\"",
            "\"characters\": \"012345678+=\"",
            "the task carry needs a token that is missing: there is no token `9`",
        ),
        (
            "\"characters\": \"0123456789+=\"",
            "\"characters\": \"0123456789+=?\"",
            "is of another model: model.embed_tokens.weight is [13, 96]",
        ),
    ] {
        assert!(good.contains(from), "{good}");
        fs::write(&json, good.replace(from, to)).unwrap();
        refused(&resume(&[]), 1, &[says]);
    }
    fs::write(&json, &good[..good.len() / 2]).unwrap();
    refused(&resume(&[]), 1, &["checkpoint.json is damaged", "goes on from step 0"]);
    fs::write(&json, &good).unwrap();
    let model = newest.join("model.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..1000]).unwrap();
    refused(&resume(&[]), 1, &["model.safetensors has 1000 bytes"]);
    fs::write(&model, &bytes).unwrap();
    assert!(resume(&[]).status.success());
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    for (arguments, says) in [
        (["--group-size", "1"], "one completion has nothing to be compared with"),
        (["--group-size", "0"], "it must be a whole number from 2 to 1024"),
        (["--group-size", "many"], "it must be a whole number from 2 to 1024"),
        (["--steps", "0"], "it must be a whole number, at least 1"),
        (["--sft-steps", "-3"], "it must be a whole number, at least 1"),
        (["--lr", "0"], "it must be a number above 0 and at most 1"),
        (["--lr", "NaN"], "it must be a number above 0 and at most 1"),
        (["--task", "chess"], "[possible values: lazy, carry]"),
        (["--study", "chess"], "[possible values: lazy, carry]"),
    ] {
        refused(
            &run(&[&format!("{}={}", arguments[0], arguments[1])]),
            2,
            &[arguments[0], says],
        );
    }
    refused(&run(&["--save", "a", "--resume", "b"]), 2, &["cannot be used with"]);
    for other in [&["--chat"][..], &["--task", "carry"], &["--save", "a"]] {
        let both = [&["--study", "lazy"], other].concat();
        refused(&run(&both), 2, &["cannot be used with"]);
    }
}

#[test]
fn a_conversation_answers_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--quick", "--sft-steps", "5", "--steps", "1", "--group-size", "2"];
    let output = run(&[&small[..], &["--save", path(folder.path())]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut child = chapter(&["--resume", path(folder.path()), "--chat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let long = format!("3{}=", "+4".repeat(50));
    let lines = format!("3*7+2*4+9=\n\n3*7\n{long}\n3-7=\n=\n3*7=\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    // Not text, and the last line without an end.
    stdin.write_all(b"\xff\xfe=\n9+9=").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.matches("greedy   ").count(), 3, "{stdout}");
    assert_eq!(stdout.matches("sampled  ").count(), 3, "{stdout}");
    assert_eq!(stdout.matches("is refused: ").count(), 5, "{stdout}");
    for says in [
        "\"3*7\" does not end with =",
        "a prompt of 102 tokens and 20 new ones do not fit the context of 48",
        "`-` in \"3-7=\" is neither + nor *",
        "must be digits with + or * between them",
    ] {
        assert!(stdout.contains(says), "{says:?} is missing in: {stdout}");
    }
}
