//! `--allow-net`: the hosts that confined sessions may reach, as an operator writes them, and whether a host is one of them.
//!
//! Runs in: server. Pure: resolves no name and opens no connection. `server/egress` does, and asks here.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Longest name that the domain name system knows.
const MAX_NAME: usize = 253;
/// Longest part of one.
const MAX_LABEL: usize = 63;

/// One element of the list, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    None,
    All,
    Rule(Rule),
}

/// Hosts, and the one port that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    hosts: Hosts,
    /// `None` is every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Name(String),
    /// All names that end with this, which begins with a dot.
    Below(String),
    Addresses(IpNet),
}

/// A host as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    /// An address that only looks like one of version 6 is one of version 4.
    Address(IpAddr),
}

/// What no host is written like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("{0:?} is no host name")]
    NoName(String),
    #[error("{0:?} is no host name; write an address in full, like 192.0.2.1 or 2001:db8::1")]
    Number(String),
    #[error("{0:?} is no host name; write names of other alphabets as they are sent, with xn--")]
    NotAscii(String),
}

/// Why an element of the list is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("write the host alone, without {0:?}")]
    Url(String),
    #[error("{0:?} is no port; ports are 1 to 65535")]
    Port(String),
    #[error("\"*\" is written \"all\"; \"*.example.org\" is all names below example.org")]
    Star,
    #[error("{0:?} has bits beyond its prefix: {1}")]
    Prefix(String, IpNet),
    #[error("\"none\" stands alone")]
    NotAlone,
}

/// What `--allow-net` comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    all: bool,
    rules: Vec<Rule>,
}

impl Host {
    /// Reads a host: a name, an address, one in brackets.
    ///
    /// # Errors
    /// [`HostError`], also for the ways to write an address that only some programs take for one: `127.1`, `0x7f000001`.
    pub(crate) fn read(text: &str) -> Result<Self, HostError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            // Brackets are for version 6.
            return if bare.len() == text.len() || address.is_ipv6() {
                Ok(Self::Address(address.to_canonical()))
            } else {
                Err(HostError::NoName(text.to_owned()))
            };
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if !name.is_ascii() {
            return Err(HostError::NotAscii(text.to_owned()));
        }
        let is_label = |label: &str| {
            !label.is_empty()
                && label.len() <= MAX_LABEL
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() > MAX_NAME || !name.split('.').all(is_label) {
            return Err(HostError::NoName(text.to_owned()));
        }
        // No top level domain is a number, but some resolvers take such names for addresses.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_hex = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostError::Number(text.to_owned()));
        }
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
            Self::Address(address) => write!(out, "{address}"),
        }
    }
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        match text {
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            "*" => return Err(WordError::Star),
            _ => {}
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(WordError::Url(format!("{scheme}://")));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Rule(Rule { hosts: whole(text, net)?, port: None }));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self::Rule(Rule { hosts: hosts(text)?, port: None }));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                let number = port.parse::<u16>().ok().filter(|number| *number != 0);
                (host, Some(number.ok_or_else(|| WordError::Port(port.to_owned()))?))
            }
            _ => (text, None),
        };
        let net = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse::<IpNet>();
        let hosts = net.map_or_else(|_| hosts(host), |net| whole(host, net))?;
        Ok(Self::Rule(Rule { hosts, port }))
    }
}

fn whole(text: &str, net: IpNet) -> Result<Hosts, WordError> {
    if net.trunc() == net { Ok(Hosts::Addresses(net)) } else { Err(WordError::Prefix(text.to_owned(), net.trunc())) }
}

fn hosts(text: &str) -> Result<Hosts, WordError> {
    if let Some(below) = text.strip_prefix("*.") {
        return match Host::read(below)? {
            Host::Name(name) => Ok(Hosts::Below(format!(".{name}"))),
            Host::Address(_) => Err(HostError::NoName(text.to_owned()).into()),
        };
    }
    Ok(match Host::read(text)? {
        Host::Name(name) => Hosts::Name(name),
        Host::Address(address) => Hosts::Addresses(address.into()),
    })
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Name(name) => out.write_str(name)?,
            Hosts::Below(name) => write!(out, "*{name}")?,
            Hosts::Addresses(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(out, "{}", Host::Address(net.addr()))?;
            }
            Hosts::Addresses(net) => write!(out, "{net}")?,
        }
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

impl Rule {
    fn names(&self, host: &Host, port: u16) -> bool {
        let is_meant = match (&self.hosts, host) {
            (Hosts::Name(name), Host::Name(asked)) => name == asked,
            (Hosts::Below(end), Host::Name(asked)) => asked.ends_with(end) && asked.len() > end.len(),
            (Hosts::Addresses(net), Host::Address(asked)) => net.contains(asked),
            _ => false,
        };
        is_meant && self.port.is_none_or(|own| own == port)
    }
}

