//! What the exercises of chapter 3 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Linear;
use grpo::{
    env::{
        End,
        cartpole::{self, CartPoles, Episodes, MAX_POSITION, MAX_STEPS, State},
    },
    gradients, seed,
    variables::{Init, Variables},
};
use rand::{Rng, rngs::StdRng};

exercise::checks! {
    first_loss => first_loss(first_loss);
    rule => rule(rule);
    step_advantages => step_advantages(step_advantages);
    shaped => shaped(shaped);
    largest_fall => largest_fall(largest_fall);
    step_all => step_all(step_all);
    network => network(layers, forward);
    reward_to_go => reward_to_go(reward_to_go);
}

/// Whether all numbers of two lists are within `tolerance` of each other.
fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

fn first_loss(yours: fn() -> [f64; 2]) -> Result<()> {
    // Five hundred steps of a long episode, sixty of three short ones.
    let found = yours();
    let expected = [-9.0 / 7.0, -1.0 / 6.0];
    let is = |of: fn(f64) -> f64| close(&found, &expected.map(of), 0.002);
    ensure!(
        !close(&found, &[0.0; 2], 0.01),
        "the advantages sum to 0 over episodes; the loss is a mean over steps, and the best \
         episode has more of them"
    );
    ensure!(
        !is(|loss| -loss),
        "the sign: the loss is minus the mean, so that going down makes good steps likelier"
    );
    ensure!(
        !is(|loss| loss * (4.0f64 / 3.0).sqrt()),
        "yours are {found:.3?}: is σ over n − 1, as the task has it?"
    );
    ensure!(
        !close(&found[..1], &[-720.0], 0.5),
        "yours are sums over steps; the loss is their mean: divide by 560 and by 90"
    );
    for (i, last) in [500, 30].into_iter().enumerate() {
        let all = 60 + last;
        ensure!(
            (found[i] - expected[i]).abs() < 0.002,
            "for episodes of 20, 20, 20 and {last} steps yours is {:.3}: what are the four \
             advantages, and how many of the {all} steps have each of them?",
            found[i]
        );
    }
    Ok(())
}

fn rule(yours: fn(&[[f32; 4]]) -> Result<Vec<u32>>) -> Result<()> {
    let starts = cartpole::group_starts(100, 1, &mut seed::rng(33));
    let played = cartpole::rollout(starts, yours)?;
    let short = played.ends.iter().filter(|end| **end == End::Terminated).count();
    let left = played.last.iter().filter(|last| last[0].abs() > MAX_POSITION).count();
    let mean = played.returns().iter().sum::<f64>() / 100.0;
    let fell = short - left;
    let why = match mean {
        _ if short == 0 => return Ok(()),
        ..200.0 => "look at angle + angular velocity first, and add little to it",
        // Without any further terms it is more than 470.
        ..470.0 => {
            "that is less than without your terms: which way must the pole lean for the cart to come \
             back, and so which way must the rule push first?"
        }
        _ => "give position and velocity a little more weight, or a little less",
    };
    bail!(
        "your rule lasts {mean:.0} steps on average; of 100 episodes the pole falls in {fell} and \
         the cart leaves the track in {left}: {why}"
    )
}

type Credit = fn(&[f64], &[usize], usize) -> Result<Vec<f64>>;

/// Which episode each step belongs to, when episodes of these lengths play side by side.
fn side_by_side(returns: &[f64]) -> Vec<usize> {
    let longest = returns.iter().fold(0.0, |a: f64, b| a.max(*b)) as usize;
    let at = |time| (0..returns.len()).filter(move |&i| returns[i] > time as f64);
    (0..longest).flat_map(at).collect()
}

