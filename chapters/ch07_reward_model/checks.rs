//! What the exercises of chapter 7 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};
use grpo::{dpo::Pairs, gradients, log_prob, seed, variables::Variables};
use rand::{Rng, rngs::StdRng};
use std::cell::{Cell, RefCell};

exercise::checks! {
    surprise => surprise(surprise);
    preference_loss => preference_loss(preference_loss);
    dpo_loss => dpo_loss(dpo_loss);
    tilted => tilted(tilted);
    at_equal_kl => at_equal_kl(at_equal_kl);
    train => train(train);
    rounds => rounds(rounds);
}

fn surprise(yours: fn() -> [f64; 3]) -> Result<()> {
    let [wins, expected, upset] = yours();
    let odds = wins / (1.0 - wins);
    ensure!(
        (odds - 4.4817).abs() < 0.05,
        "the odds of the stronger answer are e^(2 − 0.5) = 4.48 to 1; with your probability \
         {wins:.3} they are {odds:.2} to 1: did you take the sigmoid of the difference?"
    );
    ensure!(
        (wins + expected - 1.0).abs() < 0.002,
        "a comparison pushes by what was left of the probability of its outcome: {wins:.3} and \
         your second number {expected:.3} must sum to 1"
    );
    ensure!(
        upset > 0.0,
        "the push on the winner is −∂loss/∂r_w, and the winner is the weaker answer now: it is \
         pushed up, and yours is {upset:.3}"
    );
    ensure!(
        (upset - wins).abs() < 0.002,
        "if the weaker one won, the outcome had the probability 1 − {wins:.3}, and the push is \
         the rest, {wins:.3}; yours is {upset:.3}: a surprise pushes harder, not less"
    );
    Ok(())
}

fn variable(numbers: &[f64]) -> Result<Var> {
    Ok(Var::from_tensor(&Tensor::new(numbers, &Device::Cpu)?)?)
}

fn number(tensor: &Tensor) -> Result<f64> {
    let shape = tensor.dims();
    ensure!(
        tensor.elem_count() == 1,
        "the loss must be one number; yours has shape {shape:?}"
    );
    Ok(tensor.flatten_all()?.get(0)?.to_scalar::<f64>()?)
}

fn preference_loss(yours: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
    let of = |chosen: &[f64], rejected: &[f64]| -> Result<f64> {
        number(&yours(variable(chosen)?.as_tensor(), variable(rejected)?.as_tensor())?)
    };
    let (right, wrong) = (of(&[1.5], &[0.5])?, of(&[0.5], &[1.5])?);
    ensure!(
        right < wrong,
        "the loss must be small when the chosen answer has the higher reward; yours is {right:.4} \
         then, and {wrong:.4} when it has the lower one: is the difference the wrong way round?"
    );
    ensure!(
        (right - 0.313262).abs() < 1e-5,
        "a margin of 1 costs 0.3133; yours costs {right:.4}: is it the log of the sigmoid, and \
         not the sigmoid?"
    );
    let both = of(&[1.5, 0.5], &[0.5, 1.5])?;
    ensure!(
        (both - (right + wrong) / 2.0).abs() < 1e-9,
        "two comparisons that cost {right:.4} and {wrong:.4} alone cost their mean together; \
         yours cost {both:.4}"
    );
    let far = of(&[-1000.0], &[1000.0])?;
    ensure!(
        (far - 2000.0).abs() < 1e-6,
        "a margin of −2000 costs 2000; yours costs {far}: e^2000 is more than any number holds. \
         Take the larger exponent out before you raise e to it"
    );
    let (chosen, rejected) = ([0.3, -1.0, 2.0, 0.7], [1.1, 0.2, -3.0, 0.7]);
    gradients_hold(
        yours,
        [&chosen, &rejected],
        "the last pair has equal rewards, and a push of one half, shared among four \
         comparisons: do max, relu or abs have a corner there?",
    )?;
    gradients_hold(
        yours,
        [&[-800.0, 800.0], &[800.0, -800.0]],
        "does e^x overflow in the backward pass?",
    )
}

