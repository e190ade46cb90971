//! One access token against a set of keys: form, signature, who made it, for whom, until when, and what it is for.
//!
//! Runs in: server. Pure. The crate reads and verifies; what is stricter here is said at its place.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    dangerous::insecure_decode_claims,
    decode,
    errors::ErrorKind,
    get_current_timestamp,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use super::signatures;
use crate::server::scope::Scopes;

/// Seconds by which the issuer's clock and this machine's may differ.
pub(super) const SKEW: u64 = 60;
/// Longest name of a subject, in bytes: as OpenID Connect has it.
const MAX_SUBJECT: usize = 255;
/// What a token may say that it is. One for another purpose, of the same issuer, is none for this server.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// What a good token gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Granted {
    /// Whose it is, as its issuer names them.
    pub subject: Arc<str>,
    pub scopes: Scopes,
    /// Second of the epoch from which on it is not taken any more.
    pub(super) ends: u64,
}

/// Why a token lets no one in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the token is no JWT that this server can read: {0}")]
    Form(&'static str),
    #[error(
        "the token is signed by {0:?}, and this server takes RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
    )]
    Algorithm(String),
    #[error("the token is of type {0:?}, not an access token")]
    Type(String),
    #[error("the token's header demands extensions (crit) that this server does not know")]
    Critical,
    #[error("the token is signed with a key that its issuer does not publish")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token is not of the issuer that this server trusts")]
    Issuer,
    #[error("the token is for another audience than this server")]
    Audience,
    #[error(
        "the token expired {0} s ago: get a new one; if it is new, the issuer's clock and this machine's are apart"
    )]
    Expired(u64),
    #[error("the token counts in {0} s: the issuer's clock and this machine's are apart")]
    Early(u64),
    #[error("the token lacks {0:?}, or has something else there")]
    Claim(String),
    #[error("the token is bound to a key of its owner's (cnf), which this server cannot check")]
    Bound,
    /// It may be good.
    #[error("the issuer's keys cannot be had now: {0}")]
    Unreachable(String),
}

/// The header, read before the crate reads it: it cannot say which unknown algorithm a token names.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
    nbf: Option<f64>,
    sub: Option<String>,
    scope: Option<Words>,
    /// The same, as some issuers call it.
    scp: Option<Words>,
    cnf: Option<Value>,
}

/// Words with blanks between them, or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

impl Words {
    fn scopes(&self) -> Scopes {
        match self {
            Self::Text(text) => Scopes::named(text.split_ascii_whitespace()),
            Self::List(words) => Scopes::named(words.iter().map(String::as_str)),
        }
    }
}

/// A token of which only the header is known to be fit.
pub(super) struct Candidate<'a> {
    token: &'a str,
    algorithm: Algorithm,
    key: Option<String>,
}

