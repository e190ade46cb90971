//! Whether a host may be reached, and the connection to it.
//!
//! Runs in: server. Owns the order in which this is safe: a name that is not allowed is never looked up, so that nothing gets
//! out in the question; it is looked up once; each address is checked; the connection goes to an address that was checked.
//! Who answers another address to the next question (DNS rebinding) changes nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{callers::Kind, public::is_public, refusal::Refusal};
use crate::{
    settings::network::{Host, Network},
    sys::fault,
};

/// How long a name may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(20);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(20);
/// Means this machine, wherever it is asked (RFC 6761).
const LOCAL: &str = "localhost";

/// Where a request wants to go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub host: Host,
    pub port: u16,
}

#[derive(Debug)]
pub(super) struct Gate {
    network: Network,
    /// Hosts of the indexes that the server's own settings name: what installs reaches them, wherever they are.
    indexes: Mutex<Vec<(Host, u16)>>,
    /// Ports of this machine at which this server itself answers.
    own: Mutex<Vec<u16>>,
}

impl Target {
    /// Reads `HOST:PORT`; `port` is meant where none is said.
    ///
    /// # Errors
    /// [`Refusal`] when it is something else, a user's name and password before it for example.
    pub(super) fn read(authority: &str, port: Option<u16>) -> Result<Self, Refusal> {
        if authority.contains('@') {
            return Err(Refusal::Address("there is a user's name in it"));
        }
        let (host, said) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let port = match said {
            None => port.ok_or(Refusal::Address("there is no port in it"))?,
            Some(text) => number(text).filter(|port| *port != 0).ok_or(Refusal::Address("its port is none"))?,
        };
        Ok(Self { host: Host::read(host)?, port })
    }
}

impl Gate {
    #[must_use]
    pub(super) fn of(network: Network) -> Self {
        Self { network, indexes: Mutex::default(), own: Mutex::default() }
    }

    /// A port of this machine that is not reached, whatever is allowed.
    pub(super) fn keep_from(&self, port: u16) {
        self.own.lock().push(port);
    }

    /// What installs may reach beside what sessions may.
    pub(super) fn set_indexes(&self, hosts: Vec<(Host, u16)>) {
        *self.indexes.lock() = hosts;
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Refusal`], before anything left this machine if the host is not allowed.
    pub(super) async fn open(&self, target: &Target, kind: Kind) -> Result<TcpStream, Refusal> {
        let is_index = kind == Kind::Installer && self.indexes.lock().contains(&(target.host.clone(), target.port));
        self.connect(target, self.checked(target, is_index).await?).await
    }

    /// Connects to a host that the server's own settings name, wherever it is.
    ///
    /// # Errors
    /// [`Refusal`] when it cannot be reached.
    pub(super) async fn open_named(&self, target: &Target) -> Result<TcpStream, Refusal> {
        self.connect(target, self.checked(target, true).await?).await
    }

    async fn connect(&self, target: &Target, addresses: Vec<IpAddr>) -> Result<TcpStream, Refusal> {
        let Target { host, port } = target.clone();
        let mut failed = None;
        for address in addresses {
            match connect(SocketAddr::new(address, port)).await {
                Ok(stream) if self.is_ours(&stream) => return Err(Refusal::Server { host, port }),
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        let source = failed.unwrap_or_else(|| io::Error::other("it has no address"));
        Err(Refusal::Unreachable { host, port, source })
    }

    /// Addresses that may be connected to; of a host that is named in the server's settings, all.
    async fn checked(&self, target: &Target, is_named: bool) -> Result<Vec<IpAddr>, Refusal> {
        let Target { host, port } = target.clone();
        if !is_named && !self.network.allows(&host, port) {
            return Err(Refusal::NotListed { host, port });
        }
        let found = match &host {
            Host::Address(address) => vec![*address],
            Host::Name(name) if name == LOCAL => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Host::Name(name) => look_up(name).await.map_err(|error| Refusal::Unresolved(host.clone(), error))?,
        };
        // Who lists the name of this machine means this machine.
        let is_local = host == Host::Name(LOCAL.to_owned()) && self.network.names(&host, port);
        let may = |address: &IpAddr| is_named || is_local || is_public(*address) || self.network.lists(*address, port);
        match found.iter().copied().filter(may).collect::<Vec<_>>() {
            checked if checked.is_empty() => match found.first() {
                Some(address) => Err(Refusal::Private { host, port, address: *address }),
                None => Err(Refusal::Unresolved(host, io::Error::other("it has no address"))),
            },
            checked => Ok(checked),
        }
    }

    /// Whether this leads back to this server. An address of the own machine is the one from which it is reached.
    fn is_ours(&self, stream: &TcpStream) -> bool {
        let (Ok(from), Ok(to)) = (stream.local_addr(), stream.peer_addr()) else { return false };
        let is_here = from.ip() == to.ip() || to.ip().is_loopback();
        is_here && self.own.lock().contains(&to.port())
    }
}

/// Where a name leads, once; canonical and each once.
async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    if let Some(told) = fault::addresses(name) {
        return Ok(told);
    }
    let found = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((name, 0))).await.map_err(io::Error::from)??;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip().to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await.map_err(io::Error::from)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(list: &[&str]) -> Gate {
        Gate::of(Network::of(list.iter().map(|word| word.parse().expect("a word")).collect()).expect("a list"))
    }

    async fn asked(list: &[&str], target: &str) -> Result<Vec<IpAddr>, String> {
        let target = Target::read(target, None).map_err(|error| error.to_string())?;
        gate(list).checked(&target, false).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_address_that_is_not_public_has_to_be_listed_itself() {
        for (target, flag) in [
            ("127.0.0.1:80", "--allow-net 127.0.0.1:80"),
            ("[::1]:80", "--allow-net [::1]:80"),
            ("[::ffff:169.254.169.254]:80", "--allow-net 169.254.169.254:80"),
            ("localhost:80", "--allow-net localhost:80,127.0.0.1:80"),
        ] {
            let refused = asked(&["all"], target).await.expect_err(target);
            assert!(refused.contains("no public address") && refused.contains(flag), "{target}: {refused}");
            assert!(asked(&["1.1.1.1"], target).await.expect_err(target).contains("is not allowed"));
        }
        assert_eq!(asked(&["10.0.0.0/8"], "10.2.3.4:5").await, Ok(vec![[10, 2, 3, 4].into()]));
        assert_eq!(asked(&["all"], "1.1.1.1:5").await, Ok(vec![[1, 1, 1, 1].into()]));
        assert_eq!(asked(&["localhost:80"], "localhost.:80").await.map(|found| found.len()), Ok(2));
        let refused = asked(&["localhost:80"], "localhost:81").await.expect_err("another port");
        assert!(refused.contains("--allow-net localhost:81"), "{refused}");
    }

    #[test]
    fn an_address_with_more_or_less_in_it_than_host_and_port_is_none() {
        for text in [
            "a@b.test:80",
            "b.test",
            "b.test:",
            "b.test:0",
            "b.test:65536",
            "b.test:+80",
            "b.test:80a",
            "b.test: 80",
            ":80",
            "b.test:80:80",
            "::1:80",
            "[::1]",
            "[::1]:",
            "[fe80::1%25eth0]:80",
            "0x7f.1:80",
            "017700000001:80",
        ] {
            // Without brackets the last number is taken for the port, which leaves an address that is one.
            let read = Target::read(text, None);
            assert!(read.is_err() || text == "::1:80", "{text}: {read:?}");
        }
    }
}
