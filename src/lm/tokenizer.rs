//! Text to ids and back, and the words around a conversation.
//!
//! A tokenizer is either read from a folder (`tokenizer.json`, with the chat template in
//! `chat_template.jinja` or `tokenizer_config.json`), or made of single characters for a
//! model that only has to add numbers.
//!
//! Left out: training a tokenizer. A model reads the ids that it was trained on.

use crate::Result;
use anyhow::{Context, anyhow, bail, ensure};
use minijinja::{Environment, ErrorKind, context, syntax::SyntaxConfig, value::Serde};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_string(), content: content.to_string() }
    }
}

/// Text ↔ ids, and a chat template where the folder has one.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    template: Option<String>,
    /// What templates may ask for: `bos_token`, `eos_token` and so on.
    special: BTreeMap<String, String>,
}

impl Tokenizer {
    /// Reads the tokenizer of a folder, and its chat template if there is one.
    ///
    /// # Errors
    /// Names the file that cannot be read or understood.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes =
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let inner = from_bytes(&bytes).with_context(|| path.display().to_string())?;
        let path = folder.join("tokenizer_config.json");
        let config: Value = match path.exists() {
            true => serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| path.display().to_string())?,
            false => Value::Null,
        };
        let path = folder.join("chat_template.jinja");
        let template = match path.exists() {
            true => Some(
                fs::read_to_string(&path).with_context(|| path.display().to_string())?,
            ),
            false => config.get("chat_template").and_then(Value::as_str).map(String::from),
        };
        let text = |value: &Value| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            text.map(String::from)
        };
        let entries = config.as_object().into_iter().flatten();
        let special = entries
            .filter(|(key, _)| key.ends_with("_token"))
            .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect();
        Ok(Self { inner, template, special })
    }

    /// A tokenizer of single characters: the `special` tokens get the ids from 0, the
    /// characters those after them. Text with any other character is refused.
    ///
    /// # Errors
    /// Names a token that comes twice.
    ///
    /// ```
    /// use grpo::lm::tokenizer::Tokenizer;
    /// let tokenizer = Tokenizer::characters(&["<eos>"], "0123456789+=").unwrap();
    /// let ids = tokenizer.encode("12+7=").unwrap();
    /// assert_eq!(ids, [2, 3, 11, 8, 12]);
    /// assert_eq!(tokenizer.decode(&ids).unwrap(), "12+7=");
    /// assert_eq!(tokenizer.id("<eos>").unwrap(), 0);
    /// assert!(tokenizer.encode("12-7").is_err());
    /// ```
    pub fn characters(special: &[&str], characters: &str) -> Result<Self> {
        let names = special.iter().map(|s| s.to_string());
        let names = names.chain(characters.chars().map(String::from));
        let mut vocabulary = BTreeMap::new();
        for (id, name) in names.enumerate() {
            let before = vocabulary.insert(name.clone(), id);
            ensure!(before.is_none(), "the token `{name}` comes twice");
        }
        let added = special.iter().enumerate().map(|(id, name)| {
            json!({
                "id": id, "content": name, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        });
        let description = json!({
            "version": "1.0",
            "added_tokens": added.collect::<Vec<_>>(),
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false,
            },
            "decoder": {"type": "Fuse"},
            // No token stands for unknown characters, so they are an error.
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "\u{0}unknown"},
        });
        let inner = from_bytes(description.to_string().as_bytes())?;
        Ok(Self { inner, template: None, special: BTreeMap::new() })
    }

    /// How many tokens there are, special ones included.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids of a text. Special tokens are read where the text spells them, as a
    /// rendered conversation does, and none is added.
    ///
    /// # Errors
    /// Says which text cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false);
        let encoding = encoding.map_err(|e| anyhow!("cannot encode {text:?}: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, special tokens included.
    ///
    /// # Errors
    /// Passes on the tokenizer's error.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|e| anyhow!("cannot decode {ids:?}: {e}"))
    }

    /// The id of one token.
    ///
    /// # Errors
    /// Names the token that this tokenizer does not have.
    pub fn id(&self, token: &str) -> Result<u32> {
        self.inner
            .token_to_id(token)
            .with_context(|| format!("there is no token `{token}`"))
    }

    /// A conversation as the model was trained to read it. With `ask`, the beginning of
    /// the assistant's turn follows.
    ///
    /// # Errors
    /// When there is no template, or the template refuses the conversation.
    pub fn chat(&self, messages: &[Message], ask: bool) -> Result<String> {
        let Some(template) = &self.template else {
            bail!("this tokenizer has no chat template")
        };
        let mut environment = Environment::new();
        // As transformers sets it up: Python's string methods, blocks without their lines.
        let mut syntax = SyntaxConfig::builder();
        environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(
            minijinja_contrib::pycompat::unknown_method_callback,
        );
        environment.add_function(
            "raise_exception",
            |says: String| -> std::result::Result<(), _> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, says))
            },
        );
        let template =
            environment.template_from_str(template).context("in the chat template")?;
        let special = minijinja::Value::from(Serde(&self.special));
        let rendered = template.render(
            context! { messages => Serde(messages), add_generation_prompt => ask, ..special },
        );
        rendered.context("the chat template refuses this conversation")
    }
}

fn from_bytes(bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| anyhow!("not a tokenizer: {e}"))
}
