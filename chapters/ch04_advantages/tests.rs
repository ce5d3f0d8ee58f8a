use super::*;
use std::collections::BTreeMap;

const CPU: Device = Device::Cpu;

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < tolerance, "{a:?} is not {b:?}");
}

fn normals(count: usize, rng: &mut StdRng) -> Vec<f64> {
    (0..count).map(|_| rng.sample(StandardNormal)).collect()
}

fn mean(numbers: impl IntoIterator<Item = f64>) -> f64 {
    stats::mean_std(&numbers.into_iter().collect::<Vec<_>>()).0
}

#[test]
fn worked_groups_of_the_notebook() {
    // Five marks by hand: mean 2.6, squares 0.36 + 0.81 + 2.56 + 1.96 + 0.01 = 5.7.
    let centred = [-0.6, 0.9, -1.6, 1.4, -0.1];
    for (scale, sigma) in
        [(Scale::Population, 1.14f64.sqrt()), (Scale::Unbiased, 1.425f64.sqrt())]
    {
        let [_, differences, advantages] = steps(&MARKS[..5], scale).unwrap();
        assert_close(&differences, &centred, 1e-12);
        assert_close(&advantages, &centred.map(|c| c / sigma), 1e-12);
    }
    // Eight: mean 21.3/8, and the sum of the squared differences is 8.47875.
    let [_, _, advantages] = steps(&MARKS, Scale::Population).unwrap();
    let sigma = (8.47875f64 / 8.0).sqrt();
    assert_close(&advantages, &MARKS.map(|mark| (mark - 2.6625) / sigma), 1e-12);
}

#[test]
fn advantages_do_not_see_the_teacher() {
    let mut rng = seed::rng(100);
    for size in [2, 5, 8, 64] {
        let marks = normals(size, &mut rng);
        let theirs: Vec<f64> = marks.iter().map(|mark| 37.0 * mark - 1000.0).collect();
        let [_, theirs_centred, theirs] = steps(&theirs, Scale::Unbiased).unwrap();
        let [_, centred, ours] = steps(&marks, Scale::Unbiased).unwrap();
        assert_close(&ours, &theirs, 1e-9);
        // The counterfactual: centring alone removes the offset and keeps the factor.
        assert!((theirs_centred[0] - 37.0 * centred[0]).abs() < 1e-9);
        assert!((theirs_centred[0] - centred[0]).abs() > 1e-3);
    }
}

#[test]
fn no_advantage_exceeds_its_bound_and_one_winner_reaches_it() {
    let mut rng = seed::rng(101);
    for size in [2, 3, 5, 6, 8, 17, 64] {
        let (unbiased, population) = bounds(size);
        for (scale, bound) in [(Scale::Unbiased, unbiased), (Scale::Population, population)]
        {
            let mut winner = vec![0.0; size];
            winner[size / 2] = 1e3;
            let best = |group: &[f64]| {
                let advantages = advantage::group_relative(group, size, scale).unwrap();
                advantages.into_iter().fold(f64::NEG_INFINITY, f64::max)
            };
            assert!((best(&winner) - bound).abs() < 1e-9, "{size} {scale:?}");
            for power in [1, 3, 9] {
                // Odd powers of normal numbers: the higher, the heavier the tails.
                let group: Vec<f64> =
                    normals(size, &mut rng).iter().map(|x| x.powi(power)).collect();
                assert!(best(&group) <= bound + 1e-9, "{size} {scale:?} {group:?}");
            }
        }
    }
    assert!((largest_by_search(4, Scale::Unbiased).unwrap() - 1.5).abs() < 1e-12);
}

