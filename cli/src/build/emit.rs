//! Writing artifacts: the files of a compiled module, and what stands beside them in a build's folder.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use diffulex_compiler::generation::Generation;
use diffulex_compiler::ir::{self, Module};
use diffulex_compiler::recipe::Located;
use diffulex_targets::artifact::{self, ArtifactError, Bundle, Claim, Journal, Manifest, Origin};
use diffulex_targets::coreml::Lint;
use diffulex_targets::{Content, EmitError, Metadata, Planned, Target, Work, coreml, onnx, qnn};
use sha2::{Digest, Sha256};

use super::calibrate::CALIBRATION;
use super::check;
use super::context::{self, MakeContext};
use super::job::{self, Compiled, Event, Job};
use super::lints::allowed;
use super::lock::Locked;
use super::plan;
use crate::Error;
use crate::report::{REPORT, Report};

/// Builds the artifact's folder, with context binaries if `contexts` makes them or else says why there are none; gives
/// what is told of its weights. What was there before stays valid until the last file is in place. Where something is
/// `locked` the new one takes its place only if it is the same.
///
/// # Errors
/// As [`job::compile`], and when something cannot be written, or is not what is locked.
pub fn run(
    job: &Job,
    folder: &Path,
    contexts: Result<&MakeContext<'_>, &str>,
    locked: Option<&Locked>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Report, Error> {
    let claim = Claim::artifact(folder)?;
    let Compiled { module, calibration } = job::compile(job, None, observe)?;
    let planned = planned(job, &module, &job.build.name)?;
    observe(Event::Lints(&planned.lints()));
    let mut bundle = Bundle::create(claim, &key(job, &module))?;
    let journal = bundle.journal();
    let report = write(job, &planned, journal.as_deref(), &mut |name, content| bundle.write(name, content), observe)?;
    if let (Planned::Coreml(packages), true) = (&planned, job::checked(&job.build)) {
        check(&mut bundle, job, packages)?;
    }
    if let (Target::Qnn(options), false) = (job::target(&job.build), job::chips(&job.build).is_empty()) {
        match contexts {
            Ok(make) => context::put(&mut bundle, &graphs(&planned), &options, make)?,
            Err(why) => observe(Event::WithoutContexts(why)),
        }
    }
    if let Some(calibration) = calibration {
        bundle.write(CALIBRATION, |out| out.write_all(calibration.as_bytes()))?;
    }
    bundle.write(REPORT, |out| out.write_all(report.to_json().as_bytes()))?;
    let config = matches!(job::target(&job.build), Target::Qnn(_)).then(|| job.checkpoint.folder().join("config.json"));
    for file in plan::texts(&job.checkpoint).into_iter().chain(config) {
        bundle.copy(&file.file_name().unwrap_or_default().to_string_lossy(), &file)?;
    }
    bundle.write("generation.json", |out| out.write_all(generation_json(&job.generation).as_bytes()))?;
    if let Some(what) = locked.and_then(|locked| locked.other_outputs(bundle.files())) {
        let name = &job.build.name;
        return Err(Error::Usage(format!("{name}: what was built is not what is locked: {what}; the older one stays")));
    }
    let step = if let Planned::Onnx(files) = &planned { Some(files.step()) } else { None };
    bundle.finish(Manifest { step, ..manifest(job) })?;
    Ok(report)
}

/// The files of an artifact that are graphs of ONNX.
fn graphs(planned: &Planned<'_>) -> Vec<String> {
    let files = planned.files().into_iter().map(|(name, _)| name);
    files.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == onnx::EXTENSION)).collect()
}

/// What devices are known to do badly with the artifact of a job; nothing is written.
///
/// # Errors
/// As [`job::compile`].
pub fn foreseen(job: &Job) -> Result<Vec<Lint>, Error> {
    let Compiled { module, .. } = job::compile(job, None, &mut |_| {})?;
    Ok(planned(job, &module, &job.build.name)?.lints())
}

/// What a compiled module's weights become when it is written; nothing is.
///
/// # Errors
/// When a weight cannot be evaluated or stored.
pub fn weigh(job: &Job, module: &Module) -> Result<Report, Error> {
    let planned = planned(job, module, &job.build.name)?;
    let nowhere = &mut |name: &str, content: Content<'_>| {
        content(&mut std::io::sink()).map_err(|error| ArtifactError::Io { path: name.into(), error })
    };
    write(job, &planned, None, nowhere, &mut |_| {})
}

