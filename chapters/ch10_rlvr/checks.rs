//! What the exercises of chapter 10 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use exercises::Step;
use grpo::{
    gradients,
    optim::AdamW,
    reward::verify as strict,
    seed,
    task::{END, Problem, carry, steps},
    variables::Variables,
};
use rand::{Rng, rngs::StdRng};
use std::{cell::RefCell, path::Path};

exercise::checks! {
    price => price(price);
    verify => verify(verify);
    tricks => tricks(tricks);
    pass_at_k => pass_at_k(pass_at_k);
    wilson => wilson(wilson);
    reinforce => reinforce(reinforce);
    train => train(train);
}

const CPU: Device = Device::Cpu;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

fn price(yours: fn([f64; 2], [f64; 2]) -> f64) -> Result<()> {
    for (right, tokens) in
        [([0.9, 0.3], [14.0, 2.0]), ([0.5, 0.25], [9.0, 1.0]), ([0.2, 0.4], [6.0, 2.0])]
    {
        let found = yours(right, tokens);
        let reward = |kind: usize| right[kind] - found * tokens[kind];
        let why = [
            (
                right[0] / tokens[0],
                "does a blurted answer cost nothing, and is it never right?",
            ),
            ((right[0] - right[1]) / tokens[0], "only the tokens *more* tip the balance"),
            (
                (tokens[0] - tokens[1]) / (right[0] - right[1]),
                "tokens a reward, upside down",
            ),
            (
                -(right[0] - right[1]) / (tokens[0] - tokens[1]),
                "is a sign the wrong way round?",
            ),
        ];
        let why = why.iter().find(|(number, _)| close(*number, found));
        let why = why.map_or("", |(_, why)| why);
        ensure!(
            close(reward(0), reward(1)),
            "right {right:?}, tokens {tokens:?}: at your price, {found:.4}, an answer with work \
             brings {:.4} and a blurted one {:.4}; they must be equal. {why}",
            reward(0),
            reward(1)
        );
    }
    Ok(())
}

fn verify(yours: fn(&Problem, &str) -> bool) -> Result<()> {
    let sum = carry::read("47+85=")?;
    let accept = [
        ("132", "the answer and the end"),
        ("000=131+1=132", "what stands before the last = is not read"),
        ("=132", "nothing before the = is allowed as well"),
    ];
    for (said, why) in accept {
        let completion = format!("{said}{END}");
        ensure!(yours(&sum, &completion), "47+85= and {completion:?}: refused, but {why}");
    }
    let refuse = [
        ("132", "it has not ended: it was cut off, and nobody knows what was to come"),
        ("132=", "it has not ended"),
        ("", "it says nothing"),
        ("<eos>", "it says nothing"),
        ("132=<eos>", "behind the last = stands nothing"),
        ("022<eos>", "that is another number"),
        ("022=132=022<eos>", "it gives two answers, and the last one is wrong"),
        ("132=022<eos>", "it takes its answer back: what stands last counts"),
        ("132022<eos>", "is the answer looked for at the start?"),
        ("022132<eos>", "is the answer looked for at the end? All of what is said counts"),
        (
            "0123132999<eos>",
            "the right digits stand in it somewhere, as they do in many texts",
        ),
        (
            "0132<eos>",
            "it has the same value, and is not the same text: do not read numbers",
        ),
        ("+132<eos>", "a sign: do not read numbers"),
        ("132.0<eos>", "only the digits of the answer"),
        ("131+1<eos>", "that is a sum, and leaves the work to the verifier"),
        ("66*2<eos>", "that is a product, and leaves the work to the verifier"),
        (
            "88*1.5<eos>",
            "a pattern that looks for numbers finds 88, 1 and 5 here, and not 132",
        ),
        ("132 <eos>", "a space: each exception is a door"),
        (" 132<eos>", "a space: each exception is a door"),
        ("132\n<eos>", "a line break: did you trim?"),
        ("132<eos>132", "what stands behind the end was never meant"),
        ("132<eos><eos>", "one end is enough, and strip only one"),
        ("13<eos>2<eos>", "an end in the middle"),
        ("000=001=132=133<eos>", "it tries one answer after the other"),
        ("132?<eos>", "a question is no answer"),
    ];
    for (completion, why) in refuse {
        ensure!(!yours(&sum, completion), "47+85= and {completion:?}: accepted, but {why}");
    }
    let chain = steps::read("3*7+2*4+9=")?;
    let mut rng = seed::rng(10);
    for _ in 0..50 {
        let problem = steps::draw(&mut rng)?;
        for shown in [steps::worked(&problem)?, steps::blurted(&problem)] {
            let text = &shown.completion;
            ensure!(yours(&problem, text), "{} and {text:?}: refused", problem.prompt);
        }
    }
    for text in ["0123456789<eos>", "1=2=3=4=5=6=7=8=9=0<eos>"] {
        ensure!(!yours(&chain, text), "the answer is 1, and {text:?} was accepted");
    }
    ensure!(yours(&chain, "9=9=9=1<eos>"), "\"9=9=9=1<eos>\": the work is not read");
    Ok(())
}