#[test]
fn clipping_at_2_never_acts_on_five_answers_and_acts_on_six() {
    let mut winner = vec![0.0; 6];
    winner[0] = 1.0;
    for scale in [Scale::Unbiased, Scale::Population] {
        let five = advantage::group_relative(&winner[..5], 5, scale).unwrap();
        assert!(five[0] <= 2.0 + 1e-12);
        let six = advantage::group_relative(&winner, 6, scale).unwrap();
        assert!(six[0] > 2.04 && advantage::clip(&six, 2.0).unwrap()[0] == 2.0);
    }
    let close = advantage::group_relative(&CLOSE, 5, Scale::Unbiased).unwrap();
    assert_close(&close, &[-0.351, 0.526, 1.403, -0.351, -1.228], 5e-4);
    assert_eq!(advantage::clip(&close, 2.0).unwrap(), close);
}

#[test]
fn equal_rewards_are_amplified_in_single_precision_and_not_by_the_library() {
    for size in EQUAL_SIZES {
        let (plain, largest) = amplified(size, 1e-8, 0.0);
        let (guarded, _) = amplified(size, 0.0, 1e-8);
        let (_, tamed) = amplified(size, 1e-4, 0.0);
        assert!(plain > 5 && largest > 0.5, "{size}: {plain} groups, {largest}");
        assert!(
            guarded > 0 && guarded <= plain && tamed < 0.01,
            "{size}: {guarded} {tamed}"
        );
        for reward in [0.1f32, 1.0 / 3.0, 0.7, 5.7, -1e6] {
            let group = vec![f64::from(reward); size];
            for scale in [Scale::Unbiased, Scale::Population, Scale::Trl] {
                let advantages = advantage::group_relative(&group, size, scale).unwrap();
                assert!(advantages.iter().all(|a| *a == 0.0));
            }
        }
    }
}

/// A small network with a head strong enough to have preferences, in double precision.
fn small(seed: u64) -> Gru {
    let policy = Gru::new([11, 3], &mut seed::rng(seed), DType::F64, &CPU).unwrap();
    for (name, variable) in policy.variables() {
        let factor = if name.starts_with("head") { 20.0 } else { 1.0 };
        let noise =
            seed::normal(&mut seed::rng(seed + 1), variable.dims(), 0.1, DType::F64, &CPU);
        let moved = ((variable.as_tensor() * factor).unwrap() + noise.unwrap()).unwrap();
        variable.set(&moved).unwrap();
    }
    policy
}

#[test]
fn every_gradient_of_the_gru_equals_finite_differences() {
    let policy = small(102);
    let completions = policy.sample(&PROMPT, 4, 3, &mut seed::rng(103)).unwrap();
    let value = || loss(&policy, &completions, &[1.2, -0.5, 0.3, -1.0]);
    let gradients = gradients::of(&value().unwrap(), policy.variables()).unwrap();
    let differences =
        gradients::finite_differences(policy.variables(), 1e-5, value).unwrap();
    assert_eq!(policy.variables().len(), 7);
    for (name, variable) in policy.variables() {
        let gradient =
            gradients.get(variable).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_close(&gradient, &differences[name], 1e-8);
        assert!(gradient.iter().any(|g: &f64| g.abs() > 1e-4), "{name} is all but zero");
    }
}

