//! Serves the book on this machine, and rebuilds and reloads it when something it is made of changes.
//!
//! A few hundred files are looked at three times a second, which costs less than one per cent of a core and needs no
//! system-specific watcher. Pages ask for the number of the current build twice a second and reload when it grows.
//! A page that does not build is reported, and the last good book stays up.
//!
//! Left out: other hosts than 127.0.0.1, because this is a desk and not a web server.

use crate::math::Math;
use crate::site;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Added to served pages only; a built book has nothing of it.
const RELOAD: &str = r#"<script>
(() => {
  let shown = null;
  setInterval(async () => {
    try {
      const build = await (await fetch("/--build--", { cache: "no-store" })).text();
      if (shown !== null && shown !== build) location.reload();
      shown = build;
    } catch { /* The server is gone: keep the page. */ }
  }, 500);
})();
</script>"#;

/// What the book is made of.
const WATCHED: [&str; 10] = [
    "book/stubs",
    "book/text",
    "book/theme",
    "book/drawings",
    "book/recorded",
    "book/book.toml",
    "book/recordings.toml",
    "chapters",
    "src",
    "Cargo.toml",
];

#[derive(Clone)]
struct Site {
    dir: Arc<PathBuf>,
    build: Arc<AtomicU64>,
}

/// Takes the port, or says plainly that it is taken.
pub fn bind(port: u16) -> Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "port {port} is in use by another program; choose another with --port, such as --port {}",
            port.wrapping_add(1).max(1024)
        ),
        Err(error) => Err(error).with_context(|| format!("cannot listen on port {port}")),
    }
}

/// Serves until Ctrl-C.
pub fn serve(workspace: &Workspace, port: u16, open: bool) -> Result<()> {
    // Before the build: a taken port should not cost the reader a wait.
    let listener = bind(port)?;
    let address = format!("http://{}", listener.local_addr()?);
    let dir = workspace.root().join("target/book");
    let site = Site { dir: Arc::new(dir.clone()), build: Arc::default() };
    let seen = snapshot(workspace);
    if let Err(error) = site::build(workspace, &dir, &Rc::new(Math::default())) {
        if !dir.join("index.html").is_file() {
            return Err(error);
        }
        eprintln!(
            "{error:#}\nThe book as it was built before is served until this is repaired."
        );
    }
    let watcher = (workspace.clone(), site.build.clone());
    std::thread::spawn(move || watch(&watcher.0, &dir, &watcher.1, seen));
    println!("{address}   (Ctrl-C stops; pages reload when a text or a source changes)");
    if open {
        open_browser(&address);
    }
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the server")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let app = Router::new()
            .route("/--build--", get(current_build))
            .fallback(file)
            .with_state(site);
        tokio::select! {
            served = axum::serve(listener, app) => served.context("the server stopped"),
            stopped = tokio::signal::ctrl_c() => stopped.context("cannot wait for Ctrl-C"),
        }
    })
}

async fn current_build(State(site): State<Site>) -> String {
    site.build.load(Ordering::Relaxed).to_string()
}

async fn file(State(site): State<Site>, uri: Uri) -> Response {
    let Some(relative) = requested(uri.path()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut path = site.dir.join(relative);
    if path.is_dir() {
        path.push("index.html");
    }
    let (status, bytes) = match fs::read(&path) {
        Ok(bytes) => (StatusCode::OK, bytes),
        Err(_) => {
            path = site.dir.join("404.html");
            (StatusCode::NOT_FOUND, fs::read(&path).unwrap_or_default())
        }
    };
    let kind = content_type(&path);
    let bytes = if kind.starts_with("text/html") { with_reload(bytes) } else { bytes };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    (status, headers, bytes).into_response()
}

/// The file a URL path asks for; nothing for one that leaves the book.
fn requested(path: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = path.trim_start_matches('/').bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let path = PathBuf::from(String::from_utf8(bytes).ok()?);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_)));
    inside.then_some(path)
}

fn with_reload(page: Vec<u8>) -> Vec<u8> {
    let Ok(page) = String::from_utf8(page) else {
        return Vec::new();
    };
    match page.rfind("</body>") {
        Some(at) => format!("{}{RELOAD}{}", &page[..at], &page[at..]).into_bytes(),
        None => page.into_bytes(),
    }
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("wasm") => "application/wasm",
        Some("txt" | "csv" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Rebuilds after each change, for as long as the program runs.
fn watch(workspace: &Workspace, dir: &Path, build: &AtomicU64, mut seen: Snapshot) {
    let math = Rc::new(Math::default());
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = snapshot(workspace);
        if now == seen {
            continue;
        }
        // An editor may write a file in two steps: wait until it rests.
        std::thread::sleep(Duration::from_millis(50));
        seen = snapshot(workspace);
        let started = std::time::Instant::now();
        match site::build(workspace, dir, &math) {
            Ok(()) => {
                build.fetch_add(1, Ordering::Relaxed);
                eprintln!("rebuilt in {} ms", started.elapsed().as_millis());
            }
            Err(error) => eprintln!("{error:#}\nThe last good book is still served."),
        }
    }
}

type Snapshot = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Modification time and length of every watched file.
fn snapshot(workspace: &Workspace) -> Snapshot {
    let mut files = Snapshot::new();
    for name in WATCHED {
        look(&workspace.root().join(name), &mut files);
    }
    files
}

fn look(path: &Path, files: &mut Snapshot) {
    let Ok(meta) = fs::metadata(path) else { return };
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            // Recordings in the making are not part of the book.
            if !entry.file_name().to_string_lossy().starts_with('.') {
                look(&entry.path(), files);
            }
        }
    } else {
        files.insert(path.to_path_buf(), (meta.modified().ok(), meta.len()));
    }
}

/// Asks the system for its browser; without one the address is printed anyway.
fn open_browser(address: &str) {
    let (program, args): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        ("cmd", &["/C", "start", ""])
    } else {
        ("xdg-open", &[])
    };
    let started = std::process::Command::new(program).args(args).arg(address).spawn();
    if started.is_err() {
        eprintln!("no browser could be opened with {program}; open the address yourself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_inside_the_book() {
        assert_eq!(requested("/a/b%20c.html"), Some("a/b c.html".into()));
        assert_eq!(requested("/../secret"), None);
        assert_eq!(requested("/%2e%2e/secret"), None);
        assert_eq!(requested("/%2fetc/passwd"), None);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = bind(0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
    }
}