/// Three verifiers that can be fooled.
fn fooled(problem: &Problem, completion: &str) -> [bool; 3] {
    let Some(said) = completion.strip_suffix(END) else { return [false; 3] };
    let answer = &problem.answer;
    let comes_to = steps::read(&format!("{said}=")).is_ok_and(|sum| sum.answer == *answer);
    [said.contains(answer), said.split('=').any(|part| part == answer), comes_to]
}

fn tricks(yours: fn(&str) -> [String; 3]) -> Result<()> {
    let mut rng = seed::rng(11);
    for _ in 0..200 {
        let problem = steps::draw(&mut rng)?;
        let prompt = &problem.prompt;
        for (number, completion) in yours(prompt).iter().enumerate() {
            let place = format!("{prompt} and your completion {number}, {completion:?}");
            let said = completion.strip_suffix(END);
            let said = said.with_context(|| format!("{place}: it must end with {END}"))?;
            let length = said.chars().count();
            ensure!(
                length <= 24,
                "{place}: it has {length} characters, at most 24 are allowed"
            );
            ensure!(
                !strict(&problem, completion),
                "{place}: the strict verifier accepts it. For this prompt it is the answer, and \
                 a right answer is no trick"
            );
            ensure!(
                fooled(&problem, completion)[number],
                "{place}: verifier {number} does not accept it. The answer is {}, and your trick \
                 must work for every answer",
                problem.answer
            );
        }
    }
    Ok(())
}

/// The share of all choices of k among n that hold a right one, counted.
fn by_choices(n: usize, right: usize, k: usize) -> f64 {
    let sets = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
    let first = (1u32 << right) - 1;
    let (mut all, mut good) = (0, 0);
    for set in sets {
        all += 1;
        good += u32::from(set & first != 0);
    }
    f64::from(good) / f64::from(all)
}

fn pass_at_k(yours: fn(usize, usize, usize) -> f64) -> Result<()> {
    for n in 1..=8usize {
        for right in 0..=n {
            for k in 1..=n {
                let (found, wanted) = (yours(n, right, k), by_choices(n, right, k));
                let share = right as f64 / n as f64;
                let why = if !found.is_finite() {
                    ": what if there are fewer than k wrong ones?"
                } else if close(found, 1.0 - wanted) {
                    ": this is the chance of none"
                } else if close(found, 1.0 - (1.0 - share).powi(k as i32)) {
                    ": this is with every completion put back. With few completions the two \
                     differ much"
                } else if close(found, (share * k as f64).min(1.0)) || close(found, share) {
                    ": chances of different draws do not add up"
                } else {
                    ""
                };
                ensure!(
                    close(found, wanted),
                    "n = {n}, right = {right}, k = {k}: of all ways to choose, a share of \
                     {wanted:.4} has a right one; yours is {found:.4}{why}"
                );
            }
        }
    }
    // With one right completion it is k/n, with one wrong one and k > 1 it is 1.
    for (n, right, k, wanted) in
        [(500, 1, 250, 0.5), (400, 399, 2, 1.0), (300, 0, 100, 0.0)]
    {
        let found = yours(n, right, k);
        ensure!(
            close(found, wanted),
            "n = {n}, right = {right}, k = {k}: {wanted} must come out, and yours is {found}. \
             Binomial coefficients of this size overflow: multiply fractions"
        );
    }
    Ok(())
}

