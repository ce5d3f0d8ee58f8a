use super::*;

const CPU: Device = Device::Cpu;

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    assert!(distance(found, expected) < tolerance, "{found:?} is not {expected:?}");
}

fn advantages() -> Vec<f64> {
    group_relative(&REWARDS, 4, Scale::None).unwrap()
}

#[test]
fn the_notebooks_numbers() {
    assert_close(&advantages(), &[0.875, -0.625, 0.875, -1.125], 1e-12);
    let (parts, gradient) = reinforce_loss(&advantages(), &CPU).unwrap();
    assert!((parts.iter().sum::<f64>() + 3.1219).abs() < 1e-4);
    // By hand: −A/4.
    assert_close(&gradient, &[-0.21875, 0.15625, -0.21875, 0.28125], 1e-12);
}

#[test]
fn at_ratio_one_the_loss_is_zero_and_the_gradient_is_reinforce() {
    let (_, reinforce) = reinforce_loss(&advantages(), &CPU).unwrap();
    for term in [Term::clip(CLIP_EPS), NO_CLIP] {
        let (loss, gradient) =
            grpo_loss(&objective(term, 0.0), &advantages(), &[0.0; 4], &CPU).unwrap();
        assert!(loss.abs() < 1e-15);
        assert_close(&gradient, &reinforce, 1e-12);
    }
}

/// −min(ρA, clip(ρ)A) + β ρ (e^{−m} + m − 1), in plain Rust; m = log ρ, the reference is old.
fn by_hand(moved: &[f64], clip: bool, beta: f64) -> f64 {
    let one = |(m, a): (&f64, f64)| {
        let ratio = m.exp();
        let free = ratio * a;
        let gain = if clip { free.min(ratio.clamp(0.8, 1.2) * a) } else { free };
        beta * ratio * ((-m).exp() + m - 1.0) - gain
    };
    moved.iter().zip(advantages()).map(one).sum::<f64>() / moved.len() as f64
}

#[test]
fn the_moved_step_equals_plain_arithmetic_and_finite_differences() {
    for (clip, beta) in [(true, 0.0), (true, KL_COEF), (false, 0.0)] {
        let term = if clip { Term::clip(CLIP_EPS) } else { NO_CLIP };
        let (loss, gradient) =
            grpo_loss(&objective(term, beta), &advantages(), &MOVED, &CPU).unwrap();
        assert!((loss - by_hand(&MOVED, clip, beta)).abs() < 1e-12);
        for i in 0..4 {
            let at = |by: f64| {
                let mut moved = MOVED;
                moved[i] += by;
                by_hand(&moved, clip, beta)
            };
            assert!(
                (gradient[i] - (at(1e-6) - at(-1e-6)) / 2e-6).abs() < 1e-8,
                "answer {i}"
            );
        }
    }
}

#[test]
fn the_clip_stops_gains_and_never_losses() {
    let objective = objective(Term::clip(CLIP_EPS), 0.0);
    let slope = |advantage: f64, ratio: f64| {
        grpo_loss(&objective, &[advantage], &[ratio.ln()], &CPU).unwrap().1[0]
    };
    assert_eq!(slope(1.0, 1.3), 0.0, "raised far enough");
    assert_eq!(slope(-1.0, 0.7), 0.0, "lowered far enough");
    assert!(slope(1.0, 0.3) < 0.0, "still to be raised, however low it is");
    assert!(slope(-1.0, 3.0) > 0.0, "still to be lowered, however high it is");
}

