use super::*;
use crate::notebook::{REPAIRS, Repairs};
use std::sync::OnceLock;

const CPU: Device = Device::Cpu;

/// All seeds of the three methods, on other seeds than the page's, trained once.
fn trained() -> &'static Methods {
    static TRAINED: OnceLock<Methods> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let run = RunArgs { seed: 100, device: CPU, out: None };
        train_methods(&run, Effort { seeds: SEEDS, budget: BUDGET }).unwrap()
    })
}

fn mean(numbers: &[f64]) -> f64 {
    stats::mean_std(numbers).0
}

#[test]
fn rules_by_hand_survive_as_long_as_the_page_says() {
    let starts = fresh_starts(100);
    let mut rng = seed::rng(100);
    let random = cartpole::rollout(starts.clone(), random(&mut rng)).unwrap();
    let angle = cartpole::rollout(starts.clone(), angle).unwrap();
    let better = cartpole::rollout(starts, angle_and_spin).unwrap();
    assert!((17.0..30.0).contains(&mean(&random.returns())), "{:?}", random.steps);
    assert!((36.0..48.0).contains(&mean(&angle.returns())), "{:?}", angle.steps);
    assert!((450.0..499.0).contains(&mean(&better.returns())), "{:?}", better.steps);
    // The better rule knows nothing of the track: every one of its failures is there.
    for (end, last) in better.ends.iter().zip(&better.last) {
        assert!(*end == End::Truncated || last[0].abs() > MAX_POSITION, "fell at {last:?}");
    }
}

#[test]
fn grpo_balances_at_the_end_of_training_on_every_seed() {
    let means = final_means(&trained().grpo);
    assert!(means.len() >= 5 && means.iter().all(|mean| *mean >= GOOD), "{means:?}");
    assert!(mean(&means) >= 485.0, "{means:?}");
    // And it holds it: the last five batches, none of which were chosen.
    for one in &trained().grpo {
        let last: Vec<f64> =
            one.curve.iter().rev().take(5).map(|point| point.steps).collect();
        assert!(mean(&last) >= GOOD, "{last:?}");
    }
}

#[test]
fn grpo_beats_reinforce_and_a_baseline_helps_reinforce() {
    let Methods { reinforce, baseline, grpo } = trained();
    let [none, baseline, grpo] =
        [final_means(reinforce), final_means(baseline), final_means(grpo)]
            .map(|m| mean(&m));
    assert!(
        none < 475.0 && none + 15.0 < baseline && baseline < grpo,
        "{none} {baseline} {grpo}"
    );
    let area = |seeds: &[Trained<Mlp>]| {
        let curves = on_grid(seeds, &grid(BUDGET), |p| p.steps);
        mean(&curves.iter().map(|curve| mean(curve)).collect::<Vec<_>>())
    };
    let Methods { reinforce, baseline, grpo } = trained();
    assert!(area(grpo) > area(baseline) + 20.0, "{} {}", area(grpo), area(baseline));
    assert!(
        area(baseline) > area(reinforce) + 10.0,
        "{} {}",
        area(baseline),
        area(reinforce)
    );
}

/// The loop of the notebook on five seeds, repaired as in this row of the table.
fn loops(row: usize) -> Vec<notebook::Seen> {
    let repairs: Repairs = REPAIRS[row].1.into();
    seed::over_seeds(5, |seed| notebook::run(repairs, 100 + seed, &CPU)).unwrap()
}

#[test]
fn an_old_policy_that_is_the_new_one_moves_no_weight() {
    for row in [0, 2] {
        for seen in loops(row) {
            assert_eq!((seen.gradient, seen.moved), (0.0, 0.0), "{}", REPAIRS[row].0);
        }
    }
}

#[test]
fn broadcasting_leaves_nothing_but_rounding() {
    for seen in loops(1) {
        assert!(
            seen.gradient < 1e-5 && seen.loss < 1e-5,
            "{} {}",
            seen.gradient,
            seen.loss
        );
        assert!(seen.last < 40.0, "survives {} steps", seen.last);
    }
}

#[test]
fn weights_that_move_learn_only_from_every_step() {
    let (four, all) = (loops(3), loops(4));
    for (four, all) in four.iter().zip(&all) {
        assert!(four.gradient > 0.01 && four.moved > 0.1);
        assert!(all.last > 350.0, "survives {} steps", all.last);
        assert!(all.last > four.last + 100.0, "{} {}", all.last, four.last);
    }
}

