use super::*;

const CPU: Device = Device::Cpu;

fn run(seed: u64) -> RunArgs {
    RunArgs { seed, device: CPU, out: None }
}

/// Policies that the recorded run does not use.
fn policies() -> impl Iterator<Item = Recency> {
    (100..105).map(|seed| policy(&run(seed), VOCABULARY).unwrap())
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn gradient(policy: &Recency, scoring: Scoring, baseline: f64) -> Option<Vec<f64>> {
    let weights = weights(policy, &every_sequence(&CPU).unwrap(), baseline).unwrap();
    flat(&mean_loss(policy, scoring, &weights).unwrap(), policy.variables()).unwrap()
}

fn log_ratios(policy: &Recency, scoring: Scoring, rng: &mut StdRng) -> Vec<f64> {
    fresh(policy, scoring, rng).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_numbers_of_the_notebook() {
    let table = Tensor::new(&LOG_PROBS, &CPU).unwrap();
    let picked = pick(&table, &Tensor::new(&CHOSEN, &CPU).unwrap()).unwrap();
    assert_eq!(picked, [-0.5, -0.3, -0.1]);
    let sum: f64 = picked.iter().sum();
    assert!((sum + 0.9).abs() < 1e-12 && (sum.exp() - 0.406570).abs() < 1e-6);
    // And its rows are no distributions.
    for row in LOG_PROBS {
        assert!(row.iter().map(|x| x.exp()).sum::<f64>() < 0.99);
    }
}

#[test]
fn left_padding_changes_nothing_and_right_padding_does() {
    for policy in policies() {
        let alone = alone(&policy, &CPU).unwrap();
        let left = together(&policy, true, &CPU).unwrap();
        let right = together(&policy, false, &CPU).unwrap();
        for row in 0..2 {
            assert!(furthest(&left[row][..alone[row].len()], &alone[row]) < 1e-12);
        }
        assert!(furthest(&right[0], &alone[0]) > 1e-2);
    }
}

#[test]
fn the_first_eos_counts_although_padding_is_eos() {
    let (ids, real) = two_rows(true, &CPU).unwrap();
    assert_eq!(ids.to_vec2::<u32>().unwrap()[1][4..], [4, EOS, EOS]);
    assert_eq!(real.to_vec2::<u8>().unwrap()[1][4..], [1, 1, 0]);
}

#[test]
fn the_right_scoring_has_the_exact_gradient_and_ratio_1() {
    for (seed, policy) in policies().enumerate() {
        let (exact, j) = truth(&policy).unwrap();
        for baseline in [0.0, j, -3.0] {
            let mean = gradient(&policy, Scoring::Right, baseline).unwrap();
            assert!(furthest(&mean, &exact) < 1e-10, "baseline {baseline}");
        }
        let rng = &mut seed::rng(seed as u64);
        let ratios = log_ratios(&policy, Scoring::Right, rng);
        assert!(ratios.iter().all(|x| x.abs() < 1e-12));
    }
}

#[test]
fn finite_differences_agree_on_every_variable() {
    for policy in policies() {
        let differences = largest_differences(&policy).unwrap();
        assert_eq!(differences.len(), policy.variables().len());
        for (name, _, apart) in differences {
            assert!(apart < 1e-8, "{name}: {apart}");
        }
    }
}

// The five mistakes, and for each what catches it.

#[test]
fn a_forward_pass_without_gradients_is_caught_by_the_canary() {
    for policy in policies() {
        let weights = weights(&policy, &every_sequence(&CPU).unwrap(), 0.0).unwrap();
        let loss = |scoring| mean_loss(&policy, scoring, &weights).unwrap();
        let (right, wrong) = (loss(Scoring::Right), loss(Scoring::NoGradient));
        // The loss cannot tell: it is the same to the bit.
        assert_eq!(right.to_scalar::<f64>().unwrap(), wrong.to_scalar::<f64>().unwrap());
        assert!(gradients::of(&right, policy.variables()).is_ok());
        let error = gradients::of(&wrong, policy.variables()).err().unwrap().to_string();
        assert!(error.starts_with("5 of 5 variables got no gradient"), "{error}");
    }
}

#[test]
fn a_slice_that_is_off_by_one_is_caught_by_the_ratio_of_fresh_samples() {
    for (seed, policy) in policies().enumerate() {
        let rng = &mut seed::rng(seed as u64);
        let ratios = log_ratios(&policy, Scoring::OffByOne, rng);
        assert!(ratios.iter().filter(|x| x.abs() > 0.2).count() > ratios.len() / 4);
        let (exact, j) = truth(&policy).unwrap();
        assert!(cosine(&gradient(&policy, Scoring::OffByOne, j).unwrap(), &exact) < 0.95);
    }
}

#[test]
fn prompt_tokens_in_the_loss_are_caught_by_where_the_gradient_is_zero() {
    for policy in policies() {
        let sequence = Tensor::new(&[[1u32, 4, 2, 5, 3, 4]], &CPU).unwrap();
        let logits = policy.logits(&sequence).unwrap().detach();
        let reached = |scoring| -> Vec<bool> {
            pull(scoring, &logits, &sequence).unwrap().iter().map(|&p| p > 0.0).collect()
        };
        assert_eq!(reached(Scoring::Right), [false, false, true, true, true, false]);
        assert_eq!(reached(Scoring::WithPrompt), [true, true, true, true, true, false]);
        assert_eq!(reached(Scoring::OffByOne), [false, false, false, true, true, true]);
        // With raw rewards the gradient is wrong. With centred ones the prompt's part is
        // the same in every completion and cancels, as long as none is divided by a length.
        let (exact, j) = truth(&policy).unwrap();
        assert!(
            cosine(&gradient(&policy, Scoring::WithPrompt, 0.0).unwrap(), &exact) < 0.8
        );
        assert!(
            furthest(&gradient(&policy, Scoring::WithPrompt, j).unwrap(), &exact) < 1e-10
        );
    }
}

#[test]
fn retokenised_text_is_caught_by_comparing_ids() {
    let tokenizer = tokenizer().unwrap();
    let prompt = encode(&tokenizer, QUESTION).unwrap();
    let sampled: Vec<u32> =
        ["3", "4", "5", "<eos>"].map(|t| id_of(&tokenizer, t).unwrap()).to_vec();
    let read = through_text(&tokenizer, QUESTION, &sampled).unwrap();
    assert_ne!(read, sampled);
    assert_eq!(pieces(&tokenizer, &read), "5");
    // A prompt that does not end in a space keeps its boundary, but not its EOS.
    let question = QUESTION.trim_end();
    let sampled: Vec<u32> =
        ["Ġ34", "5", "<eos>"].map(|t| id_of(&tokenizer, t).unwrap()).to_vec();
    assert_eq!(through_text(&tokenizer, question, &sampled).unwrap(), sampled[..2]);
    // What is kept as ids needs no comparison: it is what was sampled.
    let kept = [prompt.clone(), sampled.clone()].concat();
    assert_eq!(kept[prompt.len()..], sampled);
    for seed in 100..105 {
        let policy = policy(&run(seed), tokenizer.get_vocab_size(true)).unwrap();
        let [kept, count] = round_trips(&tokenizer, &policy, &mut seed::rng(seed)).unwrap();
        assert!(kept < count, "{kept} of {count}");
    }
}

#[test]
fn two_tokenizers_learn_the_same_merges() {
    let [a, b] = [tokenizer().unwrap(), tokenizer().unwrap()];
    assert_eq!(a.to_string(false).unwrap(), b.to_string(false).unwrap());
}

#[test]
fn another_temperature_is_caught_by_the_ratio_of_fresh_samples() {
    for (seed, policy) in policies().enumerate() {
        let rng = &mut seed::rng(seed as u64);
        let ratios = log_ratios(&policy, Scoring::AtTemperature(1.0), rng);
        assert!(ratios.iter().filter(|x| x.exp() > 1.2 || x.exp() < 0.8).count() > 10);
        let (share, cosine) = scored_at(&policy, TEMPERATURE).unwrap();
        assert!(share == 0.0 && cosine > 1.0 - 1e-9);
        for other in [0.4, 1.0, 1.5] {
            let (share, cosine) = scored_at(&policy, other).unwrap();
            assert!(share > 0.05 && cosine < 1.0 - 5e-5, "{other}: {share} {cosine}");
        }
        // Centred rewards hide most of it. Raw ones do not: a constant reward would move
        // the policy.
        let (exact, _) = truth(&policy).unwrap();
        let raw = gradient(&policy, Scoring::AtTemperature(1.0), 0.0).unwrap();
        assert!(self::cosine(&raw, &exact) < 0.99);
    }
}
