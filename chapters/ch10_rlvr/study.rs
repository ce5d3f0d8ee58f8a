//! Five seeds of a lesson, and what happens otherwise: another reward, no baseline, other
//! weights for the tokens, another school.

use super::*;
use grpo::report::progress;

const SEEDS: u64 = 5;
/// What a token costs where thinking is cheap, and where it is dear.
const PRICES: [f64; 2] = [0.02, 0.1];
const CHANGED: &str = "One thing changed at a time";

/// One way to go on, and how it went for each seed.
struct Variant {
    name: String,
    plan: Plan,
    seeds: Vec<Record>,
}

impl Variant {
    /// The plan of the lesson with one thing changed.
    fn new(name: &str, plan: &Plan, change: impl Fn(&mut Plan)) -> Self {
        let mut plan = plan.clone();
        change(&mut plan);
        Self { name: name.to_string(), plan, seeds: Vec::new() }
    }

    fn steps(&self) -> Vec<f64> {
        self.seeds[0].points.iter().map(|point| point.step as f64).collect()
    }

    /// One curve for each seed; what is missing is the number before it.
    fn curves(&self, value: impl Fn(&Point) -> Option<f64>) -> Vec<Vec<f64>> {
        let curve = |record: &Record| {
            let mut last = record.points.iter().find_map(&value).unwrap_or(f64::NAN);
            let next = |point: &Point| {
                last = value(point).unwrap_or(last);
                last
            };
            record.points.iter().map(next).collect()
        };
        self.seeds.iter().map(curve).collect()
    }

    /// The last number of each seed.
    fn ends(&self, value: impl Fn(&Point) -> Option<f64>) -> Vec<f64> {
        self.curves(value).iter().filter_map(|curve| curve.last().copied()).collect()
    }
}

pub fn run(lesson: Lesson, args: &Args) -> Result<()> {
    let mut out = args.run.output(&format!("ch10_rlvr_{lesson}"))?;
    let mut plan = plan(lesson, args);
    let seeds = if args.quick { 2 } else { SEEDS };
    if args.quick {
        // Only that it runs; the quick run of the chapter shows that it learns.
        (plan.sft_steps, plan.work_steps, plan.steps) = (20, 10, 4);
        (plan.prompts, plan.held_out) = (4, 40);
    }
    let mut variants = match lesson {
        Lesson::Lazy => lazy(&plan),
        Lesson::Carry => carry(&plan),
    };
    train(&mut variants, seeds, &args.run)?;
    match lesson {
        Lesson::Lazy => show_lazy(&mut out, &variants)?,
        Lesson::Carry => show_carry(&mut out, &variants)?,
    }
    out.finish()
}

fn method(plan: &mut Plan, reward: Reward) {
    plan.method.reward = reward;
}

fn lazy(plan: &Plan) -> Vec<Variant> {
    let price = |price: f64| {
        let name = format!("{price} off for each token");
        Variant::new(&name, plan, move |p| method(p, Reward::Brief(price)))
    };
    vec![
        Variant::new("verifier", plan, |_| ()),
        Variant::new("never saw work", plan, |p| p.works = [0.0, 0.0]),
        price(PRICES[0]),
        price(PRICES[1]),
        Variant::new("length alone", plan, |p| method(p, Reward::Long)),
        Variant::new("mentions the answer", plan, |p| method(p, Reward::Mentioned)),
        Variant::new("1/|o|", plan, |p| p.method.per_completion = true),
    ]
}

fn carry(plan: &Plan) -> Vec<Variant> {
    let fewer = plan.sft_steps * 2 / 5;
    vec![
        Variant::new("verifier", plan, |_| ()),
        Variant::new("more fine-tuning", plan, |p| p.method.imitate = true),
        Variant::new("no σ", plan, |p| p.method.baseline = Baseline::GroupMean),
        Variant::new("no baseline", plan, |p| p.method.baseline = Baseline::None),
        Variant::new("agrees with its group", plan, |p| method(p, Reward::Majority)),
        Variant::new(&format!("fine-tuned for {fewer} steps"), plan, |p| {
            p.sft_steps = fewer
        }),
        Variant::new("a third of the learning rate", plan, |p| p.lr /= 3.0),
        Variant::new("three times the learning rate", plan, |p| p.lr *= 3.0),
        Variant::new("groups of 2, more prompts", plan, |p| {
            (p.prompts, p.group_size) = (p.prompts * p.group_size / 2, 2);
        }),
    ]
}

/// Fine-tuning that variants may share: how often work is shown in it, and its steps.
fn school(plan: &Plan) -> ([f64; 2], usize) {
    (plan.works, plan.sft_steps)
}

