//! From a cell's outcome to what a client reads: the structured reply, and the same as text for people and models.
//!
//! Runs in: server. Pure.

use std::{fmt::Write as _, time::Duration};

use super::result::{Cell, CellException, Shown};
use crate::{
    protocol::{CellError, Display},
    server::{
        output::captured::{CapturedText, Method},
        sessions::{
            death::Fate,
            outcome::{CellOutcome, Ending},
        },
        tools::call::{
            notices,
            reply::A_MOMENT,
            texts::{self, section},
        },
        watch::shapes::{exit, exit_code},
    },
};

/// The structured reply, beside pictures that take `pictures` bytes of JSON.
#[must_use]
pub fn cell(session: &str, outcome: CellOutcome, pictures: usize) -> Cell {
    let number = outcome.cell;
    let notice = match (sentence(&outcome.ending), notices::words(session, &outcome.notices, number > 0)) {
        (Some(ending), Some(notice)) => Some(format!("{ending} {notice}")),
        (ending, notice) => ending.or(notice),
    };
    let (exit_code, death) = match &outcome.ending {
        Ending::Exited(code) => (Some(*code), None),
        Ending::Died(death) => (exit_code(death.exit), Some(exit(death, None))),
        _ => (None, None),
    };
    // Its traceback stands in `stderr`, once; the key is always there, for programs that read it. Where Python was too
    // broken to write it, it is here.
    let is_told = outcome.error.as_ref().is_some_and(|error| outcome.stderr.text.contains(&error.traceback));
    let error = outcome.error.map(exception).map(|mut error| {
        if is_told {
            error.traceback.clear();
        }
        error
    });
    let CapturedText { text: stdout, total: stdout_bytes, file: stdout_file, .. } = outcome.stdout;
    let CapturedText { text: stderr, total: stderr_bytes, file: stderr_file, .. } = outcome.stderr;
    let mut reply = Cell {
        status: outcome.ending.status(),
        session_id: session.to_owned(),
        cell: (number > 0).then_some(number),
        results: outcome
            .displays
            .iter()
            .filter_map(words)
            .chain(outcome.results.into_iter().map(|result| result.text))
            .collect(),
        outputs: outcome.displays.iter().flat_map(files).map(|(_, file)| file).collect(),
        displays: outcome.displays.iter().map(shown).filter(says_something).collect(),
        new_files: outcome.new_files.paths,
        new_files_omitted: outcome.new_files.omitted as u64,
        new_files_incomplete: outcome.new_files.incomplete,
        execution_time: in_microseconds(outcome.ran),
        queued_time: (outcome.queued >= A_MOMENT).then(|| in_microseconds(outcome.queued)),
        error,
        exit_code,
        death,
        state: outcome.fate.word(),
        recovered_from: outcome.recovered.map(|recovered| recovered.from),
        lost_cells: outcome.recovered.and_then(|recovered| recovered.lost),
        notice,
        alerts: outcome.alerts,
        background: (!outcome.background.is_empty()).then_some(outcome.background),
        stdout_bytes: (stdout_bytes != stdout.len() as u64).then_some(stdout_bytes),
        stderr_bytes: (stderr_bytes != stderr.len() as u64).then_some(stderr_bytes),
        stdout,
        stderr,
        stdout_file,
        stderr_file,
    };
    fit(&mut reply, texts::MAX_REPLY.saturating_sub(pictures));
    reply
}

/// A cell that has not ended.
pub(super) struct Unfinished<'a> {
    pub(super) status: &'static str,
    pub(super) session: &'a str,
    pub(super) cell: u64,
    /// New output of both streams.
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) ran: Duration,
    pub(super) notice: String,
}

/// The structured reply to it.
pub(super) fn unfinished(seen: Unfinished<'_>) -> Cell {
    let Unfinished { status, session, cell, stdout, stderr, ran, notice } = seen;
    let mut reply = Cell {
        status,
        session_id: session.to_owned(),
        cell: Some(cell),
        stdout,
        stderr,
        execution_time: in_microseconds(ran),
        state: Fate::Kept.word(),
        notice: Some(notice),
        ..Cell::default()
    };
    fit(&mut reply, texts::MAX_REPLY);
    reply
}

/// An exception, with its traceback.
#[must_use]
pub(crate) fn exception(error: CellError) -> CellException {
    let CellError { kind, message, line, traceback, hint } = error;
    CellException { kind, message, line, traceback, hint }
}

/// Seconds, no finer than a clock that a person reads.
fn in_microseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// Its text is among the results.
fn says_something(shown: &Shown) -> bool {
    shown.update || shown.display_id.is_some() || !shown.files.is_empty()
}

fn words(display: &Display) -> Option<String> {
    (!display.text.trim().is_empty()).then(|| display.text.clone())
}

fn files(display: &Display) -> impl Iterator<Item = (String, String)> {
    display.data.iter().filter_map(|data| Some((data.mime.clone(), data.file.clone()?)))
}

fn shown(display: &Display) -> Shown {
    Shown {
        is_result: display.is_result,
        display_id: display.id.clone(),
        update: display.update,
        files: files(display).collect(),
    }
}

