//! The wire contract `spandrel.v1`: generated code, no logic.
//!
//! The specification is the comments in `schema/spandrel/v1/*.proto`; this crate is what a Rust client or
//! server needs to speak it. Clients in other languages make their stubs from the same files, or ask the
//! server by reflection.

#![forbid(unsafe_code)]

/// Messages, clients and servers of package `spandrel.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("spandrel.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the package, comments included, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
