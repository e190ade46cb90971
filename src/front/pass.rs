//! Passing messages on, until the client goes: one loop over standard input and output and the server's socket.
//!
//! Runs in: front. Never waits for one side while the other has something to say.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    client::Client,
    lines::{Down, Passed, Up},
    meet::{self, AttachError, Meeting, Server},
};

/// Room for one read.
const CHUNK: usize = 32 << 10;
/// Bytes on their way, from which on nothing more is read from the other side.
const MUCH: usize = 256 << 10;
/// Buffers that grew beyond this are given back.
const KEEP: usize = 64 << 10;
/// How long the server may take to answer what is open when the client has closed its input.
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes messages on until the client goes.
///
/// # Errors
/// [`AttachError`] when no server can be had at the start.
pub(crate) fn run(meeting: &Meeting) -> Result<(), AttachError> {
    let mut server = meeting.server(None, None)?;
    let said = std::mem::take(&mut server.said);
    let mut front = Front {
        meeting,
        client: Client::new().map_err(AttachError::Streams)?,
        server: Some(server),
        up: Up::default(),
        down: Down::default(),
        to_server: Vec::new(),
        to_client: Vec::new(),
        input_ended: None,
        last: None,
        holds: false,
    };
    // What reading the command line took: the C library keeps it otherwise.
    crate::sys::memory::return_freed();
    front.hear(&said);
    front.pass_on();
    Ok(())
}

struct Front<'a> {
    meeting: &'a Meeting,
    client: Client,
    /// None after its end, until the client sends something.
    server: Option<Server>,
    up: Up,
    down: Down,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Since when the client has nothing more to say.
    input_ended: Option<Instant>,
    /// The server that ended last.
    last: Option<i32>,
    /// The server is to be replaced: nothing more is begun.
    holds: bool,
}

/// What can be done now without waiting.
#[derive(Default)]
struct Ready {
    from_client: bool,
    from_server: bool,
    to_client: bool,
    to_server: bool,
}

