//! Answers to the exercises of chapter 4.

// ANCHOR: by_hand
/// The mean is 1/4, so the rewards stand −1/4 or 3/4 from it. σ is √3/4 over n, and 1/2
/// over n − 1.
pub fn by_hand() -> [[f64; 4]; 2] {
    [[-0.577, -0.577, -0.577, 1.732], [-0.5, -0.5, -0.5, 1.5]]
}
// ANCHOR_END: by_hand

// ANCHOR: clipped
/// Cutting comes last: a reward that was cut first would move the mean and σ.
pub fn clipped(rewards: &[f64], limit: f64) -> Vec<f64> {
    if rewards.iter().all(|&reward| reward == rewards[0]) {
        return vec![0.0; rewards.len()];
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0)).sqrt();
    rewards
        .iter()
        .map(|reward| ((reward - mean) / deviation).clamp(-limit, limit))
        .collect()
}
// ANCHOR_END: clipped