fn step_advantages(yours: Credit) -> Result<()> {
    let returns = [1.0, 3.0, 20.0, 40.0, 2.0, 2.0];
    let episode = side_by_side(&returns);
    let found = yours(&returns, &episode, 2)?;
    let (n, s) = (found.len(), episode.len());
    ensure!(n == s, "{s} steps have {s} advantages; you return {n}: one for each step?");
    // In a group of two the better episode has 1/√2, but for the 1e-4.
    let half = 0.5f64.sqrt();
    let of = [-half, half, -half, half, 0.0, 0.0];
    let expected: Vec<f64> = episode.iter().map(|&i| of[i]).collect();
    let blocks: Vec<f64> =
        of.iter().zip(returns).flat_map(|(a, r)| vec![*a; r as usize]).collect();
    ensure!(
        !close(&found, &blocks, 0.01),
        "steps do not come one episode after the other: `episode` says which one each belongs to"
    );
    let silent: Vec<f64> =
        episode.iter().zip(&found).filter(|(e, _)| **e > 3).map(|(_, a)| *a).collect();
    ensure!(
        close(&silent, &[0.0; 4], 0.0),
        "two episodes that last equally long have advantages of exactly 0; yours have {silent:?}: \
         did you compare within the group?"
    );
    ensure!(
        close(&found, &expected, 0.01),
        "returns {returns:?} in groups of 2 have the advantages {of:.4?}, and each step has that \
         of its episode; the first six of yours are {:.4?}: {}",
        &found[..6],
        match found[0] {
            a if (a + 1.0).abs() < 0.01 => "is σ over n − 1, and did you divide by it?",
            _ => "is the mean that of the group?",
        }
    );
    ensure!(
        (found[0] + 2f64.sqrt().recip()).abs() > 1e-6,
        "σ + 1e-4 is what is divided by, as TRL has it: `Scale::Trl`"
    );
    Ok(())
}

fn shaped(yours: fn(&Episodes, f64, f64) -> Vec<f64>) -> Result<()> {
    // Nine pushes to one side: the states before the last two lean more than 6°.
    for (name, push) in [("right", 1), ("left", 0)] {
        let played = cartpole::rollout(vec![[0.0; 4]], |s| Ok(vec![push; s.len()]))?;
        let [both, leaning] = [(1.0, -1.0), (0.0, -1.0)].map(|(u, l)| yours(&played, u, l));
        ensure!(both.len() == 1, "1 episode has 1 return; you return {}", both.len());
        let steps = 0.0 - leaning[0];
        ensure!(
            steps == 2.0,
            "of nine pushes to the {name}, 2 come from states that lean more than 6°; yours counts \
             {steps}: {}",
            match steps {
                0.0 => "is the angle in radians, and does leaning to the left count too?",
                3.0 => "the state in which the pole has fallen was never acted in",
                _ => "angles are in radians, 6° is 0.105",
            }
        );
        ensure!(
            both[0] == 5.0,
            "nine pushes to the {name} earn 7 · 1 − 2 · 1 = 5; yours earn {}: a step earns one of \
             the two, not both",
            both[0]
        );
    }
    let mut rng = seed::rng(3);
    let starts = cartpole::group_starts(20, 1, &mut rng);
    let played = cartpole::rollout(starts, |s| {
        Ok(s.iter().map(|_| rng.random_range(0..2)).collect())
    })?;
    let found = yours(&played, 0.5, -2.0);
    for (i, steps) in played.steps.iter().enumerate() {
        let lean =
            played.trace(i).iter().filter(|(s, _)| s[2].abs() > 0.104_719_76).count();
        let expected = 0.5 * (steps - lean) as f64 - 2.0 * lean as f64;
        let found = found.get(i).with_context(|| format!("episode {i} has no return"))?;
        ensure!(
            (found - expected).abs() < 1e-9,
            "an episode of {steps} steps, {lean} of them leaning, earns {expected} at 0.5 and −2; \
             yours earns {found}: does each step count for its own episode?"
        );
    }
    Ok(())
}

