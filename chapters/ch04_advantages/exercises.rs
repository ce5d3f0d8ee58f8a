//! Your answers to the exercises of chapter 4. `cargo exercise watch 4` checks them
//! each time you save.

// ANCHOR: by_hand
/// Three answers to a prompt are wrong, reward 0, and the last is right, reward 1.
/// Returns their four advantages, first with σ over n, then with σ over n − 1. Work them
/// out on paper, to three digits.
pub fn by_hand() -> [[f64; 4]; 2] {
    todo!()
}
// ANCHOR_END: by_hand

// ANCHOR: clipped
/// The advantages of one group, with σ over n − 1, cut to −`limit` ..= `limit`. A group
/// whose rewards are all equal has advantages of exactly 0.
pub fn clipped(rewards: &[f64], limit: f64) -> Vec<f64> {
    todo!()
}
// ANCHOR_END: clipped
