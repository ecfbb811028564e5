//! Builds: from a recipe to folders that run by themselves.
//!
//! 1. [`plan`] reads the recipe and opens each checkpoint; a [`Plan`] knows all that can change a build's bytes.
//! 2. `freshness` compares that with the manifest of an earlier build.
//! 3. [`run`] compiles and writes what is stale, the manifest last.
//!
//! [`forecast()`] tells sizes before there is a checkpoint.

mod agreement;
mod calibrate;
mod check;
mod context;
mod digests;
mod emit;
mod estimate;
mod forecast;
mod freshness;
mod job;
pub mod lints;
mod lock;
mod plan;
mod recipes;
mod refused;
pub mod schedule;

pub use context::MakeContext;
pub(crate) use digests::Digests;
pub use digests::Progress;
pub use emit::{export, foreseen, run, weigh};
pub use estimate::{Estimate, fits, fits_disk, free_memory};
pub use forecast::{Forecast, Network, forecast};
pub use freshness::Freshness;
pub use job::{Compiled, Event, Job, compile, goes_through};
pub use lock::{LOCK, Lock, Locked};
pub(crate) use plan::inputs;
pub use plan::{Options, Plan, Planner, artifacts, folders, learn, plan};
pub use recipes::recipes;

/// This program and its version, as manifests name it.
pub(crate) fn tool() -> String {
    format!("diffulex-edge {}", env!("CARGO_PKG_VERSION"))
}
