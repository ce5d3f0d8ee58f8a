//! Chapter 5: gathering log-probabilities, the one place where gradients enter.

use anyhow::Context;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{Linear, Module};
use clap::Parser;
use grpo::{
    Result,
    cli::{self, RunArgs},
    gradients, mask,
    plot::{Figure, Panel},
    policy::Policy,
    report::{Kind, Output, Table},
    sampling, seed,
    variables::{Init, Variables},
};
use rand::rngs::StdRng;
use tokenizers::{
    AddedToken, Tokenizer,
    models::{TrainerWrapper, bpe::BPE, bpe::BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

#[cfg(feature = "yours")]
#[allow(unused)]
mod exercises;
#[cfg(feature = "yours")]
use exercises::{at_temperature, completion};
#[cfg(not(feature = "yours"))]
use grpo::log_prob::{at_temperature, completion};

#[cfg(test)]
mod tests;

// ANCHOR: settings
/// A tiny policy over six tokens, and what it reads and writes: three tokens each.
const VOCABULARY: usize = 6;
const WIDTH: usize = 4;
const HIDDEN: usize = 6;
const PROMPT: [u32; 3] = [1, 4, 2];
const LENGTH: usize = 3;

/// End of sequence, and padding as well, as with many tokenizers.
const EOS: u32 = 0;

/// The temperature that completions are sampled at.
const TEMPERATURE: f64 = 0.7;
// ANCHOR_END: settings

/// Chapter 5, log-prob gathering: which logits are about which token, and five mistakes.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> cli::Outcome {
    let args: Args = cli::parse();
    let mut out = args.run.output("ch05_log_probs")?;
    shift(&mut out);
    gather(&mut out, &args.run.device)?;
    padding(&mut out, &args.run)?;
    mistakes(&mut out, &args.run)?;
    positions(&mut out, &args.run)?;
    retokenised(&mut out, &args.run)?;
    temperature(&mut out, &args.run)?;
    differences(&mut out, &args.run)?;
    Ok(out.finish()?)
}

fn shift(out: &mut Output) {
    out.section(Kind::Exact, "shift", "Which logits are about which token");
    let (prompt, completion) = (["What", "is", "2+2"], ["The", "answer", "4"]);
    let tokens: Vec<&str> = prompt.into_iter().chain(completion).collect();
    let mut table =
        Table::new(["position", "token", "part", "its logits are about", "gathered"]);
    for (t, token) in tokens.iter().enumerate() {
        let part = if t < prompt.len() { "prompt" } else { "completion" };
        let about = tokens.get(t + 1).copied();
        let gathered = about.is_some() && t + 1 >= prompt.len();
        table.row([
            format!("{t}"),
            (*token).into(),
            part.into(),
            about.unwrap_or("what would follow").into(),
            if gathered { "yes" } else { "" }.into(),
        ]);
    }
    print!("{table}");
}

// ANCHOR: gather
/// Log-probabilities of five words at three positions, and the words that were chosen.
const WORDS: [&str; 5] = ["the", "answer", "is", "4", "hello"];
const LOG_PROBS: [[f64; 5]; 3] = [
    [-2.0, -0.5, -3.0, -4.0, -5.0],
    [-3.0, -4.0, -0.3, -2.0, -5.0],
    [-4.0, -5.0, -3.0, -0.1, -6.0],
];
const CHOSEN: [u32; 3] = [1, 2, 3];

/// One number a row: row t, column `ids[t]`.
fn pick(table: &Tensor, ids: &Tensor) -> Result<Vec<f64>> {
    Ok(table.gather(&ids.unsqueeze(1)?, 1)?.squeeze(1)?.to_vec1()?)
}
// ANCHOR_END: gather

fn gather(out: &mut Output, device: &Device) -> Result<()> {
    out.section(Kind::Exact, "gather", "One number from each row");
    let (log_probs, ids) =
        (Tensor::new(&LOG_PROBS, device)?, Tensor::new(&CHOSEN, device)?);
    let mut table =
        Table::new(["position", "the", "answer", "is", "4", "hello", "probabilities"]);
    for (t, row) in LOG_PROBS.iter().enumerate() {
        let cell = |i: usize| {
            let star = if i as u32 == CHOSEN[t] { "*" } else { " " };
            format!("{:.1}{star}", row[i])
        };
        let total: f64 = row.iter().map(|x| x.exp()).sum();
        let total = format!("{total:.3}");
        table.row([format!("{t}"), cell(0), cell(1), cell(2), cell(3), cell(4), total]);
    }
    println!("{table}");
    let picked = pick(&log_probs, &ids)?;
    let sum: f64 = picked.iter().sum();
    let words = CHOSEN.map(|id| WORDS[id as usize]).join(" ");
    println!(
        "gathered (*): {picked:?}, sum {sum:.1}, probability of `{words}` {:.6}",
        sum.exp()
    );
    let fair = grpo::log_prob::of(&log_probs, &ids)?.to_vec1::<f64>()?;
    let total: f64 = fair.iter().sum();
    let fair = fair.iter().map(|x| format!("{x:.4}")).collect::<Vec<_>>().join(", ");
    println!("read as logits: {fair}, sum {total:.4}, probability {:.6}", total.exp());
    Ok(())
}

/// A policy that reads everything before it, the nearest tokens most: the embeddings of
/// the past, each half as loud as the one after it, then one hidden layer. Its weights
/// start large, so that it is as decided as a trained policy.
struct Recency {
    embedding: Tensor,
    hidden: Linear,
    output: Linear,
    variables: Variables,
}

impl Recency {
    fn new(vocabulary: usize, rng: &mut StdRng, device: &Device) -> Result<Self> {
        let mut init = Init::new(rng, DType::F64, device);
        let embedding = init.normal("embedding", (vocabulary, WIDTH), 1.0)?;
        let mut linear = |name: &str, outputs: usize, inputs: usize| -> Result<Linear> {
            let weight = init.normal(&format!("{name}.weight"), (outputs, inputs), 1.0)?;
            Ok(Linear::new(weight, Some(init.zeros(&format!("{name}.bias"), outputs)?)))
        };
        let hidden = linear("hidden", HIDDEN, WIDTH)?;
        let output = linear("output", vocabulary, HIDDEN)?;
        Ok(Self { embedding, hidden, output, variables: init.finish() })
    }

    /// Ids (B, N) and which of them are tokens and not padding, (B, N) → logits (B, N, V).
    fn read(&self, ids: &Tensor, real: &Tensor) -> Result<Tensor> {
        let (rows, length) = ids.dims2()?;
        let embedded = self.embedding.index_select(&ids.flatten_all()?, 0)?;
        let embedded = embedded.reshape((rows, length, WIDTH))?;
        let loudness =
            |t: usize, s: usize| if s > t { 0.0 } else { 0.5f64.powi((t - s) as i32) };
        let past: Vec<f64> =
            (0..length * length).map(|i| loudness(i / length, i % length)).collect();
        let past = Tensor::from_vec(past, (1, length, length), ids.device())?;
        let past = past.broadcast_mul(&real.to_dtype(DType::F64)?.unsqueeze(1)?)?;
        let context = past.matmul(&embedded)?;
        Ok(self.output.forward(&self.hidden.forward(&context)?.tanh()?)?)
    }
}

impl Policy for Recency {
    fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        self.read(ids, &ids.ones_like()?.to_dtype(DType::U8)?)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}

/// The policy of this run.
fn policy(run: &RunArgs, vocabulary: usize) -> Result<Recency> {
    Recency::new(vocabulary, &mut seed::stream(run.seed, &[vocabulary as u64]), &run.device)
}

/// Completions (B, `length`) of the prompts (B, P), and the log-probability (B, `length`)
/// that each token had when it was drawn.
fn sample(
    policy: &Recency,
    prompts: &Tensor,
    length: usize,
    temperature: f64,
    rng: &mut StdRng,
) -> Result<(Tensor, Tensor)> {
    let (mut sequences, mut log_probs) = (prompts.clone(), Vec::new());
    for _ in 0..length {
        let last = sequences.dim(1)? - 1;
        let logits = policy.logits(&sequences)?.narrow(1, last, 1)?.squeeze(1)?.detach();
        let ids = sampling::sample(&(&logits / temperature)?, rng)?;
        log_probs.push(at_temperature(&logits, &ids, temperature)?.unsqueeze(1)?);
        sequences = Tensor::cat(&[&sequences, &ids.unsqueeze(1)?], 1)?;
    }
    Ok((sequences.narrow(1, prompts.dim(1)?, length)?, Tensor::cat(&log_probs, 1)?))
}

/// Two prompts of 2 and 4 tokens, padded on the `left` or on the right, followed by
/// completions of 3 and 2 tokens, padded on the right. Ids and what is not padding.
fn two_rows(left: bool, device: &Device) -> Result<(Tensor, Tensor)> {
    let (short, long) = ([3, 1], [2, 5, 4, 1]);
    let padded = match left {
        true => [EOS, EOS, short[0], short[1]],
        false => [short[0], short[1], EOS, EOS],
    };
    let prompt_mask = if left { [0u8, 0, 1, 1] } else { [1, 1, 0, 0] };
    let ids = Tensor::new(&[padded, long], device)?;
    let completions = Tensor::new(&[[5, 2, EOS], [4, EOS, EOS]], device)?;
    let lengths = mask::lengths(&completions, EOS)?;
    let real = Tensor::new(&[prompt_mask, [1; 4]], device)?;
    let completion_mask = mask::of_lengths(&lengths, 3, device)?;
    Ok((
        Tensor::cat(&[&ids, &completions], 1)?,
        Tensor::cat(&[&real, &completion_mask], 1)?,
    ))
}

/// The two rows of [`two_rows`], each scored alone and without any padding.
fn alone(policy: &Recency, device: &Device) -> Result<[Vec<f64>; 2]> {
    let one = |ids: &[u32], prompt: usize| -> Result<Vec<f64>> {
        let ids = Tensor::new(ids, device)?.unsqueeze(0)?;
        let scores = completion(&policy.logits(&ids)?, &ids, prompt, TEMPERATURE)?;
        Ok(scores.log_probs.squeeze(0)?.to_vec1()?)
    };
    Ok([one(&[3, 1, 5, 2, EOS], 2)?, one(&[2, 5, 4, 1, 4, EOS], 4)?])
}

/// The rows scored in one batch: log-probabilities (2, 3).
fn together(policy: &Recency, left: bool, device: &Device) -> Result<Vec<Vec<f64>>> {
    let (ids, real) = two_rows(left, device)?;
    let scores = completion(&policy.read(&ids, &real)?, &ids, 4, TEMPERATURE)?;
    Ok(scores.log_probs.to_vec2()?)
}

fn padding(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "padding", "Prompts and completions of different lengths");
    let (ids, real) = two_rows(true, &run.device)?;
    let (ids, real) = (ids.to_vec2::<u32>()?, real.to_dtype(DType::U32)?.to_vec2::<u32>()?);
    println!(
        "prompts padded on the left, completions on the right; EOS and padding are both 0\n"
    );
    for (name, rows) in [("ids ", &ids), ("mask", &real)] {
        for row in rows {
            let (prompt, completion) = row.split_at(4);
            let text =
                |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            println!("{name}  {} | {}", text(prompt), text(completion));
        }
    }
    let policy = policy(run, VOCABULARY)?;
    let alone = alone(&policy, &run.device)?;
    println!("\nlog-probabilities of the completions, one slice for both rows:\n");
    let mut table = Table::new(["scored", "row 0", "", "", "row 1", ""]);
    let rows = [
        ("each row alone", alone.to_vec()),
        ("in one batch, left padding", together(&policy, true, &run.device)?),
        ("in one batch, right padding", together(&policy, false, &run.device)?),
    ];
    for (name, rows) in &rows {
        let at = |row: usize, t: usize| format!("{:.4}", rows[row][t]);
        table.row([(*name).into(), at(0, 0), at(0, 1), at(0, 2), at(1, 0), at(1, 1)]);
    }
    print!("{table}");
    let by_id = |row: &Vec<u32>| row[4..].iter().filter(|&&id| id != EOS).count();
    let by_length = |row: &Vec<u32>| row[4..].iter().filter(|&&keep| keep == 1).count();
    println!(
        "\ntokens that count, by length: {} and {}; by `id != padding`: {} and {}, and no EOS",
        by_length(&real[0]),
        by_length(&real[1]),
        by_id(&ids[0]),
        by_id(&ids[1])
    );
    Ok(())
}

