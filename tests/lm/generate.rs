//! Sampling: what transformers continues greedily, what the scorer says of every token,
//! and that no completion depends on its neighbours.

use crate::{MODELS, ids, numbers, oracle, read, tiny, worst};
use candle_core::{DType, Device::Cpu, Tensor};
use grpo::{
    gradients,
    lm::{
        decoder::Decoder,
        generate::{Completions, Settings, Streams, generate},
    },
    mask,
    policy::Policy,
    sampling::Sampler,
    seed,
};

fn settings(
    group_size: usize,
    max_tokens: usize,
    sampler: Sampler,
    stop: &[u32],
) -> Settings {
    Settings { group_size, max_tokens, sampler, stop: stop.to_vec(), pad: 0, shards: 1 }
}

fn streams(seed: u64) -> Streams {
    Streams { seed, step: 3, first_prompt: 0 }
}

/// Random prompts of three lengths for the tiny fixtures.
fn prompts() -> Vec<Vec<u32>> {
    vec![vec![289, 267, 223, 19, 20, 223], vec![13], vec![25, 33, 288]]
}

#[test]
fn greedy_continuations_equal_transformers_in_one_padded_batch() {
    for model in MODELS {
        let oracle = oracle(model);
        let cases = oracle["greedy"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> =
            cases.iter().map(|case| ids(&case["prompt"])).collect();
        let length = cases.iter().map(|case| ids(&case["new"]).len()).max().unwrap();
        let decoder = read(model, DType::F32);
        let stop = decoder.config().eos.clone();
        let settings = settings(2, length, Sampler::greedy(), &stop);
        let sampled = generate(&decoder, &prompts, &settings, streams(0)).unwrap();
        assert!(sampled.prompt_mask.is_some(), "the prompts should differ in length");
        for (row, got) in sampled.ids().unwrap().into_iter().enumerate() {
            let case = &cases[row / 2];
            assert_eq!(got, ids(&case["new"]), "{model} row {row}");
            assert_eq!(sampled.truncated[row], !case["stopped_on_eos"].as_bool().unwrap());
        }
    }
}

#[test]
fn the_scorer_reproduces_every_log_prob_at_the_same_temperature_only() {
    for model in MODELS {
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-10)] {
            let decoder = read(model, dtype);
            for sampler in [
                Sampler::at(0.7),
                Sampler { top_k: Some(20), top_p: Some(0.8), ..Sampler::at(0.7) },
            ] {
                // A tenth of the vocabulary stops: rows end at many lengths.
                let stop: Vec<u32> = (0..300).step_by(10).collect();
                let settings = settings(6, 12, sampler, &stop);
                let sampled =
                    generate(&decoder, &prompts(), &settings, streams(1)).unwrap();
                let error = |temperature: f64| {
                    let mask = sampled.prompt_mask.as_ref();
                    let scores =
                        decoder.score(&sampled.prompts, mask, &sampled.tokens, temperature);
                    let kept =
                        mask::keep(&scores.unwrap().log_probs, &sampled.mask).unwrap();
                    worst(&numbers(&kept), &numbers(&sampled.log_probs))
                };
                assert!(error(0.7) < tolerance, "{model} {dtype:?}: {}", error(0.7));
                assert!(error(1.0) > 0.01, "{model} {dtype:?}: {}", error(1.0));
            }
        }
    }
}

/// Real checkpoints come in half precision. Padding must not become infinite there.
#[test]
fn half_precision_weights_sample_and_train() {
    for model in MODELS {
        let (half, single) = (read(model, DType::F16), read(model, DType::F32));
        let settings = settings(3, 8, Sampler::at(1.0), &[2]);
        let sampled = generate(&half, &prompts(), &settings, streams(1)).unwrap();
        assert_eq!(sampled.log_probs.dtype(), DType::F32);
        let score = |decoder: &Decoder| {
            let mask = sampled.prompt_mask.as_ref();
            let scores =
                decoder.score(&sampled.prompts, mask, &sampled.tokens, 1.0).unwrap();
            assert_eq!(scores.log_probs.dtype(), DType::F32);
            mask::keep(&scores.log_probs, &sampled.mask).unwrap()
        };
        let scores = score(&half);
        let error = worst(&numbers(&scores), &numbers(&sampled.log_probs));
        assert!(error < 0.05, "{model} the scorer: {error}");
        let error = worst(&numbers(&scores), &numbers(&score(&single)));
        assert!(error < 0.05, "{model} single precision: {error}");
        let gradients =
            gradients::of(&scores.mean_all().unwrap(), half.variables()).unwrap();
        assert!(gradients::norm(&gradients, half.variables()).unwrap().is_finite());
    }
}

