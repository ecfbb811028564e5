//! ONNX files in floats: builds and exports.

use std::fs;

use super::{Place, files, fixture};

#[test]
fn an_export_is_the_file_of_its_recipe() {
    for family in ["sdar", "fast_dllm_v2", "dream", "llada"] {
        let place = Place::new();
        std::os::unix::fs::symlink(fixture(&format!("{family}/tiny")), place.path(family)).unwrap();
        for (dtype, scheme) in [("float32", "f32"), ("float16", "f16")] {
            // The name of the data stands in the file.
            let name = format!("m-onnx-{scheme}");
            let export = |output: &str| {
                format!("export --hf-model-path {family} --output-path {output} --backend onnx --dtype {dtype}")
            };
            place.run(&export(&format!("out/{name}.onnx"))).ok();
            place.run(&export(&format!("again/{name}.onnx"))).ok();
            let recipe = place.run(&format!("{} --print-recipe", export("out/m.onnx"))).ok().out;
            let recipe = recipe.replace("HERE", &place.path("").to_string_lossy()).replace("//", "/");
            fs::write(place.path("printed.toml"), recipe).unwrap();
            place.run("build printed.toml --out built").ok();
            for file in [format!("{name}.onnx"), format!("{name}.data")] {
                let bytes = |folder: &str| fs::read(place.path(&format!("{folder}/{file}"))).unwrap();
                let exported = bytes("out");
                assert!(exported == bytes("again"), "{family} {file}: two exports differ");
                if file.ends_with(".data") {
                    assert!(exported == bytes(&format!("built/{name}")), "{family} {file}: build and export differ");
                }
            }
        }
    }
}

#[test]
fn two_builds_are_equal() {
    let made = [1, 2].map(|threads| {
        let place = Place::new();
        let recipe = fs::read_to_string(place.path("tiny.toml")).unwrap().replace("xnnpack", "onnx");
        fs::write(place.path("tiny.toml"), recipe).unwrap();
        let mut command = place.command("build tiny.toml");
        let output = command.env("RAYON_NUM_THREADS", threads.to_string()).output().unwrap();
        place.ran(output).ok();
        ["f32", "f16"].map(|scheme| {
            let files = files(&place.path(&format!("artifacts/tiny-onnx-{scheme}")));
            files.into_iter().filter(|(name, _)| name.contains("onnx")).collect::<Vec<_>>()
        })
    });
    let names: Vec<&str> = made[0][0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tiny-onnx-f32.data", "tiny-onnx-f32.onnx"]);
    assert!(made[0] == made[1]);
}
