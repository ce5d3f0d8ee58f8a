//! Chapter 9: a small language model, and why the stock layers train nothing.
//!
//! `--study` repeats what is learnt over five seeds. `--time` measures the cache on the
//! clock of this machine.

use candle_core::{D, DType, Device, Tensor};
use clap::Parser;
use grpo::{
    Result,
    cli::{self, RunArgs},
    gradients,
    lm::{config::Config, decoder::Decoder, exam::exam, sft::Settings, student::Student},
    plot::{Figure, Panel},
    policy::Policy,
    report::{self, Kind, Output, Table},
    sampling::Sampler,
    seed, shards,
    task::carry,
};
use learn::{BROKEN, EVERY, Point, SETTINGS, Trained, VARIANTS};
use transformer::{Parts, Transformer, WHOLE};

mod cache;
#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
mod learn;
mod study;
#[cfg(test)]
mod tests;
mod transformer;
mod trap;

// ANCHOR: settings
/// A question that needs two carries. The teacher mostly answers 022.
const QUESTION: &str = "47+85=";
/// Temperatures of the table, and those of the figure.
const SHOWN: [f64; 4] = [0.25, 0.5, 1.0, 2.0];
const TEMPERATURES: [f64; 9] = [0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0];
// ANCHOR_END: settings

/// Chapter 9, a small language model: a transformer, its cache, fine-tuning, and the trap.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// A tenth of the training steps: about ten seconds
    #[arg(long)]
    quick: bool,
    /// Instead of the chapter, repeat what is learnt over five seeds: some minutes
    #[arg(long)]
    study: bool,
    /// Instead of the chapter, measure the time that the cache saves
    #[arg(long, conflicts_with = "study")]
    time: bool,
}

/// How long to train.
#[derive(Debug, Clone, Copy)]
struct Effort {
    sft: Settings,
    broken: Settings,
    seeds: u64,
}

impl Args {
    fn effort(&self) -> Effort {
        let steps = |settings: Settings| match self.quick {
            false => settings,
            true => Settings { steps: settings.steps / 10, ..settings },
        };
        Effort {
            sft: steps(SETTINGS),
            broken: steps(BROKEN),
            seeds: if self.quick { 2 } else { 5 },
        }
    }
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let device = &args.run.device;
    if args.time {
        let mut out = args.run.output("ch09_language_model_time")?;
        cache::timed(&mut out, device, if args.quick { 1 } else { 5 })?;
        return Ok(out.finish()?);
    }
    if args.study {
        let mut out = args.run.output("ch09_language_model_study")?;
        study::run(&mut out, &args.run, args.effort())?;
        return Ok(out.finish()?);
    }
    let mut out = args.run.output("ch09_language_model")?;
    size(&mut out, device)?;
    one_page(&mut out, device)?;
    mask(&mut out, device)?;
    order(&mut out, device)?;
    cache::counted(&mut out, &student_config(device)?)?;
    layers(&mut out)?;
    models(&mut out)?;
    canary(&mut out, device)?;
    let (student, points, broken) = train(args.run.seed, args.effort(), device)?;
    learnt(&mut out, args.run.seed, &points)?;
    temperature(&mut out, args.run.seed, &student)?;
    trap(&mut out, args.run.seed, &broken)?;
    Ok(out.finish()?)
}

/// The shape of the model of this chapter.
fn student_config(device: &Device) -> Result<Config> {
    let student = Student::new(&carry::TASK, &mut seed::rng(0), device)?;
    Ok(student.decoder.config().clone())
}

fn size(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "size", "How large would the table be?");
    let config = student_config(device)?;
    // A prompt of four digits, followed by 0 to 3 digits of an answer.
    let rows: usize = (0..4).map(|digits| 10_000 * 10usize.pow(digits)).sum();
    println!("texts that a policy for `{QUESTION}` may have to go on with  {rows:>11}");
    println!(
        "numbers of a table: {} logits for each {:>27}",
        config.vocab_size,
        rows * config.vocab_size
    );
    let large = cache::qwen();
    let digits = large.context as f64 * (large.vocab_size as f64).log10();
    println!(
        "rows of a table for Qwen2.5-0.5B: a number of {} digits\n",
        digits.floor() + 1.0
    );
    let parts = [
        ("embedding, and output layer", "embed_tokens"),
        ("attention", "self_attn"),
        ("feed-forward", "mlp"),
        ("norms", "norm"),
    ];
    let mut table = Table::new(["part of the transformer", "numbers"]);
    for (label, part) in parts {
        let tensors = config.tensors().into_iter().filter(|(name, _)| name.contains(part));
        let numbers: usize =
            tensors.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        table.row([label.into(), numbers.to_string()]);
    }
    let all: usize =
        config.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    table.row(["together".into(), all.to_string()]);
    print!("{table}");
    Ok(())
}

