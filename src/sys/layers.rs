//! Which layers confine one process: it tells them itself, in its first word to the server.
//!
//! Runs in: worker and script (say), server (reads). Pure data; each layer is made elsewhere in this room.

/// What a process has been shut in by. What it lacks, the system did not give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    /// Version of Landlock; 0 is none.
    pub landlock: u8,
    /// Filters of system calls.
    pub seccomp: bool,
    /// A network namespace without any device.
    pub network: bool,
    /// A namespace for what processes share by number: System V's memory, semaphores and messages.
    pub messages: bool,
    /// A user namespace, in which the others were made.
    pub users: bool,
    /// Memory that was written never becomes code.
    pub code: bool,
}

/// Set in each word: it is one.
const SIGN: u8 = 1 << 7;

impl Layers {
    /// As it travels.
    #[must_use]
    pub(crate) fn word(self) -> [u8; 2] {
        let flags = [self.seccomp, self.network, self.messages, self.users, self.code];
        let bits = flags.iter().enumerate().map(|(place, on)| u8::from(*on) << place);
        [SIGN | bits.sum::<u8>(), self.landlock]
    }

    /// Out of what has come; none when that is no such word.
    #[must_use]
    pub(crate) fn read(word: [u8; 2]) -> Option<Self> {
        let [flags, landlock] = word;
        let has = |place: u8| flags >> place & 1 == 1;
        (flags & SIGN != 0).then(|| Self {
            landlock,
            seccomp: has(0),
            network: has(1),
            messages: has(2),
            users: has(3),
            code: has(4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        let some = Layers { landlock: 7, seccomp: true, messages: true, code: true, ..Layers::default() };
        for layers in [Layers::default(), some, Layers { network: true, users: true, ..Layers::default() }] {
            assert_eq!(Layers::read(layers.word()), Some(layers));
        }
        assert_eq!(Layers::read([0, 7]), None);
    }
}
