//! `linear`: a product with a weight that stays where it is stored.

use std::sync::Arc;

use tract_core::internal::*;

use super::super::kernels::linear::linear;
use super::super::weights::Matrix;
use super::{Compute, View, tensor};

/// `x · wᵀ + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[N, K]`.
    pub(crate) w: Arc<Matrix>,
    /// `[N]`.
    pub(crate) bias: Option<Vec<f32>>,
}

impl Compute for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn compute(&self, args: &[View<'_>]) -> TractResult<Tensor> {
        let [x] = args else { bail!("linear takes one value") };
        tensor(&x.with_width(self.w.rows), |out| {
            self.w.read(|w| linear(w, x.data, self.w.columns, self.bias.as_deref(), out))?;
            Ok(())
        })
    }
}