impl Network {
    /// The list of an option.
    ///
    /// # Errors
    /// When `none` is not alone.
    pub(crate) fn of(words: Vec<Word>) -> Result<Self, WordError> {
        if words.len() > 1 && words.contains(&Word::None) {
            return Err(WordError::NotAlone);
        }
        let mut network = Self::default();
        for word in words {
            match word {
                Word::None => {}
                Word::All => network.all = true,
                Word::Rule(rule) => network.rules.push(rule),
            }
        }
        Ok(network)
    }

    /// Nothing may be reached.
    #[must_use]
    pub(crate) fn is_none(&self) -> bool {
        !self.all && self.rules.is_empty()
    }

    /// Whether a session may ask for this host. Where a name leads is another question: [`Network::lists`].
    #[must_use]
    pub(crate) fn allows(&self, host: &Host, port: u16) -> bool {
        self.all || self.names(host, port)
    }

    /// Whether this very address is in the list, so that it may be one that is not public.
    #[must_use]
    pub(crate) fn lists(&self, address: IpAddr, port: u16) -> bool {
        self.names(&Host::Address(address.to_canonical()), port)
    }

    /// Whether this host is in the list by itself.
    #[must_use]
    pub(crate) fn names(&self, host: &Host, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.names(host, port))
    }

    /// As it is told to clients.
    #[must_use]
    pub(crate) fn words(&self) -> Vec<String> {
        let all = self.all.then(|| "all".to_owned());
        all.into_iter().chain(self.rules.iter().map(ToString::to_string)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(list: &str) -> Network {
        let words = list.split(',').map(|word| word.parse().expect("a word")).collect();
        Network::of(words).expect("a list")
    }

    fn host(text: &str) -> Host {
        Host::read(text).expect("a host")
    }

    #[test]
    fn a_host_is_allowed_by_name_by_end_and_by_address() {
        let some = network("PyPI.org,*.example.org:443,10.0.0.0/8,[fd00::1]:80,localhost:8080,192.0.2.7");
        for (asked, port, expected) in [
            ("pypi.org", 1, true),
            ("pypi.org.", 443, true),
            ("PYPI.ORG", 443, true),
            ("pypi.org.evil.test", 443, false),
            ("evilpypi.org", 443, false),
            ("a.example.org", 443, true),
            ("b.a.example.org", 443, true),
            ("a.example.org", 80, false),
            ("example.org", 443, false),
            ("10.255.0.1", 22, true),
            ("::ffff:10.1.1.1", 22, true),
            ("11.0.0.1", 22, false),
            ("fd00::1", 80, true),
            ("[fd00::1]", 81, false),
            ("localhost", 8080, true),
            ("localhost", 8081, false),
            ("192.0.2.7", 5, true),
        ] {
            assert_eq!(some.allows(&host(asked), port), expected, "{asked}:{port}");
        }
        assert!(network("all").allows(&host("any.test"), 1) && !network("all").lists([10, 0, 0, 1].into(), 1));
        assert!(network("none").is_none() && !network("all").is_none());
        let told = ["pypi.org", "*.example.org:443", "10.0.0.0/8", "[fd00::1]:80", "localhost:8080", "192.0.2.7"];
        assert_eq!(some.words(), told);
    }

    #[test]
    fn what_is_no_host_is_refused_and_so_are_addresses_in_disguise() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "a b",
            "a@b",
            "a/b",
            "127.1",
            "2130706433",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "1.2.3.4.",
            "1.2.3.256",
            "[1.2.3.4]",
            "fe80::1%eth0",
            "bücher.example",
            "a\u{0}b",
            "a:b",
            "[::1",
            "0x",
        ] {
            assert!(Host::read(text).is_err(), "{text:?}: {:?}", Host::read(text));
        }
        assert!(Host::read(&format!("{}.test", "a".repeat(64))).is_err());
        assert!(Host::read(&"a.".repeat(140)).is_err());
        assert_eq!(host("::ffff:127.0.0.1"), Host::Address([127, 0, 0, 1].into()));
        assert_eq!(host("_srv.xn--bcher-kva.example"), Host::Name("_srv.xn--bcher-kva.example".to_owned()));
    }

    #[test]
    fn words_that_mean_nothing_say_why() {
        for (text, expected) in [
            ("https://pypi.org", "without \"https://\""),
            ("pypi.org:0", "no port"),
            ("pypi.org:65536", "no port"),
            ("pypi.org:", "no port"),
            ("pypi.org:https", "no port"),
            ("*", "\"all\""),
            ("*.10.0.0.1", "no host name"),
            ("*pypi.org", "no host name"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("127.1", "in full"),
            ("", "no host name"),
        ] {
            let error = text.parse::<Word>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let together = vec![Word::None, Word::All];
        assert_eq!(Network::of(together), Err(WordError::NotAlone));
    }
}
