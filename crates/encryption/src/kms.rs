//! KMS v2: values are encrypted here with keys derived from a seed, and the seed by a plugin on a unix socket.
//!
//! The seed is made once and used until the plugin changes its key; decrypted seeds are kept. So a plugin is asked
//! once a key and not once an object. Intervals and limits are upstream's: the plugin's state is asked every minute,
//! every ten seconds while it is wrong; reads go on for ever, writes for three minutes after the last good state.
//!
//! **Invariant:** a plugin that does not answer costs its timeout once a second at most, however many wait.

use crate::cipher::{Cipher, CipherError, SEED, random};
use crate::envelope::{EncryptedObject, SourceType};
use crate::plugin::key_management_service_client::KeyManagementServiceClient;
use crate::plugin::{DecryptRequest, EncryptRequest, StatusRequest};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

const HEALTHY_INTERVAL: Duration = Duration::from_secs(60);
const FAILING_INTERVAL: Duration = Duration::from_secs(10);
const WRITES_COAST: Duration = Duration::from_secs(180);
/// After a failure the next one is known for so long.
const REMEMBER_FAILURE: Duration = Duration::from_secs(1);
/// Decrypted seeds kept.
const KEPT: usize = 10_000;
const MAX_KEY_ID: usize = 1024;
const MAX_SOURCE: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;

/// Why a plugin's values cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum KmsError {
    #[error("KMS provider {0}")]
    Unavailable(String),
    #[error("the encrypted object is damaged: {0}")]
    Damaged(String),
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

/// A plugin, and what is known by it.
pub(crate) struct Kms {
    name: String,
    path: String,
    timeout: Duration,
    client: KeyManagementServiceClient<Channel>,
    write: ArcSwapOption<WriteKey>,
    /// Until when the write key may be used.
    good_until: Mutex<Option<Instant>>,
    kept: Mutex<HashMap<[u8; 32], Arc<Cipher>>>,
    version: Mutex<Option<String>>,
    failing: Mutex<Option<(Instant, String)>>,
    generation: Arc<AtomicU64>,
}

/// What new values are encrypted with.
struct WriteKey {
    cipher: Arc<Cipher>,
    key_id: String,
    source: Bytes,
    annotations: BTreeMap<String, Bytes>,
}

