//! The collector: takes away what nobody needs, and under a cap also what can be had again.
//!
//! What goes first: what no lock, no image and no running process reaches, the longest unused first.
//! Then, only as far as a cap demands, what can be made or fetched again: unpacked trees, compressed
//! twins, sources, layers that no image ships, programs that resolve, and last images that were pulled.
//! Never the newest image of a project, and never what a lease holds.
//!
//! Names go under the closed gate (see `lease`), by rename into the collector's own corner; bytes go
//! after it is open again. A collector that is killed leaves a corner for the next sweep, and nothing
//! that still had a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::inventory::{Class, Inventory, Item, measure};
use super::lease::{Gate, Holdings, abandoned, gate_path};
use super::mark::{Mark, Marks, Standing};
use super::room::{Crowd, claimed};
use super::seal::SEAL;
use super::share::{Share, shares};
use super::vouched::UNVOUCHED;
use super::{DIRS, Store, StoreError, StoreLock, remove};
use crate::fsx::IoAt;

/// Which of the things that nobody needs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loose {
    All,
    /// Those that were not used since then (seconds since 1970).
    UnusedSince(i64),
    /// As many as the cap demands.
    Needed,
}

/// What a collection is to reach.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Bytes that the store may take.
    pub cap: Option<u64>,
    pub loose: Loose,
    /// Forget pulled images that were not used, and projects that are gone and were not seen, for so long.
    pub unseen: Option<Duration>,
    /// Take nothing away, only say what would go.
    pub dry_run: bool,
}

/// Things of a class, and what they take.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Heap {
    pub count: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// Bytes of the disk before and after.
    pub before: u64,
    pub after: u64,
    pub removed: BTreeMap<Class, Heap>,
    pub kept: BTreeMap<Class, Heap>,
    /// Of what is kept: bytes that running builds and instances hold.
    pub held: u64,
    /// Of what is kept: bytes of newest images, which a cap does not touch.
    pub images: u64,
    /// Names of pulled images that went.
    pub forgotten: Vec<String>,
    /// Where projects were that are gone, and for which nothing is kept any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<PathBuf>,
    /// What each image takes, where nothing was taken away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
}

/// What of a store is to go.
struct Verdict {
    collected: Collected,
    victims: Vec<Item>,
    crowd: Option<Crowd>,
}

impl Store {
    /// Collects. Answers what went, even where the cap could not be reached: then `crowd` says why.
    pub fn collect(&self, goal: &Goal) -> Result<(Collected, Option<Crowd>), StoreError> {
        if goal.dry_run {
            return self.foresee(goal);
        }
        // in this order: whoever has the index may be waiting for room
        let index = self.lock("index")?;
        let _alone = self.lock("room")?;
        self.collect_for(goal, None, Some(index))
    }

    /// Says what would go. It takes no lock: who may only read a store may look.
    fn foresee(&self, goal: &Goal) -> Result<(Collected, Option<Crowd>), StoreError> {
        let claims = Claims::read(self, None)?;
        let inventory = Inventory::take(&self.root)?;
        // an ordinary user collects in the namespace that the trees are of
        let rights = Rights { trees: true, pulled: true };
        let marks = Marks::read(&self.root, goal.unseen)?;
        let shares = shares(&marks, &inventory);
        let mut verdict = judge(&marks, inventory, goal, &claims, rights);
        verdict.collected.shares = shares;
        verdict.abandon(&abandoned(&self.root)?);
        Ok((verdict.collected, verdict.crowd))
    }

    /// Collects so that this process's drafts may come to so many bytes.
    pub(super) fn collect_under(&self, cap: u64, claim: u64) -> Result<Option<Crowd>, StoreError> {
        let goal = Goal { cap: Some(cap), loose: Loose::Needed, unseen: None, dry_run: false };
        Ok(self.collect_for(&goal, Some(claim), None)?.1)
    }