/// Writes the artifact alone, without a folder around it; gives what is told of its weights, and its size.
///
/// # Errors
/// As [`job::compile`], when it has a lint that is denied, and when it cannot be written; an older one then stays.
pub fn export(
    job: &Job,
    output: &Path,
    deny: &[String],
    contexts: Result<&MakeContext<'_>, &str>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<(Report, u64), Error> {
    let target = job::target(&job.build);
    let package = matches!(target, Target::Coreml(_));
    let named = match target {
        Target::Coreml(_) => Some(("a Core ML package", coreml::EXTENSION)),
        Target::Onnx(_) => Some(("an ONNX file", onnx::EXTENSION)),
        Target::Qnn(_) => Some(("a bundle for the HTP", qnn::EXTENSION)),
        Target::Xnnpack(_) => None,
    };
    if let Some((what, ending)) = named.filter(|(_, ending)| output.extension().is_none_or(|found| found != *ending)) {
        return Err(Error::Usage(format!("{}: the name of {what} ends in `.{ending}`", output.display())));
    }
    if let Target::Qnn(_) = target {
        let report = run(job, output, contexts, None, observe)?;
        return Ok((report, Manifest::read(output)?.artifact_bytes()));
    }
    let Compiled { module, .. } = job::compile(job, None, observe)?;
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let planned = planned(job, &module, &stem)?;
    let lints = planned.lints();
    observe(Event::Lints(&lints));
    allowed(&lints, deny)?;
    let parent = output.parent().map_or(PathBuf::new(), Path::to_path_buf);
    if let Planned::Coreml(packages) = &planned {
        packages.iter().try_for_each(|(folder, _)| nothing_foreign(&parent.join(folder)))?;
    }
    // The packages of a chain are written side by side, and take their places when all of them are whole.
    let mut open: BTreeMap<String, Bundle> = BTreeMap::new();
    let report = write(
        job,
        &planned,
        None,
        &mut |name, content| {
            let Some((folder, file)) = name.split_once('/').filter(|_| package) else {
                let one = matches!(planned, Planned::Xnnpack(..));
                let file = if one { output.to_path_buf() } else { parent.join(name) };
                return artifact::write_alone(&file, content).map(drop);
            };
            let bundle = match open.entry(folder.into()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(Bundle::replacing(&parent.join(folder), coreml::MANIFEST)?),
            };
            bundle.write(file, content)
        },
        observe,
    )?;
    open.into_values().try_for_each(Bundle::place)?;
    Ok((report, planned.bytes()))
}

/// Checks that a folder that is to be replaced holds no more than a package does.
fn nothing_foreign(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let name = entry.map_err(Error::io(folder))?.file_name();
        if name != coreml::MANIFEST && name != coreml::DATA {
            let (folder, name) = (folder.display(), name.display());
            let what = format!("{folder}: holds `{name}`, which is no part of a package; move it, or write elsewhere");
            return Err(Error::Usage(what));
        }
    }
    Ok(())
}

/// Puts the check for a Mac beside packages that lie in `bundle`.
fn check(bundle: &mut Bundle, job: &Job, packages: &coreml::Packages<'_>) -> Result<(), Error> {
    let (name, script) = check::SCRIPT;
    bundle.write(name, |out| out.write_all(script.as_bytes()))?;
    let artifact = bundle.hidden().join(artifact_name(job));
    let reference = packages.reference();
    let mut failed = None;
    let done = bundle.write(check::TENSORS, |out| match check::tensors(&artifact, &reference, &job.generation, out) {
        Err(Error::Emit(EmitError::Io(error))) => Err(error),
        Err(error) => {
            failed = Some(error);
            Err(std::io::ErrorKind::Other.into())
        }
        Ok(()) => Ok(()),
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

/// The artifact of a compiled module, yet to be written.
fn planned<'a>(job: &Job, module: &'a Module, name: &str) -> Result<Planned<'a>, EmitError> {
    let metadata = Metadata { generation: Some(job.generation.clone()), recipe_digest: job.build.digest_hex() };
    job::target(&job.build).plan(module, &metadata, name)
}

/// Writes all files, each through `put`.
fn write(
    job: &Job,
    planned: &Planned<'_>,
    journal: Option<&Journal>,
    put: &mut dyn FnMut(&str, Content<'_>) -> Result<(), ArtifactError>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Report, Error> {
    let make = &mut |name: &str, content: Content<'_>| put(name, content).map_err(Error::from);
    let observe = RefCell::new(observe);
    let watch = |name: &str, before| (observe.borrow_mut())(Event::Weight { name, before });
    let progress = &mut |bytes, total| (observe.borrow_mut())(Event::Written { bytes, total });
    let work = Work { source: job.checkpoint.as_ref(), journal, watch: Some(&watch) };
    Ok(Report { weights: planned.write(work, make, progress)? })
}

/// The name of the artifact: `demo-xnnpack-f16.pte`.
pub(super) fn artifact_name(job: &Job) -> String {
    job::target(&job.build).artifact(&job.build.name)
}

/// Everything a manifest says before the files are known.
fn manifest(job: &Job) -> Manifest {
    let (model, card) = (&job.build.model, job.checkpoint.card());
    let said = |value: &Option<Located<String>>| value.as_ref().map(|value| value.value.clone());
    Manifest {
        name: job.build.name.clone(),
        target: job::target(&job.build).name().into(),
        artifact: artifact_name(job),
        tool: super::tool(),
        recipe: job.build.effective_values().iter().cloned().collect(),
        origin: Origin {
            name: said(&model.origin),
            license: said(&model.license).or(card.license),
            base_models: card.base_models,
        },
        checkpoint: job.inputs.clone(),
        reads: job.reads.clone(),
        files: Default::default(),
        step: None,
    }
}

/// A digest of all that the bytes of weights depend on, where the program is the same.
fn key(job: &Job, module: &Module) -> String {
    // A struct of words and numbers always has a JSON form.
    let made_from = serde_json::to_string(&manifest(job)).unwrap_or_default();
    let texts = [made_from, generation_json(&job.generation), ir::print(module)];
    let hash = texts.iter().fold(Sha256::new(), |hash, text| hash.chain_update(Sha256::digest(text)));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn generation_json(generation: &Generation) -> String {
    // A struct of numbers, words and lists always has a JSON form.
    serde_json::to_string_pretty(generation).unwrap_or_default() + "\n"
}
