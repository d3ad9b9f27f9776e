//! The ciphers of the providers that have their keys in the configuration, and the one KMS keys are used with.
//!
//! Layouts are upstream's: a random nonce (or IV) first, then what Go's libraries make of it.

use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::Pkcs7};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::{AeadInPlace, KeyInit, consts::U12};
use aes_gcm::{AesGcm, Key, Nonce, Tag};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom, SystemRandom};

const GCM_NONCE: usize = 12;
const TAG: usize = 16;
const IV: usize = 16;
const BOX_NONCE: usize = 24;
/// What a key is derived with from a seed, in front of the value.
const INFO: usize = 32;
pub(crate) const SEED: usize = 32;

/// Why a value cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CipherError {
    #[error("the stored data was shorter than the required size")]
    Short,
    #[error("the stored data is not a multiple of the block size")]
    BlockSize,
    #[error("invalid padding on input")]
    Padding,
    #[error("message authentication failed")]
    Authentication,
    #[error("the system has no random bytes")]
    Random,
    #[error("the value is too large")]
    TooLarge,
}

/// A key that can be used.
pub(crate) enum Cipher {
    Cbc(Box<[u8]>),
    Gcm(Gcm),
    Secretbox(Box<XSalsa20Poly1305>),
    /// AES-GCM with a key of its own for every value.
    Seed(Box<[u8]>),
}

/// AES-GCM with any of its key sizes.
pub(crate) enum Gcm {
    Aes128(Box<AesGcm<Aes128, U12>>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<AesGcm<Aes256, U12>>),
}

impl Cipher {
    /// `None` for a key of another size than 16, 24 or 32 bytes.
    pub(crate) fn cbc(key: &[u8]) -> Option<Self> {
        matches!(key.len(), 16 | 24 | 32).then(|| Self::Cbc(key.into()))
    }

    pub(crate) fn gcm(key: &[u8]) -> Option<Self> {
        Gcm::new(key).map(Self::Gcm)
    }

    pub(crate) fn secretbox(key: &[u8]) -> Option<Self> {
        let cipher = XSalsa20Poly1305::new_from_slice(key).ok()?;
        Some(Self::Secretbox(Box::new(cipher)))
    }

    pub(crate) fn seed(seed: &[u8]) -> Option<Self> {
        (seed.len() >= SEED).then(|| Self::Seed(seed.into()))
    }

    /// Appends the encrypted value to `out`.
    pub(crate) fn seal(&self, plain: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        match self {
            Self::Cbc(key) => {
                let iv: [u8; IV] = random()?;
                out.extend_from_slice(&iv);
                out.extend_from_slice(&match key.len() {
                    16 => encrypt_cbc::<cbc::Encryptor<Aes128>>(key, &iv, plain)?,
                    24 => encrypt_cbc::<cbc::Encryptor<Aes192>>(key, &iv, plain)?,
                    _ => encrypt_cbc::<cbc::Encryptor<Aes256>>(key, &iv, plain)?,
                });
                Ok(())
            }
            Self::Gcm(gcm) => gcm.seal(plain, place, out),
            Self::Secretbox(cipher) => {
                let nonce: [u8; BOX_NONCE] = random()?;
                out.extend_from_slice(&nonce);
                let start = out.len();
                out.extend_from_slice(&[0; TAG]);
                out.extend_from_slice(plain);
                let tag = cipher
                    .encrypt_in_place_detached(&nonce.into(), b"", &mut out[start + TAG..])
                    .map_err(|_| CipherError::TooLarge)?;
                out[start..start + TAG].copy_from_slice(&tag);
                Ok(())
            }
            Self::Seed(seed) => {
                let info: [u8; INFO] = random()?;
                out.extend_from_slice(&info);
                derived(seed, &info)?.seal(plain, place, out)
            }
        }
    }

