//! Tokenizer files that are no byte-level BPE: with the feature `hf-tokenizers` they count and mask as any other, without it the error
//! names the feature.

use serde_json::{Value, json};
use std::{fs, sync::Arc};
use sweroll::tokens::{Tokenizer, TokenizerError};

fn load(file: &Value) -> Result<Arc<Tokenizer>, TokenizerError> {
    let path = tempfile::NamedTempFile::new().unwrap();
    fs::write(path.path(), file.to_string()).unwrap();
    Tokenizer::load(path.path())
}

/// Unigram with SentencePiece's white space and bytes for what it does not know; what `transformers` does not use of a file when it
/// tokenizes a chat is in it too: truncation, padding, special tokens of the post-processor.
fn unigram() -> Value {
    let added = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [added(0, "<unk>"), added(9, "<|im_start|>"), added(10, "<|im_end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}
        },
        "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [
            ["<unk>", 0.0], ["user", -1.0], ["assistant", -1.0], ["▁hi", -1.0], ["▁ok", -1.0], ["▁", -3.0], ["!", -1.0],
            ["<0xC3>", -9.0], ["<0xA9>", -9.0], ["<|im_start|>", 0.0], ["<|im_end|>", 0.0]
        ]}
    })
}

#[cfg(not(feature = "hf-tokenizers"))]
#[test]
fn without_the_feature_the_error_names_it() {
    let error = load(&unigram()).err().unwrap().to_string();
    assert!(error.contains("Metaspace") && error.contains("--features hf-tokenizers"), "{error}");
}

#[cfg(feature = "hf-tokenizers")]
mod with_the_library {
    use super::*;
    use sweroll::{
        domain::{Message, Role},
        tokens::{ChatTemplate, Counter},
    };

    const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }} {% if m.role == 'assistant' %}\
        {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}";

    #[test]
    fn tokens_are_the_files() {
        let tokenizer = load(&unigram()).unwrap();
        let text = "<|im_start|>user hi é!<|im_end|>";
        let expected = [9, 1, 3, 5, 7, 8, 6, 10];
        assert_eq!(tokenizer.encode(text), expected);
        assert_eq!(tokenizer.count(text), expected.len());
        let mut spans = Vec::new();
        tokenizer.spans(text, |id, at| spans.push((id, &text[at])));
        let shown = ["<|im_start|>", "user", " hi", " ", "é", "é", "!", "<|im_end|>"];
        assert_eq!(spans, expected.into_iter().zip(shown).collect::<Vec<_>>());
        let header = "<|im_start|>user".len();
        assert_eq!(tokenizer.count_after(text, header), (8, 6));
        assert_eq!(tokenizer.count_after(text, header + 1), (8, 6), "a token that is cut is not in the header");
        assert_eq!(tokenizer.count(""), 0);
        assert_eq!((&*tokenizer.token(3), &*tokenizer.token(9), &*tokenizer.token(99)), ("▁hi".as_bytes(), &b""[..], &b""[..]));
        assert!(tokenizer.has_control("x <|im_end|>") && !tokenizer.has_control("<unk> <|im_en"));
        assert!(tokenizer.digest().starts_with("sha256:") && !tokenizer.is_assumed());
        assert!(tokenizer.is_same(&load(&unigram()).unwrap()) && !tokenizer.is_same(&Tokenizer::qwen3()));
        assert!(!Tokenizer::qwen3().is_same(&tokenizer));
    }

    #[test]
    fn a_conversation_is_counted_and_masked() {
        let template = ChatTemplate::parse("test.jinja".into(), TEMPLATE, 0).unwrap();
        let counter = Counter::of_file(template, load(&unigram()).unwrap());
        let mut messages = vec![
            Message::new(Role::User, "hi"),
            Message::new(Role::Assistant, "ok"),
            Message::new(Role::User, "hi hi"),
            Message::new(Role::Assistant, "oké!"),
        ];
        let counts = counter.count(&messages, "").unwrap();
        assert_eq!(counts.unmarked, None);
        // Each turn: two tokens before its text, `<|im_end|>` after it; the white space before a reply is a part of its first token.
        assert_eq!((counts.total, counts.loss), (4 + 4 + 5 + 7, 2 + 5));
        assert_eq!(counts.turns.iter().map(|turn| turn.loss).collect::<Vec<_>>(), [2, 5]);
        assert!(counter.is_exact() && !counts.special_in_text);
        messages[1].loss = false;
        messages[2].content = "hi <|im_end|>".into();
        let counts = counter.count(&messages, "").unwrap();
        assert_eq!((counts.loss, counts.special_in_text), (5, true));
    }

    #[test]
    fn what_has_no_certain_tokens_is_refused() {
        let mut file = unigram();
        file["model"]["unk_id"] = Value::Null;
        let error = load(&file).err().unwrap().to_string();
        assert!(error.contains("not supported") && error.contains("unk"), "{error}");
        let bpe = |dropout: f64, unknown: &str| {
            let mut file = unigram();
            file["model"] = json!({"type": "BPE", "dropout": dropout, "unk_token": unknown, "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]});
            load(&file)
        };
        assert!(bpe(0.5, "<unk>").err().unwrap().to_string().contains("dropout"));
        assert!(bpe(0.0, "<no>").err().unwrap().to_string().contains("<no>"));
        assert_eq!(bpe(0.0, "<unk>").unwrap().encode("abac"), [3, 1, 0]);
    }
}
