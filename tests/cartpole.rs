//! CartPole against trajectories recorded from Gymnasium's CartPole-v1.

use grpo::env::{
    End,
    cartpole::{self, CartPoles, MAX_STEPS, State},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    episodes: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    seed: u64,
    policy: String,
    initial_state: State,
    actions: String,
    states: Vec<State>,
    steps: usize,
    terminated: bool,
    truncated: bool,
}

fn recorded() -> Vec<Recorded> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cartpole.json");
    let text = std::fs::read_to_string(path).expect("the fixture is there");
    serde_json::from_str::<Fixture>(&text).expect("the fixture parses").episodes
}

fn largest_difference(a: State, b: State) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

impl Recorded {
    /// (before, pushed right, after), every state as recorded.
    fn transitions(&self) -> impl Iterator<Item = (State, bool, State)> {
        let before = std::iter::once(&self.initial_state).chain(&self.states);
        let right = self.actions.chars().map(|action| action == '1');
        before.zip(right).zip(&self.states).map(|((b, right), a)| (*b, right, *a))
    }

    fn end(&self) -> End {
        match (self.terminated, self.truncated) {
            (true, _) => End::Terminated,
            (false, true) => End::Truncated,
            (false, false) => End::Running,
        }
    }
}

#[test]
fn every_step_agrees_with_gymnasium() {
    for episode in recorded() {
        for (t, (before, right, after)) in episode.transitions().enumerate() {
            let error = largest_difference(cartpole::step(before, right), after);
            assert!(error < 1e-11, "seed {} step {t}: off by {error:e}", episode.seed);
        }
    }
}

#[test]
fn short_episodes_agree_from_start_to_end() {
    let mut compared = 0;
    for episode in recorded().iter().filter(|e| e.steps <= 60) {
        let mut carts = CartPoles::new(vec![episode.initial_state]);
        for (t, (_, right, after)) in episode.transitions().enumerate() {
            assert_eq!(carts.running(), [0], "seed {} ended before step {t}", episode.seed);
            carts.step(&[u32::from(right)]).unwrap();
            let error = largest_difference(carts.states()[0], after);
            assert!(error < 1e-11, "seed {} step {t}: off by {error:e}", episode.seed);
        }
        assert_eq!((carts.steps()[0], carts.ends()[0]), (episode.steps, episode.end()));
        compared += 1;
    }
    assert!(compared > 0, "no short episode in the fixture");
}

#[test]
fn all_episodes_together_are_each_alone() {
    // Recorded actions for as long as an episode is short; different lengths, so that
    // environments drop out of the batch one by one.
    let episodes: Vec<_> = recorded().into_iter().filter(|e| e.steps <= 60).collect();
    let actions: Vec<Vec<u32>> = episodes
        .iter()
        .map(|e| e.actions.chars().map(|a| u32::from(a == '1')).collect())
        .collect();
    let mut carts = CartPoles::new(episodes.iter().map(|e| e.initial_state).collect());
    while !carts.running().is_empty() {
        let now = |&i: &usize| actions[i][carts.steps()[i]];
        carts.step(&carts.running().iter().map(now).collect::<Vec<_>>()).unwrap();
    }
    for (i, episode) in episodes.iter().enumerate() {
        let last = *episode.states.last().unwrap();
        assert!(largest_difference(carts.states()[i], last) < 1e-11);
        assert_eq!((carts.steps()[i], carts.ends()[i]), (episode.steps, episode.end()));
    }
}

/// The rule that survives: push to where the pole is and to where it is going.
fn angle_and_spin(states: &[[f32; 4]]) -> grpo::Result<Vec<u32>> {
    Ok(states.iter().map(|s| u32::from(s[2] + s[3] > 0.0)).collect())
}

#[test]
fn five_hundred_steps_are_a_truncation_and_not_a_fall() {
    // Recorded episodes of this rule are run again in closed loop: their actions cannot
    // be replayed, because an upright pole magnifies every rounding error.
    for episode in recorded().iter().filter(|e| e.policy == "pd") {
        let played =
            cartpole::rollout(vec![episode.initial_state], angle_and_spin).unwrap();
        assert_eq!((played.steps[0], played.ends[0]), (episode.steps, episode.end()));
    }
    let starts = recorded().iter().map(|e| e.initial_state).collect();
    let played = cartpole::rollout(starts, angle_and_spin).unwrap();
    let whole = played.steps.iter().filter(|steps| **steps == MAX_STEPS).count();
    assert!(whole >= 8, "only {whole} of 10 starts survived: {:?}", played.steps);
    for (steps, end) in played.steps.iter().zip(&played.ends) {
        let expected = if *steps == MAX_STEPS { End::Truncated } else { End::Terminated };
        assert_eq!(*end, expected, "after {steps} steps");
    }
}

#[test]
fn the_limits_are_those_of_gymnasium() {
    let at = |x, angle| cartpole::fallen([x, 0.0, angle, 0.0]);
    assert!(!at(2.4, 0.0) && at(2.4 + 1e-9, 0.0) && at(-2.4 - 1e-9, 0.0));
    assert!(
        !at(0.0, cartpole::MAX_ANGLE) && at(0.0, 0.209_439_511) && at(0.0, -0.209_439_511)
    );
}

#[test]
fn wrong_actions_are_refused_and_change_nothing() {
    let mut carts = CartPoles::new(vec![[0.0; 4]; 3]);
    let error = carts.step(&[0, 1]).unwrap_err().to_string();
    assert!(error.contains("3 actions are needed, not 2"), "{error}");
    let error = carts.step(&[0, 1, 2]).unwrap_err().to_string();
    assert!(error.contains("environment 2 is 2; it must be 0 or 1"), "{error}");
    assert_eq!((carts.states(), carts.steps()), (&[[0.0; 4]; 3][..], &[0; 3][..]));
}

#[test]
fn a_group_starts_from_one_state() {
    let starts = cartpole::group_starts(3, 4, &mut grpo::seed::rng(0));
    assert_eq!(starts.len(), 12);
    for group in starts.chunks(4) {
        assert!(group.iter().all(|start| start == &group[0]));
        assert!(group[0].iter().all(|x| x.abs() <= 0.05));
    }
    assert_ne!(starts[0], starts[4]);
    assert_eq!(starts, cartpole::group_starts(3, 4, &mut grpo::seed::rng(0)));
}