fn largest_fall(yours: fn(&[f64]) -> Option<(usize, usize)>) -> Result<()> {
    for curve in [&[][..], &[20.0], &[20.0, 20.0, 30.0, 500.0]] {
        let found = yours(curve);
        ensure!(found.is_none(), "the curve {curve:?} never falls; you say {found:?}");
    }
    let mut rng = seed::rng(5);
    let mut curves = vec![vec![20.0, 300.0, 250.0, 480.0, 470.0]];
    curves.push(vec![10.0, 500.0, 400.0, 450.0, 300.0, 350.0]);
    curves.push(vec![500.0, 450.0, 700.0, 600.0, 800.0]);
    curves.extend((0..50).map(|_| (0..40).map(|_| rng.random_range(0.0..500.0)).collect()));
    for curve in curves {
        let (peak, trough) = yours(&curve)
            .with_context(|| format!("the curve {curve:?} falls; you say None"))?;
        let count = curve.len();
        ensure!(
            peak < trough && trough < count,
            "you say that the curve {curve:.0?} falls from place {peak} to place {trough}: the \
             trough must come after the peak, or it is a rise"
        );
        let found = curve[peak] - curve[trough];
        let all = (0..count).flat_map(|a| (a..count).map(move |b| (a, b)));
        let (a, b) = all
            .max_by(|(a, b), (c, d)| {
                (curve[*a] - curve[*b]).total_cmp(&(curve[*c] - curve[*d]))
            })
            .context("the curve is empty")?;
        let deepest = curve[a] - curve[b];
        ensure!(
            found >= deepest - 1e-9,
            "the curve {curve:.0?} falls deepest from place {a} to place {b}, by {deepest:.0}; your \
             fall, from {peak} to {trough}, is {found:.0} deep: a fall may take many steps, with \
             rises between"
        );
    }
    Ok(())
}

type StepAll = fn(&mut [State], &mut [usize], &mut [End], &[u32]) -> Result<()>;

fn step_all(yours: StepAll) -> Result<()> {
    refusals(yours)?;
    let upright = [0.0; 4];
    let falling = [0.0, 0.0, 0.2, 3.0];
    let (mut states, mut steps) = (vec![upright, falling, upright], vec![MAX_STEPS - 1; 3]);
    steps[2] = 7;
    let mut ends = vec![End::Running; 3];
    yours(&mut states, &mut steps, &mut ends, &[1, 1, 1])?;
    for (i, expected, why) in [
        (0, End::Truncated, "500 steps are over and it stands"),
        (1, End::Terminated, "it falls, and a fall on the last step is a fall"),
        (2, End::Running, "it stands after 8 steps"),
    ] {
        let found = ends[i];
        ensure!(found == expected, "{why}: it is {expected:?}; yours is {found:?}");
    }
    let found = &steps;
    ensure!(
        *found == [500, 500, 8],
        "each step counts as one; yours have lasted {found:?}"
    );
    let still = states.clone();
    yours(&mut states, &mut steps, &mut ends, &[0])?;
    ensure!(
        states[..2] == still[..2] && steps[..2] == [500, 500],
        "an environment that has ended stays as it is; yours moved on: did you step only those \
         that are `End::Running`?"
    );
    ensure!(
        states[2] == cartpole::step(still[2], false),
        "two of three have ended, so the one action belongs to the third; yours is now {:?}: are \
         actions counted over those that run, and not over all?",
        states[2]
    );
    // Many together, until all have ended, against the library's.
    let mut rng = seed::rng(9);
    let starts = cartpole::group_starts(30, 1, &mut rng);
    let n = starts.len();
    let (mut states, mut steps, mut ends) =
        (starts.clone(), vec![0; n], vec![End::Running; n]);
    let mut theirs = CartPoles::new(starts);
    while !theirs.running().is_empty() {
        // The better rule, which now and then slips: some fall, some stand to the end.
        let mut act = |&i: &usize| {
            let [_, _, angle, spin] = theirs.states()[i];
            u32::from(
                (angle + spin > 0.0)
                    != (i % 3 > 0 && rng.random_bool(0.1 * i as f64 / 30.0)),
            )
        };
        let actions: Vec<u32> = theirs.running().iter().map(&mut act).collect();
        theirs.step(&actions)?;
        yours(&mut states, &mut steps, &mut ends, &actions)?;
        let same =
            states == theirs.states() && steps == theirs.steps() && ends == theirs.ends();
        if let (false, Some(i)) = (same, (0..n).find(|&i| ends[i] != theirs.ends()[i])) {
            let (step, end) = (theirs.steps()[i], theirs.ends()[i]);
            bail!("after {step} steps environment {i} is {end:?}; yours is {:?}", ends[i]);
        }
        ensure!(
            same,
            "among 30 environments yours come to other states or numbers of steps"
        );
    }
    Ok(())
}