/// A model of the student's shape in double precision, with numbers large enough that
/// everything matters.
fn loud(layers: usize, device: &Device) -> Result<Decoder> {
    let config = Config { layers, ..student_config(device)? };
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F64, device)?;
    trap::randomise(decoder.variables(), &mut seed::rng(1))?;
    Ok(decoder)
}

fn ids(text: &str, device: &Device) -> Result<Tensor> {
    let student = Student::new(&carry::TASK, &mut seed::rng(0), device)?;
    learn::rows(&student, std::iter::once(text.to_string()))
}

fn largest(x: &Tensor) -> Result<f64> {
    Ok(x.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar()?)
}

fn one_page(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "page", "One page against the library");
    let decoder = loud(2, device)?;
    let page = Transformer::of(&decoder, WHOLE);
    let tokens = ids(&format!("{QUESTION}132"), device)?;
    let logits = |policy: &dyn Policy| policy.logits(&tokens);
    let apart =
        largest(&(logits(&page)? - logits(&decoder)?)?)? / largest(&logits(&decoder)?)?;
    let gradient = |policy: &dyn Policy| {
        gradients::of(&logits(policy)?.sqr()?.mean_all()?, decoder.variables())
    };
    let (ours, library) = (gradient(&page)?, gradient(&decoder)?);
    let mut worst = 0f64;
    for variable in decoder.variables().values() {
        let (Some(a), Some(b)) = (ours.get(variable), library.get(variable)) else {
            anyhow::bail!("a gradient is missing")
        };
        worst = worst.max(largest(&(a - b)?)? / largest(b)?);
    }
    // The library keeps the angles in single precision, as the published models do.
    let verdict = |x: f64| if x < 1e-5 { "below 1e-5" } else { "ABOVE 1e-5" };
    println!("largest difference of a logit, relative     {}", verdict(apart));
    println!("largest difference of a gradient, relative  {}", verdict(worst));
    Ok(())
}

// ANCHOR: noticed
/// Which logits change when token `changed` of the text does.
fn noticed(policy: &impl Policy, tokens: &Tensor, changed: usize) -> Result<Vec<bool>> {
    let mut other = tokens.squeeze(0)?.to_vec1::<u32>()?;
    other[changed] = (other[changed] + 1) % 10 + 1; // another digit
    let other = Tensor::new(other, tokens.device())?.unsqueeze(0)?;
    let moved = (policy.logits(&other)? - policy.logits(tokens)?)?.abs()?;
    let moved = moved.max(D::Minus1)?.squeeze(0)?.to_vec1::<f64>()?;
    Ok(moved.iter().map(|x| *x > 1e-9).collect())
}
// ANCHOR_END: noticed

fn mask(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "mask", "Who notices a changed token");
    let decoder = loud(2, device)?;
    let text = format!("{QUESTION}132");
    let tokens = ids(&text, device)?;
    let row =
        |items: Vec<char>| items.iter().map(char::to_string).collect::<Vec<_>>().join(" ");
    let header = row(text.chars().collect());
    println!("         logits after, with mask    without");
    println!("changed  {header}          {header}");
    for (changed, character) in text.chars().enumerate() {
        let line = |mask| -> Result<String> {
            let policy = Transformer::of(&decoder, Parts { mask, ..WHOLE });
            let moved = noticed(&policy, &tokens, changed)?;
            Ok(row(moved.iter().map(|moved| if *moved { 'x' } else { '.' }).collect()))
        };
        println!("{character}        {}          {}", line(true)?, line(false)?);
    }
    Ok(())
}

