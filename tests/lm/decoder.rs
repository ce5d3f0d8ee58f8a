//! What must hold of every decoder: exact gradients, no look ahead, clear refusals.

use crate::{MODELS, numbers, oracle, path, read, tiny, worst};
use candle_core::{DType, Device::Cpu, Tensor};
use grpo::{
    gradients,
    lm::{config::Config, decoder::Decoder, folder},
    log_prob,
    policy::Policy,
    seed,
    variables::Variables,
};
use serde_json::{Value, json};

fn fresh(model: &str, dtype: DType) -> Decoder {
    Decoder::new(&tiny(model), &mut seed::rng(3), dtype, &Cpu).unwrap()
}

#[test]
fn gradients_equal_finite_differences_with_padding() {
    let prompts = Tensor::new(&[[6u32, 2, 3], [1, 4, 4]], &Cpu).unwrap();
    let prompt_mask = Tensor::new(&[[0u8, 1, 1], [1, 1, 1]], &Cpu).unwrap();
    let tokens = Tensor::new(&[[5u32, 0], [2, 6]], &Cpu).unwrap();
    for model in MODELS {
        let decoder = fresh(model, DType::F64);
        // Large numbers everywhere, also where fresh weights are 0 or 1.
        let mut rng = seed::rng(4);
        for variable in decoder.variables().values() {
            let values =
                seed::normal(&mut rng, variable.dims(), 0.5, DType::F64, &Cpu).unwrap();
            variable.set(&values).unwrap();
        }
        let loss = || {
            let scores = decoder.score(&prompts, Some(&prompt_mask), &tokens, 0.8)?;
            Ok(scores.log_probs.sum_all()?)
        };
        let gradients = gradients::of(&loss().unwrap(), decoder.variables()).unwrap();
        let differences =
            gradients::finite_differences(decoder.variables(), 1e-5, loss).unwrap();
        for (name, variable) in decoder.variables() {
            let gradient = numbers(gradients.get(variable).unwrap());
            let error = worst(&gradient, &differences[name]);
            assert!(error < 1e-7, "{model} {name}: {error}");
            assert!(gradient.iter().any(|g| *g != 0.0), "{model} {name} is all 0");
        }
    }
}

#[test]
fn scores_equal_those_of_the_full_logits() {
    for model in MODELS {
        let decoder = fresh(model, DType::F64);
        let sequences = Tensor::new(&[[1u32, 2, 3, 4, 5], [6, 5, 4, 3, 2]], &Cpu).unwrap();
        let (prompts, tokens) =
            (sequences.narrow(1, 0, 2).unwrap(), sequences.narrow(1, 2, 3).unwrap());
        let logits = decoder.logits(&sequences).unwrap();
        let full = log_prob::completion(&logits, &sequences, 2, 0.7).unwrap();
        let short = decoder.score(&prompts, None, &tokens, 0.7).unwrap();
        let error = worst(&numbers(&full.log_probs), &numbers(&short.log_probs));
        let (a, b) = (full.entropy.unwrap(), short.entropy.unwrap());
        assert!(error.max(worst(&numbers(&a), &numbers(&b))) < 1e-12, "{model}: {error}");
    }
}

#[test]
fn no_token_sees_padding_or_the_future() {
    for model in MODELS {
        let decoder = fresh(model, DType::F64);
        let mask = Tensor::new(&[[0u8, 1, 1, 1]], &Cpu).unwrap();
        let logits = |tokens: [u32; 4]| {
            let tokens = Tensor::new(&[tokens], &Cpu).unwrap();
            let logits = decoder.masked_logits(&tokens, Some(&mask)).unwrap();
            numbers(&logits.narrow(1, 1, 2).unwrap())
        };
        let base = logits([0, 1, 2, 3]);
        assert_eq!(base, logits([5, 1, 2, 6]), "{model}");
        assert_ne!(base, logits([0, 4, 2, 3]), "{model}");
    }
}

#[test]
fn a_frozen_copy_stays_and_a_seed_gives_the_same_weights() {
    let decoder = fresh("llama", DType::F32);
    let frozen = decoder.frozen().unwrap();
    let values = |variables: &Variables| -> Vec<f64> {
        variables.values().flat_map(|v| numbers(v)).collect()
    };
    let before = values(decoder.variables());
    assert_eq!(before, values(fresh("llama", DType::F32).variables()));
    for variable in decoder.variables().values() {
        variable.set(&variable.ones_like().unwrap()).unwrap();
    }
    assert_eq!(before, values(frozen.variables()));
}

#[test]
fn what_is_written_is_read_back() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let decoder = fresh(model, DType::F32);
        folder::write(&decoder, folder.path()).unwrap();
        let back = folder::read(folder.path(), DType::F32, &Cpu).unwrap();
        assert_eq!(back.config(), decoder.config());
        for (name, variable) in decoder.variables() {
            assert_eq!(numbers(variable), numbers(&back.variables()[name]), "{name}");
        }
    }
}