/// Autograd through the loss of two rewards (B) against finite differences.
fn gradients_hold(
    yours: fn(&Tensor, &Tensor) -> Result<Tensor>,
    [chosen, rejected]: [&[f64]; 2],
    question: &str,
) -> Result<()> {
    let (chosen, rejected) = (variable(chosen)?, variable(rejected)?);
    let variables = Variables::from([
        ("chosen".to_string(), chosen.clone()),
        ("rejected".to_string(), rejected.clone()),
    ]);
    let loss = || yours(&chosen, &rejected);
    let found = gradients::of(&loss()?, &variables)
        .context("both rewards need a gradient, so stay with tensors to the end")?;
    // Two logits and a class: the same loss by another road, and without overflow.
    let oracle = || {
        let logits = Tensor::stack(&[chosen.as_tensor(), rejected.as_tensor()], 1)?;
        let first = Tensor::zeros(chosen.dims(), candle_core::DType::U32, &Device::Cpu)?;
        Ok(log_prob::slow(&logits, &first, 1.0)?.mean_all()?.neg()?)
    };
    for (name, expected) in gradients::finite_differences(&variables, 1e-4, oracle)? {
        let gradient = found.get(&variables[&name]).context("a gradient went missing")?;
        let gradient = gradient.to_vec1::<f64>()?;
        ensure!(
            gradient.iter().zip(&expected).all(|(g, e)| (g - e).abs() < 1e-5),
            "the gradient of {name} is {gradient:.4?} and must be {expected:.4?}: {question}"
        );
    }
    Ok(())
}

fn dpo_loss(yours: fn(Pairs, Pairs, f64) -> Result<Tensor>) -> Result<()> {
    let of = |policy: [f64; 2], reference: [f64; 2], beta: f64| -> Result<f64> {
        let [w, l] = [variable(&policy[..1])?, variable(&policy[1..])?];
        let [ref_w, ref_l] = [variable(&reference[..1])?, variable(&reference[1..])?];
        let reference = Pairs { chosen: &ref_w, rejected: &ref_l };
        number(&yours(Pairs { chosen: &w, rejected: &l }, reference, beta)?)
    };
    let start = of([-1.0, -3.0], [-1.0, -3.0], 0.3)?;
    ensure!(
        (start - 2f64.ln()).abs() < 1e-6,
        "a policy that is the reference has implicit rewards of 0, and its loss is log 2 = 0.6931; \
         yours is {start:.4}: did you subtract the log-probs of the reference?"
    );
    let better = of([-0.5, -3.5], [-1.0, -3.0], 0.3)?;
    ensure!(
        better < start,
        "the chosen answer became likelier and the rejected one less likely, so the loss must fall \
         below 0.6931; yours is {better:.4}: is a difference the wrong way round?"
    );
    let expected = -(1.0 / (1.0 + (-0.3f64).exp())).ln();
    ensure!(
        (better - expected).abs() < 1e-6,
        "implicit rewards of 0.3 · 0.5 and 0.3 · −0.5 cost {expected:.4}; yours cost {better:.4}: \
         does β multiply the differences, inside the sigmoid?"
    );
    let far = of([-900.0, -1.0], [-1.0, -900.0], 1.0)?;
    ensure!(
        (far - 1798.0).abs() < 1e-6,
        "log-probs of −900 are not unusual for long answers; this pair costs 1798 and yours {far}"
    );
    let (w, l) = (variable(&[-1.0, -2.5, -0.3])?, variable(&[-2.0, -0.4, -0.3])?);
    let (ref_w, ref_l) = (variable(&[-1.2, -1.1, -0.9])?, variable(&[-1.5, -0.8, -0.1])?);
    let variables = Variables::from([
        ("policy.chosen".to_string(), w.clone()),
        ("policy.rejected".to_string(), l.clone()),
    ]);
    let loss = || {
        let reference = Pairs { chosen: &ref_w, rejected: &ref_l };
        yours(Pairs { chosen: &w, rejected: &l }, reference, 0.7)
    };
    let found = gradients::of(&loss()?, &variables)
        .context("both log-probs of the policy need a gradient")?;
    for (name, expected) in gradients::finite_differences(&variables, 1e-5, loss)? {
        let gradient = found.get(&variables[&name]).context("a gradient went missing")?;
        let gradient = gradient.to_vec1::<f64>()?;
        ensure!(
            gradient.iter().zip(&expected).all(|(g, e)| (g - e).abs() < 1e-7),
            "the gradient of {name} is {gradient:.4?}, and finite differences of your own loss say \
             {expected:.4?}: is something detached that should learn?"
        );
    }
    for (name, reference) in [("chosen", &ref_w), ("rejected", &ref_l)] {
        ensure!(
            found.get(reference).is_none(),
            "the reference's log-prob of the {name} answer gets a gradient, so the reference would \
             learn too: detach it"
        );
    }
    Ok(())
}

