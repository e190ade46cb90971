//! What this process takes: memory, descriptors, processor time.
//!
//! Runs in: server. Read from `/proc/self` when it is asked for; some tens of microseconds, and more with many descriptors.

use std::{fs, time::Duration};

use nix::{
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage},
        time::TimeVal,
    },
    unistd::{SysconfVar, sysconf},
};

/// One look at ourselves. What the system does not tell is nought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory, bytes.
    pub resident: u64,
    /// Address space, bytes.
    pub address_space: u64,
    pub open_files: u64,
    pub max_files: u64,
    /// User and system time.
    pub cpu: Duration,
}

#[must_use]
pub(crate) fn own() -> Usage {
    let (address_space, resident) = memory().unwrap_or_default();
    let cpu = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| duration(usage.user_time()) + duration(usage.system_time()));
    // One of them is the look itself.
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64);
    let max_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    Usage { resident, address_space, open_files, max_files, cpu }
}

/// Address space and resident memory, bytes.
fn memory() -> Option<(u64, u64)> {
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok());
    Some((pages.next()? * page, pages.next()? * page))
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_shows() {
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").expect("there")).collect();
        let block = vec![1_u8; 64 << 20];
        let after = own();
        // Not compared with what was before: other tests of this process give back and take.
        assert!(after.open_files >= 50 && after.max_files > 50, "{after:?}");
        assert!(after.resident >= 64 << 20 && after.address_space >= after.resident, "{after:?}");
        drop((files, block));
    }
}