const Z: f64 = 1.959964;

/// How many standard errors away from `p` the share is.
fn errors_away(share: f64, n: f64, p: f64) -> f64 {
    (share - p).abs() / (p * (1.0 - p) / n).sqrt()
}

fn wilson(yours: fn(usize, usize) -> (f64, f64)) -> Result<()> {
    for (count, n) in [(495, 500), (1, 8), (4, 8), (31, 40), (0, 20), (20, 20), (0, 1)] {
        let (low, high) = yours(count, n);
        let (size, share) = (n as f64, count as f64 / n as f64);
        let half = Z * (share * (1.0 - share) / size).sqrt();
        let place = format!("{count} of {n}: yours is from {low:.4} to {high:.4}");
        ensure!(low.is_finite() && high.is_finite(), "{place}");
        ensure!(
            !(close(low, share - half) && close(high, share + half)),
            "{place}. That is the share ± 1.96 standard errors *of the share that was found*. At 0 \
             of 20 it has no width, and 495 of 500 leaves it almost above 1: the standard error \
             belongs to p"
        );
        ensure!(
            low <= share && share <= high,
            "{place}, and {share:.4} is not between them"
        );
        for (end, at) in [(low, 0.0), (high, 1.0)] {
            // At 0 and 1 the share itself is an end, where the error is 0 as well.
            let edge = share == at && (end - at).abs() < 1e-9;
            let away = errors_away(share, size, end);
            ensure!(
                edge || (away - Z).abs() < 1e-6,
                "{place}. If p were {end:.4}, the share {share:.4} would be {away:.4} standard \
                 errors away, and that must be 1.9600{}",
                if (away - Z).abs() < 0.05 {
                    ": is it the 1.959964 of the task?"
                } else {
                    ""
                }
            );
        }
    }
    Ok(())
}

type Reinforce = fn(
    &[f64],
    &dyn Fn(usize, usize) -> f64,
    (usize, usize, f64),
    &mut StdRng,
) -> Result<Vec<f64>>;

fn reinforce(yours: Reinforce) -> Result<()> {
    let p: [f64; 3] = [0.2, 0.5, 0.3];
    let start: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    let after = |reward: &dyn Fn(usize, usize) -> f64, how, stream| {
        yours(&start, reward, how, &mut seed::stream(10, &[stream]))
    };
    let found = after(&|_, _| 0.0, (0, 4, 1.0), 0)?;
    ensure!(
        found.len() == 3 && found.iter().zip(p).all(|(a, b)| close(*a, b)),
        "no steps: probabilities {p:?} must come out as they were; yours are {found:.4?}"
    );
    for reward in [0.1, 0.7, -3.3] {
        let found = after(&|_, _| reward, (20, 3, 1.0), 1)?;
        ensure!(
            found.iter().zip(p).all(|(a, b)| close(*a, b)),
            "three rewards of {reward} are equal, and say nothing: {p:?} must stay; yours became \
             {found:.4?}. The mean of equal numbers may be off in the last digit, and a tiny σ \
             makes that large: compare the rewards"
        );
    }
    one_large_group(yours)?;
    let scaled = |reward: f64, shift: f64| {
        after(&|_, choice| reward * choice as f64 + shift, (30, 8, 0.1), 2)
    };
    let (small, large) = (scaled(1.0, 0.0)?, scaled(1000.0, -70.0)?);
    ensure!(
        small.iter().zip(&large).all(|(a, b)| (a - b).abs() < 0.01),
        "rewards a thousand times as large, and shifted: σ and the mean take both away. From the \
         same random numbers yours give {small:.4?} and {large:.4?}"
    );
    let early = after(
        &|step, choice| f64::from(u8::from(step < 40 && choice == 0)),
        (80, 8, 0.5),
        3,
    )?;
    ensure!(
        early[0] > 0.9,
        "choice 0 is rewarded in steps 0 to 39 and nothing in steps 40 to 79, which must change \
         nothing; your policy ends at {early:.4?}. Is `step` the number of the step?"
    );
    for seed in 0..5 {
        hole(yours, seed)?;
    }
    Ok(())
}

