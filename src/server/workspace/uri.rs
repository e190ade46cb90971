//! URIs of files: `file:///` and the absolute path, percent-encoded.
//!
//! Runs in: server. Pure; whether a path stays in the workspace is for the handle in `server/workspace/handle.rs` to say.
//!
//! `file:` because that is what clients have a use for: one on the same machine opens it, one elsewhere reads it through
//! `resources/read`. A file has one spelling that announcements use; others that mean the same are understood.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stays as it is: the unreserved characters, and the separator.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const SCHEME: &str = "file://";

/// What stands behind `file:`, however that is written: `file:///a` and `file:/a` are the same. None for what is no address of a
/// file by its whole path.
fn behind_scheme(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    let is_file = scheme.eq_ignore_ascii_case("file") && rest.starts_with('/');
    is_file.then(|| rest.strip_prefix("//").unwrap_or(rest))
}

/// The URI of a path relative to `root`.
#[must_use]
pub(crate) fn of(root: &Path, relative: &str) -> String {
    let path = root.join(relative);
    format!("{SCHEME}{}", utf8_percent_encode(&path.to_string_lossy(), ENCODED))
}

/// The path relative to `root` that a URI means, or why it means none.
///
/// # Errors
/// A reason that fits behind the URI.
pub(crate) fn relative(root: &Path, uri: &str) -> Result<String, &'static str> {
    let rest = behind_scheme(uri).ok_or("it does not begin with file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return Err("it names another machine");
    }
    if rest.contains(['?', '#']) {
        return Err("it has a query or a fragment");
    }
    let path = percent_decode_str(rest).decode_utf8().map_err(|_| "its path is not valid UTF-8")?;
    let below = Path::new(&*path).strip_prefix(root).map_err(|_| "it is not in the workspace")?;
    below.to_str().map(str::to_owned).ok_or("its path is not valid UTF-8")
}

/// A path as people and models write it: one below the home directory (`~`), an absolute one or a `file:` address, made
/// relative to `root` when it lies below it. All others stay, for the handle to say what is wrong with them.
///
/// # Errors
/// A reason that fits behind the path.
pub(crate) fn inside<'a>(root: &Path, path: &'a str) -> Result<Cow<'a, str>, &'static str> {
    let named = |below: &str| if below.is_empty() { ".".to_owned() } else { below.to_owned() };
    if behind_scheme(path).is_some() {
        return relative(root, path).map(|below| Cow::Owned(named(&below)));
    }
    let at_home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let whole = match at_home {
        Some(rest) => {
            let home = std::env::var_os("HOME").map(PathBuf::from).ok_or("the home directory is not known")?;
            Cow::Owned(home.join(rest.trim_start_matches('/')))
        }
        None if path.starts_with('/') => Cow::Borrowed(Path::new(path)),
        None => return Ok(Cow::Borrowed(path)),
    };
    match whole.strip_prefix(root) {
        Ok(below) => Ok(Cow::Owned(named(&below.to_string_lossy()))),
        Err(_) if at_home.is_some() => Err("it is not in the workspace"),
        Err(_) => Ok(Cow::Borrowed(path)),
    }
}

/// The media type that a name tells of.
#[must_use]
pub(crate) fn mime_of(path: &str) -> Option<&'static str> {
    mime_guess::from_path(path).first_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_its_uri() {
        let root = Path::new("/work space");
        for path in ["a", "a/b c", "ü/漢", "100%", "a?b#c", "a\nb", "-._~", "a:b@c,(d)"] {
            let uri = of(root, path);
            assert!(uri.is_ascii() && uri.starts_with("file:///work%20space/"), "{uri}");
            assert_eq!(relative(root, &uri).as_deref(), Ok(path), "{uri}");
        }
    }

    #[test]
    fn other_spellings_are_understood_and_what_is_elsewhere_is_not() {
        let root = Path::new("/ws");
        assert_eq!(relative(root, "file:///ws/a(b)").as_deref(), Ok("a(b)"));
        assert_eq!(relative(root, "file://localhost/ws/%61").as_deref(), Ok("a"));
        assert_eq!(relative(root, "file:///ws").as_deref(), Ok(""));
        assert_eq!(relative(root, "file:/ws/a").as_deref(), Ok("a"));
        assert_eq!(relative(root, "FILE:///ws/a").as_deref(), Ok("a"));
        // The handle refuses these.
        assert_eq!(relative(root, "file:///ws/../etc/passwd").as_deref(), Ok("../etc/passwd"));
        for uri in [
            "file:///etc/passwd",
            "file:///wsx/a",
            "file://host/ws/a",
            "file:a",
            "a",
            "http:///ws/a",
            "file:///ws/%ff",
            "",
            "file:///ws/a?b",
        ] {
            assert!(relative(root, uri).is_err(), "{uri}");
        }
    }
}