/// What the leash leaves of the reward: Σ π r − β KL(π ‖ π_ref).
fn leashed(policy: &[f64], reference: &[f64], rewards: &[f64], beta: f64) -> f64 {
    let term = |((p, q), r): ((&f64, &f64), &f64)| match *p > 0.0 {
        true => p * (r - beta * (p / q).ln()),
        false => 0.0,
    };
    policy.iter().zip(reference).zip(rewards).map(term).sum()
}

fn is_distribution(policy: &[f64], answers: usize) -> Result<()> {
    let sum: f64 = policy.iter().sum();
    ensure!(
        policy.len() == answers && policy.iter().all(|p| *p >= 0.0),
        "{answers} answers need {answers} probabilities of 0 or more; yours are {policy:.3?}"
    );
    ensure!(
        (sum - 1.0).abs() < 1e-6,
        "probabilities sum to 1; yours sum to {sum:.4}: did you divide by their sum?"
    );
    Ok(())
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn tilted(yours: fn(&[f64], &[f64], f64) -> Vec<f64>) -> Result<()> {
    let (reference, rewards) = ([0.6, 0.25, 0.1, 0.05], [0.1, -0.4, 0.8, 1.3]);
    let long = yours(&reference, &rewards, 1e6);
    is_distribution(&long, 4)?;
    ensure!(
        furthest(&long, &reference) < 1e-4,
        "under a leash of 1,000,000 the policy stays at the reference {reference:?}; yours goes \
         to {long:.3?}: is β on the wrong side of the division, or the reference left out?"
    );
    for beta in [0.2, 1.0, 5.0] {
        let best = yours(&reference, &rewards, beta);
        is_distribution(&best, 4)?;
        let value = leashed(&best, &reference, &rewards, beta);
        // Every way to move a little probability from one answer to another.
        for (from, to) in (0..16).map(|i| (i / 4, i % 4)).filter(|(from, to)| from != to) {
            let mut other = best.clone();
            let moved = 0.01 * other[from];
            other[from] -= moved;
            other[to] += moved;
            let there = leashed(&other, &reference, &rewards, beta);
            ensure!(
                there < value + 1e-12,
                "with β = {beta} your policy {best:.3?} comes to {value:.5}, and one that moves a \
                 hundredth of answer {from}'s probability to answer {to} to {there:.5}: it is not \
                 the best one. Which policy has π ∝ π_ref e^(r/β)?"
            );
        }
    }
    let large = yours(&reference, &[500.0, 499.99, 500.01, 499.98], 0.01);
    let small = yours(&reference, &[0.0, -0.01, 0.01, -0.02], 0.01);
    ensure!(
        large.iter().all(|p| p.is_finite()) && furthest(&large, &small) < 1e-6,
        "only differences of rewards count: near 500 the policy must be the {small:.3?} that it is \
         near 0; yours is {large:.3?}. Take the largest reward away before you raise e to it"
    );
    let never = yours(&[0.5, 0.5, 0.0], &[0.0, 1.0, 1e4], 0.1);
    is_distribution(&never, 3)
        .context("with an answer of probability 0 and a huge reward")?;
    ensure!(
        never[2] == 0.0 && never[1] > 0.99,
        "an answer that the reference never gives keeps the probability 0, whatever its reward; \
         yours are {never:.3?}. Which reward is the largest that counts?"
    );
    Ok(())
}

/// The reader's way to read a line of points at a KL.
type AtEqualKl = fn(&[(f64, f64)], f64) -> Option<f64>;

fn at_equal_kl(yours: AtEqualKl) -> Result<()> {
    let line = [(2.0, 0.9), (0.5, 0.7), (1.0, 0.8), (3.0, 0.6)];
    for (kl, expected) in [(0.75, 0.75), (1.0, 0.8), (2.5, 0.75), (0.5, 0.7), (3.0, 0.6)] {
        let Some(found) = yours(&line, kl) else {
            anyhow::bail!(
                "the points of {line:?} lie on both sides of {kl}, or at it, and yours is None: \
                 the ends belong to the line"
            )
        };
        ensure!(
            !found.is_nan(),
            "at KL {kl} the line through {line:?} has a point, and yours says NaN: left and right \
             neighbour are the same there, and 0 is divided by 0"
        );
        ensure!(
            (found - expected).abs() < 1e-9,
            "at KL {kl} the line through {line:?} stands at {expected}; yours says {found:.4}: did \
             you take the two nearest points, one on each side, though the points are in no order?"
        );
    }
    for kl in [0.4, 3.1] {
        ensure!(
            yours(&line, kl).is_none(),
            "no point of {line:?} lies beyond KL {kl}, and nobody knows how the line would go on; \
             the answer is None, and yours is {:?}",
            yours(&line, kl)
        );
    }
    ensure!(yours(&[], 1.0).is_none(), "a line without points has no reward anywhere");
    Ok(())
}

/// The reader's training.
type Train = fn(&[f64], &[f64], usize, f64, &mut StdRng) -> Result<Vec<f64>>;

fn train(yours: Train) -> Result<()> {
    let (reference, rewards) = ([0.5, 0.3, 0.15, 0.05], [0.2, 0.5, 0.9, 0.4]);
    let beta = 0.3;
    let held = yours(&reference, &rewards, 4, 30.0, &mut seed::rng(1))?;
    is_distribution(&held, 4)?;
    ensure!(
        furthest(&held, &reference) < 0.02,
        "with β = 30 the leash wins and the policy stays near {reference:?}; yours ends at \
         {held:.3?}: does the loss ADD β KL, and does the policy start at the reference?"
    );
    // The group's mean contains the answer itself and shortens the push to (G − 1)/G, so
    // the leash is that much stronger beside it. The optimum is known.
    for size in [16, 2] {
        let found = yours(&reference, &rewards, size, beta, &mut seed::rng(2))?;
        let tilt = |beta: f64| solutions::tilted(&reference, &rewards, beta);
        let expected = tilt(beta * size as f64 / (size as f64 - 1.0));
        if furthest(&found, &expected) < 0.03 {
            continue;
        }
        let (alone, no_leash) = (tilt(beta), tilt(1e-9));
        let why = if furthest(&found, &alone) < 0.03 {
            "that is where the mean of the OTHERS leads; the advantage here is against the mean \
             of the whole group"
        } else if furthest(&found, &no_leash) < 0.1 {
            "that is a policy without a leash: does the KL have a gradient, and is the loss of \
             the answers a mean and not a sum?"
        } else if furthest(&found, &reference) < 0.03 {
            "that is where it started: does the loss reach the logits?"
        } else {
            "did you sample from the present policy, take the mean over the group, divide by \
             no σ, and sum the KL over all answers with π in front?"
        };
        anyhow::bail!(
            "with G = {size} and β = {beta} the policy must settle near {expected:.2?}; yours \
             ends at {found:.2?}: {why}"
        );
    }
    start_and_window(yours)?;
    let right = [0.0, 0.0, 0.0, 1.0];
    let turned = yours(&reference, &right, 8, 0.0, &mut seed::rng(3))?;
    ensure!(
        turned[3] > 0.9,
        "a verified reward without a leash must turn the policy round to the answer 3, whose \
         probability was 0.05; yours ends at {turned:.2?}"
    );
    let again = yours(&reference, &right, 8, 0.0, &mut seed::rng(3))?;
    ensure!(
        turned == again,
        "two trainings from one seed must agree to the last bit: is all randomness from rng?"
    );
    Ok(())
}

/// Where a training starts, and over which steps it takes the mean: two that are not seen
/// in a policy that has settled.
fn start_and_window(yours: Train) -> Result<()> {
    let reference = [0.5, 0.3, 0.15, 0.05];
    let found = yours(&reference, &[1.0; 4], 4, 0.01, &mut seed::rng(5))?;
    ensure!(
        furthest(&found, &reference) < 0.001,
        "where all answers earn the same, nothing moves a policy that starts at {reference:?}; \
         yours ends at {found:.3?}: are the first logits log π_ref?"
    );
    // Two answers, and a reward so small that the policy is still on its way at the end.
    let (size, gap) = (16, 0.05);
    let (mut logit, mut path) = (0.0f64, Vec::new());
    for _ in 0..3000 {
        let p = 1.0 / (1.0 + (-logit).exp());
        path.push(p);
        logit += 2.0 * 0.05 * gap * p * (1.0 - p) * (size as f64 - 1.0) / size as f64;
    }
    let mean = |path: &[f64]| path.iter().sum::<f64>() / path.len() as f64;
    let expected = mean(&path[1500..]);
    let found = yours(&[0.5, 0.5], &[0.0, gap], size, 0.0, &mut seed::rng(6))?[1];
    let near = |other: f64| (found - other).abs() < 0.015;
    let why = if near(path[2999]) {
        "that is where the last step stands; take the mean of the last 1,500"
    } else if near(mean(&path)) {
        "that is the mean of all 3,000 steps; the first 1,500 do not count"
    } else {
        "are there 3,000 steps, is the learning rate 0.05, and does the optimiser take plain \
         steps, without momentum?"
    };
    ensure!(
        near(expected),
        "two answers that earn 0 and {gap}, β = 0, G = {size}: the policy is still moving, and \
         the mean of its second probability must be {expected:.3}; yours is {found:.3}: {why}"
    );
    Ok(())
}

/// An annotator: whether the first answer wins.
type Prefers<'a> = &'a dyn Fn(usize, usize, &mut StdRng) -> bool;
/// The reader's rounds.
type Rounds = fn(&[f64], Prefers, [usize; 2], f64, &mut StdRng) -> Vec<f64>;

/// An annotator who follows Bradley and Terry.
fn annotator(strengths: &[f64]) -> impl Fn(usize, usize, &mut StdRng) -> bool + '_ {
    |a, b, rng| rng.random::<f64>() < 1.0 / (1.0 + (strengths[b] - strengths[a]).exp())
}

