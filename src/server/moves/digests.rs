//! What files hold, as numbers: by these a machine tells whether it has the files that a session's memory needs.
//!
//! Runs in: server, on a blocking thread; the commands of sessions. A digest is kept for as long as the file is the same by the
//! kernel's word, so that a server reads a library once and not with each session that comes or goes.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;
/// Digests that are kept; with more, all are forgotten.
const MOST: usize = 8192;
/// A file that changed so lately may change once more without a sign: clocks of file systems are coarse.
const YOUNG: Duration = Duration::from_secs(2);

static KNOWN: LazyLock<Mutex<HashMap<Same, String>>> = LazyLock::new(Mutex::default);

/// By which a file is the same as before. A write changes its `ctime`, which no call sets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Same {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Same {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), size: file.size(), changed: (file.ctime(), file.ctime_nsec()) }
    }

    fn is_old(&self) -> bool {
        let changed = Duration::new(self.changed.0.unsigned_abs(), 0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(changed) > YOUNG
    }
}

/// What a file holds, as a number in hexadecimal digits (SHA-256).
///
/// # Errors
/// When it cannot be read.
pub(super) fn of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let before = Same::of(&file.metadata()?);
    if let Some(known) = KNOWN.lock().get(&before) {
        return Ok(known.clone());
    }
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => hash.update(&piece[..count]),
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if before.is_old() && Same::of(&file.metadata()?) == before {
        let mut known = KNOWN.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(before, digest.clone());
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_known(path: &Path) -> bool {
        KNOWN.lock().contains_key(&Same::of(&path.metadata().expect("there")))
    }

    #[test]
    fn a_file_is_read_once_and_again_when_it_has_changed() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("library.so");
        std::fs::write(&path, "one").expect("written");
        let one = of(&path).expect("read");
        assert_eq!(one, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", "by sha256sum");
        assert!(!is_known(&path), "it may change within the same tick of the clock");
        std::thread::sleep(YOUNG + Duration::from_secs(1));
        assert_eq!(of(&path).expect("read"), one);
        assert!(is_known(&path));
        std::fs::write(&path, "two").expect("written");
        assert_ne!(of(&path).expect("read"), one, "of the same size");
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert_eq!(of(Path::new("/no/such/file")).expect_err("none").kind(), io::ErrorKind::NotFound);
    }
}
