//! The arithmetic behind the ops: products, attention, norms, written once over [`simd::Simd`] and compiled for each
//! instruction set.
//!
//! * [`simd`]: sixteen `f32` lanes in plain Rust, on AVX-512 or AVX2 (`x86`), on ARM (`neon`), and the detection that
//!   picks one.
//! * [`rows`]: rows of numbers as they are stored (f32, f16, bf16), read sixteen at a time.
//! * [`dot`]: `x · wᵀ` for rows of `w`; [`linear`] spreads it over the cores.
//! * [`exp`], [`rowwise`]: the exponential, and what is computed row by row (norm, softmax, gates, rotation).
//! * [`attention`]: scores, softmax and mixture (`mix`) over keys and values that lie in pieces.
//!
//! Every sum has one order, whatever the number of tokens, threads or lanes the machine has: lane `l` adds the
//! elements `l, l + 16, …`, each step one fused multiply-add, and the lanes are added pairwise at the end. So a
//! row's result depends on nothing but the row, and all machines give the same bits. Each kernel has a slow, plain
//! reference in its tests.

pub(crate) mod attention;
pub(crate) mod dot;
pub(crate) mod exp;
pub(crate) mod linear;
mod mix;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod rows;
pub(crate) mod rowwise;
pub(crate) mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use simd::run;

/// Below this many multiply-adds (or their like) a second thread costs more than it gives.
pub(crate) const SMALL: usize = 1 << 16;
