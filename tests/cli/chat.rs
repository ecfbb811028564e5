//! `chat` as scripts use it: lines in, text out.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::{Place, Ran, fixture, root, snapshot};

/// Runs the program on lines of input, with caches of its own.
fn talk(place: &Place, args: &str, input: &str) -> Ran {
    let mut command = match args {
        "" => {
            let mut command = place.command("x");
            let program = command.get_program().to_owned();
            command = std::process::Command::new(program);
            command.current_dir(place.path(""));
            command
        }
        args => place.command(args),
    };
    command.env("XDG_CACHE_HOME", place.path("cache")).env("XDG_STATE_HOME", place.path("state"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its command line reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    place.ran(child.wait_with_output().unwrap())
}

fn demo() -> Place {
    let place = Place::new();
    std::os::unix::fs::symlink(root().join("recipes/demo/model"), place.path("demo")).unwrap();
    place
}

#[test]
fn the_program_alone_talks() {
    let place = Place::new();
    let ran = talk(&place, "", "What is 27 + 58?\n").ok();
    assert_eq!(ran.out, "27 + 58 = 85.\n");
    assert!(ran.err.starts_with("demo model: ") && ran.err.contains("diffulex-edge chat PATH"), "{}", ran.err);
    assert_eq!(talk(&place, "--max-tokens 2", "Hello!\n").ok().out.len(), "Hell\n".len());
    assert_eq!(fs::read_dir(place.path("cache/diffulex-edge")).unwrap().count(), 1);
    // Where nothing can be cached, a temporary folder does.
    fs::write(place.path("file"), "").unwrap();
    let mut command = place.command("chat");
    command.env("XDG_CACHE_HOME", place.path("file")).stdin(Stdio::null());
    place.ran(command.output().unwrap()).ok();
}

#[test]
fn a_recipe_an_artifact_and_a_checkpoint_are_talked_to() {
    let place = Place::new();
    let said = talk(&place, "chat tiny.toml --only f32 --max-tokens 8", "Hello\n").ok();
    assert!(place.path("artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte").is_file());
    for args in [
        "chat artifacts/tiny-xnnpack-f32",
        "chat --pte-path artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte",
        "--pte-path artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte --tokenizer tiny/tokenizer.json",
        "--pte-path artifacts/tiny-xnnpack-f32/tiny-xnnpack-f32.pte --tokenizer tiny --device cpu",
        "chat tiny",
        "--model-path tiny --plain",
    ] {
        assert_eq!(talk(&place, &format!("{args} --max-tokens 8"), "Hello\n").ok().out, said.out, "{args}");
    }
}

#[test]
fn commands_answer() {
    let place = demo();
    let input = "/help\nWhat is 27 + 58?\n/show\n/temp 0.5\n/temp\n/topk 50\n/topp 0.9\n/max 20\n/iter 2\n/conf 0.8\n/block\n\
                 /algorithm\n/algorithm sdar.block_diffusion_generate\n/seed 7\n/system Be brief.\n/show\n/algorithm default\n\
                 /clear\n/temp 0\nHello!\\\nWho are you?\n/exit\nnot said\n";
    snapshot("chat-commands", &talk(&place, "chat demo", input).ok().out);
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let place = demo();
    let before = talk(&place, "chat demo", "/show\n").ok().out;
    let wrong = "/temp 3\n/temp -1\n/temp NaN\n/temp warm\n/topp 1.5\n/conf 2\n/conf -0.1\n/topk -1\n/topk x\n/max 0\n/max\u{20}-5\n/iter 0\n\
                 /iter 99999999999\n/block 8\n/block 0\n/seed x\n/algorithm sdar\n/algorithm llada.gsai\n/tmep 1\n/\n/nothing\n\
                 /save\n/load\n/load nowhere.json\n/load demo\n/save demo/config.json/x\n/help me\n/clear all\n/\x1b[2J\n";
    let ran = talk(&place, "chat demo", &format!("{wrong}/show\n")).failed(1, &[]);
    assert_eq!(ran.out, before);
    assert!(!ran.err.contains('\x1b'));
    snapshot("chat-mistakes", &ran.err);
}

#[test]
fn a_setting_that_the_algorithm_does_not_know_is_refused() {
    let place = Place::new();
    std::os::unix::fs::symlink(fixture("fast_dllm_v2/tiny"), place.path("fast")).unwrap();
    std::os::unix::fs::symlink(fixture("llada/tiny"), place.path("llada")).unwrap();
    let ran = talk(&place, "chat fast", "/topk 3\n/iter 3\n").failed(1, &[]);
    assert!(ran.err.contains("/topk has no meaning for fast_dllm_v2.generate, which takes "), "{}", ran.err);
    assert!(ran.err.contains("/conf, /topp"), "{}", ran.err);
    let ran = talk(
        &place,
        "chat llada",
        "/topk 3\n/algorithm llada.nv\n/topk 0\n/algorithm llada.nv\n/topp 0.5\n/block 16\n",
    );
    let ran = ran.failed(1, &["top_k is unknown to llada.nv", "/topp has no meaning for llada.nv"]);
    assert_eq!(ran.out, "topk is 3\ntopk is 0\nalgorithm is llada.nv\nblock is 16\n");
}

#[test]
fn later_turns_prefill_only_what_is_new() {
    let place = demo();
    let said = talk(&place, "chat demo", "/stats\nWhat is 27 + 58?\n/stats\nHello!\n/stats\n").ok().out;
    assert!(said.starts_with("nothing was answered yet\n"), "{said}");
    assert!(said.contains("0 of them reused from the turns before, 18 new"), "{said}");
    assert!(said.contains("28 of them reused from the turns before, "), "{said}");
    assert!(said.contains(" a pass), ") && said.contains("tokens a second to the end token"), "{said}");
    std::os::unix::fs::symlink(fixture("dream/tiny"), place.path("dream")).unwrap();
    let said = talk(&place, "chat dream --max-tokens 8", "Hello\n/stats\n").ok().out;
    assert!(said.contains("every pass of full attention begins with all of it"), "{said}");
}

#[test]
fn a_conversation_goes_on_where_it_was_saved() {
    let place = demo();
    let saved = talk(&place, "chat demo", "/temp 0.5\nWhat is 27 + 58?\n/save talk.json\n/save talk.json\n").ok();
    assert!(saved.out.ends_with("saved 2 messages\nsaved 2 messages\n"), "{}", saved.out);
    let whole = talk(&place, "chat demo --temperature 0.5", "What is 27 + 58?\nHello!\n").ok().out;
    let loaded = talk(&place, "chat demo", "/load talk.json\n/temp\nHello!\n").ok().out;
    assert_eq!(loaded.lines().take(2).collect::<Vec<_>>(), ["loaded 2 messages", "0.5"]);
    assert_eq!(loaded.lines().last(), whole.lines().last());
    // Messages of another model go on, its settings do not.
    std::os::unix::fs::symlink(fixture("llada/tiny"), place.path("llada")).unwrap();
    let other = talk(&place, "chat llada", "/load talk.json\n/temp\n").ok();
    assert_eq!(other.out, "loaded 2 messages\n0\n");
    assert!(other.err.contains("the settings are of another model, demo, and were left"), "{}", other.err);

    let good = fs::read_to_string(place.path("talk.json")).unwrap();
    for (from, to, part) in [
        ("\"temperature\": 0.5", "\"temperature\": 50.5", "talk.json: /temp is 50.5, which is not between 0 and 2"),
        ("\"max_tokens\": 256", "\"max_tokens\": 0", "talk.json: /max is at least 1"),
        ("sdar.block_diffusion_generate", "llada.gsai", "llada.gsai is not made for sdar"),
        ("\"role\": \"assistant\"", "\"role\": \"user\"", "message 2 is not of the assistant"),
        ("{", "{\"more\": 1,", "unknown field `more`"),
    ] {
        fs::write(place.path("talk.json"), good.replacen(from, to, 1)).unwrap();
        let ran = talk(&place, "chat demo", "/load talk.json\n/temp\n/show\n").failed(1, &[part]);
        assert!(ran.out.starts_with("0\n") && ran.out.contains("messages   0\n"), "{part}: {}", ran.out);
    }
}

#[test]
fn a_conversation_that_grows_too_long_says_so() {
    let place = Place::new();
    let long = "long ".repeat(30);
    let input = format!("{long}\n{long}\n{long}\n{long}\n/show\n/clear\nHi\n");
    let ran = talk(&place, "chat tiny.toml --only f32 --max-tokens 16", &input);
    let ran = ran.failed(1, &["nothing was dropped, /clear begins anew", "leaves no room for an answer"]);
    assert!(!ran.out.is_empty());
}

#[test]
fn starts_that_contradict_themselves_are_refused() {
    let place = demo();
    for (args, status, part) in [
        ("chat demo --model-path demo", 2, "cannot be used with"),
        ("chat --model-path demo --pte-path demo", 2, "cannot be used with"),
        ("--model-path demo --pte-path demo", 2, "cannot be used with"),
        ("chat --model-path tiny.toml", 1, "--model-path names a checkpoint, and this is none; give it as PATH"),
        ("chat --pte-path demo", 1, "--pte-path names an artifact, and this is none; give it as PATH"),
        ("chat demo --device cuda", 1, "this program computes on the cpu; `--engine qnn`"),
        ("chat demo --temperature 3", 1, "--temperature is 3, which is not between 0 and 2"),
        ("chat demo --tokenizer gpt2", 1, "nothing is downloaded"),
        ("chat demo --set shape.cache=64", 1, "change a recipe; this is none"),
        ("chat nowhere", 1, "nowhere: No such file"),
        ("chat demo --only", 2, "a value is required"),
    ] {
        talk(&place, args, "").failed(status, &[part]);
    }
    talk(&place, "chat demo", "Hello!\n\u{0}\n").ok();
}