impl Front<'_> {
    fn pass_on(&mut self) {
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.is_done() {
                return;
            }
            // A server that has just taken another one's place may be replaced itself.
            while self.holds && self.is_at_rest() {
                self.change_over();
            }
            let Ok(ready) = self.wait() else { return };
            if ready.to_client && self.client.write(&mut self.to_client).is_err() {
                return;
            }
            if ready.to_server {
                self.send();
            }
            if ready.from_server {
                self.receive(&mut buffer);
            }
            if self.holds && self.is_at_rest() {
                self.change_over();
            }
            if ready.from_client {
                match self.client.read(&mut buffer) {
                    Ok(0) | Err(_) => self.end_input(),
                    Ok(count) => self.take(&buffer[..count]),
                }
            }
        }
    }

    /// The client has closed its input, and has got what it waits for, or there is no server to give it.
    fn is_done(&self) -> bool {
        let Some(since) = self.input_ended else { return false };
        let delivered = self.to_client.is_empty() && self.to_server.is_empty();
        delivered && (self.server.is_none() || self.up.open() == 0) || since.elapsed() >= PATIENCE
    }

    fn wait(&self) -> io::Result<Ready> {
        let (input, output) = (self.client.input(), self.client.output());
        let none = PollFlags::empty();
        let takes = self.input_ended.is_none() && self.to_server.len() < MUCH;
        // A message that has begun goes on to its end.
        let from_client = if takes && !(self.holds && self.up.is_at_a_beginning()) { PollFlags::POLLIN } else { none };
        let to_client = if self.to_client.is_empty() { none } else { PollFlags::POLLOUT };
        let (mut polled, mut which) = (vec![PollFd::new(output, to_client)], vec![1]);
        // A closed input would end every wait at once.
        if !from_client.is_empty() {
            polled.push(PollFd::new(input, from_client));
            which.push(0);
        }
        if let Some(server) = &self.server {
            let mut flags = if self.to_client.len() < MUCH { PollFlags::POLLIN } else { none };
            if !self.to_server.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            if !flags.is_empty() {
                polled.push(PollFd::new(server.stream.as_fd(), flags));
                which.push(2);
            }
        }
        let limit = match self.input_ended {
            Some(since) => PollTimeout::try_from(PATIENCE.saturating_sub(since.elapsed()) + Duration::from_millis(1)),
            None => Ok(PollTimeout::NONE),
        };
        match poll(&mut polled, limit.unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = Ready::default();
        for (entry, which) in polled.iter().zip(which) {
            let found = entry.revents().unwrap_or(none);
            let comes = found.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
            match which {
                0 => ready.from_client = comes,
                1 => ready.to_client = !found.is_empty(),
                _ => {
                    ready.from_server = comes;
                    ready.to_server = found.contains(PollFlags::POLLOUT);
                }
            }
        }
        if ready.to_client && self.to_client.is_empty() {
            // The client reads no more.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(ready)
    }

    fn end_input(&mut self) {
        self.input_ended = Some(Instant::now());
        self.send();
        if let Some(server) = &self.server
            && self.to_server.is_empty()
        {
            let _ = server.stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Bytes from the client.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.up.is_at_a_beginning() && self.server.is_none() && !self.revive() {
                self.up.skip(
                    "no forkpy server could be started, so this was not carried out; its standard error says why",
                );
            }
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |place| place + 1);
            let (piece, rest) = bytes.split_at(end);
            match self.up.add(piece) {
                Passed::On => self.to_server.extend_from_slice(piece),
                Passed::Refused(reply) => self.to_client.extend_from_slice(&reply),
                Passed::Dropped => {}
            }
            bytes = rest;
        }
        self.send();
        if self.server.is_none() && !self.to_client.is_empty() {
            let _ = self.client.write(&mut self.to_client);
        }
    }

    fn send(&mut self) {
        let Some(server) = &mut self.server else { return };
        while !self.to_server.is_empty() {
            match server.stream.write(&self.to_server) {
                Ok(0) => return self.bury(),
                Ok(count) => drop(self.to_server.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What it has said before its end is still to be read.
                Err(_) => {
                    self.to_server.clear();
                    return;
                }
            }
        }
        self.to_server.shrink_to(KEEP);
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let Some(server) = &mut self.server else { return };
        match server.stream.read(buffer) {
            Ok(0) => self.bury(),
            Ok(count) => {
                self.hear(&buffer[..count]);
                if self.client.write(&mut self.to_client).is_err() {
                    self.input_ended.get_or_insert_with(Instant::now);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.bury(),
        }
    }

    /// Nothing is on its way to the server, and nothing is expected from it.
    fn is_at_rest(&self) -> bool {
        self.up.is_at_a_beginning() && self.up.is_quiet() && self.to_server.is_empty() && self.down.is_at_a_beginning()
    }

    /// Leaves a server that is to be replaced, and comes back to the one in its place.
    fn change_over(&mut self) {
        self.holds = false;
        let Some(old) = self.server.take() else { return };
        let (pid, client) = (old.pid, old.client);
        drop(old);
        match self.introduced(Some(pid), client) {
            Ok(server) => {
                self.server = Some(server);
                self.to_server.extend(self.up.standing());
                self.send();
            }
            Err(error) => {
                meet::tell(&format!("forkpy attach: {error}"));
                self.last = Some(pid);
            }
        }
    }

    /// The server has ended: those who wait for it are told.
    fn bury(&mut self) {
        let Some(server) = self.server.take() else { return };
        self.holds = false;
        self.to_server.clear();
        self.last = Some(server.pid);
        self.down.cut_off(&mut self.to_client);
        let how = self.meeting.how_ended(server.pid);
        if self.input_ended.is_none() {
            meet::tell(&format!("forkpy attach: the server (process {}) {how}", server.pid));
        }
        self.up.server_ended(&format!(
            "the forkpy server (process {}) {how} while this was open; whether it was carried out is not known. Variables of \
             all its sessions are gone. The next call starts a new server",
            server.pid
        ), &mut self.to_client);
        let _ = self.client.write(&mut self.to_client);
    }

    /// A new server, to which the client is introduced as it introduced itself.
    fn revive(&mut self) -> bool {
        match self.introduced(self.last, None) {
            Ok(server) => {
                self.server = Some(server);
                true
            }
            Err(error) => {
                meet::tell(&format!("forkpy attach: {error}"));
                false
            }
        }
    }

    fn introduced(&mut self, after: Option<i32>, client: Option<u64>) -> Result<Server, AttachError> {
        let mut server = self.meeting.server(after, client)?;
        let said = match self.up.opening() {
            Some(opening) => meet::introduce(&mut server, &opening)?,
            None => std::mem::take(&mut server.said),
        };
        self.hear(&said);
        Ok(server)
    }

    /// Bytes from the server.
    fn hear(&mut self, bytes: &[u8]) {
        self.down.add(bytes, &mut self.up, &mut self.to_client);
        self.holds = self.down.take_hold().unwrap_or(self.holds);
    }
}
