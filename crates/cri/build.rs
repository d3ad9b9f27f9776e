//! Bindings from `proto/`, compiled by `protox` so that no `protoc` is needed on the building machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["service.proto", "kijabi_images.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // A password must not reach a log through `{:?}`; src/lib.rs writes this one by hand.
        .skip_debug([".runtime.v1.AuthConfig", ".kijabi.images.v1.PullRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
