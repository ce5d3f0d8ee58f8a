//! CartPole-v1: keep a pole upright by pushing the cart under it to the left or right.
//!
//! ```text
//! θ̈ = (g sin θ − u cos θ) / (l (4/3 − m cos²θ / M)),   u = (F + m l θ̇² sin θ) / M
//! ẍ = u − m l θ̈ cos θ / M
//! ```
//!
//! with g = 9.8, pole mass m = 0.1, cart and pole M = 1.1, half the pole l = 0.5 and a
//! push F of ±10, in steps of 0.02 s (Barto, Sutton and Anderson, 1983; constants and
//! order of updates as in Gymnasium, to the last digit). Every step earns a reward of
//! 1, the falling one included.
//!
//! N environments step together, and a policy sees all that still run as one batch.
//!
//! Left out: drawing, which is the business of the page, and a reset of single
//! environments in mid-rollout, because groups of whole episodes are what is compared.

use super::End;
use crate::{Result, policy::Policy, sampling};
use anyhow::ensure;
use candle_core::{Device, Tensor};
use rand::{Rng, rngs::StdRng};

/// Position of the cart in metres, its velocity, angle of the pole in radians (to the
/// right is positive), its angular velocity.
pub type State = [f64; 4];

/// An episode is cut off after so many steps.
pub const MAX_STEPS: usize = 500;
/// The pole has fallen beyond this angle: 12° in radians.
pub const MAX_ANGLE: f64 = 12.0 * 2.0 * std::f64::consts::PI / 360.0;
/// The cart has left the track beyond this distance from its middle.
pub const MAX_POSITION: f64 = 2.4;

const GRAVITY: f64 = 9.8;
const POLE_MASS: f64 = 0.1;
const TOTAL_MASS: f64 = 1.0 + POLE_MASS;
const HALF_LENGTH: f64 = 0.5;
const PUSH: f64 = 10.0;
const SECONDS: f64 = 0.02;

/// Draws a start: four numbers between −0.05 and 0.05.
pub fn start(rng: &mut StdRng) -> State {
    std::array::from_fn(|_| rng.random_range(-0.05..=0.05))
}

/// Starts for `groups` groups of `group_size` episodes: within a group all are the same,
/// and they stand next to each other.
pub fn group_starts(groups: usize, group_size: usize, rng: &mut StdRng) -> Vec<State> {
    (0..groups).flat_map(|_| vec![start(rng); group_size]).collect()
}

// ANCHOR: step
/// The state 0.02 s later, after a push to the right or to the left.
pub fn step([x, v, angle, spin]: State, right: bool) -> State {
    let push = if right { PUSH } else { -PUSH };
    let (sin, cos) = angle.sin_cos();
    let moment = POLE_MASS * HALF_LENGTH;
    let u = (push + moment * (spin * spin) * sin) / TOTAL_MASS;
    let angular = (GRAVITY * sin - cos * u)
        / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS));
    let linear = u - moment * angular * cos / TOTAL_MASS;
    // Positions move with the old velocities: explicit Euler, as in the original.
    let change = [v, linear, spin, angular];
    std::array::from_fn(|i| [x, v, angle, spin][i] + SECONDS * change[i])
}
// ANCHOR_END: step

/// Whether the pole has fallen or the cart has left the track.
pub fn fallen([x, _, angle, _]: State) -> bool {
    x.abs() > MAX_POSITION || angle.abs() > MAX_ANGLE
}

/// N carts with their poles.
///
/// ```
/// use grpo::env::{End, cartpole::CartPoles};
/// let mut carts = CartPoles::new(vec![[0.0; 4]; 2]);
/// while !carts.running().is_empty() {
///     carts.step(&vec![1; carts.running().len()]).unwrap(); // always to the right
/// }
/// assert_eq!(carts.steps(), [9, 9]);
/// assert_eq!(carts.ends(), [End::Terminated; 2]);
/// ```
#[derive(Debug, Clone)]
pub struct CartPoles {
    states: Vec<State>,
    steps: Vec<usize>,
    ends: Vec<End>,
    running: Vec<usize>,
}

impl CartPoles {
    /// One environment for each start (N, 4), none of which should have fallen.
    pub fn new(starts: Vec<State>) -> Self {
        let n = starts.len();
        let (steps, ends) = (vec![0; n], vec![End::Running; n]);
        Self { states: starts, steps, ends, running: (0..n).collect() }
    }

    /// Which environments still run, in ascending order.
    pub fn running(&self) -> &[usize] {
        &self.running
    }

    /// All states (N, 4). Those of finished episodes stay as they ended.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// How many steps each episode (N) has lasted, which is also its return.
    pub fn steps(&self) -> &[usize] {
        &self.steps
    }