/// The same for people and models.
#[must_use]
pub fn text(reply: &Cell) -> String {
    let mut text = String::with_capacity(reply.stdout.len() + reply.stderr.len() + 64);
    if let Some(background) = &reply.background {
        section(&mut text, "background output since the last cell", background);
    }
    text.push_str(&reply.stdout);
    if !reply.stderr.is_empty() {
        section(&mut text, "stderr", &reply.stderr);
    }
    for result in &reply.results {
        if text.is_empty() { text.push_str(result) } else { section(&mut text, "result", result) }
    }
    if !reply.outputs.is_empty() {
        section(&mut text, "outputs", &reply.outputs.join("\n"));
    }
    if !reply.new_files.is_empty() {
        let mut files = reply.new_files.join("\n");
        if reply.new_files_omitted > 0 {
            let _ = write!(files, "\nand {} more", reply.new_files_omitted);
        }
        section(&mut text, "new files", &files);
    }
    if let Some(notice) = &reply.notice {
        section(&mut text, reply.status, notice);
    }
    if !reply.alerts.is_empty() {
        section(&mut text, "health", &reply.alerts.join("\n"));
    }
    if text.is_empty() {
        text.push_str("(no output)");
    }
    text
}

/// One sentence on an ending that is not plain from the output; the worker's death has its own in the notice.
fn sentence(ending: &Ending) -> Option<String> {
    match ending {
        Ending::Finished | Ending::Raised | Ending::Interrupted | Ending::Died(_) => None,
        Ending::Exited(code) => {
            Some(format!("The code called sys.exit (code {code}), which ended this cell and not the session."))
        }
        Ending::TimedOut { limit, method } => {
            let how = how(*method);
            Some(format!("The time limit of {} s was over: {how}.", limit.as_secs_f64()))
        }
        Ending::CpuUsedUp { limit, method } => {
            let how = how(*method);
            Some(format!("The cell has used its limit of {} s of processor time: {how}.", limit.as_secs_f64()))
        }
        Ending::Cancelled { method: Method::NotStarted } => {
            Some("The call was cancelled before its turn came: the code was not run.".to_owned())
        }
        Ending::Cancelled { method } => {
            let how = how(*method);
            Some(format!("The cell was cancelled: {how}."))
        }
        Ending::Refused { reason } => Some(format!("Not run: {reason}.")),
    }
}

/// How forkpy ended a cell, in the middle of a sentence.
fn how(method: Method) -> &'static str {
    match method {
        Method::Kill => "no interrupt reached it, so its worker was killed",
        Method::Caught => {
            "it was interrupted, but its code caught the KeyboardInterrupt and went on to an end of its own; the session's \
             variables are as it left them"
        }
        Method::Interrupt | Method::NotStarted => "it was interrupted; the session's variables are as it left them",
    }
}

/// Shortens the long texts until the reply stays below [`texts::MAX_REPLY`]: control characters grow sixfold in JSON.
fn fit(reply: &mut Cell, most: usize) {
    let mut keep = 200_000;
    while weight(reply) > most && keep > 100 {
        let mut texts = vec![&mut reply.stdout, &mut reply.stderr];
        texts.extend(&mut reply.results);
        texts.extend(&mut reply.background);
        if let Some(error) = &mut reply.error {
            texts.push(&mut error.message);
        }
        texts.into_iter().for_each(|text| texts::shorten(text, keep));
        keep /= 2;
    }
}

/// Bytes of JSON that a reply comes to, its text block included.
fn weight(reply: &Cell) -> usize {
    let shown = [&reply.stdout, &reply.stderr].into_iter().chain(&reply.results).chain(&reply.background);
    let twice: usize = shown.map(|text| texts::json_length(text)).sum();
    let once: usize = reply.error.iter().map(|error| texts::json_length(&error.message)).sum();
    let paths: usize = reply.new_files.iter().chain(&reply.outputs).map(|path| 3 * path.len() + 40).sum();
    2 * twice + once + paths + 200 * reply.displays.len() + 2048
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::sessions::outcome::refusal;

    fn outcome(ending: Ending) -> CellOutcome {
        CellOutcome { cell: 3, ending, ..refusal(String::new(), Duration::ZERO) }
    }

    fn captured(text: String) -> CapturedText {
        CapturedText { total: text.len() as u64, text, ..CapturedText::default() }
    }

    #[test]
    fn people_read_output_then_result() {
        let mut done = outcome(Ending::Finished);
        done.stdout = captured("hello\n".to_owned());
        done.results = vec!["42".to_owned().into()];
        let reply = cell("default", done, 0);
        assert_eq!(text(&reply), "hello\n--- result ---\n42");
        assert_eq!((reply.status, reply.state, reply.cell), ("ok", "kept", Some(3)));
        let mut plain = outcome(Ending::Finished);
        plain.results = vec!["2".to_owned().into()];
        assert_eq!(text(&cell("default", plain, 0)), "2");
        assert_eq!(text(&cell("default", outcome(Ending::Finished), 0)), "(no output)");
    }

    #[test]
    fn a_time_out_says_what_became_of_the_variables() {
        let limit = Duration::from_secs(2);
        let words = |method| cell("a", outcome(Ending::TimedOut { limit, method }), 0).notice.expect("a notice");
        assert!(
            words(Method::Interrupt).contains("limit of 2 s") && words(Method::Interrupt).contains("variables are")
        );
        assert!(words(Method::Kill).contains("killed"));
        assert!(words(Method::Caught).contains("limit of 2 s") && words(Method::Caught).contains("caught"));
    }

    #[test]
    fn control_characters_by_the_hundred_thousand_stay_below_what_clients_accept() {
        let mut done = outcome(Ending::Finished);
        done.stdout = captured("\u{1}".repeat(400_000));
        done.stderr = captured("ä\n".repeat(130_000));
        done.results = vec!["\u{2}".repeat(40_000).into()];
        let reply = cell("default", done, 0);
        let json = serde_json::to_string(&reply).expect("JSON").len();
        let shown = serde_json::to_string(&text(&reply)).expect("JSON").len();
        assert!(json + shown < 1 << 20, "{json} + {shown}");
        assert!(reply.stdout.contains("left out of this reply"));
    }
}
