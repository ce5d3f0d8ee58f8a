use super::*;
use candle_core::Var;
use grpo::{dpo, mask, policy, ppo};

const CPU: Device = Device::Cpu;

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Autograd against finite differences, for every variable.
fn check_gradients(variables: &Variables, loss: impl Fn() -> Result<Tensor>) {
    let gradients = gradients::of(&loss().unwrap(), variables).unwrap();
    for (name, expected) in gradients::finite_differences(variables, 1e-5, loss).unwrap() {
        let found = gradients.get(&variables[&name]).unwrap().flatten_all().unwrap();
        let apart = furthest(&found.to_vec1().unwrap(), &expected);
        assert!(apart < 1e-8, "{name}: {apart}");
    }
}

fn variable(numbers: &[f64]) -> Var {
    Var::from_tensor(&Tensor::new(numbers, &CPU).unwrap()).unwrap()
}

#[test]
fn bradley_terry_has_the_right_gradient_and_never_overflows() {
    let (chosen, rejected) =
        (variable(&[0.3, -1.0, 2.0, 0.0]), variable(&[1.1, -1.0, -3.0, 0.5]));
    let variables =
        Variables::from([("w".into(), chosen.clone()), ("l".into(), rejected.clone())]);
    check_gradients(&variables, || reward_model::loss(&chosen, &rejected));
    let (low, high) = (variable(&[-1000.0]), variable(&[1000.0]));
    let loss =
        |a: &Var, b: &Var| reward_model::loss(a, b).unwrap().to_scalar::<f64>().unwrap();
    assert_eq!(loss(&low, &high), 2000.0);
    assert_eq!(loss(&high, &low), 0.0);
    let error = reward_model::loss(&low, &chosen).unwrap_err().to_string();
    assert_eq!(
        error,
        "chosen is [1] and rejected [4]; both must be (B), with B at least 1"
    );
}

/// Every ordered pair (winner, loser) of `strengths`, as often as Bradley and Terry say.
fn tournament(strengths: &[f64], rounds: f64) -> (Tensor, Tensor) {
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for (w, a) in strengths.iter().enumerate() {
        for (l, b) in strengths.iter().enumerate().filter(|(l, _)| *l != w) {
            let times = (rounds * sigmoid(a - b)).round() as usize;
            winners.extend(std::iter::repeat_n(w as u32, times));
            losers.extend(std::iter::repeat_n(l as u32, times));
        }
    }
    (Tensor::new(winners, &CPU).unwrap(), Tensor::new(losers, &CPU).unwrap())
}

#[test]
fn bradley_terry_recovers_known_strengths() {
    // They sum to 0: comparisons do not say where 0 is.
    let strengths = [1.5, 0.5, 0.0, -0.2, -1.8];
    let (winners, losers) = tournament(&strengths, 500.0);
    let learnt = variable(&[0.0; 5]);
    let variables = Variables::from([("r".to_string(), learnt.clone())]);
    let mut optimizer = candle_nn::SGD::new(vec![learnt.clone()], 4.0).unwrap();
    for _ in 0..200 {
        let of = |ids: &Tensor| learnt.index_select(ids, 0).unwrap();
        let loss = reward_model::loss(&of(&winners), &of(&losers)).unwrap();
        optimizer.step(&gradients::of(&loss, &variables).unwrap()).unwrap();
    }
    let apart = furthest(&learnt.to_vec1().unwrap(), &strengths);
    assert!(apart < 0.01, "{apart}: {learnt:?}");
}

#[test]
fn dpo_on_a_worked_pair() {
    let (chosen, rejected) = (variable(&[-1.0]), variable(&[-2.0]));
    let reference = (variable(&[-1.2]), variable(&[-1.5]));
    let loss = || {
        let policy = Pairs { chosen: &chosen, rejected: &rejected };
        dpo::loss(policy, Pairs { chosen: &reference.0, rejected: &reference.1 }, 0.1)
    };
    // −log σ(0.07), and −β σ(−0.07) = −0.1 · 0.482507 by hand.
    assert!((loss().unwrap().to_scalar::<f64>().unwrap() - 0.658759).abs() < 1e-6);
    let variables =
        Variables::from([("w".into(), chosen.clone()), ("l".into(), rejected.clone())]);
    let gradients = gradients::of(&loss().unwrap(), &variables).unwrap();
    let gradient = |v: &Var| gradients.get(v).unwrap().to_vec1::<f64>().unwrap()[0];
    assert!((gradient(&chosen) + 0.0482507).abs() < 1e-7);
    assert!((gradient(&rejected) - 0.0482507).abs() < 1e-7);
    assert!(gradients.get(&reference.0).is_none(), "the reference must not learn");
    for beta in [0.0, -1.0, f64::INFINITY] {
        let policy = Pairs { chosen: &chosen, rejected: &rejected };
        let error = dpo::loss(policy, policy, beta).unwrap_err().to_string();
        assert_eq!(error, format!("beta is {beta}; it must be above 0"));
    }
}

