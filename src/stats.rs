//! The two numbers that sum up many: what tables print and bands show.
//!
//! ```text
//! mean = 1/n Σ x        std² = 1/(n − 1) Σ (x − mean)²
//! ```
//!
//! Left out: medians, quantiles and confidence intervals, until a chapter needs them.

/// Mean and standard deviation (n − 1) of some numbers; the deviation of one number is 0.
///
/// ```
/// let (mean, std) = grpo::stats::mean_std(&[1.0, 2.0, 3.0]);
/// assert_eq!((mean, std), (2.0, 1.0));
/// ```
pub fn mean_std(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}