#[test]
fn a_completion_does_not_depend_on_its_neighbours() {
    for model in MODELS {
        let decoder = read(model, DType::F64);
        let settings = settings(4, 10, Sampler::at(1.0), &[2]);
        let together = generate(&decoder, &prompts(), &settings, streams(5)).unwrap();
        let together = together.ids().unwrap();
        for (index, prompt) in prompts().into_iter().enumerate() {
            let streams = Streams { first_prompt: index as u64, ..streams(5) };
            let alone = generate(&decoder, &[prompt], &settings, streams).unwrap();
            assert!(alone.prompt_mask.is_none());
            assert_eq!(alone.ids().unwrap(), together[4 * index..4 * index + 4], "{model}");
        }
        let other_step = Streams { step: 4, ..streams(5) };
        let other = generate(&decoder, &prompts(), &settings, other_step).unwrap();
        assert_ne!(other.ids().unwrap(), together);
        for group in together.chunks(4) {
            assert!(
                group.iter().any(|row| *row != group[0]),
                "a group of equal completions"
            );
        }
    }
}

#[test]
fn stopping_only_cuts() {
    let decoder = read("qwen3", DType::F64);
    let stop: Vec<u32> = (0..300).step_by(7).collect();
    let run = |stop: &[u32]| -> Completions {
        generate(&decoder, &prompts(), &settings(8, 16, Sampler::at(1.0), stop), streams(2))
            .unwrap()
    };
    let (whole, cut) = (run(&[]), run(&stop));
    assert!(whole.truncated.iter().all(|cut| *cut));
    let mut lengths = std::collections::BTreeSet::new();
    for (row, (whole, got)) in
        whole.ids().unwrap().iter().zip(cut.ids().unwrap()).enumerate()
    {
        let end = whole.iter().position(|id| stop.contains(id));
        assert_eq!(got, whole[..end.map_or(16, |end| end + 1)], "row {row}");
        assert_eq!(cut.truncated[row], end.is_none());
        assert_eq!(cut.lengths[row], got.len());
        lengths.insert(got.len());
    }
    assert!(lengths.len() > 4, "rows should end at many lengths: {lengths:?}");
    assert_eq!(cut.tokens.dims()[1], *lengths.last().unwrap());
    let beyond = |x: &Tensor| {
        let off = cut.mask.eq(0u8).unwrap();
        numbers(&mask::keep(&x.to_dtype(DType::F64).unwrap(), &off).unwrap())
    };
    assert!(beyond(&cut.log_probs).iter().chain(&beyond(&cut.tokens)).all(|x| *x == 0.0));
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let decoder =
        Decoder::new(&tiny("llama"), &mut seed::rng(0), DType::F64, &Cpu).unwrap();
    for variable in decoder.variables().values() {
        variable.set(&(variable.as_tensor() * 3.0).unwrap()).unwrap();
    }
    let group = 20_000;
    let settings = settings(group, 1, Sampler::at(1.3), &[]);
    let sampled = generate(&decoder, &[vec![1, 2, 3]], &settings, streams(9)).unwrap();
    let mut counts = [0.0; 7];
    sampled.ids().unwrap().iter().for_each(|row| counts[row[0] as usize] += 1.0);
    let logits = decoder.logits(&Tensor::new(&[[1u32, 2, 3]], &Cpu).unwrap()).unwrap();
    let last = (logits.get(0).unwrap().get(2).unwrap() / 1.3).unwrap();
    for (id, p) in grpo::log_prob::probabilities(&last).unwrap().into_iter().enumerate() {
        let error = (counts[id] / group as f64 - p).abs();
        // Four standard errors.
        assert!(
            error < 4.0 * (p * (1.0 - p) / group as f64).sqrt(),
            "{id}: {p}, off {error}"
        );
    }
}

#[test]
fn sampling_follows_an_update() {
    let decoder = read("llama", DType::F32);
    let run = || {
        let settings = settings(1, 8, Sampler::greedy(), &[]);
        generate(&decoder, &prompts(), &settings, streams(0)).unwrap().ids().unwrap()
    };
    let before = run();
    let head = &decoder.variables()["lm_head.weight"];
    head.set(&head.neg().unwrap()).unwrap();
    assert_ne!(before, run());
}