/// Group so large that the update is known: p = 0.3 is right, so that the advantages are
/// √(0.7/0.3) and −√(0.3/0.7), and the logits part by 2 · lr · √(0.3 · 0.7).
fn one_large_group(yours: Reinforce) -> Result<()> {
    let start = [0.3f64.ln(), 0.7f64.ln()];
    let reward = |_: usize, choice: usize| f64::from(u8::from(choice == 0));
    let found = yours(&start, &reward, (1, 40_000, 0.5), &mut seed::stream(10, &[4]))?;
    let moved = (found[0] / found[1]).ln() - (start[0] - start[1]);
    let root = 0.21f64.sqrt();
    let turns = [
        (-root, "it went the wrong way: add, and do not subtract"),
        (0.21, "are the advantages divided by σ?"),
        (0.3 * 0.7 * 2.0 * 0.5, "is there a mean to subtract?"),
        (2.0 * root, "is lr there once?"),
    ];
    let why = turns.iter().find(|(number, _)| (number - moved).abs() < 0.02);
    let why = match why {
        _ if !moved.is_finite() || moved.abs() > 10.0 => {
            ": that is much too far. The *mean* over the group, not the sum"
        }
        Some((_, why)) => why,
        None => "",
    };
    ensure!(
        (moved - root).abs() < 0.02,
        "one step with a group of 40,000, lr 0.5, and a choice of probability 0.3 that is right: \
         the two logits must part by 2 · 0.5 · √(0.3 · 0.7) = {root:.3}; yours part by \
         {moved:.3}. {why}"
    );
    Ok(())
}

/// A policy that cannot do sums: it answers with a digit, or with all ten of them.
fn hole(yours: Reinforce, seed: u64) -> Result<()> {
    const CHEAT: usize = 10;
    let said = |choice: usize| match choice {
        CHEAT => format!("0123456789{END}"),
        digit => format!("{digit}{END}"),
    };
    let problems: Vec<Problem> = {
        let mut rng = seed::stream(seed, &[10, 0]);
        (0..300).map(|_| steps::draw(&mut rng)).collect::<Result<_>>()?
    };
    let one_if = |good: bool| f64::from(u8::from(good));
    let loose =
        |step: usize, choice: usize| one_if(fooled(&problems[step], &said(choice))[0]);
    let closed =
        |step: usize, choice: usize| one_if(strict(&problems[step], &said(choice)));
    // The cheat is rare at first: 2 in 100.
    let start: Vec<f64> =
        (0..=CHEAT).map(|c| if c == CHEAT { 0.2f64.ln() } else { 0.0 }).collect();
    let how = (300, 16, 0.5);
    let policy = yours(&start, &loose, how, &mut seed::stream(seed, &[10, 1]))?;
    let mean = |policy: &[f64], reward: &dyn Fn(usize, usize) -> f64| -> f64 {
        let one =
            |step: usize| (0..=CHEAT).map(|c| policy[c] * reward(step, c)).sum::<f64>();
        (0..300).map(one).sum::<f64>() / 300.0
    };
    let (reward, accuracy) = (mean(&policy, &loose), mean(&policy, &closed));
    ensure!(
        reward > 0.95 && accuracy < 0.05,
        "seed {seed}: a policy that answers with a digit, or in 2 of 100 cases with all ten, is \
         rewarded when the answer stands anywhere in the text. It must find the hole, so that \
         the reward goes to 1 and the accuracy to 0. Yours: reward {reward:.3}, accuracy \
         {accuracy:.3}, all ten digits with probability {:.3}",
        policy[CHEAT]
    );
    let policy = yours(&start, &closed, how, &mut seed::stream(seed, &[10, 1]))?;
    ensure!(
        policy[CHEAT] < 0.02,
        "seed {seed}: with the strict verifier all ten digits are never rewarded, and must become \
         rarer than the 0.02 of the start; yours have {:.3}",
        policy[CHEAT]
    );
    Ok(())
}