#[test]
fn dpo_has_the_right_gradient_and_finds_the_optimum_of_the_leash() {
    let strengths = [1.0, 0.4, -0.3, -1.1];
    let beta = 0.5;
    let (winners, losers) = tournament(&strengths, 500.0);
    let reference = [0.2, -0.4, 0.9, 0.1];
    let ref_logits = Tensor::new(&reference, &CPU).unwrap();
    let logits = Var::from_tensor(&(&ref_logits * 1.3).unwrap()).unwrap();
    let variables = Variables::from([("logits".to_string(), logits.clone())]);
    let loss = || {
        let of = |logits: &Tensor, ids: &Tensor| -> Result<Tensor> {
            Ok(log_prob::table(logits)?.index_select(ids, 0)?)
        };
        let say = |logits: &Tensor| -> Result<[Tensor; 2]> {
            Ok([of(logits, &winners)?, of(logits, &losers)?])
        };
        let ([w, l], [ref_w, ref_l]) = (say(&logits)?, say(&ref_logits)?);
        let reference = Pairs { chosen: &ref_w, rejected: &ref_l };
        dpo::loss(Pairs { chosen: &w, rejected: &l }, reference, beta)
    };
    check_gradients(&variables, loss);
    let mut optimizer = candle_nn::SGD::new(vec![logits.clone()], 8.0).unwrap();
    for _ in 0..200 {
        optimizer.step(&gradients::of(&loss().unwrap(), &variables).unwrap()).unwrap();
    }
    // π ∝ π_ref e^{r/β}, in plain numbers.
    let weights: Vec<f64> =
        strengths.iter().zip(reference).map(|(r, l)| (l + r / beta).exp()).collect();
    let expected: Vec<f64> =
        weights.iter().map(|w| w / weights.iter().sum::<f64>()).collect();
    let apart = furthest(&log_prob::probabilities(&logits).unwrap(), &expected);
    assert!(apart < 0.003, "{apart}");
}

/// Two completions of 3 and 2 tokens; the padding holds nonsense.
fn ppo_rollout() -> Rollout {
    let prompts = Tensor::zeros((2, 1), DType::U32, &CPU).unwrap();
    let tokens = Tensor::new(&[[1u32, 2, 3], [4, 5, 0]], &CPU).unwrap();
    let mask = mask::of_lengths(&[3, 2], 3, &CPU).unwrap();
    let old = Tensor::new(&[[-1.0f64, -1.0, -1.0], [-1.0, -1.0, f64::NAN]], &CPU).unwrap();
    Rollout::new(prompts, tokens, mask, old, vec![1.0, 0.0], 2, Scale::None).unwrap()
}

fn ppo_settings(kl_coef: f64) -> Ppo {
    Ppo { objective: objective(kl_coef), gamma: 1.0, lambda: 0.95, value_coef: 0.5 }
}

