//! Runs the chapters and stores what they print and draw.
//!
//! A recording is written beside its place and swapped in when it is complete, so a run that fails, or a machine that
//! is switched off, leaves the old one. What would differ on the next machine (a path) is refused.
//!
//! Left out: running chapters side by side, because a trained result is timed by its reader on a quiet machine.

use crate::fingerprint::Fingerprint;
use crate::problem::slashed;
use crate::recording::{Manifest, Recording, agree};
use crate::tokens::hash;
use crate::workspace::{Workspace, read};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a binary with arguments and returns what it printed. The tests put something quicker in its place.
pub type Runner<'a> = &'a dyn Fn(&str, &[String]) -> Result<String>;

/// What one run left behind.
pub struct Run {
    pub stdout: String,
    pub manifest: Manifest,
    /// Everything the manifest lists, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

/// `cargo run --quiet --bin BIN -- ARGS`, from the root, with its progress on our stderr.
pub fn cargo_runner(workspace: &Workspace) -> impl Fn(&str, &[String]) -> Result<String> {
    let root = workspace.root().to_path_buf();
    move |bin, args| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["run", "--quiet", "--bin", bin, "--"])
            .args(args)
            .current_dir(&root)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("{bin} failed ({})", output.status);
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("{bin} printed invalid UTF-8"))
    }
}

/// Runs a recording into a fresh folder below `target/` and reads what is there.
pub fn run(
    workspace: &Workspace,
    recording: &Recording,
    extra: &[String],
    runner: Runner,
) -> Result<Run> {
    let target = workspace.root().join("target");
    fs::create_dir_all(&target)
        .with_context(|| format!("cannot create {}", target.display()))?;
    let out = tempfile::Builder::new()
        .prefix("recording-")
        .tempdir_in(&target)
        .with_context(|| format!("cannot write to {}", target.display()))?;
    let mut args = recording.args.clone();
    args.extend(extra.iter().cloned());
    args.push("--out".into());
    args.push(out.path().to_string_lossy().into_owned());
    let stdout = runner(&recording.bin, &args)?.replace("\r\n", "\n");
    refuse_paths(&stdout, &recording.bin, &[workspace.root(), out.path()])?;
    let manifest_path = out.path().join("manifest.json");
    if !manifest_path.is_file() {
        bail!("{} wrote no manifest.json into its --out folder", recording.bin);
    }
    let manifest: Manifest =
        serde_json::from_str(&read(&manifest_path)?).with_context(|| {
            format!("the manifest.json of {} cannot be parsed", recording.bin)
        })?;
    agree(&stdout, &manifest).with_context(|| recording.bin.clone())?;
    let files = collect(out.path(), &manifest, &recording.bin)?;
    for (name, bytes) in &files {
        let text = String::from_utf8_lossy(bytes);
        refuse_paths(&text, name, &[workspace.root(), out.path()])?;
    }
    Ok(Run { stdout, manifest, files })
}

/// The files of a run, which must be those of its manifest.
fn collect(out: &Path, manifest: &Manifest, bin: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut written = BTreeSet::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        if entry.path().is_file() {
            written.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let listed: BTreeSet<String> = manifest.files.keys().cloned().collect();
    if let Some(name) = listed.difference(&written).next() {
        bail!("{bin} lists {name} in its manifest.json and did not write it");
    }
    // Other files, such as a trained model, are the reader's to keep and too large for the book.
    let shown = |name: &str| [".svg", ".csv", ".json"].iter().any(|e| name.ends_with(e));
    let mut unlisted = written.difference(&listed).filter(|name| *name != "manifest.json");
    if let Some(name) = unlisted.find(|name| shown(name)) {
        bail!(
            "{bin} wrote {name}, and its manifest.json does not say whether it is exact or trained"
        );
    }
    let mut files = Vec::new();
    for name in listed {
        let bytes =
            fs::read(out.join(&name)).with_context(|| format!("cannot read {name}"))?;
        files.push((name, bytes));
    }
    Ok(files)
}

/// A recording with a path in it is true on one machine only.
fn refuse_paths(text: &str, what: &str, paths: &[&Path]) -> Result<()> {
    for path in paths {
        for written in [path.to_string_lossy().into_owned(), slashed(path)] {
            if let Some(line) = text.lines().position(|line| line.contains(&written)) {
                bail!(
                    "{what}, line {}: a recording must not contain the path {written}; print paths to stderr",
                    line + 1
                );
            }
        }
    }
    Ok(())
}

/// Runs a recording and stores it in `book/recorded/NAME`.
pub fn record(
    workspace: &Workspace,
    recording: &Recording,
    runner: Runner,
) -> Result<PathBuf> {
    let mut run = run(workspace, recording, &[], runner)?;
    run.manifest.fingerprint = Some(Fingerprint::of(workspace, recording)?);
    let mut stored = vec![("stdout.txt".to_owned(), run.stdout.into_bytes())];
    stored.extend(run.files);
    run.manifest.contents =
        stored.iter().map(|(name, bytes)| (name.clone(), content_hash(bytes))).collect();
    let mut manifest = serde_json::to_string_pretty(&run.manifest)?;
    manifest.push('\n');
    stored.push(("manifest.json".to_owned(), manifest.into_bytes()));
    let place = workspace.recorded().join(&recording.name);
    replace_folder(&place, &stored)?;
    Ok(place)
}

/// A hash of a stored file, whatever Git made of its line ends.
pub fn content_hash(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    hash([text.as_bytes()])
}

/// Writes the files beside the folder, then swaps the two.
fn replace_folder(place: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let parent = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".recording-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    let fresh = scratch.path().join("new");
    fs::create_dir(&fresh)?;
    for (name, bytes) in files {
        let path = fresh.join(name);
        fs::write(&path, bytes)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let old = scratch.path().join("old");
    if place.exists() {
        fs::rename(place, &old)
            .with_context(|| format!("cannot replace {}", place.display()))?;
    }
    if let Err(error) = fs::rename(&fresh, place) {
        if old.exists() {
            fs::rename(&old, place)?;
        }
        return Err(error).with_context(|| format!("cannot write {}", place.display()));
    }
    Ok(())
}
