//! The real book in a real browser: Chromium, driven from here.
//!
//! Every page, in a light and a dark theme, on a desk and on a phone: no error on the console, no request that fails
//! or leaves this machine, formulas in their own fonts, nothing wider than the screen; and the search, the print page,
//! and the book opened from disk. Without Chromium the test says so and passes, unless CI=true.
//!
//! Left out: pictures compared with earlier ones, because fonts are drawn differently on each machine.

use book::math::Math;
use book::site;
use book::workspace::Workspace;
use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{Emulation, Log, Network, Page};
use headless_chrome::{Browser, LaunchOptions, Tab};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Debian calls it chromium, others differ.
const NAMES: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROME") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let mut folders = std::env::split_paths(&path);
    let found = folders.find_map(|dir| {
        let mut candidates = NAMES.iter().map(|name| dir.join(name));
        candidates.find(|candidate| candidate.is_file())
    });
    let mac = Path::new("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    found.or_else(|| mac.is_file().then(|| mac.to_path_buf()))
}

/// `cargo book serve` on a free port, ended when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path) -> Self {
        // Asked for and given back: the server takes it a moment later.
        let port = book::serve::bind(0).unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_book"))
            .args(["serve", "--port", &port.to_string()])
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.split_whitespace().next().unwrap_or("").to_owned();
        assert!(address.starts_with("http://127.0.0.1:"), "the server said {line:?}");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What went wrong on a page while it was looked at.
type Trouble = Arc<Mutex<Vec<String>>>;

fn launch(chromium: PathBuf) -> Browser {
    let quiet = [
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ];
    let options = LaunchOptions::default_builder()
        .path(Some(chromium))
        .sandbox(false)
        .idle_browser_timeout(Duration::from_secs(300))
        .args(quiet.iter().map(OsStr::new).collect())
        .build()
        .unwrap();
    Browser::new(options).unwrap()
}

/// A tab that writes down errors of the console and requests that fail or go elsewhere.
fn watched_tab(browser: &Browser, home: &str) -> (Arc<Tab>, Trouble) {
    let tab = browser.new_tab().unwrap();
    tab.set_default_timeout(Duration::from_secs(30));
    let trouble = Trouble::default();
    tab.enable_log().unwrap();
    tab.enable_runtime().unwrap();
    tab.call_method(Network::Enable {
        max_total_buffer_size: None,
        max_resource_buffer_size: None,
        max_post_data_size: None,
        report_direct_socket_traffic: None,
        enable_durable_messages: None,
    })
    .unwrap();
    let (notes, home) = (Arc::clone(&trouble), home.to_owned());
    let listen = move |event: &Event| {
        let note = match event {
            Event::LogEntryAdded(e)
                if e.params.entry.level == Log::LogEntryLevel::Error =>
            {
                format!("console: {}", e.params.entry.text)
            }
            Event::RuntimeExceptionThrown(e) => {
                format!("exception: {}", e.params.exception_details.text)
            }
            Event::NetworkLoadingFailed(e) if e.params.canceled != Some(true) => {
                format!("request failed: {}", e.params.error_text)
            }
            Event::NetworkResponseReceived(e) if e.params.response.status >= 400 => {
                format!("status {}: {}", e.params.response.status, e.params.response.url)
            }
            Event::NetworkRequestWillBeSent(e) => {
                let url = &e.params.request.url;
                if url.starts_with(&home)
                    || url.starts_with("data:")
                    || url.starts_with("about:")
                {
                    return;
                }
                format!("request to {url}")
            }
            _ => return,
        };
        notes.lock().unwrap().push(note);
    };
    tab.add_event_listener(Arc::new(listen)).unwrap();
    (tab, trouble)
}

fn resize(tab: &Tab, width: u32) {
    tab.call_method(Emulation::SetDeviceMetricsOverride {
        width,
        height: 900,
        device_scale_factor: 1.0,
        mobile: width < 600,
        scale: None,
        screen_width: None,
        screen_height: None,
        position_x: None,
        position_y: None,
        dont_set_visible_size: None,
        screen_orientation: None,
        viewport: None,
        display_feature: None,
        device_posture: None,
    })
    .unwrap();
}

/// Before any script of the page: the reader's theme, and no print dialogue.
fn prepare(tab: &Tab, theme: &str) {
    tab.call_method(Page::AddScriptToEvaluateOnNewDocument {
        source: format!(
            "localStorage.setItem('mdbook-theme', '{theme}'); window.print = () => {{}};"
        ),
        world_name: None,
        include_command_line_api: None,
        run_immediately: None,
    })
    .unwrap();
}

