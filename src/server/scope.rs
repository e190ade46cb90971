//! What a token of an issuer (`--oauth-issuer`) may be used for. All other callers may do everything that is not an
//! administrator's.
//!
//! Runs in: server. Pure data. Which tool needs which scope stands in the table of tools, which resource in its provider.

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Sessions: code, their variables, health, packages. Code in a session can do with files what it likes.
    CellsRun,
    FilesRead,
    FilesWrite,
    /// What concerns all owners.
    Admin,
}

impl Scope {
    pub(crate) const ALL: [Self; 4] = [Self::CellsRun, Self::FilesRead, Self::FilesWrite, Self::Admin];

    /// As tokens name it.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::CellsRun => "cells:run",
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::CellsRun => 1,
            Self::FilesRead => 2,
            Self::FilesWrite => 4,
            Self::Admin => 8,
        }
    }
}

/// Those that a caller has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scopes(u8);

impl Scopes {
    /// Of administrators, and of all where there are none.
    pub(crate) const UNLIMITED: Self = Self(15);
    /// Of users that no issuer vouches for.
    pub(crate) const OF_USERS: Self = Self(7);

    /// Those that are named among other words, which mean something elsewhere.
    #[must_use]
    pub(crate) fn named<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(|word| Scope::ALL.into_iter().find(|scope| scope.word() == word)).collect()
    }

    #[must_use]
    pub(crate) fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether they are enough for what needs this one, or none.
    #[must_use]
    pub(crate) fn allow(self, needed: Option<Scope>) -> bool {
        needed.is_none_or(|scope| self.has(scope))
    }

    /// These and one more, as tokens name them.
    #[must_use]
    pub(crate) fn words_with(self, more: Option<Scope>) -> String {
        let all = Scope::ALL.into_iter().filter(|scope| self.has(*scope) || more == Some(*scope));
        all.map(Scope::word).collect::<Vec<_>>().join(" ")
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_words_and_others_words_are_left_alone() {
        let scopes = Scopes::named("openid files:read cells:run files:readx ADMIN".split(' '));
        assert!(scopes.has(Scope::CellsRun) && scopes.has(Scope::FilesRead));
        assert!(!scopes.has(Scope::FilesWrite) && !scopes.has(Scope::Admin) && scopes.allow(None));
        assert_eq!(scopes.words_with(Some(Scope::Admin)), "cells:run files:read admin");
        assert!(!Scopes::OF_USERS.has(Scope::Admin) && Scopes::OF_USERS.has(Scope::FilesWrite));
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::UNLIMITED.has(scope) && !Scopes::default().has(scope)));
    }
}
