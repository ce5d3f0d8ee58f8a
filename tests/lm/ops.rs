//! Every operation with a backward pass by hand against Candle's own operations, and
//! against differences.

use crate::{MODELS, numbers, tiny, worst};
use candle_core::{DType, Device::Cpu, Tensor, Var};
use grpo::{
    Result, gradients,
    lm::{decoder::Decoder, lora},
    ops::{
        attention::{Attention, Cached, Tree},
        linear, rms_norm, swiglu,
    },
    policy::Policy,
    seed,
    variables::Variables,
};
use rand::rngs::StdRng;

fn random(shape: &[usize], dtype: DType, rng: &mut StdRng) -> Var {
    Var::from_tensor(&seed::normal(rng, shape, 0.8, dtype, &Cpu).unwrap()).unwrap()
}

fn named(variables: &[Var]) -> Variables {
    variables.iter().enumerate().map(|(i, v)| (format!("{i}"), v.clone())).collect()
}

/// A function of some tensors, fused or slow.
type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Values and gradients of a loss with a different slope at every number.
fn run(variables: &[Var], f: Function) -> (Vec<f64>, Vec<Vec<f64>>) {
    let y = f(&tensors(variables)).unwrap();
    let loss = weighed(&y).unwrap();
    let gradients = gradients::of(&loss, &named(variables)).unwrap();
    let gradients = variables.iter().map(|v| numbers(gradients.get(v).unwrap())).collect();
    (numbers(&y), gradients)
}

fn tensors(variables: &[Var]) -> Vec<Tensor> {
    variables.iter().map(|v| v.as_tensor().clone()).collect()
}

fn weighed(y: &Tensor) -> Result<Tensor> {
    let slopes = seed::normal(&mut seed::rng(77), y.shape(), 1.0, y.dtype(), &Cpu)?;
    Ok((y * slopes)?.sum_all()?)
}

/// Values to 1e-6 and gradients to 2e-6 in single precision, 1e-12 in double, and the
/// fused gradients against differences.
fn agree(name: &str, shapes: &[&[usize]], fused: Function, slow: Function) {
    for (dtype, [values, slopes]) in
        [(DType::F32, [1e-6, 2e-6]), (DType::F64, [1e-12, 1e-12])]
    {
        let mut rng = seed::rng(12);
        let variables: Vec<Var> =
            shapes.iter().map(|s| random(s, dtype, &mut rng)).collect();
        let (a, b) = (run(&variables, fused), run(&variables, slow));
        let error = worst(&a.0, &b.0);
        assert!(error < values, "{name} {dtype:?}: {error}");
        for (index, (a, b)) in a.1.iter().zip(&b.1).enumerate() {
            let error = worst(a, b);
            assert!(error < slopes, "{name} {dtype:?}, gradient {index}: {error}");
        }
        assert!(a.1.iter().flatten().any(|x| *x != 0.0), "{name}: every gradient is 0");
        if dtype == DType::F64 {
            let differences =
                gradients::finite_differences(&named(&variables), 1e-5, || {
                    weighed(&fused(&tensors(&variables))?)
                });
            for ((name, differences), gradient) in differences.unwrap().iter().zip(&a.1) {
                let error = worst(gradient, differences);
                assert!(error < 1e-7, "{name} against differences: {error}");
            }
        }
    }
}

#[test]
fn linear_layers() {
    for [n, inputs, outputs] in [[1, 1, 1], [5, 7, 3], [33, 16, 9]] {
        let shapes: [&[usize]; 3] = [&[n, inputs], &[outputs, inputs], &[outputs]];
        let fused = |x: &[Tensor]| Ok(linear::forward(&x[0], &x[1], Some(&x[2]))?);
        let slow = |x: &[Tensor]| Ok(linear::slow(&x[0], &x[1], Some(&x[2]))?);
        agree("linear", &shapes, &fused, &slow);
        let fused = |x: &[Tensor]| Ok(linear::forward(&x[0].t()?, &x[1], None)?);
        let slow = |x: &[Tensor]| Ok(linear::slow(&x[0].t()?, &x[1], None)?);
        agree("a transposed input", &[&[inputs, n], &[outputs, inputs]], &fused, &slow);
    }
}

#[test]
fn norms() {
    // Candle takes it in single precision.
    const EPS: f64 = 1.0 / 131_072.0;
    for (n, width) in [(1, 1), (3, 7), (5, 24), (2, 33)] {
        let fused = |x: &[Tensor]| Ok(rms_norm::forward(&x[0], &x[1], EPS)?);
        let slow = |x: &[Tensor]| Ok(rms_norm::slow(&x[0], &x[1], EPS)?);
        agree("rms_norm", &[&[n, width], &[width]], &fused, &slow);
        let fused = |x: &[Tensor]| Ok(rms_norm::forward(&x[0].t()?, &x[1], EPS)?);
        let slow = |x: &[Tensor]| Ok(rms_norm::slow(&x[0].t()?, &x[1], EPS)?);
        agree("a transposed input", &[&[width, n], &[width]], &fused, &slow);
    }
}

