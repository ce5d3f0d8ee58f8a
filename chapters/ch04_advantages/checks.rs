//! What the exercises of chapter 4 must do.

#[allow(unused)]
mod exercises;
#[allow(unused)]
mod solutions;

use anyhow::{Result, ensure};

exercise::checks! {
    by_hand => by_hand(by_hand);
    clipped => clipped(clipped);
}

fn by_hand(yours: fn() -> [[f64; 4]; 2]) -> Result<()> {
    for (advantages, over) in yours().iter().zip(["n", "n − 1"]) {
        let sum: f64 = advantages.iter().sum();
        ensure!(
            sum.abs() < 0.01,
            "the advantages of a group must sum to 0; with σ over {over} yours sum to {sum:.3}: \
             did you subtract the mean?"
        );
    }
    let [population, sample] = yours();
    let squares: f64 = population.iter().map(|a| a * a).sum();
    ensure!(
        (squares - 4.0).abs() < 0.02,
        "with σ over n the mean square of the advantages is 1; yours is {:.3}",
        squares / 4.0
    );
    let squares: f64 = sample.iter().map(|a| a * a).sum();
    ensure!(
        (squares - 3.0).abs() < 0.02,
        "with σ over n − 1 the squares of four advantages sum to 3; yours sum to {squares:.3}"
    );
    ensure!(
        population[3] > 0.0 && sample[3] > 0.0,
        "the last answer was the right one; its advantages must be above 0"
    );
    for advantages in [population, sample] {
        ensure!(
            advantages[..3].iter().all(|a| (a - advantages[0]).abs() < 0.002),
            "the three wrong answers earned the same, so their advantages are equal"
        );
    }
    Ok(())
}

fn clipped(yours: fn(&[f64], f64) -> Vec<f64>) -> Result<()> {
    let advantages = yours(&[1.0, 1.0, 1.0], 2.0);
    ensure!(
        advantages == [0.0; 3],
        "three equal rewards must give advantages of exactly 0; yours are {advantages:?}: \
         what is σ there?"
    );
    // Numbers of TRL's fixture would end in + 1e-4; these are of the notebook's text.
    let advantages = yours(&[2.0, 3.5, 1.0, 4.0, 2.5], 10.0);
    let expected = [-0.5026, 0.7539, -1.3403, 1.1728, -0.0838];
    let sum: f64 = advantages.iter().sum();
    ensure!(
        sum.abs() < 1e-9,
        "the advantages of a group must sum to 0; yours sum to {sum:.4}: did you subtract the mean?"
    );
    ensure!(
        advantages.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-3),
        "rewards 2, 3.5, 1, 4, 2.5 have the advantages {expected:?} with σ over n − 1; \
         yours are {advantages:.4?}: did you divide by σ over n?"
    );
    let advantages = yours(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0], 1.5);
    let largest = advantages.iter().copied().fold(f64::MIN, f64::max);
    ensure!(
        (largest - 1.5).abs() < 1e-12,
        "seven rewards of 0 and one of 8: its advantage is 2.475 and must be cut to the limit \
         1.5; yours is {largest:.3}"
    );
    let smallest = advantages.iter().copied().fold(f64::MAX, f64::min);
    ensure!(
        (smallest + 0.3536).abs() < 1e-3,
        "only what lies beyond the limit is cut; the others there have −0.354 and yours {smallest:.3}: \
         did you cut the rewards, and not the advantages?"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_turns_get_the_message_for_them() {
        let says = |check: Result<()>, words: &str| {
            let message = check.unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        says(by_hand(|| [[0.0, 0.0, 0.0, 1.0]; 2]), "did you subtract the mean");
        says(by_hand(|| [[-0.5, -0.5, -0.5, 1.5]; 2]), "mean square");
        says(clipped(|r, _| r.to_vec()), "exactly 0");
        let uncut = |r: &[f64], _: f64| solutions::clipped(r, f64::INFINITY);
        says(clipped(uncut), "must be cut to the limit");
    }
}
