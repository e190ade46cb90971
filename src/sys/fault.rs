//! Named moments at which a test can make a process fail. Empty in release builds.
//!
//! Runs in: all processes. A fault is armed by the server's environment variable `FORKPY_FAULT`, which it tells
//! the zygote: `NAME:NUMBER=ACTION`, several separated by `,`. The number tells one moment of a name from another: the cell's number in a worker, the fork's in
//! the zygote. Actions: `kill` (SIGKILL), `stop` (SIGSTOP, goes on with SIGCONT), `fail` (the caller's own failure).
//!
//! | moment | where |
//! |---|---|
//! | `server.killed` | number 0: a worker has been sent SIGKILL |
//! | `worker.reply` | a cell has ended and its reply is not written |
//! | `worker.half` | half of the reply is written |
//! | `worker.replied` | the reply is written |
//! | `worker.hello` | number 0: a new worker is about to say hello |
//! | `worker.probe` | number 0: a new worker is to prove itself; one that fails evaluates 1+1 to 3 |
//! | `worker.checkpoint` | number of the checkpoint: it is asked for and not made |
//! | `worker.checkpointed` | the same: it is made and the worker has not said so |
//! | `checkpoint.settle` | the same: it has just been forked |
//! | `checkpoint.frozen` | the same: it is about to say that it is ready |
//! | `checkpoint.wake` | the same: it is about to fork a worker |
//! | `checkpoint.woken` | in a worker just woken; the number counts those of its checkpoint |
//! | `checkpoint.image` | number of the checkpoint: it is about to write its image |
//! | `image.wake` | a process is about to become the one of an image; the number counts those of its zygote |
//! | `image.woken` | the same, once it is a checkpoint again: number of the checkpoint in the image |
//! | `store.uploaded` | number 0: a session's image is in the store, and its lease does not say so |
//! | `store.away` | the same: the lease says so, and the session has not ended here |
//! | `store.taken` | the same: the lease of a session is taken, and its image has not come |
//! | `zygote.ending` | number 0: the server is gone |
//! | `zygote.fork` | a fork was asked for and not done |
//! | `zygote.born` | the same: it is done, and the fork has asked for nothing yet |
//! | `zygote.image` | number 0: a zygote is about to write its image |
//! | `zygote.wake` | number 0: a process is about to become the zygote of an image |
//! | `zygote.woken` | number 0: it has become it, and has not said that it is warm |

pub(crate) const VARIABLE: &str = "FORKPY_FAULT";

/// Variable with the seconds that an errand may take, whatever kind it is.
#[cfg(debug_assertions)]
pub(crate) const ERRAND_LIMIT: &str = "FORKPY_ERRAND_LIMIT";

/// How long an errand may take: as usual, or as a test says.
#[must_use]
pub(crate) fn limit(usual: std::time::Duration) -> std::time::Duration {
    #[cfg(debug_assertions)]
    if let Some(limit) = std::env::var(ERRAND_LIMIT).ok().and_then(|text| text.parse().ok()) {
        return std::time::Duration::from_secs_f64(limit);
    }
    usual
}

/// Variable with the seconds between two signs of life that a server gives in `--store`.
#[cfg(debug_assertions)]
const BEAT: &str = "FORKPY_STORE_BEAT";

/// Time between two signs of life in `--store`: as usual, or as a test says.
#[must_use]
pub(crate) fn beat(usual: std::time::Duration) -> std::time::Duration {
    #[cfg(debug_assertions)]
    if let Some(beat) = std::env::var(BEAT).ok().and_then(|text| text.parse().ok()) {
        return std::time::Duration::from_secs_f64(beat);
    }
    usual
}

/// The version of Landlock that a server finds: this kernel's, or an older one that a test wants.
#[must_use]
pub(crate) fn landlock(real: i32) -> i32 {
    let wanted = cfg!(debug_assertions).then(|| std::env::var("FORKPY_LANDLOCK").ok()).flatten();
    wanted.and_then(|text| text.parse::<i32>().ok()).map_or(real, |wanted| wanted.min(real))
}

/// Whether a test lets a server find filters of system calls.
#[must_use]
pub(crate) fn seccomp() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("FORKPY_SECCOMP").is_none_or(|value| value != "off")
}

/// Whether a test wants a binary without this package in it.
#[must_use]
pub(crate) fn lacks_wheel(name: &str) -> bool {
    cfg!(debug_assertions) && std::env::var("FORKPY_WITHOUT_WHEEL").is_ok_and(|wanted| wanted == name)
}

/// Where a test says that a name leads: `NAME=ADDRESS|ADDRESS;NAME=ADDRESS`. Other names are looked up.
#[must_use]
pub(crate) fn addresses(name: &str) -> Option<Vec<std::net::IpAddr>> {
    let told = cfg!(debug_assertions).then(|| std::env::var("FORKPY_ADDRESSES").ok()).flatten()?;
    let (_, addresses) = told.split(';').filter_map(|entry| entry.split_once('=')).find(|(told, _)| *told == name)?;
    Some(addresses.split('|').filter_map(|address| address.parse().ok()).collect())
}

/// What is armed by this process' environment, for the zygote.
#[must_use]
pub(crate) fn armed_here() -> String {
    if cfg!(debug_assertions) { std::env::var(VARIABLE).unwrap_or_default() } else { String::new() }
}

/// Arms what a server has told, once.
pub(crate) fn arm(faults: &str) {
    #[cfg(debug_assertions)]
    armed::arm(faults);
    let _ = faults;
}

/// The process is at this moment: dies, stops or goes on. True when the caller is to fail.
#[must_use]
pub(crate) fn at(name: &str, number: u64) -> bool {
    #[cfg(debug_assertions)]
    if let Some(action) = armed::action(name, number) {
        return armed::act(action);
    }
    let _ = (name, number);
    false
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;

    use nix::sys::signal::{Signal, raise};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Action {
        Kill,
        Stop,
        Fail,
    }

    static FAULTS: OnceLock<Vec<(String, u64, Action)>> = OnceLock::new();

    pub(crate) fn arm(faults: &str) {
        let _ = FAULTS.set(parse(faults));
    }

    pub(crate) fn action(name: &str, number: u64) -> Option<Action> {
        FAULTS.get()?.iter().find(|fault| fault.0 == name && fault.1 == number).map(|fault| fault.2)
    }

    pub(crate) fn act(action: Action) -> bool {
        let _ = match action {
            Action::Kill => raise(Signal::SIGKILL),
            Action::Stop => raise(Signal::SIGSTOP),
            Action::Fail => return true,
        };
        false
    }

    fn parse(text: &str) -> Vec<(String, u64, Action)> {
        text.split(',')
            .filter_map(|fault| {
                let (place, action) = fault.split_once('=')?;
                let (name, number) = place.split_once(':')?;
                let action = match action {
                    "kill" => Action::Kill,
                    "stop" => Action::Stop,
                    "fail" => Action::Fail,
                    _ => return None,
                };
                Some((name.to_owned(), number.parse().ok()?, action))
            })
            .collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_told_by_name_and_number() {
            let faults = parse("worker.reply:2=kill,zygote.fork:0=fail,nonsense,a:b=kill,c:1=dance");
            let expected = [("worker.reply".to_owned(), 2, Action::Kill), ("zygote.fork".to_owned(), 0, Action::Fail)];
            assert_eq!(faults, expected);
        }
    }
}
