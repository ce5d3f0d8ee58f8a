//! What the exercises of chapter 6 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use candle_nn::Optimizer;
use grpo::{
    advantage::Scale,
    gradients, kl,
    log_prob::{self, Scores},
    objective::{Aggregation, Batch, Kl, Objective, Ratio, Term},
    policy::{Policy, Table},
    rollout::Rollout,
    update::{Step, Steps},
    variables::Variables,
};
use serde_json::Value;
use std::{cell::Cell, rc::Rc};

exercise::checks! {
    sign => sign(sign);
    predicted => predicted(predicted);
    gain => gain(gain);
    let_through => let_through(let_through);
    k3_gradient => k3_gradient(k3_gradient);
    penalty => penalty(penalty);
    grpo_loss => grpo_loss(grpo_loss);
    leashed => leashed(leashed);
    update => update(update);
}

const CPU: Device = Device::Cpu;

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// The gradient of a loss by one tensor, or why there is none.
fn gradient(loss: &Tensor, by: &Var) -> Result<Vec<f64>> {
    let variables = Variables::from([("log π".to_owned(), by.clone())]);
    let gradients = gradients::of(loss, &variables).context(
        "the gradient is lost: is there a `detach`, or a way through plain numbers?",
    )?;
    numbers(gradients.get(by).context("no gradient")?)
}

