//! A run on disk: stop at any moment, go on as if nothing had happened.
//!
//! ```text
//! FOLDER/step-00000120/checkpoint.json        step, settings, size and checksum of the rest
//!                      model.safetensors      the variables
//!                      optimizer.safetensors  what AdamW remembers of them
//! ```
//!
//! A checkpoint is written under another name, flushed to the disk and then renamed: it
//! is there whole or not at all. The newest two are kept, so that there is one to go back
//! to. There is no generator to save, because each piece of a run draws from a
//! [`crate::seed::stream`] named by its step.
//!
//! The numbers among the settings come back exactly when they have at most 15 digits.
//!
//! Left out: saving in the background, because a save takes less time than a step.

use crate::{Result, optim::AdamW, variables::Variables};
use anyhow::{Context, bail, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

const FORMAT: &str = "grpo checkpoint";
const VERSION: u32 = 1;
/// How many checkpoints stay in a folder.
const KEPT: usize = 2;
const UNFINISHED: &str = ".saving-";

/// `checkpoint.json`.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    step: usize,
    optimizer_steps: usize,
    settings: Value,
    files: BTreeMap<String, Sum>,
}

/// What shows that a file is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: usize,
    checksum: String,
}

/// A checkpoint that was read and found whole.
pub struct Checkpoint {
    /// Training steps taken.
    pub step: usize,
    /// Where it was read from.
    pub path: PathBuf,
    settings: Value,
    variables: BTreeMap<String, Tensor>,
    optimizer: BTreeMap<String, Tensor>,
    optimizer_steps: usize,
}

/// Saves a run after `step` training steps, and removes all but the newest two
/// checkpoints of the folder. Returns the path of the new one.
///
/// # Errors
/// Says what could not be written; the earlier checkpoints are then untouched. Refuses a
/// folder that holds a later step, because that is another run's.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::ParamsAdamW;
/// use grpo::{checkpoint, optim::AdamW, seed, variables::Init};
/// # fn main() -> grpo::Result<()> {
/// let model = |seed| -> grpo::Result<_> {
///     let mut rng = seed::rng(seed);
///     let mut init = Init::new(&mut rng, DType::F32, &Device::Cpu);
///     init.normal("weight", 3, 1.0)?;
///     let variables = init.finish();
///     let optimizer = AdamW::new(&variables, ParamsAdamW::default())?;
///     Ok((variables, optimizer))
/// };
/// let folder = tempfile::tempdir()?;
/// let (saved, optimizer) = model(0)?;
/// checkpoint::save(folder.path(), 120, &"settings", &saved, &optimizer)?;
///
/// let (resumed, mut optimizer) = model(1)?;
/// let found = checkpoint::load(folder.path())?;
/// assert_eq!(found.settings::<String>()?, "settings");
/// assert_eq!(found.restore(&resumed, &mut optimizer)?, 120);
/// let weight = |v: &grpo::variables::Variables| v["weight"].to_vec1::<f32>();
/// assert_eq!(weight(&saved)?, weight(&resumed)?);
/// # Ok(())
/// # }
/// ```
pub fn save(
    folder: &Path,
    step: usize,
    settings: &impl Serialize,
    variables: &Variables,
    optimizer: &AdamW,
) -> Result<PathBuf> {
    let describe = || format!("cannot save to {}", folder.display());
    fs::create_dir_all(folder).with_context(describe)?;
    let earlier = steps(folder).with_context(describe)?;
    if let Some((last, path)) = earlier.last_key_value() {
        let last = *last;
        ensure!(
            last <= step,
            "{} is of step {last}, and this run is at step {step}: resume that one, or save \
             to another folder",
            path.display()
        );
    }
    write(folder, step, settings, variables, optimizer).with_context(describe)
}

/// Reads the newest checkpoint of a folder, onto the CPU.
///
/// # Errors
/// Names the file that is truncated, damaged, foreign or of a later version, and the
/// checkpoint before it, if there is one. Nothing on the disk changes.
pub fn load(folder: &Path) -> Result<Checkpoint> {
    let mut found =
        steps(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let Some((_, newest)) = found.pop_last() else {
        bail!("there is no checkpoint in {}", folder.display())
    };
    let advice = || match found.last_key_value() {
        Some((step, _)) => format!(
            "cannot resume from {}; without it the run goes on from step {step}",
            newest.display()
        ),
        None => format!("cannot resume from {}", newest.display()),
    };
    read(&newest).with_context(advice)
}

impl Checkpoint {
    /// The settings that the run was saved with.
    ///
    /// # Errors
    /// Names the setting that is missing or of another type.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S> {
        serde_json::from_value(self.settings.clone())
            .with_context(|| format!("the settings in {} are others", self.path.display()))
    }

    /// Puts everything back, bit for bit, and returns the step to go on from. When it is
    /// refused, nothing has changed.
    ///
    /// # Errors
    /// Names the tensor that is missing, too many, or of another shape or type.
    pub fn restore(self, variables: &Variables, optimizer: &mut AdamW) -> Result<usize> {
        let Self {
            step,
            path,
            optimizer: state,
            optimizer_steps,
            variables: mut saved,
            ..
        } = self;
        let restore = || -> Result<()> {
            let mut pairs = Vec::with_capacity(variables.len());
            for (name, variable) in variables {
                let found =
                    saved.remove(name).with_context(|| format!("there is no {name}"))?;
                let (wanted, dtype) = (variable.dims(), variable.dtype());
                ensure!(
                    found.dims() == wanted && found.dtype() == dtype,
                    "{name} is {:?} {:?}; the model's is {wanted:?} {dtype:?}",
                    found.dims(),
                    found.dtype()
                );
                pairs.push((variable, found.to_device(variable.device())?));
            }
            if let Some(name) = saved.keys().next() {
                bail!("{name} has no place in this model");
            }
            optimizer.restore(state, optimizer_steps)?;
            pairs.into_iter().try_for_each(|(variable, found)| Ok(variable.set(&found)?))
        };
        restore().with_context(|| format!("{} is of another model", path.display()))?;
        Ok(step)
    }
}

