//! What the exercises of chapter 5 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;
#[cfg(test)]
mod someone;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use grpo::{
    gradients,
    log_prob::Scores,
    policy::Policy,
    seed,
    variables::{Init, Variables},
};
use std::{cell::Cell, ops::Range};

exercise::checks! {
    which_logits => which_logits(which_logits);
    at_temperature => at_temperature(at_temperature);
    completion => completion(completion);
    completion_mask => completion_mask(completion_mask);
    repaired => repaired(repaired);
    batch => batch(batch);
}

const CPU: Device = Device::Cpu;
/// End of sequence, and padding.
const EOS: u32 = 0;
const VOCABULARY: usize = 7;
const TEMPERATURE: f64 = 0.7;

/// log π(`id`) of one row of logits, in plain numbers.
fn log_prob(row: &[f64], id: u32, temperature: f64) -> f64 {
    let chosen = row[id as usize] / temperature;
    -row.iter().map(|z| (z / temperature - chosen).exp()).sum::<f64>().ln()
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

/// Passes when `found` is `right`, and otherwise says which mistake gives these numbers.
fn diagnose(found: &[f64], right: &[f64], turns: &[(Vec<f64>, &str)]) -> Result<()> {
    if close(found, right) {
        return Ok(());
    }
    let why = turns.iter().find(|(numbers, _)| close(found, numbers));
    let why = why.map_or("", |(_, why)| why);
    bail!("the log-probabilities must be {right:.4?}; yours are {found:.4?}{why}")
}

fn which_logits(yours: fn(usize, usize) -> Range<usize>) -> Result<()> {
    for (prompt, length) in [(4, 3), (1, 5), (7, 1)] {
        let Range { start, end } = yours(prompt, length);
        let asked = format!("prompt {prompt}, completion {length}");
        ensure!(
            start != prompt || end != prompt + length,
            "{asked}: {start}..{end} are the places of the tokens themselves. The logits there \
             have already read the token; which position speaks about it?"
        );
        ensure!(
            end != prompt + length,
            "{asked}: yours end with position {}, which speaks about a token that was never \
             written",
            end - 1
        );
        ensure!(
            end.wrapping_sub(start) == length,
            "{asked}: {length} tokens need {length} positions, and {start}..{end} is another \
             number of them"
        );
        ensure!(
            start == prompt - 1,
            "{asked}: the first token of the completion stands at {prompt}; your first \
             position, {start}, does not speak about it"
        );
    }
    for length in [5, 1] {
        let found = yours(0, length);
        ensure!(
            found == (0..length - 1),
            "no prompt, completion {length}: nobody speaks about the first token, so that \
             {} positions are left, from 0; yours are {found:?}",
            length - 1
        );
    }
    Ok(())
}

/// Numbers between −2 and 2, the same in every run.
fn noise(shape: &[usize], stream: u64) -> Result<Tensor> {
    let mut init = Init::new(&mut seed::stream(5, &[stream]), DType::F64, &CPU)
        .normal("noise", shape, 1.0)?;
    init = init.detach();
    Ok(init.clamp(-2.0, 2.0)?)
}

fn at_temperature(yours: fn(&Tensor, &Tensor, f64) -> Result<Tensor>) -> Result<()> {
    let logits = noise(&[3, 5], 0)?;
    let rows = logits.to_vec2::<f64>()?;
    let ids = [1u32, 4, 0];
    let score = |of: &dyn Fn(&[f64], u32) -> f64| -> Vec<f64> {
        rows.iter().zip(ids).map(|(row, id)| of(row, id)).collect()
    };
    let found = yours(&logits, &Tensor::new(&ids, &CPU)?, TEMPERATURE)?;
    ensure!(
        found.dims() == [3],
        "logits (3, 5) and ids (3) must give (3); yours have the shape {:?}: `gather` leaves a \
         last dimension of 1, did you squeeze it?",
        found.dims()
    );
    let right = score(&|row, id| log_prob(row, id, TEMPERATURE));
    let turns = [
        (
            score(&|row, id| log_prob(row, id, 1.0)),
            ": these are those at temperature 1. Divide the logits by the temperature",
        ),
        (
            score(&|row, id| log_prob(row, id, 1.0) / TEMPERATURE),
            ": divide the logits by the temperature, before the softmax and not after it",
        ),
        (
            score(&|row, id| log_prob(row, id, 1.0 / TEMPERATURE)),
            ": did you multiply the logits by the temperature?",
        ),
        (
            score(&|row, id| row[id as usize] / TEMPERATURE),
            ": these are logits, any numbers. Subtract the logarithm of the row's sum of \
             exponentials",
        ),
        (
            score(&|row, id| log_prob(row, id, TEMPERATURE).exp()),
            ": these are probabilities, and their logarithm is asked for",
        ),
    ];
    diagnose(&found.to_vec1::<f64>()?, &right, &turns)?;
    any_dimensions(yours)?;
    let large = Tensor::new(&[[1000f64, 999.0, 0.0]], &CPU)?;
    let found = yours(&large, &Tensor::new(&[0u32], &CPU)?, 1.0)?.to_vec1::<f64>()?[0];
    ensure!(
        (found + 0.313_262).abs() < 1e-5,
        "logits 1000, 999, 0: the first has the log-probability −0.3133; yours is {found}. \
         exp(1000) is infinite: subtract the largest logit of a row first, or use an operation \
         that does"
    );
    gradient_of_a_table(yours)?;
    let (wide, wide_ids) =
        (noise(&[2, 4, 5], 6)?, Tensor::new(&[[0u32, 3, 1, 4]; 2], &CPU)?);
    yours(&wide.narrow(1, 0, 2)?, &wide_ids.narrow(1, 1, 2)?, 1.0).context(
        "logits and ids cut out of wider tensors by `narrow`: `.contiguous()?` makes a copy \
         that every operation takes",
    )?;
    Ok(())
}

fn any_dimensions(yours: fn(&Tensor, &Tensor, f64) -> Result<Tensor>) -> Result<()> {
    let logits = noise(&[2, 3, 4], 1)?;
    let ids = Tensor::new(&[[0u32, 3, 1], [2, 2, 0]], &CPU)?;
    let found = yours(&logits, &ids, 1.0).context(
        "logits (2, 3, 4) and ids (2, 3): is your dimension counted from the end?",
    )?;
    let (rows, ids) = (logits.to_vec3::<f64>()?, ids.to_vec2::<u32>()?);
    ensure!(
        found.dims() == [2, 3],
        "logits (2, 3, 4) and ids (2, 3) must give (2, 3); yours have the shape {:?}",
        found.dims()
    );
    for (row, found) in found.to_vec2::<f64>()?.iter().enumerate() {
        let right: Vec<f64> =
            (0..3).map(|t| log_prob(&rows[row][t], ids[row][t], 1.0)).collect();
        let why = ". With two dimensions they were right: is a dimension counted from the \
                   front?";
        ensure!(
            close(found, &right),
            "logits (2, 3, 4), row {row}: the log-probabilities must be {right:.4?}; yours are \
             {found:.4?}{why}"
        );
    }
    Ok(())
}

fn gradient_of_a_table(yours: fn(&Tensor, &Tensor, f64) -> Result<Tensor>) -> Result<()> {
    let logits = Var::from_tensor(&noise(&[3, 5], 2)?)?;
    let variables = Variables::from([("logits".to_owned(), logits.clone())]);
    let ids = Tensor::new(&[2u32, 0, 4], &CPU)?;
    let weights = Tensor::new(&[1.0, -2.0, 0.5], &CPU)?;
    let loss = || Ok((yours(&logits, &ids, TEMPERATURE)? * &weights)?.sum_all()?);
    gradients_agree(&variables, loss)
}

/// Every variable has a gradient, and it is the one of finite differences.
fn gradients_agree(variables: &Variables, loss: impl Fn() -> Result<Tensor>) -> Result<()> {
    let fast = gradients::of(&loss()?, variables).context(
        "the values are right and the gradient is lost: is there a `detach`, a way through \
         plain numbers, or an operation without a backward pass such as `softmax_last_dim`?",
    )?;
    let slow = gradients::finite_differences(variables, 1e-5, loss)?;
    for (name, variable) in variables {
        let fast = fast.get(variable).context("no gradient")?.flatten_all()?.to_vec1()?;
        ensure!(
            close(&fast, &slow[name]),
            "the gradient of {name} must be {:.4?}, by finite differences; yours is {fast:.4?}: \
             did a part of the formula lose its gradient?",
            slow[name]
        );
    }
    Ok(())
}

type Completion = fn(&Tensor, &Tensor, usize, f64) -> Result<Scores>;

fn completion(yours: Completion) -> Result<()> {
    let ids = [[3u32, 1, 2, 0, 4, 1], [2, 2, 4, 1, 0, 3]];
    let sequences = Tensor::new(&ids, &CPU)?;
    let logits = noise(&[2, 6, 5], 3)?;
    let rows = logits.to_vec3::<f64>()?;
    for prompt in [2, 1, 5] {
        let length = 6 - prompt;
        let found = yours(&logits, &sequences, prompt, TEMPERATURE)
            .with_context(|| format!("sequences of 6 tokens, prompt_length {prompt}"))?
            .log_probs;
        ensure!(
            found.dims() == [2, length],
            "2 sequences of 6 tokens with a prompt of {prompt} must give (2, {length}); yours \
             have the shape {:?}: only tokens of the completion count, and all of them",
            found.dims()
        );
        for (row, found) in found.to_vec2::<f64>()?.iter().enumerate() {
            let score = |before: usize, temperature: f64| -> Vec<f64> {
                (prompt..6)
                    .map(|t| log_prob(&rows[row][t - before], ids[row][t], temperature))
                    .collect()
            };
            let own_token =
                (prompt - 1..5).map(|t| log_prob(&rows[row][t], ids[row][t], TEMPERATURE));
            let turns = [
                (
                    score(0, TEMPERATURE),
                    ": each token is scored by the logits at its own place, which have already \
                     read it. Take them one place earlier",
                ),
                (score(1, 1.0), ": right but for the temperature"),
                (
                    own_token.collect(),
                    ": the logits begin at the right place, and the tokens one too early: the \
                     first token of the completion stands at prompt_length",
                ),
            ];
            diagnose(found, &score(1, TEMPERATURE), &turns)
                .with_context(|| format!("prompt of {prompt} tokens, row {row}"))?;
        }
    }
    let logits = Var::from_tensor(&noise(&[2, 6, 5], 4)?)?;
    let variables = Variables::from([("logits".to_owned(), logits.clone())]);
    gradients_agree(&variables, || {
        Ok(yours(&logits, &sequences, 3, TEMPERATURE)?.log_probs.sqr()?.sum_all()?)
    })
}

fn completion_mask(yours: fn(&Tensor, u32) -> Result<Tensor>) -> Result<()> {
    let cases: [(&[u32], &[u8], &str); 5] = [
        (&[7, 8, 9], &[1, 1, 1], "a row without EOS counts as a whole"),
        (
            &[5, EOS, EOS],
            &[1, 1, 0],
            "the first EOS was written by the policy and counts: a model whose EOS is masked \
             out never learns to stop",
        ),
        (&[EOS, EOS, EOS], &[1, 0, 0], "a completion can be an EOS and nothing else"),
        (&[6, 4, EOS], &[1, 1, 1], "an EOS in the last column counts as well"),
        (&[6, EOS, 4], &[1, 1, 0], "nothing after the first EOS counts, whatever it is"),
    ];
    let ids: Vec<&[u32]> = cases.iter().map(|case| case.0).collect();
    let mask = yours(&Tensor::new(ids.concat(), &CPU)?.reshape((5, 3))?, EOS)?;
    ensure!(
        mask.dims() == [5, 3] && mask.dtype() == DType::U8,
        "ids (5, 3) must give a mask (5, 3) of dtype U8; yours is {:?} of dtype {:?}",
        mask.dims(),
        mask.dtype()
    );
    for ((ids, right, why), found) in cases.iter().zip(mask.to_vec2::<u8>()?) {
        ensure!(
            found == *right,
            "ids {ids:?}, EOS 0: the mask must be {right:?} and yours is {found:?}: {why}"
        );
    }
    let mask = yours(&Tensor::new(&[[0u32, 2, 9, 9]], &CPU)?, 9)?.to_vec2::<u8>()?;
    ensure!(
        mask == [[1, 1, 1, 0]],
        "ids [0, 2, 9, 9], EOS 9: the mask must be [1, 1, 1, 0] and yours is {:?}: EOS is not \
         always 0",
        mask[0]
    );
    Ok(())
}

/// A policy that reads the past with fading loudness and skips padding.
struct Small {
    embedding: Tensor,
    output: Tensor,
    variables: Variables,
}

impl Small {
    fn new(stream: u64) -> Result<Self> {
        let mut rng = seed::stream(55, &[stream]);
        let mut init = Init::new(&mut rng, DType::F64, &CPU);
        let embedding = init.normal("embedding", (VOCABULARY, 3), 1.0)?;
        let output = init.normal("output", (3, VOCABULARY), 1.0)?;
        Ok(Self { embedding, output, variables: init.finish() })
    }

    /// Ids (B, N) and which are no padding, (B, N) → logits (B, N, V).
    fn read(&self, ids: &Tensor, real: &Tensor) -> Result<Tensor> {
        let (rows, length) = ids.dims2()?;
        let past: Vec<f64> = (0..length * length)
            .map(|i| (i / length, i % length))
            .map(|(t, s)| if s > t { 0.0 } else { 0.6f64.powi((t - s) as i32) })
            .collect();
        let past = Tensor::from_vec(past, (1, length, length), &CPU)?
            .broadcast_mul(&real.to_dtype(DType::F64)?.unsqueeze(1)?)?;
        let embedded = self.embedding.index_select(&ids.flatten_all()?, 0)?;
        let context = past.matmul(&embedded.reshape((rows, length, 3))?)?.tanh()?;
        Ok(context.broadcast_matmul(&self.output)?)
    }

    /// The log-probability that each token of `completion` had when it was sampled: one
    /// token at a time, with nothing behind it. `seen`: how many tokens too many it reads.
    fn sampled(&self, prompt: &[u32], completion: &[u32], t: f64, seen: usize) -> Vec<f64> {
        let row = [prompt, completion].concat();
        (prompt.len()..row.len())
            .map(|at| {
                let past = Tensor::new(&row[..at + seen], &CPU).unwrap();
                let logits = self.logits(&past.unsqueeze(0).unwrap()).unwrap();
                let logits = logits.squeeze(0).unwrap().to_vec2::<f64>().unwrap();
                log_prob(&logits[at + seen - 1], row[at], t)
            })
            .collect()
    }
}

impl Policy for Small {
    fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        self.read(ids, &ids.ones_like()?.to_dtype(DType::U8)?)
    }

    fn variables(&self) -> &Variables {
        &self.variables
    }
}