impl<'a> Candidate<'a> {
    /// Looks at the header.
    ///
    /// # Errors
    /// [`Denied`].
    pub(super) fn read(token: &'a str) -> Result<Self, Denied> {
        let mut parts = token.split('.');
        let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Denied::Form("it has another number of parts"));
        };
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| Denied::Form("its header is not base64"))?;
        let head: Header = serde_json::from_slice(&head).map_err(|_| Denied::Form("its header is none"))?;
        let algorithm = head.alg.parse::<Algorithm>().ok().filter(|algorithm| signatures::is_taken(*algorithm));
        let algorithm = algorithm.ok_or_else(|| Denied::Algorithm(brief(&head.alg)))?;
        if head.crit.is_some() {
            return Err(Denied::Critical);
        }
        if let Some(other) = head.typ.filter(|typ| !TYPES.contains(&&*typ.to_ascii_lowercase())) {
            return Err(Denied::Type(brief(&other)));
        }
        Ok(Self { token, algorithm, key: head.kid })
    }

    /// Checks it with the keys of its issuer.
    ///
    /// # Errors
    /// [`Denied`]; [`Denied::Key`] when none of them could be its key.
    pub(super) fn check(&self, keys: &[Jwk], issuer: &str, audience: &str) -> Result<Granted, Denied> {
        let validation = self.validation(issuer, audience);
        let mut found = Err(Denied::Key);
        // Of one name there may be several while they are exchanged; without a name, each that fits may be it.
        for key in keys.iter().filter(|key| self.fits(key)) {
            let Ok(key) = DecodingKey::from_jwk(key) else { continue };
            found = self.check_with(&key, &validation);
            if found != Err(Denied::Signature) {
                break;
            }
        }
        found
    }

    fn validation(&self, issuer: &str, audience: &str) -> Validation {
        let mut validation = Validation::new(self.algorithm);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = SKEW;
        validation.validate_nbf = true;
        validation
    }

    /// A key is for one algorithm, whether it says which or not: a token does not choose how its key is used.
    fn fits(&self, key: &Jwk) -> bool {
        let common = &key.common;
        let of_that_kind = match &key.algorithm {
            AlgorithmParameters::RSA(_) => matches!(
                self.algorithm,
                Algorithm::RS256
                    | Algorithm::RS384
                    | Algorithm::RS512
                    | Algorithm::PS256
                    | Algorithm::PS384
                    | Algorithm::PS512
            ),
            AlgorithmParameters::EllipticCurve(curve) => matches!(
                (self.algorithm, &curve.curve),
                (Algorithm::ES256, EllipticCurve::P256) | (Algorithm::ES384, EllipticCurve::P384)
            ),
            AlgorithmParameters::OctetKeyPair(pair) => {
                self.algorithm == Algorithm::EdDSA && pair.curve == EllipticCurve::Ed25519
            }
            _ => false,
        };
        let is_named = self.key.is_none() || self.key == common.key_id;
        let is_for_signatures = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let algorithm = KeyAlgorithm::from(self.algorithm);
        is_named && of_that_kind && is_for_signatures && common.key_algorithm.is_none_or(|named| named == algorithm)
    }

    fn check_with(&self, key: &DecodingKey, validation: &Validation) -> Result<Granted, Denied> {
        let claims = match decode::<Claims>(self.token, key, validation) {
            Ok(token) => token.claims,
            Err(error) => return Err(self.denial(error.kind())),
        };
        // The crate knows no `iat`: a token made in an hour says that a clock is wrong.
        if let Some(early) = claims.iat.and_then(early) {
            return Err(Denied::Early(early));
        }
        if claims.cnf.is_some() {
            return Err(Denied::Bound);
        }
        let is_name = |sub: &String| (1..=MAX_SUBJECT).contains(&sub.len()) && !sub.contains(char::is_control);
        let lacks = |claim: &str| Denied::Claim(claim.to_owned());
        let subject = claims.sub.filter(is_name).ok_or_else(|| lacks("sub"))?;
        let ends = seconds(claims.exp.ok_or_else(|| lacks("exp"))?).saturating_add(SKEW);
        let scopes = claims.scope.as_ref().or(claims.scp.as_ref()).map(Words::scopes).unwrap_or_default();
        Ok(Granted { subject: subject.into(), scopes, ends })
    }

    /// What the crate says, in our words. Times are told where the signature was good.
    fn denial(&self, kind: &ErrorKind) -> Denied {
        let claims = || insecure_decode_claims::<Claims>(self.token).ok();
        match kind {
            ErrorKind::ExpiredSignature => {
                let ended = claims().and_then(|claims| claims.exp);
                Denied::Expired(ended.map_or(0, |ended| get_current_timestamp().saturating_sub(seconds(ended))))
            }
            ErrorKind::ImmatureSignature => {
                Denied::Early(claims().and_then(|claims| claims.nbf).and_then(early).unwrap_or(0))
            }
            ErrorKind::InvalidIssuer => Denied::Issuer,
            ErrorKind::InvalidAudience => Denied::Audience,
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                Denied::Claim(brief(claim))
            }
            ErrorKind::InvalidSignature
            | ErrorKind::InvalidAlgorithm
            | ErrorKind::UnsupportedAlgorithm
            | ErrorKind::InvalidRsaKey(_)
            | ErrorKind::InvalidEcdsaKey => Denied::Signature,
            ErrorKind::Json(_) => Denied::Form("its claims are not as they should be"),
            _ => Denied::Form("it cannot be read"),
        }
    }
}

