//! Our AdamW against Candle's, bit for bit, and its state.

use crate::{MODELS, numbers, read, tiny};
use candle_core::{DType, Device::Cpu, Tensor};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{
    gradients, lm::decoder::Decoder, log_prob, optim::AdamW, policy::Policy, seed,
    variables::Variables,
};

fn step(decoder: &Decoder, optimizer: &mut impl Optimizer, step: u32) {
    let tokens = Tensor::new(&[[1u32, 2, 3 + step % 2, 4, 1]], &Cpu).unwrap();
    let logits = decoder.logits(&tokens).unwrap();
    let scores = log_prob::completion(&logits, &tokens, 1, 1.0).unwrap();
    let loss = scores.log_probs.mean_all().unwrap().neg().unwrap();
    let mut gradients = gradients::of(&loss, decoder.variables()).unwrap();
    gradients::clip_norm(&mut gradients, decoder.variables(), 1.0).unwrap();
    optimizer.set_learning_rate(1e-2 / f64::from(step + 1));
    optimizer.step(&gradients).unwrap();
}

fn bits(variables: &Variables) -> Vec<u64> {
    variables.values().flat_map(|v| numbers(v)).map(f64::to_bits).collect()
}

fn settings() -> ParamsAdamW {
    ParamsAdamW { beta2: 0.99, weight_decay: 0.05, ..Default::default() }
}

#[test]
fn equal_to_candle_in_every_bit() {
    for model in MODELS {
        let (ours, candles) = (read(model, DType::F32), read(model, DType::F32));
        let mut optimizer = AdamW::new(ours.variables(), settings()).unwrap();
        let variables = candles.variables().values().cloned().collect();
        let mut reference = candle_nn::AdamW::new(variables, settings()).unwrap();
        let unnamed = read(model, DType::F32);
        let variables = unnamed.variables().values().cloned().collect();
        let mut nameless = <AdamW as Optimizer>::new(variables, settings()).unwrap();
        for i in 0..5 {
            step(&ours, &mut optimizer, i);
            step(&candles, &mut reference, i);
            step(&unnamed, &mut nameless, i);
            assert_eq!(
                bits(ours.variables()),
                bits(candles.variables()),
                "{model} step {i}"
            );
            assert_eq!(
                bits(ours.variables()),
                bits(unnamed.variables()),
                "{model} step {i}"
            );
        }
    }
}

#[test]
fn a_restored_state_goes_on_in_the_same_bits_and_a_fresh_one_does_not() {
    let fresh =
        || Decoder::new(&tiny("qwen2"), &mut seed::rng(3), DType::F32, &Cpu).unwrap();
    let whole = fresh();
    let mut optimizer = AdamW::new(whole.variables(), settings()).unwrap();
    (0..3).for_each(|i| step(&whole, &mut optimizer, i));
    let (copy, weights_only) = (whole.frozen().unwrap(), whole.frozen().unwrap());
    let mut restored = AdamW::new(copy.variables(), settings()).unwrap();
    restored.restore(optimizer.state(), optimizer.steps()).unwrap();
    let mut forgetful = AdamW::new(weights_only.variables(), settings()).unwrap();
    for i in 3..6 {
        step(&whole, &mut optimizer, i);
        step(&copy, &mut restored, i);
        step(&weights_only, &mut forgetful, i);
    }
    assert_eq!(bits(whole.variables()), bits(copy.variables()));
    assert_ne!(bits(whole.variables()), bits(weights_only.variables()));
}

#[test]
fn a_foreign_state_is_refused() {
    let decoder =
        Decoder::new(&tiny("llama"), &mut seed::rng(3), DType::F32, &Cpu).unwrap();
    let mut optimizer = AdamW::new(decoder.variables(), settings()).unwrap();
    let good = optimizer.state();
    let mut refusal = |change: &dyn Fn(&mut std::collections::BTreeMap<String, Tensor>)| {
        let mut state = good.clone();
        change(&mut state);
        optimizer.restore(state, 1).unwrap_err().to_string()
    };
    let norm = "v.model.norm.weight";
    let says = refusal(&|state| drop(state.remove(norm)));
    assert_eq!(says, format!("there is no {norm}"));
    let wider = Tensor::zeros(9, DType::F32, &Cpu).unwrap();
    let says = refusal(&|state| drop(state.insert(norm.to_string(), wider.clone())));
    assert_eq!(says, format!("{norm} is [9] F32; it must be [8] F32"));
    let says = refusal(&|state| drop(state.insert("m.other".to_string(), wider.clone())));
    assert_eq!(says, "m.other belongs to no variable");
    assert_eq!(optimizer.steps(), 0);
    for (settings, says) in [
        (
            ParamsAdamW { beta1: 1.0, ..settings() },
            "beta1 is 1; it must be from 0 to below 1",
        ),
        (ParamsAdamW { lr: f64::NAN, ..settings() }, "lr is NaN; it must be at least 0"),
        (ParamsAdamW { eps: 0.0, ..settings() }, "eps is 0; it must be above 0"),
    ] {
        let error = AdamW::new(decoder.variables(), settings).err().unwrap().to_string();
        assert_eq!(error, says);
    }
}
