//! How an image lies in its file: a preamble of one page, the pages of memory, the description of all.
//!
//! Runs in: checkpoint (writes), the process that is woken (reads). What keeps the file from being another one's, or from
//! being changed, is not here: who gives it to be woken has checked that.

use std::{fs::File, io, os::unix::fs::FileExt};

use serde::{Deserialize, Serialize};

use super::{
    files::OpenFile,
    layout::{PAGE, Region},
    mapped::MappedFile,
    refusal::Refusal,
    snapshot::Registers,
    state::KernelState,
    ties::Ties,
};

/// Begin of the file; written last, so that a file that was cut short has none. The last byte is the format's version.
const MAGIC: [u8; 8] = *b"fpimage\x03";
/// More than any description has.
const LONGEST: u64 = 64 << 20;

/// Name of a base.
pub(crate) type BaseId = [u8; 16];

/// Which file has a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    Image,
    Base,
}

/// Pages that lie one behind the other, in memory and in a file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) begin: u64,
    pub(super) pages: u64,
    /// Where in the file.
    pub(super) offset: u64,
    pub(super) source: Source,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.begin + self.pages * PAGE
    }
}

/// Everything but the pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) ties: Ties,
    pub(super) state: KernelState,
    pub(super) registers: Registers,
    /// By address.
    pub(super) regions: Vec<Region>,
    /// By address; each within one region.
    pub(super) runs: Vec<Run>,
    /// What it was compared with.
    pub(super) base: BaseId,
    pub(super) files: Vec<OpenFile>,
    /// Each mapped file, by path.
    pub(super) mapped: Vec<MappedFile>,
    /// Digest of the kernel's own code in the process.
    pub(super) vdso: u64,
    /// The number of its socket, of which a waker gives it another one.
    pub(super) link: i32,
    /// The number of the server's lifeline.
    pub(super) lifeline: Option<i32>,
}

impl Description {
    /// Ends the file, whose pages end at `end`.
    pub(super) fn write(&self, file: &File, end: u64) -> Result<u64, Refusal> {
        write_end(file, MAGIC, self, end)
    }

    /// In the place of the one that a whole file ends with.
    pub(super) fn rewrite(&self, file: &File) -> Result<(), Refusal> {
        let (_, end): (Self, u64) = read_end(file, MAGIC)?;
        let length = self.write(file, end)?;
        file.set_len(length).map_err(Refusal::Write)
    }

    /// From a whole file.
    pub(super) fn read(file: &File) -> Result<Self, Refusal> {
        let (described, end): (Self, u64) = read_end(file, MAGIC)?;
        described.check(end)?;
        Ok(described)
    }

    /// Nothing of it points to where it may not.
    fn check(&self, pages_end: u64) -> Result<(), Refusal> {
        let even = |value: u64| value.is_multiple_of(PAGE);
        let mut before = 0;
        for region in &self.regions {
            if region.begin < before || region.end <= region.begin || !even(region.begin) || !even(region.end) {
                return Err(Refusal::Damaged("its mappings are out of order"));
            }
            before = region.end;
        }
        let mut regions = self.regions.iter();
        let mut region = regions.next();
        for run in &self.runs {
            while region.is_some_and(|region| region.end <= run.begin) {
                region = regions.next();
            }
            if !region.is_some_and(|region| region.begin <= run.begin && run.end() <= region.end) {
                return Err(OUT_OF_ORDER);
            }
        }
        check_runs(&self.runs, pages_end)
    }
}

const OUT_OF_ORDER: Refusal = Refusal::Damaged("its pages are out of order");

/// They are in order, and those of this file lie in it.
pub(super) fn check_runs(runs: &[Run], pages_end: u64) -> Result<(), Refusal> {
    let mut before = 0;
    for run in runs {
        let bytes = run.pages.checked_mul(PAGE).ok_or(OUT_OF_ORDER)?;
        let (end, in_file) = (run.begin.checked_add(bytes), run.offset.checked_add(bytes));
        let lies = run.offset.is_multiple_of(PAGE) && run.offset >= PAGE;
        let lies = lies && (run.source == Source::Base || in_file.is_some_and(|end| end <= pages_end));
        let is_new = run.begin >= before && run.begin.is_multiple_of(PAGE);
        before = end.filter(|_| is_new && lies && in_file.is_some() && run.pages > 0).ok_or(OUT_OF_ORDER)?;
    }
    Ok(())
}

/// Ends a file with what describes its pages, which end at `end`. Gives its length.
pub(super) fn write_end<T: Serialize>(file: &File, magic: [u8; 8], described: &T, end: u64) -> Result<u64, Refusal> {
    let bytes = postcard::to_stdvec(described).map_err(|_| Refusal::Write(io::ErrorKind::InvalidData.into()))?;
    let length = bytes.len() as u64;
    file.write_all_at(&bytes, end).map_err(Refusal::Write)?;
    let mut preamble = [0; 24];
    preamble[..8].copy_from_slice(&magic);
    preamble[8..16].copy_from_slice(&end.to_le_bytes());
    preamble[16..].copy_from_slice(&length.to_le_bytes());
    file.write_all_at(&preamble, 0).map_err(Refusal::Write)?;
    Ok(end + length)
}

/// What describes the pages of a whole file, and where they end.
pub(super) fn read_end<T: for<'a> Deserialize<'a>>(file: &File, magic: [u8; 8]) -> Result<(T, u64), Refusal> {
    let mut preamble = [0; 24];
    file.read_exact_at(&mut preamble, 0).map_err(Refusal::Read)?;
    if preamble[..8] != magic {
        return Err(Refusal::Damaged("it does not begin as one of this version"));
    }
    let word = |at: usize| u64::from_le_bytes(preamble[at..at + 8].try_into().unwrap_or_default());
    let (offset, length) = (word(8), word(16));
    let size = file.metadata().map_err(Refusal::Read)?.len();
    if length > LONGEST || offset.checked_add(length) != Some(size) {
        return Err(Refusal::Damaged("it is not as long as it says"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, offset).map_err(Refusal::Read)?;
    let described = postcard::from_bytes(&bytes).map_err(|_| Refusal::Damaged("its description cannot be read"))?;
    Ok((described, offset))
}

/// FNV-1a, which is enough to tell two builds of the kernel's code apart.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