/// What a step of training was given.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    number: usize,
    weights: Vec<u64>,
    moments: Vec<u64>,
    steps: usize,
    draw: u64,
}

fn bits<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for tensor in tensors {
        all.extend(tensor.flatten_all()?.to_vec1::<f64>()?.iter().map(|x| x.to_bits()));
    }
    Ok(all)
}

fn weights(variables: &Variables) -> Result<Vec<u64>> {
    bits(variables.values().map(Var::as_tensor))
}

/// Two variables with numbers that depend on `stream`.
fn fresh(stream: u64) -> Result<Variables> {
    let mut rng = seed::stream(10, &[20, stream]);
    let mut variable = |name: &str, shape: &[usize]| -> Result<(String, Var)> {
        let x = seed::normal(&mut rng, shape, 1.0, DType::F64, &CPU)?;
        Ok((name.to_string(), Var::from_tensor(&x)?))
    };
    Ok([variable("bias", &[2])?, variable("weight", &[2, 3])?].into_iter().collect())
}

/// The step after which the optimiser was left alone: its steps fall behind by one.
const SILENT: usize = 2;
const LENGTH: usize = 7;

/// A step that chases noise and writes down what it was given.
fn noisy(
    log: &RefCell<Vec<Given>>,
    number: usize,
    variables: &Variables,
    optimizer: &mut AdamW,
    rng: &mut StdRng,
) -> Result<()> {
    let moments = optimizer.state();
    log.borrow_mut().push(Given {
        number,
        weights: weights(variables)?,
        moments: bits(moments.values())?,
        steps: optimizer.steps(),
        draw: rng.random(),
    });
    if number == SILENT {
        return Ok(()); // a step without a group that speaks
    }
    let mut loss = Tensor::zeros((), DType::F64, &CPU)?;
    for variable in variables.values() {
        let noise = seed::normal(rng, variable.shape(), 1.0, DType::F64, &CPU)?;
        loss = (loss + (variable.as_tensor() - noise)?.sqr()?.sum_all()?)?;
    }
    optimizer.set_learning_rate(0.1 / (1 + number) as f64);
    optimizer.step(&gradients::of(&loss, variables)?)?;
    Ok(())
}

type Train = fn(&Path, &Variables, u64, usize, Step) -> Result<usize>;

/// Calls `yours` once for each of `stops` in one folder, each time with other variables.
/// Returns what the steps were given, and the weights at the end.
fn run(yours: Train, seed: u64, stops: &[usize]) -> Result<(Vec<Given>, Vec<u64>)> {
    let folder = tempfile::tempdir()?;
    let log = RefCell::new(Vec::new());
    let step = |number: usize, v: &Variables, o: &mut AdamW, rng: &mut StdRng| {
        noisy(&log, number, v, o, rng)
    };
    let (mut end, mut taken) = (Vec::new(), 0);
    for (call, &until) in stops.iter().enumerate() {
        let variables = fresh(call as u64)?;
        let found = yours(folder.path(), &variables, seed, until, &step)
            .with_context(|| format!("call {call}, until {until}"))?;
        taken = until.max(taken);
        ensure!(
            found == taken,
            "calls with until = {stops:?}: after call {call}, {taken} steps must have been taken \
             in all; yours returned {found}"
        );
        end = weights(&variables)?;
    }
    Ok((log.into_inner(), end))
}