    /// The lock `room` must be held; whoever has that of the index, too, hands it on.
    fn collect_for(
        &self,
        goal: &Goal,
        claim: Option<u64>,
        index: Option<StoreLock>,
    ) -> Result<(Collected, Option<Crowd>), StoreError> {
        let may_remove = rustix::process::geteuid().is_root();
        match self.sweep() {
            // a corner of another owner's files is left to whoever may remove it
            Err(_) if !may_remove => {}
            result => result?,
        }
        // claims before sizes: what a process commits in between is counted twice, and not never
        let claims = Claims::read(self, claim)?;
        let inventory = Inventory::take(&self.root)?;
        let trash = self.own_lease()?.next();
        let gate = Gate::close(&gate_path(&self.root))?;
        // who has the index may be waiting for the gate, or for room: so it is not waited for here
        let index = match index {
            None => self.try_lock("index")?,
            ours => ours,
        };
        let rights = Rights { trees: may_remove, pulled: index.is_some() };
        let marks = Marks::read(&self.root, goal.unseen)?;
        let verdict = judge(&marks, inventory, goal, &claims, rights);
        // what cannot fit even so is refused, and costs nobody anything
        if claim.is_some() && verdict.crowd.is_some() {
            return Ok((Collected::default(), verdict.crowd));
        }
        let Collected { forgotten, absent, .. } = &verdict.collected;
        if !forgotten.is_empty() || !absent.is_empty() {
            self.forget_gone(&marks.gone, forgotten)?;
        }
        drop(index);
        if !verdict.victims.is_empty() {
            fs::create_dir(&trash).at("create", &trash)?;
            throw(&verdict.victims, &trash)?;
        }
        drop(gate);
        remove(&trash)?;
        Ok((verdict.collected, verdict.crowd))
    }

