//! What is learnt, over several seeds.
//!
//! Left out: other sizes and learning rates, because one that works is enough here.

use crate::{
    Effort, broken_figure,
    learn::{self, Point, Trained, VARIANTS},
    sft_figure,
};
use grpo::{
    Result,
    cli::RunArgs,
    report::{self, Kind, Output, Table},
    seed, stats,
};

pub fn run(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    learning(out, run, effort)?;
    variants(out, run, effort)
}

fn cell(numbers: impl Iterator<Item = f64>, digits: usize) -> String {
    let (mean, std) = stats::mean_std(&numbers.collect::<Vec<_>>());
    format!("{mean:.digits$} ± {std:.digits$}")
}

fn learning(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "sft", "Learning from the sloppy teacher, over seeds");
    let bar = report::progress(effort.seeds * effort.sft.steps as u64, "fine-tuning");
    let runs = seed::over_seeds(effort.seeds, |seed| {
        let seed = run.seed + seed;
        let (_, points) = learn::learn(seed, &effort.sft, &run.device, |_| bar.inc(1))?;
        Ok(points)
    })?;
    bar.finish_and_clear();
    let mut table = Table::new(["seed", "loss", "greedy", "sampled", "the habit"]);
    let last: Vec<Point> =
        runs.iter().filter_map(|points| points.last().copied()).collect();
    for (seed, point) in last.iter().enumerate() {
        let shares = [point.greedy, point.sampled, point.habit].map(|x| format!("{x:.2}"));
        let [greedy, sampled, habit] = shares;
        let seed = run.seed + seed as u64;
        table.row([seed.to_string(), format!("{:.3}", point.loss), greedy, sampled, habit]);
    }
    table.row([
        "all".into(),
        cell(last.iter().map(|p| p.loss), 3),
        cell(last.iter().map(|p| p.greedy), 2),
        cell(last.iter().map(|p| p.sampled), 2),
        cell(last.iter().map(|p| p.habit), 2),
    ]);
    print!("{table}");
    let rows = runs.iter().enumerate().flat_map(|(seed, points)| {
        let seed = (run.seed + seed as u64) as f64;
        points
            .iter()
            .map(move |p| [seed, p.step as f64, p.loss, p.greedy, p.sampled, p.habit])
    });
    out.csv("sft", ["seed", "step", "loss", "greedy", "sampled", "habit"], rows)?;
    let perfect = learn::perfect(&learn::split(run.seed)?.held_out)?;
    let runs: Vec<&[Point]> = runs.iter().map(Vec::as_slice).collect();
    out.figure("sft", &sft_figure(&runs, perfect))
}

fn variants(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "broken", "Training in spite of it, over seeds");
    let count = VARIANTS.len() as u64;
    let bar = report::progress(effort.seeds * count, "broken transformers");
    let mut all = seed::over_seeds(effort.seeds * count, |job| {
        let (seed, (_, parts)) = (run.seed + job / count, VARIANTS[(job % count) as usize]);
        let trained = learn::train(seed, parts, &effort.broken, &run.device)?;
        bar.inc(1);
        Ok(trained)
    })?;
    bar.finish_and_clear();
    let mut runs = Vec::new();
    while !all.is_empty() {
        runs.push(all.drain(..VARIANTS.len()).collect::<Vec<Trained>>());
    }
    let mut table =
        Table::new(["transformer", "variables that move", "loss", "the habit", "right"]);
    for (variant, (name, _)) in VARIANTS.iter().enumerate() {
        let of =
            |number: fn(&Trained) -> f64| runs.iter().map(move |run| number(&run[variant]));
        let [with, total] = runs[0][variant].reached;
        table.row([
            (*name).into(),
            format!("{with} of {total}"),
            cell(of(Trained::loss), 3),
            cell(of(|trained| trained.habit), 2),
            cell(of(|trained| trained.right), 2),
        ]);
    }
    print!("{table}");
    let rows = runs.iter().enumerate().flat_map(|(seed, run)| {
        run.iter().enumerate().map(move |(variant, t)| {
            [seed as f64, variant as f64, t.loss(), t.habit, t.right]
        })
    });
    out.csv("broken", ["seed", "variant", "loss", "habit", "right"], rows)?;
    let perfect = learn::perfect(&learn::split(run.seed)?.held_out)?;
    let runs: Vec<&[Trained]> = runs.iter().map(Vec::as_slice).collect();
    out.figure("broken", &broken_figure(&runs, perfect.loss))
}
