//! A step of a key rotation: whether it may be, then the file, then the ring,
//! then what the cluster is told.
//!
//! In this order, so that what is told is true and what is used survives a
//! restart. The engine knows ids only; whether a step locks anybody out is its
//! judgement (`Engine::may_use_key`).

use std::sync::Arc;

use overlay_api::v1;
use overlay_engine::{Effect, Event, KeyView, Now};
use overlay_gossip::{Key, Keyring, KeyringError};
use overlay_model::KeyId;
use tracing::info;

use crate::convert;
use crate::journal::Recorded;
use crate::key_file::KeyFile;

/// What is asked about keys.
#[derive(Debug)]
pub enum KeyRequest {
    /// Who has which.
    List,
    /// Hold a further one.
    Add(Key),
    /// Seal with it.
    Use {
        /// Which.
        id: KeyId,
        /// Whomever that locks out.
        force: bool,
    },
    /// Forget it.
    Remove {
        /// Which.
        id: KeyId,
        /// Whomever that locks out.
        force: bool,
    },
}

/// The keys of this host.
#[derive(Debug)]
pub struct Keys {
    /// Where they stand.
    pub file: KeyFile,
    /// The ring that gossip seals with.
    pub ring: Arc<Keyring>,
}

impl Keys {
    /// Does what is asked. Returns the body of the reply, and what follows.
    ///
    /// # Errors
    /// The refusal; nothing has then changed.
    pub fn answer(
        keys: Option<&Self>,
        engine: &mut Recorded,
        request: KeyRequest,
        now: Now,
    ) -> Result<(Vec<u8>, Vec<Effect>), v1::Error> {
        let keys = keys.ok_or_else(|| {
            v1::Error::new(
                v1::ErrorCode::Unsupported,
                "gossip is not sealed on this host: it was started without a key",
            )
            .with_hint("start it with --key-file")
        })?;
        match request {
            KeyRequest::List => {
                let all = engine.keys().into_iter().map(|(id, view)| convert::key(id, view));
                Ok((json(&all.collect::<Vec<_>>())?, Vec::new()))
            }
            KeyRequest::Add(key) => {
                let id = key.id();
                let effects = keys.change(engine, keys.ring.with(key), now)?;
                info!(key = %id, "key added; it is not used yet");
                Ok((shown(id, engine.key(id))?, effects))
            }
            KeyRequest::Use { id, force } => {
                engine.may_use_key(id, force).map_err(convert::error)?;
                let effects = keys.change(engine, keys.ring.using(id), now)?;
                info!(key = %id, force, "gossip is sealed with this key from now on");
                Ok((shown(id, engine.key(id))?, effects))
            }
            KeyRequest::Remove { id, force } => {
                engine.may_remove_key(id, force).map_err(convert::error)?;
                let before = engine.key(id);
                let effects = keys.change(engine, keys.ring.without(id), now)?;
                info!(key = %id, force, "key removed");
                Ok((shown(id, before)?, effects))
            }
        }
    }

    fn change(
        &self,
        engine: &mut Recorded,
        ring: Result<Keyring, KeyringError>,
        now: Now,
    ) -> Result<Vec<Effect>, v1::Error> {
        let ring = ring.map_err(|err| {
            let code = match err {
                KeyringError::TooMany => v1::ErrorCode::Exhausted,
                KeyringError::Twice(_) => v1::ErrorCode::Taken,
                KeyringError::Unknown(_) => v1::ErrorCode::NotFound,
                KeyringError::InUse(_) => v1::ErrorCode::InUse,
                KeyringError::Line { .. } | KeyringError::Empty => v1::ErrorCode::InvalidRequest,
            };
            v1::Error::new(code, err.to_string())
        })?;
        self.file.write(&ring).map_err(|err| {
            v1::Error::new(v1::ErrorCode::Unavailable, err.to_string())
                .with_hint("nothing has changed; try again when it can be written")
        })?;
        self.ring.replace(&ring);
        Ok(engine.step(Event::Keys(ring.ids()), now))
    }
}

fn shown(id: KeyId, view: KeyView) -> Result<Vec<u8>, v1::Error> {
    json(&convert::key(id, view))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, v1::Error> {
    serde_json::to_vec(value).map_err(|err| {
        v1::Error::new(v1::ErrorCode::Internal, format!("cannot write the reply: {err}"))
    })
}