/// Trains every variant on every seed. Variants with the same school share it.
fn train(variants: &mut [Variant], seeds: u64, run: &RunArgs) -> Result<()> {
    let mut schools: Vec<Plan> = Vec::new();
    for Variant { plan, .. } in variants.iter() {
        if !schools.iter().any(|known| school(known) == school(plan)) {
            schools.push(plan.clone());
        }
    }
    let pairs = |count: usize| {
        move |job: u64| {
            (job as usize / seeds as usize % count, job as usize % seeds as usize)
        }
    };

    let bar = progress(schools.len() as u64 * seeds, "schools");
    let at = pairs(schools.len());
    let taught = seed::over_seeds(schools.len() as u64 * seeds, |job| {
        let (school, seed) = at(job);
        let plan = Plan { seed: run.seed + seed as u64, ..schools[school].clone() };
        let mut course = Course::new(plan, &run.device)?;
        while course.step < course.plan.sft_steps {
            course.advance()?;
        }
        bar.inc(1);
        Ok(course)
    })?;
    bar.finish_and_clear();

    let bar = progress(variants.len() as u64 * seeds, "variants");
    let at = pairs(variants.len());
    let records = seed::over_seeds(variants.len() as u64 * seeds, |job| {
        let (variant, seed) = at(job);
        let plan = &variants[variant].plan;
        let at = schools.iter().position(|s| school(s) == school(plan)).unwrap_or(0);
        let taught = &taught[at * seeds as usize + seed];
        let mut course = taught.branch(Plan { seed: taught.plan.seed, ..plan.clone() })?;
        while course.step < course.length() {
            course.advance()?;
        }
        bar.inc(1);
        Ok(course.record)
    })?;
    bar.finish_and_clear();
    for (variant, records) in variants.iter_mut().zip(records.chunks(seeds as usize)) {
        variant.seeds = records.to_vec();
    }
    Ok(())
}

/// Mean and standard deviation; a dash where there is nothing to be averaged.
fn mean_std(numbers: &[f64], digits: usize) -> String {
    match stats::mean_std(numbers) {
        (mean, std) if mean.is_finite() => format!("{mean:.digits$} ± {std:.digits$}"),
        _ => "–".into(),
    }
}

fn sampled(point: &Point) -> Option<f64> {
    Some(point.sampled)
}

fn greedy(point: &Point) -> Option<f64> {
    Some(point.greedy)
}

fn length(point: &Point) -> Option<f64> {
    Some(point.length)
}

fn reward(point: &Point) -> Option<f64> {
    Some(point.learnt?.reward)
}

/// Every seed of the first variant, before and after.
fn each_seed(out: &mut Output, variant: &Variant) {
    out.section(Kind::Trained, "seeds", "Every seed, before and after");
    let mut table = Table::new([
        "seed", "sampled", "after", "95 %", "greedy", "after ", "95 % ", "length",
        "after  ",
    ]);
    for (seed, record) in variant.seeds.iter().enumerate() {
        let (Some(first), Some(last)) = (record.points.first(), record.points.last())
        else {
            continue;
        };
        let interval = |(low, high): (f64, f64)| format!("{low:.3} to {high:.3}");
        table.row([
            seed.to_string(),
            format!("{:.3}", first.sampled),
            format!("{:.3}", last.sampled),
            interval(last.sampled_interval),
            format!("{:.3}", first.greedy),
            format!("{:.3}", last.greedy),
            interval(last.greedy_interval),
            format!("{:.1}", first.length),
            format!("{:.1}", last.length),
        ]);
    }
    print!("{table}");
    let good = variant.ends(greedy).iter().filter(|&&greedy| greedy >= 0.9).count();
    let median = stats::median(&variant.ends(sampled));
    println!("\ngreedy 0.90 or better: {good} of {} seeds", variant.seeds.len());
    println!("median of the sampled accuracies: {median:.3}");
}

/// Variants at their end.
fn compare(out: &mut Output, id: &'static str, title: &str, variants: &[Variant]) {
    out.section(Kind::Trained, id, title);
    let mut table = Table::new([
        "changed",
        "reward",
        "sampled",
        "greedy",
        "worst greedy",
        "length",
        "worked",
        "k tokens",
    ]);
    for variant in variants {
        let worst = variant.ends(greedy).into_iter().fold(f64::INFINITY, f64::min);
        let tokens: Vec<f64> =
            variant.seeds.iter().map(|r| r.tokens as f64 / 1000.0).collect();
        table.row([
            variant.name.clone(),
            mean_std(&variant.ends(reward), 2),
            mean_std(&variant.ends(sampled), 2),
            mean_std(&variant.ends(greedy), 2),
            format!("{worst:.2}"),
            mean_std(&variant.ends(length), 1),
            mean_std(&variant.ends(|point| Some(point.worked)), 2),
            format!("{:.0}", stats::mean_std(&tokens).0),
        ]);
    }
    let seeds = variants[0].seeds.len();
    print!("{table}\nat the end of GRPO; mean ± standard deviation of {seeds} seeds\n");
}

