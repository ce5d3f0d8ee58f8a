use super::*;

const CPU: Device = Device::Cpu;

fn run() -> RunArgs {
    RunArgs { seed: 0, device: CPU, out: None }
}

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    assert!(distance(a, b) < tolerance, "{a:?} is not {b:?}");
}

#[test]
fn one_sample_equals_pytorch() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/reinforce.json")).unwrap();
    for (name, reward) in [("reward +1", 1.0), ("reward -1", -1.0)] {
        let expected: Vec<f64> =
            serde_json::from_value(fixture[name]["grad"].clone()).unwrap();
        let (loss, gradient) = one_sample(0, reward, &CPU).unwrap();
        assert!((loss - fixture[name]["loss"].as_f64().unwrap()).abs() < 1e-9);
        assert_close(&gradient, &expected, 1e-9);
    }
}

/// J in plain Rust, without Candle.
fn expected_reward(logits: &[f64]) -> f64 {
    let weights: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().zip(REWARDS).map(|(w, r)| w / total * r).sum()
}

#[test]
fn exact_gradient_equals_finite_differences() {
    let slope = |i: usize| {
        let at = |by: f64| {
            let mut logits = LOGITS;
            logits[i] += by;
            expected_reward(&logits)
        };
        (at(1e-5) - at(-1e-5)) / 2e-5
    };
    assert_close(&exact_gradient(&CPU).unwrap(), &[slope(0), slope(1), slope(2)], 1e-9);
}

#[test]
fn mean_of_the_estimator_is_the_exact_gradient() {
    let probabilities =
        log_prob::probabilities(&Tensor::new(&LOGITS, &CPU).unwrap()).unwrap();
    let mut mean = [0.0; 3];
    for token in 0..3 {
        let (_, gradient) = one_sample(token as u32, REWARDS[token], &CPU).unwrap();
        // `one_sample` returns the gradient of the loss, which points the other way.
        gradient.iter().zip(&mut mean).for_each(|(g, m)| *m -= probabilities[token] * g);
    }
    assert_close(&mean, &exact_gradient(&CPU).unwrap(), 1e-12);
}

#[test]
fn the_error_falls_with_the_root_of_the_samples() {
    // The page shows five seeds; forty pin the slope down.
    let exact = exact_gradient(&CPU).unwrap();
    let rms = |n: usize| {
        let square = |seed| distance(&estimate(n, seed, &CPU).unwrap(), &exact).powi(2);
        ((0..40).map(square).sum::<f64>() / 40.0).sqrt()
    };
    let points: Vec<_> = [100, 1_000, 10_000, 40_000].map(|n| (n as f64, rms(n))).to_vec();
    let slope = log_log_slope(&points);
    assert!((-0.58..-0.42).contains(&slope), "slope {slope}");
}

#[test]
fn every_seed_learns() {
    let world = world(&run()).unwrap();
    let other = RunArgs { seed: 20, ..run() };
    let [sampled, exact] = curves(&world, &other).unwrap();
    let best = world.best_reward().unwrap();
    for (curve, exact) in sampled.iter().zip(exact) {
        assert!(exact[STEPS] > 0.9 * best, "the exact gradient ends at {}", exact[STEPS]);
        assert!((0.4..0.55).contains(&curve[0]), "starts at {}", curve[0]);
        assert!(
            curve[STEPS] > curve[0] + 0.7 * (best - curve[0]),
            "ends at {}",
            curve[STEPS]
        );
    }
}

#[test]
fn a_detached_forward_loses_every_gradient_and_keeps_the_loss() {
    let world = world(&run()).unwrap();
    let policy = Mlp::new([8, HIDDEN, 10], &mut seed::rng(0), DType::F32, &CPU).unwrap();
    let attached = loss(&policy, &world, Forward::Attached, &mut seed::rng(0)).unwrap();
    let detached = loss(&policy, &world, Forward::Detached, &mut seed::rng(0)).unwrap();
    assert_eq!(attached.to_scalar::<f32>().unwrap(), detached.to_scalar::<f32>().unwrap());
    assert!(gradients::of(&attached, policy.variables()).is_ok());
    let error = gradients::of(&detached, policy.variables()).err().unwrap().to_string();
    assert!(error.starts_with("4 of 4 variables got no gradient: hidden.bias"), "{error}");
}
