//! The cluster's keys: at most three, one of them in use.
//!
//! A key is 32 random bytes, written as base64 on a line of its own. Its
//! [`KeyId`], a hash cut short, stands in every message and every log line; the
//! key itself is in neither, nor in any `Debug`, error or reply, and it is wiped
//! from memory that is given back. The first key of a ring is the one that
//! messages are sealed with; all of them open messages.
//!
//! There is no file here and no permission: see the daemon's `key_file`.

use std::fmt;
use std::str::FromStr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::KeyInit as _;
use overlay_model::{HostKeys, KeyId};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key.
const LENGTH: usize = 32;

/// Keeps the id from being a hash of the key that anything else might use.
const ID_CONTEXT: &[u8] = b"overlayd cluster key id v1\0";

/// One cluster key.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; LENGTH]>,
    id: KeyId,
}

/// The text is not a key. What it was is not repeated: it may be one, almost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no key; a key is 44 characters of base64 (make one with: overlayd keygen)")]
pub struct InvalidKey;

impl Key {
    /// A new random key.
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        getrandom::fill(bytes.as_mut_slice()).map_err(std::io::Error::other)?;
        Ok(Self::new(bytes))
    }

    fn new(bytes: Zeroizing<[u8; LENGTH]>) -> Self {
        let hash = Sha256::new().chain_update(ID_CONTEXT).chain_update(bytes.as_slice()).finalize();
        Self { bytes, id: KeyId([hash[0], hash[1], hash[2], hash[3]]) }
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The secret as it stands in a key file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.bytes.as_slice()))
    }

    pub(crate) fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.as_slice().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl PartialEq for Key {
    /// By the whole key; nothing that an outsider can time compares keys.
    fn eq(&self, other: &Self) -> bool {
        self.bytes.as_slice() == other.bytes.as_slice()
    }
}

impl Eq for Key {}

impl FromStr for Key {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let mut decoded = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| InvalidKey)?);
        let mut bytes = Zeroizing::new([0; LENGTH]);
        if decoded.len() != LENGTH {
            return Err(InvalidKey);
        }
        bytes.copy_from_slice(&decoded);
        decoded.zeroize();
        Ok(Self::new(bytes))
    }
}

/// Why keys make no ring, or a change of one was refused. The ring is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// A line is no key.
    #[error("line {line}: {err}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why.
        #[source]
        err: InvalidKey,
    },
    /// There is no key at all.
    #[error("it holds no key; make one with: overlayd keygen")]
    Empty,
    /// There are more than [`HostKeys::MAX`].
    #[error(
        "a host holds at most {} keys; remove one first: overlayctl key remove ID",
        HostKeys::MAX
    )]
    TooMany,
    /// The key, or another one with its id, is there already.
    #[error("key {0} is there already")]
    Twice(KeyId),
    /// No such key.
    #[error("there is no key {0} on this host")]
    Unknown(KeyId),
    /// It is the one that messages are sealed with.
    #[error("key {0} is in use on this host")]
    InUse(KeyId),
}

/// The keys of this host, shared by all that seals and opens. Changes take
/// effect with the next message.
pub struct Keyring(RwLock<Vec<Key>>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({:?})", self.ids())
    }
}

impl Keyring {
    /// A ring of `keys`, the first in use.
    ///
    /// # Errors
    /// If there is none, there are too many, or two have one id.
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        if keys.len() > HostKeys::MAX {
            return Err(KeyringError::TooMany);
        }
        for (n, key) in keys.iter().enumerate() {
            if keys[..n].iter().any(|other| other.id == key.id) {
                return Err(KeyringError::Twice(key.id));
            }
        }
        Ok(Self(RwLock::new(keys)))
    }

    /// A ring as a key file has it: a key a line, the first in use; empty lines
    /// and what follows a `#` do not count.
    ///
    /// # Errors
    /// [`KeyringError`]; no text of the file is in it.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            keys.push(line.parse().map_err(|err| KeyringError::Line { line: n + 1, err })?);
        }
        Self::new(keys)
    }

    /// The ring as a key file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::from(
            "# Cluster keys of overlayd: the first is in use. Written by `overlayctl key`.\n",
        ));
        for key in self.keys().iter() {
            text.push_str(&key.to_text());
            text.push_str(&format!("  # {}\n", key.id));
        }
        text
    }

    /// What others are told of it.
    pub fn ids(&self) -> HostKeys {
        let keys = self.keys();
        HostKeys { ids: keys.iter().map(Key::id).collect(), used: keys.first().map(Key::id) }
    }

    /// The same ring with one more key, which is not used yet.
    ///
    /// # Errors
    /// If it is there already or the ring is full.
    pub fn with(&self, key: Key) -> Result<Self, KeyringError> {
        let mut keys = self.keys().clone();
        keys.push(key);
        Self::new(keys)
    }

    /// The same ring using `id`.
    ///
    /// # Errors
    /// If it is not there.
    pub fn using(&self, id: KeyId) -> Result<Self, KeyringError> {
        let mut keys = self.keys().clone();
        let at = keys.iter().position(|key| key.id == id).ok_or(KeyringError::Unknown(id))?;
        let key = keys.remove(at);
        keys.insert(0, key);
        Self::new(keys)
    }

    /// The same ring without `id`.
    ///
    /// # Errors
    /// If it is not there, or in use.
    pub fn without(&self, id: KeyId) -> Result<Self, KeyringError> {
        let mut keys = self.keys().clone();
        let at = keys.iter().position(|key| key.id == id).ok_or(KeyringError::Unknown(id))?;
        if at == 0 {
            return Err(KeyringError::InUse(id));
        }
        keys.remove(at);
        Self::new(keys)
    }

    /// Takes over the keys of `other`: from the next message on they count.
    pub fn replace(&self, other: &Self) {
        let keys = other.keys().clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The key to seal with.
    pub(crate) fn used(&self) -> Key {
        self.keys().first().expect("a ring is never empty").clone()
    }

    /// The key called `id`.
    pub(crate) fn find(&self, id: KeyId) -> Option<Key> {
        self.keys().iter().find(|key| key.id == id).cloned()
    }

    fn keys(&self) -> RwLockReadGuard<'_, Vec<Key>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
