//! Builds that are killed, that meet each other, and that find no room.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use diffulex_targets::artifact::Manifest;

use super::{Place, fixture};

/// Rows of the matrices of `mlp` in the checkpoint that is built here, in place of those of the tiny one.
const WIDE: usize = 8192;
/// The build, and where it lies.
const NAME: &str = "tiny-xnnpack-f32";

/// A folder with a recipe of the tiny checkpoint made wide: 20 MB, which take a moment.
fn wide() -> Place {
    let place = Place::with("quant = [\"f32\"]");
    fs::remove_file(place.path("tiny")).unwrap();
    fs::create_dir(place.path("tiny")).unwrap();
    for entry in fs::read_dir(fixture("sdar/tiny")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path("tiny").join(entry.file_name())).unwrap();
    }
    let config = fs::read_to_string(place.path("tiny/config.json")).unwrap();
    let narrow = "\"intermediate_size\": 176";
    assert!(config.contains(narrow));
    fs::write(place.path("tiny/config.json"), config.replace(narrow, &format!("\"intermediate_size\": {WIDE}")))
        .unwrap();
    widen(&place.path("tiny/model.safetensors"));
    place
}

/// Makes the matrices of `mlp` in a file of safetensors wide.
fn widen(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
    let (mut data, mut random) = (Vec::new(), Random(1));
    for tensor in header.iter_mut().filter(|(name, _)| *name != "__metadata__").map(|(_, tensor)| tensor) {
        let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
        let shape: Vec<usize> = tensor["shape"].as_array().unwrap().iter().map(number).collect();
        let at = data.len();
        if shape.contains(&176) {
            let shape: Vec<usize> = shape.into_iter().map(|n| if n == 176 { WIDE } else { n }).collect();
            for _ in 0..shape.iter().product() {
                data.extend((random.below(1 << 16) as f32 / 1e6 - 0.03).to_le_bytes());
            }
            tensor["shape"] = shape.into();
        } else {
            let [from, to] = [0, 1].map(|i| start + number(&tensor["data_offsets"][i]));
            data.extend(&bytes[from..to]);
        }
        tensor["data_offsets"] = vec![at, data.len()].into();
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    fs::write(file, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

/// The same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The manifest of an artifact all of whose files are whole, or nothing where there is no folder.
fn whole(folder: &Path) -> Option<Manifest> {
    folder.exists().then(|| {
        let manifest = Manifest::read(folder).unwrap();
        manifest.check(folder, u64::MAX).unwrap();
        let listed = manifest.files.len() + 1;
        assert_eq!(fs::read_dir(folder).unwrap().count(), listed, "{}", folder.display());
        manifest
    })
}

/// What lies in a folder beside artifacts and known digests.
fn hidden(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.') && name != ".digests.json").collect()
}

#[test]
fn a_killed_build_leaves_the_old_artifact_or_the_new_one() {
    let place = wide();
    place.run("build tiny.toml --out old --set shape.cache=64").ok();
    let old = whole(&place.path("old").join(NAME)).unwrap();
    let started = Instant::now();
    place.run("build tiny.toml --out new").ok();
    let whole_time = started.elapsed();
    let new = whole(&place.path("new").join(NAME)).unwrap();
    assert_ne!(old.files, new.files);

    let mut random = Random(7);
    let (mut absent, mut kept, mut made, mut continued) = (0, 0, 0, 0);
    for number in 0..100 {
        let out = place.path("out");
        let folder = out.join(NAME);
        fs::create_dir(&out).unwrap();
        if number % 2 == 1 {
            fs::create_dir(&folder).unwrap();
            for entry in fs::read_dir(place.path("old").join(NAME)).unwrap() {
                let entry = entry.unwrap();
                fs::hard_link(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
        let mut build = place.command("build tiny.toml --out out");
        let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let micros = whole_time.as_micros() as u64;
        std::thread::sleep(Duration::from_micros(random.below(micros + micros / 10)));
        build.kill().unwrap();
        build.wait().unwrap();

        match whole(&folder) {
            None => {
                assert_eq!(number % 2, 0, "kill {number}: the old artifact is gone; there are {:?}", hidden(&out));
                absent += 1;
            }
            Some(found) if found == new => made += 1,
            Some(found) => {
                assert!(number % 2 == 1 && found == old, "kill {number}: {found:?}");
                kept += 1;
            }
        }
        continued += u32::from(fs::metadata(out.join(format!(".{NAME}.journal"))).is_ok_and(|file| file.len() > 0));
        place.run("build tiny.toml --out out").ok();
        assert_eq!(whole(&folder).unwrap(), new, "kill {number}");
        assert_eq!(hidden(&out), [""; 0], "kill {number}");
        fs::remove_dir_all(&out).unwrap();
    }
    let counts = format!("{absent} absent, {kept} old, {made} new, {continued} continued, in {whole_time:?}");
    assert!(absent > 0 && kept > 0 && continued > 0, "{counts}");
}

#[test]
fn two_builds_of_an_artifact_do_not_meet() {
    let place = Place::with("quant = [\"f32\"]");
    fs::create_dir_all(place.path(&format!("ir/{NAME}"))).unwrap();
    let pipes = ["01-import", "02-fold-scale"].map(|name| place.path(&format!("ir/{NAME}/{name}.ir")));
    assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
    let mut first = place.command("build tiny.toml --dump-ir ir");
    let first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It goes on when somebody reads what it dumps: after this it waits for the next.
    assert!(fs::read_to_string(&pipes[0]).unwrap().contains("stage imported"));
    place.run("build tiny.toml").failed(1, &[NAME, "another build is writing this artifact"]);
    assert!(fs::read_to_string(&pipes[1]).unwrap().contains("module"));
    place.ran(first.wait_with_output().unwrap()).ok();
    assert!(whole(&place.path("artifacts").join(NAME)).is_some());
    assert_eq!(hidden(&place.path("artifacts")), [""; 0]);
}

#[test]
fn a_build_without_room_leaves_the_old_artifact() {
    let place = wide();
    place.run("build tiny.toml --set shape.cache=64").ok();
    let folder = place.path("artifacts").join(NAME);
    let old = whole(&folder).unwrap();
    let script = format!("trap '' XFSZ; ulimit -f 8192; exec {} build tiny.toml", env!("CARGO_BIN_EXE_diffulex-edge"));
    let mut limited = Command::new("sh");
    let limited = limited.args(["-c", &script]).current_dir(place.path(""));
    let said = place.ran(limited.output().unwrap()).failed(1, &["File too large", "`ulimit -f`"]);
    assert_eq!(said.err.lines().filter(|line| line.starts_with("error")).count(), 1, "{}", said.err);
    assert_eq!(whole(&folder).unwrap(), old);
    assert_eq!(hidden(&place.path("artifacts")), [""; 0]);
}

#[test]
fn digests_are_what_sha256sum_checks() {
    let place = Place::with("quant = [\"f16\"]");
    place.run("build tiny.toml --set matrix.target=[\"xnnpack\",\"coreml\",\"onnx\"]").ok();
    for entry in fs::read_dir(place.path("artifacts")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            let mut sums = Command::new("sha256sum");
            let said = sums.args(["-c", "--strict", "SHA256SUMS"]).current_dir(&folder).output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
            let lines = said.stdout.iter().filter(|byte| **byte == b'\n').count();
            let manifest = Manifest::read(&folder).unwrap();
            assert!(manifest.files.contains_key("SHA256SUMS") && manifest.files.len() == lines + 1, "{manifest:?}");
        }
    }
}
