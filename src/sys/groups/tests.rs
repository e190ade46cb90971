//! What of cgroups can be seen without one: folders that look like one to who reads and writes their files.

use std::{fs, time::Duration};

use super::{
    controller::Controller,
    group::{Group, OWN, Seat, room_for_threads, used_of},
    place::{PREFIX, Place, Version, located},
};

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn place(folder: &tempfile::TempDir) -> Place {
    Place { folder: folder.path().to_owned(), version: Version::Two }
}

fn group(folder: &std::path::Path, version: Version) -> Group {
    let seat = Seat { folder: folder.to_owned(), version };
    let (memory, processes) = (Some(seat.clone()), Some(seat.clone()));
    Group { memory, processes, cpus: Some(seat), folders: vec![folder.to_owned()] }
}

#[test]
fn the_own_folder_is_found_in_both_versions() {
    let found = |folder: &str, version| Some(Place { folder: folder.into(), version });
    let one = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
               35 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
               36 31 0:34 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
               37 31 0:35 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
    let own = "5:cpuset:/s\n4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/\n";
    assert_eq!(located(one, own, "memory"), found("/sys/fs/cgroup/memory/a/b", Version::One));
    assert_eq!(located(one, own, "cpu"), found("/sys/fs/cgroup/cpu,cpuacct/c", Version::One));
    assert_eq!(located(one, own, "pids"), None, "neither has it");
    let two = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(located(two, "0::/user/x\n", "pids"), found("/sys/fs/cgroup/user/x", Version::Two));
    let both = format!("{one}38 31 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    assert_eq!(located(&both, own, "pids"), found("/sys/fs/cgroup/unified", Version::Two));
    let inside = "30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    assert_eq!(located(inside, "0::/docker/1\n", "memory"), found("/sys/fs/cgroup", Version::Two));
    assert_eq!(located("", "0::/\n", "memory"), None);
}

#[test]
fn each_controller_is_asked_for_where_it_can_be_had() {
    let without = folder_with(&[("cgroup.controllers", "cpu pids\n"), ("cgroup.subtree_control", "")]);
    assert_eq!(place(&without).delegate(Controller::Memory), None);
    assert!(!place(&without).looks_free(Controller::Memory) && place(&without).looks_free(Controller::Processes));
    let asked = || fs::read_to_string(without.path().join("cgroup.subtree_control")).expect("there");
    for (controller, word) in [(Controller::Processes, "+pids"), (Controller::Cpus, "+cpu")] {
        assert_eq!(place(&without).delegate(controller), Some(()));
        assert_eq!(asked(), word);
    }
    let enabled = folder_with(&[("cgroup.controllers", "memory\n"), ("cgroup.subtree_control", "memory\n")]);
    assert_eq!(place(&enabled).delegate(Controller::Memory), Some(()), "it is done already");
}

#[test]
fn the_server_moves_aside_unless_a_stranger_is_beside_it() {
    let own = std::process::id();
    let alone = folder_with(&[("cgroup.procs", &format!("{own}\n"))]);
    assert_eq!(place(&alone).move_aside(), Some(()));
    let moved = alone.path().join(format!("{PREFIX}{own}-server/cgroup.procs"));
    assert_eq!(fs::read_to_string(moved).expect("there"), own.to_string());
    let shared = folder_with(&[("cgroup.procs", &format!("1\n{own}\n"))]);
    assert_eq!(place(&shared).move_aside(), None);
    assert_eq!(fs::read_dir(shared.path()).expect("there").count(), 1, "nothing was made");
}

#[test]
fn what_the_kernel_tells_of_a_group_is_read() {
    let folder = folder_with(&[
        ("memory.stat", "anon 100\nfile 900\nkernel 50\nsock 2\nshmem 20\nslab_reclaimable 45\n"),
        ("memory.peak", "700\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n"),
        ("cpu.stat", "usage_usec 9\nthrottled_usec 2000000\nthrottled_time 3000000000\n"),
        ("cgroup.procs", ""),
    ]);
    let two = group(folder.path(), Version::Two);
    assert_eq!((two.used(), two.peak(), two.kills()), (Some(127), Some(700), 1));
    assert_eq!(two.throttled(), Some(Duration::from_secs(2)));
    assert_eq!(group(folder.path(), Version::One).throttled(), Some(Duration::from_secs(3)));
    two.take_in(7).expect("written");
    assert_eq!(fs::read_to_string(folder.path().join("cgroup.procs")).expect("there"), "7");
    let lost = group(&folder.path().join("gone"), Version::Two);
    assert_eq!((lost.used(), lost.peak(), lost.kills(), lost.throttled()), (None, None, 0, None));
    assert!(!lost.bound_processes(1, 2), "what it does not keep it does not promise");
    let none = Group::default();
    assert_eq!((none.used(), none.peak(), none.kills(), none.throttled()), (None, None, 0, None));
}

/// Threads count as processes for the kernel: there is room for them, until there are too many processes.
#[test]
fn the_kernels_bound_follows_what_there_is() {
    let folder = folder_with(&[("pids.current", "14\n"), ("pids.max", "max\n")]);
    let group = group(folder.path(), Version::Two);
    let bound = |count, most| {
        assert!(group.bound_processes(count, most));
        fs::read_to_string(folder.path().join("pids.max")).expect("there").parse::<u64>().expect("a number")
    };
    assert_eq!(bound(3, 5), 14 + 2 + room_for_threads());
    assert_eq!(bound(5, 5), 14 + room_for_threads());
    assert_eq!(bound(6, 5), 14 + OWN);
}

#[test]
fn what_killed_servers_have_left_is_removed_and_nothing_else() {
    let folder = folder_with(&[]);
    let (dead, own) = (format!("{PREFIX}999999999-1"), format!("{PREFIX}{}-1", std::process::id()));
    for name in [dead.as_str(), own.as_str(), "forkpy-test-1", "other"] {
        fs::create_dir(folder.path().join(name)).expect("made");
    }
    let left = || {
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).expect("there").flatten().map(|one| one.file_name()).collect();
        left.sort();
        left
    };
    place(&folder).clear();
    assert_eq!(left(), [own.as_str(), "forkpy-test-1", "other"]);
    fs::write(folder.path().join(&own).join("process"), "").expect("written");
    assert!(!place(&folder).remove_ours(), "one is not empty");
    fs::remove_file(folder.path().join(&own).join("process")).expect("there");
    assert!(place(&folder).remove_ours());
    assert_eq!(left(), ["forkpy-test-1", "other"]);
}

#[test]
fn files_that_were_only_read_do_not_count() {
    let one = "cache 900\nrss 7\nshmem 5\ntotal_cache 900\ntotal_rss 10\ntotal_shmem 20\ntotal_swap 3\n";
    assert_eq!(used_of(one, Version::One, || 4), Some(37));
    let two = "anon 10\nfile 900\nkernel 50\nsock 2\nshmem 20\nslab_reclaimable 45\n";
    assert_eq!(used_of(two, Version::Two, || 0), Some(37));
}
