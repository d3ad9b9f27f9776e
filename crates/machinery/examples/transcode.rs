//! Turns one object from one representation into another:
//!
//! ```sh
//! cargo run -p machinery --example transcode -- --from json --to protobuf --type apps/v1/Deployment < in > out
//! ```
//!
//! Representations are `json`, `yaml`, `protobuf` (in its envelope) and `cbor`. So that the bytes can be compared with those of
//! other implementations.

use machinery::Value;
use machinery::codec::{cbor, json, proto, yaml};
use machinery::gvk::GroupVersion;
use machinery::schema::Types;
use std::error::Error;
use std::io::{Read as _, Write as _};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut from, mut to, mut kind) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next();
        match word.as_str() {
            "--from" => from = value,
            "--to" => to = value,
            "--type" => kind = value,
            _ => return Err(USAGE.into()),
        }
    }
    let (Some(from), Some(to), Some(kind)) = (from, to, kind) else {
        return Err(USAGE.into());
    };
    let (group_version, kind) = kind.rsplit_once('/').ok_or(USAGE)?;
    let gvk = GroupVersion::parse(group_version).ok_or(USAGE)?.with_kind(kind);
    let types: &Types = api::types();
    let id = api::kind(&gvk).ok_or_else(|| format!("no built-in kind {gvk}"))?;
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let value: Value = match from.as_str() {
        "json" => json::decode(&input, types, id)?.value,
        "yaml" => yaml::decode(&input, types, id)?.value,
        "protobuf" => proto::decode_envelope(&input, types, id)?,
        "cbor" => cbor::decode(&input, types, id)?.value,
        _ => return Err(USAGE.into()),
    };
    let mut output = Vec::new();
    match to.as_str() {
        "json" => json::encode(&value, &mut output),
        "yaml" => yaml::encode(&value, &mut output)?,
        "protobuf" => proto::encode_envelope(&value, &gvk, types, id, &mut output)?,
        "cbor" => output = cbor::to_vec(&value, Some(cbor::Typed { types, id })),
        _ => return Err(USAGE.into()),
    }
    std::io::stdout().write_all(&output)?;
    Ok(())
}

const USAGE: &str = "usage: transcode --from FORM --to FORM --type GROUP/VERSION/KIND, FORM one of json, yaml, protobuf, cbor";
