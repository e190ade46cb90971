//! Access tokens of an issuer (OAuth 2.1): whether one is good, whose it is, and what it is for.
//!
//! Runs in: server. Knows no request: what is told to a client is `mcp/http`'s.
//!
//! - [`issuer`]: the issuer as this server knows it: its keys, how long they count, tokens seen before.
//! - `token`: one token against a set of keys. Pure.
//! - `signatures`: signatures, by ring.
//! - `published`: what an issuer publishes: its metadata and its keys, over HTTP.

pub(crate) mod issuer;
mod published;
mod signatures;
mod token;

pub(crate) use self::token::Denied;