#[test]
fn gates() {
    for shape in [&[1, 1][..], &[3, 7], &[2, 3, 5]] {
        let fused = |x: &[Tensor]| Ok(swiglu::forward(&x[0], &x[1])?);
        let slow = |x: &[Tensor]| Ok(swiglu::slow(&x[0], &x[1])?);
        agree("swiglu", &[shape, shape], &fused, &slow);
    }
    // Far from 0 the exponential leaves its range on either side.
    let far = Tensor::new(&[-1e4f32, -200.0, -89.0, 0.0, 89.0, 1e4], &Cpu).unwrap();
    let one = far.ones_like().unwrap();
    let y = numbers(&swiglu::forward(&far, &one).unwrap());
    assert!(worst(&y, &[0.0, 0.0, 0.0, 0.0, 89.0, 1e4]) < 1e-6, "{y:?}");
    let nan = (&far * f64::NAN).unwrap();
    assert!(numbers(&swiglu::forward(&nan, &one).unwrap()).iter().all(|x| x.is_nan()));
}

/// The first P · L rows of a tree where all count, and those that do not, at 0.
fn kept(y: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(y.clone()) };
    let count = mask.elem_count();
    let (prompts, rest) = (y.narrow(0, 0, count)?, y.narrow(0, count, y.dim(0)? - count)?);
    let mask = mask.flatten_all()?.unsqueeze(1)?.broadcast_as(prompts.shape())?;
    Ok(Tensor::cat(&[mask.where_cond(&prompts, &prompts.zeros_like()?)?, rest], 0)?)
}

#[test]
fn attention_over_trees() {
    let padded: Option<&[&[u8]]> = Some(&[&[0, 0, 1], &[1, 1, 1]]);
    let holes: Option<&[&[u8]]> = Some(&[&[1, 0, 1], &[0, 1, 0]]);
    for (prompts, prompt, branches, branch, [heads, kv_heads, d], mask) in [
        (1, 1, 0, 0, [1, 1, 2], None),
        (3, 5, 0, 0, [4, 2, 6], None),
        (2, 3, 3, 4, [2, 2, 4], None),
        (2, 3, 2, 1, [6, 2, 2], padded),
        (2, 3, 1, 5, [3, 1, 10], padded),
        (2, 3, 2, 2, [2, 1, 4], holes),
        (1, 9, 2, 10, [2, 1, 20], None),
    ] {
        let tree = Tree { prompts, prompt, branches, branch };
        let mask = mask.map(|rows| Tensor::new(rows.concat(), &Cpu).unwrap());
        let mask = mask.map(|mask| mask.reshape((prompts, prompt)).unwrap());
        let op = |dtype| {
            let angles: Vec<f64> =
                (0..(prompt + branch) * d / 2).map(|i| i as f64 * 0.37).collect();
            let angles = Tensor::from_vec(angles, (prompt + branch, d / 2), &Cpu).unwrap();
            let turns = [angles.cos().unwrap(), angles.sin().unwrap()];
            let turns = turns.map(|x| x.to_dtype(dtype).unwrap());
            Attention { tree, heads, kv_heads, mask: mask.clone(), turns }
        };
        let n = tree.tokens();
        let shapes: [&[usize]; 3] =
            [&[n, heads * d], &[n, kv_heads * d], &[n, kv_heads * d]];
        let fused = |x: &[Tensor]| {
            kept(&op(x[0].dtype()).forward(&x[0], &x[1], &x[2])?, mask.as_ref())
        };
        let slow = |x: &[Tensor]| {
            kept(&op(x[0].dtype()).slow(&x[0], &x[1], &x[2])?, mask.as_ref())
        };
        agree(&format!("{tree:?}"), &shapes, &fused, &slow);
    }
}

#[test]
fn attention_to_a_cache() {
    for (batch, total, new, [heads, kv_heads, d], padded) in [
        (1, 1, 1, [1, 1, 2], false),
        (3, 7, 1, [4, 2, 6], true),
        (2, 19, 4, [2, 1, 20], true),
        (2, 5, 5, [3, 3, 16], false),
    ] {
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
            let mut rng = seed::rng(4);
            let mut random = |shape: &[usize]| random(shape, dtype, &mut rng).detach();
            let q = random(&[batch * new, heads * d]);
            // There is room for more in a cache than is filled.
            let [k, v] = [0, 1].map(|_| random(&[batch, kv_heads, total + 3, d]));
            let [k, v] = [k, v].map(|x| x.narrow(2, 0, total).unwrap());
            let angles = random(&[new, d / 2]);
            let turns = [angles.cos().unwrap(), angles.sin().unwrap()];
            // The first row starts late.
            let mask = (0..batch * total).map(|i| u8::from(i > 0));
            let mask = Tensor::from_iter(mask, &Cpu).unwrap();
            let mask = padded.then(|| mask.reshape((batch, total)).unwrap());
            let op = Cached { heads, kv_heads, mask, turns };
            let (fast, slow) =
                (op.forward(&q, &k, &v).unwrap(), op.slow(&q, &k, &v).unwrap());
            assert_eq!(fast.dims(), slow.dims());
            let error = worst(&numbers(&fast), &numbers(&slow));
            assert!(error < tolerance, "{batch} {total} {new} {dtype:?}: {error}");
        }
    }
}