fn train(yours: Train) -> Result<()> {
    let (whole, end) = run(yours, 0, &[LENGTH])?;
    let numbers: Vec<usize> = whole.iter().map(|given| given.number).collect();
    let wanted: Vec<usize> = (0..LENGTH).collect();
    ensure!(
        numbers == wanted,
        "until = {LENGTH}, empty folder: the steps must have the numbers {wanted:?}; yours \
         {numbers:?}"
    );
    ensure!(
        whole[0].weights == weights(&fresh(0)?)?,
        "in an empty folder the weights that were handed over are the initial ones"
    );
    for (a, given) in whole.iter().enumerate() {
        let again = whole[..a].iter().find(|other| other.draw == given.draw);
        if let Some(other) = again {
            bail!(
                "steps {} and {} got the same random numbers; each must get its own",
                other.number,
                given.number
            );
        }
    }
    let (other, _) = run(yours, 1, &[1])?;
    ensure!(
        other[0].draw != whole[0].draw,
        "another `seed` must give other random numbers"
    );
    let stops: Vec<Vec<usize>> = (0..=LENGTH)
        .map(|stop| vec![stop, LENGTH])
        .chain([vec![2, 4, LENGTH], (1..=LENGTH).collect(), vec![5, 3, LENGTH]])
        .collect();
    for stops in stops {
        let (log, last) = run(yours, 0, &stops)?;
        compare(&stops, &log, &whole)?;
        ensure!(
            last == end,
            "calls with until = {stops:?}: all steps were right, and the variables at the end are \
             not those of a run without a stop. When nothing is left to do, are they restored all \
             the same?"
        );
    }
    failing(yours, &whole)
}

/// Says at the first step that was given something else, what it was.
fn compare(stops: &[usize], log: &[Given], whole: &[Given]) -> Result<()> {
    for (found, right) in log.iter().zip(whole) {
        let n = right.number;
        let place = format!("calls with until = {stops:?}, step {n}");
        ensure!(
            found.number == n,
            "{place}: yours has the number {}. A run goes on where it was, and takes no step twice",
            found.number
        );
        ensure!(
            found.weights == right.weights,
            "{place}: the weights are not those of a run without a stop{}",
            if stops.contains(&n) {
                ". Were they saved, and put back with `set`?"
            } else {
                ""
            }
        );
        ensure!(
            found.moments == right.moments,
            "{place}: the weights are right, and m and v of AdamW are not: save \
             `optimizer.state()` too"
        );
        ensure!(
            found.steps == right.steps,
            "{place}: AdamW believes it has taken {} steps, and it was {}. It divides by 1 − βᵗ. A \
             step of training need not be one of the optimiser: save `optimizer.steps()`",
            found.steps,
            right.steps
        );
        ensure!(
            found.draw == right.draw,
            "{place}: weights and optimiser are right, and the random numbers are others than in a \
             run without a stop. A generator that goes on from step to step must be saved, or made \
             anew for each step: `seed::stream`"
        );
    }
    ensure!(
        log.len() == whole.len(),
        "calls with until = {stops:?}: {} steps were taken in all, and {} are asked for",
        log.len(),
        whole.len()
    );
    Ok(())
}

