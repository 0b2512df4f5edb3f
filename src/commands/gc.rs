//! `sbx gc`: takes away what no project, image or running process needs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use sbx::reference::Reference;
use sbx::store::{Class, Collected, Goal, Heap, Loose, Share, Store, shown as size};

use super::Global;
use super::clean::remove_as_owner;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Workspace, check_named_store, find_root, now_nanos, open_store};

/// A pulled image that was not used for so long is forgotten, and a project that was not seen and is not
/// there.
const GONE: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;

#[derive(Args)]
pub struct GcArguments {
    /// Show what takes the space and what would go, and take nothing away
    #[arg(long)]
    dry_run: bool,
    /// Keep what was used in the last days, though nothing needs it
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    keep: u32,
    /// Take this image away, which was pulled
    #[arg(long, value_name = "REF", conflicts_with = "dry_run")]
    forget: Vec<Reference>,
}

#[derive(Serialize)]
struct Answer {
    dry_run: bool,
    /// Bytes that the store may take, if there is a limit.
    cap: Option<u64>,
    #[serde(flatten)]
    collected: Collected,
}

pub fn run(global: &Global, arguments: &GcArguments, ui: &Ui) -> Outcome {
    let store = open(global, ui)?;
    if !arguments.dry_run && remove_as_owner(store.root())? {
        return Ok(());
    }
    for reference in &arguments.forget {
        if !store.forget(&reference.to_string())? {
            let message = format!("no image was pulled by `{reference}`, or it is gone");
            return Err(
                Failure::input(message).with_help("`sbx gc --dry-run` shows which are there")
            );
        }
    }
    let now = now_nanos() / 1_000_000_000;
    let loose = match i64::from(arguments.keep) {
        0 => Loose::All,
        days => Loose::UnusedSince(now - days * DAY as i64),
    };
    let cap = store.cap_bytes(None)?;
    let goal = Goal { cap, loose, unseen: Some(GONE), dry_run: arguments.dry_run };
    let (collected, crowd) = store.collect(&goal)?;
    let answer = Answer { dry_run: arguments.dry_run, cap, collected };
    ui.answer(&answer, || text(&answer));
    match crowd.filter(|_| !arguments.dry_run) {
        None => Ok(()),
        Some(crowd) => {
            let message = format!("the store is larger than its cap, {crowd}");
            Err(Failure::world(message).with_help("raise the cap, or wait for what is running"))
        }
    }
}

/// The store, which knows what the project here needs, if there is one. A store that was named is
/// collected in without it.
fn open(global: &Global, ui: &Ui) -> Outcome<Store> {
    check_named_store(global)?;
    let project = Workspace::open(global).and_then(|workspace| {
        workspace.register(&workspace.read_lock()?)?;
        Ok(workspace.store)
    });
    let failure = match project {
        Ok(store) => return Ok(store),
        Err(failure) => failure,
    };
    let root = find_root(global).ok();
    let Some(store) = open_store(global, root.as_deref())? else { return Err(failure) };
    if root.is_some() {
        ui.fail(&failure);
        ui.say("note: what the project needs of the store is what it told of last");
    }
    Ok(store)
}

fn text(answer: &Answer) -> String {
    let Answer { dry_run, cap, collected } = answer;
    let goes = if *dry_run { "would go" } else { "gone" };
    let mut lines = Vec::new();
    for (word, heaps) in [(goes, &collected.removed), ("stays", &collected.kept)] {
        let line = |(class, heap): (&Class, &Heap)| {
            format!("{word:9} {:32} {:>7}  {:>10}", name(*class), heap.count, size(heap.bytes))
        };
        lines.extend(heaps.iter().map(line));
    }
    for Share { name, pulled, bytes, alone } in &collected.shares {
        let what = if *pulled { "pulled" } else { "image" };
        lines.push(format!("{what:9} {name:40}  {:>10}, {} alone", size(*bytes), size(*alone)));
    }
    lines.extend(
        collected.forgotten.iter().map(|name| format!("{goes:9} {name}, which was pulled")),
    );
    let gone = |root: &PathBuf| {
        format!(
            "{goes:9} all that is kept for the project of {}, which is not there",
            root.display()
        )
    };
    lines.extend(collected.absent.iter().map(gone));
    if collected.held > 0 {
        lines.push(format!("{} are held by builds and instances that run", size(collected.held)));
    }
    let cap = cap.map(|cap| format!(" of at most {}", size(cap))).unwrap_or_default();
    lines.push(format!(
        "the store {} {}{cap}, {} before",
        if *dry_run { "would take" } else { "takes" },
        size(collected.after),
        size(collected.before)
    ));
    lines.join("\n")
}

fn name(class: Class) -> &'static str {
    match class {
        Class::Image => "layers and documents of images",
        Class::Layer => "layers that no image ships",
        Class::Twin => "compressed layers",
        Class::Source => "sources",
        Class::Tree => "unpacked layers",
        Class::Tool => "programs that resolve",
        Class::Part => "beginnings of downloads",
        Class::Record => "records and logs",
        Class::Draft => "processes' drafts",
    }
}
