//! What mdBook itself complains about, which it otherwise says to nobody: HTML that is not closed, a footnote that is
//! defined twice, a heading that cannot be linked.
//!
//! mdBook reports through `tracing`. This listens while a book is built and turns warnings into problems.
//!
//! Left out: a subscriber from a crate, because one that keeps a list is thirty lines.

use crate::problem::Problem;
use regex::Regex;
use std::fmt::{Debug, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static PAGE: LazyLock<Regex> =
    // A constant; the tests compile it.
    LazyLock::new(|| Regex::new(r"`([^`]+\.md)`").expect("a constant pattern"));

/// Runs the work; returns its result and mdBook's warnings about pages below `text`.
pub fn heard<T>(text: &Path, work: impl FnOnce() -> T) -> (T, Vec<Problem>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let listener = Listener(Arc::clone(&notes));
    let result = tracing::subscriber::with_default(listener, work);
    // The lock is only poisoned by a panic, which ends the program anyway.
    let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(|e| e.into_inner()));
    let problems = notes.into_iter().map(|note| {
        let page = PAGE.captures(&note).map(|c| text.join(&c[1]));
        Problem::new(page.unwrap_or(text.to_path_buf()), None, note)
    });
    (result, problems.collect())
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("mdbook")
    }
    fn event(&self, event: &Event) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let mut notes = self.0.lock().unwrap_or_else(|e| e.into_inner());
        notes.push(message.0.replace('\n', " "));
    }
    fn new_span(&self, _: &Attributes) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
