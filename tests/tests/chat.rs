//! Tokenizer, chat template and streamed text against the original's, and their guards.
#![allow(clippy::unwrap_used, reason = "a test may")]

use diffulex_runtime::chat::{Chat, ChatError, MAX_FILE, Message, Special, Template, TextStream, Tokenizer, Variables};
use diffulex_tests::reference::{fixture, json};
use serde_json::{Value, json};
use std::path::Path;

fn tiny() -> Chat {
    Chat::open(&fixture("sdar/tiny")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn check_text(tokenizer: &Tokenizer, case: &Value) {
    let want = ids(&case["ids"]);
    assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), want, "{case}");
    assert_eq!(tokenizer.decode(&want, Special::Keep).unwrap(), case["decoded"], "{case}");
    assert_eq!(tokenizer.decode(&want, Special::Skip).unwrap(), case["decoded_skip_special"], "{case}");
    let tokens: Vec<String> = want.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(json!(tokens), case["tokens"]);
}

fn check_chat(chat: &Chat, case: &Value) {
    let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
    let variables: Variables = serde_json::from_value(case["kwargs"].clone()).unwrap_or_default();
    let template = chat.template.as_ref().unwrap();
    let text = template.render(&messages, case["add_generation_prompt"] == true, &variables).unwrap();
    assert_eq!(text, case["rendered"].as_str().unwrap());
    assert_eq!(chat.tokenizer.encode(&text).unwrap(), ids(&case["ids"]));
}

#[test]
fn every_case_of_the_original() {
    for (family, conversations) in [("sdar", 4), ("fast_dllm_v2", 3), ("dream", 3), ("llada", 3)] {
        let chat = Chat::open(&fixture(&format!("{family}/tiny"))).unwrap();
        let cases = json(&format!("{family}/tokenizer_cases.json"));
        let (texts, chats) = (cases["encode"].as_array().unwrap(), cases["chat"].as_array().unwrap());
        assert_eq!((texts.len(), chats.len()), (12, conversations), "{family}");
        texts.iter().for_each(|case| check_text(&chat.tokenizer, case));
        chats.iter().for_each(|case| check_chat(&chat, case));
    }
}

#[test]
fn special_tokens_and_unknown_ids() {
    let tokenizer = tiny().tokenizer;
    let answer = [325, 332, 9999, 382];
    assert_eq!(tokenizer.decode(&answer, Special::Skip).unwrap(), "The");
    assert_eq!(tokenizer.decode(&answer, Special::Keep).unwrap(), "The<|im_end|>");
    assert_eq!((tokenizer.id("<|im_end|>"), tokenizer.id("nope"), tokenizer.token(9999)), (Some(332), None, None));
}

#[test]
fn streamed_text_never_shows_half_a_character() {
    let tokenizer = tiny().tokenizer;
    for text in ["emoji 😀 ok, 猫が好き", "é", "", "plain"] {
        let mut answer = tokenizer.encode(text).unwrap();
        answer.extend([332, 330]); // special tokens are not shown
        let (mut stream, mut shown) = (TextStream::new(&tokenizer), String::new());
        for end in 0..=answer.len() {
            let piece = stream.advance(&answer[..end]).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{piece:?}");
            shown += &piece;
        }
        assert_eq!(shown, text);
        assert_eq!(stream.finish(&answer).unwrap(), "");
    }
}

#[test]
fn broken_characters_are_shown_once_they_are_final() {
    let tokenizer = tiny().tokenizer;
    let smile = tokenizer.encode("😀").unwrap();
    assert_eq!(smile.len(), 4);
    let mut stream = TextStream::new(&tokenizer);
    assert_eq!(stream.advance(&smile[..2]).unwrap(), "");
    let answer = [smile[0], smile[1], 325, smile[0]];
    assert_eq!(stream.advance(&answer).unwrap(), "\u{fffd}The");
    assert_eq!(stream.finish(&answer).unwrap(), "\u{fffd}");
}