impl Kms {
    /// Asks the plugin for its state, and goes on asking. A plugin that is not there yet is no error.
    pub(crate) async fn start(
        name: &str,
        path: &str,
        timeout: Duration,
        generation: Arc<AtomicU64>,
    ) -> Arc<Self> {
        let target = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move { connect(&target).await.map(TokioIo::new) }
        });
        // The authority is never looked at; the connector above decides where to go.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let kms = Arc::new(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            timeout,
            client: KeyManagementServiceClient::new(channel),
            write: ArcSwapOption::empty(),
            good_until: Mutex::new(None),
            kept: Mutex::default(),
            version: Mutex::default(),
            failing: Mutex::default(),
            generation,
        });
        let healthy = kms.probe().await;
        tokio::spawn(keep(Arc::downgrade(&kms), healthy));
        kms
    }

    pub(crate) fn is_at(&self, path: &str, timeout: Duration) -> bool {
        self.path == path && self.timeout == timeout
    }

    /// What is wrong with it.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failing.lock().as_ref().map(|(_, why)| why.clone())
    }

    pub(crate) fn seal(&self, plain: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<(), KmsError> {
        let write = self.write.load();
        let Some(write) = write.as_ref() else {
            return Err(self.unavailable(self.failure().unwrap_or_else(|| "has no key yet".to_owned())));
        };
        if self.good_until.lock().is_none_or(|until| Instant::now() > until) {
            return Err(self
                .unavailable("has not answered for three minutes; its key is not used to write".to_owned()));
        }
        let mut data = Vec::with_capacity(plain.len() + 64);
        write.cipher.seal(plain, place, &mut data)?;
        let object = EncryptedObject {
            encrypted_data: data.into(),
            key_id: write.key_id.clone(),
            encrypted_dek_source: write.source.clone(),
            annotations: write.annotations.clone(),
            encrypted_dek_source_type: SourceType::HkdfSha256XnonceAesGcmSeed as i32,
        };
        object
            .encode(out)
            .map_err(|error| KmsError::Damaged(error.to_string()))
    }

    /// The value, and whether its key is no longer the one values are written with.
    pub(crate) async fn open(&self, sealed: Bytes, place: &[u8]) -> Result<(Vec<u8>, bool), KmsError> {
        let object = EncryptedObject::decode(sealed).map_err(|error| KmsError::Damaged(error.to_string()))?;
        let source_type = object.encrypted_dek_source_type();
        check(&object.key_id, &object.encrypted_dek_source, &object.annotations)
            .map_err(KmsError::Damaged)?;
        let id = digest(
            source_type,
            &object.key_id,
            &object.encrypted_dek_source,
            &object.annotations,
        );
        let known = self.kept.lock().get(&id).cloned();
        let cipher = match known {
            Some(cipher) => cipher,
            None => {
                let key = self.decrypt(&object).await?;
                let cipher = match source_type {
                    SourceType::AesGcmKey => Cipher::gcm(&key),
                    SourceType::HkdfSha256XnonceAesGcmSeed => Cipher::seed(&key),
                };
                let cipher = cipher
                    .ok_or_else(|| KmsError::Damaged("the plugin's key has a wrong size".to_owned()))?;
                let cipher = Arc::new(cipher);
                self.keep_cipher(id, &cipher);
                cipher
            }
        };
        let plain = cipher.open(&object.encrypted_data, place)?;
        let stale = self
            .write
            .load()
            .as_ref()
            .is_some_and(|write| write.key_id != object.key_id || source_type == SourceType::AesGcmKey);
        Ok((plain, stale))
    }

    fn keep_cipher(&self, id: [u8; 32], cipher: &Arc<Cipher>) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(id, Arc::clone(cipher));
    }

    async fn decrypt(&self, object: &EncryptedObject) -> Result<Bytes, KmsError> {
        // Whoever waited for somebody else's failure does not wait again.
        if let Some((at, why)) = &*self.failing.lock()
            && at.elapsed() < REMEMBER_FAILURE
        {
            return Err(KmsError::Unavailable(why.clone()));
        }
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let mut client = self.client.clone();
        let answer = self.timed("failed to decrypt DEK", client.decrypt(request)).await;
        answer
            .map(|answer| answer.plaintext)
            .inspect_err(|error| self.failed(error))
    }

    /// A call, for at most the configured time.
    async fn timed<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, KmsError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                Err(self.unavailable(format!("{what}: {}: {}", status.code(), status.message())))
            }
            Err(_) => Err(self.unavailable(format!("{what}: no answer within {:?}", self.timeout))),
        }
    }

    fn unavailable(&self, why: String) -> KmsError {
        KmsError::Unavailable(format!("{:?}: {why}", self.name))
    }

    fn failed(&self, error: &KmsError) {
        *self.failing.lock() = Some((Instant::now(), error.to_string()));
    }

    /// Asks for the plugin's state and takes a new seed if its key is another; whether all is well.
    async fn probe(&self) -> bool {
        match self.ask().await {
            Ok(()) => {
                // What could not be read may be readable now.
                if self.failing.lock().take().is_some() {
                    self.generation.fetch_add(1, Ordering::AcqRel);
                }
                true
            }
            Err(error) => {
                tracing::warn!(plugin = self.name, %error, "a KMS plugin is not well");
                self.failed(&error);
                false
            }
        }
    }

    async fn ask(&self) -> Result<(), KmsError> {
        // From before the call: the limit is one from the last moment it was known to be good.
        let good_until = Instant::now() + WRITES_COAST;
        let mut client = self.client.clone();
        let status = self
            .timed("failed to ask for the status", client.status(StatusRequest {}))
            .await?;
        if status.healthz != "ok" {
            return Err(self.unavailable(format!("got unexpected healthz status: {}", status.healthz)));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(self.unavailable(format!("expected KMSv2 API version v2, got {}", status.version)));
        }
        let first = self
            .version
            .lock()
            .get_or_insert_with(|| status.version.clone())
            .clone();
        if first != status.version {
            return Err(self.unavailable(format!(
                "the API version changed from {first} to {}",
                status.version
            )));
        }
        check_key_id(&status.key_id).map_err(|why| self.unavailable(why))?;
        let same = self
            .write
            .load()
            .as_ref()
            .is_some_and(|write| write.key_id == status.key_id);
        if !same {
            self.rotate(&status.key_id).await?;
        }
        *self.good_until.lock() = Some(good_until);
        Ok(())
    }

    async fn rotate(&self, key_id: &str) -> Result<(), KmsError> {
        let seed: [u8; SEED] = random()?;
        let request = EncryptRequest {
            plaintext: Bytes::copy_from_slice(&seed),
            uid: uuid::Uuid::new_v4().to_string(),
        };
        let mut client = self.client.clone();
        let answer = self
            .timed("failed to encrypt DEK", client.encrypt(request))
            .await?;
        check(&answer.key_id, &answer.ciphertext, &answer.annotations)
            .map_err(|why| self.unavailable(why))?;
        if answer.key_id != key_id {
            return Err(
                self.unavailable("its status and what it encrypts with name different keys".to_owned())
            );
        }
        let cipher = Cipher::seed(&seed).ok_or(CipherError::Random)?;
        let cipher = Arc::new(cipher);
        let kind = SourceType::HkdfSha256XnonceAesGcmSeed;
        let id = digest(kind, &answer.key_id, &answer.ciphertext, &answer.annotations);
        self.keep_cipher(id, &cipher);
        self.write.store(Some(Arc::new(WriteKey {
            cipher,
            key_id: answer.key_id,
            source: answer.ciphertext,
            annotations: answer.annotations,
        })));
        Ok(())
    }
}

