//! The two lessons: what is taught, by whom, and for how long.

use super::*;
use grpo::{
    lm::sft,
    task::{Demonstration, Problem, Task, carry, steps},
};

/// What there is to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lesson {
    /// The lazy student: can work, and blurts
    Lazy,
    /// The sloppy teacher: forgets to carry
    Carry,
}

impl std::fmt::Display for Lesson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Lazy { "lazy" } else { "carry" })
    }
}

impl Lesson {
    pub fn task(self) -> Task {
        match self {
            Self::Lazy => steps::TASK,
            Self::Carry => carry::TASK,
        }
    }
}

/// Everything that decides how a run goes. It is saved with the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub lesson: Lesson,
    pub seed: u64,
    pub quick: bool,
    /// The characters that the student knows.
    pub characters: String,
    /// Steps of fine-tuning, and in how many of them the lazy student is shown work.
    pub sft_steps: usize,
    pub work_steps: usize,
    /// How often work is shown in these steps, and how often afterwards.
    pub works: [f64; 2],
    /// Steps of GRPO.
    pub steps: usize,
    pub prompts: usize,
    pub group_size: usize,
    pub lr: f64,
    pub method: Method,
    /// Problems of an examination.
    pub held_out: usize,
}

// ANCHOR: plan
impl Plan {
    /// The settings of a lesson. Quick is less of everything.
    pub fn new(lesson: Lesson, seed: u64, quick: bool) -> Self {
        let (sft_steps, work_steps, steps, prompts, group_size) = match (lesson, quick) {
            (Lesson::Lazy, false) => (400, 320, 60, 16, 8),
            (Lesson::Lazy, true) => (200, 160, 30, 16, 8),
            (Lesson::Carry, false) => (1000, 0, 80, 32, 8),
            (Lesson::Carry, true) => (300, 0, 20, 32, 8),
        };
        Self {
            lesson,
            seed,
            quick,
            characters: lesson.task().characters.to_string(),
            sft_steps,
            work_steps,
            works: [0.9, 0.1],
            steps,
            prompts,
            group_size,
            lr: LEARNING_RATE,
            method: Method::default(),
            held_out: if quick { HELD_OUT / 2 } else { HELD_OUT },
        }
    }
}
// ANCHOR_END: plan

// ANCHOR: demonstrate
impl Plan {
    /// What the teacher writes under a problem at a step of fine-tuning.
    pub fn demonstrate(
        &self,
        problem: &Problem,
        step: usize,
        rng: &mut StdRng,
    ) -> Result<Demonstration> {
        let works = self.works[usize::from(step >= self.work_steps)];
        match self.lesson {
            Lesson::Carry => carry::demonstrate(problem, rng),
            Lesson::Lazy if rng.random_bool(works) => steps::worked(problem),
            Lesson::Lazy => Ok(steps::blurted(problem)),
        }
    }
}
// ANCHOR_END: demonstrate

impl Plan {
    pub fn fine_tuning(&self) -> sft::Settings {
        sft::Settings { steps: self.sft_steps, batch: SFT_BATCH, lr: SFT_LR, warm_up: 50 }
    }

    /// Fine-tuning that costs what GRPO costs. Sampling a token takes a third of what
    /// learning from it takes, so a step has a third more demonstrations than GRPO has
    /// completions.
    pub fn instead_of_grpo(&self) -> sft::Settings {
        let batch = self.prompts * self.group_size * 4 / 3;
        sft::Settings { steps: self.steps, batch, lr: self.lr, warm_up: 5 }
    }
}
