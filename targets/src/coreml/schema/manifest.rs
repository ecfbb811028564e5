//! `Manifest.json`: the items of a package.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the manifest's format.
pub(crate) const VERSION: &str = "1.0.0";

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    /// [`VERSION`].
    pub(crate) file_format_version: String,
    /// Items by identifier.
    pub(crate) item_info_entries: BTreeMap<String, Item>,
    /// The item that is the model.
    pub(crate) root_model_identifier: String,
}

/// A file or folder below `Data/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    /// Who uses it.
    pub(crate) author: String,
    /// What it is.
    pub(crate) description: String,
    /// Its name.
    pub(crate) name: String,
    /// `author/name`.
    pub(crate) path: String,
}

impl Manifest {
    /// That of every package: a model and its weights. The identifiers are always the same, so that equal packages are
    /// equal byte for byte; they need to differ within a package only.
    pub(crate) fn new() -> Manifest {
        const MODEL: &str = "D1FF0001-0000-8000-8000-000000000001";
        const WEIGHTS: &str = "D1FF0001-0000-8000-8000-000000000002";
        let item = |name: &str, description: &str| Item {
            author: "com.apple.CoreML".into(),
            description: description.into(),
            name: name.into(),
            path: format!("com.apple.CoreML/{name}"),
        };
        let items = [
            (MODEL.to_string(), item("model.mlmodel", "CoreML Model Specification")),
            (WEIGHTS.to_string(), item("weights", "CoreML Model Weights")),
        ];
        Manifest {
            file_format_version: VERSION.into(),
            item_info_entries: items.into(),
            root_model_identifier: MODEL.into(),
        }
    }
}
