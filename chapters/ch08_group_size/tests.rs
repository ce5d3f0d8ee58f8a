use super::*;
use candle_core::{D, Device::Cpu};

/// A lab with worlds and seeds that the recorded run does not use.
fn lab(seeds: u64) -> Lab {
    Lab { run: RunArgs { seed: 500, device: Cpu, out: None }, seeds }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[test]
fn the_baseline_of_the_notebook_has_its_mean_at_minus_one_sixth() {
    // E[r] = (1 − .5 − 1)/3; E[r²] = (1 + .25 + 1)/3.
    let means = group_means(4, 40_000, &mut seed::rng(900));
    let (centre, deviation) = stats::mean_std(&means);
    assert!((centre + 1.0 / 6.0).abs() < 0.01, "{centre}");
    assert!((deviation - (0.75f64 - 1.0 / 36.0).sqrt() / 2.0).abs() < 0.005, "{deviation}");
}

#[test]
fn the_fit_finds_a_known_line() {
    let points: Vec<_> = (0..5).map(|x| (f64::from(x), 3.0 - 0.5 * f64::from(x))).collect();
    let (slope, constant) = fit(&points);
    assert!((slope + 0.5).abs() < 1e-12 && (constant - 3.0).abs() < 1e-12);
}

#[test]
fn outcomes_are_all_sequences_sorted_into_counts() {
    for size in [2, 3, 5] {
        let probabilities = probabilities();
        let mut sequences = std::collections::BTreeMap::<[usize; 4], f64>::new();
        for code in 0..4usize.pow(size as u32) {
            let (mut counts, mut probability) = ([0; 4], 1.0);
            for i in 0..size {
                let response = code / 4usize.pow(i as u32) % 4;
                counts[response] += 1;
                probability *= probabilities[response];
            }
            *sequences.entry(counts).or_default() += probability;
        }
        let outcomes = outcomes(size);
        assert_eq!(outcomes.len(), sequences.len());
        for (counts, probability) in outcomes {
            assert!((probability - sequences[&counts]).abs() < 1e-12, "{counts:?}");
        }
    }
    assert_eq!(outcomes(32).len(), 6545);
    assert!((outcomes(32).iter().map(|o| o.1).sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn the_enumerated_gradient_is_the_exact_one() {
    // ∂J/∂z_k = π(k)(R(k) − J), worked out without any group.
    let probabilities = probabilities();
    for rewards in [GRADED, VERIFIED] {
        let j: f64 = (0..4).map(|k| probabilities[k] * rewards[k]).sum();
        for size in [2, 8, 16] {
            let others = moments(size, &rewards, advantage::leave_one_out).unwrap();
            let centred =
                moments(size, &rewards, |r| group_relative(r, size, Scale::None)).unwrap();
            for k in 0..4 {
                let exact = probabilities[k] * (rewards[k] - j);
                assert!((others.mean[k] - exact).abs() < 1e-9, "G = {size}");
                let shorter = exact * (size as f64 - 1.0) / size as f64;
                assert!((centred.mean[k] - shorter).abs() < 1e-9, "G = {size}");
            }
        }
    }
}

#[test]
fn enumeration_agrees_with_chapter_2_at_four_responses() {
    // What chapter 2 finds by going through all 4⁴ sequences.
    let others = moments(4, &GRADED, advantage::leave_one_out).unwrap();
    assert!((4.0 * others.variance() - 0.0669).abs() < 5e-5, "{}", 4.0 * others.variance());
}

#[test]
fn returns_diminish_after_eight() {
    for rewards in [GRADED, VERIFIED] {
        let at_64 = |size: usize| {
            let ratio = moments(size, &rewards, advantage::leave_one_out).unwrap();
            ratio.signal_to_noise() * (64.0 / size as f64).sqrt()
        };
        assert!(at_64(4) > 1.15 * at_64(2));
        assert!(at_64(32) > at_64(8) && at_64(32) < 1.12 * at_64(8));
    }
}

#[test]
fn a_half_right_group_of_two() {
    let of = |scale| group_relative(&[1.0, 0.0], 2, scale).unwrap();
    assert_eq!(of(Scale::Population), [1.0, -1.0]);
    assert!((of(Scale::Unbiased)[0] - 0.5f64.sqrt()).abs() < 1e-12);
}

#[test]
fn silent_groups_are_counted_as_expected() {
    // By drawing, and by all outcomes of three answers: RRR and WWW of eight.
    assert!((silent_share(0.5, 3) - 2.0 / 8.0).abs() < 1e-12);
    let mut rng = seed::rng(901);
    for (p, size) in [(0.1, 2), (0.1, 8), (0.3, 4), (0.9, 16)] {
        let groups = 20_000;
        let rewards: Vec<f64> = (0..groups * size)
            .map(|_| f64::from(u8::from(rng.random::<f64>() < p)))
            .collect();
        let measured = advantage::silent_groups(&rewards, size).unwrap();
        assert!((measured - silent_share(p, size)).abs() < 0.015, "{p} {size}: {measured}");
    }
}

#[test]
fn a_group_gives_the_gradient_of_the_expected_reward_on_average() {
    let (lab, mut rng) = (lab(1), seed::rng(902));
    let world = lab.world(Reward::Graded, 0).unwrap();
    let policy = Mlp::new([8, HIDDEN, 10], &mut rng, DType::F32, &Cpu).unwrap();
    let logits = policy.logits(&world.features).unwrap();
    let probabilities = candle_nn::ops::softmax(&logits, D::Minus1).unwrap();
    let values = (probabilities * &world.rewards).unwrap().sum(D::Minus1).unwrap();
    let exact = gradients::of(&values.mean_all().unwrap(), policy.variables()).unwrap();
    let exact: Vec<f64> = policy
        .variables()
        .values()
        .flat_map(|v| {
            exact.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        })
        .map(f64::from)
        .collect();
    let plan =
        Plan { prompts: 1, scale: Scale::None, ..Plan::fixed_prompts(Reward::Graded, 8) };
    let rows: Vec<Vec<f64>> = (0..2000)
        .map(|_| group_gradient(&world, &policy, &plan, &mut rng).unwrap())
        .collect();
    let column = |i: usize| mean(&rows.iter().map(|row| row[i]).collect::<Vec<_>>());
    let (mut dot, mut length, mut far) = (0.0, 0.0, 0.0);
    for (i, exact) in exact.iter().enumerate() {
        // G = 8: shorter by 7/8.
        let (found, exact) = (column(i), exact * 7.0 / 8.0);
        dot += found * exact;
        length += exact * exact;
        far += (found - exact).powi(2);
    }
    assert!((dot / length - 1.0).abs() < 0.1, "{}", dot / length);
    assert!(far < 0.05 * length, "{far} {length}");
    // The signal is the length of the exact gradient, once chance is taken off.
    let (signal, _) = signal_and_noise(&rows);
    assert!((signal / length - 1.0).abs() < 0.15, "{signal} {length}");
}

#[test]
fn at_fixed_answers_the_network_wants_neither_the_smallest_group_nor_the_largest() {
    for scale in [Scale::None, Scale::Unbiased] {
        let one = measured_signal(&lab(5), Reward::Verified, scale).unwrap();
        assert!(one.is_sorted(), "more answers to a prompt never hurt: {one:?}");
        let each: Vec<f64> =
            one.iter().zip(GROUP_SIZES).map(|(s, g)| s / g as f64).collect();
        assert!(each[1] > 1.1 * each[0] && each[1] > 1.5 * each[4], "{each:?}");
    }
}

#[test]
fn the_two_ways_to_spend_tokens_disagree() {
    let lab = lab(8);
    let short = |plan: Plan| {
        let runs = lab.train(&Plan { budget: SHORT, ..plan }).unwrap();
        mean(&reward_at(&runs, SHORT))
    };
    let prompts = [2, 32].map(|size| short(Plan::fixed_prompts(Reward::Verified, size)));
    let tokens = [2, 32].map(|size| short(Plan::fixed_tokens(Reward::Verified, size)));
    assert!(prompts[0] > prompts[1] + 0.2, "{prompts:?}");
    assert!(tokens[1] > tokens[0] + 0.12, "{tokens:?}");
    // A step size that suits it, and the group of two is as good as any.
    let optimizer = Optimizer::Sgd(3.0);
    let two = short(Plan { optimizer, ..Plan::fixed_tokens(Reward::Verified, 2) });
    assert!(two > tokens[1] - 0.05 && two > tokens[0] + 0.15, "{two} {tokens:?}");
}

#[test]
fn with_adam_the_convention_of_sigma_changes_nothing() {
    let lab = lab(5);
    let run = |optimizer, scale| {
        let plan = Plan::fixed_tokens(Reward::Verified, 2);
        let runs = lab.train(&Plan { optimizer, scale, budget: SHORT, ..plan }).unwrap();
        mean(&reward_at(&runs, SHORT))
    };
    let both = |optimizer| [Scale::Unbiased, Scale::Population].map(|s| run(optimizer, s));
    let [unbiased, population] = both(Optimizer::Adam(0.01));
    assert!((unbiased - population).abs() < 0.01, "{unbiased} {population}");
    let [unbiased, population] = both(Optimizer::Sgd(0.3));
    assert!(population > unbiased + 0.05, "{unbiased} {population}");
}

#[test]
fn silent_groups_in_training_follow_each_contexts_chance() {
    let runs = lab(8).train(&Plan::fixed_tokens(Reward::Verified, 8)).unwrap();
    let all: Vec<&Point> = runs.iter().flatten().collect();
    let of = |quantity: fn(&Point) -> f64| {
        mean(&all.iter().map(|point| quantity(point)).collect::<Vec<_>>())
    };
    let (measured, expected) = (of(|p| p.silent), of(|p| p.expected_silent));
    assert!((measured - expected).abs() < 0.02, "{measured} {expected}");
    let pooled = of(|p| p.pooled_silent);
    assert!(pooled < measured - 0.02, "{pooled} {measured}");
}

#[test]
fn the_first_group_wanders_where_the_true_reward_stands_still() {
    let plan = Plan::fixed_prompts(Reward::Graded, 8);
    for run in lab(5).train(&Plan { budget: 300 * 64, ..plan }).unwrap() {
        let late = |quantity: fn(&Point) -> f64| {
            stats::mean_std(&run[200..300].iter().map(quantity).collect::<Vec<_>>()).1
        };
        let (score, truth) = (late(|p| p.first_group), late(|p| p.reward));
        assert!(score > 3.0 * truth, "{score} {truth}");
    }
}

#[test]
fn a_prompt_is_read_once_for_its_group() {
    assert_eq!(prefill_tokens(2, true), 128 * 512);
    assert_eq!(prefill_tokens(32, true), 8 * 512);
    assert_eq!(prefill_tokens(32, false), prefill_tokens(2, false));
    assert_eq!(prefill_tokens(1, true), prefill_tokens(1, false));
}
