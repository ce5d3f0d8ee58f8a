//! Environment steps a second, the policy's forward pass and the sampling included:
//! `cargo bench --bench cartpole`.
//!
//! 64 environments step together under a fresh network 4-64-2, whose episodes are short
//! (about 20 steps), and under one that balances, whose episodes last.

use candle_core::{DType, Device};
use grpo::{
    Result,
    env::cartpole::{self, Episodes},
    policy::{Mlp, Policy},
    seed,
};
use std::time::Instant;

const ENVIRONMENTS: usize = 64;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let fresh = Mlp::new([4, 64, 2], &mut seed::rng(0), DType::F32, &device)?;
    report("64 environments, fresh policy", |rng| {
        play(&fresh, ENVIRONMENTS, rng, &device)
    })?;
    let balancing = balancing(&device)?;
    report("64 environments, balancing", |rng| {
        play(&balancing, ENVIRONMENTS, rng, &device)
    })?;
    report("1 environment, balancing", |rng| play(&balancing, 1, rng, &device))
}

fn play(
    policy: &Mlp,
    n: usize,
    rng: &mut rand::rngs::StdRng,
    device: &Device,
) -> Result<Episodes> {
    let starts = cartpole::group_starts(n, 1, rng);
    cartpole::rollout(starts, cartpole::sampled(policy, rng, device))
}

/// A network whose output is about 20 (θ + θ̇) in favour of pushing to the right.
fn balancing(device: &Device) -> Result<Mlp> {
    let policy = Mlp::new([4, 64, 2], &mut seed::rng(0), DType::F32, device)?;
    let set = |name: &str, values: Vec<f32>| -> Result<()> {
        let variable = &policy.variables()[name];
        Ok(variable.set(&candle_core::Tensor::from_vec(
            values,
            variable.shape(),
            device,
        )?)?)
    };
    set("hidden.weight", [0.0, 0.0, 0.5, 0.5].repeat(64))?;
    set("output.weight", [[-0.3; 64], [0.3; 64]].concat())?;
    Ok(policy)
}

/// The best of seven measurements of at least half a second each.
fn report(
    name: &str,
    mut play: impl FnMut(&mut rand::rngs::StdRng) -> Result<Episodes>,
) -> Result<()> {
    let mut rng = seed::rng(1);
    let mut best: f64 = 0.0;
    let mut length = 0.0;
    for _ in 0..7 {
        let (start, mut steps, mut episodes) = (Instant::now(), 0, 0);
        while start.elapsed().as_secs_f64() < 0.5 {
            let played = play(&mut rng)?;
            steps += played.actions.len();
            episodes += played.steps.len();
        }
        best = best.max(steps as f64 / start.elapsed().as_secs_f64());
        length = steps as f64 / episodes as f64;
    }
    println!("{name:<30} {:>6.2} M steps/s   episodes of {length:.0} steps", best / 1e6);
    Ok(())
}