#[test]
fn candle_refuses_what_the_notebook_broadcasts() {
    let column = Tensor::ones((4, 1), DType::F32, &CPU).unwrap();
    let row = Tensor::ones(4, DType::F32, &CPU).unwrap();
    assert!((&column * &row).is_err());
    assert_eq!(column.broadcast_mul(&row).unwrap().dims(), [4, 4]);
}

/// A batch of short episodes, in two groups of which the second is silent.
fn small_batch(policy: &Mlp) -> (Episodes, Batch) {
    let starts = cartpole::group_starts(2, 3, &mut seed::rng(1));
    let played =
        cartpole::rollout(starts, cartpole::sampled(policy, &mut seed::rng(2), &CPU))
            .unwrap();
    let advantages = credit(&[1.5, -0.5, -1.0, 0.0, 0.0, 0.0], &played.episode);
    let batch = Batch::new(&played, &advantages, &CPU).unwrap().unwrap();
    (played, batch)
}

#[test]
fn a_batch_keeps_the_steps_that_have_something_to_say() {
    let policy = network(&mut seed::rng(0), &CPU).unwrap();
    let (played, batch) = small_batch(&policy);
    let kept: usize = played.steps[..3].iter().sum();
    assert_eq!(batch.states.dims(), [kept, 1, 4]);
    assert_eq!(batch.actions.dims(), [kept, 1]);
    let expected = 1.5 * played.steps[0] as f32
        - 0.5 * played.steps[1] as f32
        - 1.0 * played.steps[2] as f32;
    let sum = batch.advantages.sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((sum - expected).abs() < 1e-3, "{sum} {expected}");
    assert!(Batch::new(&played, &vec![0.0; played.actions.len()], &CPU).unwrap().is_none());
}

#[test]
fn with_one_epoch_the_objective_is_reinforce() {
    let policy = network(&mut seed::rng(0), &CPU).unwrap();
    let (_, batch) = small_batch(&policy);
    let log_probs =
        || log_prob::of(&policy.logits(&batch.states).unwrap(), &batch.actions).unwrap();
    let new = log_probs();
    let seen = objective::Batch::new(&new, &batch.advantages, &batch.mask);
    let (loss, _) = objective(CLIP).loss(&seen).unwrap();
    let score = (log_probs().squeeze(1).unwrap() * &batch.advantages).unwrap();
    let score = score.mean_all().unwrap().neg().unwrap();
    let gradients =
        [loss, score].map(|loss| gradients::of(&loss, policy.variables()).unwrap());
    for (name, variable) in policy.variables() {
        let [a, b] =
            [&gradients[0], &gradients[1]].map(|g| g.get(variable).unwrap().clone());
        let largest =
            |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let (size, apart) = (largest(&a), largest(&(&a - b).unwrap()));
        assert!(size > 0.0 && apart < 1e-4 * size, "{name}: {apart} of {size}");
    }
}

#[test]
fn two_runs_of_one_seed_are_one() {
    let one = || {
        let new = |rng: &mut StdRng| network(rng, &CPU);
        train_one(new, &Recipe::grpo(10_000), 7, &CPU).unwrap()
    };
    let (first, second) = (one(), one());
    let steps =
        |t: &Trained<Mlp>| t.curve.iter().map(|p| (p.used, p.steps)).collect::<Vec<_>>();
    assert_eq!(steps(&first), steps(&second));
    assert_eq!(first.fresh, second.fresh);
}

#[test]
fn curves_meet_on_a_grid() {
    let point = |used: f64, steps: f64| Point {
        used,
        steps,
        silent: 0.0,
        norm: 0.0,
        clipped: 0.0,
        entropy: 0.0,
    };
    let curve = vec![point(0.0, 20.0), point(10.0, 40.0), point(30.0, 0.0)];
    let one = Trained { policy: (), curve, fresh: vec![] };
    let at = on_grid(&[one], &[0.0, 5.0, 10.0, 20.0, 99.0], |p| p.steps);
    assert_eq!(at, [[20.0, 30.0, 40.0, 20.0, 0.0]]);
}

#[test]
fn a_trace_ends_where_the_episode_ended() {
    let played = cartpole::rollout(vec![[0.0; 4]], |s| Ok(vec![1; s.len()])).unwrap();
    let episode = trace::Episode::new("right", &played);
    assert_eq!((episode.steps, episode.end), (9, "fell"));
    // Before steps 0, 2, 4, 6, 8, and after the last.
    assert_eq!(episode.angle, [0.0, -0.006, -0.035, -0.088, -0.166, -0.215]);
}