fn sign(yours: fn() -> [(f64, &'static str); 2]) -> Result<()> {
    for ((part, moves), advantage) in yours().into_iter().zip([0.5, -0.5]) {
        ensure!(
            (part.abs() - 7.5).abs() > 1e-6,
            "advantage {advantage}: {part} is −A log π; the loss is a mean over 4 answers"
        );
        ensure!(
            (part.abs() - 1.875).abs() < 1e-6,
            "advantage {advantage}: the part is −(1/4) · A · −15, which is not {part}"
        );
        ensure!(
            part * advantage > 0.0,
            "advantage {advantage}: minus times minus. −A · −15 has the sign of A, and {part} has \
             the other"
        );
        // The library decides: one step of plain gradient descent.
        let log_prob = Var::new(&[-15.0], &CPU)?;
        let slope =
            gradient(&(log_prob.as_tensor() * (-advantage / 4.0))?.sum_all()?, &log_prob)?;
        let right = if slope[0] < 0.0 { "up" } else { "down" };
        ensure!(
            moves == right,
            "advantage {advantage}: the derivative of the loss by log π is {:+.3}, and the \
             optimiser walks against it; yours moves {moves:?}. The loss being positive or \
             negative plays no part",
            slope[0]
        );
    }
    Ok(())
}

/// Settings under which the library's objective, which is tested against TRL, is this
/// chapter's.
fn objective(low: f64, high: f64, kl_coef: f64) -> Objective {
    Objective {
        ratio: Ratio::Token,
        term: Term::Clip { low, high, bound: None },
        aggregation: Aggregation::SequenceMean,
        kl: Kl { coef: kl_coef, estimator: kl::Estimator::K3, corrected: true },
        off_policy_threshold: None,
    }
}

fn predicted(yours: fn() -> [[f64; 4]; 3]) -> Result<()> {
    let cases = [[1.0, 0.0, 0.0, 1.0], [11.0, 10.0, 10.0, 11.0], [2.0, 0.0, 0.0, 2.0]];
    for (found, rewards) in yours().into_iter().zip(cases) {
        let advantages = grpo::advantage::group_relative(&rewards, 4, Scale::None)?;
        let log_probs = Var::zeros((4, 1), DType::F64, &CPU)?;
        let mask = Tensor::ones((4, 1), DType::U8, &CPU)?;
        let column = Tensor::new(advantages.as_slice(), &CPU)?;
        let batch = Batch::new(&log_probs, &column, &mask);
        let right = gradient(&objective(0.2, 0.2, 0.0).loss(&batch)?.0, &log_probs)?;
        let asked = format!("rewards {rewards:?}");
        let opposite: Vec<f64> = right.iter().map(|g| -g).collect();
        ensure!(
            !close(&found, &opposite),
            "{asked}: these are A/G. The loss is minus that, so that a good answer has a negative \
             derivative"
        );
        let whole: Vec<f64> = right.iter().map(|g| 4.0 * g).collect();
        ensure!(
            !close(&found, &whole),
            "{asked}: these are −A; the loss is a mean over 4 answers"
        );
        let uncentred: Vec<f64> = rewards.iter().map(|r| -r / 4.0).collect();
        ensure!(
            !close(&found, &uncentred),
            "{asked}: these are −r/G; did you subtract the mean of the group?"
        );
        let scaled: Vec<f64> = right.iter().map(|g| 0.25 * g.signum()).collect();
        ensure!(
            rewards == cases[2] || !close(&found, &scaled),
            "{asked}: did you divide by σ? The first table does not"
        );
        ensure!(close(&found, &right), "{asked}: these are not the derivatives: {found:?}");
    }
    Ok(())
}

type Gain = fn(&Tensor, &Tensor, f64, f64) -> Result<Tensor>;

fn gain(yours: Gain) -> Result<()> {
    // Ratio, advantage, low, high; the gain and its slope, by hand.
    let cases: [([f64; 4], [f64; 2], &str); 8] = [
        (
            [1.5, 1.0, 0.2, 0.2],
            [1.2, 0.0],
            "a good token that went far enough gains no more",
        ),
        (
            [0.5, 1.0, 0.2, 0.2],
            [0.5, 1.0],
            "a good token that became rare must be repaired",
        ),
        (
            [1.5, -1.0, 0.2, 0.2],
            [-1.5, -1.0],
            "a bad token that became likely must be repaired",
        ),
        (
            [0.5, -1.0, 0.2, 0.2],
            [-0.8, 0.0],
            "a bad token that went far enough gains no more",
        ),
        ([1.1, 2.0, 0.2, 0.2], [2.2, 2.0], "between the bounds the gain is ρA"),
        ([1.25, 1.0, 0.2, 0.28], [1.25, 1.0], "1.25 is below the upper bound 1 + 0.28"),
        ([1.5, 1.0, 0.2, 0.28], [1.28, 0.0], "the upper bound is 1 + high, 1.28"),
        ([0.75, -1.0, 0.3, 0.28], [-0.75, -1.0], "0.75 is above the lower bound 1 − 0.3"),
    ];
    for ([ratio, advantage, low, high], [right, slope], why) in cases {
        let variable = Var::new(&[[ratio]], &CPU)?;
        let found = yours(&variable, &Tensor::new(&[advantage], &CPU)?, low, high)?;
        let asked = format!("ratio {ratio}, advantage {advantage}, low {low}, high {high}");
        let value = numbers(&found)?;
        let clipped = advantage * ratio.clamp(1.0 - low, 1.0 + high);
        let turn = match value.as_slice() {
            [x] if (x + right).abs() < 1e-9 => ": the gain, not the loss, is asked for",
            [x] if (x - clipped).abs() < 1e-9 => {
                ": this is clip(ρ) A; where is the `min` of the two products?"
            }
            [x] if (x - (advantage * ratio).max(clipped)).abs() < 1e-9 => {
                ": is there a `max` where `min` belongs?"
            }
            _ => "",
        };
        ensure!(
            close(&value, &[right]),
            "{asked}: the gain must be {right} and yours is {value:?}: {why}{turn}"
        );
        let found = gradient(&found.sum_all()?, &variable)?;
        ensure!(
            close(&found, &[slope]),
            "{asked}: the slope must be {slope} and yours is {found:?}: {why}"
        );
    }
    let found = yours(&Tensor::ones((3, 3), DType::F64, &CPU)?, &rows()?, 0.2, 0.2)
        .context("ratios (3, 3) and advantages (3)")?;
    let right = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0];
    ensure!(
        found.dims() == [3, 3] && close(&numbers(&found)?, &right),
        "advantages 1, 2, 3 of three rows of three tokens: each belongs to a row, and yours give \
         {:.1?}: (B) times (B, T) multiplies columns; make it (B, 1)",
        numbers(&found)?
    );
    let found = yours(&Tensor::ones((3, 2), DType::F64, &CPU)?, &rows()?, 0.2, 0.2)
        .context("ratios (3, 2) and advantages (3): make the advantages (3, 1)")?;
    ensure!(
        found.dims() == [3, 2],
        "ratios (3, 2) must give (3, 2), not {:?}",
        found.dims()
    );
    Ok(())
}

fn rows() -> Result<Tensor> {
    Ok(Tensor::new(&[1.0, 2.0, 3.0], &CPU)?)
}

fn let_through(yours: fn(&[f64], &[f64], f64, f64) -> Vec<bool>) -> Result<()> {
    let cases = [
        (
            1.25,
            1.0,
            true,
            "a good token between the two bounds is what clip-higher lets through",
        ),
        (1.25, -1.0, false, "a bad token above the bound had its gradient before"),
        (1.10, 1.0, false, "below both bounds nothing changes"),
        (1.50, 1.0, false, "above both bounds it still has none"),
        (0.70, -1.0, false, "what stops this one is the lower bound, which stays"),
        (0.70, 1.0, false, "a good token that became rare always had its gradient"),
        (1.25, 0.0, false, "with an advantage of 0 there is no gradient to let through"),
    ];
    let (ratios, advantages): (Vec<f64>, Vec<f64>) =
        cases.iter().map(|c| (c.0, c.1)).unzip();
    let found = yours(&ratios, &advantages, 0.2, 0.28);
    ensure!(
        found.len() == cases.len(),
        "{} tokens must give as many answers; yours are {}",
        cases.len(),
        found.len()
    );
    for ((ratio, advantage, right, why), found) in cases.into_iter().zip(found) {
        ensure!(
            found == right,
            "ratio {ratio}, advantage {advantage}, bounds 1.2 and 1.28: must be {right}: {why}"
        );
    }
    // Another pair of bounds, decided by the gradients of the library.
    let slope = |ratio: f64, advantage: f64, high: f64| -> Result<f64> {
        let log_probs = Var::new(&[[ratio.ln()]], &CPU)?;
        let (old, mask) = (log_probs.zeros_like()?, Tensor::ones((1, 1), DType::U8, &CPU)?);
        let advantages = Tensor::new(&[advantage], &CPU)?;
        let batch = Batch {
            old_log_probs: Some(&old),
            ..Batch::new(&log_probs, &advantages, &mask)
        };
        Ok(gradient(&objective(0.2, high, 0.0).loss(&batch)?.0, &log_probs)?[0])
    };
    for ratio in [0.5, 0.9, 1.05, 1.15, 1.35, 1.45, 2.0] {
        for advantage in [-2.0, 0.3] {
            let opened = slope(ratio, advantage, 0.1)? == 0.0
                && slope(ratio, advantage, 0.4)? != 0.0;
            ensure!(
                yours(&[ratio], &[advantage], 0.1, 0.4) == [opened],
                "ratio {ratio}, advantage {advantage}, bounds 1.1 and 1.4: must be {opened}"
            );
        }
    }
    Ok(())
}

fn fixture(text: &str) -> Result<Value> {
    serde_json::from_str(text).context("a fixture is not whole")
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// The six tokens of the page, from the file that Python's numbers are in.
fn six() -> Result<Value> {
    fixture(include_str!("../../tests/fixtures/kl.json"))
}

/// Σ_a p(a) k3(a) at the logits z, with the weights p where they are.
fn mean_k3(logits: &[f64], weights: &[f64], reference: &[f64]) -> f64 {
    let total = logits.iter().map(|z| z.exp()).sum::<f64>().ln();
    let k3 = |(z, q): (&f64, &f64)| {
        let d = q.ln() - (z - total);
        d.exp() - d - 1.0
    };
    logits.iter().zip(reference).map(k3).zip(weights).map(|(k, p)| k * p).sum()
}

fn k3_gradient(yours: fn(&[f64], &[f64]) -> Vec<f64>) -> Result<()> {
    let six = six()?;
    let cases = [
        (list(&six["p"]), list(&six["q"])),
        (vec![0.7, 0.2, 0.1], vec![0.1, 0.2, 0.7]),
        (vec![0.25; 4], vec![0.25; 4]),
    ];
    for (policy, reference) in cases {
        let logits: Vec<f64> = policy.iter().map(|p| p.ln()).collect();
        let moved = |v: usize, by: f64| {
            let mut logits = logits.clone();
            logits[v] += by;
            mean_k3(&logits, &policy, &reference)
        };
        let right: Vec<f64> =
            (0..policy.len()).map(|v| (moved(v, 1e-5) - moved(v, -1e-5)) / 2e-5).collect();
        let found = yours(&policy, &reference);
        let by = |of: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            policy.iter().zip(&reference).map(|(&p, &q)| of(p, q)).collect()
        };
        let turn = match &found {
            f if close(f, &by(&|p, q| q - p)) => ": the sign is the other one",
            f if close(f, &by(&|p, q| 1.0 - q / p)) => {
                ": these are derivatives by log π; go on to the logits, and weight by π"
            }
            f if close(f, &list(&six["grad_exact_kl_wrt_logits"])) => {
                ": this is the gradient of KL(π ‖ π_ref), which is what k3 lacks"
            }
            _ => "",
        };
        ensure!(
            close(&found, &right),
            "π {policy:.2?}, π_ref {reference:.2?}: the gradient must be {right:.4?}, by finite \
             differences; yours is {found:.4?}{turn}"
        );
    }
    Ok(())
}

type Penalty = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

fn penalty(yours: Penalty) -> Result<()> {
    let six = six()?;
    let logs = |key: &str| -> Result<Tensor> {
        let logs: Vec<f64> = list(&six[key]).iter().map(|p| p.ln()).collect();
        Ok(Tensor::new(logs, &CPU)?.unsqueeze(0)?)
    };
    let (logits, reference) = (Var::from_tensor(&logs("p")?)?, logs("q")?);
    let log_probs = log_prob::table(&logits)?;
    let found = yours(&log_probs, &log_probs.detach(), &reference)?;
    ensure!(
        found.dims() == [1, 6],
        "log-probabilities (1, 6) must give (1, 6), not {:?}",
        found.dims()
    );
    let values = numbers(&found)?;
    let opposite: Vec<f64> =
        list(&six["logr"]).iter().map(|d| (-d).exp() + d - 1.0).collect();
    let turn = match &values {
        v if close(v, &list(&six["k1"])) => ": these are k1",
        v if close(v, &list(&six["k2"])) => ": these are k2",
        v if close(v, &opposite) => {
            ": d is log π_ref − log π, and yours has the other sign"
        }
        _ => "",
    };
    let right = list(&six["k3"]);
    ensure!(
        close(&values, &right),
        "before the policy has moved ρ is 1, and the six tokens of the page have {right:.4?}; \
         yours have {values:.4?}{turn}"
    );
    let mean = (found * logs("p")?.exp()?)?.sum_all()?;
    let (found, right) =
        (gradient(&mean, &logits)?, list(&six["grad_exact_kl_wrt_logits"]));
    let alone = list(&six["grad_expected_autodiff_k3_wrt_logits"]);
    let turn = match close(&found, &alone) {
        true => {
            ": this is that of KL(π_ref ‖ π), the other direction. ρ is 1 here, but its \
                 gradient is not 0: multiply by it, and do not detach it"
        }
        false => ": does k3 keep its gradient, and ρ its own?",
    };
    ensure!(
        close(&found, &right),
        "the values are right. The mean gradient must be {right:.4?}, that of KL(π ‖ π_ref); \
         yours is {found:.4?}{turn}"
    );
    // π 0.5, π_old 0.25, π_ref 0.25: k3 is 1/2 + ln 2 − 1, and ρ is 2.
    let moved = |p: f64| Tensor::new(&[[p.ln()]], &CPU);
    let found = numbers(&yours(&moved(0.5)?, &moved(0.25)?, &moved(0.25)?)?)?;
    ensure!(
        close(&found, &[0.386_294_361]),
        "π 0.5, π_old 0.25, π_ref 0.25: k3 is 0.1931 and ρ is 2, so 0.3863; yours is {found:.4?}"
    );
    Ok(())
}

fn table(value: &Value) -> Result<Tensor> {
    let rows: Vec<Vec<f64>> = value.as_array().into_iter().flatten().map(list).collect();
    Ok(Tensor::new(rows, &CPU)?)
}

/// The cases of TRL's own loss that this chapter's objective covers.
fn is_ours(case: &Value) -> bool {
    let is = |key: &str, value: &str| case[key] == value;
    is("loss_type", "grpo")
        && is("importance_sampling_level", "token")
        && case["delta"].is_null()
        && case["off_policy_mask_threshold"].is_null()
        && case["gradient_accumulation_steps"] == 1
        && (case["use_bias_correction_kl"] == true || case["beta"] == 0.0)
}

type Loss = fn(&Batch, f64, f64, f64) -> Result<Tensor>;

fn grpo_loss(yours: Loss) -> Result<()> {
    let all = fixture(include_str!("../../tests/fixtures/grpo_loss.json"))?;
    let cases = all["cases"].as_array().into_iter().flatten().filter(|case| is_ours(case));
    let mut count = 0;
    for case in cases {
        let key = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| case[name].as_f64().unwrap_or(f64::NAN);
        let inputs = &all["inputs"][&key("set")];
        let log_probs = Var::from_tensor(&table(&inputs["per_token_logps"])?)?;
        let old = table(&inputs["old_per_token_logps"])?;
        let reference = table(&inputs["ref_per_token_logps"])?;
        let advantages =
            Tensor::new(list(&all["advantages"][&key("scale_rewards")]), &CPU)?;
        let mask = table(&all["masks"][&key("mask")])?.to_dtype(DType::U8)?;
        let batch = Batch {
            old_log_probs: (key("old_logps") == "given").then_some(&old),
            ref_log_probs: Some(&reference),
            ..Batch::new(&log_probs, &advantages, &mask)
        };
        let (low, high, beta) = (number("epsilon"), number("epsilon_high"), number("beta"));
        let asked = format!(
            "16 answers of TRL's ({}, {} mask, π_old {}), ε {low} and {high}, β {beta}",
            key("set"),
            key("mask"),
            key("old_logps")
        );
        one_loss(
            yours,
            &batch,
            [low, high, beta],
            number("loss"),
            &log_probs,
            &case["grad"],
        )
        .context(asked)?;
        count += 1;
    }
    ensure!(count >= 5, "the fixture holds only {count} cases of this objective");
    padding_may_hold_anything(yours)
}

fn one_loss(
    yours: Loss,
    batch: &Batch,
    [low, high, beta]: [f64; 3],
    right: f64,
    log_probs: &Var,
    slopes: &Value,
) -> Result<()> {
    let loss = yours(batch, low, high, beta)?;
    ensure!(
        loss.rank() == 0,
        "a loss is one number; yours has the shape {:?}",
        loss.dims()
    );
    let found = loss.to_scalar::<f64>()?;
    if (found - right).abs() > 1e-8 {
        let with = |objective: Objective, batch: &Batch| -> Result<f64> {
            Ok(objective.loss(batch)?.0.to_scalar()?)
        };
        let ours = objective(low, high, beta);
        let without = with(objective(low, high, 0.0), batch)?;
        let ones = batch.mask.ones_like()?;
        let turns = [
            (-right, "the sign is the other one: an optimiser makes losses smaller"),
            (
                with(Objective { aggregation: Aggregation::TokenMean, ..ours }, batch)?,
                "this is the mean over all tokens; take it over the tokens of each answer first",
            ),
            (
                with(ours, &Batch { mask: &ones, ..*batch })?,
                "padding is counted: what does the mask say?",
            ),
            (
                with(Objective { kl: Kl { corrected: false, ..ours.kl }, ..ours }, batch)?,
                "this is with k3 alone, without the ratio",
            ),
            (without, "the penalty is missing"),
            (2.0 * without - right, "the penalty has the other sign"),
            (with(objective(low, low, beta), batch)?, "the upper bound is 1 + high"),
        ];
        let turn = turns.iter().find(|turn| (found - turn.0).abs() < 1e-8);
        let turn = turn
            .map_or("go through the formula of the page from inside to outside", |t| t.1);
        bail!("the loss must be {right:.6} and yours is {found:.6}: {turn}");
    }
    let found = gradient(&loss, log_probs)?;
    let right = numbers(&table(slopes)?)?;
    let worst = (0..right.len()).max_by(|&a, &b| {
        (found[a] - right[a]).abs().total_cmp(&(found[b] - right[b]).abs())
    });
    let at = worst.context("the fixture has no gradient")?;
    ensure!(
        (found[at] - right[at]).abs() < 1e-8,
        "the loss is right and its gradient is not. By log π of answer {}, token {} it must be \
         {:.6}, and yours is {:.6}: is a part detached, or one not that should be?",
        at / 12,
        at % 12,
        right[at],
        found[at]
    );
    Ok(())
}

fn padding_may_hold_anything(yours: Loss) -> Result<()> {
    let log_probs = Var::new(&[[-1.0, 900.0], [-2.0, -0.5]], &CPU)?;
    let old = Tensor::new(&[[-1.1, -900.0], [-2.0, -0.5]], &CPU)?;
    let (advantages, mask) =
        (Tensor::new(&[1.0, -1.0], &CPU)?, Tensor::new(&[[1u8, 0], [1, 1]], &CPU)?);
    let batch = Batch {
        old_log_probs: Some(&old),
        ref_log_probs: Some(&old),
        ..Batch::new(&log_probs, &advantages, &mask)
    };
    let loss = yours(&batch, 0.2, 0.2, 0.0)?;
    // ρ is e^0.1 and 1: −(1.105171 − 1)/2.
    let found = loss.to_scalar::<f64>()?;
    let slopes = gradient(&loss, &log_probs).context("with wild numbers in the padding")?;
    ensure!(
        (found + 0.052_585_459).abs() < 1e-8
            && slopes.iter().all(|slope| slope.is_finite()),
        "padding held a log-ratio of 1800, whose `exp` is infinite: the loss must be −0.052585 and \
         yours is {found:.6}, with the gradient {slopes:.4?}. 0 times infinity is NaN: select \
         before the `exp`"
    );
    Ok(())
}

fn leashed(yours: fn(&[f64], &[f64], f64) -> Vec<f64>) -> Result<()> {
    let reference = [0.6, 0.3, 0.1];
    let rewards = [1.0, 0.0, 2.0];
    for kl_coef in [5.0, 1.0, 0.3] {
        let found = yours(&reference, &rewards, kl_coef);
        let asked = format!("π_ref {reference:?}, rewards {rewards:?}, β {kl_coef}");
        let sum: f64 = found.iter().sum();
        ensure!(
            found.len() == 3 && (sum - 1.0).abs() < 1e-9 && found.iter().all(|&p| p > 0.0),
            "{asked}: probabilities are above 0 and sum to 1; yours are {found:.4?}"
        );
        // At the best policy no probability is worth moving from one action to another.
        let worth: Vec<f64> =
            (0..3).map(|a| rewards[a] - kl_coef * (found[a] / reference[a]).ln()).collect();
        let backwards: Vec<f64> =
            (0..3).map(|a| rewards[a] + kl_coef * reference[a] / found[a]).collect();
        let even = |worth: &[f64]| worth.iter().all(|w| (w - worth[0]).abs() < 1e-6);
        let turn = match even(&backwards) {
            true => ". Yours is best for KL(π_ref ‖ π), the other direction",
            false => ": which derivative is to be the same for all actions?",
        };
        ensure!(
            even(&worth),
            "{asked}: with yours, {found:.4?}, moving a little probability to another action still \
             gains something. r − β log(π/π_ref) is {worth:.3?} and should be equal{turn}"
        );
    }
    let found = yours(&reference, &rewards, 0.001);
    ensure!(
        found.iter().all(|p| p.is_finite()) && found[2] > 0.999,
        "β 0.001: hardly a leash, so that all goes to the largest reward; yours are {found:?}. \
         Does `exp` of a large number come in? Take the largest reward away first"
    );
    let found = yours(&reference, &rewards, 1e6);
    ensure!(
        found.iter().zip(reference).all(|(p, q)| (p - q).abs() < 1e-4),
        "β 1,000,000: the policy must stay at the reference; yours are {found:.4?}"
    );
    Ok(())
}

/// Plain gradient descent that remembers how long each gradient was.
struct Recorder {
    variables: Vec<Var>,
    norms: Vec<f64>,
}

impl Optimizer for Recorder {
    type Config = ();

    fn new(variables: Vec<Var>, (): ()) -> candle_core::Result<Self> {
        Ok(Self { variables, norms: Vec::new() })
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        let mut squares = 0.0;
        for variable in &self.variables {
            let Some(gradient) = gradients.get(variable) else { continue };
            squares += gradient.sqr()?.sum_all()?.to_scalar::<f64>()?;
            variable.set(&(variable.as_tensor() - gradient)?)?;
        }
        self.norms.push(squares.sqrt());
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        1.0
    }

    fn set_learning_rate(&mut self, _: f64) {}
}

type Score = Box<dyn Fn(&Rollout) -> Result<Scores>>;
type Update =
    fn(Score, &Variables, &mut Recorder, &Rollout, &Objective, Steps) -> Result<Vec<Step>>;

/// What became of one call: the steps, the norms that the optimiser saw, how often the
/// rollout was scored, and where the logits went.
struct Run {
    taken: Result<Vec<Step>>,
    norms: Vec<f64>,
    scored: usize,
    logits: Vec<f64>,
}

/// Four answers to one prompt, 0, 1, 2 and 2 of four tokens, rewarded 0, 0, 1 and 1, by
/// a policy that knows nothing.
fn run(yours: Update, epochs: usize, max_norm: f64, connected: bool) -> Result<Run> {
    let policy = Rc::new(Table::uniform(1, 4, DType::F64, &CPU)?);
    let tokens = Tensor::new(&[[0u32], [1], [2], [2]], &CPU)?;
    let prompts = Tensor::zeros((4, 1), DType::U32, &CPU)?;
    let mask = Tensor::ones((4, 1), DType::U8, &CPU)?;
    let old = Tensor::full(0.25f64.ln(), (4, 1), &CPU)?;
    let rewards = vec![0.0, 0.0, 1.0, 1.0];
    let rollout = Rollout::new(prompts, tokens, mask, old, rewards, 4, Scale::None)?;
    let scored = Rc::new(Cell::new(0));
    let (counter, scorer) = (scored.clone(), policy.clone());
    let score: Score = Box::new(move |rollout| {
        counter.set(counter.get() + 1);
        let logits = scorer.logits(&rollout.prompts.flatten_all()?)?.unsqueeze(1)?;
        let logits = if connected { logits } else { logits.detach() };
        let entropy = Some(log_prob::entropy(&logits, 1.0)?);
        Ok(Scores { log_probs: log_prob::of(&logits, &rollout.tokens)?, entropy })
    });
    let variables = policy.variables();
    let mut optimizer = Recorder::new(variables.values().cloned().collect(), ())?;
    let taken = yours(
        score,
        variables,
        &mut optimizer,
        &rollout,
        &objective(0.2, 0.2, 0.0),
        Steps { epochs, max_norm },
    );
    let logits = numbers(&policy.logits(&Tensor::zeros(1, DType::U32, &CPU)?)?)?;
    Ok(Run { taken, norms: optimizer.norms, scored: scored.get(), logits })
}

fn update(yours: Update) -> Result<()> {
    // By hand: A is −½, −½, ½, ½ and π a quarter, so that the gradient by the logits is
    // ⅛, ⅛, −¼, 0, whose norm is √6/8.
    let Run { taken, norms, scored, logits } = run(yours, 1, 10.0, true)?;
    let taken = taken?;
    ensure!(
        taken.len() == 1 && norms.len() == 1,
        "epochs 1: one step, and one of the optimiser; yours are {} and {}",
        taken.len(),
        norms.len()
    );
    let right = [-0.125, -0.125, 0.25, 0.0];
    ensure!(
        close(&logits, &right),
        "answers 0, 1, 2, 2 with rewards 0, 0, 1, 1: a step of plain gradient descent moves the \
         logits to {right:?}, and yours to {logits:.4?}"
    );
    ensure!(scored == 1, "one step needs one score; yours scored {scored} times");
    let norm = taken[0].grad_norm;
    ensure!(
        (norm - 0.306_186).abs() < 1e-5,
        "the gradient of this step has the norm 0.3062, and yours says {norm:.4}"
    );
    ensure!(
        taken[0].metrics.entropy.is_some(),
        "`score` gave an entropy and the metrics lack it: hand it on in the batch"
    );
    let Run { taken, norms, scored, .. } = run(yours, 3, 0.1, true)?;
    let taken = taken?;
    ensure!(
        taken.len() == 3 && norms.len() == 3,
        "epochs 3: three steps, and three of the optimiser; yours are {} and {}",
        taken.len(),
        norms.len()
    );
    ensure!(
        scored == 3 && taken[1].metrics.ratio_max > 1.0,
        "epochs 3: the rollout was scored {scored} times, and the largest ratio of the second step \
         is {:.3}. After a step the policy is another one, and must be asked again",
        taken[1].metrics.ratio_max
    );
    ensure!(
        norms.iter().all(|&norm| norm < 0.1 + 1e-9),
        "max_norm 0.1: the optimiser saw gradients as long as {:.4}",
        norms.iter().copied().fold(0.0, f64::max)
    );
    ensure!(
        (taken[0].grad_norm - 0.306_186).abs() < 1e-5,
        "grad_norm is the norm before it was scaled down, 0.3062; yours is {:.4}",
        taken[0].grad_norm
    );
    ensure!(run(yours, 0, 1.0, true)?.taken.is_err(), "epochs 0 must be an error");
    ensure!(
        run(yours, 1, 1.0, false)?.taken.is_err(),
        "the scores of a policy under `detach` have no gradient, and your function did not say \
         so: `gradients::of` does"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use solutions as right;

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_signs_are_told_apart() {
        says(sign(|| [(7.5, "up"), (-7.5, "down")]), "mean over 4");
        says(sign(|| [(-1.875, "up"), (1.875, "down")]), "minus times minus");
        says(sign(|| [(1.875, "down"), (-1.875, "up")]), "walks against it");
        says(predicted(|| right::predicted().map(|row| row.map(|g| -g))), "minus that");
        says(
            predicted(|| right::predicted().map(|row| row.map(|g| 4.0 * g))),
            "mean over 4",
        );
        says(predicted(|| [[-0.25, 0.0, 0.0, -0.25]; 3]), "subtract the mean");
        says(predicted(|| [[-0.25, 0.25, 0.25, -0.25]; 3]), "divide by σ");
        says(predicted(|| [[-0.125, 0.125, 0.125, -0.125]; 3]), "not the derivatives");
    }

    #[test]
    fn wrong_clips_are_told_apart() {
        says(
            gain(|ratio, a, low, high| {
                let a = a.unsqueeze(1)?;
                let clipped = ratio.clamp(1.0 - low, 1.0 + high)?.broadcast_mul(&a)?;
                Ok(ratio.broadcast_mul(&a)?.maximum(&clipped)?)
            }),
            "`max` where `min` belongs",
        );
        says(
            gain(|ratio, a, low, high| {
                Ok(ratio.clamp(1.0 - low, 1.0 + high)?.broadcast_mul(&a.unsqueeze(1)?)?)
            }),
            "where is the `min`",
        );
        says(
            gain(|r, a, low, high| Ok(right::gain(r, a, low, high)?.neg()?)),
            "not the loss",
        );
        says(gain(|r, a, low, _| right::gain(r, a, low, low)), "below the upper bound");
        says(
            gain(|r, a, _, high| right::gain(r, a, high.min(0.2), high)),
            "the lower bound",
        );
        says(gain(|r, a, low, high| right::gain(&r.detach(), a, low, high)), "is lost");
        says(
            gain(|ratio, a, low, high| {
                let clipped = ratio.clamp(1.0 - low, 1.0 + high)?.broadcast_mul(a)?;
                Ok(ratio.broadcast_mul(a)?.minimum(&clipped)?)
            }),
            "make it (B, 1)",
        );
        says(
            let_through(|r, _, high, higher| {
                r.iter().map(|&r| r > 1.0 + high && r < 1.0 + higher).collect()
            }),
            "had its gradient before",
        );
        says(
            let_through(|r, a, high, _| {
                r.iter().zip(a).map(|(&r, &a)| a > 0.0 && r > 1.0 + high).collect()
            }),
            "above both bounds",
        );
        says(
            let_through(|r, a, _, _| right::let_through(r, a, 0.2, 0.28)),
            "bounds 1.1 and 1.4",
        );
    }

    #[test]
    fn wrong_penalties_are_told_apart() {
        says(k3_gradient(|p, q| p.iter().zip(q).map(|(p, q)| q - p).collect()), "the sign");
        says(
            k3_gradient(|p, q| p.iter().zip(q).map(|(p, q)| 1.0 - q / p).collect()),
            "go on to the logits",
        );
        let exact = |p: &[f64], q: &[f64]| -> Vec<f64> {
            let kl: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
            p.iter().zip(q).map(|(p, q)| p * ((p / q).ln() - kl)).collect()
        };
        says(k3_gradient(exact), "which is what k3 lacks");
        says(penalty(|p, _, q| kl::k1_policy_ref(p, q)), "these are k1");
        says(penalty(|p, _, q| kl::k2_policy_ref(p, q)), "these are k2");
        says(penalty(|p, _, q| kl::k3_policy_ref(q, p)), "the other sign");
        says(penalty(|p, _, q| kl::k3_policy_ref(p, q)), "the other direction");
        says(penalty(|p, old, q| right::penalty(p, &(old * 0.0)?, q)), "ρ is 1");
        says(
            penalty(|p, old, q| {
                Ok((kl::k3_policy_ref(p, q)? * (p.detach() - old)?.exp()?)?)
            }),
            "the other direction",
        );
        says(penalty(|p, _, q| right::penalty(p, &p.detach(), q)), "ρ is 2");
    }

    #[test]
    fn wrong_losses_are_told_apart() {
        says(grpo_loss(|b, l, h, k| Ok(right::grpo_loss(b, l, h, k)?.neg()?)), "the sign");
        says(grpo_loss(|b, l, h, _| right::grpo_loss(b, l, h, 0.0)), "penalty is missing");
        says(
            grpo_loss(|b, l, h, k| {
                let without = right::grpo_loss(b, l, h, 0.0)?;
                Ok(((&without * 2.0)? - right::grpo_loss(b, l, h, k)?)?)
            }),
            "the penalty has the other sign",
        );
        says(
            grpo_loss(|b, l, _, k| right::grpo_loss(b, l, l, k)),
            "upper bound is 1 + high",
        );
        says(
            grpo_loss(|b, l, h, k| {
                let ones = b.mask.ones_like()?;
                right::grpo_loss(&Batch { mask: &ones, ..*b }, l, h, k)
            }),
            "padding is counted",
        );
        says(
            grpo_loss(|b, l, h, k| {
                let aggregation = Aggregation::TokenMean;
                Ok(Objective { aggregation, ..objective(l, h, k) }.loss(b)?.0)
            }),
            "over the tokens of each answer first",
        );
        says(
            grpo_loss(|b, l, h, k| {
                let ours = objective(l, h, k);
                Ok(Objective { kl: Kl { corrected: false, ..ours.kl }, ..ours }.loss(b)?.0)
            }),
            "k3 alone",
        );
        says(
            grpo_loss(|b, l, h, k| match b.old_log_probs {
                Some(_) => right::grpo_loss(b, l, h, k),
                // The new one with its gradient: the ratio is 1 and constant.
                None => right::grpo_loss(
                    &Batch { old_log_probs: Some(b.log_probs), ..*b },
                    l,
                    h,
                    k,
                ),
            }),
            "its gradient is not",
        );
        says(
            grpo_loss(|b, l, h, k| {
                let old = b.old_log_probs.cloned().unwrap_or(b.log_probs.detach());
                let mut gain =
                    right::gain(&(b.log_probs - &old)?.exp()?, b.advantages, l, h)?;
                if k > 0.0 {
                    let reference = b.ref_log_probs.context("no reference")?;
                    gain = (gain - (right::penalty(b.log_probs, &old, reference)? * k)?)?;
                }
                let mask = b.mask.to_dtype(DType::F64)?;
                let count = mask.sum_keepdim(1)?.maximum(1.0)?;
                Ok((gain * mask)?.broadcast_div(&count)?.sum(1)?.mean_all()?.neg()?)
            }),
            "select before the `exp`",
        );
    }

    #[test]
    fn wrong_leashes_are_told_apart() {
        says(
            leashed(|q, r, beta| {
                let w: Vec<f64> =
                    q.iter().zip(r).map(|(q, r)| q * (r / beta).exp()).collect();
                w.iter().map(|x| x / w.iter().sum::<f64>()).collect()
            }),
            "largest reward away",
        );
        says(leashed(|q, _, _| vec![1.0 / q.len() as f64; q.len()]), "gains something");
        says(
            leashed(|q, r, beta| right::leashed(&vec![1.0; q.len()], r, beta)),
            "gains something",
        );
        says(
            leashed(|q, r, beta| {
                q.iter().zip(r).map(|(q, r)| q * (r / beta).exp()).collect()
            }),
            "sum to 1",
        );
    }

    #[test]
    fn wrong_steps_are_told_apart() {
        says(
            update(|score, v, optimizer, rollout, objective, steps| {
                // Scored once for all steps.
                let scores = score(rollout)?;
                let once = |_: &Rollout| Ok(scores.clone());
                right::update(once, v, optimizer, rollout, objective, steps)
            }),
            "must be asked again",
        );
        says(
            update(|score, v, o, rollout, objective, steps| {
                let free = Steps { max_norm: 1e9, ..steps };
                right::update(score, v, o, rollout, objective, free)
            }),
            "as long as",
        );
        says(
            update(|score, v, o, rollout, objective, steps| {
                let once = Steps { epochs: 1, ..steps };
                right::update(score, v, o, rollout, objective, once)
            }),
            "epochs 3",
        );
        says(
            update(|score, v, o, rollout, objective, steps| {
                let plain = |r: &Rollout| Ok(score(r)?.log_probs.into());
                right::update(plain, v, o, rollout, objective, steps)
            }),
            "hand it on",
        );
        says(
            update(|score, v, o, rollout, objective, steps| {
                let mut taken = right::update(score, v, o, rollout, objective, steps)?;
                for step in &mut taken {
                    step.grad_norm = step.grad_norm.min(steps.max_norm);
                }
                Ok(taken)
            }),
            "before it was scaled down",
        );
        says(
            update(|score, v, optimizer, rollout, objective, steps| {
                ensure!(steps.epochs > 0, "epochs is 0");
                let mut taken = Vec::new();
                for _ in 0..steps.epochs {
                    let scores = score(rollout)?;
                    let entropy = scores.entropy.as_ref();
                    let batch = Batch { entropy, ..rollout.batch(&scores.log_probs) };
                    let (loss, metrics) = objective.loss(&batch)?;
                    let mut gradients = loss.backward()?;
                    let norm = gradients::clip_norm(&mut gradients, v, steps.max_norm);
                    optimizer.step(&gradients)?;
                    taken.push(Step { metrics, grad_norm: norm.unwrap_or(0.0) });
                }
                Ok(taken)
            }),
            "have no gradient",
        );
    }
}
