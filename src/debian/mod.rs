//! Debian: from an archive's signed index to the database in an image.

pub mod archive;
pub mod control;
pub mod database;
pub mod keyring;
pub mod packages;
pub mod path_filter;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod universe;
pub mod version;