// ANCHOR: scoring
/// Ways to score a completion, of which one is right.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scoring {
    Right,
    NoGradient,
    OffByOne,
    WithPrompt,
    AtTemperature(f64),
}

impl Scoring {
    /// Logits (B, P + T, V) of the sequences (B, P + T) → log-probabilities (B, T).
    fn log_probs(self, logits: &Tensor, sequences: &Tensor) -> Result<Tensor> {
        let score = |logits: &Tensor, prompt, temperature| {
            Ok(completion(logits, sequences, prompt, temperature)?.log_probs)
        };
        let prompt = PROMPT.len();
        match self {
            Self::Right => score(logits, prompt, TEMPERATURE),
            Self::NoGradient => score(&logits.detach(), prompt, TEMPERATURE),
            Self::OffByOne => {
                let length = sequences.dim(1)? - prompt;
                let logits = logits.narrow(1, prompt, length)?;
                let tokens = sequences.narrow(1, prompt, length)?;
                at_temperature(&logits, &tokens, TEMPERATURE)
            }
            Self::WithPrompt => score(logits, 1, TEMPERATURE),
            Self::AtTemperature(other) => score(logits, prompt, other),
        }
    }
}
// ANCHOR_END: scoring

const SCORINGS: [(&str, Scoring); 5] = [
    ("right", Scoring::Right),
    ("no gradient", Scoring::NoGradient),
    ("slice off by one", Scoring::OffByOne),
    ("prompt in the loss", Scoring::WithPrompt),
    ("other temperature", Scoring::AtTemperature(1.0)),
];

