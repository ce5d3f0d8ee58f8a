//! Operations written by hand, with a backward pass by hand.
//!
//! Each has a slow version in Candle's own operations that it must agree with, and that
//! steps in on other devices.
//!
//! Left out: GPU kernels, because the slow versions are fast there.

pub mod log_prob;
