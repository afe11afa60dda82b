//! Compiles `schema/spandrel/v1/*.proto` without a system protoc, and keeps the descriptors for server
//! reflection.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 8] = [
    "spandrel/v1/common.proto",
    "spandrel/v1/collections.proto",
    "spandrel/v1/rows.proto",
    "spandrel/v1/chunk_caches.proto",
    "spandrel/v1/retrieve.proto",
    "spandrel/v1/search.proto",
    "spandrel/v1/tenants.proto",
    "spandrel/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let descriptors = protox::compile(FILES, ["schema"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Sorted, as the engine's rows are; decoded straight into what the engine takes.
        .btree_map(".")
        // A vector sent as bytes is a slice of the message's buffer until the one copy into floats.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