fn render(source: &str) -> Result<String, ChatError> {
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let template = Template::new(source.into(), None, Some("<eos>".into()))?;
    template.render(&[turn("user", " Hi "), turn("assistant", "a</think>\nb")], true, &Variables::new())
}

#[test]
fn what_templates_use() {
    let same = |source: &str, want: &str| assert_eq!(render(source).unwrap(), want, "{source}");
    same("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}", "<eos>True");
    same("{{ messages[0].content.strip() }}|{{ messages[1]['content'].split('</think>')[-1].lstrip('\\n') }}", "Hi|b");
    same("{% for m in messages[::-1] %}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}", "assistant,user");
    same("{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2");
    same("{% for m in messages %}{% break %}{% endfor %}a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc");
    same("{{ messages[0].content is string and 'user'.startswith('us') }}{{ '<b>' }}", "True<b>");
    same("{% if tools %}{{ tools | tojson }}{% endif %}ok", "ok");
    assert_eq!(render("{{ strftime_now('%Y') }}").unwrap().len(), 4);
}

#[test]
fn what_templates_may_not() {
    let refused = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(matches!(&refused, ChatError::Refused(why) if why == "roles must alternate"), "{refused}");
    for hostile in [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 1000000000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(90000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 9 }}{% endfor %}",
        "{% include 'other' %}",
        "{{ messages[7].content }}",
        "{{ messages | no_such_filter }}",
        "{% if %}",
        &format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)),
    ] {
        let result = render(hostile);
        let start = &hostile[..hostile.len().min(60)];
        assert!(matches!(result, Err(ChatError::Template(_))), "{start}: {:?}", result.map(|text| text.len()));
    }
}

/// A folder with the tiny tokenizer and the files given.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("sdar/tiny/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn open(files: &[(&str, &str)]) -> Result<Chat, ChatError> {
    Chat::open(folder(files).path())
}

#[test]
fn where_templates_come_from() {
    let hello = [Message { role: "user".into(), content: "x".into() }];
    let prompt = |files: &[(&str, &str)]| open(files).unwrap().prompt(&hello, &Variables::new()).map(|(text, _)| text);
    let listed = r#"{"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    assert_eq!(prompt(&[("tokenizer_config.json", r#"{"chat_template": "c"}"#)]).unwrap(), "c");
    assert_eq!(prompt(&[("tokenizer_config.json", listed)]).unwrap(), "d");
    assert_eq!(prompt(&[("tokenizer_config.json", listed), ("chat_template.jinja", "file")]).unwrap(), "file");
    let bos = r#"{"chat_template": "{{ bos_token }}", "bos_token": {"content": "<s>"}}"#;
    assert_eq!(prompt(&[("tokenizer_config.json", bos)]).unwrap(), "<s>");
    assert!(matches!(prompt(&[]), Err(ChatError::NoTemplate)));
}

#[test]
fn files_that_are_wrong() {
    assert!(matches!(Chat::open(Path::new("/nowhere")), Err(ChatError::Read { .. })));
    assert!(matches!(open(&[("tokenizer_config.json", "{")]), Err(ChatError::Format { .. })));
    assert!(matches!(
        open(&[("tokenizer_config.json", r#"{"chat_template": "{% if %}"}"#)]),
        Err(ChatError::Template(_))
    ));
    assert!(matches!(open(&[("tokenizer.json", "[]")]), Err(ChatError::Format { .. })));
    assert!(matches!(open(&[("tokenizer.json", r#"{"model": {"type": "BPE"}}"#)]), Err(ChatError::Format { .. })));
    let mut lying = json("sdar/tiny/tokenizer.json");
    lying["model"]["continuing_subword_prefix"] = json!("longer than a token");
    assert!(matches!(open(&[("tokenizer.json", &lying.to_string())]), Err(ChatError::Format { .. })));
    let huge = folder(&[]);
    let file = std::fs::File::create(huge.path().join("tokenizer.json")).unwrap();
    file.set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(Chat::open(huge.path()), Err(ChatError::TooLarge { .. })));
}