    /// How each episode (N) ended. A fall on the very last step is a fall.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    // ANCHOR: together
    /// One step of every running environment; `actions` holds one action for each of
    /// them, in their order: 0 pushes to the left, 1 to the right.
    ///
    /// # Errors
    /// Says how many actions are needed, or which action is neither 0 nor 1.
    pub fn step(&mut self, actions: &[u32]) -> Result<()> {
        let (n, running) = (actions.len(), self.running.len());
        ensure!(
            n == running,
            "{running} environments run, so {running} actions are needed, not {n}"
        );
        for (&i, &action) in self.running.iter().zip(actions) {
            ensure!(action < 2, "action of environment {i} is {action}; it must be 0 or 1");
        }
        for (&i, &action) in self.running.iter().zip(actions) {
            self.states[i] = step(self.states[i], action == 1);
            self.steps[i] += 1;
            self.ends[i] = match (fallen(self.states[i]), self.steps[i]) {
                (true, _) => End::Terminated,
                (false, MAX_STEPS) => End::Truncated,
                (false, _) => End::Running,
            };
        }
        self.running.retain(|&i| self.ends[i] == End::Running);
        Ok(())
    }
    // ANCHOR_END: together
}

/// N finished episodes, with all S of their steps in the order in which they happened:
/// the first step of every episode, then the second of those that still ran, and so on.
#[derive(Debug, Clone)]
pub struct Episodes {
    /// What was seen before each step (S, 4), in single precision as a policy sees it.
    pub states: Vec<[f32; 4]>,
    /// What was done (S).
    pub actions: Vec<u32>,
    /// Which episode each step belongs to (S).
    pub episode: Vec<usize>,
    /// Steps survived, one number for each episode (N): its return.
    pub steps: Vec<usize>,
    /// How each episode ended (N).
    pub ends: Vec<End>,
    /// The state in which each episode ended (N, 4).
    pub last: Vec<State>,
}

impl Episodes {
    /// The returns as numbers (N).
    pub fn returns(&self) -> Vec<f64> {
        self.steps.iter().map(|&steps| steps as f64).collect()
    }

    /// The steps of episode `i`, as (state before, action).
    pub fn trace(&self, i: usize) -> Vec<([f32; 4], u32)> {
        let all = self.episode.iter().zip(self.states.iter().zip(&self.actions));
        all.filter(|(episode, _)| **episode == i).map(|(_, (s, a))| (*s, *a)).collect()
    }
}

// ANCHOR: rollout
/// Plays one episode from each start until all have ended. `act` is given the states
/// (R, 4) of the R episodes that still run and answers with R actions.
///
/// # Errors
/// Passes on the errors of `act`, and refuses actions that are not 0 or 1.
///
/// ```
/// let right = |states: &[[f32; 4]]| Ok(vec![1; states.len()]);
/// let played = grpo::env::cartpole::rollout(vec![[0.0; 4]; 2], right).unwrap();
/// assert_eq!(played.steps, [9, 9]);
/// ```
pub fn rollout(
    starts: Vec<State>,
    mut act: impl FnMut(&[[f32; 4]]) -> Result<Vec<u32>>,
) -> Result<Episodes> {
    let mut carts = CartPoles::new(starts);
    let (mut states, mut actions, mut episode) = (Vec::new(), Vec::new(), Vec::new());
    while !carts.running().is_empty() {
        let seen = states.len();
        let single = |&i: &usize| carts.states()[i].map(|x| x as f32);
        states.extend(carts.running().iter().map(single));
        let chosen = act(&states[seen..])?;
        episode.extend(carts.running());
        carts.step(&chosen)?;
        actions.extend(chosen);
    }
    let CartPoles { steps, ends, states: last, .. } = carts;
    Ok(Episodes { states, actions, episode, steps, ends, last })
}
// ANCHOR_END: rollout

/// States as one batch (N, 4) of dtype `F32`.
///
/// # Errors
/// Passes on Candle's error when the tensor cannot be made.
pub fn batch(states: &[[f32; 4]], device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_slice(states.as_flattened(), (states.len(), 4), device)?)
}

// ANCHOR: sampled
/// Draws actions from a policy that reads (N, 4) and returns logits (N, 2): what
/// [`rollout`] asks for.
pub fn sampled<'a>(
    policy: &'a impl Policy,
    rng: &'a mut StdRng,
    device: &'a Device,
) -> impl FnMut(&[[f32; 4]]) -> Result<Vec<u32>> + 'a {
    |states| {
        let logits = policy.logits(&batch(states, device)?)?;
        Ok(sampling::sample(&logits, rng)?.to_vec1()?)
    }
}
// ANCHOR_END: sampled
