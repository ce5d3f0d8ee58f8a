//! What must hold for any shapes, masks and rewards.

use crate::{agree_with_finite_differences, numbers, worst};
use candle_core::{DType, Device::Cpu, Tensor, Var};
use grpo::{
    advantage::{self, Scale, group_relative},
    kl::Estimator,
    mask,
    objective::{Aggregation, Batch, Kl, Objective, Ratio, Term, recipe, recipes},
    seed,
    variables::Variables,
};
use proptest::prelude::*;

/// Sampler, reference, advantages and mask of B sequences of at most T tokens.
struct World {
    log_probs: Tensor,
    old_log_probs: Tensor,
    ref_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
}

impl World {
    fn new(lengths: &[usize], width: usize, seed: u64) -> Self {
        let mut rng = seed::rng(seed);
        let shape = (lengths.len(), width);
        let mut normal =
            |std: f64| seed::normal(&mut rng, shape, std, DType::F64, &Cpu).unwrap();
        let old_log_probs = (normal(0.5) - 2.0).unwrap();
        Self {
            log_probs: (&old_log_probs + normal(0.3)).unwrap(),
            ref_log_probs: (&old_log_probs + normal(0.3)).unwrap(),
            advantages: normal(1.0).narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
            mask: mask::of_lengths(lengths, width, &Cpu).unwrap(),
            old_log_probs,
        }
    }

    fn loss(&self, objective: &Objective, log_probs: &Tensor) -> grpo::Result<Tensor> {
        let batch = Batch {
            old_log_probs: Some(&self.old_log_probs),
            ref_log_probs: Some(&self.ref_log_probs),
            ..Batch::new(log_probs, &self.advantages, &self.mask)
        };
        Ok(objective.loss(&batch)?.0)
    }

    /// The bits of loss and gradient.
    fn bits(&self, objective: &Objective) -> Vec<u64> {
        let log_probs = Var::from_tensor(&self.log_probs).unwrap();
        let loss = self.loss(objective, &log_probs).unwrap();
        let gradient = loss.backward().unwrap().get(&log_probs).unwrap().clone();
        let all = [numbers(&loss), numbers(&gradient)].concat();
        all.into_iter().map(f64::to_bits).collect()
    }
}

