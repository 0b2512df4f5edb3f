//! Building: from a plan to layers in the store.

pub mod assembly;
pub mod capture;
pub mod content;
pub mod listing;
pub mod settle;
pub mod tree;
pub mod view;