#[test]
fn estimators_equal_the_fixture() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/kl.json")).unwrap();
    let numbers = |name: &str| -> Vec<f64> {
        serde_json::from_value(fixture[name].clone())
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let number = |name: &str| fixture[name].as_f64().unwrap();
    let (forward, to_ref) = exact_kl(true, &CPU).unwrap();
    assert!((forward - number("exact_kl")).abs() < 1e-8);
    assert!((exact_kl(false, &CPU).unwrap().0 - number("exact_reverse_kl")).abs() < 1e-8);
    assert_close(&to_ref, &numbers("grad_exact_kl_wrt_logits"), 1e-8);
    for (name, key, corrected) in [
        ("k1", "k1", false),
        ("k2", "k2", false),
        ("k3", "k3", false),
        ("k3", "k3_times_ratio", true),
    ] {
        let estimator = match name {
            "k1" => Estimator::K1,
            "k2" => Estimator::K2,
            _ => Estimator::K3,
        };
        let found = moments(estimator, corrected, &CPU).unwrap();
        assert!((found.mean - number(&format!("E_{name}"))).abs() < 1e-8);
        assert!((found.variance - number(&format!("var_{name}"))).abs() < 1e-8);
        let gradient = numbers(&format!("grad_expected_autodiff_{key}_wrt_logits"));
        assert_close(&found.gradient, &gradient, 1e-8);
    }
}

#[test]
fn k3_as_a_loss_pulls_in_the_other_direction() {
    let (_, from_ref) = exact_kl(false, &CPU).unwrap();
    let (_, to_ref) = exact_kl(true, &CPU).unwrap();
    let k3 = moments(Estimator::K3, false, &CPU).unwrap().gradient;
    assert_close(&k3, &from_ref, 1e-9);
    assert!(distance(&k3, &to_ref) > 0.1);
}

fn run() -> RunArgs {
    RunArgs { seed: 300, device: CPU, out: None }
}

/// Mean accuracy over seeds before the last rollout.
fn end(settings: Settings) -> f64 {
    let seeds = over_seeds(&world(&run()).unwrap(), settings, &run()).unwrap();
    seeds.iter().map(|records| records[ROLLOUTS - 1].accuracy).sum::<f64>() / SEEDS as f64
}

#[test]
fn the_clip_matters_for_large_steps_and_not_for_small_ones() {
    let clip = Loss::Objective(Term::clip(CLIP_EPS));
    let free = Loss::Objective(NO_CLIP);
    let (with, without) = (end(settings(4, clip, 0.003)), end(settings(4, free, 0.003)));
    assert!((with - without).abs() < 0.04, "small steps: {with} and {without}");
    let (with, without) = (end(settings(16, clip, 0.01)), end(settings(16, free, 0.01)));
    assert!(with > without + 0.04, "large steps: {with} and {without}");
    let bug = end(settings(16, Loss::MaxBug, 0.01));
    assert!(with > bug + 0.04, "large steps: {with}, with max {bug}");
}

#[test]
fn every_seed_learns_from_a_tenth() {
    let clip = Loss::Objective(Term::clip(CLIP_EPS));
    let world = world(&run()).unwrap();
    for records in over_seeds(&world, settings(4, clip, 0.01), &run()).unwrap() {
        assert!((0.05..0.15).contains(&records[0].accuracy));
        assert!(
            records[ROLLOUTS - 1].accuracy > 0.65,
            "{}",
            records[ROLLOUTS - 1].accuracy
        );
        assert!(records[0].steps[0].metrics.loss.abs() < 1e-6, "the loss starts at zero");
        assert!(records[0].steps[0].grad_norm > 0.1, "its gradient does not");
    }
}

#[test]
fn a_strong_leash_holds() {
    let clip = Loss::Objective(Term::clip(CLIP_EPS));
    let world = world(&run()).unwrap();
    let mean = |kl_coef| {
        let settings = Settings { kl_coef, ..settings(4, clip, 0.01) };
        let seeds = over_seeds(&world, settings, &run()).unwrap();
        seeds.iter().map(|records| records[ROLLOUTS - 1].kl).sum::<f64>() / SEEDS as f64
    };
    let (free, held) = (mean(0.0), mean(1.0));
    assert!(held < 0.5 * free, "KL {free} without the penalty, {held} with β = 1");
}

#[test]
fn bad_settings_are_named() {
    assert!(group_size("7").unwrap_err().contains("divides 128"));
    assert!(group_size("1").unwrap_err().contains("at least 2"));
    assert_eq!(group_size("16"), Ok(16));
    assert!(clip_eps("1").unwrap_err().contains("below 1"));
    assert!(clip_eps("nan").is_err());
    assert!(kl_coef("-0.1").unwrap_err().contains("at least 0"));
}