#[test]
fn shards_give_the_same_model() {
    let whole = read("qwen3", DType::F32);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("qwen3").join("config.json"), folder.path().join("config.json"))
        .unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [Vec::new(), Vec::new()];
    for (index, (name, variable)) in whole.variables().iter().enumerate() {
        shards[index % 2].push((name, variable.as_tensor()));
        map.insert(name.clone(), json!(format!("part-{}.safetensors", index % 2)));
    }
    for (index, shard) in shards.into_iter().enumerate() {
        let file = folder.path().join(format!("part-{index}.safetensors"));
        safetensors::serialize_to_file(shard, None, &file).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, Value>| {
        std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    let sharded = folder::read(folder.path(), DType::F32, &Cpu).unwrap();
    for (name, variable) in whole.variables() {
        assert_eq!(numbers(variable), numbers(&sharded.variables()[name]), "{name}");
    }
    let refusal =
        || format!("{:#}", folder::read(folder.path(), DType::F32, &Cpu).err().unwrap());
    map.insert("model.norm.weight".into(), json!("../part-0.safetensors"));
    write(&map);
    assert!(refusal().contains("it must be in a file of this folder"), "{}", refusal());
    map.insert("model.norm.weight".into(), json!("part-7.safetensors"));
    write(&map);
    assert!(refusal().contains("cannot read") && refusal().contains("part-7.safetensors"));
    map.remove("model.norm.weight");
    write(&map);
    assert!(
        refusal().contains("1 tensors are missing, the first is model.norm.weight [64]")
    );
}

#[test]
fn a_wrong_file_is_refused_with_its_name_the_tensor_and_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let refusal =
        || format!("{:#}", folder::read(folder.path(), DType::F32, &Cpu).err().unwrap());
    assert!(refusal().contains("cannot read") && refusal().contains("config.json"));
    let config = std::fs::read_to_string(path("llama").join("config.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), &config).unwrap();
    assert!(
        refusal().contains("neither model.safetensors nor model.safetensors.index.json")
    );
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(path("llama").join("model.safetensors")).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        refusal().contains("model.safetensors: not a safetensors file"),
        "{}",
        refusal()
    );
    std::fs::write(&weights, &bytes).unwrap();
    let narrow = config.replace("\"intermediate_size\": 128", "\"intermediate_size\": 96");
    std::fs::write(folder.path().join("config.json"), narrow).unwrap();
    let error = refusal();
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(
        error.contains("mlp") && error.contains("by config.json it must be"),
        "{error}"
    );
    assert!(error.contains("128") && error.contains("96"), "{error}");
    std::fs::write(folder.path().join("config.json"), config.replace("llama", "qwen2"))
        .unwrap();
    assert!(
        refusal().contains("tensors are missing") && refusal().contains("k_proj.bias [32]")
    );
}

#[test]
fn what_the_decoder_cannot_do_is_refused() {
    let text = std::fs::read_to_string(path("llama").join("config.json")).unwrap();
    let good: Value = serde_json::from_str(&text).unwrap();
    Config::parse(&text).unwrap();
    for (key, value, says) in [
        ("model_type", json!("gemma3"), "model_type is `gemma3`; it must be llama"),
        ("hidden_act", json!("gelu"), "hidden_act is `gelu`"),
        ("attention_bias", json!(true), "attention_bias is true"),
        ("mlp_bias", json!(true), "mlp_bias is true"),
        ("use_sliding_window", json!(true), "use_sliding_window is true"),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "`llama3`"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "`linear`"),
        ("rope_parameters", json!({"rope_type": "yarn"}), "`yarn`"),
        ("rope_parameters", json!({"rope_theta": 5.0}), "rope_theta is 10000, and 5"),
        ("num_key_value_heads", json!(3), "the first must be a multiple of the second"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("head_dim", json!(15), "head_dim is 15; it must be even"),
        ("rms_norm_eps", json!("small"), "invalid type"),
        ("layer_types", json!(["sliding_attention"]), "only full_attention"),
        ("quantization_config", json!({"bits": 4}), "quantised"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let error = format!("{:#}", Config::parse(&bad.to_string()).unwrap_err());
        assert!(error.contains(says), "{key}: {error}");
    }
}

#[test]
fn wrong_tokens_are_refused() {
    let decoder = fresh("qwen2", DType::F32);
    let refusal = |tokens: Tensor| decoder.logits(&tokens).unwrap_err().to_string();
    let says = refusal(Tensor::new(&[[1u32, 7]], &Cpu).unwrap());
    assert_eq!(says, "there is a token 7; the vocabulary has 0 to 6");
    let says = refusal(Tensor::zeros((1, 13), DType::U32, &Cpu).unwrap());
    assert_eq!(says, "13 tokens do not fit the context of 12");
    let says = refusal(Tensor::zeros((1, 2), DType::F32, &Cpu).unwrap());
    assert!(says.contains("it must be U32"), "{says}");
    assert!(
        refusal(Tensor::zeros(2, DType::U32, &Cpu).unwrap()).contains("must be (B, T)")
    );
    let mask = Tensor::ones((1, 3), DType::U8, &Cpu).unwrap();
    let tokens = Tensor::zeros((1, 2), DType::U32, &Cpu).unwrap();
    let error = decoder.masked_logits(&tokens, Some(&mask)).unwrap_err().to_string();
    assert_eq!(error, "mask is [1, 3] and must be [1, 2], one number a token");
}

#[test]
fn the_fixtures_say_what_they_are() {
    for model in MODELS {
        assert_eq!(oracle(model)["model"], format!("tiny-{model}"));
    }
}
