//! The keys of a start: the admin key of a control plane, and the master keys, which open what is stored.
//!
//! On a directory both can be made by the first start. On a cluster they are given to every process that needs them: keys
//! that one process made would be other ones than the next process made.

use std::{path::Path, sync::Arc};

use qrelay_control::AdminKey;
use qrelay_store::{
    Store,
    seal::{CheckError, MasterKeys, Sealer},
};
use secrecy::ExposeSecret;

use super::{
    admin_key::{self, AdminKeyTo},
    config::{ApiConfig, MasterKeyConfig, StoreConfig},
    error::StartError,
};

/// The admin key of this start.
pub(super) fn admin_key(
    store: &StoreConfig,
    config: &ApiConfig,
    show_to: AdminKeyTo,
) -> Result<AdminKey, StartError> {
    let given = config.admin_key.as_ref();
    match store {
        StoreConfig::Embedded(directory) => Ok(admin_key::obtain(directory, given, show_to)?),
        StoreConfig::Cluster(_) => Ok(admin_key::given(given.ok_or(StartError::KeysNeeded)?)?),
    }
}

/// The master keys of this start, which open what is stored.
pub(super) async fn sealer(
    place: &StoreConfig,
    config: &MasterKeyConfig,
    store: &dyn Store,
) -> Result<Sealer, StartError> {
    let path = config.path(place);
    let keys = match (&config.text, &path) {
        (Some(text), _) => MasterKeys::from_env_text(text.expose_secret())?,
        (None, Some(path)) if store.exclusive() => in_file(path, store).await?,
        (None, Some(path)) => MasterKeys::load(path)?,
        (None, None) => return Err(StartError::KeysNeeded),
    };
    let sealer = Sealer::new(Arc::new(keys));
    match sealer.check(store).await {
        Ok(()) => Ok(sealer),
        Err(CheckError::Store(error)) => Err(error.into()),
        Err(source @ CheckError::WrongKeys { .. }) => Err(match path {
            None => StartError::WrongKey { source },
            Some(path) => StartError::WrongKeys { path, source },
        }),
    }
}

/// A missing key file is made only for a store without secrets: otherwise it was lost, and another key would not do.
async fn in_file(path: &Path, store: &dyn Store) -> Result<MasterKeys, StartError> {
    let is_new = store.any_secret().await?.is_none();
    if !is_new && matches!(path.try_exists(), Ok(false)) {
        return Err(StartError::MasterKeyLost {
            path: path.to_owned(),
        });
    }
    let (keys, made) = MasterKeys::load_or_create(path)?;
    if made {
        tracing::warn!(master_key_file = %path.display(), "made the master key; without a copy of it, stored secrets cannot be restored");
    }
    Ok(keys)
}