/// The equations of PyTorch's manual for a GRU, with loops.
fn by_hand(policy: &Gru, tokens: &[u32]) -> Vec<f64> {
    let numbers = |name: &str| -> Vec<f64> {
        policy.variables()[name].flatten_all().unwrap().to_vec1().unwrap()
    };
    let all: BTreeMap<_, _> =
        policy.variables().keys().map(|name| (name.as_str(), numbers(name))).collect();
    let affine = |weight: &str, bias: &str, row: usize, x: &[f64]| {
        let weights = &all[weight][row * 3..row * 3 + 3];
        all[bias][row] + weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut h = vec![0.0; 3];
    for &token in tokens {
        let x = all["embedding"][3 * token as usize..3 * token as usize + 3].to_vec();
        let input = |row| affine("weight_ih_l0", "bias_ih_l0", row, &x);
        let hidden = |row| affine("weight_hh_l0", "bias_hh_l0", row, &h);
        let next = |i: usize| {
            let reset = sigmoid(input(i) + hidden(i));
            let update = sigmoid(input(3 + i) + hidden(3 + i));
            let new = (input(6 + i) + reset * hidden(6 + i)).tanh();
            (1.0 - update) * new + update * h[i]
        };
        h = (0..3).map(next).collect();
    }
    (0..11).map(|row| affine("head.weight", "head.bias", row, &h)).collect()
}

#[test]
fn logits_equal_the_equations_of_a_gru() {
    let policy = small(104);
    let tokens = [[1u32, 5, 10, 7, 0], [3, 3, 9, 2, 8]];
    let logits = policy.logits(&Tensor::new(&tokens, &CPU).unwrap()).unwrap();
    for (row, logits) in tokens.iter().zip(logits.to_vec3::<f64>().unwrap()) {
        for (t, logits) in logits.iter().enumerate() {
            assert_close(logits, &by_hand(&policy, &row[..=t]), 1e-12);
        }
    }
}

#[test]
fn a_batch_of_completions_has_the_frequencies_of_the_policy() {
    let policy = small(105);
    let count = 20_000;
    let rows = policy.sample(&PROMPT, count, 2, &mut seed::rng(106)).unwrap();
    let rows = rows.to_vec2::<u32>().unwrap();
    let softmax = |tokens: &[u32]| {
        let weights: Vec<f64> = by_hand(&policy, tokens).iter().map(|x| x.exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect::<Vec<_>>()
    };
    let first = softmax(&PROMPT);
    for a in 0..11u32 {
        let then = softmax(&[PROMPT.as_slice(), &[a]].concat());
        for b in 0..11u32 {
            let expected = first[a as usize] * then[b as usize];
            let seen =
                rows.iter().filter(|row| row[..] == [a, b]).count() as f64 / count as f64;
            let error = (expected / count as f64).sqrt();
            assert!(
                (seen - expected).abs() < 5.0 * error,
                "{a} {b}: {seen}, not {expected}"
            );
        }
    }
    // The frequencies would prove nothing if they were all alike.
    assert!(first.iter().copied().fold(0.0, f64::max) > 0.13, "{first:?}");
    let error = policy.sample(&[], 1, 1, &mut seed::rng(0)).unwrap_err().to_string();
    assert_eq!(error, "the prompt has no tokens");
}

#[test]
fn groups_learn_to_say_42_and_a_bonus_stops_raw_rewards() {
    let runs = train_all(1_000, &CPU).unwrap();
    let half = |learnt: &Learnt| learnt.rewards.iter().position(|share| *share > 0.5);
    let [all_large, all_small, all_raw, all_bonus] = &runs[..] else {
        panic!("four settings")
    };
    let with_advantages = all_large.iter().zip(all_small);
    for (seed, ((large, small), (raw, bonus))) in
        with_advantages.zip(all_raw.iter().zip(all_bonus)).enumerate()
    {
        for learnt in [large, small, raw] {
            assert!(learnt.rewards[0] < 0.06 && learnt.rewards[STEPS] > 0.8, "seed {seed}");
        }
        assert!(bonus.rewards.iter().all(|share| *share < 0.2), "seed {seed}");
        // Groups of 64 need fewer steps, groups of 8 fewer completions.
        let (large_half, small_half) = (half(large).unwrap(), half(small).unwrap());
        assert!(large_half < small_half && 8 * small_half < 64 * large_half, "seed {seed}");
        let early = |learnt: &Learnt| learnt.silent[..20].iter().filter(|s| **s).count();
        assert!(early(large) == 0 && early(small) >= 3, "seed {seed}");
    }
}

#[test]
fn an_advantage_is_the_same_with_a_bonus() {
    let shares = [0.1, 0.0, 0.3, 0.0];
    let with_bonus = shares.map(|share| share + 1.0);
    for weight in [Weight::Centred, Weight::Standardised] {
        assert_close(&weight.of(&shares).unwrap(), &weight.of(&with_bonus).unwrap(), 1e-12);
    }
    assert_ne!(Weight::Raw.of(&shares).unwrap(), Weight::Raw.of(&with_bonus).unwrap());
}

#[test]
fn the_score_of_a_normal_is_the_derivative_of_its_log_density() {
    let theta = Var::new(0.7f64, &CPU).unwrap();
    let variables = Variables::from([("theta".to_string(), theta.clone())]);
    let samples = Tensor::new(&[0.2f64, 1.9, 0.7], &CPU).unwrap();
    let weights = Tensor::new(&[1.0f64, -2.0, 0.5], &CPU).unwrap();
    let value = || Ok((&weights * log_density(&theta, &samples)?)?.sum_all()?);
    let gradients = gradients::of(&value().unwrap(), &variables).unwrap();
    let gradient = gradients.get(&theta).unwrap().to_scalar::<f64>().unwrap();
    let differences = gradients::finite_differences(&variables, 1e-5, value).unwrap();
    // (−0.5 − 2 · 1.2 + 0) / 0.25.
    assert!((gradient + 11.6).abs() < 1e-9);
    assert!((gradient - differences["theta"][0]).abs() < 1e-7);
}

#[test]
fn the_loss_of_the_notebook_has_no_gradient() {
    for seed in 0..5 {
        let (loss, verdict) = not_a_loss(seed).unwrap();
        assert!(loss != 0.0);
        assert_eq!(verdict, "1 of 1 variables got no gradient: theta");
    }
}

#[test]
fn estimates_have_the_mean_that_theory_says() {
    let groups = 20_000;
    let stats = |weight, theta, seed| {
        stats::mean_std(&estimates(weight, theta, groups, &mut seed::rng(seed)).unwrap())
    };
    // Far below 3 the reward is x − 3: its slope is 1, and centring keeps 7/8 of it.
    for (weight, expected) in [(Weight::Raw, 1.0), (Weight::Centred, 0.875)] {
        let (mean, std) = stats(weight, 0.0, 107);
        assert!((mean - expected).abs() < 4.0 * std / (groups as f64).sqrt(), "{mean}");
    }
    for seed in 108..113 {
        let [raw, centred, standardised] =
            [Weight::Raw, Weight::Centred, Weight::Standardised]
                .map(|w| stats(w, 0.0, seed));
        assert!(raw.1 > 3.0 * centred.1, "raw {raw:?}, centred {centred:?}");
        assert!((1.9..2.2).contains(&(standardised.0 / centred.0)), "{standardised:?}");
        // The noise does not double with the length.
        assert!((0.9..1.2).contains(&(standardised.1 / centred.1)), "{standardised:?}");
        // On the optimum centring is quieter than far from it, standardising louder.
        let near = |weight| stats(weight, OPTIMUM, seed).1;
        assert!(near(Weight::Centred) < 0.8 * centred.1);
        assert!(near(Weight::Standardised) > 1.6 * standardised.1);
    }
}

#[test]
fn standardising_changes_the_step_size() {
    let paths = all_climbs(500).unwrap();
    let arrivals = |which: usize| paths[which].iter().map(|path| arrival(path).0);
    let end = |which: usize| mean(paths[which].iter().map(|path| arrival(path).1));
    // Sooner at one rate, on every seed; within a fifth once the rates are matched.
    assert!(arrivals(2).zip(arrivals(1)).all(|(sooner, later)| sooner < 0.7 * later));
    let ratio = mean(arrivals(4)) / mean(arrivals(2));
    assert!((0.9..1.25).contains(&ratio), "{ratio}");
    // Raw rewards get there too, in paths that differ more from seed to seed.
    let spread = |which| stats::mean_std(&arrivals(which).collect::<Vec<_>>()).1;
    assert!(spread(0) > 1.5 * spread(1), "{} {}", spread(0), spread(1));
    // Matched on the way up, centring ends closer; and ten times the reward is a
    // ten times larger step for it, and nothing for standardising.
    assert!(end(4) < 0.85 * end(2), "{} {}", end(4), end(2));
    assert!(end(5) > 2.5 * end(1), "{} {}", end(5), end(1));
    for (ten, one) in paths[6].iter().zip(&paths[2]) {
        assert_close(ten, one, 1e-9);
    }
}

#[test]
fn an_update_is_the_mean_sigma_of_its_group_or_its_square() {
    // With k of n right: Σ A (right − p)/n is the variance k(n − k)/n² for centred
    // rewards, and its root for standardised ones. All 2ⁿ groups, without the library.
    let size = 6;
    for (p, mark) in [(0.02f64, 1.0), (0.3, 1.0), (0.5, 10.0), (0.9, 4.0)] {
        let (mut variance, mut sigma) = (0.0, 0.0);
        for code in 0..1u32 << size {
            let right = f64::from(code.count_ones());
            let wrong = size as f64 - right;
            let probability = p.powf(right) * (1.0 - p).powf(wrong);
            variance += probability * right * wrong / (size * size) as f64;
            sigma += probability * (right * wrong).sqrt() / size as f64;
        }
        let centred = expected_update(p, mark, size, Scale::None).unwrap();
        let standardised = expected_update(p, mark, size, Scale::Population).unwrap();
        assert!((centred - mark * variance).abs() < 1e-12, "{centred}, not {variance}");
        assert!((standardised - sigma).abs() < 1e-12, "{standardised}, not {sigma}");
        let true_gradient = mark * p * (1.0 - p);
        assert!((centred - true_gradient * 5.0 / 6.0).abs() < 1e-12);
    }
}

#[test]
fn standardising_turns_the_update_towards_prompts_of_small_spread() {
    let [exact, centred, standardised, large] = updates(&PROMPTS).unwrap();
    assert!(angle(&exact, &centred) < 1e-3);
    assert!(angle(&exact, &standardised) > 5.0 && angle(&exact, &large) > 15.0);
    assert!(shares(&large)[0] > 2.0 * shares(&exact)[0]);
    let [exact, centred, standardised, _] = updates(&GRADERS).unwrap();
    // The true direction is (1, 10), the standardised one (1, 1).
    let turned = 10f64.atan().to_degrees() - 45.0;
    assert!(angle(&exact, &centred) < 1e-3);
    assert!((angle(&exact, &standardised) - turned).abs() < 1e-9);
}

#[test]
fn the_best_advantage_grows_and_the_same_answer_settles() {
    for seed in 200..205 {
        let mut rng = seed::rng(seed);
        let drawn: Vec<BySize> =
            SIZES.iter().map(|size| by_size(*size, 1_000, &mut rng).unwrap()).collect();
        let stats = |of: fn(&BySize) -> (f64, f64)| -> Vec<(f64, f64)> {
            drawn.iter().map(of).collect()
        };
        let share = stats(|d| d.best_share);
        let normal = stats(|d| d.best_normal);
        let good = stats(|d| d.good_answer);
        // In a group of two it is always the same.
        assert!((normal[0].0 - 0.5f64.sqrt()).abs() < 1e-9 && normal[0].1 < 1e-9);
        for i in 1..SIZES.len() {
            assert!(
                share[i].0 > share[i - 1].0 && normal[i].0 > normal[i - 1].0,
                "seed {seed}"
            );
            assert!(drawn[i].silent < drawn[i - 1].silent, "seed {seed}");
        }
        // The notebook's error bars grow up to 16; those of one answer shrink throughout.
        assert!(
            share[3].1 > share[2].1 && share[2].1 > share[1].1 && share[1].1 > share[0].1
        );
        assert!(normal[5].1 > normal[1].1, "seed {seed}");
        assert!(good[5].1 < 0.5 * good[1].1 && good[1].1 < good[0].1, "seed {seed}");
        assert!((good[5].0 - 1.0).abs() < 0.05 && good[0].0 < 0.6, "seed {seed}");
    }
}
