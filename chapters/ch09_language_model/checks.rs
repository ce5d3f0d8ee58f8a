//! What the exercises of chapter 9 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ops;
use exercises::Memory;
use grpo::{
    gradients,
    lm::{config::Config, decoder::Decoder, folder},
    policy::Policy,
    seed,
    variables::Variables,
};
use serde_json::Value;
use std::path::Path;

exercise::checks! {
    cache_numbers => cache_numbers(cache_numbers);
    look_ahead => look_ahead(look_ahead);
    rms_norm => rms_norm(rms_norm);
    nucleus => nucleus(nucleus);
    of_a_group => of_a_group(of_a_group);
    turn => turn(turn);
    attend => attend(attend);
    read => read(read);
}

const CPU: Device = Device::Cpu;

/// Every size another number, so that no two can be mixed up.
fn config() -> Config {
    Config {
        vocab_size: 11,
        hidden_size: 10,
        intermediate_size: 7,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        context: 64,
        rope_theta: 100.0,
        rms_norm_eps: 1e-6,
        qkv_bias: true,
        qk_norm: false,
        tied: true,
        eos: vec![0],
    }
}

/// Random numbers, the same in every run.
fn noise(shape: &[usize], stream: u64) -> Result<Tensor> {
    seed::normal(&mut seed::stream(9, &[stream]), shape, 1.0, DType::F64, &CPU)
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

/// The largest difference, relative to the largest number of `right`.
fn apart(found: &Tensor, right: &Tensor) -> Result<f64> {
    let (found, right) = (numbers(found)?, numbers(right)?);
    let largest = |x: &mut dyn Iterator<Item = f64>| x.map(f64::abs).fold(0.0, f64::max);
    let apart = largest(&mut found.iter().zip(&right).map(|(a, b)| a - b));
    let nan = found.iter().any(|x| x.is_nan());
    Ok(if nan { f64::INFINITY } else { apart / largest(&mut right.iter().copied()) })
}

fn cache_numbers(yours: fn(&Config, usize, usize) -> usize) -> Result<()> {
    let small = config();
    for (rows, tokens) in [(1, 1), (5, 9)] {
        // What the layers write into it, by the shapes of their weights.
        let writes = |(name, _): &(String, Vec<usize>)| {
            name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight")
        };
        let right: usize =
            small.tensors().iter().filter(|t| writes(t)).map(|(_, shape)| shape[0]).sum();
        let right = rows * tokens * right;
        let found = yours(&small, rows, tokens);
        let Config { layers, heads, kv_heads, head_dim, hidden_size, .. } = small;
        let each = rows * tokens;
        let why = [
            (each * layers * kv_heads * head_dim, "a token leaves a key and a value"),
            (2 * each * layers * heads * head_dim, "queries are not kept: `kv_heads`"),
            (2 * each * layers * hidden_size, "it keeps heads and not the stream"),
            (2 * each * kv_heads * head_dim, "every layer has its own keys and values"),
            (2 * each * layers * head_dim, "there are several heads of keys"),
            (right / rows, "every row has its own"),
        ];
        let why = why.iter().find(|(number, _)| *number == found && found != right);
        let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
        ensure!(
            found == right,
            "{layers} layers, {heads} heads, {kv_heads} of keys and values, head_dim \
             {head_dim}: {rows} row(s) of {tokens} token(s) take {right} numbers; yours are \
             {found}{why}"
        );
    }
    Ok(())
}

fn look_ahead(yours: fn(usize, &Tensor) -> Result<Tensor>) -> Result<()> {
    for (length, dtype) in [(4, DType::F64), (1, DType::F64), (3, DType::F32)] {
        let like = Tensor::zeros((2, 2), dtype, &CPU)?;
        let mask = yours(length, &like)?;
        ensure!(
            mask.dims() == [length, length],
            "a text of {length} tokens needs a mask ({length}, {length}); yours is {:?}",
            mask.dims()
        );
        ensure!(
            mask.dtype() == dtype,
            "`like` is {dtype:?} and your mask is {:?}: they could not be added",
            mask.dtype()
        );
        let rows = mask.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let seen = |t: usize, s: usize| rows[t][s] == 0.0;
        for (t, row) in rows.iter().enumerate() {
            for (s, &value) in row.iter().enumerate() {
                ensure!(
                    !value.is_nan(),
                    "row {t}, column {s} is NaN: 0 times infinity? Select, or use a finite \
                     number"
                );
                ensure!(
                    seen(t, s) == (s <= t),
                    "row {t}, column {s} is {value:e}: token {t} {}{}",
                    match s.cmp(&t) {
                        std::cmp::Ordering::Less => "may look back at it",
                        std::cmp::Ordering::Equal => "may look at itself",
                        std::cmp::Ordering::Greater => "must not look ahead",
                    },
                    if t != s && seen(s, t) == (s <= t) {
                        ". Are rows and columns exchanged?"
                    } else {
                        ""
                    }
                );
                ensure!(
                    s <= t || (value + 1e9).abs() < 100.0,
                    "row {t}, column {s} is {value:e}, and −1e9 is asked for: with −∞ a row of \
                     which everything is hidden would become NaN, and a small number would not \
                     hide"
                );
            }
        }
    }
    Ok(())
}

/// Every variable has a gradient, and it is the one of finite differences.
fn gradients_agree(variables: &Variables, loss: impl Fn() -> Result<Tensor>) -> Result<()> {
    let fast = gradients::of(&loss()?, variables).context(
        "the values are right and the gradient is lost: this is the trap of the chapter. Which \
         operation has no backward pass? (`ops::rms_norm`, `softmax_last_dim`, `rope`, \
         `slice_set`, `detach`, or a way through plain numbers)",
    )?;
    let slow = gradients::finite_differences(variables, 1e-5, loss)?;
    for (name, variable) in variables {
        let fast = numbers(fast.get(variable).context("no gradient")?)?;
        ensure!(
            close(&fast, &slow[name]),
            "the gradient of {name} must be {:.4?}, by finite differences; yours is {fast:.4?}: \
             did one of its paths lose its gradient?",
            slow[name]
        );
    }
    Ok(())
}

fn variables<const N: usize>(all: [(&str, Tensor); N]) -> Result<Variables> {
    all.iter().map(|(name, x)| Ok((name.to_string(), Var::from_tensor(x)?))).collect()
}

fn rms_norm(yours: fn(&Tensor, &Tensor, f64) -> Result<Tensor>) -> Result<()> {
    // mean(x²) + ε = 12.5 + 3.5 = 4².
    let x = Tensor::new(&[[3f32, 4.0]], &CPU)?;
    let weight = Tensor::new(&[1f32, 2.0], &CPU)?;
    let found = yours(&x, &weight, 3.5)?;
    ensure!(found.dims() == [1, 2], "x (1, 2) must give (1, 2), not {:?}", found.dims());
    let found = numbers(&found)?;
    let root = 12.5f64.sqrt();
    let turns = [
        ([3.0 / (root + 3.5), 8.0 / (root + 3.5)], "ε belongs under the root"),
        ([3.0 / root, 8.0 / root], "where is ε?"),
        (
            [3.0 / 28.5f64.sqrt(), 8.0 / 28.5f64.sqrt()],
            "the mean of the squares, not their sum",
        ),
        ([3.0 / 16.0, 8.0 / 16.0], "where is the root?"),
        ([0.75, 1.0], "where is the weight?"),
    ];
    let why = turns.iter().find(|(numbers, _)| close(numbers, &found));
    let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
    ensure!(
        close(&found, &[0.75, 2.0]),
        "x = (3, 4), w = (1, 2), ε = 3.5: mean(x²) + ε is 16, so that the result is (0.75, 2); \
         yours is {found:.4?}{why}"
    );
    let x = noise(&[2, 3, 5], 0)?.to_dtype(DType::F32)?;
    let weight = noise(&[5], 1)?.to_dtype(DType::F32)?;
    let right = ops::rms_norm(&x, &weight, 1e-6)?;
    let found =
        yours(&x, &weight, 1e-6).context("x (2, 3, 5): any number of dimensions")?;
    ensure!(
        found.dims() == [2, 3, 5] && apart(&found, &right)? < 1e-5,
        "x (2, 3, 5): these are not the numbers of Candle's `ops::rms_norm`. Each row of the \
         last dimension has its own mean: `mean_keepdim(D::Minus1)`"
    );
    let variables = variables([("x", noise(&[2, 3], 2)?), ("weight", noise(&[3], 3)?)])?;
    let probe = noise(&[2, 3], 4)?;
    gradients_agree(&variables, || {
        let (x, weight) = (variables["x"].as_tensor(), variables["weight"].as_tensor());
        // The fused operation takes single precision only, and is what this looks for.
        let found = yours(x, weight, 0.1).or_else(|_| {
            let single = |x: &Tensor| x.to_dtype(DType::F32);
            anyhow::Ok(yours(&single(x)?, &single(weight)?, 0.1)?.to_dtype(DType::F64)?)
        })?;
        Ok((found * &probe)?.sum_all()?)
    })
}

/// All subsets: of the smallest that reach `top_p`, the likeliest, and of these the one
/// with the lowest ids.
fn by_subsets(p: &[f64], top_p: f64) -> Vec<f64> {
    let n = p.len();
    let members = |set: usize| (0..n).filter(move |id| set >> id & 1 == 1);
    let sum = |set: usize| members(set).map(|id| p[id]).sum::<f64>();
    let better = |a: usize, b: usize| {
        let key = |set: usize| (set.count_ones(), -sum(set));
        let ((a_count, a_sum), (b_count, b_sum)) = (key(a), key(b));
        let low = |set: usize| members(set).sum::<usize>();
        a_count.cmp(&b_count).then(a_sum.total_cmp(&b_sum)).then(low(a).cmp(&low(b)))
    };
    let enough = (1..1 << n).filter(|set| sum(*set) >= top_p);
    let best = enough.min_by(|a, b| better(*a, *b)).unwrap_or((1 << n) - 1);
    (0..n).map(|id| if best >> id & 1 == 1 { p[id] / sum(best) } else { 0.0 }).collect()
}

fn nucleus(yours: fn(&[f64], f64, f64) -> Result<Vec<f64>>) -> Result<()> {
    let logits: Vec<f64> = [0.15f64, 0.5, 0.05, 0.3].iter().map(|p| p.ln()).collect();
    let cases: [(f64, f64, [f64; 4], &str); 6] = [
        (1.0, 1.0, [0.15, 0.5, 0.05, 0.3], "with top_p = 1 nothing is taken away"),
        (
            1.0,
            0.6,
            [0.0, 0.625, 0.0, 0.375],
            "0.5 is not enough, so the next likeliest is in as well: the token that crosses \
             top_p belongs to the nucleus, and what is kept is divided by its sum",
        ),
        (
            1.0,
            0.01,
            [0.0, 1.0, 0.0, 0.0],
            "however small top_p is, the likeliest token stays",
        ),
        (1.0, 0.9, [0.15 / 0.95, 0.5 / 0.95, 0.0, 0.3 / 0.95], "three of four are needed"),
        (
            0.5,
            1.0,
            [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365],
            "divide the logits by the temperature, so that 0.5 squares the odds",
        ),
        (
            0.5,
            0.9,
            [0.0, 0.25 / 0.34, 0.0, 0.09 / 0.34],
            "temperature first, then top-p: at temperature 0.5 two tokens have 0.93 together",
        ),
    ];
    for (temperature, top_p, right, why) in cases {
        let found = yours(&logits, temperature, top_p)?;
        ensure!(
            close(&found, &right),
            "probabilities 0.15, 0.5, 0.05, 0.3, temperature {temperature}, top_p {top_p}: the \
             result must be {right:.4?}; yours is {found:.4?}: {why}"
        );
    }
    let found = yours(&[0.0; 4], 1.0, 0.5)?;
    ensure!(
        close(&found, &[0.5, 0.5, 0.0, 0.0]),
        "four equal logits, top_p 0.5: ids 0 and 1 have exactly 0.5 together, at least top_p, \
         so the result must be [0.5, 0.5, 0, 0]; yours is {found:?}. Of equals the lower ids \
         are kept, no more of them than needed, and no fewer"
    );
    let found = yours(&[1000.0, 1000.0, f64::NEG_INFINITY, 0.0], 1.0, 0.9)?;
    ensure!(
        close(&found, &[0.5, 0.5, 0.0, 0.0]),
        "logits 1000, 1000, −∞ and 0: the result must be [0.5, 0.5, 0, 0]; yours is {found:?}. \
         exp(1000) is infinite: subtract the largest logit first"
    );
    let all = yours(&[0.1; 10], 0.7, 1.0)?;
    ensure!(
        close(&all, &[0.1; 10]),
        "ten equal logits, top_p = 1: all ten stay; yours is {all:.4?}. Rounding can make their \
         sum reach 1 too early"
    );
    for stream in 0..20 {
        let logits = numbers(&noise(&[7], 100 + stream)?)?;
        let whole = yours(&logits, 0.8, 1.0)?;
        for top_p in [0.2, 0.5, 0.77, 0.95] {
            let (found, right) = (yours(&logits, 0.8, top_p)?, by_subsets(&whole, top_p));
            ensure!(
                close(&found, &right),
                "logits {logits:.3?}, temperature 0.8, top_p {top_p}: of all sets of tokens, \
                 the smallest that has enough gives {right:.4?}; yours is {found:.4?}"
            );
        }
    }
    for (name, temperature, top_p) in [
        ("temperature", 0.0, 0.5),
        ("temperature", -1.0, 0.5),
        ("top_p", 1.0, 0.0),
        ("top_p", 1.0, 1.5),
        ("top_p", 1.0, f64::NAN),
    ] {
        match yours(&logits, temperature, top_p) {
            Ok(found) => bail!(
                "temperature {temperature}, top_p {top_p} is out of range, and yours gives \
                 {found:.3?} in place of an error"
            ),
            Err(error) => ensure!(
                error.to_string().contains(name),
                "temperature {temperature}, top_p {top_p}: the error must name `{name}`; yours \
                 says: {error}"
            ),
        }
    }
    Ok(())
}

/// One pass of one row, counted weight by weight and score by score.
fn counted(config: &Config, seen: usize, new: usize) -> u64 {
    let mut products = 0;
    for (name, shape) in config.tensors() {
        if name.contains("layers") && name.ends_with("proj.weight") {
            products += new * shape[0] * shape[1];
        }
    }
    for _layer in 0..config.layers {
        for _head in 0..config.heads {
            for _query in 0..new {
                for _key in 0..seen + new {
                    products += config.head_dim; // the score
                    products += config.head_dim; // the value, weighted
                }
            }
        }
    }
    (products + config.vocab_size * config.hidden_size) as u64
}

fn of_a_group(yours: fn(&Config, usize, usize, usize) -> u64) -> Result<()> {
    let config = config();
    for (prompt, length, group) in [(5, 1, 1), (5, 1, 8), (5, 2, 1), (5, 4, 1), (5, 4, 8)] {
        let steps = |from: usize, to: usize| -> u64 {
            (from..to).map(|written| counted(&config, prompt + written - 1, 1)).sum()
        };
        let (first, g) = (counted(&config, 0, prompt), group as u64);
        let right = first + g * steps(1, length);
        let found = yours(&config, prompt, length, group);
        let again: u64 = (0..length).map(|n| counted(&config, 0, prompt + n)).sum();
        let turns = [
            (g * right, "is this the whole, times the group? The prompt is read once"),
            (g * (first + steps(1, length)), "the prompt is read once for the whole group"),
            (
                first + g * steps(1, length + 1),
                "the last token of a completion is written and never read",
            ),
            (
                first + g * steps(0, length),
                "the first token comes out of reading the prompt",
            ),
            (first + steps(1, length), "every completion of the group is written"),
            (g * again, "that is the count without a cache"),
            (
                first + g * (length as u64 - 1) * counted(&config, prompt, 1),
                "the number of keys grows with every token that was written",
            ),
        ];
        let why = turns.iter().find(|(number, _)| *number == found);
        let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
        ensure!(
            found == right,
            "prompt {prompt}, length {length}, group {group}: counted one by one there are \
             {right} multiplications; yours are {found}{why}"
        );
    }
    Ok(())
}

fn turn(yours: fn(&Tensor, usize, f64) -> Result<Tensor>) -> Result<()> {
    // One pair that turns by 1 a position: (1, 0) at positions 0, 1, 2.
    let x = Tensor::new(&[1f64, 0.0, 1.0, 0.0, 1.0, 0.0], &CPU)?.reshape((1, 1, 3, 2))?;
    for start in [0, 4] {
        let found = yours(&x, start, 100.0)?;
        ensure!(found.dims() == x.dims(), "the shape must stay {:?}", x.dims());
        let right: Vec<f64> =
            (start..start + 3).flat_map(|t| [(t as f64).cos(), (t as f64).sin()]).collect();
        let found = numbers(&found)?;
        let back: Vec<f64> = right.chunks(2).flat_map(|pair| [pair[0], -pair[1]]).collect();
        let late: Vec<f64> = (start + 1..start + 4)
            .flat_map(|t| [(t as f64).cos(), (t as f64).sin()])
            .collect();
        let zero: Vec<f64> =
            (0..3).flat_map(|t| [f64::from(t).cos(), f64::from(t).sin()]).collect();
        let turns = [
            (back, ": turned the other way round. What is the sign of b·sin φ?"),
            (late, ": the first column stands at `start`, not after it"),
            (zero, ": `start` was not used"),
        ];
        let why = turns.iter().find(|(numbers, _)| close(numbers, &found));
        let why = why.filter(|_| !close(&found, &right)).map_or("", |(_, why)| why);
        ensure!(
            close(&found, &right),
            "head_dim 2, start {start}: (1, 0) at position t becomes (cos t, sin t), \
             {right:.4?}; yours is {found:.4?}{why}"
        );
    }
    // Position 5: the first pair by 5, the second by 5 · 100^(−1/2) = 0.5.
    let x = Tensor::new(&[0f64, 1.0, 0.0, 0.0], &CPU)?.reshape((1, 1, 1, 4))?;
    let found = numbers(&yours(&x, 5, 100.0)?)?;
    let (slow, fast) = (0.5f64, 5f64);
    let turns = [
        (
            [-fast.sin(), fast.cos(), 0.0, 0.0],
            "numbers 0 and 1 are no pair: the other one is \
          half a head away",
        ),
        ([0.0, fast.cos(), 0.0, fast.sin()], "the second pair turns more slowly"),
        (
            [0.0, (5.0 * 100f64.powf(-0.25)).cos(), 0.0, (5.0 * 100f64.powf(-0.25)).sin()],
            "θ^(−2i/d): is the 2 missing?",
        ),
        (
            [0.0, 0.05f64.cos(), 0.0, 0.05f64.sin()],
            "θ^(−2i/d), where d is the width of a head",
        ),
    ];
    let why = turns.iter().find(|(numbers, _)| close(numbers, &found));
    let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
    let right = [0.0, slow.cos(), 0.0, slow.sin()];
    ensure!(
        close(&found, &right),
        "(0, 1, 0, 0) at position 5, θ = 100: its pair turns by 5 / √100 = 0.5, so that \
         {right:.4?} comes out; yours is {found:.4?}{why}"
    );
    let x = noise(&[2, 3, 4, 6], 10)?;
    let single = yours(&x.to_dtype(DType::F32)?, 3, 1e4).context("x of dtype F32")?;
    ensure!(single.dtype() == DType::F32, "x of dtype F32 must stay F32");
    let whole = yours(&x, 3, 1e4)?;
    let piece = yours(&x.narrow(2, 2, 2)?, 5, 1e4)?;
    ensure!(
        apart(&piece, &whole.narrow(2, 2, 2)?)? < 1e-9,
        "columns 2 and 3 of x, turned alone from their place, must come out as they do among \
         the others"
    );
    let variables = variables([("x", noise(&[1, 1, 2, 4], 11)?)])?;
    let probe = noise(&[1, 1, 2, 4], 12)?;
    gradients_agree(&variables, || {
        Ok((yours(variables["x"].as_tensor(), 1, 100.0)? * &probe)?.sum_all()?)
    })
}

type Attend = fn([&Tensor; 3], &mut Memory) -> Result<Tensor>;

/// One query of one head at a time, in plain numbers.
fn by_hand(
    [q, k, v]: [&Tensor; 3],
    scale: f64,
    head_of: impl Fn(usize) -> usize,
    sees: impl Fn(usize, usize) -> bool,
) -> Result<Tensor> {
    let mut out = Vec::new();
    for row in 0..q.dim(0)? {
        let plain = |x: &Tensor| x.get(row)?.to_vec3::<f64>();
        let (q, k, v) = (plain(q)?, plain(k)?, plain(v)?);
        for (head, queries) in q.iter().enumerate() {
            let (keys, values) = (&k[head_of(head)], &v[head_of(head)]);
            for (t, query) in queries.iter().enumerate() {
                let (mut found, mut total) = (vec![0.0; query.len()], 0.0);
                for (s, (key, value)) in keys.iter().zip(values).enumerate() {
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    let weight = if sees(t, s) { (dot * scale).exp() } else { 0.0 };
                    total += weight;
                    found.iter_mut().zip(value).for_each(|(f, v)| *f += weight * v);
                }
                out.extend(found.iter().map(|f| f / total));
            }
        }
    }
    Ok(Tensor::from_vec(out, q.shape(), &CPU)?)
}

fn attend(yours: Attend) -> Result<()> {
    // 4 heads of queries, 2 of keys, 5 tokens.
    let (q, k, v) =
        (noise(&[2, 4, 5, 3], 20)?, noise(&[2, 2, 5, 3], 21)?, noise(&[2, 2, 5, 3], 22)?);
    let scale = 3f64.powf(-0.5);
    let back = |t: usize, s: usize| s <= t;
    let right = by_hand([&q, &k, &v], scale, |h| h / 2, back)?;
    let mut memory: Memory = None;
    let found = yours([&q, &k, &v], &mut memory)?;
    ensure!(
        found.dims() == [2, 4, 5, 3],
        "queries (2, 4, 5, 3) must find (2, 4, 5, 3); yours is {:?}",
        found.dims()
    );
    let turns = [
        (by_hand([&q, &k, &v], 1.0, |h| h / 2, back)?, "are the scores divided by √d?"),
        (
            by_hand([&q, &k, &v], scale, |h| h % 2, back)?,
            "neighbouring heads share: heads 0 and 1 of the queries use head 0 of the keys",
        ),
        (
            by_hand([&q, &k, &v], scale, |h| h / 2, |_, _| true)?,
            "every token sees all: where is the mask?",
        ),
        (
            by_hand([&q, &k, &v], scale, |h| h / 2, |t, s| s < t || t == 0)?,
            "a token may look at itself",
        ),
        (by_hand([&q, &k, &v], 1.0 / 3.0, |h| h / 2, back)?, "divide by √d, not by d"),
    ];
    if apart(&found, &right)? > 1e-6 {
        for (wrong, why) in turns {
            ensure!(apart(&found, &wrong)? > 1e-6, "5 tokens, empty memory: {why}");
        }
        bail!("5 tokens, empty memory: yours differs from the formula, query by query");
    }
    remembers(yours, [&q, &k, &v], &right, &memory)?;
    let variables = variables([
        ("q", noise(&[1, 2, 3, 2], 23)?),
        ("k", noise(&[1, 1, 3, 2], 24)?),
        ("v", noise(&[1, 1, 3, 2], 25)?),
    ])?;
    let probe = noise(&[1, 2, 3, 2], 26)?;
    gradients_agree(&variables, || {
        let [q, k, v] = ["q", "k", "v"].map(|name| variables[name].as_tensor());
        Ok((yours([q, k, v], &mut None)? * &probe)?.sum_all()?)
    })
}

fn remembers(
    yours: Attend,
    [q, k, v]: [&Tensor; 3],
    whole: &Tensor,
    memory: &Memory,
) -> Result<()> {
    let kept = memory.as_ref().context("`memory` is still None after the call")?;
    ensure!(
        kept[0].dims() == k.dims()
            && apart(&kept[0], k)? < 1e-12
            && apart(&kept[1], v)? < 1e-12,
        "after 5 tokens the memory must hold their keys and values, {:?} each, as they came",
        k.dims()
    );
    for pieces in [&[1usize, 1, 1, 1, 1][..], &[3, 1, 1], &[2, 3], &[1, 4]] {
        let (mut memory, mut at, mut found) = (None, 0, Vec::new());
        for &length in pieces {
            let piece = |x: &Tensor| x.narrow(2, at, length)?.contiguous();
            let piece = yours([&piece(q)?, &piece(k)?, &piece(v)?], &mut memory)
                .with_context(|| format!("pieces of {pieces:?} tokens, from token {at}"))?;
            found.push(piece);
            at += length;
            let [keys, _] = memory.as_ref().context("the memory is empty after a call")?;
            ensure!(
                keys.dim(2)? == at,
                "pieces of {pieces:?} tokens: after {at} tokens the memory holds {} keys",
                keys.dim(2)?
            );
        }
        let found = Tensor::cat(&found, 2)?;
        if apart(&found, whole)? > 1e-6 {
            let first = |t: &usize| -> Result<bool> {
                Ok(apart(&found.narrow(2, *t, 1)?, &whole.narrow(2, *t, 1)?)? > 1e-6)
            };
            let mut wrong = 0;
            while !first(&wrong)? {
                wrong += 1;
            }
            bail!(
                "in pieces of {pieces:?} tokens, token {wrong} finds something else than when \
                 all are read at once: new token j of T stands behind everything remembered, at \
                 S − T + j of S, and looks back from there{}",
                if pieces.contains(&3) || pieces.contains(&4) {
                    ". Is the mask cut at the right rows?"
                } else {
                    ""
                }
            );
        }
    }
    Ok(())
}

type Read = fn(&Config, &Variables, &mut [Memory], &Tensor) -> Result<Tensor>;

fn fixture(model: &str) -> Result<(Decoder, Value)> {
    let folder =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(model);
    let parity = std::fs::read_to_string(folder.join("parity.json"))?;
    Ok((folder::read(&folder, DType::F32, &CPU)?, serde_json::from_str(&parity)?))
}

fn read(yours: Read) -> Result<()> {
    for model in ["tiny-qwen2", "tiny-llama"] {
        let (decoder, parity) = fixture(model)?;
        let (config, weights) = (decoder.config(), decoder.variables());
        let one = &parity["forward"][0];
        let ids: Vec<u32> = serde_json::from_value(one["ids"].clone())?;
        let right: Vec<Vec<f32>> = serde_json::from_value(one["logits"].clone())?;
        let (ids, right) =
            (Tensor::new(&ids[..], &CPU)?.unsqueeze(0)?, Tensor::new(right, &CPU)?);
        let mut memory = vec![None; config.layers];
        let whole = yours(config, weights, &mut memory, &ids).context(model)?;
        let wanted = [1, ids.dim(1)?, config.vocab_size];
        ensure!(
            whole.dims() == wanted,
            "{model}: logits must be {wanted:?}; yours are {:?}",
            whole.dims()
        );
        let distance = apart(&whole.squeeze(0)?, &right)?;
        ensure!(
            distance < 1e-3,
            "{model}, read at once: your logits are up to {distance:.3} of the largest away from \
             those of Hugging Face's transformers. Of the first token they are {:.3} away{}",
            apart(&whole.get(0)?.narrow(0, 0, 1)?, &right.narrow(0, 0, 1)?)?,
            if apart(&whole.get(0)?.narrow(0, 0, 1)?, &right.narrow(0, 0, 1)?)? < 1e-3 {
                ": the first token has position 0 and sees itself only, so look at positions and \
                 attention"
            } else {
                ": positions play no part there yet. Biases? Norms? The sums with the stream?"
            }
        );
        pieces(yours, &decoder, &ids, &whole).context(model)?;
    }
    missing_weight(yours)?;
    trains(yours)
}

fn pieces(yours: Read, decoder: &Decoder, ids: &Tensor, whole: &Tensor) -> Result<()> {
    let (config, weights, length) = (decoder.config(), decoder.variables(), ids.dim(1)?);
    // Two rows, so that a mixed-up batch shows.
    let other = ids.narrow(1, 1, length - 1)?;
    let rows = Tensor::cat(&[&Tensor::cat(&[&other, &ids.narrow(1, 0, 1)?], 1)?, ids], 0)?;
    for step in [1, 5] {
        let mut memory = vec![None; config.layers];
        let mut found = Vec::new();
        for start in (0..length).step_by(step) {
            let piece = rows.narrow(1, start, step.min(length - start))?;
            found.push(yours(config, weights, &mut memory, &piece.contiguous()?)?);
        }
        let found = Tensor::cat(&found, 1)?;
        let (yours, right) = (found.get(1)?, whole.get(0)?);
        let bad: Vec<bool> = (0..length)
            .map(|t| Ok(apart(&yours.get(t)?, &right.get(t)?)? > 1e-3))
            .collect::<Result<_>>()?;
        if let Some(first) = bad.iter().position(|bad| *bad) {
            bail!(
                "{step} token(s) at a time, the logits at token {first} differ from those of \
                 reading all at once{}",
                if first == step {
                    ": this is the first one that comes after something remembered. Do positions \
                     go on where the memory ends, and are keys turned before they are kept, once?"
                } else {
                    ""
                }
            );
        }
        let library = decoder.logits(&rows)?;
        ensure!(
            apart(&found, &library)? < 1e-3,
            "with two different rows the first one is wrong: do rows get mixed?"
        );
    }
    Ok(())
}

fn small() -> Result<(Config, Variables)> {
    let config = config();
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F64, &CPU)?;
    Ok((config, decoder.variables().clone()))
}