/// A step fails in the middle of a call: the next call goes on from what was saved.
fn failing(yours: Train, whole: &[Given]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (log, fail) = (RefCell::new(Vec::new()), RefCell::new(true));
    let step = |number: usize, v: &Variables, o: &mut AdamW, rng: &mut StdRng| {
        if number == 5 && fail.replace(false) {
            bail!("out of memory");
        }
        noisy(&log, number, v, o, rng)
    };
    let call =
        |stream: u64, until: usize| yours(folder.path(), &fresh(stream)?, 0, until, &step);
    call(0, 3)?;
    match call(1, LENGTH) {
        Ok(_) => bail!("step 5 failed, and its error was not passed on"),
        Err(error) => ensure!(
            format!("{error:#}").contains("out of memory"),
            "step 5 failed with `out of memory`; yours says: {error:#}"
        ),
    }
    call(2, LENGTH).context("the call after one in which step 5 failed")?;
    let log = log.into_inner();
    let Some(last) = log.last() else { bail!("no steps were taken") };
    ensure!(
        *last == whole[LENGTH - 1],
        "after a call in which step 5 failed, the next one must go on from the last state that \
         was saved, and end as if nothing had happened. Its last step was given something else"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::ParamsAdamW;
    use solutions as right;
    use std::collections::{BTreeMap, HashMap};

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_prices_are_told_apart() {
        says(price(|right, tokens| right[0] / tokens[0]), "never right");
        says(price(|right, tokens| (right[0] - right[1]) / tokens[0]), "tokens *more*");
        says(price(|right, tokens| -right::price(right, tokens)), "a sign");
    }

    #[test]
    fn loose_verifiers_are_told_apart() {
        says(verify(|p, text| text.contains(&p.answer)), "has not ended");
        says(
            verify(|p, text| text.strip_suffix(END).is_some_and(|t| t.contains(&p.answer))),
            "behind the last = stands nothing",
        );
        says(
            verify(|p, text| {
                text.strip_suffix(END).is_some_and(|t| t.ends_with(&p.answer))
            }),
            "at the end? All of what",
        );
        says(
            verify(|p, text| {
                let Some(said) = text.strip_suffix(END) else { return false };
                said.rsplit('=').next().map(str::parse::<u32>) == Some(p.answer.parse())
            }),
            "do not read numbers",
        );
        says(
            verify(|p, text| {
                let said = text.strip_suffix(END).map(|t| t.replace(' ', ""));
                said.is_some_and(|said| said.rsplit('=').next() == Some(&p.answer))
            }),
            "a space",
        );
        says(
            verify(|p, text| {
                let said = text.strip_suffix(END);
                said.is_some_and(|said| said.split('=').any(|part| part == p.answer))
            }),
            "nothing",
        );
        says(
            verify(|p, text| {
                let said = text.trim_end_matches(END);
                text.ends_with(END) && said.rsplit('=').next() == Some(&p.answer)
            }),
            "strip only one",
        );
        says(verify(|p, text| text == p.answer.clone() + END), "is not read");
    }

    #[test]
    fn weak_tricks_are_told_apart() {
        says(
            tricks(|prompt| {
                let [a, _, c] = right::tricks(prompt);
                [a, "0=1=2=3=4=5=6=7=8=9<eos>".into(), c]
            }),
            "a right answer is no trick",
        );
        says(
            tricks(|prompt| {
                let [_, b, c] = right::tricks(prompt);
                ["012345678<eos>".into(), b, c]
            }),
            "must work for every answer",
        );
        says(
            tricks(|prompt| right::tricks(prompt).map(|t| t.replace(END, ""))),
            "must end with",
        );
    }

    #[test]
    fn wrong_chances_are_told_apart() {
        says(
            pass_at_k(|n, right, k| 1.0 - (1.0 - right as f64 / n as f64).powi(k as i32)),
            "put back",
        );
        says(
            pass_at_k(|n, right, k| 1.0 - right::pass_at_k(n, right, k)),
            "chance of none",
        );
        says(
            pass_at_k(|n, right, k| {
                let choose = |n: usize, k: usize| -> f64 {
                    let product = |range: std::ops::RangeInclusive<usize>| {
                        range.map(|i| i as f64).product::<f64>()
                    };
                    if k > n { 0.0 } else { product(n - k + 1..=n) / product(1..=k) }
                };
                1.0 - choose(n - right, k) / choose(n, k)
            }),
            "overflow",
        );
    }

    #[test]
    fn wrong_intervals_are_told_apart() {
        says(
            wilson(|count, n| {
                let (share, n) = (count as f64 / n as f64, n as f64);
                let half = Z * (share * (1.0 - share) / n).sqrt();
                (share - half, share + half)
            }),
            "belongs to p",
        );
        says(wilson(|count, n| right::wilson(count + 1, n + 2)), "standard errors away");
    }

    #[test]
    fn wrong_reinforcers_are_told_apart() {
        says(
            reinforce(|z, reward, (steps, group, lr), rng| {
                right::reinforce(z, reward, (steps, group, -lr), rng)
            }),
            "the wrong way",
        );
        says(
            reinforce(|z, reward, (steps, group, lr), rng| {
                right::reinforce(z, reward, (steps, group, lr * group as f64), rng)
            }),
            "not the sum",
        );
        says(
            reinforce(|z, reward, how, rng| {
                // What `std + tiny` does with rounding.
                right::reinforce(z, &|s, c| reward(s, c) + 1e-16 * c as f64, how, rng)
            }),
            "compare the rewards",
        );
        says(
            reinforce(|z, reward, how, rng| {
                right::reinforce(z, &|_, c| reward(0, c), how, rng)
            }),
            "hole",
        );
    }

    /// The solution with some of its state forgotten.
    #[derive(Default, Clone, Copy)]
    struct Forgets {
        weights: bool,
        moments: bool,
        steps: bool,
        stream: bool,
        number: bool,
    }

    fn forgetful(
        forgets: Forgets,
        folder: &Path,
        variables: &Variables,
        seed: u64,
        until: usize,
        step: Step,
    ) -> Result<usize> {
        let file = folder.join("run");
        let mut optimizer = AdamW::new(variables, ParamsAdamW::default())?;
        let mut taken = 0;
        if file.exists() {
            let saved = candle_core::safetensors::load(&file, &CPU)?;
            let mut saved: BTreeMap<String, Tensor> = saved.into_iter().collect();
            let counters = saved.remove("counters").context("none")?.to_vec1::<i64>()?;
            for (name, variable) in variables {
                let weight = saved.remove(&format!("w.{name}")).context("none")?;
                if !forgets.weights {
                    variable.set(&weight)?;
                }
            }
            taken = counters[0] as usize;
            let steps = if forgets.steps { taken } else { counters[1] as usize };
            if !forgets.moments {
                optimizer.restore(saved, steps)?;
            }
        }
        let mut running = seed::rng(seed);
        while taken < until {
            let mut fresh = seed::stream(seed, &[taken as u64]);
            let rng = if forgets.stream { &mut running } else { &mut fresh };
            let number = if forgets.number { optimizer.steps() } else { taken };
            step(number, variables, &mut optimizer, rng)?;
            taken += 1;
        }
        let mut tensors: HashMap<String, Tensor> = optimizer.state().into_iter().collect();
        for (name, variable) in variables {
            tensors.insert(format!("w.{name}"), variable.as_tensor().clone());
        }
        let counters = [taken as i64, optimizer.steps() as i64];
        tensors.insert("counters".into(), Tensor::new(&counters, &CPU)?);
        candle_core::safetensors::save(&tensors, &file)?;
        Ok(taken)
    }

    #[test]
    fn forgotten_state_is_named() {
        const NONE: Forgets = Forgets {
            weights: false,
            moments: false,
            steps: false,
            stream: false,
            number: false,
        };
        train(|f, v, s, u, step| forgetful(NONE, f, v, s, u, step)).unwrap();
        says(
            train(|f, v, s, u, step| {
                forgetful(Forgets { weights: true, ..NONE }, f, v, s, u, step)
            }),
            "put back with `set`",
        );
        says(
            train(|f, v, s, u, step| {
                forgetful(Forgets { moments: true, ..NONE }, f, v, s, u, step)
            }),
            "m and v of AdamW",
        );
        says(
            train(|f, v, s, u, step| {
                forgetful(Forgets { steps: true, ..NONE }, f, v, s, u, step)
            }),
            "save `optimizer.steps()`",
        );
        says(
            train(|f, v, s, u, step| {
                forgetful(Forgets { stream: true, ..NONE }, f, v, s, u, step)
            }),
            "the random numbers are others",
        );
        says(
            train(|f, v, s, u, step| {
                forgetful(Forgets { number: true, ..NONE }, f, v, s, u, step)
            }),
            "must have the numbers",
        );
        says(
            train(|_, v, s, u, step| {
                right::train(tempfile::tempdir()?.path(), v, s, u, step)
            }),
            "put back with `set`",
        );
        says(train(|f, v, _, u, step| right::train(f, v, 0, u, step)), "another `seed`");
    }
}
