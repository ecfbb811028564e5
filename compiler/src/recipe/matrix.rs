//! Multiplies the matrix out into builds.

use super::build::{Build, QuantScheme, Target};
use super::choice::TargetName;
use super::diagnostic::Diagnostic;
use super::inherit::Settings;
use super::mistake::{Mistake, shortened};
use super::schema::LONGEST_LIST;
use super::source::Located;
use super::suggest::near_miss;
use super::typed::{self, FromValue};
use super::value::Value;

/// The recipe's name, its builds, target by target, and all schemes by name.
type Matrix = (Located<String>, Vec<Build>, Vec<QuantScheme>);

/// Reads the parts and multiplies them. `None` only after a reported mistake.
pub(super) fn builds(settings: &Settings, out: &mut Vec<Diagnostic>) -> Option<Matrix> {
    let name = settings.need::<String>("name", None, out);
    let model = typed::model(settings, out);
    let shape = typed::shape(settings, out);
    let generate = typed::generate(settings, out);
    let target_names = settings.need::<Vec<Located<TargetName>>>("matrix.target", None, out);
    let scheme_names = settings.need::<Vec<Located<String>>>("matrix.quant", None, out);
    let targets = target_names.as_ref().and_then(|names| targets(settings, names, out));
    let all = all_schemes(settings, out);
    let schemes = chosen(settings, &all, scheme_names.as_ref(), out);
    let exceptions = exceptions(settings, target_names.as_ref()?, scheme_names.as_ref()?, out);

    let (name, model, shape, generate) = (name?, model?, shape?, generate?);
    let (targets, schemes) = (targets?, schemes?);
    let mut builds = Vec::new();
    for target in &targets {
        for quant in &schemes {
            if !exceptions.iter().any(|exception| exception.matches(target.name(), &quant.name)) {
                builds.push(Build {
                    name: format!("{name}-{}-{}", target.name(), quant.name),
                    model: model.clone(),
                    shape: shape.clone(),
                    generate: generate.clone(),
                    quant: quant.clone(),
                    target: target.clone(),
                    values: effective_values(settings, target.name(), &quant.name),
                });
            }
        }
    }
    Some((name, builds, all))
}

fn targets(
    settings: &Settings,
    names: &Located<Vec<Located<TargetName>>>,
    out: &mut Vec<Diagnostic>,
) -> Option<Vec<Located<Target>>> {
    let read = |name: &Located<TargetName>| {
        let target = typed::target(settings, name.value, &name.origin, out)?;
        Some(Located::new(target, name.origin.clone()))
    };
    names.iter().map(read).collect()
}

/// Reads every scheme, so that mistakes in unused ones show too. One that is not here has a mistake.
fn all_schemes(settings: &Settings, out: &mut Vec<Diagnostic>) -> Vec<QuantScheme> {
    settings.schemes().iter().filter_map(|(name, origin)| typed::scheme(settings, name, origin, out)).collect()
}

/// The schemes that the matrix names.
fn chosen(
    settings: &Settings,
    all: &[QuantScheme],
    names: Option<&Located<Vec<Located<String>>>>,
    out: &mut Vec<Diagnostic>,
) -> Option<Vec<QuantScheme>> {
    let known = || settings.schemes().keys().map(String::as_str).take(LONGEST_LIST);
    let mut chosen = Vec::new();
    for name in &names?.value {
        let scheme = all.iter().find(|scheme| *scheme.name == **name);
        chosen.push(scheme.map(|scheme| QuantScheme { name: name.clone(), ..scheme.clone() }));
        if !settings.schemes().contains_key(&name.value) && !settings.is_refused(&format!("quant.{name}")) {
            let near = near_miss(name, known()).map(str::to_owned);
            let mistake =
                Mistake::UnknownScheme { name: shortened(name), near, schemes: known().map(str::to_owned).collect() };
            out.push(Diagnostic::new(mistake, &name.origin));
        }
    }
    chosen.into_iter().collect()
}

/// A part of the matrix to leave out; what is not named matches everything.
struct Exception {
    target: Option<TargetName>,
    quant: Option<String>,
}

impl Exception {
    fn matches(&self, target: TargetName, quant: &str) -> bool {
        self.target.is_none_or(|name| name == target) && self.quant.as_deref().is_none_or(|name| name == quant)
    }
}

impl FromValue for Exception {
    fn from_value(value: &Value) -> Option<Self> {
        let Value::Table(entries) = value else { return None };
        let named = |key: &str| entries.iter().find(|entry| entry.key.value == key).map(|entry| &entry.value.value);
        Some(Self {
            target: named("target").and_then(TargetName::from_value),
            quant: named("quant").and_then(String::from_value),
        })
    }
}

/// Reads the exceptions; each must leave something out, together they must not leave out everything.
fn exceptions(
    settings: &Settings,
    targets: &Located<Vec<Located<TargetName>>>,
    quants: &Located<Vec<Located<String>>>,
    out: &mut Vec<Diagnostic>,
) -> Vec<Located<Exception>> {
    let Some(exceptions) = settings.optional::<Vec<Located<Exception>>>("matrix.except") else { return vec![] };
    let cells = || targets.iter().flat_map(|target| quants.iter().map(move |quant| (target.value, quant.as_str())));
    for exception in exceptions.iter() {
        if !cells().any(|(target, quant)| exception.matches(target, quant)) {
            let mistake = Mistake::ExceptMatchesNothing {
                targets: targets.iter().map(ToString::to_string).collect(),
                schemes: quants.iter().map(ToString::to_string).collect(),
            };
            out.push(Diagnostic::new(mistake, &exception.origin));
        }
    }
    if cells().all(|(target, quant)| exceptions.iter().any(|exception| exception.matches(target, quant))) {
        out.push(Diagnostic::new(Mistake::NothingToBuild, &exceptions.origin));
    }
    exceptions.value
}

/// What can change the bytes of one build; the scheme's and the target's tables lose their names. The sizes of a model
/// only say what config.json says.
fn effective_values(settings: &Settings, target: TargetName, quant: &str) -> Vec<(String, String)> {
    let tables = [
        ("model", "model".to_owned()),
        ("shape", "shape".to_owned()),
        ("generate", "generate".to_owned()),
        ("quant", format!("quant.{quant}")),
        ("target", format!("target.{target}")),
    ];
    let mut values = vec![("target".to_owned(), Value::Text(target.to_string()).to_string())];
    for (name, table) in &tables {
        values.extend(settings.under(table).map(|(key, value)| (format!("{name}.{key}"), value.to_string())));
    }
    if target == TargetName::Qnn {
        values.extend(
            settings.under("calibration").map(|(key, value)| (format!("calibration.{key}"), value.to_string())),
        );
    }
    values.retain(|(key, _)| !key.starts_with("model.sizes."));
    values.sort();
    values
}
