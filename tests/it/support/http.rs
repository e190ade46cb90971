//! HTTP/1.1 by hand, so that a test can send what no client would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    sync::mpsc::channel,
    time::Duration,
};

use super::{PATIENCE, Setup};

/// A server on a free port of loopback.
pub struct HttpForkpy {
    process: Child,
    pub address: String,
    _setup: Setup,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl HttpForkpy {
    pub fn start(setup: Setup) -> Self {
        let mut setup = setup.args(&["--transport", "http", "--port", "0"]);
        let mut process = setup.command().stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let (found, address) = channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let _ = found.send(rest.trim_end_matches("/mcp").to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("it says where it listens");
        Self { process, address, _setup: setup }
    }

    /// Sends a GET without any header of our own.
    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))
    }

    pub fn server_pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid")
    }

    /// Sends a POST to `/mcp` with these header lines besides the usual ones.
    pub fn post(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = "POST /mcp HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
                           Accept: application/json, text/event-stream\r\n"
            .to_owned();
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.send(&request)
    }

    fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Drop for HttpForkpy {
    fn drop(&mut self) {
        super::processes::signal(self.server_pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
