//! What a program may write to where it is confined most tightly, held by the kernel's Landlock beside
//! the mounts (landlock(7)): a mount that should not be there opens no file.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};

use super::super::child::{Setup, Step};

/// What fails where the kernel cannot do it.
pub const UNLOCKED: &str = "restrict files with Landlock";

/// With truncating, which older ones let through: Linux 6.2.
const KERNEL: ABI = ABI::V3;

/// Devices know themselves what may be written. /proc does, too, but there is much of it, and programs
/// get along without.
const DEVICES: &str = "/dev";

/// Everything may be read, these places written to, from now on and by all that comes of this process.
pub(super) fn restrict(writable: &[String]) -> Setup<()> {
    lay(writable).step(UNLOCKED)
}

fn lay(writable: &[String]) -> Result<(), RulesetError> {
    let all = AccessFs::from_all(KERNEL);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .create()?
        .set_compatibility(CompatLevel::BestEffort)
        .no_new_privs(false);
    if let Ok(root) = PathFd::new("/") {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::from_read(KERNEL)))?;
    }
    let places = writable.iter().map(String::as_str).chain([DEVICES]).map(Path::new);
    // one that is not there cannot be written to
    for place in places.filter_map(|place| PathFd::new(place).ok()) {
        // a rule for a file has no rights of directories, whatever it is given
        rules = rules.add_rule(PathBeneath::new(place, all))?;
    }
    rules.restrict_self().map(drop)
}