    pub(crate) fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, CipherError> {
        match self {
            Self::Cbc(key) => {
                let (iv, data) = sealed.split_at_checked(IV).ok_or(CipherError::Short)?;
                if data.len() % IV != 0 {
                    return Err(CipherError::BlockSize);
                }
                match key.len() {
                    16 => decrypt_cbc::<cbc::Decryptor<Aes128>>(key, iv, data),
                    24 => decrypt_cbc::<cbc::Decryptor<Aes192>>(key, iv, data),
                    _ => decrypt_cbc::<cbc::Decryptor<Aes256>>(key, iv, data),
                }
            }
            Self::Gcm(gcm) => gcm.open(sealed, place),
            Self::Secretbox(cipher) => {
                if sealed.len() < BOX_NONCE + TAG {
                    return Err(CipherError::Short);
                }
                let (nonce, rest) = sealed.split_at(BOX_NONCE);
                let (tag, data) = rest.split_at(TAG);
                let mut plain = data.to_vec();
                cipher
                    .decrypt_in_place_detached(nonce.into(), b"", &mut plain, tag.into())
                    .map_err(|_| CipherError::Authentication)?;
                Ok(plain)
            }
            Self::Seed(seed) => {
                let (info, rest) = sealed.split_at_checked(INFO).ok_or(CipherError::Short)?;
                derived(seed, info)?.open(rest, place)
            }
        }
    }
}

impl Gcm {
    fn new(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Aes128(Box::new(AesGcm::new(Key::<AesGcm<Aes128, U12>>::from_slice(key)))),
            24 => Self::Aes192(Box::new(AesGcm::new(Key::<AesGcm<Aes192, U12>>::from_slice(key)))),
            32 => Self::Aes256(Box::new(AesGcm::new(Key::<AesGcm<Aes256, U12>>::from_slice(key)))),
            _ => return None,
        })
    }

    fn seal(&self, plain: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let nonce: [u8; GCM_NONCE] = random()?;
        out.reserve(GCM_NONCE + plain.len() + TAG);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let (nonce, data) = (Nonce::from(nonce), &mut out[start..]);
        let tag = match self {
            Self::Aes128(gcm) => gcm.encrypt_in_place_detached(&nonce, place, data),
            Self::Aes192(gcm) => gcm.encrypt_in_place_detached(&nonce, place, data),
            Self::Aes256(gcm) => gcm.encrypt_in_place_detached(&nonce, place, data),
        };
        out.extend_from_slice(&tag.map_err(|_| CipherError::TooLarge)?);
        Ok(())
    }

    fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, CipherError> {
        if sealed.len() < GCM_NONCE + TAG {
            return Err(CipherError::Short);
        }
        let (nonce, rest) = sealed.split_at(GCM_NONCE);
        let (data, tag) = rest.split_at(rest.len() - TAG);
        let (nonce, tag) = (Nonce::from_slice(nonce), Tag::from_slice(tag));
        let mut plain = data.to_vec();
        match self {
            Self::Aes128(gcm) => gcm.decrypt_in_place_detached(nonce, place, &mut plain, tag),
            Self::Aes192(gcm) => gcm.decrypt_in_place_detached(nonce, place, &mut plain, tag),
            Self::Aes256(gcm) => gcm.decrypt_in_place_detached(nonce, place, &mut plain, tag),
        }
        .map_err(|_| CipherError::Authentication)?;
        Ok(plain)
    }
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CipherError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CipherError::Random)?;
    Ok(bytes)
}

/// HKDF's expanding half: the seed is a key already.
fn derived(seed: &[u8], info: &[u8]) -> Result<Gcm, CipherError> {
    let parts = [info];
    let mut key = [0; 32];
    ring::hkdf::Prk::new_less_safe(ring::hkdf::HKDF_SHA256, seed)
        .expand(&parts, ring::hkdf::HKDF_SHA256)
        .and_then(|stream| stream.fill(&mut key))
        .map_err(|_| CipherError::Authentication)?;
    Gcm::new(&key).ok_or(CipherError::Authentication)
}