#[test]
fn the_sampler_keeps_what_it_says() {
    let logits: Vec<f64> =
        [0.4, 0.1, 0.3, 0.05, 0.15].iter().map(|p: &f64| p.ln()).collect();
    let drawn = |sampler: Sampler| {
        let mut rng = seed::rng(1);
        let mut counts = [0u32; 5];
        for _ in 0..4000 {
            let (id, log_prob) = sampler.draw(&logits, &mut rng).unwrap();
            // Of the whole distribution, whatever was cut.
            let own: Vec<f64> =
                logits.iter().map(|l| (l / sampler.temperature).exp()).collect();
            let expected = (own[id as usize] / own.iter().sum::<f64>()).ln();
            assert!((log_prob - expected).abs() < 1e-12);
            counts[id as usize] += 1;
        }
        counts
    };
    let kept = |sampler: Sampler| drawn(sampler).map(|count| count > 0);
    let all = Sampler::at(1.0);
    assert_eq!(kept(all), [true; 5]);
    assert_eq!(kept(Sampler::greedy()), [true, false, false, false, false]);
    assert_eq!(kept(Sampler { top_k: Some(3), ..all }), [true, false, true, false, true]);
    assert_eq!(kept(Sampler { top_k: Some(9), ..all }), [true; 5]);
    // .4 + .3 = .7 reaches .65 and does not reach .75.
    assert_eq!(
        kept(Sampler { top_p: Some(0.65), ..all }),
        [true, false, true, false, false]
    );
    assert_eq!(
        kept(Sampler { top_p: Some(0.75), ..all }),
        [true, false, true, false, true]
    );
    assert_eq!(
        kept(Sampler { top_p: Some(0.01), ..all }),
        [true, false, false, false, false]
    );
    // Of the two kept by k, the first alone has .57 of their probability.
    let both = Sampler { top_k: Some(2), top_p: Some(0.5), ..all };
    assert_eq!(kept(both), [true, false, false, false, false]);
    let [first, _, third, ..] = drawn(Sampler { top_k: Some(2), ..all });
    assert!((f64::from(first) / f64::from(first + third) - 4.0 / 7.0).abs() < 0.04);
    let mut rng = seed::rng(0);
    for (sampler, says) in [
        (Sampler::at(0.0), "temperature is 0; it must be above 0"),
        (Sampler { top_k: Some(0), ..all }, "top_k is 0; it must be at least 1"),
        (
            Sampler { top_p: Some(1.5), ..all },
            "top_p is 1.5; it must be above 0 and at most 1",
        ),
    ] {
        assert_eq!(sampler.draw(&logits, &mut rng).unwrap_err().to_string(), says);
    }
    let error = all.draw(&[0.0, f64::NAN], &mut rng).unwrap_err().to_string();
    assert_eq!(error, "logit 1 is not a number to draw by");
    assert_eq!(all.draw(&[f64::NEG_INFINITY, 0.0], &mut rng).unwrap(), (1, 0.0));
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let decoder =
        Decoder::new(&tiny("qwen2"), &mut seed::rng(0), DType::F32, &Cpu).unwrap();
    let good = settings(2, 4, Sampler::at(1.0), &[0]);
    let refusal = |prompts: &[Vec<u32>], settings: &Settings| {
        format!("{:#}", generate(&decoder, prompts, settings, streams(0)).unwrap_err())
    };
    let one = [vec![1, 2]];
    for (settings, says) in [
        (
            Settings { group_size: 0, ..good.clone() },
            "group_size is 0; it must be at least 1",
        ),
        (
            Settings { max_tokens: 0, ..good.clone() },
            "max_tokens is 0; it must be at least 1",
        ),
        (
            Settings { max_tokens: 11, ..good.clone() },
            "a prompt of 2 tokens and 11 new ones do not fit the context of 12",
        ),
        (
            Settings { pad: 7, ..good.clone() },
            "pad is the token 7; the vocabulary has 0 to 6",
        ),
        (
            Settings { stop: vec![9], ..good.clone() },
            "stop is the token 9; the vocabulary has 0 to 6",
        ),
    ] {
        assert_eq!(refusal(&one, &settings), says);
    }
    assert_eq!(refusal(&[], &good), "there are no prompts");
    assert_eq!(
        refusal(&[vec![1], vec![]], &good),
        "prompt 1 has no tokens; it must have at least 1"
    );
    assert_eq!(refusal(&[vec![8]], &good), "there is a token 8; the vocabulary has 0 to 6");
    generate(&decoder, &one, &Settings { max_tokens: 10, ..good }, streams(0)).unwrap();
}
