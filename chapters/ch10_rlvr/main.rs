//! Chapter 10: rewards that can be verified. A model that can think but does not is given
//! nothing but a program that checks its answers.
//!
//! `--study NAME` runs five seeds and the counterfactuals; it takes minutes.

use candle_core::{DType, Device, Tensor};
use candle_nn::Optimizer;
use clap::{Parser, ValueEnum};
use grpo::{
    Result,
    advantage::{self, Scale},
    cli::{self, RunArgs},
    lm::{
        generate::{Completions, Streams},
        student::{SHARDS, Student},
    },
    optim::{AdamW, warm_up_cosine},
    plot::{Figure, Panel},
    policy::Policy,
    report::{self, Kind, Output, Table},
    reward::{Judged, judge},
    rollout::Rollout,
    sampling::Sampler,
    seed, shards, stats,
    task::{Problem, Split},
    update::{Step, Steps, update_in_shards},
    variables::Variables,
};
use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

mod chat;
mod course;
mod disk;
#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
mod lesson;
mod method;
mod show;
mod study;
#[cfg(test)]
mod tests;
mod toy;

use course::{Course, Point, Record};
use lesson::{Lesson, Plan};
use method::{Baseline, Method, Reward};

// ANCHOR: settings
/// Demonstrations in a step of fine-tuning, and its learning rate.
const SFT_BATCH: usize = 96;
const SFT_LR: f64 = 2e-3;
/// The learning rate of GRPO. It falls to a tenth over the run.
const LEARNING_RATE: f64 = 3e-4;
const CLIP_EPS: f64 = 0.2;
/// μ. One gradient step on each rollout: the ratio is then 1, and nothing is clipped.
const EPOCHS: usize = 1;
const MAX_NORM: f64 = 1.0;
/// Problems of the first and of the last examination, and of those between.
const HELD_OUT: usize = 500;
const BETWEEN: usize = 200;
const EXAM_EVERY: usize = 10;
// ANCHOR_END: settings

/// What is drawn from which stream of random numbers.
const WEIGHTS_STREAM: u64 = 1;
const HELD_OUT_STREAM: u64 = 2;
const SFT_STREAM: u64 = 3;
const PROMPTS_STREAM: u64 = 4;

/// Chapter 10, verifiable rewards: a lazy student rediscovers thinking.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// What there is to learn [default: lazy]
    #[arg(long, value_enum)]
    task: Option<Lesson>,
    /// Less of everything: about twenty seconds
    #[arg(long)]
    quick: bool,
    /// G, completions of each prompt [default: 8]
    #[arg(long, value_name = "G", value_parser = group_size)]
    group_size: Option<usize>,
    /// Steps of GRPO [default: 60; carry: 80]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    steps: Option<usize>,
    /// Steps of fine-tuning before it [default: 400; carry: 1000]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    sft_steps: Option<usize>,
    /// Learning rate of GRPO [default: 0.0003]
    #[arg(long, value_parser = learning_rate)]
    lr: Option<f64>,
    /// Save the run in this folder, also when it is interrupted
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Go on with the run saved in this folder, and save it there
    #[arg(long, value_name = "DIR", conflicts_with = "save")]
    resume: Option<PathBuf>,
    /// Afterwards, answer prompts from standard input; with --resume, at once
    #[arg(long)]
    chat: bool,
    /// Instead of one run: five seeds, and what happens otherwise
    #[arg(long, value_enum, conflicts_with_all = ["task", "save", "resume", "chat"])]
    study: Option<Lesson>,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    if let Some(lesson) = args.study {
        return Ok(study::run(lesson, &args)?);
    }
    let mut course = begin(&args)?;
    let folder = args.save.as_deref().or(args.resume.as_deref());
    if !(args.chat && args.resume.is_some()) {
        let mut out = args.run.output("ch10_rlvr")?;
        if course.plan.lesson == Lesson::Lazy {
            toy::run(&mut out, &args.run)?;
        }
        let saved = disk::train(&mut course, folder);
        show::course(&mut out, &course)?;
        out.finish()?;
        saved?;
    }
    if args.chat {
        chat::run(&course, std::io::stdin().lock())?;
    }
    Ok(())
}

/// A new run, or the saved one.
fn begin(args: &Args) -> Result<Course> {
    if let Some(folder) = &args.resume {
        return disk::resume(folder, args);
    }
    let course =
        Course::new(plan(args.task.unwrap_or(Lesson::Lazy), args), &args.run.device)?;
    if let Some(folder) = &args.save {
        // Better to learn now than after the training that it cannot be saved here.
        disk::save(folder, &course)?;
    }
    Ok(course)
}

/// The plan of a lesson, with what the arguments change.
fn plan(lesson: Lesson, args: &Args) -> Plan {
    let mut plan = Plan::new(lesson, args.run.seed, args.quick);
    plan.steps = args.steps.unwrap_or(plan.steps);
    plan.group_size = args.group_size.unwrap_or(plan.group_size);
    plan.lr = args.lr.unwrap_or(plan.lr);
    if let Some(steps) = args.sft_steps {
        plan.work_steps = plan.work_steps * steps / plan.sft_steps;
        plan.sft_steps = steps;
    }
    plan
}

