//! The words that only recipes know.

use crate::choice::choices;

choices! {
    /// What a build is made for.
    TargetName {
        /// ExecuTorch with the XNNPACK delegate.
        Xnnpack = "xnnpack",
    }
}