/// Every completion there is, behind the prompt: (V^T, P + T).
fn every_sequence(device: &Device) -> Result<Tensor> {
    let count = VOCABULARY.pow(LENGTH as u32);
    let token =
        |code: usize, t: usize| (code / VOCABULARY.pow(t as u32) % VOCABULARY) as u32;
    let ids: Vec<u32> = (0..count)
        .flat_map(|code| PROMPT.into_iter().chain((0..LENGTH).map(move |t| token(code, t))))
        .collect();
    Ok(Tensor::from_vec(ids, (count, PROMPT.len() + LENGTH), device)?)
}

/// What a completion earns: 1 for each token that is larger than the one before it.
fn rewards(sequences: &Tensor) -> Result<Tensor> {
    let now = sequences.narrow(1, PROMPT.len(), LENGTH)?;
    let before = sequences.narrow(1, PROMPT.len() - 1, LENGTH)?;
    Ok(now.gt(&before)?.to_dtype(DType::F64)?.sum(1)?)
}

/// J = Σ π(o) R(o) over every completion, an ordinary function of the weights.
fn expected_reward(policy: &Recency, sequences: &Tensor) -> Result<Tensor> {
    let log_probs = Scoring::Right.log_probs(&policy.logits(sequences)?, sequences)?;
    Ok((log_probs.sum(1)?.exp()? * rewards(sequences)?)?.sum_all()?)
}

