//! What `cargo exercise` can do, one function a command.
//!
//! Left out: a full-screen interface. A terminal that scrolls keeps what it said.

use crate::{
    catalogue::{Chapter, Exercise, chapter, chapters, read, section},
    check::State,
    compile::cargo,
    progress::{FOLDER, Progress},
    verdict::{self, Verdict, untouched},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The workspace as the reader sees it.
pub struct Desk {
    root: PathBuf,
    chapters: Vec<Chapter>,
    progress: Progress,
    colours: bool,
}

impl Desk {
    /// Opens the workspace around the current folder.
    ///
    /// # Errors
    /// Says so when there is none, or names the list of exercises that cannot be read.
    pub fn open() -> Result<Self> {
        let here = std::env::current_dir().context("cannot read the current folder")?;
        let is_root = |folder: &&Path| folder.join("book/stubs").is_dir();
        let root = here.ancestors().find(is_root).with_context(|| {
            format!(
                "no exercises here: neither {} nor a folder above it holds book/stubs",
                here.display()
            )
        })?;
        let progress = Progress::load(root);
        if let Some(trouble) = &progress.trouble {
            eprintln!("{trouble}");
        }
        let colours =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (root, chapters) = (root.to_path_buf(), chapters(root)?);
        Ok(Self { root, chapters, progress, colours })
    }

    /// Every exercise with its state, and the next one to do.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn list(&self) -> Result<()> {
        let (mut done, mut all, mut next) = (0, 0, None);
        for chapter in &self.chapters {
            println!("{}", self.bold(&format!("Chapter {}", chapter.number)));
            for exercise in &chapter.exercises {
                let state = self.standing(chapter, exercise)?;
                all += 1;
                done += usize::from(state == Standing::Passed);
                if state != Standing::Passed && next.is_none() {
                    next = Some((chapter, exercise));
                }
                let Exercise { name, title, effort, .. } = exercise;
                println!("  {} {name:<22} {title:<46} {effort}", self.sign(state));
            }
        }
        println!("\n{done} of {all} passed.");
        match next {
            Some((chapter, exercise)) => {
                println!(
                    "\nNext: {} {}, {}",
                    chapter.number, exercise.name, exercise.title
                );
                self.where_to(chapter, exercise)?;
            }
            None => println!("\nThat was the last one. Well done."),
        }
        Ok(())
    }

    /// Checks what was asked for, or every chapter. Returns whether all of it passed.
    ///
    /// # Errors
    /// Names the chapter or exercise that does not exist, or what Cargo could not do.
    pub fn check(&mut self, which: Option<&str>, name: Option<&str>) -> Result<bool> {
        let chosen: Vec<Chapter> = match which {
            Some(which) => vec![chapter(&self.chapters, which)?.clone()],
            None => self.chapters.clone(),
        };
        let mut passed = true;
        for chapter in &chosen {
            if let Some(name) = name {
                chapter.exercise(name)?;
            }
            passed &= self.check_chapter(chapter, name)?;
        }
        Ok(passed)
    }

    fn check_chapter(&mut self, chapter: &Chapter, only: Option<&str>) -> Result<bool> {
        println!("{}", self.bold(&format!("Chapter {}", chapter.number)));
        let states = match verdict::check(&self.root, chapter, only, self.colours)? {
            Verdict::States(states) => states,
            Verdict::DoesNotCompile(errors) => {
                println!(
                    "{errors}\n{} does not compile yet.",
                    self.shown(&chapter.exercises_file())
                );
                return Ok(false);
            }
            Verdict::Died(why) => {
                println!("  {} {why}", self.sign(Standing::Failed));
                return Ok(false);
            }
        };
        let mut passed = true;
        for (name, state) in states {
            let standing = Standing::from(&state);
            match &state {
                State::Failed(why) => {
                    println!("  {} {name}", self.sign(standing));
                    why.lines().for_each(|line| println!("      {line}"));
                }
                State::Todo => println!("  {} {name:<22} not started", self.sign(standing)),
                State::Passed => println!("  {} {name}", self.sign(standing)),
            }
            passed &= state == State::Passed;
            if state != State::Todo {
                let (result, text) =
                    (Some(state == State::Passed), checksum(chapter, &name));
                self.progress.mark(&chapter.name, &name, |mark| {
                    (mark.passed, mark.text) = (result, text);
                });
            }
        }
        self.progress.save()?;
        Ok(passed)
    }

    /// One more hint of an exercise, or all of them.
    ///
    /// # Errors
    /// Names the chapter or exercise that does not exist.
    pub fn hint(&mut self, which: &str, name: &str, all: bool) -> Result<()> {
        let chapter = chapter(&self.chapters, which)?;
        let hints = &chapter.exercise(name)?.hints;
        let seen = self.progress.of(&chapter.name, name).hints;
        let shown = if all { hints.len() } else { (seen + 1).min(hints.len()) };
        let first = if all { 0 } else { shown - 1 };
        for (at, hint) in hints.iter().enumerate().take(shown).skip(first) {
            println!(
                "{} {}",
                self.bold(&format!("Hint {} of {}.", at + 1, hints.len())),
                hint.trim()
            );
        }
        if shown < hints.len() {
            println!("\nAsk again for a plainer one.");
        }
        let key = chapter.name.clone();
        self.progress.mark(&key, name, |mark| mark.hints = shown);
        self.progress.save()
    }

    /// Checks a chapter, or any, each time its file is saved. Ends with Ctrl-C.
    ///
    /// # Errors
    /// Names the chapter that does not exist.
    pub fn watch(&mut self, which: Option<&str>) -> Result<()> {
        let chosen: Vec<Chapter> = match which {
            Some(which) => vec![chapter(&self.chapters, which)?.clone()],
            None => self.chapters.clone(),
        };
        let mut saved: BTreeMap<PathBuf, Option<SystemTime>> = BTreeMap::new();
        let mut first = true;
        println!("Watching. Save a file to have it checked; Ctrl-C ends.\n");
        loop {
            for chapter in &chosen {
                let file = chapter.exercises_file();
                let time = fs::metadata(&file).and_then(|m| m.modified()).ok();
                let changed = saved.insert(file, time) != Some(time);
                // At the start, only what the reader has touched.
                if changed && !(first && untouched(chapter, None).unwrap_or(false)) {
                    // Half-written files are part of the work: say it and go on.
                    if let Err(error) = self.check_chapter(chapter, None) {
                        println!("{error:#}");
                    }
                    println!();
                }
            }
            first = false;
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Puts a stub back, or all of a chapter, and keeps a copy of what stood there.
    ///
    /// # Errors
    /// Says why nothing was changed.
    pub fn reset(&mut self, which: &str, name: Option<&str>, yes: bool) -> Result<()> {
        let chapter = chapter(&self.chapters, which)?.clone();
        let (file, stubs) = (chapter.exercises_file(), read(&chapter.stubs_file())?);
        let yours = read(&file)?;
        let fresh = match name {
            None => stubs,
            Some(name) => {
                chapter.exercise(name)?;
                let stub = &stubs[section(&stubs, name)?];
                let range = section(&yours, name).with_context(|| {
                    format!("{}: reset the whole chapter instead", self.shown(&file))
                })?;
                format!("{}{stub}{}", &yours[..range.start], &yours[range.end..])
            }
        };
        let what = name
            .map_or(self.shown(&file), |name| format!("{name} in {}", self.shown(&file)));
        if fresh == yours {
            println!("{what} is the stub already.");
            return Ok(());
        }
        if !yes && !agreed(&format!("Put the stub of {what} back?"))? {
            println!("Nothing was changed.");
            return Ok(());
        }
        let copy = self.keep(&chapter, &yours)?;
        write(&file, &fresh)?;
        println!("{what} is the stub again. What you wrote is in {}.", self.shown(&copy));
        Ok(())
    }

    /// Shows the solution of an exercise that has passed, or with `peek` of any.
    ///
    /// # Errors
    /// Refuses an exercise that has not passed.
    pub fn solution(&self, which: &str, name: &str, peek: bool) -> Result<()> {
        let chapter = chapter(&self.chapters, which)?;
        let exercise = chapter.exercise(name)?;
        if !peek && self.standing(chapter, exercise)? != Standing::Passed {
            bail!(
                "{name} has not passed yet. `cargo exercise hint {which} {name}` helps; \
                 `cargo exercise solution {which} {name} --peek` shows the solution all the same"
            );
        }
        let text = read(&chapter.solutions_file())?;
        print!("{}", &text[section(&text, name)?]);
        println!("\nThe page solutions/{}.html says more.", chapter.name);
        Ok(())
    }

    /// Runs a chapter with the reader's functions in place of the library's. Returns its
    /// exit status.
    ///
    /// # Errors
    /// Names the chapter that does not exist.
    pub fn run(&self, which: &str, arguments: &[String]) -> Result<i32> {
        let chapter = chapter(&self.chapters, which)?;
        let out = format!("target/grpo/{}_yours", chapter.name);
        let mut command = cargo(&self.root);
        command.args([
            "run",
            "--quiet",
            "--features",
            "yours",
            "--bin",
            &chapter.name,
            "--",
        ]);
        // The chapter's own figures stay as they are.
        if !arguments.iter().any(|a| a == "--out" || a.starts_with("--out=")) {
            command.args(["--out", &out]);
        }
        let status = command.args(arguments).status().context("cannot start cargo")?;
        Ok(status.code().unwrap_or(1))
    }

    fn standing(&self, chapter: &Chapter, exercise: &Exercise) -> Result<Standing> {
        // Without its marks it cannot be compared; then the last check counts.
        if untouched(chapter, Some(&exercise.name)).unwrap_or(false) {
            return Ok(Standing::Todo);
        }
        let mark = self.progress.of(&chapter.name, &exercise.name);
        let unchanged = mark.text == checksum(chapter, &exercise.name);
        Ok(match mark.passed.filter(|_| unchanged) {
            Some(true) => Standing::Passed,
            Some(false) => Standing::Failed,
            None => Standing::Begun,
        })
    }

    fn where_to(&self, chapter: &Chapter, exercise: &Exercise) -> Result<()> {
        let file = chapter.exercises_file();
        let text = read(&file)?;
        let line = section(&text, &exercise.name)
            .map_or(1, |r| 1 + text[..r.start].matches('\n').count());
        let (number, name) = (chapter.number, &exercise.name);
        println!("  write   {}:{line}", self.shown(&file));
        println!("  check   cargo exercise check {number} {name}");
        println!("  help    cargo exercise hint {number} {name}");
        Ok(())
    }

    /// A copy beside the progress, under a name that is not taken.
    fn keep(&self, chapter: &Chapter, text: &str) -> Result<PathBuf> {
        let folder = self.root.join(FOLDER).join("kept");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let path = (1..)
            .map(|n| folder.join(format!("{}.{n}.rs", chapter.name)))
            .find(|path| !path.exists())
            .context("there are too many kept copies")?;
        write(&path, text)?;
        Ok(path)
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    fn bold(&self, text: &str) -> String {
        if self.colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn sign(&self, standing: Standing) -> String {
        let (sign, colour) = match standing {
            Standing::Passed => ("✓", 32),
            Standing::Failed => ("✗", 31),
            Standing::Begun => ("…", 33),
            Standing::Todo => ("·", 2),
        };
        if self.colours { format!("\x1b[{colour}m{sign}\x1b[0m") } else { sign.to_owned() }
    }
}

/// How an exercise stands, as far as is known without compiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Passed,
    Failed,
    Begun,
    Todo,
}

impl From<&State> for Standing {
    fn from(state: &State) -> Self {
        match state {
            State::Passed => Self::Passed,
            State::Todo => Self::Todo,
            State::Failed(_) => Self::Failed,
        }
    }
}

/// What an exercise looks like, as a number: FNV-1a, because the one of the standard
/// library may differ between versions. 0 where it cannot be found.
fn checksum(chapter: &Chapter, name: &str) -> u64 {
    let text = read(&chapter.exercises_file()).unwrap_or_default();
    let range = section(&text, name).unwrap_or(0..0);
    text[range].bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn agreed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{question} Say --yes, since nobody can be asked here");
    }
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes beside the place and renames.
fn write(path: &Path, text: &str) -> Result<()> {
    let write = || -> Result<()> {
        let mut file =
            tempfile::NamedTempFile::new_in(path.parent().context("it has no folder")?)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