#[test]
fn attention_that_does_not_fit_is_refused() {
    let x =
        |rows: usize, width: usize| Tensor::zeros((rows, width), DType::F32, &Cpu).unwrap();
    let tree = Tree { prompts: 2, prompt: 3, branches: 1, branch: 1 };
    let op =
        Attention { tree, heads: 2, kv_heads: 1, mask: None, turns: [x(4, 2), x(4, 2)] };
    let refusal = |op: &Attention, q: Tensor| {
        op.forward(&q, &x(8, 4), &x(8, 4)).unwrap_err().to_string()
    };
    op.forward(&x(8, 8), &x(8, 4), &x(8, 4)).unwrap();
    assert!(refusal(&op, x(7, 8)).contains("q is [7, 8]; it must be [8, 8]"));
    let short = Attention { turns: [x(3, 2), x(3, 2)], ..op.clone() };
    assert!(
        refusal(&short, x(8, 8)).contains("the angles are [3, 2]; they must be [4, 2]")
    );
    let mask = Tensor::ones((2, 4), DType::U8, &Cpu).unwrap();
    let masked = Attention { mask: Some(mask), ..op };
    assert!(refusal(&masked, x(8, 8)).contains("mask is [2, 4] and must be [2, 3]"));
}

/// What a group has in common is read once: values and gradients stay.
#[test]
fn a_prompt_shared_by_its_group_is_the_same_prompt() {
    let ids = |rows: &[[u32; 3]]| {
        Tensor::new(rows.concat(), &Cpu).unwrap().reshape((rows.len(), 3)).unwrap()
    };
    let masks = Tensor::new(&[[0u8, 1, 1], [1, 1, 1]], &Cpu).unwrap();
    for model in MODELS {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-10)] {
            for mask in [None, Some(masks.clone())] {
                let decoder =
                    Decoder::new(&tiny(model), &mut seed::rng(3), dtype, &Cpu).unwrap();
                let prompts = ids(&[[6, 2, 3], [1, 4, 4]]);
                let tokens = ids(&[
                    [5, 0, 1],
                    [2, 6, 6],
                    [1, 1, 1],
                    [3, 0, 0],
                    [4, 2, 5],
                    [6, 5, 1],
                ]);
                let shared =
                    decoder.score_groups(&prompts, mask.as_ref(), &tokens, 0.8).unwrap();
                let order = Tensor::new(&[0u32, 0, 0, 1, 1, 1], &Cpu).unwrap();
                let spread = |x: &Tensor| x.index_select(&order, 0).unwrap();
                let (rows, row_mask) = (spread(&prompts), mask.as_ref().map(spread));
                let alone =
                    decoder.score_groups(&rows, row_mask.as_ref(), &tokens, 0.8).unwrap();
                let found = decoder.score(&rows, row_mask.as_ref(), &tokens, 0.8).unwrap();
                assert_eq!(numbers(&found.log_probs), numbers(&shared.log_probs));
                for (a, b) in [
                    (&shared.log_probs, &alone.log_probs),
                    (shared.entropy.as_ref().unwrap(), alone.entropy.as_ref().unwrap()),
                ] {
                    let error = worst(&numbers(a), &numbers(b));
                    assert!(error < tolerance, "{model} {dtype:?}: {error}");
                }
                let [a, b] = [&shared.log_probs, &alone.log_probs].map(|x| {
                    gradients::of(&weighed(x).unwrap(), decoder.variables()).unwrap()
                });
                for (name, v) in decoder.variables() {
                    let error =
                        worst(&numbers(a.get(v).unwrap()), &numbers(b.get(v).unwrap()));
                    assert!(error < tolerance, "{model} {dtype:?} {name}: {error}");
                }
            }
        }
    }
}

/// A frozen weight costs no product in the backward pass.
#[test]
fn frozen_weights_get_no_gradient() {
    let base = Decoder::new(&tiny("qwen2"), &mut seed::rng(3), DType::F32, &Cpu).unwrap();
    let settings =
        lora::Settings { rank: 2, alpha: 4.0, targets: vec!["q_proj".to_string()] };
    let mut rng = seed::rng(4);
    let lora =
        lora::Lora::new(settings, base.config(), &mut rng, DType::F32, &Cpu).unwrap();
    let policy = base.adapted(lora).unwrap();
    let tokens = Tensor::new(&[[1u32, 2, 3]], &Cpu).unwrap();
    let loss = policy.logits(&tokens).unwrap().sum_all().unwrap();
    let gradients = gradients::of(&loss, policy.variables()).unwrap();
    for variable in base.variables().values() {
        assert!(gradients.get(variable).is_none());
    }
}