/// How often the sampler writes each completion, times its advantage R − b.
fn weights(policy: &Recency, sequences: &Tensor, baseline: f64) -> Result<Tensor> {
    let log_probs = Scoring::Right.log_probs(&policy.logits(sequences)?, sequences)?;
    Ok((log_probs.sum(1)?.exp()?.detach() * (rewards(sequences)? - baseline)?)?)
}

/// The mean loss −A log π(o) of sampled completions, by their `weights`, with the
/// log-probabilities that `scoring` gathers.
fn mean_loss(policy: &Recency, scoring: Scoring, weights: &Tensor) -> Result<Tensor> {
    let sequences = every_sequence(policy.embedding.device())?;
    let log_probs = scoring.log_probs(&policy.logits(&sequences)?, &sequences)?;
    Ok((log_probs.sum(1)? * weights)?.sum_all()?.neg()?)
}

/// All gradients in one row, in the order of the names; `None` where there is none.
fn flat(loss: &Tensor, variables: &Variables) -> Result<Option<Vec<f64>>> {
    let gradients = loss.backward()?;
    let mut all = Vec::new();
    for variable in variables.values() {
        let Some(gradient) = gradients.get(variable) else { return Ok(None) };
        all.extend(gradient.flatten_all()?.to_vec1::<f64>()?);
    }
    Ok(Some(all))
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The cosine of the angle between two gradients: 1 where they agree in direction.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b))
}

