//! The pictures of a run that its reply shows: the last ones, as many as a cell's reply has. All of them are in the notebook.
//!
//! Runs in: server; pictures are scaled on a blocking thread. Holds a few displays while the notebook runs.

use std::collections::{HashSet, VecDeque};

use crate::{
    protocol::Display,
    server::tools::cells::pictures::{self, MOST_PICTURES, Picture},
};

/// Displays with a picture, the newest last, each with the place of its cell in the notebook.
#[derive(Default)]
pub(super) struct Gallery {
    last: VecDeque<(usize, Display)>,
    /// Pictures that have given way to later ones.
    earlier: usize,
    /// Names of those among them that have one.
    names: HashSet<String>,
}

impl Gallery {
    /// Takes over what a cell has displayed.
    pub(super) fn take(&mut self, index: usize, displays: &[Display]) {
        for display in displays.iter().filter(|display| pictures::any(std::slice::from_ref(display))) {
            let replaced = self.last.iter_mut().find(|(_, known)| display.update && known.id == display.id);
            if let Some((_, known)) = replaced {
                *known = display.clone();
                continue;
            }
            // One that has given way is shown again as what has become of it.
            if display.update && display.id.as_ref().is_some_and(|id| self.names.remove(id)) {
                self.earlier -= 1;
            }
            self.last.push_back((index, display.clone()));
            if self.last.len() > MOST_PICTURES {
                let given_way = self.last.pop_front().and_then(|(_, display)| display.id);
                self.names.extend(given_way);
                self.earlier += 1;
            }
        }
    }

    /// The pictures for a reply, each named by its cell, and how many earlier ones there were.
    pub(super) async fn pictures(self) -> (Vec<Picture>, usize) {
        let Self { last, earlier, .. } = self;
        if last.is_empty() {
            return (Vec::new(), earlier);
        }
        let displays: Vec<Display> = last.into_iter().map(named).collect();
        let scaled = tokio::task::spawn_blocking(move || pictures::prepare(&displays));
        (scaled.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())), earlier)
    }
}

/// Says which cell it is of, before what it says of itself.
fn named((index, display): (usize, Display)) -> Display {
    let what = display.text.trim();
    let text = if what.is_empty() { format!("cell {index}") } else { format!("cell {index}: {what}") };
    Display { text, ..display }
}
