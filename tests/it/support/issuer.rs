//! An issuer of access tokens on loopback: publishes its metadata and keys, signs tokens, and can be down.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Key and certificate of `localhost`, by [`AUTHORITY`].
const CERTIFICATE: &str = include_str!("../egress/origin.pem");
/// Whom a server has to trust that comes by https.
pub const AUTHORITY: &str = include_str!("../egress/authority.pem");
/// Of no other use.
const RSA: &str = include_str!("issuer.pem");
pub const AUDIENCE: &str = "http://127.0.0.1:1/mcp";

/// What it publishes, and what it was asked.
#[derive(Default)]
struct State {
    keys: Vec<Value>,
    is_down: bool,
    asked: Vec<String>,
}

pub struct Issuer {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// A pair of keys, and its name among the issuer's.
pub struct Signer {
    name: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Curve(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Issuer {
    /// On a free port; down, where it is to come up later.
    pub fn start(is_down: bool) -> Self {
        Self::behind("http://127.0.0.1", is_down, answer)
    }

    /// By https.
    pub fn start_secure() -> Self {
        let chain = CertificateDer::pem_slice_iter(CERTIFICATE.as_bytes()).map(|part| part.expect("a certificate"));
        let key = PrivateKeyDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .expect("of one pair");
        let config = Arc::new(config);
        Self::behind("https://localhost", false, move |stream, own, shared| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a configuration");
            let mut stream = StreamOwned::new(connection, stream);
            answer(&mut stream, own, shared)?;
            stream.conn.send_close_notify();
            stream.flush()
        })
    }

    fn behind(
        host: &str,
        is_down: bool,
        answer: impl Fn(TcpStream, &str, &Mutex<State>) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // With a path, so that the places of documents differ.
        let url = format!("{host}:{}/realm", listener.local_addr().expect("bound").port());
        let state = Arc::new(Mutex::new(State { is_down, ..State::default() }));
        let (own, shared) = (url.clone(), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &own, &shared);
            }
        });
        Self { url, state }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it publishes these keys.
    pub fn publish(&self, signers: &[&Signer]) {
        self.state().keys = signers.iter().map(|signer| signer.public()).collect();
    }

    /// Whether it breaks off every connection.
    pub fn down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.state().asked.iter().filter(|path| path.contains("keys")).count()
    }

    /// The claims of a good token.
    pub fn claims(&self, subject: &str, scope: &str) -> Value {
        let now = now();
        json!({"iss": self.url, "aud": AUDIENCE, "sub": subject, "scope": scope, "iat": now, "exp": now + 600})
    }

    pub fn token(&self, signer: &Signer, subject: &str, scope: &str) -> String {
        signer.sign(&self.claims(subject, scope))
    }
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_secs()).expect("a time")
}

/// The metadata is only at the last of the places where it may be.
fn answer(mut stream: impl Read + Write, url: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut stream);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.is_down {
        return Ok(());
    }
    state.asked.push(path.clone());
    let (status, body) = match &*path {
        "/realm/.well-known/openid-configuration" => {
            ("200 OK", json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "more": [1]}))
        }
        // Of kinds that forkpy does not know there may be some.
        "/realm/keys" => {
            let unknown = [json!({"kty": "AKP", "kid": "x"}), json!({"kty": "RSA", "kid": 7}), json!("nonsense")];
            let keys = [&unknown[..], &state.keys[..]].concat();
            ("200 OK", json!({ "keys": keys }))
        }
        _ => ("404 Not Found", json!({})),
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())
}

impl Signer {
    pub fn rsa(name: &str) -> Self {
        let text: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(text).expect("base64")).expect("a key");
        Self { name: name.to_owned(), pair: Pair::Rsa(pair) }
    }

    pub fn curve(name: &str) -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).expect("a key");
        Self { name: name.to_owned(), pair: Pair::Curve(pair) }
    }

    pub fn edwards(name: &str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key");
        Self { name: name.to_owned(), pair: Pair::Edwards(pair) }
    }

    /// As issuers publish it.
    pub fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": self.name, "use": "sig", "n": text(&n), "e": text(&e)})
            }
            Pair::Curve(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "kid": self.name, "crv": "P-256", "alg": "ES256", "x": text(x), "y": text(y)})
            }
            Pair::Edwards(pair) => {
                json!({"kty": "OKP", "kid": self.name, "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// The usual way of this key.
    pub fn sign(&self, claims: &Value) -> String {
        let algorithm = match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Curve(_) => "ES256",
            Pair::Edwards(_) => "EdDSA",
        };
        self.sign_as(&json!({"alg": algorithm, "kid": self.name, "typ": "at+jwt"}), claims)
    }

    /// With any header; where it names an algorithm that this key has not got, the signature is as if it did.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let (random, bytes) = (SystemRandom::new(), message.as_bytes());
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let done = if header["alg"] == "PS512" {
                    pair.sign(&RSA_PSS_SHA512, &random, bytes, &mut signature)
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature)
                };
                done.expect("signed");
                signature
            }
            Pair::Curve(pair) => pair.sign(&random, bytes).expect("signed").as_ref().to_vec(),
            Pair::Edwards(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What those can make who only know what is published.
pub fn with_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

pub fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}
