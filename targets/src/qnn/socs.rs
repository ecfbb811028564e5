//! The chips that models are built for. Names, ids and architectures are Qualcomm's.

use std::fmt;

use diffulex_compiler::recipe::near_miss;

/// A system on a chip with a Hexagon Tensor Processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Its part number, `SM8650`.
    pub name: &'static str,
    /// What it is sold as, without the brand: `8 Gen 3`.
    pub sold_as: Option<&'static str>,
    /// Number of the model in options of the execution provider, `soc_model`.
    pub id: u32,
    /// Version of the HTP: 75 for v75.
    pub arch: u32,
    /// Memory next to the HTP in MB, where it is known.
    pub vtcm: Option<u32>,
    /// Whether a context binary was built for it with this product's graphs and ran on the emulator.
    pub proven: bool,
}

/// First version of the HTP that finishes graphs with 16-bit activations.
const FIRST_WIDE: u32 = 69;

/// First version that multiplies by computed int16.
const FIRST_INT16: u32 = 73;

/// Words before a name that do not tell chips apart.
const BRANDS: [&str; 2] = ["qualcomm", "snapdragon"];

/// Every chip that is known.
pub const SOCS: [Soc; 22] = [
    soc("SM8350", Some("888"), 30, 68, Some(4)),
    soc("SM8450", Some("8 Gen 1"), 36, 69, Some(8)).proven(),
    soc("SM8475", Some("8+ Gen 1"), 42, 69, Some(8)).proven(),
    soc("SM8550", Some("8 Gen 2"), 43, 73, Some(8)).proven(),
    soc("SM8650", Some("8 Gen 3"), 57, 75, Some(8)).proven(),
    soc("SM8750", Some("8 Elite"), 69, 79, Some(8)).proven(),
    soc("SM8845", None, 97, 81, Some(8)),
    soc("SM8850", Some("8 Elite Gen 5"), 87, 81, Some(8)).proven(),
    soc("SC8380XP", Some("X Elite"), 60, 73, Some(8)).proven(),
    soc("SC8480XP", Some("X2 Elite"), 88, 81, None).proven(),
    soc("SA8255", None, 52, 73, None),
    soc("SA8295", None, 39, 68, None),
    soc("SA8797", None, 72, 81, None),
    soc("QCS9100", None, 77, 73, None),
    soc("QCM6490", None, 93, 68, Some(2)),
    soc("SXR1230P", None, 45, 73, Some(2)),
    soc("SXR2230P", None, 53, 69, None),
    soc("SXR2330P", None, 75, 79, None),
    soc("SSG2115P", None, 46, 73, Some(2)),
    soc("SSG2125P", None, 58, 73, Some(2)),
    soc("SAR2230P", None, 95, 81, None),
    soc("SW6100", None, 96, 81, None),
];

/// No chip is known by that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no chip is known as `{name}`{}", near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
pub struct UnknownSoc {
    /// What was asked for.
    pub name: String,
    /// The name of a chip that was probably meant.
    pub near: Option<&'static str>,
}

/// The chip of that part number or trade name. Case, separators and the brand do not count.
///
/// ```
/// # use diffulex_targets::qnn::socs;
/// assert_eq!(socs::find("snapdragon-8-gen-3")?.name, "SM8650");
/// assert_eq!(socs::find("8 Gen3")?, socs::find("sm8650")?);
/// # Ok::<(), socs::UnknownSoc>(())
/// ```
///
/// # Errors
/// When there is none; the error knows which was probably meant.
pub fn find(name: &str) -> Result<&'static Soc, UnknownSoc> {
    let wanted = folded(name);
    let names = || SOCS.iter().flat_map(|soc| soc.names().map(move |name| (soc, name)));
    if let Some((soc, _)) = names().find(|(_, known)| folded(known) == wanted) {
        return Ok(soc);
    }
    let spellings: Vec<(String, &'static str)> = names().map(|(_, known)| (folded(known), known)).collect();
    let near = near_miss(&wanted, spellings.iter().map(|(spelling, _)| spelling.as_str()));
    let near = near.and_then(|near| spellings.iter().find(|(spelling, _)| spelling == near));
    Err(UnknownSoc { name: name.into(), near: near.map(|(_, known)| *known) })
}