fn order(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "order", "Positions");
    let mut rng = seed::rng(3);
    let config = student_config(device)?;
    let half = config.head_dim / 2;
    let mut vector =
        || seed::normal(&mut rng, (1, config.head_dim), 0.5, DType::F64, device);
    let (q, k) = (vector()?, vector()?);
    let turned = |x: &Tensor, position: usize| -> Result<Tensor> {
        let (cos, sin) =
            transformer::angles(position..position + 1, half, config.rope_theta, x)?;
        let x = x.reshape((1, 1, 1, config.head_dim))?;
        Ok(candle_nn::rotary_emb::rope_slow(&x, &cos, &sin)?.flatten_all()?)
    };
    let mut table = Table::new(["query at", "key at", "apart", "score"]);
    for (t, s) in [(3, 3), (103, 103), (3, 1), (10, 8), (103, 101), (10, 1)] {
        let score = (turned(&q, t)? * turned(&k, s)?)?.sum_all()?.to_scalar::<f64>()?;
        let [query, key, apart] = [t, s, t - s].map(|n| n.to_string());
        table.row([query, key, apart, format!("{score:.4}")]);
    }
    println!("{table}");
    let decoder = loud(1, device)?;
    println!("one layer, logits after 12+34= against those after 21+34=:");
    for (name, positions) in [("with positions", true), ("without", false)] {
        let policy = Transformer::of(&decoder, Parts { positions, ..WHOLE });
        let last = |text: &str| -> Result<Tensor> {
            let logits = policy.logits(&ids(text, device)?)?;
            Ok(logits.narrow(1, 5, 1)?)
        };
        let apart = largest(&(last("12+34=")? - last("21+34=")?)?)?;
        let shown = if apart < 1e-9 {
            "no difference".into()
        } else {
            format!("up to {apart:.2} apart")
        };
        println!("{name:<16}{shown}");
    }
    Ok(())
}

fn layers(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "layers", "The trap: Candle's layers");
    let mut table = Table::new(["layer", "inputs", "gradients", "instead", "right ones"]);
    let mut all_same = true;
    for layer in &trap::LAYERS {
        let ([stock, instead], same) = layer.judge()?;
        let [all, with, _] = trap::count(&stock).map(|n| n.to_string());
        let [_, _, right] = trap::count(&instead).map(|n| n.to_string());
        table.row([layer.name.into(), all, with, layer.instead.into(), right]);
        all_same &= same;
    }
    let same = if all_same { "yes" } else { "NO" };
    println!(
        "{table}\nthe same values with each layer and with what stands instead: {same}"
    );
    Ok(())
}

fn models(out: &mut Output) -> Result<()> {
    out.section(Kind::Exact, "models", "The trap: whole models");
    let mut table = Table::new(["model", "variables", "gradients", "right ones"]);
    let models: Vec<_> = trap::models()?.into_iter().chain(trap::ours()?).collect();
    let errors = shards::run(models.len(), |model| models[model].errors())?;
    for (model, errors) in models.iter().zip(&errors) {
        let [all, with, right] = trap::count(errors).map(|n| n.to_string());
        table.row([model.name.into(), all, with, right]);
    }
    print!("{table}");
    Ok(())
}

fn canary(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "canary", "What the canary says about a fused softmax");
    let config = student_config(device)?;
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F32, device)?;
    let policy = Transformer::of(&decoder, VARIANTS[1].1);
    let loss = policy.logits(&ids("47+85=132", device)?)?.sqr()?.mean_all()?;
    match gradients::of(&loss, policy.variables()) {
        Ok(_) => println!("nothing"),
        Err(error) => {
            println!("{}", error.to_string().replace(", ", "\n  ").replace(": ", ":\n  "))
        }
    }
    Ok(())
}

