//! Who sessions belong to: each owner has a `default` of its own, names of its own, and sees nothing of the others.
//!
//! Runs in: server. Pure data. Which owner a call is of is decided once, at the door (`mcp/http/owners.rs`; standard input and
//! fronts are their user's), and carried in the call. It may be what lets a client in, so it is never logged.

use std::{fmt, sync::Arc};

/// Whose a session is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// The user who runs the server: standard input, fronts, and every client where sessions are shared.
    User,
    /// All that have the server's token.
    Bearer,
    /// Who has a token of `--tokens`, by the name that it has there.
    Named(Arc<str>),
    /// Whom the issuer's tokens are of (`--oauth-issuer`), by their `sub`: any text.
    Subject(Arc<str>),
    /// A client with a session of the protocol, up to 2025-11-25.
    HttpSession(Arc<str>),
    /// A client that keeps our cookie.
    Cookie(Arc<str>),
    /// All clients that send nothing by which one could be told from another.
    Unnamed,
}

impl Owner {
    /// For the program that this server becomes, and no other place.
    #[must_use]
    pub(crate) fn pack(&self) -> (u8, String) {
        match self {
            Self::User => (0, String::new()),
            Self::Bearer => (1, String::new()),
            Self::Named(name) => (2, name.to_string()),
            Self::HttpSession(id) => (3, id.to_string()),
            Self::Cookie(cookie) => (4, cookie.to_string()),
            Self::Unnamed => (5, String::new()),
            Self::Subject(subject) => (6, subject.to_string()),
        }
    }

    #[must_use]
    pub(crate) fn unpack((kind, text): (u8, String)) -> Self {
        match kind {
            0 => Self::User,
            1 => Self::Bearer,
            2 => Self::Named(text.into()),
            3 => Self::HttpSession(text.into()),
            4 => Self::Cookie(text.into()),
            6 => Self::Subject(text.into()),
            _ => Self::Unnamed,
        }
    }

    /// Whether it can be gone for good without a word: a client that got a new name for itself never comes back under the
    /// old one.
    #[must_use]
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::HttpSession(_) | Self::Cookie(_))
    }

    /// Whether it is by a token, so that it is the same in every request, and none can be made by who has not got it.
    #[must_use]
    pub(crate) fn has_token(&self) -> bool {
        matches!(self, Self::Bearer | Self::Named(_) | Self::Subject(_))
    }

    /// A name for it in files, from which it cannot be told; none for the user.
    #[must_use]
    pub(crate) fn mark(&self) -> Option<String> {
        use std::hash::{BuildHasher, RandomState};
        static KEY: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
        let secret = |text: &str| format!("{:016x}", KEY.hash_one(text));
        match self {
            Self::User => None,
            Self::Bearer => Some("token".to_owned()),
            Self::Named(name) => Some(format!("owner-{name}")),
            Self::Subject(subject) => Some(format!("subject-{}", plain(subject))),
            Self::Unnamed => Some("unnamed".to_owned()),
            Self::HttpSession(id) => Some(secret(id)),
            Self::Cookie(cookie) => Some(secret(cookie)),
        }
    }
}

/// Letters of a name in a file's name, before the rest of it is told by a hash.
const MOST: usize = 100;

/// Any text as a part of a file's name, and no two texts as the same.
fn plain(text: &str) -> String {
    use sha2::{Digest, Sha256};
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');
    let name = percent_encoding::utf8_percent_encode(text, KEPT).to_string();
    if name.len() <= MOST {
        return name;
    }
    let hash: String = Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}~{hash}", &name[..MOST - 40])
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::User => "User",
            Self::Bearer => "Bearer",
            Self::Named(_) => "Named",
            Self::Subject(_) => "Subject",
            Self::HttpSession(_) => "HttpSession",
            Self::Cookie(_) => "Cookie",
            Self::Unnamed => "Unnamed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_may_be_any_text_and_is_a_name_of_a_file() {
        let mark = |text: &str| Owner::Subject(text.into()).mark().expect("a mark");
        assert_eq!(mark("auth0|12"), "subject-auth0%7C12");
        assert_eq!(mark("../é/\0"), "subject-..%2F%C3%A9%2F%00");
        let long = [mark(&"/".repeat(255)), mark(&"/".repeat(254)), mark("a"), mark("%61")];
        assert!(long.iter().all(|name| name.len() < 128 && !name.contains('/')), "{long:?}");
        assert!(long[0] != long[1] && long[2] != long[3]);
        for owner in [Owner::Subject("a".into()), Owner::Named("a".into()), Owner::Unnamed] {
            assert_eq!(Owner::unpack(owner.pack()), owner);
        }
    }

    #[test]
    fn an_owner_is_not_told_from_what_is_logged_or_written() {
        let owner = Owner::Cookie("0123456789abcdef".into());
        let mark = owner.mark().expect("a mark");
        assert_eq!((mark.len(), owner.mark()), (16, Some(mark.clone())));
        assert!(!format!("{owner:?} {mark}").contains("0123"));
        assert_ne!(owner.mark(), Owner::Cookie("other".into()).mark());
    }
}