#[test]
fn ppo_by_hand() {
    let (rollout, ppo) = (ppo_rollout(), ppo_settings(0.0));
    let values = Tensor::new(&[[0.5f64, 0.6, 0.7], [0.2, 0.4, 9.0]], &CPU).unwrap();
    let estimates = ppo.estimate(&rollout, &values).unwrap();
    let row = |x: &Tensor, i: usize| x.get(i).unwrap().to_vec1::<f64>().unwrap();
    // δ = .1, .1, .3 and .2, −.4.
    assert!(furthest(&row(&estimates.advantages, 0), &[0.46575, 0.385, 0.3]) < 1e-12);
    assert!(furthest(&row(&estimates.advantages, 1), &[-0.18, -0.4, 0.0]) < 1e-12);
    assert!(furthest(&row(&estimates.returns, 0), &[0.96575, 0.985, 1.0]) < 1e-12);
    assert!(furthest(&row(&estimates.returns, 1), &[0.02, 0.0, 0.0]) < 1e-12);
    // Ratios 1.5 (cut to 1.2), 1, .5 (a loss of a good token is not cut); 1, .5 (cut to .8).
    let half = 0.5f64.ln() - 1.0;
    let log_probs =
        Tensor::new(&[[1.5f64.ln() - 1.0, -1.0, half], [-1.0, half, f64::NAN]], &CPU)
            .unwrap();
    let (loss, metrics) = ppo.loss(&rollout, &estimates, &log_probs, &values).unwrap();
    let policy = -(0.5589 + 0.385 + 0.15 - 0.18 - 0.32) / 5.0;
    let critic = (0.46575f64.powi(2) + 0.385f64.powi(2) + 0.09 + 0.0324 + 0.16) / 10.0;
    let expected = policy + 0.5 * critic;
    assert!((loss.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
    assert!(
        (metrics.clip_high - 0.2).abs() < 1e-12 && (metrics.clip_low - 0.2).abs() < 1e-12
    );
    // With λ = 1 the critic's later opinions cancel: A = R − V.
    let plain = Ppo { lambda: 1.0, ..ppo }.estimate(&rollout, &values).unwrap();
    assert!(furthest(&row(&plain.advantages, 0), &[0.5, 0.4, 0.3]) < 1e-12);
    let whitened = row(
        &estimates
            .whitened(&rollout.mask)
            .unwrap()
            .advantages
            .flatten_all()
            .unwrap()
            .unsqueeze(0)
            .unwrap(),
        0,
    );
    assert!(whitened.iter().sum::<f64>().abs() < 1e-9 && whitened[5] == 0.0);
    assert!((whitened.iter().map(|a| a * a).sum::<f64>() / 5.0 - 1.0).abs() < 1e-6);
    let error =
        ppo.estimate(&rollout, &values.narrow(1, 0, 2).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "values is [2, 2] and tokens [2, 3]; they must agree");
}

#[test]
fn ppo_has_the_right_gradients_for_policy_and_critic() {
    let ppo = ppo_settings(0.3);
    let reference = Tensor::new(&[[-1.4f64, -0.7, -1.1], [-0.9, -2.0, 0.0]], &CPU).unwrap();
    let rollout = ppo_rollout().with_reference(&reference).unwrap();
    let log_probs = variable(&[-1.02, -0.9, -1.5, -1.1, -0.95, 3.0]);
    let values = variable(&[0.5, 0.6, 0.7, 0.2, 0.4, 9.0]);
    let estimates = ppo.estimate(&rollout, &values.reshape((2, 3)).unwrap()).unwrap();
    let variables = Variables::from([
        ("policy".into(), log_probs.clone()),
        ("critic".into(), values.clone()),
    ]);
    check_gradients(&variables, || {
        let (log_probs, values) = (log_probs.reshape((2, 3))?, values.reshape((2, 3))?);
        Ok(ppo.loss(&rollout, &estimates, &log_probs, &values)?.0)
    });
    let returns = Tensor::zeros((2, 3), DType::F64, &CPU).unwrap();
    assert!(ppo::value_loss(&values, &returns, &rollout.mask).is_err());
}

fn labs(teacher: Teacher, comparisons: usize) -> Vec<Lab> {
    seed::over_seeds(6, |seed| Lab::new(teacher, comparisons, 100 + seed, &CPU)).unwrap()
}

fn all(labs: &[Lab], method: Method, kl_coef: f64) -> Vec<Measured> {
    in_all(labs, |lab| train_by(lab, method, kl_coef)).unwrap()
}

fn average(measured: &[Measured], number: impl Fn(&Measured) -> f64) -> f64 {
    mean(measured.iter().map(number))
}

#[test]
fn measurements_are_exact_sums() {
    let lab = &labs(Teacher::Mediocre, 50)[0];
    let policy = Mlp::new([8, HIDDEN, 10], &mut seed::rng(5), DType::F32, &CPU).unwrap();
    let rows = |policy: &Mlp| -> Vec<Vec<f64>> {
        let logits = policy.logits(&lab.world.features).unwrap();
        (0..5).map(|c| log_prob::probabilities(&logits.get(c).unwrap()).unwrap()).collect()
    };
    let (p, q, r) =
        (rows(&policy), rows(&lab.sft), lab.world.rewards.to_vec2::<f32>().unwrap());
    let sum = |f: &dyn Fn(usize, usize) -> f64| -> f64 {
        (0..5).flat_map(|c| (0..10).map(move |a| (c, a))).map(|(c, a)| f(c, a)).sum::<f64>()
            / 5.0
    };
    let measured = Measured::new(lab, &policy).unwrap();
    assert!((measured.reward - sum(&|c, a| p[c][a] * f64::from(r[c][a]))).abs() < 1e-6);
    assert!((measured.kl - sum(&|c, a| p[c][a] * (p[c][a] / q[c][a]).ln())).abs() < 1e-5);
    let sft = Measured::new(lab, &lab.sft).unwrap();
    assert!(sft.kl.abs() < 1e-6 && (sft.promised - sft.reward).abs() < 1e-5);
}

/// What the leash maximises, in units of `judged`.
fn leashed(lab: &Lab, measured: &Measured, beta: f64) -> f64 {
    let start = lab.world.expected_reward(&lab.sft).unwrap();
    (measured.promised - start) / lab.unit - beta * measured.kl
}

#[test]
fn nothing_beats_the_optimum_and_reinforce_reaches_it_where_grpo_overshoots() {
    let labs = labs(Teacher::Mediocre, USUAL);
    let beta = 0.5;
    let (reinforce, rloo) =
        (all(&labs, Method::Reinforce, beta), all(&labs, Method::Rloo, beta));
    let (grpo, centred) =
        (all(&labs, Method::Grpo, beta), all(&labs, Method::Centred, beta));
    for (i, lab) in labs.iter().enumerate() {
        let optimum = optimum(lab, beta).unwrap();
        let best = leashed(lab, &optimum, beta);
        for measured in [reinforce[i], rloo[i], grpo[i]] {
            let found = leashed(lab, &measured, beta);
            assert!(found < best + 1e-4, "seed {i}: {found} beats {best}");
        }
        for measured in [reinforce[i], rloo[i]] {
            let found = leashed(lab, &measured, beta);
            assert!(found > 0.8 * best, "seed {i}: {found} of {best}");
        }
        // It is σ that does it: where the policy has settled, σ is small, and dividing by
        // it makes the reward large and the leash small beside it.
        assert!(grpo[i].kl > 1.5 * optimum.kl, "seed {i}: {} {}", grpo[i].kl, optimum.kl);
        assert!(
            centred[i].kl < 1.4 * optimum.kl,
            "seed {i}: {} {}",
            centred[i].kl,
            optimum.kl
        );
    }
}

#[test]
fn the_model_orders_what_was_compared_and_guesses_the_rest() {
    let labs = labs(Teacher::Mediocre, USUAL);
    let mut sums = [Ordered::default(); 4];
    for lab in &labs {
        let bins = order_all(lab).unwrap();
        assert_eq!(bins.iter().map(|bin| bin.pairs).sum::<f64>(), 225.0);
        for (sum, bin) in sums.iter_mut().zip(bins) {
            sum.pairs += bin.pairs;
            sum.right += bin.right;
        }
    }
    let share = |i: usize| sums[i].right / sums[i].pairs;
    assert!((0.35..0.65).contains(&share(0)), "never compared: {}", share(0));
    assert!(share(1) > share(0) + 0.1 && share(2) > 0.75, "{} {}", share(1), share(2));
    let decided = mean(labs.iter().map(|lab| annotators(lab, DECIDED).unwrap()));
    let blunt = mean(labs.iter().map(|lab| annotators(lab, 1.0).unwrap()));
    assert!(decided > 0.7 && blunt < 0.6, "{decided} {blunt}");
}

#[test]
fn verified_rewards_sharpen_an_easy_start_and_turn_a_hard_one() {
    for (teacher, gap) in [(Teacher::Good, 0.0), (Teacher::Mediocre, 0.03)] {
        let labs = labs(teacher, 50);
        let verified = all(&labs, Method::Verified, KL_COEF);
        for (lab, after) in labs.iter().zip(&verified) {
            let (best, before) =
                (lab.world.best_reward().unwrap(), Measured::new(lab, &lab.sft).unwrap());
            match teacher {
                // The likeliest answer was right, or nearly, before any reward was seen.
                Teacher::Good => {
                    assert!(before.greedy > best - 0.03, "{teacher:?}: {before:?}")
                }
                Teacher::Mediocre => {
                    assert!(before.greedy < best - gap, "{teacher:?}: {before:?}")
                }
            }
            assert!(before.reward < best - 0.08, "{teacher:?}: {before:?}");
            assert!(after.reward > best - 0.03, "{teacher:?}: {after:?} of {best}");
        }
    }
}

#[test]
fn a_poor_judge_is_over_optimised_and_a_good_one_is_not() {
    let (usual, many) = (labs(Teacher::Good, 100), labs(Teacher::Good, 1000));
    let end = |labs: &[Lab]| {
        let curve = frontier(labs).unwrap();
        let peak = curve.iter().map(|point| point[1]).fold(0.0, f64::max);
        let [_, reward, promised] = curve[curve.len() - 1];
        (peak - reward, promised - reward)
    };
    let ((fall, gap), (good_fall, good_gap)) = (end(&usual), end(&many));
    assert!(fall > 0.02 && good_fall < 0.01, "{fall} {good_fall}");
    assert!(gap > 0.1 && good_gap < 0.05, "{gap} {good_gap}");
    // Trained by GRPO, the favourite answers become worse than before, while the reward
    // model is ever happier.
    let (before, after) =
        (in_all(&usual, |lab| lab.sft.copy()).unwrap(), all(&usual, Method::Grpo, KL_COEF));
    let greedy = |m: &[Measured]| average(m, |m| m.greedy);
    assert!(
        greedy(&after) < greedy(&before) - 0.02,
        "{} {}",
        greedy(&after),
        greedy(&before)
    );
    assert!(average(&after, |m| m.promised) > average(&before, |m| m.promised) + 0.1);
}

#[test]
fn the_judge_decides_and_not_the_method() {
    let labs = labs(Teacher::Mediocre, USUAL);
    let start = average(&in_all(&labs, |lab| lab.sft.copy()).unwrap(), |m| m.reward);
    let best = labs_best(&labs).unwrap();
    let reward = |method| average(&all(&labs, method, KL_COEF), |m| m.reward);
    let judged = [Method::Reinforce, Method::Rloo, Method::Ppo, Method::Grpo, Method::Dpo];
    let judged = judged.map(reward);
    for found in judged {
        assert!(
            found > start + 0.04 && found < best - 0.03,
            "{found} from {start} to {best}"
        );
    }
    let spread = judged.iter().fold(0.0f64, |a, b| a.max(*b))
        - judged.iter().fold(1.0f64, |a, b| a.min(*b));
    let verified = reward(Method::Verified);
    assert!(verified > best - 0.02, "{verified} of {best}");
    assert!(spread < 0.1, "{judged:?}");
}

#[test]
fn the_first_group_shows_which_context_was_drawn() {
    let lab = &labs(Teacher::Mediocre, 50)[1];
    let mut steps = Vec::new();
    train(lab, Method::Grpo, KL_COEF, |policy, rollout| {
        let first = mean(rollout.rewards[..GROUP_SIZE].iter().copied());
        steps.push((first, lab.judged.expected_reward(policy)?));
        Ok(())
    })
    .unwrap();
    let late = &steps[POLICY_STEPS / 2..];
    let spread = |numbers: Vec<f64>| stats::mean_std(&numbers).1;
    let first = spread(late.iter().map(|s| s.0).collect());
    let exact = spread(late.iter().map(|s| s.1).collect());
    assert!(first > 5.0 * exact, "{first} {exact}");
}

#[test]
fn every_training_starts_from_the_same_policy_and_leaves_it_alone() {
    let lab = &labs(Teacher::Good, 50)[0];
    let before = lab.sft.logits(&lab.world.features).unwrap().to_vec2::<f32>().unwrap();
    for (method, name) in Method::ALL {
        let one = train_by(lab, method, KL_COEF).unwrap();
        let two = train_by(lab, method, KL_COEF).unwrap();
        let logits =
            |p: &Mlp| p.logits(&lab.world.features).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(logits(&one), logits(&two), "{name} repeats");
        assert_ne!(logits(&one), before, "{name} learns");
        assert_eq!(logits(&lab.sft), before, "{name} moves the reference");
    }
    let table = policy::Table::uniform(5, 10, DType::F32, &CPU).unwrap();
    assert!(lab.world.expected_reward(&table).is_err(), "a table does not read features");
}
