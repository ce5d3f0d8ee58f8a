//! Chapter 7: from preferences to policies.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, ops::softmax};
use clap::Parser;
use grpo::{
    Result,
    advantage::{self, Scale},
    cli::{self, RunArgs},
    dpo::Pairs,
    env::bandit::{Bandit, Contexts, roll_out, score},
    gradients, kl, log_prob,
    objective::{Aggregation, Kl, Objective, Ratio, Term},
    plot::{Figure, Panel},
    policy::{Mlp, Policy},
    ppo::Ppo,
    report::{self, Kind, Output, Table},
    reward_model::{self, RewardModel},
    rollout::Rollout,
    sampling, seed, stats,
    update::{Steps, update},
    variables::{self, Variables},
};
use rand::{Rng, rngs::StdRng};

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(feature = "yours")]
use exercises::{dpo_loss, preference_loss};
#[cfg(not(feature = "yours"))]
use grpo::{dpo::loss as dpo_loss, reward_model::loss as preference_loss};

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// The toy world: contexts, features, tokens. An answer is one token.
const WORLD: [usize; 3] = [5, 8, 10];
const HIDDEN: usize = 32;
/// How decided the annotators are: a beats b with probability σ(8 (r_a − r_b)).
const DECIDED: f64 = 8.0;
/// How decided the teacher is, who writes the demonstrations: p ∝ e^{5 r}.
const TEACHER: f64 = 5.0;
/// Comparisons that a reward model or DPO learns from: few, usual, many.
const COMPARISONS: [usize; 3] = [50, 200, 1000];
const USUAL: usize = COMPARISONS[1];

/// Each training step sees 64 demonstrations, comparisons or sampled tokens.
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 1e-2;
const SFT_STEPS: usize = 400;
const REWARD_STEPS: usize = 200;
const POLICY_STEPS: usize = 200;
/// G, for the methods that have groups.
const GROUP_SIZE: usize = 8;
/// μ, for the methods that have a clip.
const EPOCHS: usize = 2;
const CLIP_EPS: f64 = 0.2;
/// β. The tables show the second one.
const KL_COEFS: [f64; 4] = [0.05, 0.2, 0.5, 1.0];
const KL_COEF: f64 = KL_COEFS[1];
// ANCHOR_END: settings

/// Chapter 7, from preferences to policies: SFT, a reward model, GRPO, and the others.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Two seeds in place of ten
    #[arg(long)]
    quick: bool,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let seeds = if args.quick { 2 } else { 10 };
    let mut out = args.run.output("ch07_reward_model")?;
    worked_numbers(&mut out, &args.run.device)?;
    let labs = |teacher, comparisons| {
        let lab =
            |seed| Lab::new(teacher, comparisons, args.run.seed + seed, &args.run.device);
        seed::over_seeds(seeds, lab)
    };
    let (easy, hard) = (labs(Teacher::Good, USUAL)?, labs(Teacher::Mediocre, USUAL)?);
    demonstrations(&mut out, &easy[0], &hard[0])?;
    judges(&mut out, &hard)?;
    sharpening(&mut out, &easy, &hard)?;
    first_group(&mut out, &hard[0])?;
    let few = labs(Teacher::Mediocre, COMPARISONS[0])?;
    let many = labs(Teacher::Mediocre, COMPARISONS[2])?;
    over_optimisation(&mut out, [&few, &hard, &many])?;
    landscape(&mut out, &hard)?;
    Ok(out.finish()?)
}

fn worked_numbers(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "bradley_terry", "One comparison");
    let one = |x: f64| Tensor::new(&[x], device);
    let mut table = Table::new(["r_w - r_l", "P(w beats l)", "loss", "push on r_w"]);
    for margin in [-2.0, 0.0, 1.0, 3.0] {
        let chosen = candle_core::Var::from_tensor(&one(margin)?)?;
        let loss = preference_loss(chosen.as_tensor(), &one(0.0)?)?;
        let variables = Variables::from([("r_w".to_string(), chosen.clone())]);
        let push = gradients::of(&loss, &variables)?;
        let push =
            push.get(&chosen).map_or(Ok(0.0), |g| g.neg()?.get(0)?.to_scalar::<f64>())?;
        let [wins, loss] =
            [1.0 - push, loss.to_scalar::<f64>()?].map(|x| format!("{x:.4}"));
        table.row([format!("{margin:.0}"), wins, loss, format!("{push:+.4}")]);
    }
    print!("{table}");
    out.section(Kind::Exact, "dpo", "One pair, without a reward model");
    let (chosen, rejected) = (&one(-1.0)?, &one(-2.0)?);
    let (ref_chosen, ref_rejected) = (&one(-1.2)?, &one(-1.5)?);
    let policy = Pairs { chosen, rejected };
    let reference = Pairs { chosen: ref_chosen, rejected: ref_rejected };
    let loss = dpo_loss(policy, reference, 0.1)?.to_scalar::<f64>()?;
    println!("implicit reward of the chosen answer    0.1 * (-1.0 + 1.2) = +0.020");
    println!("implicit reward of the rejected answer  0.1 * (-2.0 + 1.5) = -0.050");
    println!("loss                                    -log sigma(0.070)  =  {loss:.4}");
    Ok(())
}

