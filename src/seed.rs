//! Where all randomness comes from: one seed, one generator.
//!
//! Candle's own CPU generator cannot be seeded, so initial weights, data and samples
//! are all drawn from a [`StdRng`] and handed to Candle as numbers. Two runs with one
//! seed then print the same bytes.
//!
//! A learning claim needs several seeds. [`over_seeds`] runs them side by side, one
//! thread a seed; each result depends on its seed alone, so the number of cores
//! changes the time and nothing else.
//!
//! Left out: saving the state of a generator, because a run that must resume derives
//! a fresh [`stream`] from its seed and its step number instead.

use crate::{Result, shards};
use candle_core::{DType, Device, Shape, Tensor};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;

/// The generator of a run.
///
/// ```
/// use rand::Rng;
/// let (mut a, mut b) = (grpo::seed::rng(7), grpo::seed::rng(7));
/// assert_eq!(a.random::<u64>(), b.random::<u64>());
/// ```
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// An independent generator for one piece of a run, named by numbers such as
/// (step, prompt, completion). The same name gives the same numbers in any order of
/// evaluation, on any number of threads.
///
/// ```
/// use rand::Rng;
/// let mut first = grpo::seed::stream(7, &[0, 1]);
/// let mut second = grpo::seed::stream(7, &[1, 0]);
/// assert_ne!(first.random::<u64>(), second.random::<u64>());
/// ```
pub fn stream(seed: u64, name: &[u64]) -> StdRng {
    // SplitMix64's finaliser: every bit of the input reaches every bit of the output.
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let fold = |state: u64, part: &u64| {
        mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(*part))
    };
    StdRng::seed_from_u64(name.iter().fold(mix(seed), fold))
}

/// A tensor of independent normal numbers with mean 0 and standard deviation `std`.
///
/// # Errors
/// Passes on Candle's error when the tensor cannot be made.
pub fn normal(
    rng: &mut StdRng,
    shape: impl Into<Shape>,
    std: f64,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f64> = (0..shape.elem_count())
        .map(|_| std * rng.sample::<f64, _>(StandardNormal))
        .collect();
    Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
}

/// Runs `f` once for every seed `0..seeds`, on as many threads as there are cores,
/// and returns the results in the order of the seeds: [`shards::run`] by another name.
///
/// # Errors
/// The error of the lowest seed that failed.
///
/// ```
/// let squares = grpo::seed::over_seeds(3, |seed| Ok(seed * seed)).unwrap();
/// assert_eq!(squares, [0, 1, 4]);
/// ```
pub fn over_seeds<T: Send>(
    seeds: u64,
    f: impl Fn(u64) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    shards::run(seeds as usize, |seed| f(seed as u64))
}