/// Every recipe, each with and without the penalty and the off-policy filter.
fn objectives(width: usize) -> Vec<Objective> {
    let with = |(coef, threshold)| {
        recipes(width).map(|recipe| Objective {
            kl: Kl::new(coef),
            off_policy_threshold: threshold,
            ..recipe.objective
        })
    };
    [(0.0, None), (0.1, None), (0.1, Some(0.0))].into_iter().flat_map(with).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn padding_may_hold_anything(
        lengths in prop::collection::vec(1usize..5, 1..5),
        seed: u64,
        poison in prop::sample::select(vec![f64::NAN, f64::INFINITY, -1e300, 800.0]),
    ) {
        let clean = World::new(&lengths, 5, seed);
        let spoil = |x: &Tensor| {
            let poison = Tensor::full(poison, x.shape(), &Cpu).unwrap();
            clean.mask.where_cond(x, &poison).unwrap()
        };
        let dirty = World {
            log_probs: spoil(&clean.log_probs),
            old_log_probs: spoil(&clean.old_log_probs),
            ref_log_probs: spoil(&clean.ref_log_probs),
            advantages: clean.advantages.clone(),
            mask: clean.mask.clone(),
        };
        let padded: Vec<bool> = numbers(&clean.mask).iter().map(|&m| m == 0.0).collect();
        for objective in objectives(5) {
            let bits = clean.bits(&objective);
            prop_assert_eq!(&bits, &dirty.bits(&objective), "{:?}", objective);
            for (gradient, padded) in bits[1..].iter().zip(&padded) {
                prop_assert!(!padded || f64::from_bits(*gradient) == 0.0);
            }
        }
    }

    #[test]
    fn order_of_sequences_changes_nothing(
        lengths in prop::collection::vec(1usize..5, 2..6), seed: u64,
    ) {
        let world = World::new(&lengths, 4, seed);
        let reversed: Vec<u32> = (0..lengths.len() as u32).rev().collect();
        let reversed = Tensor::new(reversed, &Cpu).unwrap();
        let turn = |x: &Tensor| x.contiguous().unwrap().index_select(&reversed, 0).unwrap();
        let turned = World {
            log_probs: turn(&world.log_probs),
            old_log_probs: turn(&world.old_log_probs),
            ref_log_probs: turn(&world.ref_log_probs),
            advantages: turn(&world.advantages),
            mask: turn(&world.mask),
        };
        for objective in objectives(4) {
            let loss = |world: &World| {
                numbers(&world.loss(&objective, &world.log_probs).unwrap())
            };
            prop_assert!(worst(&loss(&world), &loss(&turned)) < 1e-12);
        }
    }

    #[test]
    fn advantages_compare_within_the_group(
        group_size in 2usize..6, groups in 1usize..5, shift in -50f64..50.0, seed: u64,
    ) {
        let mut rng = seed::rng(seed);
        let rewards = seed::normal(&mut rng, group_size * groups, 1.0, DType::F64, &Cpu);
        let rewards = numbers(&rewards.unwrap());
        for scale in [Scale::None, Scale::Population, Scale::Unbiased, Scale::Trl, Scale::TrlBatch] {
            let advantages = group_relative(&rewards, group_size, scale).unwrap();
            for group in advantages.chunks(group_size) {
                prop_assert!(group.iter().sum::<f64>().abs() < 1e-9);
            }
            // Groups in another order: the same advantages in that order.
            let backwards: Vec<f64> =
                rewards.chunks(group_size).rev().flatten().copied().collect();
            let theirs = group_relative(&backwards, group_size, scale).unwrap();
            let back: Vec<f64> = theirs.chunks(group_size).rev().flatten().copied().collect();
            prop_assert!(worst(&advantages, &back) < 1e-12);
            // All rewards of one group shifted: nothing, unless σ is the batch's.
            let mut shifted = rewards.clone();
            shifted[..group_size].iter_mut().for_each(|reward| *reward += shift);
            let theirs = group_relative(&shifted, group_size, scale).unwrap();
            if scale != Scale::TrlBatch {
                prop_assert!(worst(&advantages, &theirs) < 1e-9);
            }
            // The largest advantage that a group of G allows, (G − 1)/√G, less with √G n.
            let largest = advantages.iter().fold(0f64, |max, a| max.max(a.abs()));
            let g = group_size as f64;
            if scale == Scale::Unbiased {
                prop_assert!(largest <= (g - 1.0) / g.sqrt() + 1e-12);
            }
        }
    }

    #[test]
    fn equal_rewards_give_exactly_zero(
        reward in -1e6f64..1e6, group_size in 2usize..9,
    ) {
        let rewards = vec![reward; group_size];
        for scale in [Scale::None, Scale::Population, Scale::Unbiased, Scale::Trl, Scale::TrlBatch] {
            let advantages = group_relative(&rewards, group_size, scale).unwrap();
            prop_assert!(advantages.iter().all(|&a| a == 0.0));
        }
        prop_assert_eq!(advantage::silent_groups(&rewards, group_size).unwrap(), 1.0);
    }
}

#[test]
fn every_objective_agrees_with_finite_differences() {
    let world = World::new(&[4, 2, 1, 3], 4, 11);
    let log_probs = Var::from_tensor(&world.log_probs).unwrap();
    let tensor = log_probs.as_tensor().clone();
    let variables = Variables::from([("log_probs".to_string(), log_probs)]);
    for recipe in recipes(4) {
        // The weights of CISPO and VESPO have no gradient, but finite differences see
        // them move: there, only the tests against TRL can tell.
        if ["cispo", "vespo"].contains(&recipe.name) {
            continue;
        }
        for estimator in [Estimator::K1, Estimator::K2, Estimator::K3] {
            for corrected in [false, true] {
                let kl = Kl { coef: 0.3, estimator, corrected };
                let objective = Objective { kl, ..recipe.objective };
                agree_with_finite_differences(&variables, || {
                    world.loss(&objective, &tensor)
                });
            }
        }
    }
}

