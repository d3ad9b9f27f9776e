//! The providers of one resource, in order: the first writes, whichever knows the prefix reads.

use crate::cipher::Cipher;
use crate::config::{Provider, Rule};
use crate::kms::{Kms, KmsError};
use bytes::Bytes;
use std::sync::Arc;

/// One resource's providers; every key is one entry.
pub(crate) struct Providers(Vec<Entry>);

struct Entry {
    /// `k8s:enc:aescbc:v1:key1:`; empty for what is not encrypted.
    prefix: Vec<u8>,
    means: Means,
}

enum Means {
    Identity,
    Cipher(Cipher),
    Kms(Arc<Kms>),
}

/// Makes a cipher of a key, if the key has a size it can use.
type Make = fn(&[u8]) -> Option<Cipher>;

/// A value that was read.
pub(crate) struct Opened {
    pub plain: Bytes,
    /// It would be written in another way now.
    pub stale: bool,
}

/// Why a value was not read.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It will not be with this configuration.
    Unreadable(String),
    /// Perhaps later: a plugin did not answer.
    Unavailable(String),
}

impl Providers {
    /// `kms` finds the running plugin of a name.
    pub(crate) fn new(rule: &Rule, kms: impl Fn(&str) -> Option<Arc<Kms>>) -> Self {
        let mut entries = Vec::new();
        for provider in &rule.providers {
            let (name, keys, make): (_, _, Make) = match provider {
                Provider::Identity => {
                    entries.push(Entry {
                        prefix: Vec::new(),
                        means: Means::Identity,
                    });
                    continue;
                }
                Provider::Kms { name, .. } => {
                    entries.extend(kms(name).map(|kms| Entry {
                        prefix: format!("k8s:enc:kms:v2:{name}:").into_bytes(),
                        means: Means::Kms(kms),
                    }));
                    continue;
                }
                Provider::AesCbc(keys) => ("aescbc", keys, Cipher::cbc),
                Provider::AesGcm(keys) => ("aesgcm", keys, Cipher::gcm),
                Provider::Secretbox(keys) => ("secretbox", keys, Cipher::secretbox),
            };
            // Sizes were judged when the configuration was read.
            entries.extend(keys.iter().filter_map(|key| {
                Some(Entry {
                    prefix: format!("k8s:enc:{name}:v1:{}:", key.name).into_bytes(),
                    means: Means::Cipher(make(&key.secret)?),
                })
            }));
        }
        Self(entries)
    }

    /// The value as the store is to hold it.
    pub(crate) fn seal(&self, plain: Bytes, place: &[u8]) -> Result<Bytes, String> {
        let Some(entry) = self.0.first() else {
            return Ok(plain);
        };
        let mut out = Vec::with_capacity(entry.prefix.len() + plain.len() + 80);
        out.extend_from_slice(&entry.prefix);
        match &entry.means {
            Means::Identity => return Ok(plain),
            Means::Cipher(cipher) => cipher
                .seal(&plain, place, &mut out)
                .map_err(|error| error.to_string())?,
            Means::Kms(kms) => kms
                .seal(&plain, place, &mut out)
                .map_err(|error| error.to_string())?,
        }
        Ok(out.into())
    }

    /// The value the store holds, readable.
    pub(crate) async fn open(&self, value: &Bytes, place: &[u8]) -> Result<Opened, OpenError> {
        let mut unreadable: Option<String> = None;
        let mut unavailable = None;
        for (at, entry) in self.0.iter().enumerate() {
            let Some(sealed) = value.strip_prefix(&entry.prefix[..]) else {
                continue;
            };
            let stale = at != 0;
            match &entry.means {
                // What is encrypted is some other provider's.
                Means::Identity if value.starts_with(crate::PREFIX) => {}
                Means::Identity => {
                    return Ok(Opened {
                        plain: value.clone(),
                        stale,
                    });
                }
                Means::Cipher(cipher) => match cipher.open(sealed, place) {
                    Ok(plain) => {
                        return Ok(Opened {
                            plain: plain.into(),
                            stale,
                        });
                    }
                    Err(error) => {
                        let prefix = entry.prefix.escape_ascii();
                        unreadable.get_or_insert_with(|| format!("{prefix} {error}"));
                    }
                },
                Means::Kms(kms) => match kms.open(value.slice(entry.prefix.len()..), place).await {
                    Ok((plain, old)) => {
                        return Ok(Opened {
                            plain: plain.into(),
                            stale: stale || old,
                        });
                    }
                    Err(KmsError::Unavailable(why)) => unavailable = Some(why),
                    Err(error) => {
                        unreadable.get_or_insert_with(|| error.to_string());
                    }
                },
            }
        }
        if let Some(why) = unavailable {
            return Err(OpenError::Unavailable(why));
        }
        Err(OpenError::Unreadable(
            unreadable.unwrap_or_else(|| no_provider(value)),
        ))
    }
}

/// What is missing to read a value.
fn no_provider(value: &[u8]) -> String {
    if !value.starts_with(crate::PREFIX) {
        return "no matching prefix found: it is not encrypted, and the configuration does not allow that"
            .to_owned();
    }
    // k8s:enc:<provider>:<version>:<key>:
    let end = value
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b':')
        .nth(4)
        .map_or(value.len().min(64), |(at, _)| at + 1);
    format!(
        "no matching prefix found: it is encrypted as {}, and no key of that name is configured",
        value[..end].escape_ascii()
    )
}