/// What the tokens of the toy tokenizer spell. EOS spells nothing.
const PIECES: [&str; VOCABULARY] = ["", "a", "b", " ", "ab", " b", "c"];

fn decode(ids: &[u32]) -> String {
    ids.iter().map(|&id| PIECES[id as usize]).collect()
}

/// Always the longest token that fits, as a byte-pair tokenizer has it in effect.
fn encode(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let fits = |&id: &usize| !PIECES[id].is_empty() && rest.starts_with(PIECES[id]);
        let longest = (0..VOCABULARY).filter(fits).max_by_key(|&id| PIECES[id].len());
        let id = longest.expect("only text of the toy tokenizer is encoded");
        ids.push(id as u32);
        rest = &rest[PIECES[id].len()..];
    }
    ids
}

type Repaired = fn(
    &dyn Policy,
    fn(&str) -> Vec<u32>,
    fn(&[u32]) -> String,
    &[u32],
    &[u32],
    f64,
) -> Result<Tensor>;

fn repaired(yours: Repaired) -> Result<()> {
    // The first pair survives the trip through text, but for its EOS. In the others tokens
    // merge: within the completion, and over the boundary.
    let cases: [(&[u32], &[u32]); 3] = [
        (&[6, 3, 1], &[6, 3, 6, EOS]),
        (&[6, 1], &[1, 2, 6, EOS]),
        (&[6, 3], &[2, 2, EOS]),
    ];
    for (at, (prompt, completion)) in cases.into_iter().enumerate() {
        let (p, t) = (prompt.len(), completion.len());
        let policy = Small::new(at as u64)?;
        let loss = || yours(&policy, encode, decode, prompt, completion, TEMPERATURE);
        let found = loss().with_context(|| format!("prompt {prompt:?}, {completion:?}"))?;
        let n = found.elem_count();
        let asked = format!("a prompt of {p} tokens and a completion of {t}");
        ensure!(
            n <= t,
            "{asked}: yours are {n} numbers. The policy did not choose the prompt: its tokens \
             do not belong here"
        );
        ensure!(
            n != t - 1 || at > 0,
            "{asked}: yours are {n} numbers. Is the EOS gone? `decode` leaves it out"
        );
        ensure!(
            n == t && found.rank() == 1,
            "{asked} must give ({t}); yours have the shape {:?}. The ids went through text, and \
             {:?} came back as {:?}",
            found.dims(),
            [prompt, completion].concat(),
            encode(&(decode(prompt) + &decode(completion))),
        );
        let other = |t, seen| policy.sampled(prompt, completion, t, seen);
        let turns = [
            (
                other(TEMPERATURE, 1),
                ": each token is scored by logits that have already read it",
            ),
            (
                other(1.0, 1),
                ": wrong temperature, and logits that have already read the token",
            ),
            (
                other(1.0, 0),
                ": these are those at temperature 1, and the sampler's was 0.7",
            ),
        ];
        let found = found.to_vec1::<f64>()?;
        diagnose(&found, &other(TEMPERATURE, 0), &turns)
            .with_context(|| format!("ids {prompt:?} and {completion:?}"))?;
        gradients_agree(&policy.variables, || Ok(loss()?.sum_all()?))?;
    }
    // Above 1 and below it, the temperature is what it is.
    let policy = Small::new(9)?;
    let (prompt, completion) = ([1, 6], [2, EOS]);
    let found =
        yours(&policy, encode, decode, &prompt, &completion, 1.6)?.to_vec1::<f64>()?;
    diagnose(&found, &policy.sampled(&prompt, &completion, 1.6, 0), &[])
        .context("at temperature 1.6")
}