/// The objective once more as plain loops over one sequence at a time.
fn by_hand(world: &World, objective: &Objective) -> f64 {
    let table = |x: &Tensor| x.to_vec2::<f64>().unwrap();
    let (new, old, reference) =
        (table(&world.log_probs), table(&world.old_log_probs), table(&world.ref_log_probs));
    let advantages = numbers(&world.advantages);
    let lengths: Vec<usize> = world
        .mask
        .to_vec2::<u8>()
        .unwrap()
        .iter()
        .map(|row| row.iter().map(|&m| usize::from(m)).sum())
        .collect();
    let mut sums = Vec::new();
    for (i, &length) in lengths.iter().enumerate() {
        let a = advantages[i];
        let log_ratio = |t: usize| new[i][t] - old[i][t];
        let total: f64 = (0..length).map(log_ratio).sum();
        let mean = total / length.max(1) as f64;
        let mut sum = 0.0;
        for t in 0..length {
            let ratio = match objective.ratio {
                Ratio::Token => log_ratio(t).exp(),
                Ratio::Sequence => mean.exp(),
            };
            let mut loss = match objective.term {
                Term::Clip { low, high, bound } => {
                    let free = ratio.min(bound.unwrap_or(f64::INFINITY)) * a;
                    -free.min(ratio.clamp(1.0 - low, 1.0 + high) * a)
                }
                Term::Cispo { cap } => -ratio.min(cap) * a * new[i][t],
                Term::Sapo { tau_positive, tau_negative } => {
                    let tau = if a > 0.0 { tau_positive } else { tau_negative };
                    -4.0 / tau * a / (1.0 + (-tau * (ratio - 1.0)).exp())
                }
                Term::Vespo { positive, negative } => {
                    let (k, lambda) = if a >= 0.0 { positive } else { negative };
                    let w = total.exp();
                    -w.powf(k) * (lambda * (1.0 - w)).exp() * a * new[i][t]
                }
            };
            if objective.off_policy_threshold.is_some_and(|limit| a < 0.0 && -mean > limit)
            {
                loss = 0.0;
            }
            let d = reference[i][t] - new[i][t];
            let kl = match objective.kl.estimator {
                Estimator::K1 => -d,
                Estimator::K2 => d * d / 2.0,
                Estimator::K3 => d.exp() - d - 1.0,
            };
            let correction = if objective.kl.corrected { ratio } else { 1.0 };
            sum += loss + objective.kl.coef * kl * correction;
        }
        sums.push(sum);
    }
    let sequences = sums.len() as f64;
    let tokens = lengths.iter().sum::<usize>() as f64;
    let total: f64 = sums.iter().sum();
    match objective.aggregation {
        Aggregation::SequenceMean => {
            sums.iter().zip(&lengths).map(|(s, &n)| s / n.max(1) as f64).sum::<f64>()
                / sequences
        }
        Aggregation::TokenMean | Aggregation::GlobalTokens => total / tokens,
        Aggregation::ConstantLength(length) => total / (sequences * length as f64),
        Aggregation::LengthWeighted => total / sequences,
    }
}

#[test]
fn every_combination_equals_plain_loops() {
    let mut world = World::new(&[5, 1, 3, 4, 2], 5, 7);
    world.mask =
        mask::without_truncated(&world.mask, &[false, false, true, false, false]).unwrap();
    let clip = |low, high, bound| Term::Clip { low, high, bound };
    let named = |name| recipe(name, 5).unwrap().objective.term;
    let terms = [
        clip(0.2, 0.2, None),
        clip(0.0, 0.28, None),
        clip(0.1, 0.3, Some(1.1)),
        Term::Cispo { cap: 1.1 },
        named("cispo"),
        named("sapo"),
        named("vespo"),
    ];
    let estimators = [Estimator::K1, Estimator::K2, Estimator::K3];
    let mut count = 0;
    for ratio in [Ratio::Token, Ratio::Sequence] {
        for term in terms {
            for aggregation in recipes(9).map(|recipe| recipe.objective.aggregation) {
                for (estimator, corrected) in
                    estimators.into_iter().flat_map(|e| [(e, false), (e, true)])
                {
                    for (coef, off_policy_threshold) in
                        [(0.0, None), (0.3, None), (0.3, Some(0.05)), (0.0, Some(-0.05))]
                    {
                        let kl = Kl { coef, estimator, corrected };
                        let objective = Objective {
                            ratio,
                            term,
                            aggregation,
                            kl,
                            off_policy_threshold,
                        };
                        let ours =
                            numbers(&world.loss(&objective, &world.log_probs).unwrap())[0];
                        let theirs = by_hand(&world, &objective);
                        assert!(
                            (ours - theirs).abs() < 1e-12,
                            "{objective:?}: {ours} {theirs}"
                        );
                        count += 1;
                    }
                }
            }
        }
    }
    assert_eq!(count, 2 * 7 * 9 * 6 * 4);
}
