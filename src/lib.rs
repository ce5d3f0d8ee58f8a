//! The library that the chapters of *GRPO from Scratch in Rust* share.
//!
//! Each module holds one concept and imports only from the floors below it:
//!
//! ```text
//! rollout · update                       sample, score, remember; then take steps
//! ppo · dpo · reward_model               what came before, and beside
//! objective                              one loss, four choices
//! checkpoint · lm                        a run on disk; a language model
//! policy · env                           what is trained, and where
//! backward                               gradients of a batch in shards
//! log_prob · mask · kl · sampling        tensors begin here
//! ops                                    what is slow in Candle, by hand
//! gradients · optim · variables          training steps
//! reward · task                          plain words
//! advantage · memory · moments           plain numbers
//! cli · report · plot                    the ground floor: what a run takes and leaves
//! device · seed · stats
//! shards                                 work over the cores
//! ```
//!
//! Errors are [`anyhow`] errors: a reader of this book wants a sentence that says
//! what was wrong and what is allowed, and nobody matches on the kinds.
//!
//! Left out: prelude and re-exports, because a path such as
//! `grpo::advantage::gae` tells you which file to open.

pub mod advantage;
pub mod backward;
pub mod checkpoint;
pub mod cli;
pub mod device;
pub mod dpo;
pub mod env;
pub mod gradients;
pub mod kl;
pub mod lm;
pub mod log_prob;
pub mod mask;
pub mod memory;
pub mod moments;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod plot;
pub mod policy;
pub mod ppo;
pub mod report;
pub mod reward;
pub mod reward_model;
pub mod rollout;
pub mod sampling;
pub mod seed;
pub mod shards;
pub mod stats;
pub mod task;
pub mod update;
pub mod variables;

/// Candle asks for memory and gives it back at every operation. The system's allocator
/// returns the large pieces to the kernel each time, where threads wait for each other;
/// this one keeps them. Two threads then train twice as fast, not slower than one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The result of everything in this crate that can fail.
pub type Result<T> = anyhow::Result<T>;