fn rounds(yours: Rounds) -> Result<()> {
    let asked = RefCell::new(Vec::new());
    let reference = [0.6, 0.2, 0.15, 0.05];
    let first_wins = |a: usize, b: usize, _: &mut StdRng| {
        asked.borrow_mut().push((a, b));
        a < b
    };
    let policy = yours(&reference, &first_wins, [1, 2000], 1.0, &mut seed::rng(4));
    is_distribution(&policy, 4)?;
    let asked = asked.into_inner();
    let count = asked.len();
    ensure!(
        count == 2000,
        "one round of 2000 comparisons asks 2000 times; yours asks {count}"
    );
    ensure!(
        asked.iter().all(|(a, b)| a != b),
        "the two answers of a pair must differ: take the first out of the policy before you draw \
         the second"
    );
    let firsts =
        |answer| asked.iter().filter(|(a, _)| *a == answer).count() as f64 / 2000.0;
    let shares: Vec<f64> = (0..4).map(firsts).collect();
    ensure!(
        furthest(&shares, &reference) < 0.05,
        "in the first round the first answers come from the reference {reference:?}; yours came up \
         {shares:.2?} of the time"
    );
    let strengths = [0.0, 0.6, -0.8, 1.6];
    let told = annotator(&strengths);
    let policy = yours(&reference, &told, [1, 8000], 1.0, &mut seed::rng(5));
    let expected = solutions::tilted(&reference, &strengths, 1.0);
    ensure!(
        furthest(&policy, &expected) < 0.06,
        "8000 comparisons tell the strengths {strengths:?}, and the best policy under β = 1 is \
         {expected:.2?}; yours is {policy:.2?}: does each comparison push winner and loser by \
         σ(r_l − r_w), and has the fit converged?"
    );
    memory(yours)?;
    let strengths = [1.0, 0.5, 0.0, 0.8, -0.5, 0.3, 5.0, -1.0];
    let reference = [0.4, 0.2, 0.15, 0.12, 0.06, 0.05, 0.01, 0.01];
    for at in 0..5 {
        let told = annotator(&strengths);
        let policy = yours(&reference, &told, [8, 50], 0.4, &mut seed::rng(at));
        ensure!(
            policy[6] > 0.5,
            "asked in eight rounds of 50, annotators lead to the best answer, 6, though the \
             reference gives it once in a hundred times; yours ends at {policy:.2?} (seed {at}): \
             does each round draw its pairs from the NEW policy?"
        );
    }
    Ok(())
}

