//! The tool behind `cargo book`: it builds, serves, records and checks the book.
//!
//! Nothing on a page is typed by hand. Code is included from compiled files, outputs and figures are recorded from
//! runs, formulas are set while building, and the check fails when one of them no longer agrees.
//!
//! The library exists so that the tests can call each part on a small workspace of their own.
//!
//! Left out: any knowledge of the crate `grpo`, because a chapter's build must not wait for mdBook, nor the book's for
//! a tensor library.

pub mod anchors;
pub mod check;
pub mod compare;
pub mod directives;
pub mod exercises;
pub mod figures;
pub mod fingerprint;
pub mod html;
pub mod includes;
pub mod links;
pub mod math;
pub mod outputs;
pub mod preprocess;
pub mod problem;
pub mod record;
pub mod recording;
pub mod serve;
pub mod site;
pub mod tokens;
pub mod warnings;
pub mod workspace;
