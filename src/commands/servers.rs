//! `forkpy status`, `forkpy restart` and `forkpy stop`: the servers behind `forkpy attach`, asked over their own sockets.
//!
//! Runs in: a process of its own.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    protocol::attach::{self, Hello, MAX_LINE, Record, ServerStatus, Wants, Welcome},
    sys::rendezvous::{MeetingError, Place},
};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(30);

/// What `forkpy status` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Name of the server; all of them when left out
    pub name: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `forkpy stop` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Name of the server; can be left out when there is one
    #[arg(conflicts_with = "all")]
    pub name: Option<String>,

    /// End all of them
    #[arg(long)]
    pub all: bool,
}

/// What `forkpy restart` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestartArgs {
    /// Name of the server; can be left out when there is one
    #[arg(conflicts_with = "all")]
    pub name: Option<String>,

    /// Restart all of them
    #[arg(long)]
    pub all: bool,
}

/// Why a server did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServersError {
    /// Its place.
    #[error("{0}")]
    Place(String),
    /// None of that name.
    #[error("no server of the name {name:?} runs; there are: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that run.
        known: String,
    },
    /// It must be said which.
    #[error("several servers run: {0}. Say which, or --all")]
    Several(String),
    /// It is there and says nothing.
    #[error("the server {name:?} does not answer{}", pid.map_or(String::new(), |pid| format!("; kill -9 {pid} ends it, and its sessions with it")))]
    Silent {
        /// The name.
        name: String,
        /// Its process.
        pid: Option<i32>,
    },
    /// It has been told, and has not ended.
    #[error("the server {name:?} (process {pid}) was told to end and has not done so within {} s", FAREWELL.as_secs())]
    Lingers {
        /// The name.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// It stays what it is.
    #[error("the server {name:?} was not restarted: {why}")]
    Stays {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
    /// The reader is gone.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl From<MeetingError> for ServersError {
    fn from(error: MeetingError) -> Self {
        Self::Place(error.to_string())
    }
}

/// A place, and who listens there.
struct Found {
    place: Place,
    stream: Option<UnixStream>,
}

/// Tells of the servers that there are.
///
/// # Errors
/// [`ServersError`].
pub(crate) fn status(args: &StatusArgs, out: &mut dyn Write) -> Result<(), ServersError> {
    let mut all = Vec::new();
    let mut silent = None;
    for Found { place, stream } in found(args.name.as_deref())? {
        let Some(stream) = stream else {
            all.push((place, None));
            continue;
        };
        match ask(stream, &place, &Hello::new(Wants::Status)) {
            Ok(answer) => all.push((place, answer.map(|(welcome, _)| welcome))),
            Err(error) => silent = Some(error),
        }
    }
    if let Some(name) = &args.name
        && all.is_empty()
        && silent.is_none()
    {
        return Err(unknown(name)?);
    }
    if args.json {
        let entries: Vec<_> = all.iter().map(|(place, welcome)| entry(place, welcome.as_ref())).collect();
        writeln!(out, "{:#}", json!({ "servers": entries }))?;
    } else if all.is_empty() && silent.is_none() {
        writeln!(out, "no server runs; `forkpy attach` starts one")?;
    } else {
        for (place, welcome) in &all {
            out.write_all(words(place, welcome.as_ref()).as_bytes())?;
        }
    }
    silent.map_or(Ok(()), Err)
}

/// Has servers become this program, and returns when they have.
///
/// # Errors
/// [`ServersError`]; those that come before have been restarted.
pub(crate) fn restart(args: &RestartArgs, out: &mut dyn Write) -> Result<(), ServersError> {
    for Found { place, stream } in chosen(args.name.as_deref(), args.all, out)? {
        let Some(stream) = stream else { continue };
        let (name, silent) = (place.name().to_owned(), || silent(&place));
        let Some((before, _)) = ask(stream, &place, &Hello::new(Wants::Status))? else {
            writeln!(out, "the server {name:?} has ended by itself")?;
            continue;
        };
        let count = |welcome: &Welcome| welcome.status.as_ref().and_then(|status| status.restarts);
        let stays = |why: String| ServersError::Stays { name: name.clone(), why };
        let Some(earlier) = count(&before) else {
            return Err(stays(format!("it is forkpy {}, which cannot", before.version)));
        };
        let stream = place.connect()?.ok_or_else(silent)?;
        let wish = Hello { program: Some(std::env::current_exe()?), ..Hello::new(Wants::Restart) };
        // Clients have some seconds to come to rest.
        if let Some((answer, _)) = ask_for(stream, &place, &wish, FAREWELL + LIMIT)? {
            return Err(stays(answer.refused.unwrap_or_else(|| "it does not say why".to_owned())));
        }
        let after = status_beyond(&place, earlier)?;
        match after.as_ref().and_then(|after| Some((after, count(after)?, after.status.as_ref()?))) {
            Some((after, now, status)) if now > earlier => {
                let sessions = match status.sessions.len() {
                    1 => "1 session goes on".to_owned(),
                    count => format!("{count} sessions go on"),
                };
                writeln!(
                    out,
                    "the server {name:?} (process {}) is forkpy {} now; {sessions}",
                    after.pid, after.version
                )?;
            }
            _ => return Err(stays("its log says more".to_owned())),
        }
    }
    Ok(())
}

/// What a server says once it has been restarted more often than that. A connection may be the last that the program before
/// has accepted, and end with it: then another one is made.
fn status_beyond(place: &Place, earlier: u64) -> Result<Option<Welcome>, ServersError> {
    let began = Instant::now();
    loop {
        let stream = place.connect()?.ok_or_else(|| silent(place))?;
        let answer = ask_for(stream, place, &Hello::new(Wants::Status), FAREWELL + LIMIT)?;
        let after = answer.map(|(welcome, _)| welcome);
        let now = after.as_ref().and_then(|after| after.status.as_ref()?.restarts);
        if now.is_some_and(|now| now > earlier) || began.elapsed() > LIMIT {
            return Ok(after);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Servers that run, and of which there is no doubt that they are meant.
fn chosen(name: Option<&str>, all: bool, out: &mut dyn Write) -> Result<Vec<Found>, ServersError> {
    let mut running = found(name)?;
    running.retain(|found| found.stream.is_some());
    match (name, running.len()) {
        (Some(name), 0) => return Err(unknown(name)?),
        (None, 0) => writeln!(out, "no server runs")?,
        (None, 2..) if !all => return Err(ServersError::Several(names(&running))),
        _ => {}
    }
    Ok(running)
}

/// Ends servers, and returns when they have ended.
///
/// # Errors
/// [`ServersError`].
pub(crate) fn stop(args: &StopArgs, out: &mut dyn Write) -> Result<(), ServersError> {
    for Found { place, stream } in chosen(args.name.as_deref(), args.all, out)? {
        let Some(stream) = stream else { continue };
        let Some((welcome, mut stream)) = ask(stream, &place, &Hello::new(Wants::Stop))? else {
            writeln!(out, "the server {:?} has ended by itself", place.name())?;
            continue;
        };
        stream.set_read_timeout(Some(FAREWELL))?;
        // It holds the connection to its very end.
        let (name, pid) = (place.name().to_owned(), welcome.pid);
        if let Err(error) = stream.read(&mut [0])
            && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        {
            return Err(ServersError::Lingers { name, pid });
        }
        writeln!(out, "the server {name:?} (process {pid}) has ended")?;
    }
    Ok(())
}

fn found(name: Option<&str>) -> Result<Vec<Found>, ServersError> {
    let places = match name {
        Some(name) => Place::all(name)?.into_iter().filter(|place| place.socket().exists()).collect(),
        None => Place::known(),
    };
    let mut all = Vec::new();
    for place in places {
        let stream = place.connect()?;
        all.push(Found { place, stream });
    }
    Ok(all)
}

fn names(found: &[Found]) -> String {
    let names: Vec<&str> = found.iter().map(|found| found.place.name()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn unknown(name: &str) -> Result<ServersError, ServersError> {
    let mut running = found(None)?;
    running.retain(|found| found.stream.is_some());
    Ok(ServersError::Unknown { name: name.to_owned(), known: names(&running) })
}

/// What the server answers; nothing when it ends at this moment.
fn ask(stream: UnixStream, place: &Place, hello: &Hello) -> Result<Option<(Welcome, UnixStream)>, ServersError> {
    ask_for(stream, place, hello, LIMIT)
}

fn silent(place: &Place) -> ServersError {
    let record = std::fs::read(place.record()).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    ServersError::Silent { name: place.name().to_owned(), pid: record.map(|record| record.pid) }
}

/// The same, for an answer that may take so long.
fn ask_for(
    mut stream: UnixStream,
    place: &Place,
    hello: &Hello,
    limit: Duration,
) -> Result<Option<(Welcome, UnixStream)>, ServersError> {
    let silent = || silent(place);
    stream.set_read_timeout(Some(limit))?;
    if stream.write_all(&attach::line(hello)).is_err() {
        return Ok(None);
    }
    let mut line = Vec::new();
    match BufReader::new((&stream).take(MAX_LINE as u64)).read_until(b'\n', &mut line) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(_) => return Err(silent()),
    }
    let welcome = serde_json::from_slice(&line).map_err(|_| silent())?;
    Ok(Some((welcome, stream)))
}

fn entry(place: &Place, welcome: Option<&Welcome>) -> serde_json::Value {
    match welcome {
        Some(Welcome { pid, version, args, status, .. }) => json!({
            "name": place.name(), "running": true, "pid": pid, "version": version, "args": args, "status": status,
            "socket": place.socket(), "log": place.log(),
        }),
        None => json!({ "name": place.name(), "running": false, "socket": place.socket(), "log": place.log() }),
    }
}

fn words(place: &Place, welcome: Option<&Welcome>) -> String {
    let name = place.name();
    let Some(Welcome { pid, version, status: Some(status), .. }) = welcome else {
        return format!("{name}: does not run; its socket was left by a server that was killed\n");
    };
    let ServerStatus { since, workspace, clients, idle_exit, sessions, .. } = status;
    let clients = match clients {
        1 => "1 client".to_owned(),
        count => format!("{count} clients"),
    };
    let ends = match *idle_exit {
        0.0 => "stays when no client uses it".to_owned(),
        seconds => format!("ends after {} without clients and cells", attach::span(seconds)),
    };
    let mut text = format!(
        "{name}: process {pid}, forkpy {version}, {clients}, up {}, {ends}\n  workspace {workspace}\n",
        ago(since)
    );
    for session in sessions {
        let busy = if session.busy { ", runs a cell now" } else { "" };
        let cells = if session.cells == 1 { "1 cell".to_owned() } else { format!("{} cells", session.cells) };
        text += &format!(
            "  session {}: {cells}, last used {} ago{busy}\n",
            session.session_id,
            ago(&session.last_activity)
        );
    }
    text
}

/// How long ago that was.
fn ago(when: &str) -> String {
    let Ok(when) = when.parse::<Timestamp>() else { return "?".to_owned() };
    attach::span(Timestamp::now().duration_since(when).as_secs_f64())
}
