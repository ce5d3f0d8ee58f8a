//! Adapters: exact gradients, a frozen base, merging, and the file format of PEFT.

use crate::{MODELS, floats, numbers, path, read, rows, tiny, worst};
use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{
    gradients,
    lm::{
        config::Config,
        decoder::Decoder,
        folder,
        generate::{self, Streams, generate},
        lora::{Lora, Settings},
        peft,
    },
    log_prob,
    optim::AdamW,
    policy::Policy,
    sampling::Sampler,
    seed,
    variables::Variables,
};
use serde_json::{Value, json};

fn settings(targets: &[&str]) -> Settings {
    let targets = targets.iter().map(|name| name.to_string()).collect();
    Settings { rank: 3, alpha: 5.0, targets }
}

const ALL: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Adapters with numbers in B, too, so that they say something.
fn loud(targets: &[&str], config: &Config, dtype: DType) -> Lora {
    let mut rng = seed::rng(8);
    let lora = Lora::new(settings(targets), config, &mut rng, dtype, &Cpu).unwrap();
    for variable in lora.variables().values() {
        let values = seed::normal(&mut rng, variable.dims(), 0.3, dtype, &Cpu).unwrap();
        variable.set(&values).unwrap();
    }
    lora
}

fn base(model: &str, dtype: DType) -> Decoder {
    Decoder::new(&tiny(model), &mut seed::rng(3), dtype, &Cpu).unwrap()
}

fn values(variables: &Variables) -> Vec<f64> {
    variables.values().flat_map(|variable| numbers(variable)).collect()
}

fn tokens() -> Tensor {
    Tensor::new(&[[1u32, 2, 3, 4, 5], [6, 5, 4, 3, 2]], &Cpu).unwrap()
}

#[test]
fn gradients_equal_finite_differences_and_the_base_gets_none() {
    let prompts = Tensor::new(&[[6u32, 2, 3], [1, 4, 4]], &Cpu).unwrap();
    let prompt_mask = Tensor::new(&[[0u8, 1, 1], [1, 1, 1]], &Cpu).unwrap();
    let answers = Tensor::new(&[[5u32, 0], [2, 6]], &Cpu).unwrap();
    for model in MODELS {
        let base = base(model, DType::F64);
        let policy = base.adapted(loud(&ALL, base.config(), DType::F64)).unwrap();
        assert_eq!(policy.variables().len(), 2 * 2 * ALL.len());
        let loss = || {
            let scores = policy.score(&prompts, Some(&prompt_mask), &answers, 0.8)?;
            Ok(scores.log_probs.sum_all()?)
        };
        let gradients = gradients::of(&loss().unwrap(), policy.variables()).unwrap();
        let differences =
            gradients::finite_differences(policy.variables(), 1e-5, loss).unwrap();
        for (name, variable) in policy.variables() {
            let gradient = numbers(gradients.get(variable).unwrap());
            let error = worst(&gradient, &differences[name]);
            assert!(error < 1e-7, "{model} {name}: {error}");
            assert!(gradient.iter().any(|g| *g != 0.0), "{model} {name} is all 0");
        }
        for (name, weight) in base.variables() {
            assert!(gradients.get(weight).is_none(), "{model} {name} has a gradient");
        }
    }
}

#[test]
fn only_the_adapters_learn_and_they_start_as_nothing() {
    let base = base("qwen2", DType::F32);
    let (mut rng, config) = (seed::rng(1), base.config());
    let lora = Lora::new(settings(&ALL), config, &mut rng, DType::F32, &Cpu).unwrap();
    let policy = base.adapted(lora).unwrap();
    let before = numbers(&base.logits(&tokens()).unwrap());
    assert_eq!(before, numbers(&policy.logits(&tokens()).unwrap()));
    let weights = values(base.weights());
    let adam = ParamsAdamW { lr: 1e-2, ..Default::default() };
    let mut optimizer = AdamW::new(policy.variables(), adam).unwrap();
    for _ in 0..2 {
        let loss = policy.logits(&tokens()).unwrap().sqr().unwrap().sum_all().unwrap();
        optimizer.step(&gradients::of(&loss, policy.variables()).unwrap()).unwrap();
    }
    assert_eq!(weights, values(base.weights()));
    assert_eq!(before, numbers(&base.logits(&tokens()).unwrap()));
    assert!(worst(&before, &numbers(&policy.logits(&tokens()).unwrap())) > 1e-3);
}

