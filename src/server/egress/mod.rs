//! The way out of a sandbox: an HTTP proxy on the loopback address, the only thing that confined sessions reach.
//!
//! Runs in: server. The map of this room:
//!
//! - `callers`: which connections are sessions' own, as their doors tell; all others are closed unheard.
//! - `gate`: whether a host may be reached, where its name leads, and the connection to the very address that was checked.
//! - `public`: which addresses are public.
//! - `refusal`: why not, and the option that would allow it.
//! - `proxy`: HTTP: tunnels (CONNECT) and plain requests.
//! - `secrets`: plain requests to the proxy's own address, to which it adds a secret.
//!
//! What is allowed is said in `settings/network.rs`.

pub(crate) mod callers;
mod gate;
pub(crate) mod proxy;
mod public;
mod refusal;
mod secrets;
