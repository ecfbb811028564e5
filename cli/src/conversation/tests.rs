use super::*;
use crate::subject::{self, EngineChoice};
use diffulex_compiler::generation::Attention;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn open(folder: &str, change: impl Fn(&mut Generation)) -> Conversation {
    let folder = root().join(folder);
    let opened = subject::open(&folder, None).unwrap();
    let mut generation = opened.generation.clone().unwrap();
    generation.max_tokens = 24;
    change(&mut generation);
    let engine = opened.engine(&EngineChoice::Tract).unwrap();
    let model = Model::new(engine, &generation, Behaviour::Answer, &folder).unwrap();
    Conversation::new("model", model, None)
}

const FAMILIES: [&str; 5] = [
    "recipes/demo/model",
    "tests/fixtures/sdar/tiny",
    "tests/fixtures/fast_dllm_v2/tiny",
    "tests/fixtures/dream/tiny",
    "tests/fixtures/llada/tiny",
];

#[test]
fn later_turns_reuse_what_block_attention_allows_and_change_nothing() {
    for folder in FAMILIES {
        let (mut kept, mut anew) = (open(folder, |_| {}), open(folder, |_| {}));
        let (mut before, mut prompt_before) = (vec![], 0);
        for (turn, text) in ["What is 27 + 58?", "Hello!", "Which is bigger, 34 or 71?", "Thanks."].iter().enumerate() {
            kept.ask(text).unwrap();
            anew.model.forget();
            anew.ask(text).unwrap();
            let (with, without) = (kept.last().unwrap(), anew.last().unwrap());
            assert_eq!((with.answer(), with.end), (without.answer(), without.end), "{folder}, turn {turn}");
            assert_eq!(without.reused, 0, "{folder}");

            let generation = kept.model.generation();
            let blocks = |tokens: usize| tokens / generation.block as usize * generation.block as usize;
            let reused = match generation.attention {
                Attention::Full => 0,
                Attention::BlockCausal => {
                    let shared = before.iter().zip(&with.tokens[..with.prompt]).take_while(|(a, b)| a == b).count();
                    assert!(shared >= prompt_before, "{folder}: the prompt stands in the next");
                    // The last block of an answer is not stored, as nothing followed it.
                    blocks(shared).min(blocks(before.len().saturating_sub(1)).max(blocks(prompt_before)))
                }
            };
            assert_eq!(with.reused, reused, "{folder}, turn {turn}");
            (before, prompt_before) = (with.tokens.clone(), with.prompt);
        }
    }
}

#[test]
fn a_stopped_answer_stays_and_is_marked() {
    let mut talk = open(FAMILIES[0], |_| {});
    let mut passes = 0;
    let watch = &mut |_: &crate::answer::Progress<'_>| {
        passes += 1;
        if passes == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let said = talk.say("Tell me a story about a fox and a lantern.", watch).unwrap().to_string();
    let stopped = talk.turns()[1].clone();
    assert!(!said.is_empty() && stopped.stopped && stopped.content == said, "{stopped:?}");
    talk.ask("Hello!").unwrap();
    assert!(!talk.turns()[3].stopped && talk.turns().len() == 4);
}

#[test]
fn a_conversation_that_does_not_fit_stays_as_it_was() {
    let mut talk = open(FAMILIES[0], |_| {});
    talk.ask("Hello!").unwrap();
    let (turns, last) = (talk.turns().to_vec(), talk.last().cloned());
    let error = talk.ask(&"fox ".repeat(2000)).unwrap_err().to_string();
    assert!(error.contains("leaves no room for an answer"), "{error}");
    assert_eq!((talk.turns(), talk.last()), (&turns[..], last.as_ref()));
    talk.ask("Hello!").unwrap();
    // One that fits, but leaves little room, is cut.
    talk.clear();
    let words = talk.model.room() - talk.model.text(&"fox ".repeat(100)).unwrap().len() / 100 - 24;
    talk.ask(&"fox ".repeat(words * 100 / talk.model.text(&"fox ".repeat(100)).unwrap().len())).unwrap();
    assert!(talk.turns().len() == 2);
    talk.clear();
    assert!(talk.turns().is_empty() && talk.last().is_none());
}