// ANCHOR: grpo_step
/// One step of GRPO: ask, answer, check, compare, learn.
fn grpo_step(
    student: &Student,
    optimizer: &mut AdamW,
    split: &Split,
    plan: &Plan,
    reward: impl Fn(&Problem, &[String], usize) -> Result<f64>,
    step: usize,
) -> Result<(Learnt, Judged)> {
    let (method, group) = (&plan.method, plan.group_size);
    let rng = &mut seed::stream(plan.seed, &[PROMPTS_STREAM, step as u64]);
    let problems =
        (0..plan.prompts).map(|_| split.draw(rng)).collect::<Result<Vec<_>>>()?;

    let streams = Streams { seed: plan.seed, step: step as u64, first_prompt: 0 };
    let sampled = student.answer(&problems, group, Sampler::at(1.0), streams)?;
    let texts = student.texts(&sampled)?;
    let judged = judge(texts.len(), |i| {
        let (prompt, first) = (i / group, i / group * group);
        reward(&problems[prompt], &texts[first..first + group], i - first)
    });
    let rollout = remember(&sampled, &judged.rewards, method.baseline, group)?;

    optimizer.set_learning_rate(plan.lr * warm_up_cosine(step, 5, plan.steps, 0.1));
    let score = |r: &Rollout| {
        student.decoder.score(&r.prompts, r.prompt_mask.as_ref(), &r.tokens, 1.0)
    };
    let steps = Steps { epochs: EPOCHS, max_norm: MAX_NORM };
    let mut taken = Vec::new();
    if let Some(rollout) = speaking(rollout, method.baseline)? {
        let (variables, objective) = (student.decoder.variables(), method.objective());
        let split = shards::Split::over(SHARDS);
        taken = update_in_shards(
            score, variables, optimizer, &rollout, &objective, steps, split,
        )?;
    }
    let silent = advantage::silent_groups(&judged.rewards, group)?;
    let tokens = sampled.lengths.iter().sum::<usize>() as f64;
    Ok((Learnt::new(&judged, silent, tokens, taken.last()), judged))
}
// ANCHOR_END: grpo_step

/// What was sampled, with its rewards compared.
fn remember(
    sampled: &Completions,
    rewards: &[f64],
    baseline: Baseline,
    group_size: usize,
) -> Result<Rollout> {
    let Completions { prompts, prompt_mask, tokens, mask, log_probs, .. } = sampled.clone();
    let (rewards, scale) = (rewards.to_vec(), baseline.scale());
    let mut rollout =
        Rollout::new(prompts, tokens, mask, log_probs, rewards, group_size, scale)?
            .with_prompt_mask(prompt_mask.as_ref())?;
    if baseline == Baseline::None {
        let rewards = Tensor::new(&rollout.rewards[..], rollout.tokens.device())?;
        rollout.advantages = rewards.to_dtype(rollout.advantages.dtype())?;
    }
    Ok(rollout)
}

/// The groups that have something to say. Where all rewards are equal, all advantages are
/// 0, and a gradient step would cost time and change nothing.
fn speaking(rollout: Rollout, baseline: Baseline) -> Result<Option<Rollout>> {
    if baseline == Baseline::None {
        return Ok(Some(rollout));
    }
    let groups = rollout.speaking_groups()?;
    (!groups.is_empty()).then(|| rollout.select(&groups)).transpose()
}

/// What one step of GRPO saw, or the mean of several.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Learnt {
    reward: f64,
    /// The share of groups whose completions all got the same reward.
    silent: f64,
    /// Sampled tokens.
    tokens: f64,
    /// Of the gradient step, where there was one: entropy in nats a token, the share of
    /// clipped tokens, and the norm of the gradient.
    entropy: Option<f64>,
    clipped: Option<f64>,
    grad_norm: Option<f64>,
}

impl Learnt {
    fn new(judged: &Judged, silent: f64, tokens: f64, step: Option<&Step>) -> Self {
        Self {
            reward: judged.mean(),
            silent,
            tokens,
            entropy: step.and_then(|step| step.metrics.entropy),
            clipped: step.map(|step| step.metrics.clip_low + step.metrics.clip_high),
            grad_norm: step.map(|step| step.grad_norm),
        }
    }

    /// `None` of none.
    fn mean(all: &[Self]) -> Option<Self> {
        let of = |value: fn(&Self) -> Option<f64>| {
            let values: Vec<f64> = all.iter().filter_map(value).collect();
            (!values.is_empty()).then(|| stats::mean_std(&values).0)
        };
        Some(Self {
            reward: of(|one| Some(one.reward))?,
            silent: of(|one| Some(one.silent))?,
            tokens: of(|one| Some(one.tokens))?,
            entropy: of(|one| one.entropy),
            clipped: of(|one| one.clipped),
            grad_norm: of(|one| one.grad_norm),
        })
    }
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number, at least 1".into()),
        Ok(number) => Ok(number),
    }
}

fn group_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(size @ 2..=1024) => Ok(size),
        Ok(1) => {
            Err("one completion has nothing to be compared with; it must be from 2 to 1024"
                .into())
        }
        _ => Err("it must be a whole number from 2 to 1024".into()),
    }
}

fn learning_rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(lr) if lr > 0.0 && lr <= 1.0 => Ok(lr),
        _ => Err("it must be a number above 0 and at most 1".into()),
    }
}
