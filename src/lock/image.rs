//! Images that a lock expects: what a plan gave to whoever recorded it.
//!
//! An entry is of a Key, which covers all that an image is made of. So it says something of exactly what was
//! recorded, and nothing of what has been changed since: under another Key there is no expectation.

use super::Lock;
use crate::digest::Digest;
use crate::name::SandboxName;
use crate::platform::Platform;
use crate::store::Key;

/// What a sandbox's plan gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLock {
    /// Of the plan.
    pub key: Key,
    /// The ImageId.
    pub image: Digest,
}

/// What a lock says of the image of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Nothing,
    /// It knows an image of the sandbox as it was declared before.
    Outdated,
    Image(Digest),
}

impl Lock {
    /// What is expected of a plan with this Key.
    pub fn expected(&self, sandbox: &SandboxName, platform: Platform, key: &Key) -> Expected {
        match self.images.get(&(sandbox.clone(), platform)) {
            None => Expected::Nothing,
            Some(known) if known.key == *key => Expected::Image(known.image),
            Some(_) => Expected::Outdated,
        }
    }

    /// Drops images of plans that `find_key` does not answer the same Key for.
    pub fn retain_images(&mut self, find_key: impl Fn(&SandboxName, Platform) -> Option<Key>) {
        self.images.retain(|(sandbox, platform), known| {
            find_key(sandbox, *platform).is_some_and(|key| key == known.key)
        });
    }
}
