//! What a session holds much of lies in huge pages, so that a copy of it is quickly made.

use crate::support::{Forkpy, Setup};

/// Whether the kernel gives any: with `never` there is nothing to see.
#[expect(clippy::print_stderr, reason = "what is not tested is said")]
fn are_given() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let given = !setting.is_empty() && !setting.contains("[never]");
    if !given {
        eprintln!("NOT TESTED: this kernel gives no huge pages ({setting:?})");
    }
    given
}

/// MB in huge pages that came with the cell.
fn huge(forkpy: &mut Forkpy, code: &str) -> f64 {
    let code = format!(
        "def huge():\n    text = open('/proc/self/smaps_rollup').read()\n    \
         return int(text.split('AnonHugePages:')[1].split()[0]) / 1024\nbefore = huge()\n{code}\nhuge() - before"
    );
    forkpy.eval(&code).parse().expect("a number")
}

#[test]
fn large_objects_and_many_small_ones_lie_in_huge_pages() {
    if !are_given() {
        return;
    }
    let mut forkpy = Forkpy::start();
    assert!(huge(&mut forkpy, "large = [bytes(10_000) for _ in range(10_000)]") > 60.0, "malloc's");
    assert!(huge(&mut forkpy, "small = [object() for _ in range(8_000_000)]") > 60.0, "Python's arenas");
    assert_eq!(forkpy.eval("del large, small\nlen([object() for _ in range(1_000_000)])"), "1000000");
}

#[test]
fn what_sessions_start_is_not_tuned() {
    let code = "import os, subprocess\n(os.environ.get('GLIBC_TUNABLES'), \
                subprocess.run('echo $GLIBC_TUNABLES', shell=True, capture_output=True, text=True).stdout.strip())";
    assert_eq!(Forkpy::start().eval(code), "(None, '')");
    let mut own = Setup::new().env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1").start();
    assert_eq!(own.eval(code), "('glibc.malloc.arena_max=1', 'glibc.malloc.arena_max=1')");
    let mut none = Setup::new().env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0").start();
    assert_eq!(none.eval(code), "('glibc.malloc.hugetlb=0', 'glibc.malloc.hugetlb=0')");
    if are_given() {
        assert!(huge(&mut none, "large = [bytes(10_000) for _ in range(10_000)]") < 30.0, "the user's word holds");
    }
}
