//! Learning from the sloppy teacher: the run of the chapter, and what goes wrong with a
//! layer that has no backward pass.
//!
//! Left out: a validation loss. The teacher writes every demonstration anew, so the loss
//! before a step is one.

use crate::transformer::{Parts, Stock, Transformer, WHOLE, continue_greedily};
use anyhow::{Context, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::Optimizer;
use grpo::{
    Result, gradients,
    lm::{exam::exam, sft, student::Student},
    log_prob,
    optim::warm_up_cosine,
    policy::Policy,
    sampling::Sampler,
    seed,
    task::{Demonstration, END, Problem, Split, carry},
    variables::Variables,
};

// ANCHOR: settings
/// Prompts for the examinations, never shown.
pub const HELD_OUT: usize = 500;
pub const SETTINGS: sft::Settings =
    sft::Settings { steps: 800, batch: 96, lr: 2e-3, warm_up: 50 };
/// Steps between examinations.
pub const EVERY: usize = 50;
/// The experiments with broken transformers: as many steps, on fewer demonstrations.
pub const BROKEN: sft::Settings = sft::Settings { batch: 32, ..SETTINGS };
// ANCHOR_END: settings

/// The problems of a run.
pub fn split(seed: u64) -> Result<Split> {
    Split::new(carry::TASK, HELD_OUT, &mut seed::stream(seed, &[9, 0]))
}

/// What the teacher writes for step number `step`.
pub fn demonstrations(
    split: &Split,
    batch: usize,
    seed: u64,
    step: usize,
) -> Result<Vec<Demonstration>> {
    let mut rng = seed::stream(seed, &[9, 1, step as u64]);
    (0..batch).map(|_| carry::demonstrate(&split.draw(&mut rng)?, &mut rng)).collect()
}

/// One examination on the held-out problems.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub step: usize,
    /// Mean of the losses since the last point, in nats a token.
    pub loss: f64,
    /// Share of right answers, the likeliest token each time.
    pub greedy: f64,
    /// Share of right answers, sampled at temperature 1.
    pub sampled: f64,
    /// Share of greedy answers that are the teacher's habit.
    pub habit: f64,
}

// ANCHOR: learn
/// Fine-tunes a fresh student on the sloppy teacher, with an examination every
/// [`EVERY`] steps. Returns the student and the examinations.
pub fn learn(
    seed: u64,
    settings: &sft::Settings,
    device: &Device,
    tick: impl Fn(f64),
) -> Result<(Student, Vec<Point>)> {
    let split = split(seed)?;
    let mut rng = seed::stream(seed, &[9, 2]);
    let student = Student::new(&carry::TASK, &mut rng, device)?;
    let mut points = vec![examine(&student, &split, seed, 0, f64::NAN)?];
    let mut losses = Vec::new();
    let draw = |step| demonstrations(&split, settings.batch, seed, step);
    sft::fit(&student, settings, draw, |step, loss| {
        tick(loss);
        losses.push(loss);
        if (step + 1) % EVERY == 0 {
            let mean = losses.drain(..).sum::<f64>() / EVERY as f64;
            points.push(examine(&student, &split, seed, step + 1, mean)?);
        }
        Ok(())
    })?;
    Ok((student, points))
}
// ANCHOR_END: learn

fn examine(
    student: &Student,
    split: &Split,
    seed: u64,
    step: usize,
    loss: f64,
) -> Result<Point> {
    let greedy = exam(student, &split.held_out, Sampler::greedy(), seed)?;
    let sampled = exam(student, &split.held_out, Sampler::at(1.0), seed)?.accuracy();
    let habit = share_of_habit(&split.held_out, &greedy.texts)?;
    Ok(Point { step, loss, greedy: greedy.accuracy(), sampled, habit })
}

/// How many answers are what the teacher mostly writes.
fn share_of_habit(problems: &[Problem], texts: &[String]) -> Result<f64> {
    let mut habit = 0;
    for (problem, text) in problems.iter().zip(texts) {
        habit += usize::from(*text == carry::sloppy(problem)? + END);
    }
    Ok(habit as f64 / problems.len() as f64)
}

/// What a perfect pupil of the teacher reaches on these problems.
#[derive(Debug, Clone, Copy)]
pub struct Perfect {
    /// The entropy of the teacher, in nats a token: no loss can stay below it.
    pub loss: f64,
    pub greedy: f64,
    pub sampled: f64,
}

// ANCHOR: perfect
/// Without training: the teacher's choices are known. Where the two ways to add disagree,
/// the answer is a coin that falls on the wrong side seven times in ten.
pub fn perfect(problems: &[Problem]) -> Result<Perfect> {
    let mut carries = 0;
    for problem in problems {
        carries += usize::from(carry::sloppy(problem)? != problem.answer);
    }
    let share = carries as f64 / problems.len() as f64;
    let (wrong, right) = (carry::FORGETS, 1.0 - carry::FORGETS);
    let coin = -(wrong * wrong.ln() + right * right.ln());
    let tokens = 4.0; // three digits, and the end
    Ok(Perfect {
        loss: share * coin / tokens,
        greedy: 1.0 - share,
        sampled: 1.0 - share * wrong,
    })
}
// ANCHOR_END: perfect

