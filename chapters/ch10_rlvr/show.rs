//! What a run shows: a line while it goes, tables and figures at its end.

use super::*;
use grpo::task::END;
use indicatif::ProgressBar;

/// The line on the terminal while a run goes.
pub struct Progress {
    bar: ProgressBar,
    /// Whether the bar counts steps of GRPO.
    grpo: bool,
}

impl Progress {
    pub fn new(course: &Course) -> Self {
        let grpo = course.step >= course.plan.sft_steps;
        Self { bar: Self::bar(course, grpo), grpo }
    }

    fn bar(course: &Course, grpo: bool) -> ProgressBar {
        let Plan { sft_steps, steps, .. } = course.plan;
        match grpo {
            false => report::progress(sft_steps as u64, "fine-tuning")
                .with_position(course.step as u64),
            true => report::progress(steps as u64, "GRPO")
                .with_position((course.step - sft_steps) as u64),
        }
    }

    /// Tells of the step just taken.
    pub fn tell(&mut self, course: &Course) {
        let grpo = course.step >= course.plan.sft_steps;
        if grpo != self.grpo {
            self.bar.finish_and_clear();
            (self.bar, self.grpo) = (Self::bar(course, grpo), grpo);
        }
        let Record { losses, points, last, .. } = &course.record;
        let message = match (last, points.last(), losses.last()) {
            (Some(last), Some(point), _) => format!(
                "reward {:.2}, accuracy {:.2} sampled {:.2} greedy,",
                last.reward, point.sampled, point.greedy
            ),
            (None, _, Some(loss)) => format!("loss {loss:.3},"),
            _ => String::new(),
        };
        self.bar.set_message(message);
        self.bar.set_position(
            (course.step - if grpo { course.plan.sft_steps } else { 0 }) as u64,
        );
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Everything about one run.
pub fn course(out: &mut Output, course: &Course) -> Result<()> {
    fine_tuning(out, course);
    grpo(out, course)?;
    completions(out, course);
    Ok(())
}

fn share(x: Option<f64>) -> String {
    x.map_or("–".into(), |x| format!("{x:.2}"))
}

fn fine_tuning(out: &mut Output, course: &Course) {
    out.section(Kind::Trained, "fine_tuning", "What fine-tuning has taught");
    let mut table = Table::new([
        "step",
        "loss",
        "sampled",
        "greedy",
        "length",
        "worked",
        "right if worked",
        "if blurted",
    ]);
    for point in &course.record.fine_tuning {
        let losses = &course.record.losses[point.step.saturating_sub(50)..point.step];
        let [worked, blurted] = point.right_if.map(share);
        table.row([
            point.step.to_string(),
            format!("{:.3}", stats::mean_std(losses).0),
            format!("{:.2}", point.sampled),
            format!("{:.2}", point.greedy),
            format!("{:.1}", point.length),
            format!("{:.2}", point.worked),
            worked,
            blurted,
        ]);
    }
    let count = course.split.held_out.len();
    print!("{table}\naccuracy and length on {count} problems that are never learnt from\n");
}

fn grpo(out: &mut Output, course: &Course) -> Result<()> {
    out.section(Kind::Trained, "grpo", "Nothing but a verifier");
    let mut table = Table::new([
        "step",
        "reward",
        "sampled",
        "greedy",
        "length",
        "worked",
        "if worked",
        "if blurted",
        "KL",
        "entropy",
        "clipped",
        "silent",
    ]);
    for point in &course.record.points {
        let learnt =
            |value: fn(&Learnt) -> Option<f64>| point.learnt.as_ref().and_then(value);
        let [worked, blurted] = point.right_if.map(share);
        table.row([
            point.step.to_string(),
            share(learnt(|l| Some(l.reward))),
            format!("{:.2}", point.sampled),
            format!("{:.2}", point.greedy),
            format!("{:.1}", point.length),
            format!("{:.2}", point.worked),
            worked,
            blurted,
            format!("{:.2}", point.kl),
            share(learnt(|l| l.entropy)),
            share(learnt(|l| l.clipped)),
            share(learnt(|l| Some(l.silent))),
        ]);
    }
    print!(
        "{table}\nreward, entropy, clipped and silent: means of the steps since the row before\n"
    );
    if let Some(last) = course.record.points.last() {
        let interval = |(low, high): (f64, f64)| format!("{low:.3} to {high:.3}");
        println!(
            "\nat the end, with 95 % intervals from {} problems:",
            course.split.held_out.len()
        );
        println!("sampled {:.3} ({})", last.sampled, interval(last.sampled_interval));
        println!("greedy  {:.3} ({})", last.greedy, interval(last.greedy_interval));
    }
    println!("{} tokens sampled to learn from", course.record.tokens);
    if course.record.failures > 0 {
        println!("{} completions could not be judged and got 0", course.record.failures);
    }
    let rows = course.record.points.iter().map(|p| {
        let nan = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let learnt =
            |value: fn(&Learnt) -> Option<f64>| nan(p.learnt.as_ref().and_then(value));
        [
            p.step as f64,
            learnt(|l| Some(l.reward)),
            p.sampled,
            p.greedy,
            p.length,
            p.worked,
            nan(p.right_if[0]),
            nan(p.right_if[1]),
            p.kl,
            learnt(|l| l.entropy),
            learnt(|l| l.clipped),
            learnt(|l| Some(l.silent)),
            learnt(|l| l.grad_norm),
        ]
    });
    let columns = [
        "step",
        "reward",
        "sampled",
        "greedy",
        "length",
        "worked",
        "right_if_worked",
        "right_if_blurted",
        "kl",
        "entropy",
        "clipped",
        "silent",
        "grad_norm",
    ];
    out.csv("grpo", columns, rows)?;
    out.figure("thinking", &thinking(&course.record.points))?;
    out.figure("metrics", &metrics(&course.record.points))
}

/// One number of each examination against the step.
fn line(points: &[Point], value: impl Fn(&Point) -> Option<f64>) -> Vec<(f64, f64)> {
    points.iter().filter_map(|p| Some((p.step as f64, value(p)?))).collect()
}

fn thinking(points: &[Point]) -> Figure {
    let accuracy = Panel::new("step of GRPO", "share of problems")
        .y_range(0.0, 1.02)
        .line(0, "right, sampled", &line(points, |p| Some(p.sampled)))
        .line(2, "right, greedy", &line(points, |p| Some(p.greedy)))
        .dashed(7, "worked", &line(points, |p| Some(p.worked)));
    let length = Panel::new("step of GRPO", "tokens of a completion").line(
        1,
        "",
        &line(points, |p| Some(p.length)),
    );
    Figure::new(
        "Accuracy and length while a verifier is the only teacher",
        "Two panels against the step of GRPO: sampled and greedy accuracy with the share of \
         worked answers, and the mean number of tokens of a completion.",
        vec![accuracy, length],
    )
}

fn metrics(points: &[Point]) -> Figure {
    let panel = |label: &str, value: fn(&Point) -> Option<f64>| {
        Panel::new("step of GRPO", label).line(0, "", &line(points, value))
    };
    Figure::new(
        "Four metrics of the run",
        "Against the step of GRPO: the mean reward, the KL from the start, the entropy, and the \
         share of silent groups.",
        vec![
            panel("reward", |p| Some(p.learnt?.reward)),
            panel("KL from the start, nats", |p| Some(p.kl)),
            panel("entropy, nats a token", |p| p.learnt?.entropy),
            panel("share of silent groups", |p| Some(p.learnt?.silent)),
        ],
    )
    .columns(2)
}

/// A completion without its end; `…` where it was cut off.
pub fn plain(text: &str) -> String {
    match text.strip_suffix(END) {
        Some(text) => text.to_string(),
        None => format!("{text}…"),
    }
}

fn completions(out: &mut Output, course: &Course) {
    out.section(Kind::Trained, "completions", "The same problems at four steps");
    let points = &course.record.points;
    let at = |step: usize| points.iter().rfind(|p| p.step <= step);
    let last = course.plan.steps;
    let steps = [0, (last / 6).min(20), (last / 3).min(40), last];
    let names: Vec<String> = steps.iter().map(|step| format!("step {step}")).collect();
    let mut table = Table::new(["prompt", &names[0], &names[1], &names[2], &names[3]]);
    for (i, problem) in course.split.held_out.iter().enumerate().take(course::SHOWN) {
        let said = |step: usize| {
            let text = at(step).map_or("", |point| &point.shown[i]);
            let wrong = !grpo::reward::verify(problem, text);
            format!("{}{}", plain(text), if wrong { " ✗" } else { "" })
        };
        let [a, b, c, d] = steps.map(said);
        table.row([problem.prompt.clone(), a, b, c, d]);
    }
    print!("{table}\nsampled; ✗ is wrong\n");
}
