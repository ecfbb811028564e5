//! Context binaries: graphs of a bundle compiled for a chip, where Qualcomm's libraries are installed.

use std::path::Path;

use diffulex_targets::artifact::Bundle;
use diffulex_targets::qnn::{Options, Soc};

use crate::Error;

/// Compiles the graph of a file for a chip into a folder.
pub type MakeContext<'a> = dyn Fn(&Path, &Soc, &Path) -> Result<(), Error> + Sync + 'a;

/// Puts the contexts of all graphs for all chips into `bundle`, where the graphs lie.
///
/// # Errors
/// When one cannot be made or copied.
pub(super) fn put(
    bundle: &mut Bundle,
    graphs: &[String],
    options: &Options,
    make: &MakeContext<'_>,
) -> Result<(), Error> {
    for soc in &options.socs {
        let made = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        for graph in graphs {
            make(&bundle.hidden().join(graph), soc, made.path())?;
        }
        let entries = std::fs::read_dir(made.path()).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut files: Vec<_> =
            entries.map_err(Error::io(made.path()))?.into_iter().map(|entry| entry.file_name()).collect();
        files.sort();
        for file in files {
            bundle.copy(&format!("{}/{}", soc.name, file.display()), &made.path().join(&file))?;
        }
    }
    Ok(())
}