type Read<'a> = &'a dyn Fn(&Tensor, &Tensor) -> Result<Tensor>;
type Batch = fn(Read, &[Vec<u32>], &[Vec<u32>], u32, f64) -> Result<(Tensor, Tensor)>;

fn batch(yours: Batch) -> Result<()> {
    let prompts = [vec![3, 1], vec![2, 5, 4, 1], vec![6]];
    let completions = [vec![5, 2, EOS], vec![4, EOS], vec![1, 1, 2, EOS]];
    let policy = Small::new(20)?;
    let calls = Cell::new(0);
    let call = |read: Read| yours(read, &prompts, &completions, EOS, TEMPERATURE);
    let (found, mask) = call(&|ids, real| {
        calls.set(calls.get() + 1);
        policy.read(ids, real)
    })?;
    ensure!(
        calls.get() == 1,
        "`read` was called {} times; one rectangle holds all rows",
        calls.get()
    );
    ensure!(
        found.dims() == [3, 4] && mask.dims() == [3, 4] && mask.dtype() == DType::U8,
        "the longest of three completions has 4 tokens, so both are (3, 4) and the mask is U8; \
         yours are {:?}, and {:?} of {:?}",
        found.dims(),
        mask.dims(),
        mask.dtype()
    );
    let (found, mask) = (found.to_vec2::<f64>()?, mask.to_vec2::<u8>()?);
    for row in 0..3 {
        let length = completions[row].len();
        let right: Vec<u8> = (0..4).map(|t| u8::from(t < length)).collect();
        ensure!(
            mask[row] == right,
            "the mask of a completion of {length} tokens must be {right:?}, its EOS with it; \
             yours is {:?}",
            mask[row]
        );
        let alone = policy.sampled(&prompts[row], &completions[row], TEMPERATURE, 0);
        ensure!(
            close(&found[row][..length], &alone),
            "row {row} alone has {alone:.4?}, and in your batch {:.4?}: is its prompt padded on \
             the left, and its padding hidden from `read`?",
            &found[row][..length]
        );
        ensure!(
            found[row][length..].iter().all(|&x| x == 0.0),
            "row {row} has {length} tokens; behind them must be 0, and yours has {:.4?}",
            &found[row][length..]
        );
    }
    // The logits of padding mean nothing, and here they are NaN.
    let (found, _) = call(&|ids, real| {
        let logits = policy.read(ids, real)?;
        let real = real.unsqueeze(2)?.broadcast_as(logits.shape())?.contiguous()?;
        Ok(real.where_cond(&logits, &(logits.zeros_like()? / 0.0)?)?)
    })?;
    ensure!(
        found.sum_all()?.to_scalar::<f64>()?.is_finite(),
        "with NaN as the logits of padding your log-probabilities have NaN in them: 0 times NaN \
         is NaN, so that a mask must select and not multiply"
    );
    gradients_agree(&policy.variables, || {
        let (log_probs, _) = call(&|ids, real| policy.read(ids, real))?;
        Ok(log_probs.sqr()?.sum_all()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::D;
    use solutions as right;

    fn says(check: Result<()>, words: &str) {
        let message = format!("{:#}", check.unwrap_err());
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn wrong_positions_are_told_apart() {
        says(which_logits(|p, t| p..p + t), "places of the tokens themselves");
        says(which_logits(|p, t| p - 1..p + t), "never written");
        says(which_logits(|p, t| p..p + t - 1), "another number");
        says(which_logits(|p, t| 0..p + t - 1), "another number");
        says(which_logits(|p, t| p.max(1) - 1..p.max(1) + t - 1), "nobody speaks");
    }

    #[test]
    fn wrong_gathers_are_told_apart() {
        says(
            at_temperature(|z, ids, _| right::at_temperature(z, ids, 1.0)),
            "temperature 1",
        );
        says(
            at_temperature(|z, ids, t| Ok((right::at_temperature(z, ids, 1.0)? / t)?)),
            "not after it",
        );
        says(
            at_temperature(|z, ids, t| right::at_temperature(z, ids, 1.0 / t)),
            "multiply",
        );
        says(
            at_temperature(|z, ids, t| {
                Ok((z
                    .gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?
                    .squeeze(D::Minus1)?
                    / t)?)
            }),
            "these are logits",
        );
        says(
            at_temperature(|z, ids, t| Ok(right::at_temperature(z, ids, t)?.exp()?)),
            "probabil",
        );
        says(
            at_temperature(|z, ids, t| Ok(right::at_temperature(z, ids, t)?.unsqueeze(1)?)),
            "squeeze",
        );
        says(
            at_temperature(|z, ids, t| {
                let z = (z / t)?;
                let chosen = z.gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?;
                Ok((chosen.squeeze(D::Minus1)? - z.exp()?.sum(D::Minus1)?.log()?)?)
            }),
            "exp(1000) is infinite",
        );
        says(
            at_temperature(|z, ids, t| {
                let table = candle_nn::ops::log_softmax(&(z / t)?, 1)?;
                Ok(table
                    .gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?
                    .squeeze(D::Minus1)?)
            }),
            "from the front",
        );
        says(
            at_temperature(|z, ids, t| right::at_temperature(&z.detach(), ids, t)),
            "is lost",
        );
        says(
            at_temperature(|z, ids, t| {
                let table = candle_nn::ops::softmax_last_dim(&(z / t)?)?.log()?;
                let table = (&table - z.exp()?.detach())?.add(&z.exp()?.detach())?;
                let large = z.max_all()?.to_scalar::<f64>()? > 100.0;
                let table = if large { candle_nn::ops::log_softmax(z, 1)? } else { table };
                Ok(table
                    .gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?
                    .squeeze(D::Minus1)?)
            }),
            "softmax_last_dim",
        );
        says(
            at_temperature(|z, ids, t| {
                let z = (z / t)?;
                let chosen = z.gather(&ids.unsqueeze(D::Minus1)?, D::Minus1)?;
                Ok((chosen.squeeze(D::Minus1)? - z.detach().log_sum_exp(D::Minus1)?)?)
            }),
            "did a part of the formula lose its gradient",
        );
    }

    #[test]
    fn wrong_cuts_are_told_apart() {
        let all =
            |z: &Tensor, ids: &Tensor, _: usize, t: f64| right::completion(z, ids, 1, t);
        says(completion(all), "only tokens of the completion");
        says(completion(|z, ids, p, _| right::completion(z, ids, p, 1.0)), "temperature");
        says(
            completion(|z, ids, p, t| {
                let length = ids.dim(1)? - p;
                let (z, ids) = (z.narrow(1, p, length)?, ids.narrow(1, p, length)?);
                Ok(right::at_temperature(&z, &ids, t)?.into())
            }),
            "at its own place",
        );
        says(
            completion(|z, ids, p, t| {
                let length = ids.dim(1)? - p;
                let (z, ids) = (z.narrow(1, p - 1, length)?, ids.narrow(1, p - 1, length)?);
                Ok(right::at_temperature(&z, &ids, t)?.into())
            }),
            "the tokens one too early",
        );
    }

    #[test]
    fn wrong_masks_are_told_apart() {
        says(completion_mask(|ids, eos| Ok(ids.ne(eos)?)), "never learns to stop");
        says(completion_mask(|ids, _| right::completion_mask(ids, 0)), "not always 0");
        says(
            completion_mask(|ids, eos| {
                Ok(right::completion_mask(ids, eos)?.to_dtype(DType::F32)?)
            }),
            "dtype U8",
        );
        says(
            completion_mask(|ids, eos| {
                // The last EOS in place of the first.
                let keep = |row: &Vec<u32>| {
                    let end = row.iter().rposition(|&id| id == eos).unwrap_or(row.len());
                    (0..row.len()).map(move |t| u8::from(t <= end)).collect::<Vec<_>>()
                };
                let rows = ids.to_vec2::<u32>()?;
                let mask: Vec<u8> = rows.iter().flat_map(keep).collect();
                Ok(Tensor::from_vec(mask, ids.shape(), &CPU)?)
            }),
            "first EOS",
        );
    }

    #[test]
    fn someone_fails_and_each_mistake_alone_does_too() {
        says(repaired(someone::log_probs), "did not choose the prompt");
        // One mistake each.
        says(
            repaired(|policy, _, _, p, o, t| {
                let ids = Tensor::new([p, o].concat(), &CPU)?.unsqueeze(0)?;
                let logits = policy.logits(&ids)?.detach();
                Ok(right::completion(&logits, &ids, p.len(), t)?.log_probs.squeeze(0)?)
            }),
            "gradient is lost",
        );
        says(
            repaired(|policy, e, d, p, o, t| {
                right::repaired(policy, e, d, p, o, t.max(1.0))
            }),
            "sampler's was 0.7",
        );
        says(
            repaired(|policy, _, _, p, o, t| {
                let ids = Tensor::new([p, o].concat(), &CPU)?.unsqueeze(0)?;
                let logits = policy.logits(&ids)?.narrow(1, p.len(), o.len())?;
                right::at_temperature(&logits.squeeze(0)?, &Tensor::new(o, &CPU)?, t)
            }),
            "already read it",
        );
        says(
            repaired(|policy, e, d, p, o, t| {
                let text = e(&(d(p) + &d(o)));
                right::repaired(policy, e, d, p, &text[p.len()..], t)
            }),
            "Is the EOS gone",
        );
        says(
            repaired(|policy, e, d, p, o, t| {
                let text = [e(&(d(p) + &d(o))), vec![EOS]].concat();
                right::repaired(policy, e, d, p, &text[p.len()..], t)
            }),
            "went through text",
        );
        says(
            repaired(|policy, e, d, p, o, t| {
                right::repaired(policy, e, d, &p[..1], &[&p[1..], o].concat(), t)
            }),
            "did not choose the prompt",
        );
    }

    #[test]
    fn wrong_rectangles_are_told_apart() {
        says(
            batch(|read, prompts, completions, eos, t| {
                // Prompts padded on the right.
                let width = prompts.iter().map(Vec::len).max().unwrap_or(0);
                let pad =
                    |row: &Vec<u32>| [row.clone(), vec![eos; width - row.len()]].concat();
                let padded: Vec<Vec<u32>> = prompts.iter().map(pad).collect();
                right::batch(read, &padded, completions, eos, t)
            }),
            "padded on the left",
        );
        says(
            batch(|read, prompts, completions, eos, t| {
                let all = |ids: &Tensor, _: &Tensor| {
                    read(ids, &ids.ones_like()?.to_dtype(DType::U8)?)
                };
                right::batch(&all, prompts, completions, eos, t)
            }),
            "hidden from `read`",
        );
        says(
            batch(|read, prompts, completions, eos, t| {
                let (log_probs, mask) = right::batch(read, prompts, completions, eos, t)?;
                Ok(((log_probs - 1.0)?, mask))
            }),
            "alone has",
        );
        says(
            batch(|read, prompts, completions, eos, t| {
                let no_nan = |ids: &Tensor, real: &Tensor| {
                    let logits = read(ids, real)?;
                    let nan = logits.ne(&logits)?.to_dtype(DType::F64)?.sum_all()?;
                    let spoil = nan.to_scalar::<f64>()? > 0.0;
                    if spoil { Ok((logits.zeros_like()? / 0.0)?) } else { Ok(logits) }
                };
                right::batch(&no_nan, prompts, completions, eos, t)
            }),
            "must select and not multiply",
        );
    }
}
