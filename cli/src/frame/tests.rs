use super::*;
use crate::answer::Model;
use crate::subject::{self, EngineChoice};
use diffulex_runtime::chat::Message;
use diffulex_runtime::generate::Behaviour;
use std::ops::ControlFlow;
use std::path::Path;

/// An answer of the demo model, one line a pass: settled text, a bar, the block at work. Colors become letters before
/// what they color: `h`ardly, `f`airly, `v`ery sure.
fn passes(prompt: &str, change: impl Fn(&mut Generation)) -> (Vec<Frame>, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/demo/model");
    let opened = subject::open(&folder, None).unwrap();
    let mut generation = opened.generation.clone().unwrap();
    change(&mut generation);
    let engine = opened.engine(&EngineChoice::Tract).unwrap();
    let mut model = Model::new(engine, &generation, Behaviour::Answer, &folder).unwrap();
    let ids = model.conversation(&[Message { role: "user".into(), content: prompt.into() }]).unwrap();
    let mut frames = vec![];
    let watched = model.watch(&ids, &mut |progress| {
        frames.push(Frame::of(progress).unwrap());
        ControlFlow::Continue(())
    });
    (frames, watched.unwrap().0)
}

fn drawn(frames: &[Frame]) -> String {
    let mut lines = String::new();
    for frame in frames {
        let line = frame.line(true, 80);
        let line = [("\x1b[35m", "h["), ("\x1b[33m", "f["), ("\x1b[32m", "v["), ("\x1b[2m", "["), ("\x1b[0m", "]")]
            .iter()
            .fold(line, |line, (code, letter)| line.replace(code, letter));
        lines += &format!("{}|{line}\n", frame.settled);
    }
    lines
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshots/cli"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn a_block_fills() {
    let (frames, text) = passes("What is 27 + 58?", |_| {});
    snapshot("frames", &format!("{}{text}\n", drawn(&frames)));
    let (frames, text) = passes("Tell me a story about a fox and a lantern.", |g| {
        (g.temperature, g.max_tokens, g.threshold) = (1.0, 30, vec![0.99]);
    });
    snapshot("frames-unsure", &format!("{}{text}\n", drawn(&frames)));
}

#[test]
fn settled_text_only_grows() {
    let (frames, text) = passes("Tell me a story about a fox and a lantern.", |_| {});
    let mut before = "";
    for frame in &frames {
        assert!(frame.settled.starts_with(before), "{before:?} became {:?}", frame.settled);
        before = &frame.settled;
    }
    assert!(text.starts_with(before) && text.len() > 100);
    assert!(frames.iter().any(|frame| frame.work.contains(&Piece::Mask)));
}

#[test]
fn a_line_is_no_wider_than_it_may_be() {
    let token = |text: &str| Piece::Token { text: text.into(), sure: Sure::Very };
    let frame =
        Frame { settled: String::new(), work: vec![Piece::Mask, token("字字\n"), token("\x1b[2J"), Piece::Mask] };
    let lines: Vec<String> = (0..12).map(|columns| frame.line(false, columns)).collect();
    let wanted = [
        "",
        "…",
        "·…",
        "·…",
        "·字…",
        "·字…",
        "·字字…",
        "·字字↵…",
        "·字字↵␛…",
        "·字字↵␛[…",
        "·字字↵␛[2…",
        "·字字↵␛[2J·",
    ];
    // The last fits in eleven columns because nothing follows it.
    assert_eq!(lines[..11], wanted[..11]);
    assert_eq!(frame.line(false, 11), "·字字↵␛[2J·");
}
