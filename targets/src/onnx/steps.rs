//! The files of one model, each for another number of tokens.

use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_shape_proto::dimension::Value;
use onnx_protobuf::type_proto;

use super::EXTENSION;
use super::read::{Place, ReadError, Whole};
use super::schema::TOKENS;

/// The file at `path` and those beside it that are called after it (`model_4.onnx` beside `model.onnx`), with the number
/// of tokens that each is for; nothing for one that takes any.
///
/// # Errors
/// When one cannot be read, or has no input for tokens.
pub fn steps(path: &Path) -> Result<Vec<(PathBuf, Option<usize>)>, ReadError> {
    let mut files = vec![path.to_path_buf()];
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned() + "_";
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let beside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut beside: Vec<PathBuf> = beside.filter(|file| is_step(file, &stem)).collect();
    beside.sort();
    files.append(&mut beside);
    files.into_iter().map(|file| Ok((file.clone(), tokens(&file)?))).collect()
}

/// Whether a file is called `stem`, a number, and the ending.
fn is_step(file: &Path, stem: &str) -> bool {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let number =
        name.strip_prefix(stem).filter(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    number.is_some() && file.extension().is_some_and(|ending| ending == EXTENSION)
}

/// The number of tokens of a step.
fn tokens(file: &Path) -> Result<Option<usize>, ReadError> {
    let model = Whole::open(file)?.model;
    let input = model.graph.iter().flat_map(|graph| &graph.input).find(|input| input.name == TOKENS);
    let ty = input.and_then(|input| input.type_.as_ref()).and_then(|ty| ty.value.as_ref());
    let dims = match ty {
        Some(type_proto::Value::TensorType(tensor)) => tensor.shape.dim.as_slice(),
        _ => &[],
    };
    let [_, tokens] = dims else { return Err(Place::Graph.missing("an input of tokens [1, T]")) };
    Ok(match tokens.value {
        Some(Value::DimValue(size)) => usize::try_from(size).ok(),
        _ => None,
    })
}
