//! Whose code a thread of this process runs: the library at the outer end of its stack.
//!
//! Runs in: zygote, worker. Reads `/proc/self`; a thread that ends meanwhile is no error, only unknown.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

/// Most bytes of a stack that are looked at, from its outer end.
const LOOKED_AT: usize = 64 << 10;
/// Most bytes above a stack pointer among which the record of the thread is looked for.
#[cfg(target_arch = "x86_64")]
const SEARCHED: usize = 1 << 20;
/// How long a thread that runs may take to stand still. Pools spin for some milliseconds before they sleep.
const STANDING: Duration = Duration::from_millis(150);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Everybody's threads begin here.
const BELOW: [&str; 6] = ["libc.so", "libc-", "ld-linux", "libpthread", "libstdc++", "libgcc_s"];

/// What lies where in this process' memory.
#[derive(Debug)]
pub(crate) struct Mappings(Vec<Mapping>);

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    begin: usize,
    end: usize,
    executable: bool,
    path: String,
}

impl Mappings {
    /// As they are now.
    #[must_use]
    pub(crate) fn of_this_process() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
    }

    fn parse(maps: &str) -> Self {
        Self(maps.lines().filter_map(mapping).collect())
    }

    fn at(&self, address: usize) -> Option<&Mapping> {
        self.0.iter().find(|mapping| (mapping.begin..mapping.end).contains(&address))
    }

    /// The file whose code lies at an address, if that is code, and not everybody's.
    fn library_at(&self, address: usize) -> Option<&str> {
        let mapping = self.at(address).filter(|mapping| mapping.is_code())?;
        (!mapping.is_everybodys()).then_some(&mapping.path)
    }
}

impl Mapping {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Code of a file.
    fn is_code(&self) -> bool {
        self.executable && !self.name().is_empty() && !self.name().starts_with('[')
    }

    fn is_everybodys(&self) -> bool {
        BELOW.iter().any(|below| self.name().starts_with(below))
    }
}

/// `7f0-7f1 r-xp 00000000 08:01 123   /lib/libm.so.6`
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let executable = fields.next()?.contains('x');
    let address = |text| usize::from_str_radix(text, 16).ok();
    let path = fields.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { begin: address(begin)?, end: address(end)?, executable, path })
}

/// The path of the library whose function a thread was started with; `None` when it does not show.
#[must_use]
pub(crate) fn code_of(tid: i32, mappings: &Mappings) -> Option<String> {
    let pointer = stack_pointer(tid)?;
    let stack = mappings.at(pointer)?;
    let memory = File::open("/proc/self/mem").ok()?;
    // The C library keeps the function that a thread was started with in its record of the thread. What a stack held
    // before, when it was another thread's, lies below, and is asked only where the record says nothing.
    let begun = record_of(pointer, stack, &memory).and_then(|record| begun_in(&record, &memory, mappings));
    let calls = || outer_end(stack, &memory)?.iter().rev().find_map(|word| mappings.library_at(*word));
    begun.or_else(calls).map(str::to_owned)
}

/// Whose function a thread was started with: the last in its record but for the C library's own. Its argument is behind it.
fn begun_in<'a>(record: &[usize], memory: &File, mappings: &'a Mappings) -> Option<&'a str> {
    (0..record.len()).rev().find_map(|place| {
        // `std::thread` of C++ begins in its own library, and its argument is an object of the one that made it.
        let of_cpp = || {
            let mapping = mappings.at(record[place]).filter(|mapping| mapping.is_code())?;
            mapping.name().starts_with("libstdc++").then(|| class_of(*record.get(place + 1)?, memory, mappings))?
        };
        mappings.library_at(record[place]).or_else(of_cpp)
    })
}

/// The C library's record of a thread, which lies above its stack and holds its own address twice; what is mapped above
/// that may be anything.
#[cfg(target_arch = "x86_64")]
fn record_of(pointer: usize, stack: &Mapping, memory: &File) -> Option<Vec<usize>> {
    /// Words from the record's begin to the function that the thread was started with, and some.
    const WORDS: usize = 0x900 / size_of::<usize>();
    let begin = pointer.next_multiple_of(size_of::<usize>());
    let words = read(begin, stack.end.min(begin + SEARCHED), memory)?;
    let address = |place: usize| begin + place * size_of::<usize>();
    let is_record = |place: &usize| words[*place] == address(*place) && words.get(place + 2) == Some(&address(*place));
    let place = (0..words.len()).find(is_record)?;
    Some(words[place..words.len().min(place + WORDS)].to_vec())
}

