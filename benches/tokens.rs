//! What it costs to know who calls: `ping` over HTTP by connections that stay, in turn: `cargo bench --bench tokens`.
//!
//! | row | is |
//! |---|---|
//! | nobody | no token is asked for |
//! | owner | a token of `--tokens`, among a hundred owners |
//! | RS256, ES256, EdDSA | an access token of an issuer (`--oauth-issuer`), signed so |

mod client;
#[path = "../tests/it/support/issuer.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod issuer;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Instant};

use client::{
    http::{Connection, Server},
    program, row, say,
};
use issuer::{AUDIENCE, Issuer, Signer};
use serde_json::json;

const ROUNDS: usize = 3000;
const OWNERS: usize = 100;

fn main() {
    let folder = tempfile::tempdir().expect("a directory");
    let place = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("made");
        path
    };
    let (file, token) = owners(folder.path());
    let issuer = Issuer::start(false);
    let signers = [("RS256", Signer::rsa("r")), ("ES256", Signer::curve("c")), ("EdDSA", Signer::edwards("e"))];
    issuer.publish(&signers.each_ref().map(|(_, signer)| signer));
    let open = Server::start(&place("open"), &[]);
    let known = Server::start(&place("known"), &["--tokens", &file]);
    let trusting = Server::start(&place("trusting"), &["--oauth-issuer", &issuer.url, "--oauth-audience", AUDIENCE]);
    let mut clients =
        vec![("nobody", Connection::open(&open, None)), ("owner", Connection::open(&known, Some(&token)))];
    for (name, signer) in &signers {
        let token = issuer.token(signer, "ann", "cells:run");
        clients.push((name, Connection::open(&trusting, Some(&token))));
    }
    let mut times = vec![Vec::with_capacity(ROUNDS); clients.len()];
    // The first hundred warm up.
    for round in 0..ROUNDS + 100 {
        for ((_, client), times) in clients.iter_mut().zip(&mut times) {
            let began = Instant::now();
            client.call("ping", &json!({}));
            if round >= 100 {
                times.push(began.elapsed());
            }
        }
    }
    say(&format!("{:<22} {:>10} {:>10} {:>10}", "microseconds", "p50", "p90", "p99"));
    for ((name, _), times) in clients.iter().zip(times) {
        row(name, times);
    }
}

/// A file of owners, and the token of the last one.
fn owners(folder: &Path) -> (String, String) {
    let path = folder.join("tokens.toml");
    fs::write(&path, "").and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600))).expect("written");
    let file = path.to_str().expect("UTF-8").to_owned();
    let mut token = String::new();
    for owner in 0..OWNERS {
        let mut command = Command::new(program());
        let made = command.args(["token", "new", &format!("owner-{owner}"), "--tokens", &file]).output();
        token = String::from_utf8(made.expect("the binary starts").stdout).expect("UTF-8").trim().to_owned();
    }
    (file, token)
}