/// The distance of two rewards after 40 comparisons with one outcome: twice the r where
/// 40 / (1 + e^2r) = r.
const MARGIN: f64 = 3.1835;

/// Two answers. In the first round 0 wins always, in the second 1: all in all, a draw.
fn memory(yours: Rounds) -> Result<()> {
    let reference = [0.7, 0.3];
    let asked = Cell::new(0);
    let turncoat = |a: usize, _: usize, _: &mut StdRng| {
        asked.set(asked.get() + 1);
        (a == 0) == (asked.get() <= 20)
    };
    let policy = yours(&reference, &turncoat, [2, 20], 1.0, &mut seed::rng(6));
    is_distribution(&policy, 2)?;
    let calls = asked.get();
    ensure!(calls == 40, "two rounds of 20 ask 40 times; yours ask {calls}");
    ensure!(
        policy[1] < 0.5,
        "answer 0 won 20 times and then answer 1 won 20 times, so both are worth the same; your \
         policy {policy:.2?} believes the last round alone: keep all comparisons"
    );
    ensure!(
        furthest(&policy, &reference) < 0.02,
        "two answers of equal worth leave the policy at the reference {reference:?}; yours is \
         {policy:.2?}: π_ref is the first policy in every round, not that of the round before"
    );
    // Two mistakes at once would cancel above: the last round alone, on top of the last policy.
    let policy = yours(&reference, &|a, _, _| a == 0, [2, 20], 4.0, &mut seed::rng(7));
    // 40 wins push as hard as the penalty pulls where 40 / (1 + e^2r) = r.
    let expected = solutions::tilted(&reference, &[MARGIN / 2.0, -MARGIN / 2.0], 4.0);
    ensure!(
        furthest(&policy, &expected) < 0.01,
        "answer 0 wins all 40 comparisons of two rounds; under β = 4 the policy must be \
         {expected:.3?} and yours is {policy:.3?}: fit the rewards to all comparisons, with the \
         penalty once, and start from π_ref in every round"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use grpo::{dpo, reward_model};

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_losses_get_the_message_for_them() {
        says(surprise(|| [0.182, 0.818, 0.182]), "the sigmoid of the difference");
        says(surprise(|| [0.818, 0.182, 0.182]), "a surprise pushes harder");
        says(surprise(|| [0.818, 0.182, -0.818]), "it is pushed up");
        says(preference_loss(|w, l| reward_model::loss(l, w)), "the wrong way round");
        says(
            preference_loss(
                |w, l| Ok((reward_model::loss(w, l)? * w.elem_count() as f64)?),
            ),
            "their mean",
        );
        let sigmoid = |w: &Tensor, l: &Tensor| -> Result<Tensor> {
            Ok(((l - w)?.exp()? + 1.0)?.log()?.mean_all()?)
        };
        says(preference_loss(sigmoid), "Take the larger exponent out");
        let corner = |w: &Tensor, l: &Tensor| -> Result<Tensor> {
            let margin = (w - l)?;
            let rest = (margin.abs()?.neg()?.exp()? + 1.0)?.log()?;
            Ok((margin.neg()?.relu()? + rest)?.mean_all()?)
        };
        says(preference_loss(corner), "a corner");
        let plain = |w: &Tensor, l: &Tensor| reward_model::loss(&w.detach(), l);
        says(preference_loss(plain), "chosen");
    }

    #[test]
    fn wrong_dpo_gets_the_message_for_it() {
        let forgotten = |p: Pairs, _: Pairs, beta: f64| {
            dpo::loss(p, Pairs { chosen: p.rejected, rejected: p.rejected }, beta)
        };
        says(dpo_loss(forgotten), "subtract the log-probs of the reference");
        says(dpo_loss(|p, r, beta| dpo::loss(r, p, beta)), "the wrong way round");
        says(dpo_loss(|p, r, beta| Ok((dpo::loss(p, r, 1.0)? * beta)?)), "log 2");
        says(dpo_loss(|p, r, beta| dpo::loss(p, r, 1.0 / beta)), "inside the sigmoid");
        let attached = |p: Pairs, r: Pairs, beta: f64| {
            let reward = |a: &Tensor, b: &Tensor| (a - b)? * beta;
            let (w, l) = (reward(p.chosen, r.chosen)?, reward(p.rejected, r.rejected)?);
            reward_model::loss(&w, &l)
        };
        says(dpo_loss(attached), "detach it");
    }

    #[test]
    fn wrong_policies_get_the_message_for_them() {
        says(
            tilted(|_, r, b| solutions::tilted(&[0.25; 4][..r.len()], r, b)),
            "the reference left out",
        );
        says(tilted(|q, r, b| solutions::tilted(q, r, 1.0 / b)), "the wrong side");
        says(tilted(|q, r, b| solutions::tilted(q, r, 2.0 * b)), "not the best one");
        let overflows = |q: &[f64], r: &[f64], b: f64| {
            let w: Vec<f64> = q.iter().zip(r).map(|(q, r)| q * (r / b).exp()).collect();
            w.iter().map(|x| x / w.iter().sum::<f64>()).collect()
        };
        says(tilted(overflows), "Take the largest reward away");
        let ordered = |line: &[(f64, f64)], kl: f64| {
            let at = line.windows(2).find(|w| w[0].0 <= kl && kl <= w[1].0)?;
            Some(at[0].1 + (kl - at[0].0) / (at[1].0 - at[0].0) * (at[1].1 - at[0].1))
        };
        says(at_equal_kl(ordered), "one on each side");
        let divides = |line: &[(f64, f64)], kl: f64| {
            let left =
                line.iter().filter(|p| p.0 <= kl).max_by(|a, b| a.0.total_cmp(&b.0))?;
            let right =
                line.iter().filter(|p| p.0 >= kl).min_by(|a, b| a.0.total_cmp(&b.0))?;
            Some(left.1 + (kl - left.0) / (right.0 - left.0) * (right.1 - left.1))
        };
        says(at_equal_kl(divides), "0 is divided by 0");
        says(
            at_equal_kl(|line, kl| solutions::at_equal_kl(line, kl.clamp(0.5, 3.0))),
            "None",
        );
    }

    #[test]
    fn wrong_trainings_get_the_message_for_them() {
        let others: Train = |q, r, g, b, rng| {
            let shorter = b * (g as f64 - 1.0) / g as f64;
            solutions::train(q, r, g, shorter, rng)
        };
        says(train(others), "the mean of the OTHERS");
        says(
            train(|q, r, g, b, rng| {
                solutions::train(q, r, g, if b > 1.0 { b } else { 0.0 }, rng)
            }),
            "without a leash",
        );
        says(
            train(|q, r, g, b, rng| {
                solutions::train(
                    q,
                    &r.iter().map(|r| 2.0 * r).collect::<Vec<_>>(),
                    g,
                    b,
                    rng,
                )
            }),
            "divide by",
        );
        says(train(|q, _, _, _, _| Ok(q.to_vec())), "where it started");
        // Probabilities taken for logits: forgotten by the time a policy has settled.
        let start: Train = |q, r, g, b, rng| {
            let level = r.iter().all(|x| *x == r[0]);
            if level {
                Ok(vec![0.31, 0.26, 0.22, 0.21])
            } else {
                solutions::train(q, r, g, b, rng)
            }
        };
        says(train(start), "log π_ref");
    }

    #[test]
    fn a_mean_over_other_steps_is_told_so() {
        // 3,000 steps as they are, and another number reported for the policy that moves.
        fn reports(x: f64, q: &[f64], r: &[f64], rng: &mut StdRng) -> Result<Vec<f64>> {
            if q.len() == 2 {
                Ok(vec![1.0 - x, x])
            } else {
                solutions::train(q, r, 4, 0.01, rng)
            }
        }
        says(
            start_and_window(|q, r, _, _, rng| reports(0.906, q, r, rng)),
            "where the last step stands",
        );
        says(
            start_and_window(|q, r, _, _, rng| reports(0.775, q, r, rng)),
            "the mean of all 3,000 steps",
        );
        says(
            start_and_window(|q, r, _, _, rng| reports(0.6, q, r, rng)),
            "the learning rate",
        );
        assert!(start_and_window(solutions::train).is_ok());
    }

    #[test]
    fn wrong_rounds_get_the_message_for_them() {
        // All the comparisons at once, from the reference.
        says(
            rounds(|q, p, [n, m], b, rng| solutions::rounds(q, p, [1, n * m], b, rng)),
            "from the NEW policy",
        );
        let forgets: Rounds = |q, p, [n, m], b, rng| {
            (0..n).fold(q.to_vec(), |_, _| solutions::rounds(q, p, [1, m], b, rng))
        };
        says(rounds(forgets), "keep all comparisons");
        let adds_up: Rounds = |q, p, [n, m], b, rng| {
            (0..n).fold(q.to_vec(), |q, _| solutions::rounds(&q, p, [1, m], b, rng))
        };
        says(rounds(adds_up), "the penalty once");
    }

    #[test]
    fn eight_rounds_find_what_one_of_the_same_size_does_not() {
        let strengths = [1.0, 0.5, 0.0, 0.8, -0.5, 0.3, 5.0, -1.0];
        let reference = [0.4, 0.2, 0.15, 0.12, 0.06, 0.05, 0.01, 0.01];
        let told = annotator(&strengths);
        let mean = |plan: [usize; 2]| {
            let of = |seed| {
                solutions::rounds(&reference, &told, plan, 0.4, &mut seed::rng(seed))[6]
            };
            (0..5).map(of).sum::<f64>() / 5.0
        };
        let (many, one) = (mean([8, 50]), mean([1, 400]));
        assert!(many > one + 0.1, "{many} {one}");
    }
}
