//! `sbx` builds sandboxes for AI agents the way a package manager builds packages.
//!
//! ```text
//! sandboxes.kdl + layers/*.kdl ─lock─▶ sbx.lock ─fetch─▶ store ─plan─▶ layer DAG ─build─▶ OCI image
//! ```
//!
//! Imports run one way, from the top of this list to its bottom; `tests/imports.rs` holds the order.
//! The library neither prints nor reads the environment, the clock or the home directory: the
//! binary's `workspace` does, once.

// words: what everything speaks in
pub mod blame;
pub mod digest;
pub mod engine;
pub mod entry;
pub mod fsx;
pub mod media;
pub mod name;
pub mod path;
pub mod plain;
pub mod platform;
pub mod reference;
pub mod tarball;
pub mod zipfile;

// machine: what the kernel does for a build
pub mod jail;

// facts: what people declare, what is stored; they never see each other
pub mod decl;
pub mod store;

// inputs: where bytes come from
pub mod debian;
pub mod fetch;
pub mod git;
pub mod lock;
pub mod npm;
pub mod oci;
pub mod python;
pub mod serve;

// intent: what is to be done, without I/O
pub mod plan;

// work: doing it
pub mod build;
pub mod image;

// ends: what images are for
pub mod contract;
pub mod launch;
pub mod registry;
pub mod report;
pub mod ship;
pub mod vendor;
