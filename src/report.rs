//! What a chapter leaves behind: text on the terminal, figures and metrics in a folder.
//!
//! Text that belongs to the run goes to standard output. Progress and the names of
//! written files go to standard error, so that the output of two runs can be compared.
//!
//! Left out: logging to a service, because a CSV can be opened by anything.

use crate::{Result, plot::Figure};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

/// Whether a result repeats to the digit on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Arithmetic and enumeration: every machine prints the same.
    Exact,
    /// The outcome of training: processors round differently and training amplifies it.
    Trained,
}

/// The folder of one run: its figures, its metrics, and a manifest of both.
pub struct Output {
    folder: PathBuf,
    manifest: Manifest,
}

#[derive(Serialize, Default)]
struct Manifest {
    sections: Vec<Section>,
    files: BTreeMap<String, Kind>,
}

#[derive(Serialize)]
struct Section {
    name: String,
    title: String,
    kind: Kind,
}

impl Output {
    /// Opens `folder`, making it when it does not exist.
    ///
    /// # Errors
    /// Names the folder when it cannot be made.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("cannot write to the output folder {}", folder.display())
        })?;
        Ok(Self { folder: folder.to_path_buf(), manifest: Manifest::default() })
    }

    /// Begins a section: prints its title, and remembers of which kind are the text
    /// and the files that follow.
    pub fn section(&mut self, kind: Kind, name: &str, title: &str) {
        let gap = if self.manifest.sections.is_empty() { "" } else { "\n" };
        println!("{gap}== {title} ==");
        let (name, title) = (name.to_string(), title.to_string());
        self.manifest.sections.push(Section { name, title, kind });
    }

    /// Draws `figure` into `name.svg`.
    ///
    /// # Errors
    /// Names the file when it cannot be written.
    pub fn figure(&mut self, name: &str, figure: &Figure) -> Result<()> {
        self.file(&format!("{name}.svg"), figure.svg()?.as_bytes())
    }

    /// Writes a table of numbers, rounded to six digits, to `name.csv`. NaN and infinities
    /// become empty cells.
    ///
    /// # Errors
    /// Names the file when it cannot be written, or the row that has too few or too
    /// many cells.
    pub fn csv<const N: usize>(
        &mut self,
        name: &str,
        columns: [&str; N],
        rows: impl IntoIterator<Item = [f64; N]>,
    ) -> Result<()> {
        // Six digits: those after them depend on the processor.
        let six = |x: f64| format!("{x:.5e}").parse().unwrap_or(x);
        let cell =
            |x: &f64| if x.is_finite() { six(*x).to_string() } else { String::new() };
        let mut text = columns.join(",") + "\n";
        for row in rows {
            text += &(row.each_ref().map(cell).join(",") + "\n");
        }
        self.file(&format!("{name}.csv"), text.as_bytes())
    }

    /// Writes any other file, such as a trace for the page.
    ///
    /// # Errors
    /// Names the file when it cannot be written.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomically(&self.folder.join(name), bytes)?;
        let kind =
            self.manifest.sections.last().map_or(Kind::Exact, |section| section.kind);
        self.manifest.files.insert(name.to_string(), kind);
        Ok(())
    }

    /// Writes the manifest and says where everything is.
    ///
    /// # Errors
    /// Names the file when it cannot be written.
    pub fn finish(self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest)?;
        write_atomically(&self.folder.join("manifest.json"), text.as_bytes())?;
        let files: Vec<&str> = self.manifest.files.keys().map(String::as_str).collect();
        eprintln!("\nwrote {} to {}", files.join(", "), self.folder.display());
        Ok(())
    }
}

/// Writes to a temporary file beside `path`, then renames it: a reader never sees half
/// a file, and what was there survives a full disk.
///
/// # Errors
/// Names the file.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A table of text. A column whose cells are all numbers is aligned to the right.
///
/// ```
/// let mut table = grpo::report::Table::new(["token", "probability"]);
/// table.row(["0".into(), format!("{:.4}", 0.54655)]);
/// assert_eq!(table.to_string(), "token  probability\n-----  -----------\n    0       0.5465\n");
/// ```
pub struct Table<const N: usize> {
    header: [String; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these column names.
    pub fn new(header: [&str; N]) -> Self {
        Self { header: header.map(String::from), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: &String| text.chars().count();
        let column = |i: usize| self.rows.iter().map(move |row| &row[i]);
        let widths: [usize; N] = std::array::from_fn(|i| {
            column(i).map(width).max().unwrap_or(0).max(width(&self.header[i]))
        });
        let is_number = |text: &String| {
            let text = text.trim_end_matches(['%', '×']).replace('−', "-");
            text == "–"
                || text.is_empty()
                || text.split(" ± ").all(|x| x.parse::<f64>().is_ok())
        };
        let right: [bool; N] = std::array::from_fn(|i| column(i).all(is_number));
        let dashes: [String; N] = std::array::from_fn(|i| "-".repeat(widths[i]));
        for row in [&self.header, &dashes].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for i in 0..N {
                let padding = " ".repeat(widths[i] - width(&row[i]));
                let gap = if i == 0 { "" } else { "  " };
                let cell = &row[i];
                line += &match right[i] {
                    true => format!("{gap}{padding}{cell}"),
                    false => format!("{gap}{cell}{padding}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A progress bar of `length` steps on a terminal; nothing where standard error goes
/// to a file. It may be shared by threads.
pub fn progress(length: u64, label: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(10),
        false => ProgressDrawTarget::hidden(),
    };
    let style =
        ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len} {msg} {eta} left");
    let bar = ProgressBar::with_draw_target(Some(length), target);
    bar.set_prefix(label.to_string());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