// ANCHOR: teacher
/// Who writes the demonstrations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Teacher {
    /// Gives better answers more often. Its favourite is the best one.
    Good,
    /// The same, but takes the best answer for a middling one.
    Mediocre,
}

impl Teacher {
    /// How often it gives each answer: probabilities (C, A).
    fn probabilities(self, world: &Bandit) -> Result<Tensor> {
        let mut quality = world.rewards.to_vec2::<f32>()?;
        if self == Self::Mediocre {
            for row in &mut quality {
                let mut sorted = row.clone();
                sorted.sort_by(f32::total_cmp);
                let (best, median) = (sorted[row.len() - 1], sorted[row.len() / 2 - 1]);
                row.iter_mut().filter(|q| **q == best).for_each(|q| *q = median);
            }
        }
        let quality = Tensor::new(quality, world.rewards.device())?;
        Ok(softmax(&(quality * TEACHER)?, 1)?)
    }
}
// ANCHOR_END: teacher

fn adam(variables: &Variables) -> Result<AdamW> {
    let settings =
        ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..ParamsAdamW::default() };
    Ok(AdamW::new(variables.values().cloned().collect(), settings)?)
}

// ANCHOR: fine_tune
/// SFT: make the demonstrations likely.
fn fine_tune(world: &Bandit, teacher: Teacher, rng: &mut StdRng) -> Result<Mlp> {
    let [_, features, tokens] = WORLD;
    let device = world.features.device();
    let policy = Mlp::new([features, HIDDEN, tokens], rng, DType::F32, device)?;
    let mut optimizer = adam(policy.variables())?;
    let shows = teacher.probabilities(world)?.log()?;
    for _ in 0..SFT_STEPS {
        let contexts = world.draw(BATCH, rng)?;
        let shown = sampling::sample(&shows.index_select(&contexts.ids, 0)?, rng)?;
        let logits = policy.logits(&contexts.features)?;
        let loss = log_prob::of(&logits, &shown)?.mean_all()?.neg()?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}
// ANCHOR_END: fine_tune

// ANCHOR: compare
/// Two different answers to each of N prompts, and which one was preferred.
struct Comparisons {
    contexts: Contexts,
    /// Token ids (N).
    chosen: Tensor,
    /// Token ids (N).
    rejected: Tensor,
}

/// The policy answers each of N prompts twice, an annotator says which is better.
fn compare(
    world: &Bandit,
    policy: &Mlp,
    n: usize,
    rng: &mut StdRng,
) -> Result<Comparisons> {
    let contexts = world.draw(n, rng)?;
    let logits = policy.logits(&contexts.features)?.detach();
    let a = sampling::sample(&logits, rng)?;
    let others = (logits - (one_hot(&a)? * 1e9)?)?;
    let b = sampling::sample(&others, rng)?;
    let (ra, rb) = (world.rewards(&contexts, &a)?, world.rewards(&contexts, &b)?);
    let chances = ra.iter().zip(&rb).map(|(ra, rb)| sigmoid(DECIDED * (ra - rb)));
    let a_wins: Vec<u8> = chances.map(|p| u8::from(rng.random::<f64>() < p)).collect();
    let a_wins = Tensor::new(a_wins, a.device())?;
    let (chosen, rejected) = (a_wins.where_cond(&a, &b)?, a_wins.where_cond(&b, &a)?);
    Ok(Comparisons { contexts, chosen, rejected })
}
// ANCHOR_END: compare

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Token ids (B) → (B, A), 1 at the token and 0 elsewhere.
fn one_hot(ids: &Tensor) -> Result<Tensor> {
    let all = Tensor::arange(0u32, WORLD[2] as u32, ids.device())?.unsqueeze(0)?;
    Ok(ids.unsqueeze(1)?.broadcast_eq(&all)?.to_dtype(DType::F32)?)
}

impl Comparisons {
    /// Some of them, drawn with repetition.
    fn draw(&self, count: usize, rng: &mut StdRng) -> Result<Self> {
        let total = self.chosen.elem_count() as u32;
        let rows: Vec<u32> = (0..count).map(|_| rng.random_range(0..total)).collect();
        let rows = Tensor::new(rows, self.chosen.device())?;
        let take = |x: &Tensor| x.index_select(&rows, 0);
        let contexts = Contexts {
            ids: take(&self.contexts.ids)?,
            features: take(&self.contexts.features)?,
        };
        Ok(Self { contexts, chosen: take(&self.chosen)?, rejected: take(&self.rejected)? })
    }

    /// How often each token was compared in each context: C rows of A numbers.
    fn seen(&self) -> Result<Vec<Vec<usize>>> {
        let mut seen = vec![vec![0; WORLD[2]]; WORLD[0]];
        let contexts = self.contexts.ids.to_vec1::<u32>()?;
        for tokens in [&self.chosen, &self.rejected] {
            for (&context, token) in contexts.iter().zip(tokens.to_vec1::<u32>()?) {
                seen[context as usize][token as usize] += 1;
            }
        }
        Ok(seen)
    }
}

// ANCHOR: learn_rewards
/// Fits a reward model to the comparisons.
fn learn_rewards(pairs: &Comparisons, rng: &mut StdRng) -> Result<RewardModel> {
    let [_, features, tokens] = WORLD;
    let shape = [features, HIDDEN, tokens];
    let model = RewardModel::new(shape, rng, DType::F32, pairs.chosen.device())?;
    let mut optimizer = adam(model.variables())?;
    for _ in 0..REWARD_STEPS {
        let pairs = pairs.draw(BATCH, rng)?;
        let reward = |tokens: &Tensor| model.rewards(&pairs.contexts.features, tokens);
        let (chosen, rejected) = (reward(&pairs.chosen)?, reward(&pairs.rejected)?);
        let loss = preference_loss(&chosen, &rejected)?;
        optimizer.step(&gradients::of(&loss, model.variables())?)?;
    }
    Ok(model)
}
// ANCHOR_END: learn_rewards

/// Everything that a policy is trained from, and measured by.
struct Lab {
    seed: u64,
    world: Bandit,
    sft: Mlp,
    pairs: Comparisons,
    model: RewardModel,
    /// The world as the reward model sees it: its scores, shifted and scaled to mean 0 and
    /// standard deviation 1 over the answers of the SFT policy.
    judged: Bandit,
    /// What one unit of `judged` stands for in true reward, if the model is right.
    unit: f64,
}

impl Lab {
    fn new(
        teacher: Teacher,
        comparisons: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let mut rng = seed::stream(seed, &[7]);
        let world = Bandit::random(WORLD, &mut rng, device)?;
        let sft = fine_tune(&world, teacher, &mut rng)?;
        let pairs = compare(&world, &sft, comparisons, &mut rng)?;
        let model = learn_rewards(&pairs, &mut rng)?;
        let scores = model.table(&world.features)?;
        let with = |rewards: Tensor| Bandit { features: world.features.clone(), rewards };
        let centred = (&scores - with(scores.clone()).expected_reward(&sft)?)?;
        let std = with(centred.sqr()?).expected_reward(&sft)?.sqrt();
        let judged = with((centred / std)?);
        Ok(Self { seed, world, sft, pairs, model, judged, unit: std / DECIDED })
    }

    fn device(&self) -> &Device {
        self.world.features.device()
    }
}

// ANCHOR: measure
/// A policy, measured exactly: sums over all contexts and all tokens, nothing sampled.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Expected true reward.
    reward: f64,
    /// What is missing from the best possible reward.
    regret: f64,
    /// True reward of always giving the likeliest answer.
    greedy: f64,
    /// Expected true reward, if the reward model were right.
    promised: f64,
    /// KL from the SFT policy, mean over contexts.
    kl: f64,
}
// ANCHOR_END: measure

