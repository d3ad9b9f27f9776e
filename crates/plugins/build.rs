//! Bindings from `proto/`, compiled by `protox` so that no `protoc` is needed on the building machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "csi.proto",
        "device.proto",
        "dra_v1.proto",
        "dra_v1beta1.proto",
        "pod_resources.proto",
        "registration.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Secrets must not reach a log through `{:?}`.
        .skip_debug([
            ".csi.v1.NodeStageVolumeRequest",
            ".csi.v1.NodePublishVolumeRequest",
            ".csi.v1.NodeExpandVolumeRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