impl Soc {
    /// Whether the HTP runs graphs with 16-bit activations.
    pub fn runs_wide(&self) -> bool {
        self.arch >= FIRST_WIDE
    }

    /// Whether a MatMul can have a second operand of int16 that is computed: a cache of 16 bits.
    pub fn multiplies_int16(&self) -> bool {
        self.arch >= FIRST_INT16
    }

    /// Its part number and its trade name.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.name), self.sold_as].into_iter().flatten()
    }

    const fn proven(self) -> Soc {
        Soc { proven: true, ..self }
    }
}

/// `SM8650 (8 Gen 3), HTP v75`.
impl fmt::Display for Soc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(name) = self.sold_as {
            write!(f, " ({name})")?;
        }
        write!(f, ", HTP v{}", self.arch)
    }
}

const fn soc(name: &'static str, sold_as: Option<&'static str>, id: u32, arch: u32, vtcm: Option<u32>) -> Soc {
    Soc { name, sold_as, id, arch, vtcm, proven: false }
}

/// Letters, digits and `+`, lower case, without the brand.
fn folded(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '+');
    let all: String = kept.map(|c| c.to_ascii_lowercase()).collect();
    let short = BRANDS.iter().fold(all.as_str(), |rest, brand| rest.strip_prefix(brand).unwrap_or(rest));
    short.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_found_however_they_are_written() {
        for (typed, name) in [
            ("sm8650", "SM8650"),
            ("SM-8650", "SM8650"),
            ("8 Gen 3", "SM8650"),
            ("8gen3", "SM8650"),
            ("Snapdragon 8 Gen 3", "SM8650"),
            ("Qualcomm Snapdragon 8_Gen_1", "SM8450"),
            ("8+ Gen 1", "SM8475"),
            ("snapdragon-8-elite", "SM8750"),
            ("8 Elite Gen 5", "SM8850"),
            ("X Elite", "SC8380XP"),
            ("x2-elite", "SC8480XP"),
        ] {
            assert_eq!(find(typed).map(|soc| soc.name), Ok(name), "{typed}");
        }
    }

    #[test]
    fn a_near_miss_is_named() {
        for (typed, near) in [
            ("SM8651", Some("SM8650")),
            ("8 Gen 33", Some("8 Gen 3")),
            ("A17 Pro Max Ultra", None),
            ("snapdragon", None),
        ] {
            let error = find(typed).unwrap_err();
            assert_eq!(error.near, near, "{typed}");
            assert_eq!(error.name, typed);
        }
        let message = find("8 elit").unwrap_err().to_string();
        assert_eq!(message, "no chip is known as `8 elit`; did you mean `8 Elite`?");
        assert_eq!(find(&"x".repeat(100_000)).unwrap_err().near, None);
    }

    #[test]
    fn no_name_or_id_is_used_twice() {
        let names: Vec<String> = SOCS.iter().flat_map(Soc::names).map(folded).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(SOCS.iter().map(|soc| soc.id).collect::<BTreeSet<_>>().len(), SOCS.len());
    }

    #[test]
    fn only_v68_is_narrow() {
        let narrow: Vec<&str> = SOCS.iter().filter(|soc| !soc.runs_wide()).map(|soc| soc.name).collect();
        assert_eq!(narrow, ["SM8350", "SA8295", "QCM6490"]);
        assert!(SOCS.iter().all(|soc| soc.runs_wide() || !soc.proven));
        assert_eq!(find("8 gen 3").unwrap().to_string(), "SM8650 (8 Gen 3), HTP v75");
    }
}