impl Measured {
    fn new(lab: &Lab, policy: &Mlp) -> Result<Self> {
        Self::of_logits(lab, &policy.logits(&lab.world.features)?)
    }

    /// The same from a table of logits (C, A).
    fn of_logits(lab: &Lab, logits: &Tensor) -> Result<Self> {
        let logits = logits.detach();
        let number = |per_context: Tensor| -> Result<f64> {
            Ok(per_context.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
        };
        let probabilities = softmax(&logits, D::Minus1)?;
        let mean = |table: &Tensor| number((&probabilities * table)?.sum(1)?);
        let greedy = lab.world.rewards.gather(&logits.argmax_keepdim(1)?, 1)?;
        let start = lab.world.expected_reward(&lab.sft)?;
        let reward = mean(&lab.world.rewards)?;
        Ok(Self {
            reward,
            regret: lab.world.best_reward()? - reward,
            greedy: number(greedy)?,
            promised: start + lab.unit * mean(&lab.judged.rewards)?,
            kl: number(kl::exact_policy_ref(
                &logits,
                &lab.sft.logits(&lab.world.features)?,
            )?)?,
        })
    }
}

/// "mean ± standard deviation" of one number of each seed.
fn cell(measured: &[Measured], number: impl Fn(&Measured) -> f64) -> String {
    let (mean, std) = stats::mean_std(&measured.iter().map(number).collect::<Vec<_>>());
    format!("{mean:.2} ± {std:.2}")
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    stats::mean_std(&numbers.collect::<Vec<_>>()).0
}

fn demonstrations(out: &mut Output, easy: &Lab, hard: &Lab) -> Result<()> {
    out.section(Kind::Trained, "demonstrations", "What SFT learns from two teachers");
    let rewards = easy.world.rewards.to_vec2::<f32>()?;
    let mut table = Table::new([
        "context",
        "best token",
        "good teacher: likeliest",
        "p(best)",
        "mediocre teacher: likeliest",
        "p(best)",
    ]);
    for (context, rewards) in rewards.iter().enumerate() {
        let best = argmax(rewards);
        let learnt = |lab: &Lab| -> Result<[String; 2]> {
            let logits = lab.sft.logits(&lab.world.features)?.get(context)?;
            let probabilities = log_prob::probabilities(&logits)?;
            let favourite = argmax(&logits.to_vec1::<f32>()?);
            Ok([favourite.to_string(), format!("{:.3}", probabilities[best])])
        };
        let ([good, p], [mediocre, q]) = (learnt(easy)?, learnt(hard)?);
        table.row([context.to_string(), best.to_string(), good, p, mediocre, q]);
    }
    print!("{table}");
    Ok(())
}

fn argmax(numbers: &[f32]) -> usize {
    numbers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

/// The pairs of tokens of all contexts, and how many the reward model orders rightly.
#[derive(Default, Clone, Copy)]
struct Ordered {
    pairs: f64,
    right: f64,
}

/// How often the rarer token of a pair was compared, from and below.
const SEEN: [(usize, usize); 4] = [(0, 1), (1, 5), (5, 20), (20, usize::MAX)];

/// All 5 · 45 pairs of tokens, by how often the rarer of the two was compared.
fn order_all(lab: &Lab) -> Result<[Ordered; 4]> {
    let truth = lab.world.rewards.to_vec2::<f32>()?;
    let scores = lab.model.table(&lab.world.features)?.to_vec2::<f32>()?;
    let seen = lab.pairs.seen()?;
    let mut bins = [Ordered::default(); 4];
    for ((truth, scores), seen) in truth.iter().zip(&scores).zip(&seen) {
        for a in 0..truth.len() {
            for b in 0..a {
                let rarer = seen[a].min(seen[b]);
                let bin =
                    SEEN.iter().position(|(low, high)| (*low..*high).contains(&rarer));
                let bin = &mut bins[bin.unwrap_or(SEEN.len() - 1)];
                bin.pairs += 1.0;
                bin.right +=
                    f64::from(u8::from((truth[a] > truth[b]) == (scores[a] > scores[b])));
            }
        }
    }
    Ok(bins)
}

/// How often annotators side with the better answer, on these comparisons, when they are
/// `decided`.
fn annotators(lab: &Lab, decided: f64) -> Result<f64> {
    let Comparisons { contexts, chosen, rejected } = &lab.pairs;
    let (a, b) =
        (lab.world.rewards(contexts, chosen)?, lab.world.rewards(contexts, rejected)?);
    Ok(mean(a.iter().zip(&b).map(|(a, b)| sigmoid(decided * (a - b).abs()))))
}

fn judges(out: &mut Output, labs: &[Lab]) -> Result<()> {
    out.section(Kind::Trained, "reward_model", "What the reward model knows");
    let over = |f: &dyn Fn(&Lab) -> Result<f64>| -> Result<f64> {
        Ok(mean(labs.iter().map(f).collect::<Result<Vec<_>>>()?.into_iter()))
    };
    let side = over(&|lab| annotators(lab, DECIDED))?;
    let labels = over(&|lab| {
        let Comparisons { contexts, chosen, rejected } = &lab.pairs;
        let score = |tokens: &Tensor| lab.model.rewards(&contexts.features, tokens);
        reward_model::accuracy(&score(chosen)?, &score(rejected)?)
    })?;
    println!("the annotators prefer the better answer in {side:.2} of {USUAL} comparisons");
    println!("the reward model agrees with the annotators in {labels:.2} of them\n");
    let mut table = Table::new(["rarer token compared", "pairs", "ordered rightly"]);
    let bins = labs.iter().map(order_all).collect::<Result<Vec<_>>>()?;
    let total = |chosen: &[usize]| {
        let all = bins.iter().flat_map(|bins| chosen.iter().map(|&i| bins[i]));
        all.fold(Ordered::default(), |sum, bin| Ordered {
            pairs: sum.pairs + bin.pairs / labs.len() as f64,
            right: sum.right + bin.right / labs.len() as f64,
        })
    };
    let names = ["never", "1 to 4 times", "5 to 19 times", "20 times or more"];
    let rows = names.iter().enumerate().map(|(i, name)| (*name, total(&[i])));
    for (name, Ordered { pairs, right }) in rows.chain([("all", total(&[0, 1, 2, 3]))]) {
        let share =
            if pairs > 0.0 { format!("{:.2}", right / pairs) } else { "–".into() };
        table.row([name.into(), format!("{pairs:.1}"), share]);
    }
    print!("{table}");
    let blunt = over(&|lab| annotators(lab, 1.0))?;
    println!("\nannotators who decide by sigma(r_a - r_b) would be right in {blunt:.2}");
    out.section(Kind::Trained, "favourites", "Where it is wrong");
    let lab = &labs[0];
    let (truth, scores, seen) = (
        lab.world.rewards.to_vec2::<f32>()?,
        lab.model.table(&lab.world.features)?.to_vec2::<f32>()?,
        lab.pairs.seen()?,
    );
    let mut table = Table::new([
        "context",
        "best token",
        "worth",
        "compared",
        "reward model's favourite",
        "worth",
        "compared",
    ]);
    for context in 0..WORLD[0] {
        let (best, favourite) = (argmax(&truth[context]), argmax(&scores[context]));
        let about = |token: usize| {
            [
                token.to_string(),
                format!("{:.2}", truth[context][token]),
                seen[context][token].to_string(),
            ]
        };
        let ([a, b, c], [d, e, f]) = (about(best), about(favourite));
        table.row([context.to_string(), a, b, c, d, e, f]);
    }
    print!("{table}");
    Ok(())
}

// ANCHOR: sample
/// One rollout of `BATCH` tokens, with the SFT policy as the reference.
fn sample(
    lab: &Lab,
    policy: &Mlp,
    method: Method,
    judge: &Bandit,
    rng: &mut StdRng,
) -> Result<Rollout> {
    let (size, scale) = method.groups();
    let contexts = lab.world.draw(BATCH / size, rng)?.in_groups(size)?;
    let reward = |contexts: &Contexts, tokens: &Tensor| judge.rewards(contexts, tokens);
    let mut rollout = roll_out(policy, &contexts, size, scale, reward, rng)?;
    if let Some(advantages) = method.advantages(&rollout.rewards)? {
        let advantages = Tensor::new(advantages, lab.device())?;
        rollout.advantages = advantages.to_dtype(DType::F32)?;
    }
    let reference = score(&lab.sft, &rollout)?;
    rollout.with_reference(&reference.log_probs)
}
// ANCHOR_END: sample

/// PPO's clip on each token, and a leash.
fn objective(kl_coef: f64) -> Objective {
    Objective {
        ratio: Ratio::Token,
        term: Term::clip(CLIP_EPS),
        aggregation: Aggregation::SequenceMean,
        kl: Kl::new(kl_coef),
        off_policy_threshold: None,
    }
}

// ANCHOR: train
/// Trains a copy of the SFT policy on sampled tokens. `watch` sees every rollout.
fn train(
    lab: &Lab,
    method: Method,
    kl_coef: f64,
    mut watch: impl FnMut(&Mlp, &Rollout) -> Result<()>,
) -> Result<Mlp> {
    let mut rng = seed::stream(lab.seed, &[8]);
    let verified = lab.world.verifiable()?;
    let judge = if method == Method::Verified { &verified } else { &lab.judged };
    let policy = lab.sft.copy()?;
    let mut optimizer = adam(policy.variables())?;
    let (objective, variables) = (objective(kl_coef), policy.variables());
    let steps = Steps { epochs: method.epochs(), max_norm: f64::INFINITY };
    for _ in 0..POLICY_STEPS {
        let rollout = sample(lab, &policy, method, judge, &mut rng)?;
        watch(&policy, &rollout)?;
        let score = |rollout: &Rollout| score(&policy, rollout);
        update(score, variables, &mut optimizer, &rollout, &objective, steps)?;
    }
    Ok(policy)
}
// ANCHOR_END: train

/// Trains in every lab and measures the result.
fn in_all(labs: &[Lab], run: impl Fn(&Lab) -> Result<Mlp> + Sync) -> Result<Vec<Measured>> {
    seed::over_seeds(labs.len() as u64, |i| {
        let lab = &labs[i as usize];
        Measured::new(lab, &run(lab)?)
    })
}

fn sharpening(out: &mut Output, easy: &[Lab], hard: &[Lab]) -> Result<()> {
    out.section(
        Kind::Trained,
        "grpo",
        "GRPO against the reward model, and against the truth",
    );
    let bar = report::progress(4, "training");
    let mut table =
        Table::new(["teacher", "policy", "true reward", "regret", "greedy", "KL"]);
    for (name, labs) in [("good", easy), ("mediocre", hard)] {
        let mut row = |policy: &str, measured: &[Measured]| {
            let [reward, regret] =
                [cell(measured, |m| m.reward), cell(measured, |m| m.regret)];
            let [greedy, kl] = [cell(measured, |m| m.greedy), cell(measured, |m| m.kl)];
            table.row([name.into(), policy.into(), reward, regret, greedy, kl]);
            bar.inc(1);
        };
        row("SFT", &in_all(labs, |lab| lab.sft.copy())?);
        let grpo = |method| move |lab: &Lab| train_by(lab, method, KL_COEF);
        row("GRPO, reward model", &in_all(labs, grpo(Method::Grpo))?);
        row("GRPO, verified", &in_all(labs, grpo(Method::Verified))?);
    }
    bar.finish_and_clear();
    let best = labs_best(hard)?;
    print!("{table}\nexact, mean ± standard deviation of {} seeds; ", hard.len());
    println!("best possible {best:.2}");
    Ok(())
}

/// The best possible reward, mean over the labs.
fn labs_best(labs: &[Lab]) -> Result<f64> {
    let best =
        labs.iter().map(|lab| lab.world.best_reward()).collect::<Result<Vec<_>>>()?;
    Ok(mean(best.into_iter()))
}

fn first_group(out: &mut Output, lab: &Lab) -> Result<()> {
    out.section(Kind::Trained, "first_group", "A curve of the first group");
    let (mut first, mut exact) = (Vec::new(), Vec::new());
    train(lab, Method::Grpo, KL_COEF, |policy, rollout| {
        first.push(mean(rollout.rewards[..GROUP_SIZE].iter().copied()));
        exact.push(lab.judged.expected_reward(policy)?);
        Ok(())
    })?;
    // The second half, where training has settled: what still moves is the measurement.
    let spread = |curve: &[f64]| stats::mean_std(&curve[POLICY_STEPS / 2..]).1;
    println!("reward-model reward, standard deviation over steps 100 to 200");
    println!("mean of the first group   {:.3}", spread(&first));
    println!("exact, over all contexts  {:.3}", spread(&exact));
    let curve = |y: &[f64]| -> Vec<(f64, f64)> {
        y.iter().enumerate().map(|(step, y)| (step as f64, *y)).collect()
    };
    let panel = Panel::new("step", "reward-model reward")
        .line(7, "mean of the first group", &curve(&first))
        .line(0, "exact, over all contexts", &curve(&exact));
    let figure = Figure::new(
        "The reward of the first group against the exact reward",
        "The mean of the first group jumps up and down at every step, to the end. The exact \
         reward of the same run rises smoothly and stays.",
        vec![panel],
    );
    out.figure("first_group", &figure)?;
    let rows =
        first.iter().zip(&exact).enumerate().map(|(step, (f, e))| [step as f64, *f, *e]);
    out.csv("first_group", ["step", "first_group", "exact"], rows)
}

// ANCHOR: optimum
/// The best that any method can do against this reward model under the leash β:
/// π ∝ π_ref e^{r/β}, and no training.
fn optimum(lab: &Lab, beta: f64) -> Result<Measured> {
    let reference = lab.sft.logits(&lab.world.features)?.detach();
    Measured::of_logits(lab, &(reference + (&lab.judged.rewards / beta)?)?)
}
// ANCHOR_END: optimum

/// The optimum at falling β, mean over labs: (KL, true reward, promised reward).
fn frontier(labs: &[Lab]) -> Result<Vec<[f64; 3]>> {
    let betas = (0..=40).map(|i| 300.0 * 10f64.powf(-f64::from(i) / 10.0));
    let point = |beta: f64| -> Result<[f64; 3]> {
        let all = labs.iter().map(|lab| optimum(lab, beta)).collect::<Result<Vec<_>>>()?;
        let mean = |f: fn(&Measured) -> f64| mean(all.iter().map(f));
        Ok([mean(|m| m.kl), mean(|m| m.reward), mean(|m| m.promised)])
    };
    betas.map(point).collect()
}

/// The point of a curve with the highest true reward.
fn highest(curve: &[[f64; 3]]) -> [f64; 3] {
    curve
        .iter()
        .copied()
        .fold(curve[0], |best, point| if point[1] > best[1] { point } else { best })
}

/// In how many labs the true reward ends clearly below its own highest point.
fn falls(labs: &[Lab]) -> Result<usize> {
    let mut count = 0;
    for i in 0..labs.len() {
        let curve = frontier(&labs[i..=i])?;
        count += usize::from(curve[curve.len() - 1][1] < highest(&curve)[1] - 0.01);
    }
    Ok(count)
}

fn over_optimisation(out: &mut Output, labs: [&[Lab]; 3]) -> Result<()> {
    out.section(
        Kind::Trained,
        "over_optimisation",
        "True and promised reward as the KL grows",
    );
    let curves = labs.iter().map(|labs| frontier(labs)).collect::<Result<Vec<_>>>()?;
    let mut table = Table::new([
        "comparisons",
        "start",
        "peak",
        "at KL",
        "promised",
        "end",
        "at KL",
        "promised",
        "worlds that fall",
    ]);
    for ((count, curve), labs) in COMPARISONS.iter().zip(&curves).zip(labs) {
        let peak = highest(curve);
        let end = &curve[curve.len() - 1];
        let [start, reward, kl, promised] =
            [curve[0][1], peak[1], peak[0], peak[2]].map(|x| format!("{x:.2}"));
        let [last, last_kl, last_promised] =
            [end[1], end[0], end[2]].map(|x| format!("{x:.2}"));
        let (count, fallen) = (count.to_string(), falls(labs)?.to_string());
        table.row([
            count,
            start,
            reward,
            kl,
            promised,
            last,
            last_kl,
            last_promised,
            fallen,
        ]);
    }
    let best = labs_best(labs[1])?;
    println!(
        "{table}\ntrue reward unless promised, mean of {} worlds; best possible {best:.2}",
        labs[1].len()
    );
    let points = |curve: &[[f64; 3]], i: usize| -> Vec<(f64, f64)> {
        curve.iter().map(|point| (point[0], point[i])).collect()
    };
    let left = Panel::new("KL from the SFT policy, nats", "reward")
        .title(&format!("{USUAL} comparisons"))
        .line(1, "promised", &points(&curves[1], 2))
        .line(0, "true", &points(&curves[1], 1));
    let mut right =
        Panel::new("KL from the SFT policy, nats", "true reward").title("by comparisons");
    for (i, (count, curve)) in COMPARISONS.iter().zip(&curves).enumerate() {
        let label = count.to_string();
        right = right.line([3, 0, 2][i], &label, &points(curve, 1));
    }
    let figure = Figure::new(
        "Over-optimisation: true and promised reward against KL",
        "Left: what the reward model promises keeps rising with KL, the true reward rises, \
         bends and falls. Right: the more comparisons, the higher and later the peak; with \
         the most of them the true reward hardly falls.",
        vec![left, right],
    );
    out.figure("over_optimisation", &figure)?;
    let rows = curves.iter().zip(COMPARISONS).flat_map(|(curve, count)| {
        curve.iter().map(move |point| [count as f64, point[0], point[1], point[2]])
    });
    out.csv("over_optimisation", ["comparisons", "kl", "reward", "promised"], rows)
}

/// Ways from the SFT policy to a better one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Reinforce,
    Rloo,
    Ppo,
    Grpo,
    /// GRPO that centres rewards and does not divide by σ.
    Centred,
    /// GRPO with a reward of 1 for the best token and 0 for all others.
    Verified,
    Dpo,
}

impl Method {
    const ALL: [(Self, &str); 7] = [
        (Self::Reinforce, "REINFORCE"),
        (Self::Rloo, "RLOO"),
        (Self::Ppo, "PPO"),
        (Self::Grpo, "GRPO"),
        (Self::Centred, "GRPO, no sigma"),
        (Self::Dpo, "DPO"),
        (Self::Verified, "GRPO, verified"),
    ];

