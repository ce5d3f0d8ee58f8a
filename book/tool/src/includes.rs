//! Verifies `{{#include FILE:ANCHOR}}`, which mdBook itself does not: with mdBook a missing file stays on the page as
//! written, a missing anchor gives an empty block, and an open one runs to the end of the file.
//!
//! Left out: line ranges of Rust files, because they drift silently when the file changes.

use crate::anchors;
use crate::problem::slashed;
use crate::workspace::{Workspace, read};
use std::path::Path;

/// The caption of the included code (its file), or all that is wrong with the include.
pub fn verify(
    workspace: &Workspace,
    page: &Path,
    target: &str,
) -> Result<String, Vec<String>> {
    let (file, anchor) = match target.split_once(':') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (target, None),
    };
    let path = page.parent().unwrap_or(page).join(file);
    let Ok(path) = path.canonicalize() else {
        return Err(vec![format!("the included file {file:?} does not exist")]);
    };
    let root = workspace.root().canonicalize();
    let root = root.as_deref().unwrap_or(workspace.root());
    let Ok(shown) = path.strip_prefix(root) else {
        return Err(vec![format!(
            "the included file {file:?} lies outside of this workspace"
        )]);
    };
    let shown = slashed(shown);
    let text = read(&path).map_err(|error| vec![format!("{error:#}")])?;
    let is_rust = path.extension().is_some_and(|e| e == "rs");
    match anchor {
        None => Ok(shown),
        Some(range) if range.starts_with(|c: char| c.is_ascii_digit() || c == ':') => {
            if is_rust {
                Err(vec![format!(
                    "{shown}: include Rust by an anchor, not by the lines {range:?}, which drift"
                )])
            } else {
                Ok(shown)
            }
        }
        Some(anchor) => match anchors::find(&text, anchor) {
            Err(message) => Err(vec![format!("{shown}: {message}")]),
            Ok(lines) if is_rust => match anchors::whole(&text, lines) {
                Ok(()) => Ok(shown),
                Err(message) => Err(vec![format!("{shown}: anchor {anchor:?} {message}")]),
            },
            Ok(_) => Ok(shown),
        },
    }
}