/// A way to build the transformer, and its name.
pub type Variant = (&'static str, Parts);

const fn stock(softmax: bool, rope: bool, norm: bool) -> Parts {
    Parts { stock: Stock { softmax, rope, norm }, ..WHOLE }
}

/// One right, two with a layer that has no backward pass, one that looks ahead. A fused
/// rope cuts off what a fused softmax does: queries and keys.
pub const VARIANTS: [Variant; 4] = [
    ("as it should be", WHOLE),
    ("fused softmax", stock(true, false, false)),
    ("fused norm", stock(false, false, true)),
    ("no causal mask", Parts { mask: false, ..WHOLE }),
];

/// What became of a variant.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Variables with a gradient, and all.
    pub reached: [usize; 2],
    /// The loss before each step, in nats a token.
    pub losses: Vec<f64>,
    /// Greedy answers to held-out problems: the habit, and the right answer.
    pub habit: f64,
    pub right: f64,
}

impl Trained {
    /// The mean of the last losses.
    pub fn loss(&self) -> f64 {
        let last = &self.losses[self.losses.len().saturating_sub(20)..];
        last.iter().sum::<f64>() / last.len() as f64
    }
}

// ANCHOR: forgiving
/// Trains as most code does: whatever has a gradient moves, and nobody counts.
pub fn train(
    seed: u64,
    parts: Parts,
    settings: &sft::Settings,
    device: &Device,
) -> Result<Trained> {
    let sft::Settings { steps, batch, lr, warm_up } = *settings;
    let split = split(seed)?;
    let student = Student::new(&carry::TASK, &mut seed::stream(seed, &[9, 2]), device)?;
    let policy = Transformer::of(&student.decoder, parts);
    let mut optimizer = sft::optimizer(&student, lr)?;
    let (mut losses, mut reached) = (Vec::new(), 0);
    for step in 0..steps {
        let shown = demonstrations(&split, batch, seed, step)?;
        let loss = loss(&policy, &student, &shown)?;
        let mut gradients = loss.backward()?; // gradients::of would refuse
        let with: Variables = policy
            .variables()
            .iter()
            .filter(|(_, variable)| gradients.get(variable).is_some())
            .map(|(name, variable)| (name.clone(), variable.clone()))
            .collect();
        gradients::clip_norm(&mut gradients, &with, 1.0)?;
        optimizer.set_learning_rate(lr * warm_up_cosine(step, warm_up, steps, 0.1));
        optimizer.step(&gradients)?;
        losses.push(loss.to_dtype(DType::F64)?.to_scalar()?);
        reached = with.len();
    }
    let (habit, right) = answers(&policy, &student, &split.held_out)?;
    Ok(Trained { reached: [reached, policy.variables().len()], losses, habit, right })
}
// ANCHOR_END: forgiving

/// Minus the mean log-probability of the demonstrated tokens. All prompts of this task are
/// equally long, and so are all completions: nothing is padded.
fn loss(
    policy: &Transformer,
    student: &Student,
    shown: &[Demonstration],
) -> Result<Tensor> {
    let text = |one: &Demonstration| format!("{}{}", one.prompt, one.completion);
    let sequences = rows(student, shown.iter().map(text))?;
    let prompt = shown.first().context("there are no demonstrations")?.prompt.len();
    let scores =
        log_prob::completion(&policy.logits(&sequences)?, &sequences, prompt, 1.0)?;
    Ok(scores.log_probs.mean_all()?.neg()?)
}

/// Texts of equal length as ids (B, T).
pub fn rows(student: &Student, texts: impl Iterator<Item = String>) -> Result<Tensor> {
    let ids =
        texts.map(|text| student.tokenizer.encode(&text)).collect::<Result<Vec<_>>>()?;
    let width = ids.first().map_or(0, Vec::len);
    ensure!(ids.iter().all(|row| row.len() == width), "the texts are not equally long");
    Ok(Tensor::new(ids, student.decoder.device())?)
}

/// The shares of greedy answers that are the habit, and that are right.
fn answers(
    policy: &Transformer,
    student: &Student,
    problems: &[Problem],
) -> Result<(f64, f64)> {
    let prompts = rows(student, problems.iter().map(|problem| problem.prompt.clone()))?;
    let tokens = continue_greedily(policy, &prompts, 4)?;
    let texts: Vec<String> = tokens
        .to_vec2::<u32>()?
        .iter()
        .map(|ids| student.tokenizer.decode(ids))
        .collect::<Result<_>>()?;
    let right =
        problems.iter().zip(&texts).filter(|(p, text)| grpo::reward::verify(p, text));
    let right = right.count() as f64 / problems.len() as f64;
    Ok((share_of_habit(problems, &texts)?, right))
}

/// Probabilities of the next token after one text, at a temperature.
pub fn next(student: &Student, text: &str, temperature: f64) -> Result<Vec<f64>> {
    let tokens = rows(student, std::iter::once(text.to_string()))?;
    let last = tokens.dim(D::Minus1)? - 1;
    let logits = student.decoder.logits(&tokens)?.get(0)?.get(last)?;
    log_prob::probabilities(&(logits / temperature)?)
}
