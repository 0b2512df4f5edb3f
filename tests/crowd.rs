//! Many instances at once, and a death at any moment: each is healthy, and nothing is left.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::support::launch::{Bench, exists, kill, soon};
use crate::support::user::User;

const CROWD: usize = 50;
/// What a keeper and a relay may hold of memory that is theirs alone.
const OWN_KIBIBYTES: u64 = 8 << 10;

#[test]
fn fifty_instances_start_at_once_and_each_is_healthy() {
    let bench = Bench::new(None);
    bench.sbx(&["build", "web"]).success();
    let answers: Vec<serde_json::Value> = std::thread::scope(|scope| {
        let name = |at: usize| format!("web-{at}");
        let start = |at| {
            let bench = &bench;
            scope.spawn(move || bench.detach(&["--name", &name(at), "web"]))
        };
        let started: Vec<_> = (0..CROWD).map(start).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let rows = bench.ps();
    assert_eq!(rows.len(), CROWD);
    assert!(rows.iter().all(|row| row["status"] == "running"), "{rows:?}");
    let mut ports: Vec<_> = answers.iter().map(|answer| answer["ports"]["80"].as_u64()).collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), CROWD, "each has a port of its own");
    for answer in &answers {
        let name = answer["name"].as_str().unwrap();
        let own = private_kibibytes(bench.number(name, "keeper"));
        assert!(own < OWN_KIBIBYTES, "{name}: its keeper holds {own} KiB");
    }
    std::thread::scope(|scope| {
        for answer in &answers {
            let (bench, name) = (&bench, answer["name"].as_str().unwrap());
            scope.spawn(move || bench.sbx(&["rm", "-f", name]).success());
        }
    });
    let ids: Vec<_> =
        answers.iter().map(|answer| answer["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(leftovers(&bench, &ids), Leftovers::default());
}

/// Memory that would be free if the process were not there.
fn private_kibibytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

/// What a machine has of instances.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leftovers {
    instances: usize,
    files: Vec<PathBuf>,
    groups: Vec<PathBuf>,
    mounts: Vec<String>,
    processes: Vec<String>,
    ids: Vec<PathBuf>,
}

/// Of instances with these ids, and of whatever else this bench started.
fn leftovers(bench: &Bench<'_>, ids: &[String]) -> Leftovers {
    let state = bench.state();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let slots = fs::read_dir("/run/sbx/ids").into_iter().flatten().flatten();
    // one that leads nowhere is free
    let ours = |slot: &PathBuf| slot.exists() && fs::read_link(slot).unwrap().starts_with(&state);
    Leftovers {
        instances: bench.ps().len(),
        files: fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect(),
        groups: ids.iter().flat_map(|id| bench.groups(id)).collect(),
        mounts: mounts
            .lines()
            .filter(|line| line.contains(state.to_str().unwrap()))
            .map(str::to_owned)
            .collect(),
        processes: keepers(bench),
        ids: slots.map(|slot| slot.path()).filter(ours).collect(),
    }
}

/// Processes of keepers that hold something of this bench's.
fn keepers(bench: &Bench<'_>) -> Vec<String> {
    let state = bench.state();
    let holds = |process: &PathBuf| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut files = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        files.any(|file| file.starts_with(&state))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let found = processes.filter(|process| process.join("fd").is_dir() && holds(process));
    found.map(|process| process.display().to_string()).collect()
}

fn any_moment(bench: &Bench<'_>) {
    bench.sbx(&["build", "web"]).success();
    let mut ids = Vec::new();
    for step in 0..24 {
        let name = format!("victim-{step}");
        let mut caller = bench.spawn(&["run", "--name", &name, "web"]);
        std::thread::sleep(Duration::from_millis(step * 3));
        let record = record(bench, &name);
        ids.extend(record["id"].as_str().map(str::to_owned));
        match step % 3 {
            0 => kill(caller.id(), "KILL"),
            1 => strike(&record, "keeper", caller.id()),
            _ => strike(&record, "first", caller.id()),
        }
        caller.wait().unwrap();
    }
    let rows = bench.ps();
    soon("the end of everything", || bench.ps().iter().all(|row| row["status"] != "running"));
    age_what_has_no_record(bench);
    let end = Instant::now() + Duration::from_secs(20);
    while leftovers(bench, &ids) != Leftovers::default() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(leftovers(bench, &ids), Leftovers::default());
    for port in rows.iter().filter_map(|row| row["ports"]["80"].as_u64()) {
        let port = u16::try_from(port).unwrap();
        drop(TcpListener::bind(("127.0.0.1", port)).expect("its port is free"));
    }
}

/// What is known of an instance at this moment.
fn record(bench: &Bench<'_>, name: &str) -> serde_json::Value {
    let record = fs::read(bench.state().join(name).join("record")).unwrap_or_default();
    serde_json::from_slice(&record).unwrap_or_default()
}

/// Whoever makes a directory has a minute to write down what it is for: here that has passed.
fn age_what_has_no_record(bench: &Bench<'_>) {
    let dirs = fs::read_dir(bench.state()).unwrap().map(|entry| entry.unwrap().path());
    for dir in dirs.filter(|dir| !dir.join("record").exists()) {
        let long_ago = SystemTime::now() - Duration::from_secs(120);
        // it may go at this very moment
        drop(fs::File::open(dir).and_then(|dir| dir.set_modified(long_ago)));
    }
}

/// Kills a process of the instance's that is known by then, or the caller.
fn strike(record: &serde_json::Value, field: &str, caller: u32) {
    let known = record[field].as_u64().and_then(|pid| u32::try_from(pid).ok());
    match known.filter(|pid| exists(*pid)) {
        // it may end by itself at this very moment
        Some(pid) => {
            drop(std::process::Command::new("kill").args(["-9", &pid.to_string()]).output())
        }
        None => kill(caller, "KILL"),
    }
}

#[test]
fn a_death_at_any_moment_leaves_nothing_of_roots() {
    any_moment(&Bench::new(None));
}

#[test]
fn a_death_at_any_moment_leaves_nothing_of_an_ordinary_users() {
    let user = User::new();
    any_moment(&Bench::new(Some(&user)));
}