/// What must be refused, with everything left where it was.
fn refusals(yours: StepAll) -> Result<()> {
    let before = (vec![[0.0; 4]; 3], vec![3; 3], vec![End::Running; 3]);
    for (actions, wrong) in [
        (&[1, 0][..], "2 actions for 3 environments that run"),
        (&[1, 0, 1, 0], "4 actions for 3 environments that run"),
        (&[1, 0, 2], "the action 2"),
    ] {
        let (mut states, mut steps, mut ends) = before.clone();
        let refused = yours(&mut states, &mut steps, &mut ends, actions).is_err();
        ensure!(refused, "{wrong} must be an error; yours went on");
        ensure!(
            (states, steps, ends) == before,
            "{wrong}: nothing must have moved, and in yours something has: check all actions before \
             the first step"
        );
    }
    Ok(())
}

type Layers = fn(&[usize], &mut Init) -> Result<Vec<Linear>>;
type Forward = fn(&[Linear], &Tensor) -> Result<Tensor>;

/// A network of these sizes in double precision, with its variables.
fn fresh(layers: Layers, sizes: &[usize], seed: u64) -> Result<(Vec<Linear>, Variables)> {
    let mut rng = seed::rng(seed);
    let mut init = Init::new(&mut rng, DType::F64, &Device::Cpu);
    let layers = layers(sizes, &mut init)?;
    Ok((layers, init.finish()))
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn network(layers: Layers, forward: Forward) -> Result<()> {
    for sizes in [&[4, 2][..], &[4, 8, 2], &[4, 8, 6, 5, 2]] {
        let (made, variables) = fresh(layers, sizes, 1)?;
        let (count, wanted) = (made.len(), sizes.len() - 1);
        ensure!(
            count == wanted,
            "sizes {sizes:?} make {wanted} layers; yours makes {count}"
        );
        for (i, pair) in sizes.windows(2).enumerate() {
            for (part, shape) in
                [("weight", vec![pair[1], pair[0]]), ("bias", vec![pair[1]])]
            {
                let name = format!("{i}.{part}");
                let names = variables.keys().cloned().collect::<Vec<_>>().join(", ");
                let variable = variables.get(&name).with_context(|| {
                    format!("sizes {sizes:?} have a variable {name}; yours are: {names}")
                })?;
                let found = variable.dims();
                ensure!(
                    found == shape,
                    "sizes {sizes:?}: {name} has shape {shape:?}; yours has {found:?}: outputs come \
                     first"
                );
            }
            let bias = numbers(&variables[&format!("{i}.bias")])?;
            ensure!(
                bias.iter().all(|b| *b == 0.0),
                "biases start at 0; yours are {bias:.2?}"
            );
        }
    }
    spreads(layers)?;
    for sizes in [&[3, 2][..], &[3, 5, 2], &[3, 4, 4, 2]] {
        values(layers, forward, sizes)?;
    }
    Ok(())
}

/// The standard deviations of fresh weights, in a network wide enough to tell.
fn spreads(layers: Layers) -> Result<()> {
    let (_, variables) = fresh(layers, &[100, 400, 100], 2)?;
    for (name, expected) in [("0.weight", 0.1), ("1.weight", 0.01 / 20.0)] {
        let weights = numbers(&variables[name])?;
        let (mean, std) = grpo::stats::mean_std(&weights);
        ensure!(
            (std / expected - 1.0).abs() < 0.05 && mean.abs() < 0.05 * expected,
            "sizes [100, 400, 100]: {name} has standard deviation {expected}; yours has {std:.4}: \
             it is 1/√inputs, and a hundredth of that in the last layer"
        );
    }
    Ok(())
}

/// Logits against plain loops, and gradients against finite differences.
fn values(layers: Layers, forward: Forward, sizes: &[usize]) -> Result<()> {
    let (made, variables) = fresh(layers, sizes, 3)?;
    let mut rng: StdRng = seed::rng(4);
    // Numbers large enough for tanh to matter in every layer, and biases that are not 0.
    for variable in variables.values() {
        variable.set(&seed::normal(
            &mut rng,
            variable.shape(),
            0.7,
            DType::F64,
            &Device::Cpu,
        )?)?;
    }
    let features = seed::normal(&mut rng, (5, 1, sizes[0]), 1.5, DType::F64, &Device::Cpu)?;
    let logits = forward(&made, &features)?;
    let (shape, actions) = (logits.dims(), *sizes.last().unwrap_or(&0));
    ensure!(
        shape == [5, 1, actions],
        "features (5, 1, {}) give logits (5, 1, {actions}); yours give {shape:?}",
        sizes[0]
    );
    let squash = |x: Vec<f64>| x.into_iter().map(f64::tanh).collect::<Vec<f64>>();
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for row in features.squeeze(1)?.to_vec2::<f64>()? {
        // Tanh between the layers, after the last one too, and nowhere.
        for (kind, expected) in expected.iter_mut().enumerate() {
            let mut x = row.clone();
            for i in 0..made.len() {
                let weight = variables[&format!("{i}.weight")].to_vec2::<f64>()?;
                let bias = numbers(&variables[&format!("{i}.bias")])?;
                let dot = |w: &Vec<f64>| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
                let sum: Vec<f64> =
                    weight.iter().zip(bias).map(|(w, b)| dot(w) + b).collect();
                let inside = kind == 0 && i + 1 < made.len() || kind == 1;
                x = if inside { squash(sum) } else { sum };
            }
            expected.extend(x);
        }
    }
    let found = numbers(&logits)?;
    let why = match () {
        () if made.len() > 1 && close(&found, &expected[2], 1e-9) => {
            "without tanh between them, many layers are one"
        }
        () if close(&found, &expected[1], 1e-9) => {
            "there is no tanh after the last layer: logits may be any number"
        }
        () => "is tanh between the layers, and not before the first?",
    };
    ensure!(
        close(&found, &expected[0], 1e-9),
        "sizes {sizes:?}: the logits of a network worked out with loops begin {:.3?}, yours {:.3?}: \
         {why}",
        &expected[0][..2],
        &found[..2]
    );
    let loss = || Ok(forward(&made, &features)?.sqr()?.sum_all()?);
    let exact = gradients::finite_differences(&variables, 1e-5, loss)?;
    let found = gradients::of(&loss()?, &variables)?;
    for (name, variable) in &variables {
        let gradient =
            found.get(variable).with_context(|| format!("{name}: no gradient"))?;
        ensure!(
            close(&numbers(gradient)?, &exact[name], 1e-5),
            "sizes {sizes:?}: the gradient of {name} differs from finite differences"
        );
    }
    Ok(())
}

fn reward_to_go(yours: Credit) -> Result<()> {
    // Three episodes of 1, 2 and 4 steps; σ² = 7/3. To go: 1, 2, 4, then 1, 3, then 2, 1.
    let returns = [1.0, 2.0, 4.0];
    let episode = side_by_side(&returns);
    let found = yours(&returns, &episode, 3)?;
    let n = found.len();
    ensure!(n == 7, "7 steps have 7 advantages; you return {n}");
    let centred = [-4.0 / 3.0, -1.0 / 3.0, 5.0 / 3.0, -1.0, 1.0, 0.0, 0.0];
    let expected = centred.map(|a| a / (7.0f64 / 3.0).sqrt());
    ensure!(
        close(&found[..3], &expected[..3], 1e-3),
        "at time 0 episodes of 1, 2 and 4 steps have the advantages of their returns, {:.3?}; \
         yours are {:.3?}: what is still to earn at time 0, and is σ over n − 1?",
        &expected[..3],
        &found[..3]
    );
    let whole = episode.iter().map(|&e| expected[e]);
    ensure!(
        !close(&found, &whole.collect::<Vec<_>>(), 1e-3),
        "every step of yours has the advantage of its whole episode: what a step earned before \
         it does not count"
    );
    ensure!(
        close(&found[3..5], &expected[3..5], 1e-3),
        "at time 1 two episodes still run, with 1 and 3 to go, so their advantages are {:.3?}; \
         yours are {:.3?}: the mean is over those that still run, and σ that of the returns",
        &expected[3..5],
        &found[3..5]
    );
    ensure!(
        close(&found[5..], &[0.0; 2], 1e-9),
        "from time 2 on one episode is alone, and has nothing to be compared with but itself: 0; \
         yours has {:.3?}",
        &found[5..]
    );
    // Two groups, one of which lasts a hundred times as long, and a silent one.
    let returns = [1.0, 2.0, 4.0, 100.0, 200.0, 400.0, 5.0, 5.0, 5.0];
    let episode = side_by_side(&returns);
    let all = yours(&returns, &episode, 3)?;
    let of = |group: usize| -> Vec<f64> {
        let steps = episode.iter().zip(&all).filter(|(e, _)| **e / 3 == group);
        steps.map(|(_, a)| *a).collect()
    };
    ensure!(
        close(&of(0), &found, 1e-9),
        "beside other groups the episodes of 1, 2 and 4 steps have other advantages in yours: only \
         the episodes of a group are compared"
    );
    ensure!(
        close(&of(1)[..3], &expected[..3], 1e-3),
        "episodes of 100, 200 and 400 steps begin with {:.3?}, as those of 1, 2 and 4 do; yours \
         with {:.3?}: is σ that of the group's returns?",
        &expected[..3],
        &of(1)[..3]
    );
    ensure!(
        of(2).iter().all(|a| a.abs() < 1e-9),
        "three episodes of 5 steps are alike at any time: all advantages are 0"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(check: Result<()>, words: &str) {
        let message = check.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_turns_on_paper_and_by_hand() {
        says(first_loss(|| [0.0; 2]), "mean over steps");
        says(first_loss(|| [1.286, 0.167]), "the sign");
        says(first_loss(|| [-1.485, -0.192]), "over n − 1");
        says(first_loss(|| [-720.0, -15.0]), "divide by 560");
        says(first_loss(|| [-1.286, -1.286]), "of the 90 steps");
        says(first_loss(|| [f64::NAN, -0.167]), "of the 560 steps");
        fn push(states: &[[f32; 4]], x: f32, v: f32, spin: f32) -> Result<Vec<u32>> {
            let of = |s: &[f32; 4]| x * s[0] + v * s[1] + s[2] + spin * s[3];
            Ok(states.iter().map(|s| u32::from(of(s) > 0.0)).collect())
        }
        says(rule(|s| push(s, 0.0, 0.0, 0.0)), "look at angle");
        says(rule(|s| push(s, 0.0, 0.0, 1.0)), "a little more weight");
        says(rule(|s| push(s, -0.1, -0.2, 1.0)), "come back");
    }

    #[test]
    fn credit_goes_to_the_right_steps() {
        says(step_advantages(|r, _, _| Ok(r.to_vec())), "one for each step");
        let batch: Credit = |r, e, _| solutions::step_advantages(r, e, r.len());
        says(step_advantages(batch), "within the group");
        let blocks: Credit = |r, e, g| {
            let mut sorted = e.to_vec();
            sorted.sort();
            solutions::step_advantages(r, &sorted, g)
        };
        says(step_advantages(blocks), "one episode after the other");
        says(reward_to_go(solutions::step_advantages), "what a step earned before");
        let all: Credit = |r, e, g| {
            let mut clock = vec![0.0; r.len()];
            let mut advantages = Vec::new();
            for &i in e {
                let group = &r[i / g * g..i / g * g + g];
                let to_go = |r: f64| f64::max(r - clock[i], 0.0);
                let mean = group.iter().map(|r| to_go(*r)).sum::<f64>() / g as f64;
                advantages
                    .push((to_go(r[i]) - mean) / (grpo::stats::mean_std(group).1 + 1e-4));
                clock[i] += 1.0;
            }
            Ok(advantages)
        };
        says(reward_to_go(all), "over those that still run");
    }

    #[test]
    fn rewards_and_curves_say_what_was_overlooked() {
        let signed = |e: &Episodes, upright: f64, leaning: f64| {
            let mut returns = vec![0.0; e.steps.len()];
            for (s, &i) in e.states.iter().zip(&e.episode) {
                returns[i] += if s[2] > 0.1047 { leaning } else { upright };
            }
            returns
        };
        says(shaped(signed), "does leaning to the left count");
        let both = |e: &Episodes, upright: f64, leaning: f64| {
            let lean = solutions::shaped(e, 0.0, leaning);
            lean.iter().zip(&e.steps).map(|(l, s)| l + upright * *s as f64).collect()
        };
        says(shaped(both), "one of the two");
        let extremes = |curve: &[f64]| {
            solutions::largest_fall(curve)?;
            let by = |a: &usize, b: &usize| curve[*a].total_cmp(&curve[*b]);
            Some(((0..curve.len()).max_by(by)?, (0..curve.len()).min_by(by)?))
        };
        says(largest_fall(extremes), "it is a rise");
        let neighbours = |curve: &[f64]| {
            solutions::largest_fall(curve)?;
            let fall = |i: &usize| curve[*i] - curve[i + 1];
            let at = (0..curve.len() - 1).max_by(|a, b| fall(a).total_cmp(&fall(b)))?;
            Some((at, at + 1))
        };
        says(largest_fall(neighbours), "may take many steps");
    }

    #[test]
    fn environments_and_networks_too() {
        let careless: StepAll = |states, steps, ends, actions| {
            for i in 0..states.len() {
                states[i] = cartpole::step(states[i], actions.get(i) == Some(&1));
                steps[i] += 1;
                ends[i] = End::Running;
            }
            Ok(())
        };
        says(step_all(careless), "must be an error");
        let by_place: StepAll = |states, steps, ends, actions| {
            let running = ends.iter().filter(|end| **end == End::Running).count();
            if running == states.len() {
                return solutions::step_all(states, steps, ends, actions);
            }
            let wrong: Vec<u32> = actions.iter().map(|action| 1 - action).collect();
            solutions::step_all(states, steps, ends, &wrong)
        };
        says(step_all(by_place), "counted over those that run");
        fn flat(layers: &[Linear], features: &Tensor) -> Result<Tensor> {
            use candle_core::Module;
            layers.iter().try_fold(features.clone(), |x, layer| Ok(layer.forward(&x)?))
        }
        says(network(solutions::layers, flat), "many layers are one");
        let last: Forward = |l, x| Ok(solutions::forward(l, x)?.tanh()?);
        says(network(solutions::layers, last), "no tanh after the last layer");
        let cut: Forward = |l, x| Ok(solutions::forward(l, x)?.detach());
        says(network(solutions::layers, cut), "got no gradient");
    }
}