#[test]
fn settings_change_or_stay() {
    let mut talk = open("tests/fixtures/dream/tiny", |_| {});
    talk.ask("Hello!").unwrap();
    let mut wanted = talk.model.generation().clone();
    wanted.max_tokens = 3;
    talk.configure(&wanted, Behaviour::Answer).unwrap();
    talk.ask("Hello!").unwrap();
    assert!(talk.last().unwrap().answer().len() <= 3);
    let mut wrong = wanted.clone();
    wrong.algorithm = diffulex_compiler::generation::Algorithm::LladaGsai;
    let error = talk.configure(&wrong, Behaviour::Original).unwrap_err().to_string();
    assert!(error.contains("not made for dream"), "{error}");
    assert_eq!((talk.model.generation(), talk.model.behaviour()), (&wanted, Behaviour::Answer));
}

#[test]
fn a_system_turn_begins_anew_and_is_heard() {
    let mut talk = open(FAMILIES[1], |_| {});
    talk.ask("Hello!").unwrap();
    let plain = talk.last().unwrap().prompt;
    talk.set_system(Some("You are brief.".into()));
    assert!(talk.turns().is_empty());
    talk.ask("Hello!").unwrap();
    assert!(talk.last().unwrap().prompt > plain && talk.last().unwrap().reused == 0);
}

#[test]
fn a_base_model_continues_the_texts() {
    let place = tempfile::tempdir().unwrap();
    let folder = root().join(FAMILIES[0]);
    std::fs::copy(folder.join("tokenizer.json"), place.path().join("tokenizer.json")).unwrap();
    let opened = subject::open(&folder, None).unwrap();
    let engine = opened.engine(&EngineChoice::Tract).unwrap();
    let generation = Generation { max_tokens: 8, ..opened.generation.unwrap() };
    let model = Model::new(engine, &generation, Behaviour::Answer, place.path()).unwrap();
    let mut talk = Conversation::new("base", model, Some("A story.".into()));
    let answer = talk.ask("Once there lived").unwrap().to_string();
    talk.turns.push(Turn { role: Role::User, content: "One day".into(), stopped: false });
    assert_eq!(talk.plain(), format!("A story.\nOnce there lived{answer}\nOne day"));
}

#[test]
fn a_file_gives_back_what_was_saved() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("talk.json");
    let mut talk = open(FAMILIES[0], |g| g.temperature = 0.5);
    talk.set_system(Some("Scene".into()));
    talk.ask("Hello!").unwrap();
    talk.saved().write(&file).unwrap();
    let saved = Saved::read(&file).unwrap();
    assert_eq!(saved, talk.saved());
    assert!(saved.settings_fit(talk.model.generation()));
    assert!(!saved.settings_fit(open("tests/fixtures/llada/tiny", |_| {}).model.generation()));
    let mut other = open(FAMILIES[0], |_| {});
    other.resume(saved);
    assert_eq!((other.turns(), other.system()), (talk.turns(), Some("Scene")));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn hostile_files_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("talk.json");
    let mut talk = open(FAMILIES[0], |_| {});
    talk.ask("Hello!").unwrap();
    talk.saved().write(&file).unwrap();
    let good = std::fs::read_to_string(&file).unwrap();
    let refused = |text: &[u8], part: &str| {
        std::fs::write(&file, text).unwrap();
        let error = Saved::read(&file).unwrap_err().to_string();
        assert!(error.contains(part), "`{part}` is not in {error}");
    };
    for end in (0..good.len() - 2).step_by(7) {
        refused(&good.as_bytes()[..end], "is no saved conversation");
    }
    refused("[".repeat(100_000).as_bytes(), "is no saved conversation");
    refused(b"\xff\xfe", "is no saved conversation");
    refused(good.replace("\"user\"", "\"system\"").as_bytes(), "unknown variant `system`");
    refused(good.replace("\"user\"", "\"assistant\"").as_bytes(), "message 1 is not of the user");
    refused(good.replace("\"assistant\"", "\"user\"").as_bytes(), "message 2 is not of the assistant");
    refused(good.replace("\"original\"", "\"else\"").as_bytes(), "unknown field `else`");
    let one = good.replacen("\"messages\": [", "\"messages\": [{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"\"},", 1);
    refused(one.as_bytes(), "message 4 is not of the assistant");
    refused(&vec![b' '; MAX_FILE as usize + 1], "more than the 16777216");
    assert!(matches!(Saved::read(place.path()), Err(Error::Conversation { error: ConversationError::NoFile, .. })));
    assert!(matches!(Saved::read(&place.path().join("none")), Err(Error::Io { .. })));
}