/// The exact gradient of −J, and J.
fn truth(policy: &Recency) -> Result<(Vec<f64>, f64)> {
    let sequences = every_sequence(policy.embedding.device())?;
    let j = expected_reward(policy, &sequences)?;
    let gradient = flat(&j.neg()?, policy.variables())?.context("J has no gradient")?;
    Ok((gradient, j.to_scalar()?))
}

// ANCHOR: fresh
/// log π − log π_old of 64 completions that were just sampled, (64, T). Nothing has
/// moved yet, so every number must be 0.
fn fresh(policy: &Recency, scoring: Scoring, rng: &mut StdRng) -> Result<Tensor> {
    let prompts = Tensor::new(&[PROMPT; 64], policy.embedding.device())?;
    let (tokens, old) = sample(policy, &prompts, LENGTH, TEMPERATURE, rng)?;
    let sequences = Tensor::cat(&[&prompts, &tokens], 1)?;
    let log_probs = scoring.log_probs(&policy.logits(&sequences)?, &sequences)?;
    // With the prompt in the loss there are more columns than tokens were sampled.
    let log_probs = log_probs.narrow(1, log_probs.dim(1)? - LENGTH, LENGTH)?;
    Ok((log_probs.detach() - old)?)
}
// ANCHOR_END: fresh

fn mistakes(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "mistakes", "One right way and four wrong ones, exactly");
    let policy = policy(run, VOCABULARY)?;
    let (exact, j) = truth(&policy)?;
    let sequences = every_sequence(&run.device)?;
    let (raw, centred) =
        (weights(&policy, &sequences, 0.0)?, weights(&policy, &sequences, j)?);
    println!(
        "loss and gradient are means over all 216 completions; the expected reward is {j:.4}\n"
    );
    let mut table = Table::new([
        "scoring",
        "loss",
        "gradients",
        "fresh ratio",
        "cosine, raw",
        "cosine, centred",
    ]);
    for (name, scoring) in SCORINGS {
        let loss = mean_loss(&policy, scoring, &raw)?;
        let cosine_of = |loss: &Tensor| -> Result<String> {
            let gradient = flat(loss, policy.variables())?;
            Ok(gradient.map_or("none".into(), |g| format!("{:.4}", cosine(&g, &exact))))
        };
        let reached = loss.backward()?;
        let reached =
            policy.variables().values().filter(|v| reached.get(v).is_some()).count();
        let ratios = fresh(&policy, scoring, &mut seed::stream(run.seed, &[1]))?.exp()?;
        let [low, high] = [ratios.min_all()?, ratios.max_all()?];
        let (low, high) = (low.to_scalar::<f64>()?, high.to_scalar::<f64>()?);
        table.row([
            name.into(),
            format!("{:.4}", loss.to_scalar::<f64>()?),
            format!("{reached} of {}", policy.variables().len()),
            format!("{:.2} to {:.2}", low, high),
            cosine_of(&loss)?,
            cosine_of(&mean_loss(&policy, scoring, &centred)?)?,
        ]);
    }
    print!("{table}");
    let loss = mean_loss(&policy, Scoring::NoGradient, &raw)?;
    if let Err(error) = gradients::of(&loss, policy.variables()) {
        let error = error.to_string().replace(": ", ":\n");
        println!("\nthe canary, on the second row: {error}");
    }
    Ok(())
}

