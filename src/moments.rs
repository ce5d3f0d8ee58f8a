//! Exact mean and variance of a gradient estimate, summed over everything that can
//! happen.
//!
//! ```text
//! mean     = Σ p ĝ
//! variance = Σ p ‖ĝ‖² − ‖mean‖²        summed over the parameters
//! ```
//!
//! Left out: estimates from samples. Where outcomes can be counted, nothing need be
//! estimated.

/// Sums over outcomes, each added with its probability.
///
/// ```
/// // A coin that gives the gradient (1, 0) or (0, 1).
/// let mut moments = grpo::moments::Moments::default();
/// moments.add(0.5, &[1.0, 0.0]);
/// moments.add(0.5, &[0.0, 1.0]);
/// assert_eq!(moments.mean, [0.5, 0.5]);
/// assert!((moments.variance() - 0.5).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// The mean gradient, one number for each parameter.
    pub mean: Vec<f64>,
    square: f64,
}

impl Moments {
    /// Adds an outcome: its probability, and the gradient that is then estimated. All
    /// gradients have the same length.
    pub fn add(&mut self, probability: f64, gradient: &[f64]) {
        self.mean.resize(gradient.len(), 0.0);
        self.mean.iter_mut().zip(gradient).for_each(|(m, g)| *m += probability * g);
        self.square += probability * gradient.iter().map(|g| g * g).sum::<f64>();
    }

    /// Length of the mean gradient: the signal.
    pub fn length(&self) -> f64 {
        self.mean.iter().map(|g| g * g).sum::<f64>().sqrt()
    }

    /// Total variance, summed over the parameters.
    pub fn variance(&self) -> f64 {
        self.square - self.length().powi(2)
    }

    /// Length of the mean over the standard deviation.
    pub fn signal_to_noise(&self) -> f64 {
        self.length() / self.variance().sqrt()
    }
}