/// The chapter's student and the variants, side by side on as many threads as there are
/// cores.
fn train(
    seed: u64,
    effort: Effort,
    device: &Device,
) -> Result<(Student, Vec<Point>, Vec<Trained>)> {
    enum Done {
        Student(Box<Student>, Vec<Point>),
        Broken(Trained),
    }
    let bar = report::progress(effort.sft.steps as u64, "fine-tuning");
    let jobs = seed::over_seeds(1 + VARIANTS.len() as u64, |job| match job {
        0 => {
            let (student, points) = learn::learn(seed, &effort.sft, device, |loss| {
                bar.set_message(format!("loss {loss:.3}"));
                bar.inc(1);
            })?;
            Ok(Done::Student(Box::new(student), points))
        }
        job => {
            let (_, parts) = VARIANTS[job as usize - 1];
            Ok(Done::Broken(learn::train(seed, parts, &effort.broken, device)?))
        }
    })?;
    bar.finish_and_clear();
    let (mut learnt, mut broken) = (None, Vec::new());
    for job in jobs {
        match job {
            Done::Student(student, points) => learnt = Some((*student, points)),
            Done::Broken(trained) => broken.push(trained),
        }
    }
    let (student, points) = anyhow::Context::context(learnt, "nothing was trained")?;
    Ok((student, points, broken))
}

fn learnt(out: &mut Output, seed: u64, points: &[Point]) -> Result<()> {
    out.section(Kind::Trained, "sft", "Learning from the sloppy teacher");
    let perfect = learn::perfect(&learn::split(seed)?.held_out)?;
    let mut table = Table::new(["step", "loss", "greedy", "sampled", "the habit"]);
    let every = (points.len() / 9).max(1);
    for point in points.iter().filter(|point| (point.step / EVERY).is_multiple_of(every)) {
        let loss =
            if point.step == 0 { String::new() } else { format!("{:.3}", point.loss) };
        let shares = [point.greedy, point.sampled, point.habit].map(|x| format!("{x:.2}"));
        let [greedy, sampled, habit] = shares;
        table.row([point.step.to_string(), loss, greedy, sampled, habit]);
    }
    let shares = [perfect.greedy, perfect.sampled].map(|x| format!("{x:.2}"));
    let [greedy, sampled] = shares;
    table.row([
        "perfect pupil".into(),
        format!("{:.3}", perfect.loss),
        greedy,
        sampled,
        "1.00".into(),
    ]);
    print!("{table}");
    let rows = points.iter().map(|p| [p.step as f64, p.loss, p.greedy, p.sampled, p.habit]);
    out.csv("sft", ["step", "loss", "greedy", "sampled", "habit"], rows)?;
    out.figure("sft", &sft_figure(&[points], perfect))
}

/// Loss and accuracies against steps, with bands where there are several runs.
fn sft_figure(runs: &[&[Point]], perfect: learn::Perfect) -> Figure {
    let x: Vec<f64> = runs[0].iter().map(|point| point.step as f64).collect();
    let end = x.last().copied().unwrap_or(0.0);
    let curves = |number: fn(&Point) -> f64| -> Vec<Vec<f64>> {
        runs.iter().map(|points| points.iter().map(number).collect()).collect()
    };
    let losses: Vec<Vec<f64>> =
        curves(|p| p.loss).iter().map(|c| c[1..].to_vec()).collect();
    let flat = |y: f64| [(0.0, y), (end, y)];
    let loss = Panel::new("step", "loss, nats a token")
        .mean_band(0, "loss", &x[1..], &losses)
        .dashed(7, "entropy of the teacher", &flat(perfect.loss));
    let accuracy = Panel::new("step", "share of held-out prompts")
        .y_range(0.0, 1.02)
        .mean_band(1, "right, greedy", &x, &curves(|p| p.greedy))
        .mean_band(2, "right, sampled", &x, &curves(|p| p.sampled))
        .mean_band(3, "the habit, greedy", &x, &curves(|p| p.habit));
    Figure::new(
        "Learning from the sloppy teacher",
        "Left: the loss falls to the entropy of the teacher. Right: the share of greedy answers \
         that follow the teacher's habit rises towards one; greedy answers are right less often \
         than sampled ones.",
        vec![loss, accuracy],
    )
}

