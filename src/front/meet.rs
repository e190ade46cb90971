//! Finding the server, starting it when there is none, and the first words.
//!
//! Runs in: front. Blocking: nothing flows before this is done. Who starts a server listens for it first and hands the
//! socket on: others connect at once, and wait in the socket's queue until the server is up.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::lines::Opening;
use crate::{
    protocol::{
        attach::{self, Hello, MAX_LINE, Record, ServerEnd, Wants, Welcome},
        outline::Outline,
    },
    sys::{
        descriptors,
        rendezvous::{Held, Identity, MeetingError, Place},
    },
};

/// How long a server may take to welcome us: Python need not have started for that.
const LIMIT: Duration = Duration::from_secs(60);
/// Servers that are started and end at once, until that is given up.
const STARTS: u32 = 2;
/// Between two looks for a server that is just ending.
const PAUSE: Duration = Duration::from_millis(20);
/// Most of a log's end that is shown.
const SHOWN: usize = 2000;

/// Why no server can be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// Standard input or output.
    #[error("cannot use standard input and output: {0}")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Meeting(#[from] Box<MeetingReason>),
    /// It did not get as far as to say why in its log.
    #[error("the server did not start: {0}")]
    NotStarted(String),
    #[error("failed to speak to the server: {0}")]
    Speak(#[source] io::Error),
    /// It is stopped, or the machine is.
    #[error("the server {0:?} is there and has not answered for {limit} s; `forkpy stop {0}` ends it", limit = LIMIT.as_secs())]
    Silent(String),
}

/// A reason of the place's.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct MeetingReason(MeetingError);

impl From<MeetingError> for AttachError {
    fn from(error: MeetingError) -> Self {
        Self::Meeting(Box::new(MeetingReason(error)))
    }
}

/// A server that has welcomed us.
pub(super) struct Server {
    pub(super) stream: UnixStream,
    pub(super) pid: i32,
    /// The number by which it knows us.
    pub(super) client: Option<u64>,
    /// What it has said behind its welcome.
    pub(super) said: Vec<u8>,
}

/// Where the server is met, and how it is started.
#[derive(Debug)]
pub(crate) struct Meeting {
    places: Vec<Place>,
    /// What the server is told: our own words.
    args: Vec<OsString>,
}

enum Welcomed {
    Yes(Server),
    /// It ended while we came.
    Gone,
}

impl Meeting {
    /// With the server of this name, which is started with `args`.
    ///
    /// # Errors
    /// When the name cannot be one.
    pub(crate) fn new(name: &str, args: Vec<OsString>) -> Result<Self, AttachError> {
        Ok(Self { places: Place::all(name)?, args })
    }

    /// Connects to the server, and starts it if there is none. `after` is the one that ended under us, or that we have left
    /// to let it be replaced: then it knows us by a number.
    pub(super) fn server(&self, after: Option<i32>, client: Option<u64>) -> Result<Server, AttachError> {
        let mut starts = 0;
        let began = Instant::now();
        loop {
            for place in &self.places {
                let Some(stream) = place.connect()? else { continue };
                match self.welcomed(stream, place, after, client)? {
                    Welcomed::Yes(server) => return Ok(server),
                    Welcomed::Gone => std::thread::sleep(PAUSE),
                }
            }
            if began.elapsed() > LIMIT || starts == STARTS {
                return Err(AttachError::NotStarted(self.last_words()));
            }
            starts += u32::from(self.start()?);
        }
    }

    /// False when another front has started one meanwhile.
    fn start(&self) -> Result<bool, AttachError> {
        let mut reasons = String::new();
        for place in &self.places {
            let held = match place.lock() {
                Ok(held) => held,
                Err(error) => {
                    reasons += &format!("\n  {error}");
                    continue;
                }
            };
            if place.connect()?.is_some() {
                return Ok(false);
            }
            match place.listen(&held) {
                Ok(listener) => {
                    let started = self.spawn(place, &listener, &held);
                    if started.is_err()
                        && let Some(identity) = Identity::of(&place.socket())
                    {
                        place.leave(&held, identity);
                    }
                    return started.map(|()| true);
                }
                Err(error @ MeetingError::TooLong(_)) => return Err(error.into()),
                Err(error) => reasons += &format!("\n  {error}"),
            }
        }
        Err(MeetingError::NoPlace(reasons).into())
    }