#[test]
fn samples_come_from_the_adapted_policy_and_score_the_same() {
    let prompts = vec![vec![1, 2, 3], vec![4, 5]];
    let settings = generate::Settings {
        group_size: 4,
        max_tokens: 6,
        sampler: Sampler::at(0.9),
        stop: vec![0],
        pad: 0,
        shards: 1,
    };
    let streams = Streams { seed: 2, step: 0, first_prompt: 0 };
    for model in MODELS {
        let base = base(model, DType::F32);
        let policy = base.adapted(loud(&ALL, base.config(), DType::F32)).unwrap();
        let sampled = generate(&policy, &prompts, &settings, streams).unwrap();
        let score = |decoder: &Decoder| {
            let mask = sampled.prompt_mask.as_ref();
            let scores = decoder.score(&sampled.prompts, mask, &sampled.tokens, 0.9);
            let kept = grpo::mask::keep(&scores.unwrap().log_probs, &sampled.mask).unwrap();
            worst(&numbers(&kept), &numbers(&sampled.log_probs))
        };
        assert!(score(&policy) < 1e-4, "{model}: {}", score(&policy));
        assert!(score(&policy.frozen().unwrap()) < 1e-4, "{model}");
        assert!(score(&base) > 1e-2, "{model}: {}", score(&base));
    }
}

#[test]
fn merged_weights_compute_the_same_and_come_back() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        for model in MODELS {
            let base = base(model, dtype);
            let lora = loud(&["q_proj", "down_proj"], base.config(), dtype);
            let policy = base.adapted(lora.clone()).unwrap();
            let adapted = numbers(&policy.logits(&tokens()).unwrap());
            let before =
                (values(base.weights()), numbers(&base.logits(&tokens()).unwrap()));
            lora.merge(base.weights()).unwrap();
            let merged = numbers(&base.logits(&tokens()).unwrap());
            assert!(worst(&adapted, &merged) < tolerance, "{model}");
            lora.unmerge(base.weights()).unwrap();
            assert!(worst(&values(base.weights()), &before.0) < 1e-6, "{model}");
            assert!(worst(&numbers(&base.logits(&tokens()).unwrap()), &before.1) < 1e-5);
            assert!(worst(&adapted, &before.1) > 1e-2, "{model}: nothing was merged");
        }
    }
}

#[test]
fn a_frozen_copy_is_merged_and_stays() {
    let base = base("llama", DType::F32);
    let policy = base.adapted(loud(&ALL, base.config(), DType::F32)).unwrap();
    let frozen = policy.frozen().unwrap();
    assert!(frozen.lora().is_none());
    let adapted = numbers(&policy.logits(&tokens()).unwrap());
    for variable in policy.variables().values() {
        variable.set(&variable.zeros_like().unwrap()).unwrap();
    }
    assert!(worst(&adapted, &numbers(&frozen.logits(&tokens()).unwrap())) < 1e-5);
    assert!(worst(&adapted, &numbers(&policy.logits(&tokens()).unwrap())) > 1e-2);
}

#[test]
fn what_is_written_is_read_back_and_has_the_names_of_peft() {
    let base = base("qwen3", DType::F32);
    let lora = loud(&["v_proj", "q_proj"], base.config(), DType::F32);
    let folder = tempfile::tempdir().unwrap();
    peft::write(&lora, "some/model", folder.path()).unwrap();
    let back = peft::read(folder.path(), base.config(), DType::F32, &Cpu).unwrap();
    assert_eq!(back.settings(), lora.settings());
    for (name, variable) in lora.variables() {
        assert_eq!(numbers(variable), numbers(&back.variables()[name]), "{name}");
    }
    let bytes = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let a = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    assert_eq!(tensors.tensor(a).unwrap().shape(), [3, 8]);
    let b = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    assert_eq!(tensors.tensor(b).unwrap().shape(), [8, 3]);
    assert_eq!(tensors.len(), 2 * 2 * 2);
}

