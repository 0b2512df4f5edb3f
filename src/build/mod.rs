//! Building: from a plan to layers in the store.

pub mod assembly;
mod base;
pub mod builder;
mod bytecode;
pub mod capture;
pub mod compose;
pub mod content;
mod copy;
mod environments;
pub mod extract;
mod extraction;
pub mod files;
pub mod listing;
pub mod local;
pub mod npm;
mod pack;
mod packages;
pub mod room;
pub mod run;
mod schedule;
pub mod settle;
mod sources;
pub mod toolroom;
pub mod tree;
pub mod unpack;
pub mod view;
pub mod wheels;
