//! The named variants as rows of one table.
//!
//! Left out: what a paper changes besides the loss (sampling until no group is silent,
//! rewards that fall with length), because that belongs to the loop and to the reward.

use super::{
    Aggregation::{ConstantLength, GlobalTokens, LengthWeighted, SequenceMean, TokenMean},
    Kl, Objective, Ratio, Term,
};
use crate::{Result, advantage::Scale};
use anyhow::Context;

/// A variant: its name, how it scales rewards, and its objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// The name, as TRL writes it.
    pub name: &'static str,
    /// What [`crate::advantage::group_relative`] divides by.
    pub scale: Scale,
    /// The four choices.
    pub objective: Objective,
}

/// All recipes. `max_length` is the most tokens that a completion may have; only
/// Dr. GRPO divides by it.
///
/// The numbers are those of the papers; where a paper leaves one open, TRL's default.
// ANCHOR: recipes
pub fn recipes(max_length: usize) -> [Recipe; 9] {
    use Ratio::{Sequence, Token};
    const STD: Scale = Scale::Trl;
    const CENTRE: Scale = Scale::None;
    let clip = |low, high| Term::Clip { low, high, bound: None };
    let constant = ConstantLength(max_length);
    let cispo = Term::Cispo { cap: 5.0 };
    // TRL keeps τ in single precision, where 1.05 is 1.0499999523.
    let sapo = Term::Sapo { tau_positive: 1.0, tau_negative: f64::from(1.05f32) };
    let vespo = Term::Vespo { positive: (2.0, 3.0), negative: (3.0, 2.0) };
    #[rustfmt::skip]
    let table = [
        //   name       rewards ratio     term                aggregation     β
        row("grpo",    STD,    Token,    clip(0.2, 0.2),     SequenceMean,   0.04),
        row("bnpo",    STD,    Token,    clip(0.2, 0.2),     TokenMean,      0.0),
        row("dr_grpo", CENTRE, Token,    clip(0.2, 0.2),     constant,       0.0),
        row("dapo",    STD,    Token,    clip(0.2, 0.28),    GlobalTokens,   0.0),
        row("gspo",    STD,    Sequence, clip(3e-4, 4e-4),   SequenceMean,   0.0),
        row("luspo",   STD,    Sequence, clip(2e-3, 2.5e-3), LengthWeighted, 0.0),
        row("cispo",   STD,    Token,    cispo,              GlobalTokens,   0.0),
        row("sapo",    STD,    Token,    sapo,               SequenceMean,   0.0),
        row("vespo",   STD,    Token,    vespo,              GlobalTokens,   0.0),
    ];
    table
}
// ANCHOR_END: recipes

/// The recipe with this name.
///
/// # Errors
/// Lists the names.
///
/// ```
/// use grpo::objective::{Aggregation, recipe};
/// let dapo = recipe("dapo", 24).unwrap().objective;
/// assert_eq!(dapo.aggregation, Aggregation::GlobalTokens);
/// assert!(recipe("ppo", 24).unwrap_err().to_string().contains("grpo, bnpo, dr_grpo, dapo"));
/// ```
pub fn recipe(name: &str, max_length: usize) -> Result<Recipe> {
    let all = recipes(max_length);
    all.into_iter().find(|recipe| recipe.name == name).with_context(|| {
        let names = all.map(|recipe| recipe.name).join(", ");
        format!("there is no objective `{name}`; it must be one of {names}")
    })
}

fn row(
    name: &'static str,
    scale: Scale,
    ratio: Ratio,
    term: Term,
    aggregation: super::Aggregation,
    kl_coef: f64,
) -> Recipe {
    let kl = Kl::new(kl_coef);
    let objective = Objective { ratio, term, aggregation, kl, off_policy_threshold: None };
    Recipe { name, scale, objective }
}
