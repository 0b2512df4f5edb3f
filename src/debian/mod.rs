//! Debian: from an archive's signed index to the database in an image.

pub mod database;