#[cfg(not(target_arch = "x86_64"))]
fn record_of(_pointer: usize, _stack: &Mapping, _memory: &File) -> Option<Vec<usize>> {
    None
}

/// The outer end of a stack, where such a record is not found.
fn outer_end(stack: &Mapping, memory: &File) -> Option<Vec<usize>> {
    read(stack.begin.max(stack.end.saturating_sub(LOOKED_AT)), stack.end, memory)
}

/// As far as it can be read: from glibc 2.42 on stacks lie in one mapping, with pages between them that refuse it.
fn read(begin: usize, end: usize, memory: &File) -> Option<Vec<usize>> {
    let mut bytes = vec![0; end.checked_sub(begin)?];
    let mut count = 0;
    while count < bytes.len()
        && let Ok(more @ 1..) = memory.read_at(&mut bytes[count..], u64::try_from(begin + count).ok()?)
    {
        count += more;
    }
    bytes.truncate(count);
    let words = bytes.as_chunks::<{ size_of::<usize>() }>().0;
    Some(words.iter().map(|word| usize::from_ne_bytes(*word)).collect())
}

/// The file that the table of virtual functions of an object of C++ lies in.
fn class_of<'a>(object: usize, memory: &File, mappings: &'a Mappings) -> Option<&'a str> {
    let mut table = [0; size_of::<usize>()];
    mappings.at(object)?;
    memory.read_exact_at(&mut table, u64::try_from(object).ok()?).ok()?;
    let mapping = mappings.at(usize::from_ne_bytes(table))?;
    (mapping.path.starts_with('/') && !mapping.is_everybodys()).then_some(&mapping.path)
}

fn stack_pointer(tid: i32) -> Option<usize> {
    let began = Instant::now();
    loop {
        let line = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).ok()?;
        if let Some(pointer) = stack_pointer_in(&line) {
            return Some(pointer);
        }
        if began.elapsed() > STANDING {
            return None;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// `202 0x… … 0x7ffd… 0x7f0a…`: number, arguments, stack pointer, program counter; `running` has none.
fn stack_pointer_in(line: &str) -> Option<usize> {
    let mut fields = line.split_ascii_whitespace().rev();
    let _counter = fields.next()?;
    usize::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let maps = "7f00-7f10 r-xp 00000000 08:01 12   /usr/lib/my lib.so\n8000-9000 rw-p 00000000 00:00 0 \n\
                    a000-b000 r-xp 0 08:01 1 /lib/libc.so.6\n";
        let mappings = Mappings::parse(maps);
        assert_eq!(mappings.library_at(0x7f0f), Some("/usr/lib/my lib.so"));
        assert_eq!(mappings.library_at(0x7f10), None);
        assert_eq!(mappings.library_at(0x8000), None);
        assert_eq!(mappings.library_at(0xa000), None);
        assert_eq!(stack_pointer_in("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd10 0x7f11"), Some(0x7f_fd10));
        assert_eq!(stack_pointer_in("running"), None);
    }

    /// Stacks lie side by side in one mapping from glibc 2.42 on, the first page of each closed. As that does, the second page of
    /// a file that has one refuses to be read.
    #[test]
    fn memory_is_read_up_to_a_page_that_refuses_it() {
        use std::os::fd::AsRawFd;

        const PAGE: usize = 4096;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("a page");
        let (read_only, private, number) = (libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
        // SAFETY: two new pages; no reference into them is made.
        let begin = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, read_only, private, number, 0) };
        assert_ne!(begin, libc::MAP_FAILED);
        let memory = File::open("/proc/self/mem").expect("ours");
        let words = read(begin.addr(), begin.addr() + 2 * PAGE, &memory).expect("the first page");
        assert_eq!(words.len(), PAGE / size_of::<usize>());
        // SAFETY: the pages are this test's own.
        unsafe { libc::munmap(begin, 2 * PAGE) };
    }

    #[test]
    fn a_thread_of_this_program_is_known_as_such() {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("heard");
            let _ = stopped.recv();
        });
        let library = code_of(told.recv().expect("told"), &Mappings::of_this_process());
        drop(stop);
        thread.join().expect("ends");
        let own = std::env::current_exe().expect("known");
        assert_eq!(library.as_deref(), own.to_str());
    }
}