/// By how many seconds a time is ahead of what clocks may differ by.
fn early(when: f64) -> Option<u64> {
    let ahead = seconds(when).saturating_sub(get_current_timestamp());
    (ahead > SKEW).then_some(ahead)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it ends at the ends of the type")]
fn seconds(time: f64) -> u64 {
    time as u64
}

/// Words of a stranger, for words of ours: short, and nothing that breaks a header.
fn brief(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic() && !matches!(letter, '"' | '\\')).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Option<Denied> {
        let token = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(text));
        Candidate::read(&token).err()
    }

    #[test]
    fn a_header_is_fit_or_says_why_not() {
        assert_eq!(header(r#"{"alg":"RS256"}"#), None);
        assert_eq!(header(r#"{"alg":"EdDSA","typ":"at+JWT","kid":"a"}"#), None);
        for name in ["none", "None", "HS256", "HS384", "HS512", "ES512", "RS1", "A256GCM", ""] {
            assert_eq!(header(&format!(r#"{{"alg":"{name}"}}"#)), Some(Denied::Algorithm(name.to_owned())));
        }
        assert_eq!(header(r#"{"alg":"RS256","crit":["b64"]}"#), Some(Denied::Critical));
        assert_eq!(header(r#"{"alg":"RS256","typ":"logout+jwt"}"#), Some(Denied::Type("logout+jwt".to_owned())));
        assert!(matches!(header("{}"), Some(Denied::Form(_))));
        assert!(matches!(header("[]"), Some(Denied::Form(_))));
        for text in ["", "a", "a.b", "a.b.c.d", "...", "..", "é.é.é", "a.b.c"] {
            assert!(matches!(Candidate::read(text).err(), Some(Denied::Form(_))), "{text:?}");
        }
        assert_eq!(brief("a\"b\\c\r\nd é"), "abcd");
    }

    #[test]
    fn a_key_is_used_as_it_is_meant() {
        let of = |algorithm: &str, key: Value| {
            let token = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","kid":"a"}}"#)));
            let key: Jwk = serde_json::from_value(key).expect("a key");
            Candidate::read(&token).map(|candidate| candidate.fits(&key)).expect("a header")
        };
        let rsa = serde_json::json!({"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"});
        let with = |name: &str, value: &str| {
            let mut key = rsa.clone();
            key[name] = serde_json::from_str(value).expect("JSON");
            key
        };
        assert!(of("RS256", rsa.clone()) && of("PS512", rsa.clone()) && !of("ES256", rsa.clone()));
        assert!(of("RS256", with("use", "\"sig\"")) && !of("RS256", with("use", "\"enc\"")));
        assert!(of("RS256", with("key_ops", "[\"verify\"]")) && !of("RS256", with("key_ops", "[\"encrypt\"]")));
        assert!(of("RS256", with("alg", "\"RS256\"")) && !of("RS256", with("alg", "\"PS256\"")));
        assert!(!of("RS256", with("kid", "\"b\"")));
        let curve = serde_json::json!({"kty": "EC", "kid": "a", "crv": "P-384", "x": "AA", "y": "AA"});
        assert!(of("ES384", curve.clone()) && !of("ES256", curve));
        let secret = serde_json::json!({"kty": "oct", "kid": "a", "k": "AAAA"});
        assert!(!of("RS256", secret.clone()) && !of("EdDSA", secret));
    }
}
