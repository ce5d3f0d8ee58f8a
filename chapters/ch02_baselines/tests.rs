use super::*;
use candle_core::D;
use candle_nn::ops::softmax;

const CPU: Device = Device::Cpu;

fn run() -> RunArgs {
    RunArgs { seed: 100, device: CPU, out: None }
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// ∇J by Candle's autograd through the expectation, without any score function.
fn autograd_gradient() -> Vec<f64> {
    let policy =
        grpo::policy::Table::from_logits(&Tensor::new(&[LOGITS], &CPU).unwrap()).unwrap();
    let logits = policy.logits(&Tensor::new(&[0u32], &CPU).unwrap()).unwrap();
    let rewards = Tensor::new(&[REWARDS], &CPU).unwrap();
    let objective =
        (softmax(&logits, D::Minus1).unwrap() * rewards).unwrap().sum_all().unwrap();
    let gradients = gradients::of(&objective, policy.variables()).unwrap();
    let gradient = gradients.get(&policy.variables()["logits"]).unwrap();
    gradient.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_constant_baseline_keeps_the_mean_gradient() {
    let exact = autograd_gradient();
    for b in [-3.0, 0.0, 0.45, 1.0, 10.0] {
        assert!(furthest(&with_constant(b).unwrap().mean, &exact) < 1e-12, "baseline {b}");
    }
}

#[test]
fn the_optimal_baseline_has_the_smallest_variance() {
    let best = optimal_baseline();
    let variance = |b: f64| with_constant(b).unwrap().variance();
    for step in [0.01, 0.1, 0.5] {
        assert!(
            variance(best) < variance(best - step)
                && variance(best) < variance(best + step)
        );
    }
    // A parabola: its lowest point, from three values.
    let (low, middle, high) = (variance(0.0), variance(0.5), variance(1.0));
    let vertex = 0.5 - 0.25 * (high - low) / (high - 2.0 * middle + low);
    assert!((vertex - best).abs() < 1e-9, "{vertex} {best}");
}

#[test]
fn group_means_scale_the_gradient_and_leave_one_out_does_not() {
    let exact = autograd_gradient();
    for size in 2..=5 {
        let batch = moments(size, |r| Ok(advantage::batch_mean(r))).unwrap();
        let others = moments(size, advantage::leave_one_out).unwrap();
        let scale = (size - 1) as f64 / size as f64;
        let scaled: Vec<f64> = exact.iter().map(|g| g * scale).collect();
        assert!(furthest(&batch.mean, &scaled) < 1e-12, "G = {size}");
        assert!(furthest(&others.mean, &exact) < 1e-12, "G = {size}");
    }
}

#[test]
fn gae_equals_the_fixture() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/gae.json")).unwrap();
    let examples = fixture["examples"].as_array().unwrap();
    assert!(examples.len() >= 4);
    for example in examples {
        let numbers = |name: &str| -> Vec<f64> {
            serde_json::from_value(example[name].clone()).unwrap()
        };
        let done: Vec<bool> = serde_json::from_value(example["done"].clone()).unwrap();
        let gae =
            advantage::gae(&numbers("rewards"), &numbers("values"), &done, 0.99, 0.95)
                .unwrap();
        assert!(furthest(&gae.deltas, &numbers("deltas")) < 1e-9);
        assert!(furthest(&gae.advantages, &numbers("advantages")) < 1e-9);
        assert!(furthest(&gae.returns, &numbers("returns")) < 1e-9);
    }
}

#[test]
fn gae_between_its_two_ends() {
    // λ = 1 is return minus value; λ = 0 is the one-step residual.
    let (rewards, values, done) =
        ([1.0, 2.0, 3.0], [0.5, 1.5, 2.5, 9.0], [false, false, true]);
    let long = advantage::gae(&rewards, &values, &done, 0.9, 1.0).unwrap();
    assert!((long.advantages[0] - (1.0 + 0.9 * 2.0 + 0.81 * 3.0 - 0.5)).abs() < 1e-12);
    let short = advantage::gae(&rewards, &values, &done, 0.9, 0.0).unwrap();
    assert_eq!(short.advantages, short.deltas);
}

#[test]
fn gae_refuses_what_does_not_fit() {
    let error = |r: &[f64], v: &[f64], d: &[bool], g: f64| {
        advantage::gae(r, v, d, g, 0.95).unwrap_err().to_string()
    };
    let lengths = error(&[1.0], &[1.0], &[false], 0.99);
    assert_eq!(lengths, "1 rewards need 2 values and 1 done flags; there are 1 and 1");
    let gamma = error(&[1.0], &[1.0, 1.0], &[false], 1.5);
    assert_eq!(gamma, "gamma is 1.5; it must be between 0 and 1");
    assert!(advantage::leave_one_out(&[1.0]).is_err());
}

#[test]
fn memory_of_notebook_003() {
    // 8 B parameters: 16 GB of 16-bit weights and 32 GB of 16-bit moments. The notebook
    // stops there and forgets the gradients.
    let critic = Bytes::TRAINED_16_BIT;
    assert_eq!(critic.weights * 8.0, 16.0);
    assert_eq!(critic.optimiser * 8.0, 32.0);
    assert_eq!(critic.gigabytes(8.0), 48.0 + 16.0);
}

#[test]
fn a_critic_per_essay_is_noise_and_a_group_mean_is_not() {
    let (mut essay, mut topic) = (0.0, 0.0);
    for seed in 0..500 {
        let judged = judge(&mut seed::rng(seed));
        essay += wrong_signs(&judged.essay_critic) / 500.0;
        topic += wrong_signs(&judged.topic_critic) / 500.0;
        assert_eq!(wrong_signs(&judged.group), 0.0);
    }
    // Essay 7 is exactly average and counts for nobody: noise gets half of seven wrong.
    assert!((3.2..3.8).contains(&essay), "{essay}");
    assert!(topic < 0.5 * essay, "{topic}");
}

#[test]
fn baselines_decide_how_well_the_bandit_learns() {
    let (_, curves) = all_curves(&run()).unwrap();
    let end = |v: usize| curves[v].iter().map(|c| c[STEPS]).sum::<f64>() / SEEDS as f64;
    let [none, batch, right, wrong] = [end(0), end(1), end(2), end(3)];
    assert!(batch > none + 0.02, "batch mean {batch}, none {none}");
    assert!(right > none + 0.02, "right critic {right}, none {none}");
    assert!((right - batch).abs() < 0.04, "right critic {right}, batch mean {batch}");
    assert!(wrong < none - 0.05, "wrong critic {wrong}, none {none}");
}
