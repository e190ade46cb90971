//! Names of sessions and checkpoints.
//!
//! Runs in: server. Pure.

/// The session that always exists.
pub(crate) const DEFAULT: &str = "default";
pub(crate) const MAX_NAME: usize = 64;
/// Whether this can be the name of a session.
#[must_use]
pub(crate) fn is_name(id: &str) -> bool {
    id.len() <= MAX_NAME
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character))
}

/// A name for a session that was given none.
pub(crate) fn made_up() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("session-{}", &random[..8])
}

/// A name as it may stand in an error: cut when long.
pub(super) fn shorten(id: &str) -> String {
    match id.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}… ({} characters)", &id[..end], id.chars().count()),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_nothing_are_no_names() {
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "é", "a\0b", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in ["default", "a", "7", "run_2.v-1", &made_up(), &"a".repeat(64)] {
            assert!(is_name(good), "{good:?}");
        }
    }
}
