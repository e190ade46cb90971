//! The mappings of a process, as the kernel lists them.
//!
//! Runs in: checkpoint (its clone's), the process that is woken (its own).

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
pub(super) const EXECUTE: u8 = 4;

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Anonymous,
    /// The main thread's stack, which grows.
    Stack,
    File,
    /// The kernel's own: vdso and its data.
    Kernel,
}

/// How the memory is to be treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Advice {
    pub(super) huge: bool,
    pub(super) no_huge: bool,
    pub(super) not_dumped: bool,
    pub(super) wiped_in_forks: bool,
    pub(super) droppable: bool,
    pub(super) no_reserve: bool,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Region {
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) access: u8,
    pub(super) shared: bool,
    pub(super) offset: u64,
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) kind: Kind,
    /// Path of the file, or what the kernel says in its place.
    pub(super) path: String,
    pub(super) advice: Advice,
    /// A flag that stands for something that cannot be had again.
    pub(super) strange: Option<String>,
}

impl Region {
    pub(super) fn length(&self) -> u64 {
        self.end - self.begin
    }

    pub(super) fn may(&self, access: u8) -> bool {
        self.access & access == access
    }

    /// Whether another is a part of the same file at the same place.
    pub(super) fn is_same_file_as(&self, other: &Self) -> bool {
        self.kind == Kind::File
            && other.kind == Kind::File
            && (self.device, self.inode, self.shared) == (other.device, other.inode, other.shared)
            && self.offset.wrapping_sub(self.begin) == other.offset.wrapping_sub(other.begin)
    }
}

/// Mappings of this process.
pub(super) fn own() -> io::Result<Vec<Region>> {
    let text = fs::read_to_string("/proc/self/maps")?;
    Ok(text.lines().filter_map(head).collect())
}

/// Mappings of a process, with what was asked for them.
pub(super) fn of(pid: i32) -> io::Result<Vec<Region>> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut regions: Vec<Region> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(region) = regions.last_mut() {
                take_flags(region, flags);
            }
        } else if let Some(region) = head(line) {
            regions.push(region);
        }
    }
    Ok(regions)
}

/// `7f00-7f10 r-xp 00000000 08:01 12   /usr/lib/my lib.so`
fn head(line: &str) -> Option<Region> {
    let mut fields = line.splitn(6, ' ');
    let (begin, end) = fields.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (begin, end) = (hex(begin)?, hex(end)?);
    let flags = fields.next()?.as_bytes();
    let bit = |place: usize, letter: u8, bit: u8| if flags.get(place) == Some(&letter) { bit } else { 0 };
    let access = bit(0, b'r', READ) | bit(1, b'w', WRITE) | bit(2, b'x', EXECUTE);
    let offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = fields.next()?.trim().parse().ok()?;
    let path = unescaped(fields.next().unwrap_or_default().trim_start());
    let kind = match path.as_str() {
        "" | "[heap]" => Kind::Anonymous,
        "[stack]" => Kind::Stack,
        name if name.starts_with("[anon") => Kind::Anonymous,
        name if name.starts_with('[') => Kind::Kernel,
        _ => Kind::File,
    };
    let shared = flags.get(3) == Some(&b's');
    let (advice, strange) = (Advice::default(), None);
    Some(Region { begin, end, access, shared, offset, device, inode, kind, path, advice, strange })
}

/// The kernel writes a newline in a name as `\012`.
fn unescaped(path: &str) -> String {
    path.replace("\\012", "\n")
}

/// What can be had again is noted, what means nothing to an image is passed over, all else is strange.
fn take_flags(region: &mut Region, flags: &str) {
    for flag in flags.split_ascii_whitespace() {
        match flag {
            "hg" => region.advice.huge = true,
            "nh" => region.advice.no_huge = true,
            "dd" => region.advice.not_dumped = true,
            "wf" => region.advice.wiped_in_forks = true,
            "dp" => region.advice.droppable = true,
            "nr" => region.advice.no_reserve = true,
            "rd" | "wr" | "ex" | "sh" | "mr" | "mw" | "me" | "ms" | "gd" | "ac" | "sd" | "rr" | "sr" | "mg" => {}
            // The kernel's own have such.
            _ if region.kind == Kind::Kernel => {}
            other => region.strange = Some(other.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let region = head("7f00-7f10 r-xs 00001000 08:01 12                  /usr/lib/my lib.so").expect("a mapping");
        assert_eq!((region.begin, region.end, region.access, region.shared), (0x7f00, 0x7f10, READ | EXECUTE, true));
        assert_eq!((region.offset, region.device, region.inode), (0x1000, (8, 1), 12));
        assert_eq!((region.kind, region.path.as_str()), (Kind::File, "/usr/lib/my lib.so"));
        assert_eq!(head("7f00-7f10 rw-p 00000000 00:00 0 ").expect("a mapping").kind, Kind::Anonymous);
        assert_eq!(head("7f00-7f10 rw-p 00000000 00:00 0          [stack]").expect("a mapping").kind, Kind::Stack);
        assert!(head("Size:                 16 kB").is_none());
        assert!(head("VmFlags: rd wr mr mw me ac").is_none());
    }

    #[test]
    fn a_flag_that_is_not_known_is_not_passed_over() {
        let mut region = head("7f00-7f10 rw-p 00000000 00:00 0 ").expect("a mapping");
        take_flags(&mut region, " rd wr mr mw me ac sd hg nr ");
        assert!(region.advice.huge && region.advice.no_reserve && region.strange.is_none());
        take_flags(&mut region, " rd wr lo ");
        assert_eq!(region.strange.as_deref(), Some("lo"));
    }

    #[test]
    fn this_process_is_read_the_same_in_both_ways() {
        let pid = i32::try_from(std::process::id()).expect("small");
        let described = of(pid).expect("read");
        assert!(described.iter().any(|region| region.kind == Kind::Stack && region.may(READ | WRITE)));
        assert!(described.iter().any(|region| region.kind == Kind::File && region.may(EXECUTE)));
        assert!(own().expect("read").iter().any(|region| region.path == "[vdso]"));
    }
}
