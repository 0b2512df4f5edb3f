//! Limits of an instance: control groups of either version, or of both side by side (cgroups(7)).
//!
//! A controller lives in a hierarchy of its own (version 1) or in the unified one. A group lies
//! below the starter's own group in version 1, so that what limits the starter limits the instance;
//! version 2 lets no group have both processes and limited children, so there it is a sibling, or,
//! for root, a child of `sbx` at the top. A process joins by writing `0` from inside: moving another
//! one waits for every processor, three hierarchies take 30 ms.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What may be used; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// Groups of one instance, one a hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    dir: PathBuf,
    unified: bool,
    /// File of the group and what is written to it.
    settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    file: String,
    value: String,
    /// Not every kernel has it.
    optional: bool,
}

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("this machine has no control group for `{0}`")]
    Absent(&'static str),
    #[error("control groups cannot be read: {0}")]
    Read(io::Error),
    #[error("the limit cannot be set: {}: {source}", path.display())]
    Set { path: PathBuf, source: io::Error },
}

/// Hierarchies by controller, and where this process is in them.
struct Hierarchies {
    mounts: Vec<(PathBuf, BTreeSet<String>)>,
    unified: Option<PathBuf>,
    own: String,
}

/// One controller's limit.
struct Limit {
    controller: &'static str,
    one: Vec<Setting>,
    two: Vec<Setting>,
}

fn setting(file: &str, value: impl ToString) -> Setting {
    Setting { file: file.to_owned(), value: value.to_string(), optional: false }
}

fn optional(file: &str, value: impl ToString) -> Setting {
    Setting { optional: true, ..setting(file, value) }
}

/// The period over which processor time is shared out, in microseconds.
const PERIOD: u64 = 100_000;

impl Quota {
    pub fn is_none(&self) -> bool {
        *self == Quota::default()
    }

    fn limits(&self) -> Vec<Limit> {
        let memory = self.memory.map(|bytes| Limit {
            controller: "memory",
            one: vec![
                setting("memory.limit_in_bytes", bytes),
                optional("memory.memsw.limit_in_bytes", bytes),
            ],
            two: vec![setting("memory.max", bytes), optional("memory.swap.max", 0)],
        });
        let pids = self.pids.map(|count| Limit {
            controller: "pids",
            one: vec![setting("pids.max", count)],
            two: vec![setting("pids.max", count)],
        });
        let cpu = self.milli_cpus.map(|milli| {
            let quota = u64::from(milli) * PERIOD / 1000;
            Limit {
                controller: "cpu",
                one: vec![setting("cpu.cfs_period_us", PERIOD), setting("cpu.cfs_quota_us", quota)],
                two: vec![setting("cpu.max", format!("{quota} {PERIOD}"))],
            }
        });
        [memory, pids, cpu].into_iter().flatten().collect()
    }
}

impl Cgroup {
    /// Where the groups of an instance will be. Nothing is made yet: whoever starts it writes this
    /// down first.
    pub fn plan(name: &str, quota: &Quota) -> Result<Self, CgroupError> {
        let mut cgroup = Cgroup::default();
        if quota.is_none() {
            return Ok(cgroup);
        }
        let found = Hierarchies::read().map_err(CgroupError::Read)?;
        for Limit { controller, one, two } in quota.limits() {
            let (parent, unified) =
                found.parent(controller).ok_or(CgroupError::Absent(controller))?;
            let dir = parent.join(format!("sbx-{name}"));
            let settings = if unified { two } else { one };
            match cgroup.groups.iter_mut().find(|group| group.dir == dir) {
                Some(group) => group.settings.extend(settings),
                None => cgroup.groups.push(Group { dir, unified, settings }),
            }
        }
        Ok(cgroup)
    }

    /// The groups that a process of this machine is in, which somebody else made: to be joined only.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let found = Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo")?, &own);
        let group = |mount: &Path, controller: &str, unified| {
            let path = found.own_path(controller)?.trim_start_matches('/');
            let dir = mount.join(path);
            dir.is_dir().then_some(Group { dir, unified, settings: Vec::new() })
        };
        let one = found.mounts.iter().filter_map(|(mount, options)| {
            options.iter().find_map(|controller| group(mount, controller, false))
        });
        let two = found.unified.iter().filter_map(|mount| group(mount, "", true));
        Ok(Cgroup { groups: one.chain(two).collect() })
    }

    /// Makes the groups and sets their limits.
    pub fn create(&self) -> Result<(), CgroupError> {
        for group in &self.groups {
            group.create().inspect_err(|_| {
                self.remove();
            })?;
        }
        Ok(())
    }

    /// Moves this process, which has one thread, into the groups.
    pub(super) fn join(&self) -> io::Result<()> {
        for group in &self.groups {
            let file = if group.unified { "cgroup.procs" } else { "tasks" };
            fs::write(group.dir.join(file), "0")?;
        }
        Ok(())
    }

    /// Removes the groups, which have no processes any more, or will have none in a moment; `false`
    /// where some had. What is not there is no error.
    pub fn remove(&self) -> bool {
        self.groups.iter().filter(|group| !group.remove()).count() == 0
    }
}