    /// The child becomes the server behind our back; what it has to say against its options it says before that.
    fn spawn(&self, place: &Place, listener: &UnixListener, _held: &Held) -> Result<(), AttachError> {
        let failed = |error: io::Error| AttachError::NotStarted(error.to_string());
        let mut command = Command::new("/proc/self/exe");
        command.arg0("forkpy").arg("__host").arg("--listener").arg(listener.as_raw_fd().to_string());
        command.arg("--socket-dir").arg(place.directory()).arg("--socket-name").arg(place.name()).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        descriptors::pass_on(&mut command, listener.as_fd());
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(AttachError::NotStarted("see above".to_owned())),
            Err(error) => Err(failed(error)),
        }
    }

    fn welcomed(
        &self,
        mut stream: UnixStream,
        place: &Place,
        after: Option<i32>,
        client: Option<u64>,
    ) -> Result<Welcomed, AttachError> {
        let hello = Hello { after, client, ..Hello::new(Wants::Mcp) };
        stream.set_read_timeout(Some(LIMIT)).map_err(AttachError::Speak)?;
        if stream.write_all(&attach::line(&hello)).is_err() {
            return Ok(Welcomed::Gone);
        }
        let mut line = Vec::new();
        let mut reader = BufReader::new((&stream).take(MAX_LINE as u64));
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(Welcomed::Gone),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(AttachError::Silent(place.name().to_owned()));
            }
            Err(_) => return Ok(Welcomed::Gone),
        }
        let said = reader.buffer().to_vec();
        let welcome: Welcome = serde_json::from_slice(&line).map_err(|error| AttachError::Speak(error.into()))?;
        if client.is_none() {
            self.remark(&welcome, place);
        }
        stream.set_nonblocking(true).map_err(AttachError::Speak)?;
        Ok(Welcomed::Yes(Server { stream, pid: welcome.pid, client: welcome.client, said }))
    }

    /// What a person should know of a server that others have started.
    fn remark(&self, welcome: &Welcome, place: &Place) {
        let name = place.name();
        let ours: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        if !welcome.args.iter().eq(ours.iter()) {
            let theirs = if welcome.args.is_empty() { "none".to_owned() } else { welcome.args.join(" ") };
            tell(&format!(
                "forkpy attach: the server {name:?} runs already, with other options than these: {theirs}. They hold until \
                 it ends (forkpy stop {name})"
            ));
        }
        if welcome.version != env!("CARGO_PKG_VERSION") {
            let (theirs, own) = (&welcome.version, env!("CARGO_PKG_VERSION"));
            tell(&format!(
                "forkpy attach: the server {name:?} is forkpy {theirs}, and this is {own}; forkpy restart {name} replaces it \
                 and keeps its sessions, where the two versions understand each other"
            ));
        }
    }

    /// How a server ended, as far as it has said so.
    pub(super) fn how_ended(&self, pid: i32) -> &'static str {
        let records = self.places.iter().filter_map(|place| fs::read(place.record()).ok());
        let mut records = records.filter_map(|text| serde_json::from_slice::<Record>(&text).ok());
        match records.find(|record| record.pid == pid).and_then(|record| record.ended) {
            Some(ServerEnd::Stopped) => "was stopped",
            Some(ServerEnd::Idle) => "ended because no client had used it for long",
            Some(ServerEnd::Killed) | None => "ended without a word: it was killed, or it crashed",
        }
    }

    /// The end of the newest log.
    fn last_words(&self) -> String {
        let read = |place: &Place| {
            let mut text = String::new();
            File::open(place.log()).ok()?.read_to_string(&mut text).ok()?;
            let begin = text.ceil_char_boundary(text.len().saturating_sub(SHOWN));
            Some(format!("its log, {}, ends with:\n{}", place.log().display(), &text[begin..]))
        };
        self.places.iter().find_map(read).unwrap_or_else(|| "it left no log".to_owned())
    }
}

/// Introduces the client to a server that it does not know of. Gives what the server has said beside its answer: notifications, and
/// words for us, of which the last line may lack its end.
pub(super) fn introduce(server: &mut Server, opening: &Opening) -> Result<Vec<u8>, AttachError> {
    let fail = AttachError::Speak;
    server.stream.set_nonblocking(false).map_err(fail)?;
    server.stream.write_all(&opening.initialize).map_err(fail)?;
    let mut said = std::mem::take(&mut server.said);
    let mut reader = BufReader::new(&server.stream);
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).map_err(fail)? == 0 {
            return Err(fail(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut outline = Outline::default();
        outline.add(line.trim_ascii_end());
        if outline.is_answer() && outline.id() == Some(&opening.id) {
            break;
        }
        said.extend_from_slice(&line);
    }
    said.extend_from_slice(reader.buffer());
    if let Some(initialized) = &opening.initialized {
        server.stream.write_all(initialized).map_err(fail)?;
    }
    server.stream.set_nonblocking(true).map_err(fail)?;
    Ok(said)
}

/// For the person who reads the client's log.
#[expect(clippy::print_stderr, reason = "standard error is the only way to a person")]
pub(super) fn tell(words: &str) {
    eprintln!("{words}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        front::lines::{Down, Up},
        protocol::attach::HOLD,
    };

    /// A server that is to be replaced says so as soon as it can: before it answers, and behind that in the same breath. Once a client was
    /// told of it.
    #[test]
    fn words_for_us_between_the_lines_of_an_introduction_do_not_reach_the_client() {
        let (stream, mut theirs) = UnixStream::pair().expect("a pair");
        let news = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n";
        let answer = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        theirs.write_all(&[HOLD, news, answer, HOLD, &news[..20]].concat()).expect("written");
        let mut server = Server { stream, pid: 1, client: None, said: HOLD.to_vec() };
        let opening = Opening { id: b"1".to_vec(), initialize: b"{}\n".to_vec(), initialized: None };
        let said = introduce(&mut server, &opening).expect("introduced");
        let (mut down, mut up, mut out) = (Down::default(), Up::default(), Vec::new());
        down.add(&said, &mut up, &mut out);
        assert_eq!((down.take_hold(), out.as_slice()), (Some(true), news.as_slice()));
        assert!(!down.is_at_a_beginning(), "a line has begun");
        down.add(&news[20..], &mut up, &mut out);
        assert_eq!(out, [news.as_slice(), news].concat());
    }
}