    /// Removes everything of the store, unless a process works with it.
    pub fn remove_all(self) -> Result<Vec<PathBuf>, StoreError> {
        self.sweep()?;
        let holdings = Holdings::read(&self.root)?;
        if !holdings.corners.is_empty() {
            return Err(StoreError::Busy { path: self.root, corners: holdings.corners });
        }
        let tops = DIRS.iter().map(|dir| dir.split('/').next().unwrap_or(dir));
        let mut removed = Vec::new();
        for name in tops.chain([UNVOUCHED, "index.json", "oci-layout", SEAL]) {
            let path = self.root.join(name);
            if path.exists() {
                remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// Moves what is to go out of its place. What went by itself is no loss.
fn throw(victims: &[Item], trash: &Path) -> Result<(), StoreError> {
    let paths = victims.iter().flat_map(|item| &item.paths);
    for (number, path) in paths.enumerate() {
        match fs::rename(path, trash.join(number.to_string())) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.at("remove", path)?,
        }
    }
    Ok(())
}

/// Decides what is to go. The marks were read behind the closed gate, unless nothing is to be taken away.
fn judge(
    marks: &Marks,
    inventory: Inventory,
    goal: &Goal,
    claims: &Claims,
    rights: Rights,
) -> Verdict {
    let mut items: Vec<(Mark, Item)> =
        inventory.items.into_iter().map(|item| (item.mark(marks), item)).collect();
    items.sort_by_key(|(mark, item)| (order(mark), item.paths.first().cloned()));
    let sizes: u64 = items.iter().map(|(_, item)| item.size).sum();
    let mut verdict = Verdict::new(inventory.fixed + sizes, claims);
    // what is claimed counts as if it were there
    let mut demand = claims.reserved.saturating_add(inventory.fixed + sizes);
    let (mut begun, mut turns) = (0, BTreeSet::new());
    for (mark, item) in items {
        let over = goal.cap.is_some_and(|cap| demand > cap);
        let goes = match mark.standing {
            _ if mark.class == Some(Class::Tree) && !rights.trees => false,
            Standing::Pulled => rights.pulled && (over || mark.turn == begun),
            Standing::Loose => over || is_due(goal.loose, mark.used),
            Standing::Rebuildable => over && mark.class != Some(Class::Record),
            Standing::Kept | Standing::Held => false,
        };
        if goes {
            begun = mark.turn;
            turns.insert(begun);
            demand -= item.size;
            verdict.take(&mark, item);
        } else {
            verdict.keep(&mark, &item);
        }
    }
    verdict.collected.forgotten = marks.forgotten(&turns);
    verdict.collected.absent = marks.gone.roots();
    let Collected { held, images, .. } = verdict.collected;
    verdict.crowd = goal.cap.filter(|cap| demand > *cap).map(|cap| Crowd {
        excess: demand - cap,
        held: (held - claims.written).saturating_add(claims.reserved),
        images,
    });
    verdict
}

/// What a collector may take away, apart from what it may take anyway.
#[derive(Clone, Copy)]
struct Rights {
    /// Unpacked layers have files of other owners.
    trees: bool,
    /// Pulled images are listed.
    pulled: bool,
}

impl Verdict {
    /// Nothing decided yet, of a store that takes so much beside drafts.
    fn new(sizes: u64, claims: &Claims) -> Self {
        let Claims { corners, written, .. } = *claims;
        let before = sizes + written;
        let mut collected =
            Collected { before, after: before, held: written, ..Collected::default() };
        if written > 0 {
            collected.kept.insert(Class::Draft, Heap { count: corners, bytes: written });
        }
        Verdict { collected, victims: Vec::new(), crowd: None }
    }

    fn take(&mut self, mark: &Mark, item: Item) {
        add(&mut self.collected.removed, mark, &item);
        self.collected.after -= item.size;
        self.victims.push(item);
    }

    fn keep(&mut self, mark: &Mark, item: &Item) {
        add(&mut self.collected.kept, mark, item);
        match mark.standing {
            Standing::Held => self.collected.held += item.size,
            Standing::Kept => self.collected.images += item.size,
            _ => {}
        }
    }

    /// What processes that are gone left.
    fn abandon(&mut self, corners: &[PathBuf]) {
        let bytes = corners.iter().map(|corner| measure(corner)).sum();
        if !corners.is_empty() {
            let heap = Heap { count: corners.len() as u64, bytes };
            self.collected.removed.insert(Class::Draft, heap);
            self.collected.before += bytes;
        }
    }
}

fn add(heaps: &mut BTreeMap<Class, Heap>, mark: &Mark, item: &Item) {
    let heap = heaps.entry(mark.class.unwrap_or(Class::Record)).or_default();
    *heap = Heap { count: heap.count + 1, bytes: heap.bytes + item.size };
}

fn is_due(loose: Loose, used: i64) -> bool {
    match loose {
        Loose::All => true,
        Loose::UnusedSince(time) => used < time,
        Loose::Needed => false,
    }
}

/// What is asked first whether it may go.
fn order(mark: &Mark) -> (Standing, usize, u8, i64) {
    let rank = match mark.class {
        Some(Class::Tree) => 0,
        Some(Class::Twin) => 1,
        Some(Class::Part) => 2,
        Some(Class::Source) => 3,
        Some(Class::Layer) => 4,
        _ => 5,
    };
    let rank = if mark.standing == Standing::Rebuildable { rank } else { 0 };
    let turn = if mark.standing == Standing::Pulled { mark.turn } else { 0 };
    (mark.standing, turn, rank, mark.used)
}

/// What processes that run have written into their corners, and what they may come to.
struct Claims {
    corners: u64,
    /// Bytes.
    written: u64,
    /// Bytes, of sources that are still to come as well; at least what is written.
    reserved: u64,
}

impl Claims {
    /// `own`: what this process's drafts are to count as.
    fn read(store: &Store, own: Option<u64>) -> Result<Self, StoreError> {
        let holdings = Holdings::read(&store.root)?;
        let lease = store.lease.get();
        let mut claims = Claims { corners: holdings.corners.len() as u64, written: 0, reserved: 0 };
        for corner in &holdings.corners {
            let written = measure(corner);
            let own = own.filter(|_| lease.is_some_and(|lease| lease.dir() == corner));
            claims.written += written;
            claims.reserved += own.or_else(|| claimed(corner)).unwrap_or(0).max(written);
        }
        let missing = |(name, size): (&String, &Option<u64>)| {
            let size = size.filter(|_| !store.root.join("blobs").join(name).exists())?;
            let hex = name.rsplit('/').next().unwrap_or_default();
            let part = store.root.join("parts").join(hex);
            let begun = fs::metadata(part).map_or(0, |meta| meta.len());
            // whoever announces it may announce anything
            Some(size.checked_next_multiple_of(4096).unwrap_or(size).saturating_sub(begun))
        };
        let missing = holdings.blobs.iter().filter_map(missing);
        claims.reserved = missing.fold(claims.reserved, u64::saturating_add);
        Ok(claims)
    }
}