fn write(
    folder: &Path,
    step: usize,
    settings: &impl Serialize,
    variables: &Variables,
    optimizer: &AdamW,
) -> Result<PathBuf> {
    // Left behind by a run that was killed while it saved.
    remove(folder, |name| name.starts_with(UNFINISHED))?;
    // Removed again by itself when anything below fails.
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder)?;
    let add = |name: &str, bytes: &[u8]| -> Result<(String, Sum)> {
        let mut file = fs::File::create(unfinished.path().join(name))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .with_context(|| name.to_string())?;
        Ok((name.to_string(), Sum::of(bytes)))
    };
    let weights = variables.iter().map(|(name, v)| (name, v.as_tensor()));
    let weights = safetensors::serialize(weights, None)?;
    let state = safetensors::serialize(optimizer.state(), None)?;
    let files =
        [add("model.safetensors", &weights)?, add("optimizer.safetensors", &state)?];
    let header = Header {
        format: FORMAT.to_string(),
        version: VERSION,
        step,
        optimizer_steps: optimizer.steps(),
        settings: serde_json::to_value(settings)?,
        files: files.into(),
    };
    add("checkpoint.json", (serde_json::to_string_pretty(&header)? + "\n").as_bytes())?;
    sync(unfinished.path())?;

    let path = folder.join(format!("step-{step:08}"));
    if path.exists() {
        // The same step, saved twice. It steps aside, since a folder cannot be replaced.
        fs::rename(&path, folder.join(format!("{UNFINISHED}old-{step}")))?;
    }
    fs::rename(unfinished.path(), &path)?;
    // There is nothing left under the temporary name to remove.
    let _ = unfinished.keep();
    sync(folder)?;
    remove(folder, |name| name.starts_with(UNFINISHED))?;
    let all = steps(folder)?;
    for old in all.values().rev().skip(KEPT) {
        fs::remove_dir_all(old)?;
    }
    Ok(path)
}

fn read(path: &Path) -> Result<Checkpoint> {
    let file = path.join("checkpoint.json");
    let text = fs::read_to_string(&file).with_context(|| "checkpoint.json is missing")?;
    let value: Value = serde_json::from_str(&text).context("checkpoint.json is damaged")?;
    // The version first: a later one may have other fields.
    let format = value.get("format").and_then(Value::as_str);
    ensure!(format == Some(FORMAT), "checkpoint.json was not written by this program");
    let version = value.get("version").and_then(Value::as_u64).unwrap_or(0);
    ensure!(
        version == u64::from(VERSION),
        "it has version {version}; this program reads version {VERSION}"
    );
    let header: Header =
        serde_json::from_value(value).context("checkpoint.json is damaged")?;
    let tensors = |name: &str| -> Result<BTreeMap<String, Tensor>> {
        let wanted = header.files.get(name);
        let wanted =
            wanted.with_context(|| format!("checkpoint.json does not list {name}"))?;
        let bytes =
            fs::read(path.join(name)).with_context(|| format!("{name} is missing"))?;
        ensure!(
            bytes.len() == wanted.bytes,
            "{name} has {} bytes; it was saved with {}",
            bytes.len(),
            wanted.bytes
        );
        ensure!(Sum::of(&bytes) == *wanted, "{name} is damaged: its checksum differs");
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu);
        Ok(tensors.with_context(|| format!("{name} is damaged"))?.into_iter().collect())
    };
    Ok(Checkpoint {
        step: header.step,
        path: path.to_path_buf(),
        variables: tensors("model.safetensors")?,
        optimizer: tensors("optimizer.safetensors")?,
        optimizer_steps: header.optimizer_steps,
        settings: header.settings,
    })
}

impl Sum {
    /// FNV-1a: enough to notice an accident, no protection against intent.
    fn of(bytes: &[u8]) -> Self {
        let fold =
            |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold);
        Self { bytes: bytes.len(), checksum: format!("{hash:016x}") }
    }
}

/// The checkpoints of a folder by step.
fn steps(folder: &Path) -> Result<BTreeMap<usize, PathBuf>> {
    let mut steps = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
        if let Some(step) = step {
            steps.insert(step, entry.path());
        }
    }
    Ok(steps)
}

fn remove(folder: &Path, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&unwanted) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Flushes the names in a folder to the disk, where the system lets one.
fn sync(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