/// Goes to a page and waits until all of it is there. The page's own polling for a new build never ends, so waiting
/// for a silent network would take its time on each page.
fn open(tab: &Tab, url: &str) {
    tab.navigate_to(url).unwrap();
    let begun = Instant::now();
    loop {
        let state = tab.evaluate("`${document.readyState} ${location.href}`", false);
        let state = state.ok().and_then(|s| s.value);
        let state = state.as_ref().and_then(|s| s.as_str()).unwrap_or("");
        let plain = url.split('#').next().unwrap_or(url);
        if state.strip_prefix("complete ").is_some_and(|at| at.starts_with(plain)) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{url} does not load: {state:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A string that a script in the page computes.
fn ask(tab: &Tab, script: &str) -> String {
    let value = tab.evaluate(script, true).unwrap().value;
    value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What is wrong with the page that the tab shows.
const LOOK: &str = r#"(async () => {
    await document.fonts.ready;
    const wrong = [];
    const formulas = document.querySelectorAll("main .katex").length;
    const loaded = [...document.fonts].some((f) => f.family.replaceAll('"', "") === "KaTeX_Main" && f.status === "loaded");
    if (formulas > 0 && !loaded) wrong.push("formulas without the font KaTeX_Main");
    if (document.querySelector(".katex-error")) wrong.push("a formula with an error");
    if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is wider than the screen");
    const content = document.querySelector(".content");
    if (content.scrollWidth > content.clientWidth) wrong.push(`the content is ${content.scrollWidth} px wide`);
    for (const svg of document.querySelectorAll("svg.plot"))
        if (svg.getBoundingClientRect().height < 50) wrong.push("a figure without height");
    if (!document.querySelector("main h1")) wrong.push("no heading");
    return wrong.join("; ");
})()"#;

#[test]
fn the_book_in_a_browser() {
    let Some(chromium) = chromium() else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "Chromium not found, and CI=true: install it with `apt-get install chromium`"
        );
        eprintln!(
            "skipped: Chromium not found; install it with `apt-get install chromium`, or set CHROME to its path"
        );
        return;
    };
    let workspace = Workspace::find().unwrap();
    let browser = launch(chromium);
    let mut wrong = Vec::new();

    // From disk, as somebody opens a book that was sent to them.
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().canonicalize().unwrap().join("book");
    site::build(&workspace, &dest, &Rc::new(Math::default())).unwrap();
    let mut pages: Vec<String> = std::fs::read_dir(&dest)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| {
            name.ends_with(".html") && !["toc.html", "404.html"].contains(&name.as_str())
        })
        .collect();
    pages.sort();
    assert!(pages.contains(&"print.html".to_owned()) && pages.len() > 2, "{pages:?}");
    let on_disk = format!("file://{}", dest.display());
    visit(&browser, &on_disk, &pages, &[("light", 1280)], &mut wrong);

    // Served, in two themes and two widths.
    let server = Server::start(workspace.root());
    let views = [("light", 1280), ("light", 390), ("navy", 1280), ("navy", 390)];
    visit(&browser, &server.address, &pages, &views, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    search(&browser, &server.address);
}

/// Opens each page in each view and writes down what is wrong.
fn visit(
    browser: &Browser,
    home: &str,
    pages: &[String],
    views: &[(&str, u32)],
    wrong: &mut Vec<String>,
) {
    for (theme, width) in views {
        let (tab, trouble) = watched_tab(browser, home);
        prepare(&tab, theme);
        resize(&tab, *width);
        for page in pages {
            let mut note =
                |what: String| wrong.push(format!("{home}/{page} {theme} {width}: {what}"));
            open(&tab, &format!("{home}/{page}"));
            let seen = ask(&tab, LOOK);
            if !seen.is_empty() {
                note(seen);
            }
            let shown = ask(&tab, "document.documentElement.className");
            if !shown.split(' ').any(|class| class == *theme) {
                note(format!("the theme is {shown:?}"));
            }
            trouble.lock().unwrap().drain(..).for_each(note);
        }
        tab.close(false).unwrap();
    }
}

/// The search finds the book's own word, and its first result leads to a page with it.
fn search(browser: &Browser, home: &str) {
    let (tab, trouble) = watched_tab(browser, home);
    prepare(&tab, "light");
    resize(&tab, 1280);
    open(&tab, &format!("{home}/index.html?search=trained"));
    tab.wait_for_element_with_custom_timeout(
        "#mdbook-searchresults a",
        Duration::from_secs(20),
    )
    .expect("the search found nothing");
    let target = ask(&tab, "document.querySelector('#mdbook-searchresults a').href");
    open(&tab, &target);
    let text = ask(&tab, "document.querySelector('main').textContent.toLowerCase()");
    assert!(text.contains("trained"));
    assert!(trouble.lock().unwrap().is_empty(), "{trouble:?}");
}
