//! Two servers and one folder: who gets a session, and what is refused.

use std::{
    fs,
    io::{Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{handle::SIGN, *};
use crate::{
    server::owner::Owner,
    settings::store::{StoreKey, StorePlace, StoreSettings},
};

async fn opened(folder: &Path, server: &str, key: &str) -> Result<Store, StoreError> {
    let (place, key) = (StorePlace::Folder(folder.to_owned()), StoreKey::of(key));
    let store = Store::open(&StoreSettings { place, key, server: server.to_owned(), after: None }).await?;
    store.beat().await?;
    // Both are one process here.
    let mut inner = Arc::into_inner(store.0).expect("one");
    inner.me.instance.push_str(server);
    Ok(Store(Arc::new(inner)))
}

async fn two(folder: &Path) -> (Store, Store) {
    (opened(folder, "one", "a key").await.expect("opened"), opened(folder, "two", "a key").await.expect("opened"))
}

fn whose(session: &str) -> Whose {
    Whose { owner: Owner::Named("ada".into()), session: session.to_owned() }
}

fn lease(store: &Store, state: State) -> Lease {
    Lease { session: "work".to_owned(), holder: store.me().clone(), state, kept: None }
}

/// Files below a folder, without the store's own.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn of_two_servers_that_take_one_step_one_takes_it_fifty_times() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = two(folder.path()).await;
    let whose = whose("work");
    for round in 0..50 {
        let both = futures::future::join(
            one.step(&whose, round, lease(&one, State::Awake)),
            two.step(&whose, round, lease(&two, State::Awake)),
        );
        let (first, second) = both.await;
        let taken = [first.expect("it answers"), second.expect("it answers")].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(taken.len(), 1, "round {round}");
        let seen = one.look(&whose).await.expect("it answers").expect("there");
        assert_eq!((seen.number, &seen.lease), (round + 1, &taken[0].lease));
    }
    assert_eq!(files(&folder.path().join("sessions")).len(), 2, "older numbers are removed");
}

#[tokio::test]
async fn who_stands_at_an_older_number_takes_no_step_although_the_next_one_is_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = two(folder.path()).await;
    let whose = whose("work");
    for number in 0..5 {
        assert!(two.step(&whose, number, lease(&two, State::Awake)).await.expect("it answers").is_some());
    }
    assert!(one.step(&whose, 1, lease(&one, State::Awake)).await.expect("it answers").is_none());
    assert_eq!(two.look(&whose).await.expect("it answers").map(|held| held.number), Some(5));
    // One whose answer did not come takes it again.
    assert!(two.step(&whose, 4, lease(&two, State::Awake)).await.expect("it answers").is_some());
}

#[tokio::test]
async fn old_data_is_refused_and_so_is_what_was_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = two(folder.path()).await;
    let whose = whose("work");
    for number in 0..2 {
        one.step(&whose, number, lease(&one, State::Awake)).await.expect("it answers").expect("taken");
    }
    assert_eq!(two.look(&whose).await.expect("it answers").map(|held| held.number), Some(2));
    let newest = files(&folder.path().join("sessions")).pop().expect("one");
    let bytes = fs::read(&newest).expect("read");
    fs::remove_file(&newest).expect("removed");
    let old = two.look(&whose).await.expect_err("old");
    assert!(matches!(old, StoreError::Old { known: 2, shown: 1 }), "{old}");
    for place in [0, 20, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        fs::write(&newest, changed).expect("written");
        assert!(matches!(two.look(&whose).await, Err(StoreError::Damaged(_))), "byte {place}");
    }
    // Another session's lease in its place is none.
    one.step(&super::tests::whose("other"), 0, lease(&one, State::Awake)).await.expect("it answers").expect("taken");
    let other = files(&folder.path().join("sessions")).into_iter().find(|path| path.parent() != newest.parent());
    fs::copy(other.expect("one"), &newest).expect("copied");
    assert!(matches!(two.look(&whose).await, Err(StoreError::Damaged(_))));
    fs::write(&newest, bytes).expect("written");
    assert!(two.look(&whose).await.is_ok());
}

#[tokio::test]
async fn a_store_has_one_key_tells_no_names_and_is_its_users_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, _two) = two(folder.path()).await;
    let other = opened(folder.path(), "three", "another key").await.expect_err("refused");
    assert!(matches!(other, StoreError::OtherKey), "{other}");
    one.step(&whose("work"), 0, lease(&one, State::Awake)).await.expect("it answers").expect("taken");
    let mine = one.sessions_of(&Owner::Named("ada".into())).await.expect("it answers");
    assert_eq!(mine.iter().map(|held| held.lease.session.as_str()).collect::<Vec<_>>(), ["work"]);
    assert!(one.sessions_of(&Owner::Named("eve".into())).await.expect("it answers").is_empty());
    assert!(one.sessions_of(&Owner::Subject("ada".into())).await.expect("it answers").is_empty());
    for path in files(folder.path()) {
        let text = format!("{} {}", path.display(), String::from_utf8_lossy(&fs::read(&path).expect("read")));
        assert!(!text.contains("ada") && !text.contains("work"), "{text}");
    }
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), open).expect("ours");
    let refused = opened(folder.path(), "one", "a key").await.expect_err("refused");
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[tokio::test]
async fn a_file_of_many_pieces_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = two(folder.path()).await;
    for length in [0, 1000, 20 << 20] {
        let bytes: Vec<u8> = (0..length).map(|place: usize| u8::try_from(place % 251).expect("small")).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).and_then(|()| file.rewind()).expect("written");
        let object = one.upload(file).await.expect("there");
        let mut back = tempfile::tempfile().expect("a file");
        two.download(&object, back.try_clone().expect("one more")).await.expect("there");
        let mut read = Vec::new();
        back.rewind().and_then(|()| back.read_to_end(&mut read)).expect("read");
        assert!(read == bytes, "{length} bytes");
        two.discard(&object).await;
        let gone = one.download(&object, back).await.expect_err("gone");
        assert!(matches!(gone, StoreError::Missing(_)), "{gone}");
    }
}

#[tokio::test]
async fn a_server_is_watched_from_when_it_is_first_asked_for_and_not_in_doubt_while_it_gives_signs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = two(folder.path()).await;
    // Where the folder is not mounted, no sign is written into what is there instead.
    let (there, hidden) = (folder.path().join("sessions"), folder.path().join(SIGN));
    fs::remove_file(&hidden).expect("removed");
    assert!(matches!(one.beat().await, Err(StoreError::Empty)));
    assert!(matches!(one.look(&whose("work")).await, Err(StoreError::Empty)) && !there.exists());
    let (silent, has_ended) = one.silence_of(two.me());
    assert!(silent < beat() && !has_ended);
    assert_eq!(one.in_doubt(), None);
    assert_ne!(one.me().instance, two.me().instance);
}
