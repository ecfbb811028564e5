//! Tests.
mod net;
