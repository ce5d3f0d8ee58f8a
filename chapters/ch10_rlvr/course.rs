//! One run from fresh weights to the last step, in steps that can be saved between.

use super::*;
use grpo::{
    kl,
    lm::{
        exam::{Exam, exam},
        generate::Completions,
        sft,
    },
    mask,
    task::steps::is_worked,
};

/// How many completions of an examination are kept to be looked at.
pub const SHOWN: usize = 6;

/// A student in the middle of a run.
pub struct Course {
    pub plan: Plan,
    pub split: Split,
    pub student: Student,
    /// The student after fine-tuning, from which the KL is measured.
    pub start: Student,
    pub optimizer: AdamW,
    /// Steps taken, of fine-tuning and of GRPO together.
    pub step: usize,
    pub record: Record,
}

/// What happened so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Losses of fine-tuning.
    pub losses: Vec<f64>,
    /// Examinations during fine-tuning, by step of it.
    pub fine_tuning: Vec<Point>,
    /// Examinations during GRPO, by step of it.
    pub points: Vec<Point>,
    /// The last step of GRPO, and all since the last examination.
    pub last: Option<Learnt>,
    recent: Vec<Learnt>,
    /// Tokens sampled to learn from.
    pub tokens: usize,
    /// Completions that could not be judged.
    pub failures: usize,
}

/// One examination, and what was seen in training since the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: usize,
    pub sampled: f64,
    pub greedy: f64,
    /// 95 % intervals of the two.
    pub sampled_interval: (f64, f64),
    pub greedy_interval: (f64, f64),
    /// Mean tokens of a sampled completion.
    pub length: f64,
    /// The share of sampled completions that show work.
    pub worked: f64,
    /// How often those with work, and those without, are right.
    pub right_if: [Option<f64>; 2],
    /// KL from the start, in nats a completion.
    pub kl: f64,
    /// Means over the training steps since the last examination.
    pub learnt: Option<Learnt>,
    /// The first few sampled completions.
    pub shown: Vec<String>,
}

impl Course {
    /// A run that has not begun.
    pub fn new(plan: Plan, device: &Device) -> Result<Self> {
        let task = plan.lesson.task();
        let stream = |name: u64| seed::stream(plan.seed, &[name]);
        let split = Split::new(task, plan.held_out, &mut stream(HELD_OUT_STREAM))?;
        let rng = &mut stream(WEIGHTS_STREAM);
        let student = Student::knowing(&plan.characters, &task, rng, device)?;
        let start = student.copy()?;
        let optimizer = sft::optimizer(&student, SFT_LR)?;
        let record = Record::default();
        Ok(Self { plan, split, student, start, optimizer, step: 0, record })
    }

    /// Another run that goes on from here with another plan for GRPO.
    pub fn branch(&self, plan: Plan) -> Result<Self> {
        let mut branch = Self::new(plan, self.student.decoder.device())?;
        branch.student = self.student.copy()?;
        branch.start = self.start.copy()?;
        branch.optimizer = sft::optimizer(&branch.student, branch.plan.lr)?;
        (branch.step, branch.record) = (self.step, self.record.clone());
        Ok(branch)
    }

    /// Steps of the whole run.
    pub fn length(&self) -> usize {
        self.plan.sft_steps + self.plan.steps
    }

    /// One step, of fine-tuning or of GRPO, and an examination where one is due.
    pub fn advance(&mut self) -> Result<()> {
        let Plan { sft_steps, work_steps, steps, .. } = self.plan;
        if self.step < sft_steps {
            self.imitate()?;
            self.step += 1;
            if self.step == work_steps {
                let point = self.examine(self.step, HELD_OUT)?;
                self.record.fine_tuning.push(point);
            }
            if self.step == sft_steps {
                self.begin_grpo()?;
            }
            return Ok(());
        }
        self.reinforce()?;
        self.step += 1;
        let step = self.step - sft_steps;
        if step.is_multiple_of(EXAM_EVERY) || step == steps {
            let problems = if step == steps { HELD_OUT } else { BETWEEN };
            let point = self.examine(step, problems)?;
            self.record.points.push(point);
        }
        Ok(())
    }

    /// The student is now what GRPO starts from.
    fn begin_grpo(&mut self) -> Result<()> {
        self.start = self.student.copy()?;
        self.optimizer = sft::optimizer(&self.student, self.plan.lr)?;
        let point = self.examine(self.plan.sft_steps, HELD_OUT)?;
        self.record.points.push(Point { step: 0, ..point.clone() });
        self.record.fine_tuning.push(point);
        Ok(())
    }