impl Group {
    fn remove(&self) -> bool {
        [0, 1, 5, 20, 100, 400].into_iter().any(|pause| {
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let removed = fs::remove_dir(&self.dir);
            removed.map_or_else(|error| error.raw_os_error() != Some(libc::EBUSY), |()| true)
        })
    }

    fn create(&self) -> Result<(), CgroupError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CgroupError::Set { path, source }
        };
        if self.unified {
            self.enable().map_err(failed(&self.dir))?;
        }
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&self.dir)(error));
            }
            _ => {}
        }
        for setting in &self.settings {
            let path = self.dir.join(&setting.file);
            match fs::write(&path, &setting.value) {
                Err(error) if !setting.optional => return Err(failed(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands the controllers down to the group's parent's children. Root's `sbx` is made for that.
    fn enable(&self) -> io::Result<()> {
        let Some(parent) = self.dir.parent() else { return Ok(()) };
        if parent.file_name().is_some_and(|name| name == "sbx") && !parent.exists() {
            fs::create_dir(parent)?;
        }
        for setting in &self.settings {
            let controller = setting.file.split('.').next().unwrap_or_default();
            for dir in [parent.parent(), Some(parent)].into_iter().flatten() {
                let path = dir.join("cgroup.subtree_control");
                let on = fs::read_to_string(&path).unwrap_or_default();
                if !on.split_whitespace().any(|word| word == controller) {
                    // where it may not be written, the group's own file is missing, and says so
                    fs::write(&path, format!("+{controller}")).unwrap_or_default();
                }
            }
        }
        Ok(())
    }
}

impl Hierarchies {
    fn read() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(&mounts, &fs::read_to_string("/proc/self/cgroup")?))
    }

    fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Hierarchies { mounts: Vec::new(), unified: None, own: own.to_owned() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut words = right.split(' ');
            match (words.next(), words.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    found.mounts.push((point, options.split(',').map(str::to_owned).collect()));
                }
                (Some("cgroup2"), _) => found.unified = Some(point),
                _ => {}
            }
        }
        found
    }

    /// The group to make a child of, and whether it is of the unified hierarchy.
    fn parent(&self, controller: &str) -> Option<(PathBuf, bool)> {
        if let Some((mount, _)) = self.mounts.iter().find(|(_, set)| set.contains(controller)) {
            return Some((join(mount, self.own_path(controller)?), false));
        }
        let mount = self.unified.as_ref()?;
        let known = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        if !known.split_whitespace().any(|word| word == controller) {
            return None;
        }
        if rustix::process::geteuid().is_root() && !super::mounts::in_user_namespace() {
            return Some((mount.join("sbx"), true));
        }
        let own = join(mount, self.own_path("")?);
        Some((own.parent().filter(|dir| dir.starts_with(mount))?.to_owned(), true))
    }

    /// Where this process is in a controller's hierarchy; the unified one has no controller here.
    fn own_path(&self, controller: &str) -> Option<&str> {
        self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            controllers.split(',').any(|word| word == controller).then(|| fields.next())?
        })
    }
}

/// A group that a namespace or a container shows no way to counts as the top.
fn join(mount: &Path, own: &str) -> PathBuf {
    let path = mount.join(own.trim_start_matches('/'));
    if path.is_dir() { path } else { mount.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_found_in_the_hierarchy_that_has_it() {
        let mounts = "30 1 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
                      31 1 0:2 / /cg/mem rw shared:3 - cgroup cgroup rw,memory\n\
                      32 1 0:3 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/absent\n1:cpu:/\n0::/x\n";
        let found = Hierarchies::parse(mounts, own);
        assert_eq!(found.parent("cpu"), Some((PathBuf::from("/cg/cpu/"), false)));
        assert_eq!(found.parent("memory"), Some((PathBuf::from("/cg/mem"), false)));
        assert_eq!(found.own_path(""), Some("/x"));
        assert_eq!(found.parent("pids"), None);
    }

    #[test]
    fn half_a_processor_is_half_a_period() {
        let limits = Quota { milli_cpus: Some(500), ..Quota::default() }.limits();
        assert_eq!(limits[0].two, [setting("cpu.max", "50000 100000")]);
    }
}