fn csv(out: &mut Output, variants: &[Variant]) -> Result<()> {
    let rows = variants.iter().enumerate().flat_map(|(v, variant)| {
        variant.seeds.iter().enumerate().flat_map(move |(seed, record)| {
            record.points.iter().map(move |p| {
                let reward = reward(p).unwrap_or(f64::NAN);
                [
                    v as f64,
                    seed as f64,
                    p.step as f64,
                    reward,
                    p.sampled,
                    p.greedy,
                    p.length,
                    p.worked,
                    p.kl,
                ]
            })
        })
    });
    let columns = [
        "variant", "seed", "step", "reward", "sampled", "greedy", "length", "worked", "kl",
    ];
    out.csv("curves", columns, rows)
}

/// Bands of one number for several variants.
fn panel<'a>(
    label: &str,
    value: fn(&Point) -> Option<f64>,
    variants: impl IntoIterator<Item = (usize, &'a Variant)>,
) -> Panel {
    variants.into_iter().fold(
        Panel::new("step of GRPO", label),
        |panel, (colour, variant)| {
            panel.mean_band(colour, &variant.name, &variant.steps(), &variant.curves(value))
        },
    )
}

fn bands(variant: &Variant) -> Figure {
    let steps = variant.steps();
    let accuracy = Panel::new("step of GRPO", "accuracy")
        .y_range(0.0, 1.02)
        .mean_band(0, "sampled", &steps, &variant.curves(sampled))
        .mean_band(2, "greedy", &steps, &variant.curves(greedy));
    let length = Panel::new("step of GRPO", "tokens of a completion").mean_band(
        1,
        "",
        &steps,
        &variant.curves(length),
    );
    let worked = Panel::new("step of GRPO", "share of worked answers")
        .y_range(0.0, 1.02)
        .mean_band(4, "", &steps, &variant.curves(|point| Some(point.worked)));
    Figure::new(
        "Accuracy, length and work against the step of GRPO",
        "Three panels with bands over the seeds: sampled and greedy accuracy rise, completions \
         grow longer, and the share of worked answers rises to nearly one.",
        vec![accuracy, length, worked],
    )
}

fn show_lazy(out: &mut Output, variants: &[Variant]) -> Result<()> {
    let [verifier, never, cheap, dear, long, mentions, weights] = variants else {
        anyhow::bail!("there are {} variants", variants.len())
    };
    each_seed(out, verifier);
    out.figure("bands", &bands(verifier))?;
    compare(out, "variants", CHANGED, variants);
    csv(out, variants)?;
    let columns = [
        vec![(0, verifier), (1, never)],
        vec![(0, verifier), (5, cheap), (1, dear)],
        vec![(0, verifier), (1, long), (3, mentions)],
    ];
    let row = |label: &str, value: fn(&Point) -> Option<f64>| {
        columns.clone().map(|column| panel(label, value, column))
    };
    let accuracy = row("sampled accuracy", sampled).map(|panel| panel.y_range(0.0, 1.02));
    let figure = Figure::new(
        "What happens otherwise",
        "Six panels, sampled accuracy above and length below, against the step of GRPO: other \
         schools, prices for tokens, and rewards that can be hacked.",
        accuracy.into_iter().chain(row("tokens", length)).collect(),
    );
    out.figure("otherwise", &figure.columns(3))?;
    let both = [(0, verifier), (1, weights)];
    let figure = Figure::new(
        "Weights of tokens",
        "Sampled accuracy and length against the step, with every token weighing the same and \
         with every completion weighing the same.",
        vec![panel("sampled accuracy", sampled, both), panel("tokens", length, both)],
    );
    out.figure("weights", &figure)
}

fn show_carry(out: &mut Output, variants: &[Variant]) -> Result<()> {
    let [verifier, imitates, no_sigma, no_baseline, agrees, settings @ ..] = variants
    else {
        anyhow::bail!("there are {} variants", variants.len())
    };
    each_seed(out, verifier);
    compare(out, "variants", CHANGED, &variants[..variants.len() - settings.len()]);
    compare(out, "settings", "Other settings", settings);
    csv(out, variants)?;
    let lines = [(0, verifier), (1, imitates), (2, no_sigma), (3, no_baseline)];
    let one = |label: &str, value| panel(label, value, lines).y_range(0.0, 1.02);
    let figure = Figure::new(
        "The sloppy teacher's pupil, and what happens otherwise",
        "Sampled and greedy accuracy against the step of GRPO, with bands over the seeds, for the \
         verifier, for more fine-tuning, without sigma and without a baseline.",
        vec![one("sampled accuracy", sampled), one("greedy accuracy", greedy)],
    );
    out.figure("otherwise", &figure)?;
    let steps = agrees.steps();
    let hacked = Panel::new("step of GRPO", "share")
        .y_range(0.0, 1.02)
        .mean_band(1, "reward", &steps, &agrees.curves(reward))
        .mean_band(0, "sampled accuracy", &steps, &agrees.curves(sampled));
    let figure = Figure::new(
        "A reward that is hacked",
        "Against the step of GRPO: the reward for agreeing with the group rises to nearly one, \
         and the sampled accuracy falls.",
        vec![hacked],
    );
    out.figure("hacked", &figure)
}
