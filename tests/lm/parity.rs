//! Numbers of transformers 5.23 on three random checkpoints.

use crate::{MODELS, floats, ids, numbers, oracle, read, row, rows, worst};
use candle_core::{D, DType};
use candle_nn::{Optimizer, ParamsAdamW};
use grpo::{gradients, log_prob, optim::AdamW, policy::Policy};

/// Double precision, then single, and how far off a number may be, relative to its size
/// where that is above 1. The oracle is in double precision apart from norms and rotary
/// angles; in single precision transformers itself is 0.8e-5 to 1.1e-5 away from it.
const PRECISIONS: [(DType, f64); 2] = [(DType::F64, 5e-6), (DType::F32, 1e-5)];

#[test]
fn logits_log_probs_and_entropies() {
    for model in MODELS {
        let oracle = oracle(model);
        for (dtype, tolerance) in PRECISIONS {
            let decoder = read(model, dtype);
            for case in oracle["forward"].as_array().unwrap() {
                let tokens = row(&ids(&case["ids"]));
                let logits = decoder.logits(&tokens).unwrap();
                let last = logits.narrow(1, tokens.dim(1).unwrap() - 1, 1).unwrap();
                let mut checks = vec![
                    ("last logits", numbers(&last), floats(&case["logits_last"])),
                    (
                        "entropy",
                        numbers(&log_prob::entropy(&logits, 1.0).unwrap()),
                        floats(&case["entropy"]),
                    ),
                    (
                        "log-probs",
                        numbers(
                            &log_prob::completion(&logits, &tokens, 1, 1.0)
                                .unwrap()
                                .log_probs,
                        ),
                        floats(&case["token_logps"]),
                    ),
                ];
                if let Some(all) = case.get("logits").filter(|all| all.is_array()) {
                    checks.push(("logits", numbers(&logits), floats(all)));
                }
                for (what, got, expected) in checks {
                    let error = worst(&got, &expected);
                    println!("{model} {dtype:?} {what}: {error:.2e}");
                    assert!(error < tolerance, "{model} {dtype:?} {what}: {error}");
                }
            }
        }
    }
}

#[test]
fn padded_batches_on_either_side() {
    for model in MODELS {
        let oracle = oracle(model);
        for (dtype, tolerance) in PRECISIONS {
            let decoder = read(model, dtype);
            for side in ["left", "right"] {
                let padded = &oracle["padded"][side];
                let (tokens, mask) = (rows(&padded["ids"]), rows(&padded["mask"]));
                // Without a mask rows padded on the right are as good.
                let masks = if side == "right" {
                    vec![Some(&mask), None]
                } else {
                    vec![Some(&mask)]
                };
                for given in masks {
                    let logits = decoder.masked_logits(&tokens, given).unwrap();
                    let scores = log_prob::completion(&logits, &tokens, 1, 1.0).unwrap();
                    for (row, case) in
                        oracle["forward"].as_array().unwrap().iter().enumerate()
                    {
                        let expected = floats(&case["token_logps"]);
                        let all = numbers(&scores.log_probs.get(row).unwrap());
                        let first =
                            if side == "left" { all.len() - expected.len() } else { 0 };
                        let error = worst(&all[first..first + expected.len()], &expected);
                        println!("{model} {dtype:?} {side}: {error:.2e}");
                        assert!(error < tolerance, "{model} {dtype:?} {side}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn greedy_continuations_without_a_cache() {
    for model in MODELS {
        let decoder = read(model, DType::F32);
        for case in oracle(model)["greedy"].as_array().unwrap() {
            let mut tokens = ids(&case["prompt"]);
            let expected = ids(&case["new"]);
            let prompt = tokens.len();
            for _ in 0..expected.len() {
                let logits = decoder.logits(&row(&tokens)).unwrap();
                let best =
                    logits.argmax(D::Minus1).unwrap().get(0).unwrap().to_vec1::<u32>();
                tokens.push(*best.unwrap().last().unwrap());
            }
            assert_eq!(tokens[prompt..], expected, "{model}");
        }
    }
}

#[test]
fn gradients_and_one_clipped_step() {
    for model in MODELS {
        let oracle = oracle(model);
        let expected = &oracle["grad"];
        let tokens = row(&ids(&oracle["forward"][0]["ids"]));
        for (dtype, tolerance) in PRECISIONS {
            let decoder = read(model, dtype);
            let loss = || {
                let logits = decoder.logits(&tokens).unwrap();
                let scores = log_prob::completion(&logits, &tokens, 5, 1.0).unwrap();
                scores.log_probs.mean_all().unwrap().neg().unwrap()
            };
            let close = |what: &str, got: f64, expected: f64| {
                // The norms of gradients reach 29: the tolerance is relative above 1.
                let error = (got - expected).abs() / expected.abs().max(1.0);
                assert!(
                    error < tolerance,
                    "{model} {dtype:?} {what}: {got} and {expected}"
                );
            };
            let before = loss();
            close("loss", numbers(&before)[0], expected["loss"].as_f64().unwrap());
            let mut gradients = gradients::of(&before, decoder.variables()).unwrap();
            let tensors = expected["per_tensor"].as_object().unwrap();
            assert_eq!(tensors.len(), decoder.variables().len());
            for (name, variable) in decoder.variables() {
                let gradient = numbers(gradients.get(variable).unwrap());
                let expected = &tensors[name];
                let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                close(name, norm, expected["norm"].as_f64().unwrap());
                // Thousands of rounding errors add up in a sum.
                let scale = (gradient.len() as f64).sqrt() / 10.0;
                let sum: f64 = gradient.iter().sum();
                close(
                    name,
                    sum / scale.max(1.0),
                    expected["sum"].as_f64().unwrap() / scale.max(1.0),
                );
                for (got, first) in gradient.iter().zip(floats(&expected["first"])) {
                    close(name, *got, first);
                }
            }
            let norm =
                gradients::clip_norm(&mut gradients, decoder.variables(), 1.0).unwrap();
            close("total norm", norm, expected["total_norm"].as_f64().unwrap());
            let mut optimizer =
                AdamW::new(decoder.variables(), ParamsAdamW::default()).unwrap();
            optimizer.step(&gradients).unwrap();
            close(
                "after",
                numbers(&loss())[0],
                expected["loss_after_one_step"].as_f64().unwrap(),
            );
        }
    }
}
