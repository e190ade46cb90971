//! A file that is sealed with a passphrase: the format of `age` (age-encryption.org/v1) with its scrypt recipient, so that
//! `age --decrypt` opens it too.
//!
//! Runs in: `forkpy sessions`, a process of its own. Knows bytes. The key of the file is wrapped by scrypt of the passphrase; the
//! file is ChaCha20-Poly1305 in pieces of 64 KiB, of which none is given out before its seal is found to be right. A piece has its
//! number and whether it is the last one, so that none can be left out, moved or cut off.

use std::io::{self, BufRead, Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, aead::Aead};
use hmac::{Hmac, Mac};
use sha2::Sha256;

const VERSION: &str = "age-encryption.org/v1";
const KIND: &str = "age-encryption.org/";
const LABEL: &[u8] = b"age-encryption.org/v1/scrypt";
/// Logarithm of the work that a try of a passphrase takes: 128 MiB of memory, and some tenths of a second.
pub(super) const WORK: u8 = if cfg!(test) { 8 } else { 17 };
/// The same for a passphrase that is a key of 256 bits, which none can guess.
pub(super) const FOR_KEYS: u8 = 10;
/// A file that asks for more is refused: it would take gigabytes.
const MOST_WORK: u8 = 21;
const PIECE: usize = 64 << 10;
const SEAL: usize = 16;
const FILE_KEY: usize = 16;
/// No line of a header is longer.
const LONGEST_LINE: u64 = 256;

/// Why there is nothing to be had of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("it is no file of `forkpy sessions export`")]
    Another,
    #[error("it is sealed with a key, and not with a passphrase")]
    WithKey,
    #[error("trying a passphrase takes too much work (2^{0})")]
    Work(u8),
    #[error("the passphrase is wrong")]
    Passphrase,
    #[error("it was changed or cut short")]
    Damaged,
    #[error("it cannot be read: {0}")]
    Read(io::Error),
}

impl From<io::Error> for Closed {
    /// What comes out of a reader of ours, or of the file below it.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Damaged,
            Err(error) => Self::Read(error),
        }
    }
}

/// Seals what is written to it. It is whole when it was finished.
pub(super) struct Sealer<W: Write> {
    to: W,
    pieces: Pieces,
    piece: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    pub(super) fn begin(
        mut to: W,
        (passphrase, work): (&str, u8),
        random: impl Fn() -> io::Result<[u8; 16]>,
    ) -> io::Result<Self> {
        let (file_key, salt, nonce): ([u8; FILE_KEY], _, _) = (random()?, random()?, random()?);
        let wrapped = ChaCha20Poly1305::new(&wrapping(passphrase, &salt, work)?);
        let wrapped = wrapped.encrypt(&Nonce::default(), file_key.as_slice()).map_err(io::Error::other)?;
        let header = format!("{VERSION}\n-> scrypt {} {work}\n{}\n---", BASE64.encode(salt), BASE64.encode(wrapped));
        let seal = mac(&derived(&file_key, &[], b"header"), &[header.as_bytes()]);
        writeln!(to, "{header} {}", BASE64.encode(seal))?;
        to.write_all(&nonce)?;
        Ok(Self { to, pieces: Pieces::new(&file_key, &nonce), piece: Vec::with_capacity(PIECE) })
    }

