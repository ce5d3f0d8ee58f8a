//! Ids, text and conversations, as transformers has them.

use crate::{MODELS, ids, oracle, path};
use grpo::lm::tokenizer::{Message, Tokenizer};

#[test]
fn ids_and_text() {
    for model in MODELS {
        let tokenizer = Tokenizer::read(&path(model)).unwrap();
        for case in oracle(model)["tokenizer"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.decode(&ids(&case["ids"])).unwrap(), case["decoded"]);
        }
        assert_eq!(tokenizer.id("<|im_end|>").unwrap(), 2);
        let error = tokenizer.id("<think>").unwrap_err().to_string();
        assert_eq!(error, "there is no token `<think>`");
    }
}

#[test]
fn a_rendered_conversation_and_its_ids() {
    for model in MODELS {
        let oracle = oracle(model);
        let messages: Vec<Message> =
            serde_json::from_value(oracle["chat"]["messages"].clone()).unwrap();
        let tokenizer = Tokenizer::read(&path(model)).unwrap();
        let rendered = tokenizer.chat(&messages, true).unwrap();
        assert_eq!(rendered, oracle["chat"]["rendered"]);
        assert_eq!(tokenizer.encode(&rendered).unwrap(), ids(&oracle["chat"]["ids"]));
        assert!(rendered.starts_with(&tokenizer.chat(&messages, false).unwrap()));
    }
}

/// What published templates use: slices, namespaces, string methods, special tokens,
/// blocks on lines of their own, refusals.
#[test]
fn templates_of_published_models_run() {
    let folder = tempfile::tempdir().unwrap();
    let copy =
        |name: &str| std::fs::copy(path("qwen2").join(name), folder.path().join(name));
    copy("tokenizer.json").unwrap();
    let bos =
        r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), bos).unwrap();
    let messages = [Message::new("user", " a</think>b "), Message::new("assistant", "c")];
    let chat = |template: &str| {
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        Tokenizer::read(folder.path()).unwrap().chat(&messages, true)
    };
    for (template, rendered) in [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ messages[::-1][0].content }}", "c"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{{ messages[0].content.strip().split('</think>')[-1].rstrip('\\n') }}", "b"),
        ("{% if messages[0].content.startswith(' a') %}yes{% endif %}", "yes"),
        ("{%- if tools %}\n  no\n{%- endif %}\n{{ messages|length }}", "2"),
        (
            "{% for m in messages %}\n    {% if loop.first %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}",
            "user\n",
        ),
        ("{{ messages[1] | tojson }}", r#"{"role": "assistant", "content": "c"}"#),
    ] {
        assert_eq!(chat(template).unwrap(), rendered, "{template}");
    }
    let refused = chat("{{ raise_exception('no system turn') }}").unwrap_err();
    assert!(format!("{refused:#}").contains("no system turn"), "{refused:#}");
    let broken = chat("{% for m in %}").unwrap_err();
    assert!(format!("{broken:#}").contains("in the chat template"), "{broken:#}");
}

#[test]
fn bad_tokenizers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || format!("{:#}", Tokenizer::read(folder.path()).err().unwrap());
    assert!(refusal().contains("cannot read") && refusal().contains("tokenizer.json"));
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(refusal().contains("tokenizer.json: not a tokenizer"), "{}", refusal());
    let error = Tokenizer::characters(&["a"], "ba").err().unwrap().to_string();
    assert_eq!(error, "the token `a` comes twice");
    let characters = Tokenizer::characters(&["<eos>"], "01+").unwrap();
    assert_eq!(characters.size(), 4);
    assert_eq!(characters.encode("0<eos>").unwrap(), [1, 0]);
    let error = characters.encode("0 1").unwrap_err().to_string();
    assert!(error.starts_with("cannot encode \"0 1\""), "{error}");
    let error = characters.chat(&[], true).unwrap_err().to_string();
    assert_eq!(error, "this tokenizer has no chat template");
}