/// Asks until nobody uses the plugin any more.
async fn keep(kms: Weak<Kms>, mut healthy: bool) {
    loop {
        tokio::time::sleep(if healthy {
            HEALTHY_INTERVAL
        } else {
            FAILING_INTERVAL
        })
        .await;
        let Some(kms) = kms.upgrade() else { return };
        healthy = kms.probe().await;
    }
}

async fn connect(path: &str) -> std::io::Result<UnixStream> {
    match path.strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
        None => UnixStream::connect(path).await,
    }
}

fn check_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".to_owned()),
        length if length > MAX_KEY_ID => Err(format!(
            "keyID is {length} bytes, which exceeds the max size of {MAX_KEY_ID}"
        )),
        _ => Ok(()),
    }
}

fn check(key_id: &str, source: &[u8], annotations: &BTreeMap<String, Bytes>) -> Result<(), String> {
    check_key_id(key_id)?;
    if source.is_empty() {
        return Err("encrypted DEK source is empty".to_owned());
    }
    if source.len() > MAX_SOURCE {
        return Err(format!(
            "encrypted DEK source is {} bytes, which exceeds the max size of {MAX_SOURCE}",
            source.len()
        ));
    }
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_ANNOTATIONS {
        return Err(format!(
            "total size of annotations is {size}, which exceeds the max size of {MAX_ANNOTATIONS}"
        ));
    }
    // A fully qualified domain name.
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    match annotations
        .keys()
        .find(|key| !key.contains('.') || !key.split('.').all(is_label))
    {
        Some(key) => Err(format!(
            "annotations: {key:?} should be a domain with at least two segments separated by dots"
        )),
        None => Ok(()),
    }
}

/// What a decrypted key is remembered by: everything the plugin would be asked with.
fn digest(kind: SourceType, key_id: &str, source: &[u8], annotations: &BTreeMap<String, Bytes>) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    };
    add(&(kind as i32).to_le_bytes());
    add(key_id.as_bytes());
    add(source);
    for (key, value) in annotations {
        add(key.as_bytes());
        add(value);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
