//! A run that is killed goes on in the same bits; a bad checkpoint is refused with the
//! reason.

use crate::{numbers, tiny};
use candle_core::{DType, Device::Cpu};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{
    checkpoint, gradients,
    lm::{
        decoder::Decoder,
        generate::{Settings, Streams, generate},
    },
    mask,
    optim::AdamW,
    policy::Policy,
    sampling::Sampler,
    seed,
    variables::Variables,
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const FOLDER: &str = "GRPO_TEST_CHECKPOINT_FOLDER";

fn start() -> (Decoder, AdamW) {
    let decoder =
        Decoder::new(&tiny("qwen3"), &mut seed::rng(1), DType::F32, &Cpu).unwrap();
    let settings = ParamsAdamW { lr: 1e-2, ..Default::default() };
    let optimizer = AdamW::new(decoder.variables(), settings).unwrap();
    (decoder, optimizer)
}

/// One step on what the model samples: its outcome depends on the weights, the
/// optimiser's state and the random stream of the step.
fn train(decoder: &Decoder, optimizer: &mut AdamW, step: usize) {
    let settings = Settings {
        group_size: 4,
        max_tokens: 5,
        sampler: Sampler::at(1.0),
        stop: vec![0],
        pad: 0,
        shards: 1,
    };
    let streams = Streams { seed: 11, step: step as u64, first_prompt: 0 };
    let sampled = generate(decoder, &[vec![1, 2], vec![3]], &settings, streams).unwrap();
    let prompt_mask = sampled.prompt_mask.as_ref();
    let scores =
        decoder.score(&sampled.prompts, prompt_mask, &sampled.tokens, 1.0).unwrap();
    let loss = mask::token_mean(&scores.log_probs, &sampled.mask).unwrap().neg().unwrap();
    optimizer.step(&gradients::of(&loss, decoder.variables()).unwrap()).unwrap();
}

fn bits(variables: &Variables) -> Vec<u64> {
    variables.values().flat_map(|v| numbers(v)).map(f64::to_bits).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Not a test: the process that `a_killed_run_goes_on_in_the_same_bits` kills.
#[test]
#[ignore = "run by another test, and killed by it"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (decoder, mut optimizer) = start();
    for step in 0..100_000 {
        train(&decoder, &mut optimizer, step);
        checkpoint::save(&folder, step + 1, &"child", decoder.variables(), &optimizer)
            .unwrap();
    }
}

#[test]
fn a_killed_run_goes_on_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "checkpoint::child", "--ignored"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !names(folder.path()).iter().any(|name| name.as_str() >= "step-00000005") {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", names(folder.path()));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let (resumed, mut optimizer) = start();
    let found = checkpoint::load(folder.path()).unwrap();
    assert_eq!(found.settings::<String>().unwrap(), "child");
    let killed_at = found.restore(resumed.variables(), &mut optimizer).unwrap();
    assert_eq!(optimizer.steps(), killed_at);
    let (whole, mut whole_optimizer) = start();
    (0..killed_at).for_each(|step| train(&whole, &mut whole_optimizer, step));
    assert_eq!(bits(whole.variables()), bits(resumed.variables()));
    for step in killed_at..killed_at + 5 {
        train(&whole, &mut whole_optimizer, step);
        train(&resumed, &mut optimizer, step);
    }
    assert_eq!(bits(whole.variables()), bits(resumed.variables()));
    // What the kill left behind is cleared away by the next save.
    let step = killed_at + 5;
    checkpoint::save(folder.path(), step, &(), resumed.variables(), &optimizer).unwrap();
    assert!(names(folder.path()).iter().all(|name| name.starts_with("step-")));
}

#[test]
fn the_newest_two_are_kept_and_a_later_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (decoder, optimizer) = start();
    let save =
        |step| checkpoint::save(folder.path(), step, &(), decoder.variables(), &optimizer);
    for step in [10, 20, 30, 30] {
        save(step).unwrap();
    }
    let kept = ["step-00000020", "step-00000030"].map(String::from);
    assert_eq!(names(folder.path()), kept.clone().into());
    let error = save(29).unwrap_err().to_string();
    assert!(
        error.contains("step-00000030 is of step 30, and this run is at step 29"),
        "{error}"
    );
    assert_eq!(names(folder.path()), kept.into());
}

