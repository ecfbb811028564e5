//! Families of models as modules.
//!
//! [`decoder`] is the skeleton that all families share; a family's file says only what differs: how its config.json
//! fills the skeleton.

pub mod decoder;
pub mod sdar;

pub use decoder::Decoder;
