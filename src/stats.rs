//! The few numbers that sum up many: what tables print and bands show.
//!
//! ```text
//! mean = 1/n Σ x        std² = 1/(n − 1) Σ (x − mean)²
//! ```
//!
//! Left out: quantiles other than the median, until a chapter needs them.

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

/// The middle number; of an even count, the mean of the two in the middle. NaN of none.
///
/// ```
/// assert_eq!(grpo::stats::median(&[3.0, 1.0, 2.0]), 2.0);
/// assert_eq!(grpo::stats::median(&[4.0, 1.0]), 2.5);
/// ```
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The 95 % confidence interval of a share, `count` of `n` (Wilson, 1927). Near 0 and 1
/// it stays between 0 and 1, which mean ± 2 standard errors does not.
///
/// ```
/// let (low, high) = grpo::stats::wilson(495, 500);
/// assert!((low - 0.9768).abs() < 1e-4 && (high - 0.9957).abs() < 1e-4);
/// ```
pub fn wilson(count: usize, n: usize) -> (f64, f64) {
    const Z: f64 = 1.959964;
    let n = n as f64;
    let (p, z2) = (count as f64 / n, Z * Z);
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    (middle - half, middle + half)
}