#[test]
fn a_bad_checkpoint_is_refused_with_the_reason_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (decoder, mut optimizer) = start();
    let refusal = || format!("{:#}", checkpoint::load(folder.path()).err().unwrap());
    assert!(refusal().contains("there is no checkpoint in"), "{}", refusal());
    for step in [1, 2] {
        checkpoint::save(folder.path(), step, &(), decoder.variables(), &optimizer)
            .unwrap();
    }
    let newest = folder.path().join("step-00000002");
    let good: Vec<(PathBuf, Vec<u8>)> =
        ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]
            .map(|name| newest.join(name))
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .into();
    let json = |from: &str, to: &str| {
        let text = String::from_utf8(good[0].1.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        text.replace(from, to).into_bytes()
    };
    let cut = |file: usize| good[file].1[..good[file].1.len() - 9].to_vec();
    let mut flipped = good[1].1.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (file, bytes, says) in [
        (0, cut(0), "checkpoint.json is damaged"),
        (0, b"{\"step\": 3}".to_vec(), "checkpoint.json was not written by this program"),
        (
            0,
            json("\"version\": 1", "\"version\": 2"),
            "it has version 2; this program reads version 1",
        ),
        (0, json("\"step\": 2", "\"step\": \"two\""), "checkpoint.json is damaged"),
        (1, cut(1), "model.safetensors has"),
        (1, flipped, "model.safetensors is damaged: its checksum differs"),
        (2, cut(2), "optimizer.safetensors has"),
    ] {
        fs::write(&good[file].0, bytes).unwrap();
        let error = refusal();
        assert!(error.contains(says), "{error}");
        assert!(
            error.contains("step-00000002; without it the run goes on from step 1"),
            "{error}"
        );
        fs::write(&good[file].0, &good[file].1).unwrap();
        assert_eq!(checkpoint::load(folder.path()).unwrap().step, 2);
    }
    fs::remove_file(&good[2].0).unwrap();
    assert!(refusal().contains("optimizer.safetensors is missing"), "{}", refusal());
    fs::write(&good[2].0, &good[2].1).unwrap();

    let before = bits(decoder.variables());
    let other = Decoder::new(&tiny("llama"), &mut seed::rng(2), DType::F32, &Cpu).unwrap();
    let untouched = bits(other.variables());
    let mut others = AdamW::new(other.variables(), ParamsAdamW::default()).unwrap();
    let found = checkpoint::load(folder.path()).unwrap();
    let error = found.settings::<u32>().unwrap_err().to_string();
    assert!(error.contains("the settings in"), "{error}");
    let error = format!("{:#}", found.restore(other.variables(), &mut others).unwrap_err());
    assert!(error.contains("step-00000002 is of another model"), "{error}");
    assert_eq!(bits(other.variables()), untouched);
    let found = checkpoint::load(folder.path()).unwrap();
    assert_eq!(found.restore(decoder.variables(), &mut optimizer).unwrap(), 2);
    assert_eq!(bits(decoder.variables()), before);
}

#[test]
fn a_save_that_fails_leaves_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let (decoder, optimizer) = start();
    let save = |path: &Path, step| {
        checkpoint::save(path, step, &(), decoder.variables(), &optimizer)
    };
    save(folder.path(), 1).unwrap();
    // A file stands where the next checkpoint would be.
    fs::write(folder.path().join("step-2"), "").unwrap();
    fs::write(folder.path().join(".saving-old-2"), "").unwrap();
    let error = format!("{:#}", save(folder.path(), 2).unwrap_err());
    assert!(error.contains("cannot save to"), "{error}");
    fs::remove_file(folder.path().join("step-2")).unwrap();
    assert_eq!(checkpoint::load(folder.path()).unwrap().step, 1);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(format!("{:#}", save(&file, 1).unwrap_err()).contains("cannot save to"));
}