    /// Writes the last piece.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn put(&mut self, is_last: bool) -> io::Result<()> {
        let (cipher, nonce) = self.pieces.next(is_last);
        let sealed = cipher.encrypt(&nonce, self.piece.as_slice()).map_err(io::Error::other)?;
        self.piece.clear();
        self.to.write_all(&sealed)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One that is full may be the last.
        if self.piece.len() == PIECE && !bytes.is_empty() {
            self.put(false)?;
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives out what lies in a sealed file.
pub(super) struct Opener<R: BufRead> {
    from: R,
    pieces: Pieces,
    plain: Vec<u8>,
    at: usize,
    over: bool,
}

impl<R: BufRead> Opener<R> {
    pub(super) fn begin(mut from: R, passphrase: &str) -> Result<Self, Closed> {
        let mut header = String::new();
        let version = line(&mut from, &mut header)?;
        if version != VERSION {
            return Err(if version.starts_with(KIND) { Closed::WithKey } else { Closed::Another });
        }
        let stanza = line(&mut from, &mut header)?;
        let Some((salt, work)) = stanza.strip_prefix("-> scrypt ").and_then(|rest| rest.split_once(' ')) else {
            return Err(Closed::WithKey);
        };
        let work: u8 = work.parse().map_err(|_| Closed::Damaged)?;
        if work > MOST_WORK {
            return Err(Closed::Work(work));
        }
        let (salt, wrapped) = (plain(salt)?, plain(&line(&mut from, &mut header)?)?);
        let end = line(&mut from, &mut header)?;
        let seal = plain(end.strip_prefix("--- ").ok_or(Closed::Damaged)?)?;
        let wrapping = ChaCha20Poly1305::new(&wrapping(passphrase, &salt, work)?);
        let file_key = wrapping.decrypt(&Nonce::default(), wrapped.as_slice()).map_err(|_| Closed::Passphrase)?;
        let sealed = &header[..header.len() - (end.len() - "---".len()) - "\n".len()];
        let right = mac(&derived(&file_key, &[], b"header"), &[sealed.as_bytes()]);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(right.as_slice(), seal.as_slice())) {
            return Err(Closed::Damaged);
        }
        let mut nonce = [0; 16];
        from.read_exact(&mut nonce)?;
        Ok(Self { from, pieces: Pieces::new(&file_key, &nonce), plain: Vec::new(), at: 0, over: false })
    }

    fn open_next(&mut self) -> io::Result<()> {
        let damaged = || io::Error::other(Closed::Damaged);
        let mut sealed = Vec::with_capacity(PIECE + SEAL);
        (&mut self.from).take((PIECE + SEAL) as u64).read_to_end(&mut sealed)?;
        let is_last = self.from.fill_buf()?.is_empty();
        let is_first = self.pieces.count == 0;
        let (cipher, nonce) = self.pieces.next(is_last);
        self.plain = cipher.decrypt(&nonce, sealed.as_slice()).map_err(|_| damaged())?;
        if self.plain.is_empty() && !is_first {
            return Err(damaged());
        }
        (self.at, self.over) = (0, is_last);
        Ok(())
    }
}

impl<R: BufRead> Read for Opener<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.plain.len() && !self.over {
            self.open_next()?;
        }
        let count = bytes.len().min(self.plain.len() - self.at);
        bytes[..count].copy_from_slice(&self.plain[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// The cipher of a file's pieces, and the number of the next one.
struct Pieces {
    cipher: ChaCha20Poly1305,
    count: u64,
}

impl Pieces {
    fn new(file_key: &[u8], nonce: &[u8]) -> Self {
        Self { cipher: ChaCha20Poly1305::new(&Key::from(derived(file_key, nonce, b"payload"))), count: 0 }
    }

    /// The number, in eleven bytes, and whether it is the last one.
    fn next(&mut self, is_last: bool) -> (&ChaCha20Poly1305, Nonce) {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.count.to_be_bytes());
        nonce[11] = u8::from(is_last);
        self.count += 1;
        (&self.cipher, Nonce::from(nonce))
    }
}

/// A line of the header, without its end; the whole is added to `header`.
fn line(from: &mut impl BufRead, header: &mut String) -> Result<String, Closed> {
    let mut bytes = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| Closed::Another)?;
    let line = text.strip_suffix('\n').ok_or(Closed::Another)?.to_owned();
    header.push_str(&text);
    Ok(line)
}

fn plain(text: &str) -> Result<Vec<u8>, Closed> {
    BASE64.decode(text).map_err(|_| Closed::Damaged)
}

fn wrapping(passphrase: &str, salt: &[u8], work: u8) -> io::Result<Key> {
    let cost = scrypt::Params::new(work, 8, 1).map_err(io::Error::other)?;
    let mut key = [0; 32];
    scrypt::scrypt(passphrase.as_bytes(), &[LABEL, salt].concat(), &cost, &mut key).map_err(io::Error::other)?;
    Ok(Key::from(key))
}

/// HKDF with SHA-256, for as many bytes as that has.
fn derived(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; 32] {
    mac(&mac(salt, &[secret]), &[info, &[1]])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("a key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl Fn() -> io::Result<[u8; 16]> {
        let next = std::cell::Cell::new(0);
        move || Ok([next.replace(next.get() + 1); 16])
    }

    fn sealed(text: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::begin(Vec::new(), ("a passphrase", WORK), counting()).expect("begun");
        sealer.write_all(text).expect("written");
        sealer.finish().expect("finished")
    }

    fn opened(file: &[u8], passphrase: &str) -> Result<Vec<u8>, Closed> {
        let mut text = Vec::new();
        Opener::begin(file, passphrase)?.read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn what_was_sealed_is_opened_whatever_its_length_and_only_with_the_passphrase() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let text: Vec<u8> = (0..length).map(|place| u8::try_from(place % 251).expect("small")).collect();
            let file = sealed(&text);
            assert!(opened(&file, "a passphrase").expect("right") == text, "{length} bytes");
            if length == 1 {
                assert!(matches!(opened(&file, "another"), Err(Closed::Passphrase)));
            }
        }
    }

    #[test]
    fn what_was_changed_cut_short_or_lengthened_is_refused() {
        let file = sealed(&vec![7; PIECE + 100]);
        let payload = file.len() - (PIECE + 100 + 2 * SEAL);
        for length in [0, 5, 60, payload - 3, payload, payload + PIECE + SEAL, file.len() - 1] {
            assert!(opened(&file[..length], "a passphrase").is_err(), "{length} bytes");
        }
        let is_damaged = |file: &[u8]| matches!(opened(file, "a passphrase"), Err(Closed::Damaged));
        assert!(is_damaged(&[file.as_slice(), b"x"].concat()), "one byte more");
        for place in [payload - 20, payload - 1, payload, payload + 500, file.len() - 1] {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(is_damaged(&changed), "byte {place}");
        }
        assert!(matches!(opened(b"\x7fELF and more\n", "a passphrase"), Err(Closed::Another)));
    }

    #[test]
    fn a_file_of_age_itself_is_opened() {
        // Written by pyrage, which is age's own library for Rust.
        let file = BASE64.decode(FROM_AGE).expect("base64");
        assert_eq!(opened(&file, "correct horse").expect("right"), b"from age");
    }

    const FROM_AGE: &str = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBTeXpYYzJZanowRDZjN2tMVzhkMFNnIDE4CnBPM04zRDlLeG1I\
        VG1FZncvSnVqMGNMWElvV1R6SzNHWC9XUktXYWEwNDgKLS0tIHZqd1FzSyt3bG1kYi9RSTdaTytIWTdNcHpYVzZ3eDVmRno4SWk4N25idzAKPVjSB2g5Y\
        H4pqH8gyMcpX+yC5GZ7x9Sqk9qlrwjdbJlBI+1l5j/esg";
}
