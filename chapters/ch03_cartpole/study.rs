//! What the notebook asks to try, tried: the parts of GRPO, the learning rate, the group
//! size, the network, and the number of episodes. Every run of a comparison takes the
//! same number of environment steps.

use super::*;
use candle_nn::Linear;
#[cfg(feature = "yours")]
use exercises::{forward, layers};
use grpo::variables::{Init, Variables};

/// A network of any depth: features (B, …, F) → logits (B, …, A), with tanh between its
/// layers. Without hidden layers it is linear.
struct Layers {
    layers: Vec<Linear>,
    variables: Variables,
}

impl Layers {
    fn new(sizes: &[usize], rng: &mut StdRng, device: &Device) -> Result<Self> {
        let mut init = Init::new(rng, DType::F32, device);
        Ok(Self { layers: layers(sizes, &mut init)?, variables: init.finish() })
    }
}

#[cfg(not(feature = "yours"))]
/// Fresh layers between these sizes, the last one a hundred times smaller.
fn layers(sizes: &[usize], init: &mut Init) -> Result<Vec<Linear>> {
    let mut layers = Vec::new();
    for (i, pair) in sizes.windows(2).enumerate() {
        let small = if i + 2 == sizes.len() { 0.01 } else { 1.0 };
        let std = small / (pair[0] as f64).sqrt();
        let weight = init.normal(&format!("{i}.weight"), (pair[1], pair[0]), std)?;
        let bias = init.zeros(&format!("{i}.bias"), pair[1])?;
        layers.push(Linear::new(weight, Some(bias)));
    }
    Ok(layers)
}

#[cfg(not(feature = "yours"))]
/// One layer after the other, with tanh between them.
fn forward(layers: &[Linear], features: &Tensor) -> Result<Tensor> {
    use candle_core::Module;
    let mut x = features.clone();
    for (i, layer) in layers.iter().enumerate() {
        x = layer.forward(&if i == 0 { x } else { x.tanh()? })?;
    }
    Ok(x)
}

impl Policy for Layers {
    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        forward(&self.layers, features)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}

/// One line of a comparison: what it is called, how it trains, which hidden layers.
struct Setting {
    name: String,
    recipe: Recipe,
    hidden: &'static [usize],
}

impl Setting {
    fn new(name: impl ToString, recipe: Recipe) -> Self {
        Self { name: name.to_string(), recipe, hidden: &[HIDDEN] }
    }

    fn train(&self, run: &RunArgs, seeds: u64) -> Result<Vec<Trained<Layers>>> {
        let sizes = [&[4], self.hidden, &[2]].concat();
        let new = |rng: &mut StdRng| Layers::new(&sizes, rng, &run.device);
        seed::over_seeds(seeds, |seed| {
            train_one(new, &self.recipe, run.seed + seed, &run.device)
        })
    }
}

/// Trains every setting and prints a row for each.
fn compare(
    first: &str,
    settings: Vec<Setting>,
    run: &RunArgs,
    effort: Effort,
) -> Result<Vec<(String, Vec<Trained<Layers>>)>> {
    let bar = report::progress(settings.len() as u64, first);
    let mut table = Table::new([first, SUMMARY[1], SUMMARY[2], SUMMARY[3]]);
    let mut all = Vec::new();
    for setting in settings {
        let seeds = setting.train(run, effort.seeds)?;
        table.row(summary(&setting.name, &seeds));
        all.push((setting.name, seeds));
        bar.inc(1);
    }
    bar.finish_and_clear();
    print!("{table}");
    Ok(all)
}

fn panel(effort: Effort, all: &[(String, Vec<Trained<Layers>>)]) -> Panel {
    let lines =
        all.iter().enumerate().map(|(i, (name, seeds))| (i, name.as_str(), &seeds[..]));
    curves(effort.budget, lines)
}

pub fn run(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    // Half of what the chapter gives each run: differences show before all have arrived.
    let effort = Effort { budget: effort.budget / 2, ..effort };
    parts(out, run, effort)?;
    learning_rate(out, run, effort)?;
    group_size(out, run, effort)?;
    network_shape(out, run, effort)?;
    episodes(out, run, effort)
}

fn parts(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "parts", "The parts of GRPO, one changed at a time");
    let grpo = Recipe::grpo(effort.budget);
    // A clip that no ratio of this chapter reaches.
    let open = Term::Clip { low: 0.9999, high: 1e9, bound: None };
    let settings = vec![
        Setting::new("GRPO", grpo),
        Setting::new("one epoch", Recipe { epochs: 1, ..grpo }),
        Setting::new("eight epochs", Recipe { epochs: 8, ..grpo }),
        Setting::new("no clip", Recipe { clip: open, ..grpo }),
        Setting::new("eight epochs, no clip", Recipe { epochs: 8, clip: open, ..grpo }),
        Setting::new("mean of the batch", Recipe { judge: Judge::BatchMean, ..grpo }),
        Setting::new(
            "REINFORCE, minus the mean",
            Recipe::reinforce(Judge::BatchMean, effort.budget),
        ),
    ];
    let all = compare("changed", settings, run, effort)?;
    let some = |title: &str, chosen: [usize; 3]| {
        let colours = [0, 1, 2].into_iter();
        let lines = colours.zip(chosen.map(|i| (all[i].0.as_str(), &all[i].1[..])));
        let lines = lines.map(|(colour, (name, seeds))| (colour, name, seeds));
        curves(effort.budget, lines).title(title)
    };
    let figure = Figure::new(
        "GRPO with one part changed",
        "Three panels of steps survived against environment steps. Fewer epochs learn more \
         slowly. Without the clip learning is faster. The mean of the batch serves as well as \
         groups, and REINFORCE is slower than both.",
        vec![
            some("epochs", [0, 1, 2]),
            some("clip", [0, 3, 4]),
            some("compared with", [0, 5, 6]),
        ],
    );
    out.figure("parts", &figure)
}