/// How strongly the loss of one completion pulls at the logits of each position.
fn pull(scoring: Scoring, logits: &Tensor, sequence: &Tensor) -> Result<Vec<f64>> {
    let logits = Var::from_tensor(logits)?;
    let loss = scoring.log_probs(&logits, sequence)?.sum_all()?.neg()?;
    let gradients = loss.backward()?;
    let Some(gradient) = gradients.get(&logits) else {
        return Ok(vec![0.0; sequence.dim(1)?]);
    };
    Ok(gradient.sqr()?.sum(D::Minus1)?.sqrt()?.squeeze(0)?.to_vec1()?)
}

fn positions(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "positions", "Which positions get a gradient");
    let policy = policy(run, VOCABULARY)?;
    let sequence = Tensor::new(&[[1u32, 4, 2, 5, 3, 4]], &run.device)?;
    let logits = policy.logits(&sequence)?.detach();
    let mut table = Table::new(["scoring", "p0", "p1", "p2", "o0", "o1", "o2"]);
    let mut panels = Vec::new();
    for (name, scoring) in [SCORINGS[0], SCORINGS[2], SCORINGS[3]] {
        let pull = pull(scoring, &logits, &sequence)?;
        let [a, b, c, d, e, f] = std::array::from_fn(|i| format!("{:.2}", pull[i]));
        table.row([name.into(), a, b, c, d, e, f]);
        let bars: Vec<_> = pull.iter().enumerate().map(|(i, p)| (i as f64, *p)).collect();
        let panel = Panel::new("position", "length of the gradient")
            .title(name)
            .categories(["p₀", "p₁", "p₂", "o₀", "o₁", "o₂"])
            .y_range(0.0, 2.2)
            .bars(if scoring == Scoring::Right { 2 } else { 1 }, "", 0.6, &bars);
        panels.push(panel);
    }
    print!("{table}");
    let figure = Figure::new(
        "Which positions get a gradient, right and wrong",
        "Scored rightly, the logits at the last prompt token and at all but the last completion \
         token are pulled. Off by one, those at the completion tokens. With the prompt in the \
         loss, all but the last.",
        panels,
    );
    out.figure("positions", &figure)
}

// ANCHOR: tokenizer
/// What the tokenizer is trained on.
const TEXT: [&str; 4] = [
    "what is 15 * 23? the answer is 345",
    "what is 20 * 17? the answer is 340",
    "what is 3 * 11? the answer is 33",
    "what is 34 * 10? the answer is 340",
];

/// A byte-pair tokenizer as GPT-2 has it. Within a word, and a word includes the space
/// before it, the most frequent neighbours are merged again and again.
fn tokenizer() -> Result<Tokenizer> {
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(48)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<eos>", true)])
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), TEXT.into_iter())
        .map_err(anyhow::Error::msg)?;
    Ok(tokenizer)
}
// ANCHOR_END: tokenizer

/// The ids of a text.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false).map_err(anyhow::Error::msg)?.get_ids().to_vec())
}

// ANCHOR: retokenise
/// What the notebook does: to text, behind the prompt, and back to ids. Returns what it
/// then takes for the completion: everything after as many ids as the prompt alone has.
fn through_text(tokenizer: &Tokenizer, prompt: &str, ids: &[u32]) -> Result<Vec<u32>> {
    let text = tokenizer.decode(ids, true).map_err(anyhow::Error::msg)?;
    let together = encode(tokenizer, &format!("{prompt}{text}"))?;
    let boundary = encode(tokenizer, prompt)?.len();
    Ok(together.get(boundary..).unwrap_or_default().to_vec())
}
// ANCHOR_END: retokenise

