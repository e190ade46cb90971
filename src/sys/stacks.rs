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
        let mapping = self.at(address).filter(|mapping| mapping.executable)?;
        let name = mapping.path.rsplit('/').next().filter(|name| !name.is_empty() && !name.starts_with('['))?;
        (!BELOW.iter().any(|below| name.starts_with(below))).then_some(&mapping.path)
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
    let stack = mappings.at(stack_pointer(tid)?)?;
    let memory = File::open("/proc/self/mem").ok()?;
    let begin = stack.begin.max(stack.end.saturating_sub(LOOKED_AT));
    let mut bytes = vec![0; stack.end - begin];
    memory.read_exact_at(&mut bytes, u64::try_from(begin).ok()?).ok()?;
    let words = bytes.as_chunks::<{ size_of::<usize>() }>().0.iter().rev();
    // The C library keeps the function that a thread was started with above its stack, and the calls follow below.
    words.map(|word| usize::from_ne_bytes(*word)).find_map(|word| mappings.library_at(word)).map(str::to_owned)
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