fn encrypt_cbc<C: KeyIvInit + BlockEncryptMut>(
    key: &[u8],
    iv: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, CipherError> {
    // The constructors admit keys of the cipher's size only.
    let cipher = C::new_from_slices(key, iv).map_err(|_| CipherError::Short)?;
    Ok(cipher.encrypt_padded_vec_mut::<Pkcs7>(plain))
}

fn decrypt_cbc<C: KeyIvInit + BlockDecryptMut>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, CipherError> {
    let cipher = C::new_from_slices(key, iv).map_err(|_| CipherError::Short)?;
    cipher
        .decrypt_padded_vec_mut::<Pkcs7>(data)
        .map_err(|_| CipherError::Padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ciphers() -> Vec<(&'static str, Cipher)> {
        let key: Vec<u8> = (0..32).collect();
        vec![
            ("cbc 16", Cipher::cbc(&key[..16]).expect("size")),
            ("cbc 24", Cipher::cbc(&key[..24]).expect("size")),
            ("cbc 32", Cipher::cbc(&key).expect("size")),
            ("gcm 16", Cipher::gcm(&key[..16]).expect("size")),
            ("gcm 24", Cipher::gcm(&key[..24]).expect("size")),
            ("gcm 32", Cipher::gcm(&key).expect("size")),
            ("secretbox", Cipher::secretbox(&key).expect("size")),
            ("seed", Cipher::seed(&key).expect("size")),
        ]
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        for (name, cipher) in ciphers() {
            for length in [0, 1, 15, 16, 17, 1000] {
                let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
                let mut sealed = Vec::new();
                cipher.seal(&plain, b"/a", &mut sealed).expect("seals");
                assert_eq!(
                    cipher.open(&sealed, b"/a").as_ref(),
                    Ok(&plain),
                    "{name} {length}"
                );
                if name.starts_with("gcm") || name == "seed" {
                    assert_eq!(
                        cipher.open(&sealed, b"/b"),
                        Err(CipherError::Authentication),
                        "{name}"
                    );
                }
                for cut in 0..sealed.len() {
                    let opened = cipher.open(&sealed[..cut], b"/a");
                    assert!(
                        opened.as_ref() != Ok(&plain) || name.starts_with("cbc"),
                        "{name} cut at {cut}"
                    );
                }
            }
        }
    }

    /// Values other implementations made: Go's and NaCl's published examples.
    #[test]
    fn the_layouts_are_those_of_others() {
        let hex = |text: &str| hex::decode(text).expect("hex");
        // NaCl's tests/secretbox.
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let opened = Cipher::secretbox(&key)
            .expect("key")
            .open(&hex(&format!("{nonce}{sealed}")), b"");
        assert_eq!(
            opened.map(hex::encode),
            Ok("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705".to_owned())
        );
        // Go's crypto/cipher, with the bytes 0 to 31 as the key.
        let key: Vec<u8> = (0..32).collect();
        let place = b"/registry/secrets/a/b";
        for (cipher, sealed) in [
            (
                Cipher::cbc(&key),
                "07070707070707070707070707070707e6b6456d02781d8508a8a8966cb255a00a62097032606de29ee7eba81ba49c9b",
            ),
            (
                Cipher::gcm(&key[..24]),
                "090909090909090909090909c76dc2099437df635e41322b28d5dd31d8b6b4fdd6d163668634b08cb5f101549126f35437",
            ),
            (
                Cipher::seed(&key),
                "05050505050505050505050505050505050505050505050505050505050505050909090909090909090909095754444208a6c2a08e4d751d51a5abb25d1e99842428b33a39b0eecbf84cffbc4ada23cb0b",
            ),
        ] {
            let opened = cipher.expect("key").open(&hex(sealed), place);
            assert_eq!(opened.as_deref(), Ok(&b"k8s\0 something secret"[..]));
        }
    }
}
