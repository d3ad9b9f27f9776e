//! Bindings from `proto/`, compiled by `protox` so that no `protoc` is needed on the building machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["kms.proto", "envelope.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Keys must not reach a log through `{:?}`.
        .skip_debug([".v2.DecryptResponse", ".v2.EncryptRequest"])
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
