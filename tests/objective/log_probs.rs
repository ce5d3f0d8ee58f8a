//! The gathered log-probabilities against the slow ones, finite differences, and bad input.

use crate::{agree_with_finite_differences, numbers, worst};
use candle_core::{DType, Device::Cpu, Tensor, Var};
use grpo::{log_prob, seed, variables::Variables};
use proptest::prelude::*;

fn random(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    seed::normal(&mut seed::rng(seed), shape, 2.0, dtype, &Cpu).unwrap()
}

fn ids(shape: &[usize], below: usize, seed: u64) -> Tensor {
    use rand::Rng;
    let mut rng = seed::rng(seed);
    let count = shape.iter().product();
    let ids: Vec<u32> = (0..count).map(|_| rng.random_range(0..below as u32)).collect();
    Tensor::from_vec(ids, shape, &Cpu).unwrap()
}

/// Value and gradient of Σ w · log π, with weights that make a permuted gradient visible.
fn value_and_gradient(
    logits: &Var,
    log_prob: impl Fn(&Tensor) -> grpo::Result<Tensor>,
) -> (Vec<f64>, Vec<f64>) {
    let value = log_prob(logits).unwrap();
    let weights = random(value.dims(), 9, value.dtype());
    let loss = (&value * weights).unwrap().sum_all().unwrap();
    (numbers(&value), numbers(loss.backward().unwrap().get(logits).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn gathered_equals_slow(
        batch in 1usize..4, time in 2usize..5, vocabulary in 1usize..9,
        temperature in 0.3f64..2.0, layout in 0usize..4, double: bool, seed: u64,
    ) {
        let (dtype, tolerance) =
            if double { (DType::F64, 1e-12) } else { (DType::F32, 2e-5) };
        let logits = Var::from_tensor(&random(&[batch, time, vocabulary], seed, dtype)).unwrap();
        // Rows in order; part of a wider tensor; rows out of order; numbers out of order.
        let view = |x: &Tensor| match layout {
            0 => Ok(x.clone()),
            1 => x.narrow(1, 1, time - 1),
            2 => x.transpose(0, 1),
            _ => x.transpose(1, 2),
        };
        let viewed = view(&logits).unwrap();
        let (leading, width) = (&viewed.dims()[..2], viewed.dims()[2]);
        let ids = ids(leading, width, seed);
        let fast = value_and_gradient(&logits, |x| {
            log_prob::at_temperature(&view(x)?, &ids, temperature)
        });
        // Ids as `completion` cuts them out of whole sequences.
        let wider = Tensor::cat(&[&ids, &ids], 1).unwrap();
        let ids = wider.narrow(1, 0, ids.dim(1).unwrap()).unwrap();
        let slow = value_and_gradient(&logits, |x| {
            log_prob::slow(&view(x)?, &ids, temperature)
        });
        prop_assert!(worst(&fast.0, &slow.0) < tolerance);
        prop_assert!(worst(&fast.1, &slow.1) < tolerance);
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let logits = Var::from_tensor(&random(&[2, 4, 5], 1, DType::F64)).unwrap();
    let sequences = ids(&[2, 4], 5, 2);
    let tensor = logits.as_tensor().clone();
    let variables = Variables::from([("logits".to_string(), logits)]);
    agree_with_finite_differences(&variables, || {
        let scores = log_prob::completion(&tensor, &sequences, 2, 0.7)?;
        Ok(scores.log_probs.sqr()?.sum_all()?)
    });
}

#[test]
fn the_logits_at_a_position_are_about_the_next_token() {
    let logits = random(&[2, 5, 7], 3, DType::F64);
    let sequences = ids(&[2, 5], 7, 4);
    let scores = log_prob::completion(&logits, &sequences, 3, 1.0).unwrap();
    let all = log_prob::table(&logits).unwrap().to_vec3::<f64>().unwrap();
    let tokens = sequences.to_vec2::<u32>().unwrap();
    for (row, log_probs) in scores.log_probs.to_vec2::<f64>().unwrap().iter().enumerate() {
        for (t, log_prob) in log_probs.iter().enumerate() {
            let by_hand = all[row][2 + t][tokens[row][3 + t] as usize];
            assert!((log_prob - by_hand).abs() < 1e-12);
        }
    }
    let error = log_prob::completion(&logits, &sequences, 5, 1.0).unwrap_err().to_string();
    assert!(error.contains("prompt_length is 5; of 5 tokens"), "{error}");
}

#[test]
fn entropy_is_that_of_the_distribution() {
    let logits = random(&[3, 4, 6], 5, DType::F64);
    let all = log_prob::table(&(&logits / 0.7).unwrap()).unwrap();
    let by_hand = (all.exp().unwrap() * &all).unwrap().sum(2).unwrap().neg().unwrap();
    let entropy = log_prob::entropy(&logits, 0.7).unwrap();
    assert!(worst(&numbers(&entropy), &numbers(&by_hand)) < 1e-12);
    let strided = log_prob::entropy(&logits.narrow(1, 1, 2).unwrap(), 0.7).unwrap();
    let part = by_hand.narrow(1, 1, 2).unwrap();
    assert!(worst(&numbers(&strided), &numbers(&part)) < 1e-12);
}

#[test]
fn forbidden_tokens_and_wild_rows_are_fine() {
    let rows = [[0.0, f64::NEG_INFINITY, 1.0], [f64::NAN, 1.0, 2.0], [800.0, -800.0, 0.0]];
    let logits = Var::from_tensor(&Tensor::new(&rows, &Cpu).unwrap()).unwrap();
    let ids = Tensor::new(&[2u32, 0, 0], &Cpu).unwrap();
    let log_probs = log_prob::of(&logits, &ids).unwrap();
    // The middle row is padding: it is not looked at, so its gradient arrives as 0.
    let loss = (log_probs.get(0).unwrap() + log_probs.get(2).unwrap()).unwrap();
    let gradient = numbers(loss.backward().unwrap().get(&logits).unwrap());
    assert!(gradient.iter().all(|x| x.is_finite()), "{gradient:?}");
    assert_eq!(gradient[1], 0.0);
    assert_eq!(gradient[3..6], [0.0; 3]);
    assert_eq!(log_probs.to_vec1::<f64>().unwrap()[2], 0.0);
    let entropy = log_prob::entropy(&logits, 1.0).unwrap().to_vec1::<f64>().unwrap();
    assert!((entropy[0] - 0.582203).abs() < 1e-6 && entropy[2] == 0.0);
}

#[test]
fn bad_input_is_named() {
    let logits = random(&[2, 3], 6, DType::F32);
    let error = |ids: &Tensor, t: f64| {
        format!("{:#}", log_prob::at_temperature(&logits, ids, t).unwrap_err())
    };
    let ids = |ids: &[u32]| Tensor::new(ids, &Cpu).unwrap();
    assert!(error(&ids(&[0, 3]), 1.0).contains("id 3 is not in the vocabulary"));
    assert!(error(&ids(&[0]), 1.0).contains("logits [2, 3] and ids [1] disagree"));
    assert!(error(&ids(&[0, 1]), 0.0).contains("temperature is 0; it must be above 0"));
    let signed = ids(&[0, 1]).to_dtype(DType::I64).unwrap();
    assert!(error(&signed, 1.0).contains("ids has dtype I64; it must be U32"));
}
