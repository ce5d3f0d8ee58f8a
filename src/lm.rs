//! A small language model that can be trained: one decoder for Qwen2, Qwen3 and Llama.
//!
//! ```text
//! folder ──▶ config ──▶ decoder ──▶ logits            tokenizer: text ◀──▶ ids
//!                          ├──────▶ generate: completions with their log-probabilities
//!                 peft ──▶ lora     adapters, trained in place of the weights
//! ```
//!
//! Candle's own models give most of their variables no gradient, and do not say so: their
//! fused layers have no backward pass. Here everything on the trained path does; the
//! fused layers are used where no gradient is wanted, when sampling.
//!
//! Left out: other architectures and scaled rotary embeddings. A folder that asks for one
//! is refused by name, because a guess would run and be subtly wrong.

mod cache;
pub mod config;
pub mod decoder;
pub mod exam;
pub mod folder;
pub mod generate;
mod layers;
pub mod lora;
pub mod peft;
pub mod sft;
pub mod student;
pub mod tokenizer;