fn learning_rate(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "learning_rate", "Learning rate");
    let with = |learning_rate| Recipe { learning_rate, ..Recipe::grpo(effort.budget) };
    let settings = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1].map(|lr| Setting::new(lr, with(lr)));
    let all = compare("learning rate", settings.into(), run, effort)?;
    let figure = Figure::new(
        "Steps survived for five learning rates",
        "The middle learning rate ends highest. The two smaller ones rise slowly with narrow \
         bands, the two larger ones have wide bands and end lower.",
        vec![panel(effort, &all)],
    );
    out.figure("learning_rate", &figure)
}

fn group_size(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "group_size", "Group size");
    let with =
        |starts, group_size| Recipe { starts, group_size, ..Recipe::grpo(effort.budget) };
    println!("64 episodes in every batch, in fewer and larger groups\n");
    let sizes = [2, 4, 16, 64];
    let settings = sizes.map(|g| Setting::new(format!("G = {g}"), with(64 / g, g)));
    let same_batch = compare("group size", settings.into(), run, effort)?;
    println!("\n4 starts in every batch: larger groups make larger and fewer batches\n");
    let settings = sizes.map(|g| Setting::new(format!("G = {g}"), with(STARTS, g)));
    let same_starts = compare("group size", settings.into(), run, effort)?;
    let figure = Figure::new(
        "Steps survived for four group sizes",
        "Two panels. With 64 episodes in every batch the curves lie close together. With four \
         starts in every batch, the small groups rise fastest and the largest slowest.",
        vec![
            panel(effort, &same_batch).title("64 episodes a batch"),
            panel(effort, &same_starts).title("4 starts a batch"),
        ],
    );
    out.figure("group_size", &figure)
}

fn network_shape(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "network", "Width and depth of the network");
    let shapes: [&'static [usize]; 5] = [&[], &[8], &[64], &[128], &[64, 64]];
    let name = |hidden: &[usize]| match hidden.is_empty() {
        true => "4-2, linear".to_string(),
        false => {
            format!(
                "4-{}-2",
                hidden.iter().map(usize::to_string).collect::<Vec<_>>().join("-")
            )
        }
    };
    let recipe = Recipe::grpo(effort.budget);
    let settings = shapes.map(|hidden| Setting { name: name(hidden), recipe, hidden });
    let all = compare("network", settings.into(), run, effort)?;
    let figure = Figure::new(
        "Steps survived for five networks",
        "The linear policy learns slowest, then the narrow network; the widest learns fastest, \
         and a second hidden layer changes little.",
        vec![panel(effort, &all)],
    );
    out.figure("network", &figure)
}

fn episodes(out: &mut Output, run: &RunArgs, effort: Effort) -> Result<()> {
    out.section(Kind::Trained, "episodes", "Number of episodes");
    let full = 2 * effort.budget;
    let bar = report::progress(5, "episodes");
    let mut table = Table::new(["k steps", "episodes", "at the end", "worst seed"]);
    let (mut points, mut every) = (Vec::new(), Vec::new());
    let budgets = [full / 16, full / 8, full / 4, full / 2, full];
    for (i, budget) in budgets.into_iter().enumerate() {
        let seeds = Setting::new("", Recipe::grpo(budget)).train(run, effort.seeds)?;
        let batches = seeds.iter().map(|one| one.curve.len()).sum::<usize>() as f64;
        let episodes = batches * (STARTS * GROUP_SIZE) as f64 / seeds.len() as f64;
        let [_, _, end, worst] = summary("", &seeds);
        table.row([
            format!("{:.1}", budget as f64 / 1000.0),
            format!("{episodes:.0}"),
            end,
            worst,
        ]);
        let (mean, _) = stats::mean_std(&final_means(&seeds));
        points.push((i as f64, mean));
        every.extend(final_means(&seeds).iter().map(|mean| (i as f64, *mean)));
        bar.inc(1);
    }
    bar.finish_and_clear();
    print!(
        "{table}\nepisodes: mean of the seeds; the learning rate falls to zero over each run\n"
    );
    let panel = Panel::new(
        "environment steps of the whole run, thousands",
        "steps survived at the end",
    )
    .y_range(0.0, 520.0)
    .categories(budgets.map(|budget| budget as f64 / 1000.0))
    .line(0, "mean of the seeds", &points)
    .points(1, "each seed", &every);
    let figure = Figure::new(
        "Steps survived at the end against the length of training",
        "Each doubling of the training helps less: the mean rises steeply at first and is \
         close to 500 for the longest run.",
        vec![panel],
    );
    out.figure("episodes", &figure)
}