    /// Answers to each prompt, and what their centred rewards are divided by.
    fn groups(self) -> (usize, Scale) {
        match self {
            Self::Reinforce | Self::Ppo => (1, Scale::None),
            Self::Rloo | Self::Centred => (GROUP_SIZE, Scale::None),
            Self::Grpo | Self::Verified | Self::Dpo => (GROUP_SIZE, Scale::Population),
        }
    }

    /// Gradient steps on each batch of samples.
    fn epochs(self) -> usize {
        if matches!(self, Self::Reinforce | Self::Rloo) { 1 } else { EPOCHS }
    }

    /// Advantages in place of the group-relative ones.
    fn advantages(self, rewards: &[f64]) -> Result<Option<Vec<f64>>> {
        Ok(match self {
            Self::Reinforce => Some(rewards.to_vec()),
            Self::Rloo => {
                let groups = advantage::groups(rewards, GROUP_SIZE)?;
                let each =
                    groups.map(advantage::leave_one_out).collect::<Result<Vec<_>>>()?;
                Some(each.concat())
            }
            _ => None,
        })
    }
}

// ANCHOR: train_ppo
/// The same with a critic: two networks, one optimiser.
fn train_ppo(lab: &Lab, kl_coef: f64) -> Result<Mlp> {
    let mut rng = seed::stream(lab.seed, &[8]);
    let policy = lab.sft.copy()?;
    let critic = critic(lab.device(), &mut rng)?;
    let mut variables = policy.variables().clone();
    for (name, variable) in critic.variables() {
        variables.insert(format!("critic.{name}"), variable.clone());
    }
    let mut optimizer = adam(&variables)?;
    let objective = objective(kl_coef);
    let ppo = Ppo { objective, gamma: 1.0, lambda: 0.95, value_coef: 0.5 };
    for _ in 0..POLICY_STEPS {
        let rollout = sample(lab, &policy, Method::Ppo, &lab.judged, &mut rng)?;
        let values = critic.logits(&rollout.prompts)?;
        let estimates = ppo.estimate(&rollout, &values)?.whitened(&rollout.mask)?;
        for _ in 0..EPOCHS {
            let log_probs = score(&policy, &rollout)?.log_probs;
            let values = critic.logits(&rollout.prompts)?;
            let (loss, _) = ppo.loss(&rollout, &estimates, &log_probs, &values)?;
            optimizer.step(&gradients::of(&loss, &variables)?)?;
        }
    }
    Ok(policy)
}
// ANCHOR_END: train_ppo

/// V(s): reads the features of a prompt, says one number.
fn critic(device: &Device, rng: &mut StdRng) -> Result<Mlp> {
    Mlp::new([WORLD[1], HIDDEN, 1], rng, DType::F32, device)
}

// ANCHOR: train_dpo
/// Learns from the comparisons themselves. Nothing is sampled.
fn train_dpo(lab: &Lab, beta: f64) -> Result<Mlp> {
    let mut rng = seed::stream(lab.seed, &[9]);
    let policy = lab.sft.copy()?;
    let mut optimizer = adam(policy.variables())?;
    for _ in 0..POLICY_STEPS * EPOCHS {
        let pairs = lab.pairs.draw(BATCH, &mut rng)?;
        let say = |policy: &Mlp| -> Result<[Tensor; 2]> {
            let logits = policy.logits(&pairs.contexts.features)?;
            let of = |tokens: &Tensor| log_prob::of(&logits, tokens);
            Ok([of(&pairs.chosen)?, of(&pairs.rejected)?])
        };
        let ([chosen, rejected], reference) = (say(&policy)?, say(&lab.sft)?);
        let reference = Pairs { chosen: &reference[0], rejected: &reference[1] };
        let loss =
            dpo_loss(Pairs { chosen: &chosen, rejected: &rejected }, reference, beta)?;
        optimizer.step(&gradients::of(&loss, policy.variables())?)?;
    }
    Ok(policy)
}
// ANCHOR_END: train_dpo

fn train_by(lab: &Lab, method: Method, kl_coef: f64) -> Result<Mlp> {
    match method {
        Method::Ppo => train_ppo(lab, kl_coef),
        Method::Dpo => train_dpo(lab, kl_coef),
        _ => train(lab, method, kl_coef, |_, _| Ok(())),
    }
}

/// Numbers held in memory: trained, and only read.
fn held(lab: &Lab, method: Method) -> Result<[usize; 2]> {
    let policy = variables::count(lab.sft.variables());
    let model = variables::count(lab.model.variables());
    let critic = variables::count(critic(lab.device(), &mut seed::rng(0))?.variables());
    Ok(match method {
        Method::Verified | Method::Dpo => [policy, policy],
        Method::Ppo => [policy + critic, policy + model],
        _ => [policy, policy + model],
    })
}

fn landscape(out: &mut Output, labs: &[Lab]) -> Result<()> {
    out.section(Kind::Trained, "landscape", "The methods from the same start");
    let bar = report::progress(Method::ALL.len() as u64, "training");
    let mut table = Table::new([
        "method",
        "trained",
        "frozen",
        "pairs",
        "samples",
        "true reward",
        "promised",
        "KL",
    ]);
    let sft = in_all(labs, |lab| lab.sft.copy())?;
    let dash = || String::from("–");
    let policy = variables::count(labs[0].sft.variables()).to_string();
    let promised = |m: &Measured| m.promised;
    let (reward, kept) = (cell(&sft, |m| m.reward), cell(&sft, |m| m.kl));
    table.row(["SFT".into(), policy, dash(), dash(), dash(), reward, dash(), kept]);
    let mut panel = Panel::new("KL from the SFT policy, nats", "true reward");
    let mut rows = Vec::new();
    for (i, (method, name)) in Method::ALL.into_iter().enumerate() {
        let mut line = Vec::new();
        // The counterfactual is for the table; one more line would hide the others.
        let in_figure = method != Method::Centred;
        for kl_coef in KL_COEFS.into_iter().filter(|beta| in_figure || *beta == KL_COEF) {
            let measured = in_all(labs, |lab| train_by(lab, method, kl_coef))?;
            let point = [
                mean(measured.iter().map(|m| m.kl)),
                mean(measured.iter().map(|m| m.reward)),
            ];
            line.push((point[0], point[1]));
            rows.push([i as f64, kl_coef, point[0], point[1]]);
            if kl_coef == KL_COEF {
                let [trained, frozen] = held(&labs[0], method)?.map(|n| n.to_string());
                let compared =
                    if method == Method::Verified { dash() } else { USUAL.to_string() };
                let sampled = BATCH * POLICY_STEPS;
                let sampled =
                    if method == Method::Dpo { dash() } else { sampled.to_string() };
                let trusted = match method {
                    Method::Verified | Method::Dpo => dash(),
                    _ => cell(&measured, promised),
                };
                let (reward, kl) =
                    (cell(&measured, |m| m.reward), cell(&measured, |m| m.kl));
                table.row([
                    name.into(),
                    trained,
                    frozen,
                    compared,
                    sampled,
                    reward,
                    trusted,
                    kl,
                ]);
            }
        }
        bar.inc(1);
        if in_figure {
            let colour = [5, 4, 3, 0, 0, 1, 2][i];
            panel = panel.line(colour, name, &line).points(colour, "", &line);
        }
    }
    bar.finish_and_clear();
    let best = labs_best(labs)?;
    println!(
        "{table}\nbeta = {KL_COEF}; mean ± standard deviation of {} seeds; best possible {best:.2}",
        labs.len()
    );
    let optimum: Vec<(f64, f64)> = frontier(labs)?.iter().map(|p| (p[0], p[1])).collect();
    panel = panel.dashed(7, "optimum", &optimum);
    let figure = Figure::new(
        "Six methods: true reward against KL from the SFT policy",
        "One line a method, four values of beta each. REINFORCE, RLOO, PPO and GRPO lie near \
         one curve that rises and bends down; DPO lies above it; GRPO with a verified reward \
         lies far to the right and far above.",
        vec![panel],
    );
    out.figure("landscape", &figure)?;
    out.csv("landscape", ["method", "kl_coef", "kl", "reward"], rows)
}