const QUESTION: &str = "what is 15 * 23? the answer is ";

/// The pieces of `ids`, with a mark between them and `_` for a space.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let piece = |&id| tokenizer.id_to_token(id).unwrap_or_default().replace('Ġ', "_");
    ids.iter().map(piece).collect::<Vec<_>>().join("|")
}

/// The id of a token that the tokenizer knows.
fn id_of(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer.token_to_id(token).with_context(|| format!("there is no token `{token}`"))
}

/// A policy's completions of the question: how many there are, and of how many the text
/// comes back as the ids that were sampled (EOS aside).
fn round_trips(
    tokenizer: &Tokenizer,
    policy: &Recency,
    rng: &mut StdRng,
) -> Result<[usize; 2]> {
    let (prompt, count) = (encode(tokenizer, QUESTION)?, 256);
    let prompts = Tensor::new(prompt, policy.embedding.device())?.unsqueeze(0)?;
    let prompts = prompts.broadcast_as((count, prompts.dim(1)?))?.contiguous()?;
    let (tokens, _) = sample(policy, &prompts, 4, 1.0, rng)?;
    let mut kept = 0;
    for row in tokens.to_vec2::<u32>()? {
        kept += usize::from(through_text(tokenizer, QUESTION, &row)? == row);
    }
    Ok([kept, count])
}

fn retokenised(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "retokenised", "Through text and back");
    let tokenizer = tokenizer()?;
    let prompt = encode(&tokenizer, QUESTION)?;
    let mut sampled = Vec::new();
    for token in ["3", "4", "5", "<eos>"] {
        sampled.push(id_of(&tokenizer, token)?);
    }
    let text = tokenizer.decode(&sampled, true).map_err(anyhow::Error::msg)?;
    let together = encode(&tokenizer, &format!("{QUESTION}{text}"))?;
    let read = through_text(&tokenizer, QUESTION, &sampled)?;
    println!(
        "{} tokens in the vocabulary; `_` is a space\n",
        tokenizer.get_vocab_size(true)
    );
    let (before, after) = (pieces(&tokenizer, &prompt), pieces(&tokenizer, &sampled));
    println!("prompt       {before}  ({} tokens)", prompt.len());
    println!("sampled      {after}  ({} tokens)", sampled.len());
    println!("as one text  {}  ({} tokens)", pieces(&tokenizer, &together), together.len());
    println!("completion, by the length of the prompt: `{}`\n", pieces(&tokenizer, &read));
    let policy = policy(run, tokenizer.get_vocab_size(true))?;
    let score = |completion: &[u32], prompt: &[u32]| -> Result<String> {
        let ids = Tensor::new([prompt, completion].concat(), &run.device)?.unsqueeze(0)?;
        let scores = completion_of(&policy, &ids, prompt.len())?;
        Ok(format!("{scores:.4}"))
    };
    println!("log-probability of what was sampled: {}", score(&sampled, &prompt)?);
    let start = prompt.len() - 1;
    println!(
        "of the same text in other tokens: {}",
        score(&together[start..], &together[..start])?
    );
    let rng = &mut seed::stream(run.seed, &[3]);
    let [kept, count] = round_trips(&tokenizer, &policy, rng)?;
    println!(
        "of {count} completions of an untrained policy, {kept} come back as they were"
    );
    Ok(())
}

/// The log-probability of everything behind the first `prompt` ids, at temperature 1.
fn completion_of(policy: &Recency, ids: &Tensor, prompt: usize) -> Result<f64> {
    let scores = completion(&policy.logits(ids)?, ids, prompt, 1.0)?;
    Ok(scores.log_probs.sum_all()?.to_scalar()?)
}