fn temperature(out: &mut Output, seed: u64, student: &Student) -> Result<()> {
    out.section(Kind::Trained, "temperature", "Temperature");
    let digit = |c: char| student.tokenizer.id(&c.to_string());
    let tokens = [digit('0')? as usize, digit('1')? as usize];
    let mut table = Table::new(["temperature", "p(0)", "p(1)", "p(other)", "entropy"]);
    for temperature in SHOWN {
        let p = learn::next(student, QUESTION, temperature)?;
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let [habit, right] = tokens.map(|token| p[token]);
        let cells = [habit, right, 1.0 - habit - right, entropy]
            .map(|x| format!("{:.3}", x.max(0.0)));
        let [habit, right, other, entropy] = cells;
        table.row([format!("{temperature}"), habit, right, other, entropy]);
    }
    println!("the first digit after {QUESTION}, whose answer is 132:\n\n{table}");
    let problems = learn::split(seed)?.held_out;
    let mut curve = Vec::new();
    let mut table = Table::new(["temperature", "right"]);
    for temperature in TEMPERATURES {
        let share = exam(student, &problems, Sampler::at(temperature), seed)?.accuracy();
        curve.push((temperature, share));
        if SHOWN.contains(&temperature) {
            table.row([format!("{temperature}"), format!("{share:.2}")]);
        }
    }
    let greedy = exam(student, &problems, Sampler::greedy(), seed)?.accuracy();
    table.row(["greedy".into(), format!("{greedy:.2}")]);
    print!("held-out prompts answered rightly:\n\n{table}");
    let panel = Panel::new("temperature", "share of right answers")
        .y_range(0.0, 1.02)
        .line(2, "sampled", &curve)
        .points(2, "", &curve)
        .dashed(1, "greedy", &[(0.0, greedy), (2.0, greedy)]);
    let figure = Figure::new(
        "Accuracy against temperature",
        "The share of right answers is low when the temperature is low, highest near one, \
         and lowest at two.",
        vec![panel],
    );
    out.figure("temperature", &figure)
}

fn trap(out: &mut Output, seed: u64, broken: &[Trained]) -> Result<()> {
    out.section(Kind::Trained, "broken", "Training in spite of it");
    println!(
        "{} steps each, from the same weights, on the same demonstrations\n",
        broken[0].losses.len()
    );
    let mut table = Table::new([
        "transformer",
        "variables that move",
        "loss, first",
        "last",
        "the habit",
        "right",
    ]);
    for ((name, _), trained) in VARIANTS.iter().zip(broken) {
        let [with, all] = trained.reached;
        table.row([
            (*name).into(),
            format!("{with} of {all}"),
            format!("{:.2}", trained.losses[0]),
            format!("{:.3}", trained.loss()),
            format!("{:.2}", trained.habit),
            format!("{:.2}", trained.right),
        ]);
    }
    let perfect = learn::perfect(&learn::split(seed)?.held_out)?;
    table.row([
        "perfect pupil".into(),
        String::new(),
        String::new(),
        format!("{:.3}", perfect.loss),
        "1.00".into(),
        format!("{:.2}", perfect.greedy),
    ]);
    print!("{table}");
    out.figure("broken", &broken_figure(&[broken], perfect.loss))
}

/// Losses of the variants against steps, smoothed, with bands where there are several
/// seeds.
fn broken_figure(runs: &[&[Trained]], entropy: f64) -> Figure {
    const WIDTH: usize = 10;
    let smooth = |losses: &[f64]| -> Vec<f64> {
        losses
            .chunks(WIDTH)
            .map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64)
            .collect()
    };
    let mut panel = Panel::new("step", "loss, nats a token");
    let mut end = 0.0;
    for (variant, (name, _)) in VARIANTS.iter().enumerate() {
        let curves: Vec<Vec<f64>> =
            runs.iter().map(|run| smooth(&run[variant].losses)).collect();
        let x: Vec<f64> =
            (0..curves[0].len()).map(|i| (WIDTH * i + WIDTH / 2) as f64).collect();
        end = x.last().copied().unwrap_or(end);
        panel = panel.mean_band(variant, name, &x, &curves);
    }
    let panel =
        panel.dashed(7, "entropy of the teacher", &[(0.0, entropy), (end, entropy)]);
    Figure::new(
        "Losses of broken transformers",
        "All losses fall. Those of the transformers with a fused norm stay far above the \
         entropy of the teacher, and that of the transformer without a mask falls below it.",
        vec![panel],
    )
}
