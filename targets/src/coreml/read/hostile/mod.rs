//! Packages that are wrong in one place each.
//!
//! What no structure shows is not here, and this reader reads it: swapped nibbles, exchanged weights, scales in another
//! order. The judges that compute see that.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_compiler::ir::Encoding;

use super::read;
use crate::coreml::small::{Parts, axis, offset_of, size_of, tensor_of};
use crate::coreml::{Attention, Deployment, Interface, Nibbles, Options};

mod files;
mod operations;
mod program;
mod weights;

/// The kinds of packages that are broken here.
#[derive(Clone, Copy)]
enum Base {
    /// Version 7: floats.
    Half,
    /// Version 7: int8, whose parameters are attributes.
    Int8,
    /// Version 9: int4 in groups, with offsets.
    Int4,
    /// Version 9: fused attention.
    Fused,
    /// Version 9: the cache kept.
    State,
}

fn good(base: Base) -> Parts {
    let plain = Options::default();
    let (encoding, options) = match base {
        Base::Half => (Encoding::F16, plain),
        Base::Int8 => (Encoding::Int8Row, plain),
        Base::Int4 => (Encoding::Int4G32, Options { nibbles: Nibbles::Unsigned, ..plain }),
        Base::Fused => (Encoding::F16, Options { attention: Attention::Fused, ..plain }),
        Base::State => (Encoding::F16, Options { interface: Interface::State, deployment: Deployment::Ios26, ..plain }),
    };
    Parts::new(encoding, &options)
}

/// What the reader says of a package that is changed.
fn said(base: Base, change: impl FnOnce(&mut Parts)) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = good(base);
    change(&mut parts);
    parts.write(folder.path());
    // The folder has another name each time.
    let path = folder.path().canonicalize().unwrap();
    read(&path).map(|_| ()).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "PACKAGE"))
}

#[track_caller]
fn refused(base: Base, expected: &str, change: impl FnOnce(&mut Parts)) {
    match said(base, change) {
        Ok(()) => panic!("read, where the error is `{expected}`"),
        Err(error) => assert!(error.contains(expected), "`{error}` instead of `{expected}`"),
    }
}

#[test]
fn the_good_packages_are_good() {
    for base in [Base::Half, Base::Int8, Base::Int4, Base::Fused, Base::State] {
        assert_eq!(said(base, |_| {}), Ok(()));
    }
}

/// Of what is not structure, only this much: it is read.
#[test]
fn silent_damage_is_read() {
    let swapped = said(Base::Int4, |p| {
        let at = *offset_of(p.operation("constexpr_blockwise_shift_scale", 0).value_of("data")) as usize + 64;
        p.weights[at..at + 160].iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
    });
    assert_eq!(swapped, Ok(()));
}