/// For completions sampled at [`TEMPERATURE`] and scored at another: the share of tokens
/// whose ratio is outside 0.8 ..= 1.2, and the cosine of the gradient with the exact one.
fn scored_at(policy: &Recency, temperature: f64) -> Result<(f64, f64)> {
    let sequences = every_sequence(policy.embedding.device())?;
    let logits = policy.logits(&sequences)?.detach();
    let old = Scoring::Right.log_probs(&logits, &sequences)?;
    let scoring = Scoring::AtTemperature(temperature);
    let ratio = (scoring.log_probs(&logits, &sequences)? - &old)?.exp()?;
    let outside = (ratio - 1.0)?.abs()?.gt(0.2)?.to_dtype(DType::F64)?.mean(1)?;
    let outside = (outside * old.sum(1)?.exp()?)?.sum_all()?.to_scalar()?;
    let (exact, j) = truth(policy)?;
    let loss = mean_loss(policy, scoring, &weights(policy, &sequences, j)?)?;
    let gradient = flat(&loss, policy.variables())?.context("no gradient")?;
    Ok((outside, cosine(&gradient, &exact)))
}

fn temperature(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "temperature", "Sampled at 0.7, scored at something else");
    let policy = policy(run, VOCABULARY)?;
    let mut table = Table::new(["scored at", "ratio outside 0.8..1.2", "cosine, centred"]);
    let (mut outside, mut cosines) = (Vec::new(), Vec::new());
    for i in 0..=24 {
        let temperature = 0.4 + 0.05 * f64::from(i);
        let (share, cosine) = scored_at(&policy, temperature)?;
        outside.push((temperature, 100.0 * share));
        cosines.push((temperature, cosine));
        if [0, 3, 6, 9, 12, 24].contains(&i) {
            let share = format!("{:.1}%", 100.0 * share);
            table.row([format!("{temperature:.2}"), share, format!("{cosine:.4}")]);
        }
    }
    print!("{table}");
    let panel = |label: &str, colour: usize, curve: &[(f64, f64)]| {
        let here = curve.iter().filter(|p| (p.0 - TEMPERATURE).abs() < 1e-9).copied();
        Panel::new("temperature of scoring", label).line(colour, "", curve).points(
            2,
            "temperature of sampling",
            &here.collect::<Vec<_>>(),
        )
    };
    let figure = Figure::new(
        "Scoring at another temperature than sampling",
        "Left: the share of fresh tokens outside the clip range is zero at the sampler's \
         temperature of 0.7 and rises to both sides. Right: the cosine with the exact gradient \
         is one at 0.7 and falls to both sides.",
        vec![
            panel("fresh tokens outside the clip range, %", 1, &outside),
            panel("cosine with the exact gradient", 0, &cosines),
        ],
    );
    out.figure("temperature", &figure)
}

/// For each variable, how far autograd is from finite differences at most.
fn largest_differences(policy: &Recency) -> Result<Vec<(String, usize, f64)>> {
    let sequences = every_sequence(policy.embedding.device())?;
    // How often a completion is sampled is no part of the loss: it stands still.
    let weights = weights(policy, &sequences, 0.0)?;
    let loss = || mean_loss(policy, Scoring::Right, &weights);
    let slow = gradients::finite_differences(policy.variables(), 1e-5, loss)?;
    let fast = gradients::of(&loss()?, policy.variables())?;
    let mut differences = Vec::new();
    for (name, variable) in policy.variables() {
        let fast =
            fast.get(variable).context("no gradient")?.flatten_all()?.to_vec1::<f64>()?;
        let apart =
            fast.iter().zip(&slow[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        differences.push((name.clone(), fast.len(), apart));
    }
    Ok(differences)
}

fn differences(out: &mut Output, run: &RunArgs) -> Result<()> {
    out.section(Kind::Exact, "differences", "Autograd against finite differences");
    let mut table = Table::new(["variable", "numbers", "largest difference"]);
    for (name, numbers, apart) in largest_differences(&policy(run, VOCABULARY)?)? {
        let verdict = if apart < 1e-8 { "below 1e-8" } else { "ABOVE 1e-8" };
        table.row([name, format!("{numbers}"), verdict.into()]);
    }
    print!("{table}");
    Ok(())
}