/// `tiny-qwen2-lora` was made by PEFT: r 4, α 10, random A and B, in double precision.
#[test]
fn an_adapter_of_peft_computes_the_same_here() {
    let fixture = path("qwen2-lora");
    let text = std::fs::read_to_string(fixture.join("parity.json")).unwrap();
    let oracle: Value = serde_json::from_str(&text).unwrap();
    let tokens = rows(&oracle["ids"]);
    for (dtype, tolerance) in [(DType::F64, 5e-6), (DType::F32, 2e-5)] {
        let base = read("qwen2", dtype);
        let lora = peft::read(&fixture, base.config(), dtype, &Cpu).unwrap();
        let policy = base.adapted(lora).unwrap();
        let logits = policy.logits(&tokens).unwrap();
        let last = logits.narrow(1, tokens.dim(1).unwrap() - 1, 1).unwrap();
        let error = worst(&numbers(&last), &floats(&oracle["last_logits"]));
        assert!(error < tolerance, "{dtype:?}: {error:.1e}");
        let scores = log_prob::completion(&logits, &tokens, 1, 1.0).unwrap();
        let error = worst(&numbers(&scores.log_probs), &floats(&oracle["token_logps"]));
        assert!(error < tolerance, "{dtype:?}: {error:.1e}");
        let loss = scores.log_probs.sum_all().unwrap();
        let gradients = gradients::of(&loss, policy.variables()).unwrap();
        for (name, variable) in policy.variables() {
            let ours = numbers(gradients.get(variable).unwrap());
            let norm = ours.iter().map(|g| g * g).sum::<f64>().sqrt();
            let theirs = oracle["gradient_norm"][name].as_f64().unwrap();
            let head = floats(&oracle["gradient_head"][name]);
            let error = worst(&[norm], &[theirs]).max(worst(&ours[..head.len()], &head));
            assert!(error < 10.0 * tolerance, "{dtype:?} {name}: {error:.1e}");
        }
        assert_eq!(oracle["gradient_norm"].as_object().unwrap().len(), 12);
    }
}

#[test]
fn a_wrong_adapter_is_refused_by_name() {
    let base = base("llama", DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let refusal = || {
        let read = peft::read(folder.path(), base.config(), DType::F32, &Cpu);
        format!("{:#}", read.err().unwrap())
    };
    assert!(refusal().contains("cannot read") && refusal().contains("adapter_config.json"));
    let lora = loud(&["q_proj"], base.config(), DType::F32);
    peft::write(&lora, "some/model", folder.path()).unwrap();
    let config = folder.path().join("adapter_config.json");
    let good: Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    for (key, value, says) in [
        ("peft_type", json!("IA3"), "peft_type is `IA3`; only LORA"),
        ("r", json!(0), "rank is 0; it must be at least 1"),
        ("r", json!(4), "q_proj.lora_A.weight is [3, 8]; it must be [4, 8]"),
        ("lora_alpha", json!(-1.0), "alpha is -1; it must be above 0"),
        ("use_rslora", json!(true), "use_rslora is true; this is not supported"),
        ("use_dora", json!(true), "use_dora is true"),
        ("init_lora_weights", json!("pissa"), "init_lora_weights is \"pissa\""),
        ("something_new", json!(3), "something_new is 3; this is not supported"),
        ("rank_pattern", json!({"q_proj": 8}), "rank_pattern is {\"q_proj\":8}"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save is [\"lm_head\"]"),
        ("bias", json!("all"), "bias is `all`; only none"),
        ("target_modules", json!("all-linear"), "it must be a list of names"),
        ("target_modules", json!([]), "there are no targets"),
        ("target_modules", json!(["qproj"]), "there is no layer `qproj` to adapt"),
        ("target_modules", json!(["q_proj", "v_proj"]), "there is no model.layers.0."),
        ("target_modules", json!(["v_proj"]), "there is no model.layers.0.self_attn.v"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        std::fs::write(&config, bad.to_string()).unwrap();
        assert!(refusal().contains(says), "{key}: {}", refusal());
    }
    std::fs::write(&config, good.to_string()).unwrap();
    let weights = folder.path().join("adapter_model.safetensors");
    std::fs::write(&weights, "no").unwrap();
    assert!(refusal().contains("adapter_model.safetensors: not a safetensors file"));
    let foreign = [("q_proj.lora_A.weight", lora.variables().values().next().unwrap())];
    let foreign = foreign.map(|(name, variable)| (name, variable.as_tensor()));
    safetensors::serialize_to_file(foreign, None, &weights).unwrap();
    assert!(refusal().contains("does not begin with base_model.model."), "{}", refusal());

    let other = Config { hidden_size: 16, head_dim: 4, ..tiny("llama") };
    let error = base.adapted(loud(&["q_proj"], &other, DType::F32)).err().unwrap();
    assert!(error.to_string().contains("lora_A.weight is [3, 16]; it must be [3, 8]"));
    let error = base.adapted(loud(&["q_proj"], base.config(), DType::F64)).err().unwrap();
    assert!(error.to_string().contains("is F64; the weights are F32"), "{error}");
    let policy = base.adapted(lora.clone()).unwrap();
    let error = policy.adapted(lora).err().unwrap().to_string();
    assert!(error.contains("merge them first"), "{error}");
    let error = folder::write(&policy, folder.path()).err().unwrap().to_string();
    assert!(error.contains("this decoder has adapters"), "{error}");
}