    fn imitate(&mut self) -> Result<()> {
        let settings = self.plan.fine_tuning();
        let loss = self.imitate_with(&settings, self.step)?;
        self.record.losses.push(loss);
        Ok(())
    }

    /// One step of fine-tuning, number `number` of the settings.
    fn imitate_with(&mut self, settings: &sft::Settings, number: usize) -> Result<f64> {
        let Self { plan, split, step, .. } = self;
        let rng = &mut seed::stream(plan.seed, &[SFT_STREAM, *step as u64]);
        let mut show = || plan.demonstrate(&split.draw(rng)?, *step, rng);
        let shown = (0..settings.batch).map(|_| show()).collect::<Result<Vec<_>>>()?;
        sft::step(&self.student, &mut self.optimizer, &shown, settings, number)
    }

    fn reinforce(&mut self) -> Result<()> {
        let step = self.step - self.plan.sft_steps;
        if self.plan.method.imitate {
            self.imitate_with(&self.plan.instead_of_grpo(), step)?;
            return Ok(());
        }
        let Self { plan, split, student, optimizer, .. } = self;
        let reward = |problem: &_, group: &[_], i| plan.method.reward.of(problem, group, i);
        let (learnt, judged) = grpo_step(student, optimizer, split, plan, reward, step)?;
        if self.record.failures == 0
            && let Some(error) = judged.error
        {
            eprintln!("a completion could not be judged and gets 0: {error:#}");
        }
        self.record.failures += judged.failures;
        self.record.tokens += learnt.tokens as usize;
        self.record.last = Some(learnt);
        self.record.recent.push(learnt);
        Ok(())
    }

    /// Examines the student on the first `count` problems, and sums up the training steps
    /// since the last time.
    fn examine(&mut self, step: usize, count: usize) -> Result<Point> {
        let (problems, seed) = (&self.split.held_out, self.plan.seed);
        let problems = &problems[..count.min(problems.len())];
        let sampled = exam(&self.student, problems, Sampler::at(1.0), seed)?;
        let greedy = exam(&self.student, problems, Sampler::greedy(), seed)?;
        let [worked, blurted] = [true, false].map(|worked| right_if(&sampled, worked));
        let learnt = Learnt::mean(&std::mem::take(&mut self.record.recent));
        Ok(Point {
            step,
            sampled: sampled.accuracy(),
            greedy: greedy.accuracy(),
            sampled_interval: sampled.interval(),
            greedy_interval: greedy.interval(),
            length: sampled.length(),
            worked: worked.1 as f64 / problems.len() as f64,
            right_if: [worked.0, blurted.0],
            kl: kl_from(&self.start, &self.student, &sampled)?,
            learnt,
            shown: sampled.texts.into_iter().take(SHOWN).collect(),
        })
    }

    /// The variables of the student, and of the start under names of their own: what a
    /// checkpoint holds.
    pub fn variables(&self) -> Variables {
        let named = |prefix: &str, student: &Student| {
            let variables = student.decoder.variables().iter();
            let named = variables.map(|(name, v)| (format!("{prefix}{name}"), v.clone()));
            named.collect::<Vec<_>>()
        };
        [named("", &self.student), named("start.", &self.start)]
            .concat()
            .into_iter()
            .collect()
    }
}

/// How often the completions with work, or those without, are right; and how many of them
/// there are.
fn right_if(exam: &Exam, worked: bool) -> (Option<f64>, usize) {
    let chosen = exam.texts.iter().zip(&exam.right);
    let chosen: Vec<bool> = chosen
        .filter(|(text, _)| is_worked(text) == worked)
        .map(|(_, right)| *right)
        .collect();
    let right = chosen.iter().filter(|right| **right).count();
    let share = right as f64 / chosen.len() as f64;
    ((!chosen.is_empty()).then_some(share), chosen.len())
}

/// KL(student ‖ start) of whole completions: at each token of the sampled ones exactly,
/// over all characters, and summed.
fn kl_from(start: &Student, student: &Student, exam: &Exam) -> Result<f64> {
    let Completions { prompts, tokens, mask, .. } = &exam.completions;
    let (before, length) = (prompts.dim(1)? - 1, tokens.dim(1)?);
    let sequences = Tensor::cat(&[prompts, tokens], 1)?;
    let logits = |student: &Student| -> Result<Tensor> {
        let logits = student.decoder.logits(&sequences)?.detach();
        Ok(logits.narrow(1, before, length)?)
    };
    let per_token = kl::exact_policy_ref(&logits(student)?, &logits(start)?)?;
    let sum = mask::keep(&per_token, mask)?.sum_all()?.to_dtype(DType::F64)?;
    Ok(sum.to_scalar::<f64>()? / exam.right.len() as f64)
}
