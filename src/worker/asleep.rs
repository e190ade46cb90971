//! A checkpoint goes to sleep in a file, and a fork of the zygote becomes that checkpoint again.
//!
//! Runs in: checkpoint, its only thread (`write`, `settle`); a fork of the zygote, until it is a checkpoint
//! (`become_checkpoint`), or until it has written its base (`write_base`).
//! How a process is written and read is `sys/image`; what a checkpoint does not hold is refused here.

use std::os::{
    fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
    unix::net::UnixStream,
};

use super::{close, hazards::Hazards, leave};
use crate::{
    protocol::{
        FrameError, FromCheckpoint, MAX_ZYGOTE,
        blocking::{self, FrameReader},
        frame,
    },
    sys::{
        fault,
        image::{self, Surroundings},
        lifeline, signals,
    },
};

/// On which side we are when it is done.
pub(super) enum Written {
    /// In the checkpoint that was to be written.
    Answer(FromCheckpoint),
    /// In one that was woken from what was written.
    Woken,
}

/// Writes this checkpoint to the file that has come along, unless something would be lost.
pub(super) fn write(reader: &mut FrameReader, hazards: &Hazards, number: u64) -> Written {
    let refused = |why: Vec<String>| Written::Answer(FromCheckpoint::NotAsleep { why });
    let Some(Ok([file, base])) = reader.take_descriptors(2).map(<[OwnedFd; 2]>::try_from) else {
        return refused(vec!["the files did not come along".to_owned()]);
    };
    if !hazards.lost_asleep.is_empty() {
        return refused(hazards.lost_asleep.clone());
    }
    let _ = fault::at("checkpoint.image", number);
    // Numbers, and no values that close them: a woken process does not have them.
    let (file, base) = (file.into_raw_fd(), base.into_raw_fd());
    // SAFETY: a checkpoint has one thread; what it knows of its own descriptors is what it says here.
    let written =
        unsafe { image::write((file, base), reader.stream().as_raw_fd(), &hazards.renewed, Surroundings::Images) };
    let answer = match written {
        Ok(image::Written::Woken) => return Written::Woken,
        Ok(image::Written::Done { pages, common, bytes }) => FromCheckpoint::Asleep { pages, common, bytes },
        Err(refusal) => FromCheckpoint::NotAsleep { why: vec![refusal.to_string()] },
    };
    close(file);
    close(base);
    Written::Answer(answer)
}

/// In a woken checkpoint: what a process has to say of itself once.
pub(super) fn settle(session: &str, number: u64) -> Result<(), FrameError> {
    let _ = fault::at("image.woken", number);
    let held = lifeline::hold();
    nix::unistd::setsid().map_err(std::io::Error::from)?;
    let _ = held.and_then(lifeline::Held::lead);
    signals::prefer_as_oom_victim();
    signals::set_title(&format!("fp-ckpt:{session}"));
    Ok(())
}

/// Writes what this process, a fork of the zygote, has for itself: what images are compared with. Then it ends.
pub(crate) fn write_base(file: &OwnedFd, link: OwnedFd) -> ! {
    let answer = match image::write_base(file.as_fd(), image::Which::All) {
        Ok(pages) => FromCheckpoint::Asleep { pages, common: 0, bytes: 0 },
        Err(refusal) => FromCheckpoint::NotAsleep { why: vec![refusal.to_string()] },
    };
    let _ = blocking::write(&UnixStream::from(link), &answer, MAX_ZYGOTE);
    leave(0)
}

/// Makes this process, a fork of the zygote with one thread, the checkpoint of an image and its base. What stands in the way is told.
pub(crate) fn become_checkpoint(files: (OwnedFd, OwnedFd), link: OwnedFd, number: u64) -> ! {
    let half = FromCheckpoint::WakeFailed { message: "the system refused a step of the way back".to_owned() };
    let half = frame::encode(&half, MAX_ZYGOTE).unwrap_or_default();
    let _ = fault::at("image.wake", number);
    // SAFETY: a fork of the zygote has one thread, and ends here whatever comes of it.
    let (refusal, link) = unsafe { image::wake(files, link, &half, Surroundings::Images) };
    // SAFETY: the number that the link has now, and no other value has it.
    let link = unsafe { UnixStream::from_raw_fd(link) };
    let _ = blocking::write(&link, &FromCheckpoint::WakeFailed { message: refusal.to_string() }, MAX_ZYGOTE);
    leave(super::EXIT_START_FAILED)
}
