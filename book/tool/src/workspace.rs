//! Where things are: the workspace, its chapters, its pages.
//!
//! Every function takes the root as a value, so that the tests can build a small workspace of their own.
//!
//! Left out: `cargo metadata`, because it costs half a second and `Cargo.toml` says the same.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The workspace that holds the book.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

#[derive(Deserialize, Default)]
struct CargoToml {
    package: Option<Named>,
    #[serde(default)]
    bin: Vec<Bin>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Bin {
    name: String,
    path: Option<String>,
}

#[derive(Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Workspace {
    /// A workspace at a known place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The workspace around the current directory, else the one this program was compiled in.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().context("cannot read the current directory")?;
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let is_root = |dir: &&Path| {
            dir.join("Cargo.toml").is_file() && dir.join("book/book.toml").is_file()
        };
        let found = here.ancestors().find(is_root);
        let root = match found {
            Some(root) => root.to_path_buf(),
            None if is_root(&compiled.as_path()) => compiled,
            None => bail!(
                "no book here: neither {} nor a folder above it holds Cargo.toml and book/book.toml",
                here.display()
            ),
        };
        let root = root
            .canonicalize()
            .with_context(|| format!("cannot open {}", root.display()))?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `book/`, with book.toml in it.
    pub fn book(&self) -> PathBuf {
        self.root.join("book")
    }

    /// `book/text/`, the pages.
    pub fn text(&self) -> PathBuf {
        self.book().join("text")
    }

    /// `book/recorded/`, what the chapters printed and drew.
    pub fn recorded(&self) -> PathBuf {
        self.book().join("recorded")
    }

    /// `book/drawings/`, the figures that are drawn by hand.
    pub fn drawings(&self) -> PathBuf {
        self.book().join("drawings")
    }

    /// A path as messages name it: relative to the workspace.
    pub fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_path_buf()
    }

    /// The folders `chapters/chNN_name`, sorted.
    pub fn chapters(&self) -> Result<Vec<String>> {
        let dir = self.root.join("chapters");
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in
            fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && chapter_number(&name).is_some() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The binaries of the chapters, from `Cargo.toml`: name and path.
    pub fn binaries(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut binaries = BTreeMap::new();
        for bin in self.manifest()?.bin {
            if chapter_number(&bin.name).is_some() {
                let path = bin.path.unwrap_or_default();
                binaries.insert(bin.name, PathBuf::from(path));
            }
        }
        Ok(binaries)
    }

    /// The locked versions of those dependencies of the chapters' package that are named.
    pub fn locked_versions(&self, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let path = self.root.join("Cargo.lock");
        let lock: CargoLock = toml::from_str(&read(&path)?)
            .with_context(|| format!("cannot parse {}", path.display()))?;
        let own = self.manifest()?.package.map(|package| package.name);
        let own = lock.package.iter().find(|p| Some(&p.name) == own.as_ref());
        let mut versions = BTreeMap::new();
        for dependency in own.map_or(&[][..], |package| &package.dependencies) {
            // "rand", or "rand 0.9.5" where other packages use another version.
            let (name, version) = match dependency.split_once(' ') {
                Some((name, version)) => (name, Some(version)),
                None => (dependency.as_str(), None),
            };
            if names.contains(&name) {
                let only = lock.package.iter().find(|p| p.name == name);
                let version = version.or(only.and_then(|p| p.version.as_deref()));
                versions.insert(name.to_owned(), version.unwrap_or("none").to_owned());
            }
        }
        Ok(versions)
    }

    fn manifest(&self) -> Result<CargoToml> {
        let path = self.root.join("Cargo.toml");
        toml::from_str(&read(&path)?)
            .with_context(|| format!("cannot parse {}", path.display()))
    }
}

/// `ch07_reward_model` → 7.
pub fn chapter_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("ch")?;
    let (digits, _) = rest.split_once('_')?;
    if digits.len() == 2 { digits.parse().ok() } else { None }
}

/// Reads a text file; line ends become `\n`, whatever Git made of them.
pub fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.replace("\r\n", "\n"))
}