fn missing_weight(yours: Read) -> Result<()> {
    let (config, mut weights) = small()?;
    let name = "model.layers.1.mlp.up_proj.weight";
    weights.remove(name);
    let tokens = Tensor::new(&[[1u32, 2]], &CPU)?;
    match yours(&config, &weights, &mut vec![None; config.layers], &tokens) {
        Ok(_) => bail!("{name} was taken away and nothing was said"),
        Err(error) => ensure!(
            format!("{error:#}").contains(name),
            "{name} was taken away; the error must name it, and says: {error:#}"
        ),
    }
    Ok(())
}

/// Read at once, everything must be trainable.
fn trains(yours: Read) -> Result<()> {
    let (config, weights) = small()?;
    let tokens = Tensor::new(&[[1u32, 2, 3]], &CPU)?;
    let logits = yours(&config, &weights, &mut vec![None; config.layers], &tokens)?;
    gradients::of(&logits.sqr()?.mean_all()?, &weights)
        .context("the logits are right, and read at once they must also have gradients")?;
    Ok(())
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
    fn wrong_counts_are_told_apart() {
        says(
            cache_numbers(|c, rows, tokens| {
                rows * tokens * c.layers * c.kv_heads * c.head_dim
            }),
            "a key and a value",
        );
        says(
            cache_numbers(|c, rows, tokens| {
                2 * rows * tokens * c.layers * c.heads * c.head_dim
            }),
            "queries are not kept",
        );
        says(cache_numbers(|c, _, tokens| right::cache_numbers(c, 1, tokens)), "its own");
        says(of_a_group(|c, p, l, g| g as u64 * right::of_a_group(c, p, l, 1)), "once");
        says(of_a_group(|c, p, l, g| right::of_a_group(c, p, l + 1, g)), "never read");
        says(of_a_group(|c, p, l, _| right::of_a_group(c, p, l, 1)), "every completion");
    }

    #[test]
    fn wrong_masks_are_told_apart() {
        says(look_ahead(|t, like| Ok(right::look_ahead(t, like)?.t()?)), "exchanged");
        says(
            look_ahead(|t, like| Ok((right::look_ahead(t, like)? / 0.0)?)),
            "0 times infinity",
        );
        says(
            look_ahead(|t, like| Ok((right::look_ahead(t, like)? / 1e8)?)),
            "would not hide",
        );
        says(
            look_ahead(|t, like| right::look_ahead(t, &like.to_dtype(DType::F64)?)),
            "could not be added",
        );
        says(
            look_ahead(|t, like| {
                let eye = Tensor::eye(t, like.dtype(), &CPU)?;
                Ok((right::look_ahead(t, like)? - (eye * 1e9)?)?)
            }),
            "look at itself",
        );
    }

    #[test]
    fn wrong_norms_are_told_apart() {
        says(
            rms_norm(|x, w, eps| Ok(ops::rms_norm(x, w, eps as f32)?)),
            "the trap of the chapter",
        );
        says(
            rms_norm(|x, w, eps| {
                let fused = |x: &Tensor| x.to_dtype(DType::F32);
                Ok(ops::rms_norm(&fused(x)?, &fused(w)?, eps as f32)?
                    .to_dtype(x.dtype())?)
            }),
            "the trap of the chapter",
        );
        says(
            rms_norm(|x, w, eps| {
                let size = (x.sqr()?.mean_keepdim(D::Minus1)?.sqrt()? + eps)?;
                Ok(x.broadcast_div(&size)?.broadcast_mul(w)?)
            }),
            "under the root",
        );
        says(
            rms_norm(|x, w, eps| {
                let size = (x.detach().sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
                Ok(x.broadcast_div(&size)?.broadcast_mul(w)?)
            }),
            "one of its paths",
        );
        says(
            rms_norm(|x, w, eps| {
                let last = x.dim(D::Minus1)?;
                let size = ((x.sqr()?.sum_all()? / last as f64)? + eps)?.sqrt()?;
                Ok(x.broadcast_div(&size)?.broadcast_mul(w)?)
            }),
            "own mean",
        );
    }

    /// The solution with another rule for what is kept.
    fn cut(
        logits: &[f64],
        t: f64,
        top_p: f64,
        keep: fn(f64, f64, f64) -> bool,
    ) -> Vec<f64> {
        let mut p = right::nucleus(logits, t, 1.0).unwrap();
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let (mut before, mut kept) = (0.0, 0.0);
        for id in order {
            let here = p[id];
            if top_p < 1.0 && !keep(before, here, top_p) {
                p[id] = 0.0;
            }
            kept += p[id];
            before += here;
        }
        p.iter().map(|p| p / kept).collect()
    }

    #[test]
    fn wrong_nuclei_are_told_apart() {
        says(
            nucleus(|z, t, p| {
                right::nucleus(z, t, p)?;
                Ok(cut(z, t, p, |before, here, p| before + here <= p))
            }),
            "belongs to the nucleus",
        );
        says(
            nucleus(|z, t, p| {
                right::nucleus(z, t, p)?;
                Ok(cut(z, t, p, |before, _, p| before <= p))
            }),
            "no more of them than needed",
        );
        says(nucleus(|z, _, p| right::nucleus(z, 1.0, p)), "by the temperature");
        says(
            nucleus(|z, t, p| {
                let whole = right::nucleus(z, 1.0, p)?;
                let z: Vec<f64> = whole.iter().map(|p| p.ln()).collect();
                right::nucleus(&z, t, 1.0)
            }),
            "temperature first",
        );
        says(
            nucleus(|z, t, p| {
                let e: Vec<f64> = z.iter().map(|z| (z / t).exp()).collect();
                let sum: f64 = e.iter().sum();
                right::nucleus(
                    &e.iter().map(|e| (e / sum).ln()).collect::<Vec<_>>(),
                    1.0,
                    p,
                )
            }),
            "exp(1000)",
        );
        says(
            nucleus(|z, t, p| right::nucleus(z, t, p.clamp(0.01, 1.0))),
            "in place of an error",
        );
        says(nucleus(|z, t, p| right::nucleus(z, t, p).context("no")), "must name");
    }

    #[test]
    fn wrong_turns_are_told_apart() {
        says(turn(|x, _, theta| right::turn(x, 0, theta)), "`start` was not used");
        says(turn(|x, start, theta| right::turn(x, start + 1, theta)), "not after it");
        says(turn(|x, start, theta| right::turn(x, start, theta.sqrt())), "2 missing");
        says(
            turn(|x, start, theta| {
                if x.dim(3)? == 2 {
                    return right::turn(x, start, theta);
                }
                let pairs = x.reshape((x.dim(0)?, x.dim(1)?, x.dim(2)?, (), 2))?;
                let halves = pairs.transpose(3, 4)?.flatten_from(3)?.contiguous()?;
                let turned = right::turn(&halves, start, theta)?;
                let (b, h, t, d) = turned.dims4()?;
                Ok(turned.reshape((b, h, t, 2, d / 2))?.transpose(3, 4)?.flatten_from(3)?)
            }),
            "half a head away",
        );
        says(
            turn(|x, start, theta| right::turn(&x.detach(), start, theta)),
            "the gradient is lost",
        );
    }

    #[test]
    fn wrong_attention_is_told_apart() {
        says(
            attend(|[q, k, v], memory| {
                let q = (q * (q.dim(3)? as f64).sqrt())?;
                right::attend([&q, k, v], memory)
            }),
            "divided by √d",
        );
        says(
            attend(|[q, k, v], memory| {
                let found = right::attend([q, k, v], &mut None)?;
                *memory = Some([k.clone(), v.clone()]);
                Ok(found)
            }),
            "keys",
        );
        says(attend(|qkv, memory| right::attend(qkv, &mut memory.clone())), "still None");
        // A mask that forgets what came before.
        says(
            attend(|[q, k, v], memory| {
                let whole = right::attend([q, k, v], memory)?;
                if memory.as_ref().context("none")?[0].dim(2)? == k.dim(2)? {
                    return Ok(whole);
                }
                right::attend([q, k, v], &mut None)
            }),
            "looks back from there",
        );
        says(
            attend(|[q, k, v], memory| right::attend([q, &k.detach(), v], memory)),
            "gradient is lost",
        );
    }

    #[test]
    fn wrong_readers_are_told_apart() {
        says(
            read(|config, weights, memory, tokens| {
                // Positions begin again with each piece.
                right::read(config, weights, &mut vec![None; memory.len()], tokens)
            }),
            "first one that comes after",
        );
        says(
            read(|config, weights, memory, tokens| {
                let config = Config { rope_theta: 10.0, ..config.clone() };
                right::read(&config, weights, memory, tokens)
            }),
            "look at positions",
        );
        says(
            read(|config, weights, memory, tokens| {
                let no_bias = weights.iter().filter(|(name, _)| !name.ends_with("bias"));
                let weights = no_bias.map(|(name, v)| (name.clone(), v.clone())).collect();
                right::read(config, &weights, memory, tokens)
            }),
            "Biases?",
        );
        says(
            read(|config, weights, memory, tokens| {
                Ok(right::read(config, weights, memory, tokens)?.detach())
            }),
            "must also have gradients",
        );
    }
}
