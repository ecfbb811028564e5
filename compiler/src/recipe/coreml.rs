//! `[target.coreml]`: what a Core ML package can be asked to be.

use super::diagnostic::Diagnostic;
use super::inherit::Settings;
use super::source::{Located, Origin};
use crate::choice::choices;

choices! {
    /// The oldest system that must run a package; macOS, watchOS and tvOS of the same year count alike.
    Deployment {
        /// No compressed weights; inputs and outputs are `fp32`.
        Ios15 = "ios15",
        /// `int8` weights; inputs and outputs are `fp16`, from here on.
        Ios16 = "ios16",
        /// The same.
        Ios17 = "ios17",
        /// `int4` weights, states, fused attention, several functions.
        Ios18 = "ios18",
        /// The same.
        Ios26 = "ios26",
    }
}

choices! {
    /// How the mean of squares of a norm is computed.
    Norm {
        /// In `fp16`, by `layer_norm` over `(x, −x)`, whose mean is 0 and whose variance is the mean of squares: nothing
        /// is squared that could exceed 65504, and the Neural Engine computes it.
        Half = "half",
        /// In `fp32`, between two casts, which take the graph apart into regions: more exact, slower.
        Single = "single",
    }
}

choices! {
    /// How attention is written.
    Attention {
        /// Two matrix products and a softmax.
        Decomposed = "decomposed",
        /// `scaled_dot_product_attention`, which needs iOS 18.
        Fused = "fused",
    }
}

choices! {
    /// Who keeps the committed rows.
    Interface {
        /// The host: a step is given all rows and returns the new ones. A step changes nothing.
        Explicit = "explicit",
        /// The package, as states, which needs iOS 18: a step writes its rows at `write_pos`, over what an earlier step
        /// wrote there, and attends to all rows of the cache that the mask shows, its own among them.
        State = "state",
    }
}

choices! {
    /// The numbers of `int4` weights.
    Nibbles {
        /// Two's complement.
        Signed = "signed",
        /// Eight more, with an offset of 8 for each scale.
        Unsigned = "unsigned",
    }
}

choices! {
    /// How many tokens a step can have.
    Shapes {
        /// As many as `shape.prefill` says; the host pads.
        Static = "static",
        /// From 1 to that.
        Range = "range",
        /// One of several numbers.
        Enumerated = "enumerated",
        /// A function for each of several numbers, all with the same weights, which needs iOS 18.
        Functions = "functions",
    }
}

/// `[target.coreml]`
#[derive(Clone, Debug, PartialEq)]
pub struct Coreml {
    /// The oldest system that must run the package.
    pub deployment: Located<Deployment>,
    /// Who keeps the committed rows.
    pub interface: Located<Interface>,
    /// How norms are computed.
    pub norm: Located<Norm>,
    /// How attention is written.
    pub attention: Located<Attention>,
    /// The numbers of `int4` weights.
    pub nibbles: Located<Nibbles>,
    /// How many tokens a step can have.
    pub shapes: Located<Shapes>,
    /// The numbers of tokens that a step can have, beside `shape.prefill`, where there are several.
    pub lengths: Option<Located<Vec<Located<u32>>>>,
    /// Filters of more rows than this are split; 0 splits none.
    pub split_rows: Located<u32>,
    /// Packages that the layers are shared out to.
    pub parts: Located<u32>,
    /// A step has an input `row_ids` and makes logits of those only.
    pub select_rows: Located<bool>,
    /// Whether a check for a Mac stands beside the package.
    pub check: Located<bool>,
}

impl Coreml {
    /// What the recipe says, which `asked` needs.
    pub(super) fn read(settings: &Settings, asked: &Origin, out: &mut Vec<Diagnostic>) -> Option<Coreml> {
        let deployment = settings.need("target.coreml.deployment", Some(asked), out);
        let interface = settings.need("target.coreml.interface", Some(asked), out);
        let norm = settings.need("target.coreml.norm", Some(asked), out);
        let attention = settings.need("target.coreml.attention", Some(asked), out);
        let nibbles = settings.need("target.coreml.nibbles", Some(asked), out);
        let shapes = settings.need("target.coreml.shapes", Some(asked), out);
        let split_rows = settings.need("target.coreml.split_rows", Some(asked), out);
        let parts = settings.need("target.coreml.parts", Some(asked), out);
        let select_rows = settings.need("target.coreml.select_rows", Some(asked), out);
        let check = settings.need("target.coreml.check", Some(asked), out);
        Some(Coreml {
            deployment: deployment?,
            interface: interface?,
            norm: norm?,
            attention: attention?,
            nibbles: nibbles?,
            shapes: shapes?,
            lengths: settings.optional("target.coreml.lengths"),
            split_rows: split_rows?,
            parts: parts?,
            select_rows: select_rows?,
            check: check?,
        })
    }
}
