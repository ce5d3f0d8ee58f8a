//! The server: pages, the rebuild after a change, a broken page that does not take the book down.

mod common;

use common::Mini;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mini: &Mini) -> Self {
        let port = book::serve::bind(0).unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_book"))
            .args(["--port", &port.to_string()])
            .current_dir(mini.workspace.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains(&format!("http://127.0.0.1:{port}")), "{line:?}");
        Self { child, port }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Asks until the answer has the words; a rebuild must be there within two seconds.
    fn until(&self, path: &str, words: &str) {
        let begun = Instant::now();
        while !self.get(path).contains(words) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{path} never has {words:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_change_is_served_and_a_mistake_is_not() {
    let mini = Mini::new();
    let mut server = Server::start(&mini);
    let page = server.get("/ch01_one.html");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.contains("/--build--"), "a served page asks for newer builds");
    assert!(server.get("/").contains("Preface"));
    assert!(server.get("/none.html").starts_with("HTTP/1.1 404"));
    assert!(server.get("/%2e%2e/Cargo.toml").starts_with("HTTP/1.1 400"));

    mini.append("A new sentence.");
    server.until("/--build--", "\r\n\r\n1");
    assert!(server.get("/ch01_one.html").contains("A new sentence."));

    mini.append("$\\nosuch$ and a broken sentence.");
    let stderr = server.child.stderr.take().unwrap();
    let mut lines = BufReader::new(stderr).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("book/text/ch01_one.md:19: KaTeX rejects")));
    let page = server.get("/ch01_one.html");
    assert!(page.contains("A new sentence.") && !page.contains("broken sentence"));

    mini.edit("book/text/ch01_one.md", "$\\nosuch$ and a broken", "A repaired");
    server.until("/ch01_one.html", "A repaired sentence.");
}

#[test]
fn the_built_book_asks_for_nothing() {
    let mini = Mini::new();
    let math = std::rc::Rc::new(book::math::Math::default());
    let dest = mini.path("site");
    book::site::build(&mini.workspace, &dest, &math).unwrap();
    let page = std::fs::read_to_string(dest.join("ch01_one.html")).unwrap();
    assert!(!page.contains("--build--"));
}
