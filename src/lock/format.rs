//! The text of a lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;

use super::{ArchiveName, DebPin, ImageLock, LayerLock, Lock, Pin, RequestId, Words};
use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::{self, IoAt, PathIo};
use crate::name::{LayerName, SandboxName};
use crate::platform::Platform;
use crate::store::Key;

/// Version of the lock's format, its first line.
pub const FORMAT: &str = "sbx-lock 1";

/// A lock that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("{}: begins with `{found}`, expected `{FORMAT}`", path.display())]
    Format { path: PathBuf, found: String },
    #[error("{}:{line}: has an unresolved merge conflict", path.display())]
    Conflict { path: PathBuf, line: usize },
    #[error("{}:{line}: {reason}", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
}

impl LockError {
    pub fn blame(&self) -> Blame {
        match self {
            LockError::Io(_) => Blame::World,
            _ => Blame::Input,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            LockError::Io(_) => None,
            LockError::Conflict { .. } => Some(
                "keep either side of each line, or delete the marked lines: `sbx lock` resolves what is missing",
            ),
            _ => Some("restore the lock from version control, or delete it and run `sbx lock`"),
        }
    }
}

impl Lock {
    /// Reads a lock; one that is not there is empty.
    pub fn read(path: &Path) -> Result<Lock, LockError> {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lock::default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(LockError::Line {
                path: path.to_owned(),
                line: 1,
                reason: "the file is not UTF-8".to_owned(),
            }),
            result => Lock::parse(path, &result.at("read", path)?),
        }
    }

    /// Writes the lock whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        Ok(fsx::write_atomic(path, self.to_text().as_bytes())?)
    }

    /// Parses the text of a lock; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Lock, LockError> {
        let mut lines = text.lines().enumerate();
        match lines.next() {
            None => return Ok(Lock::default()),
            Some((_, FORMAT)) => {}
            Some((_, found)) if is_conflict(found) => {
                return Err(LockError::Conflict { path: path.to_owned(), line: 1 });
            }
            Some((_, found)) => {
                let found = found.chars().take(40).collect();
                return Err(LockError::Format { path: path.to_owned(), found });
            }
        }
        let mut lock = Lock::default();
        let mut debs: BTreeMap<(LayerName, Platform), Vec<DebPin>> = BTreeMap::new();
        for (at, line) in lines {
            if is_conflict(line) {
                return Err(LockError::Conflict { path: path.to_owned(), line: at + 1 });
            }
            parse_line(line, &mut lock, &mut debs).map_err(|reason| LockError::Line {
                path: path.to_owned(),
                line: at + 1,
                reason,
            })?;
        }
        for ((layer, platform), mut pins) in debs {
            pins.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
            // pins of a layer that is not listed any more are what a merge left over
            if let Some(locked) = lock.layers.get_mut(&(layer, platform)) {
                locked.debs = pins;
            }
        }
        // pins of questions that nobody asks are what a merge left over, too
        lock.drop_unasked();
        lock.answers.values_mut().for_each(|pins| pins.sort());
        lock.check_duplicates(path)?;
        Ok(lock)
    }

    fn check_duplicates(&self, path: &Path) -> Result<(), LockError> {
        for ((layer, platform), locked) in &self.layers {
            let twice = locked
                .debs
                .windows(2)
                .find(|pair| pair[0].name == pair[1].name && pair[0].arch == pair[1].arch);
            if let Some([one, two]) = twice {
                let reason = format!(
                    "layer `{layer}` for {platform} pins `{}` twice, at {} and {}",
                    one.name, one.version, two.version
                );
                return Err(LockError::Line { path: path.to_owned(), line: 1, reason });
            }
        }
        Ok(())
    }

    /// The text of this lock: the format's name, then sorted lines.
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for ((archive, suite), date) in &self.releases {
            lines.push(format!("release {archive} {suite} {date}"));
        }
        for ((layer, platform), locked) in &self.layers {
            lines.push(format!("layer {layer} {platform} {}", locked.request));
            lines.extend(locked.debs.iter().map(|pin| deb_line(layer, *platform, pin)));
        }
        for ((layer, platform), uses) in &self.recipes {
            let line = |(request, kind): (&RequestId, &String)| {
                format!("recipe {layer} {platform} {kind} {request}")
            };
            lines.extend(uses.iter().map(line));
        }
        for (request, pins) in &self.answers {
            lines.extend(pins.iter().map(|pin| pin_line(request, pin)));
        }
        for ((sandbox, platform), ImageLock { key, image }) in &self.images {
            lines.push(format!("image {sandbox} {platform} {key} {image}"));
        }
        lines.sort_unstable();
        let mut text = format!("{FORMAT}\n");
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

fn is_conflict(line: &str) -> bool {
    ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|mark| line.starts_with(mark))
}

fn pin_line(request: &RequestId, pin: &Pin) -> String {
    let mut words = Words::default();
    pin.write(&mut words);
    format!("{} {request}{}", pin.kind(), words.into_text())
}

fn deb_line(layer: &LayerName, platform: Platform, pin: &DebPin) -> String {
    let DebPin { name, version, arch, mark, archive, size, digest, path } = pin;
    let mut line = String::with_capacity(200);
    let mark = mark.as_str();
    write!(
        line,
        "deb {layer} {platform} {name} {version} {arch} {mark} {archive} {size} {digest} {path}"
    )
    .unwrap_or_default();
    line
}

fn parse_line(
    line: &str,
    lock: &mut Lock,
    debs: &mut BTreeMap<(LayerName, Platform), Vec<DebPin>>,
) -> Result<(), String> {
    let mut words = line.split(' ');
    match words.next() {
        Some("deb") => {
            let (key, pin) = parse_deb(&mut words)?;
            match debs.get_mut(&key) {
                Some(pins) => pins.push(pin),
                None => drop(debs.insert(key, vec![pin])),
            }
        }
        Some("layer") => {
            let key = (word(&mut words, "layer")?, word(&mut words, "platform")?);
            let request = word(&mut words, "digest")?;
            if lock.layers.insert(key, LayerLock { request, debs: Vec::new() }).is_some() {
                return Err("the layer is listed twice".to_owned());
            }
        }
        Some("release") => {
            let archive = ArchiveName::new(text(&mut words, "archive")?);
            let suite = text(&mut words, "suite")?.to_owned();
            let date: Timestamp = word(&mut words, "date")?;
            let newest = lock.releases.entry((archive, suite)).or_insert(date);
            *newest = date.max(*newest);
        }
        Some("recipe") => {
            let key = (word(&mut words, "layer")?, word(&mut words, "platform")?);
            let kind = text(&mut words, "kind")?.to_owned();
            let request: RequestId = word(&mut words, "request")?;
            lock.answers.entry(request.clone()).or_default();
            lock.recipes.entry(key).or_default().insert(request, kind);
        }
        Some("image") => {
            let (key, image) = parse_image(&mut words)?;
            if lock.images.insert(key, image).is_some() {
                return Err("an image of the sandbox is recorded twice".to_owned());
            }
        }
        Some(kind) if Pin::is_kind(kind) => {
            let request: RequestId = word(&mut words, "request")?;
            let pin = Pin::parse(kind, &mut words)?;
            lock.answers.entry(request).or_default().push(pin);
        }
        Some("") => {}
        _ => {
            return Err(format!(
                "unknown kind of line `{}`",
                line.chars().take(40).collect::<String>()
            ));
        }
    }
    match words.next() {
        None => Ok(()),
        Some(rest) => Err(format!("`{rest}` is one word too many")),
    }
}

fn parse_image<'a>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<((SandboxName, Platform), ImageLock), String> {
    let place = (word(words, "sandbox")?, word(words, "platform")?);
    let image = ImageLock { key: Key(word(words, "key")?), image: word(words, "image's id")? };
    Ok((place, image))
}

fn parse_deb<'a>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<((LayerName, Platform), DebPin), String> {
    let key = (word(words, "layer")?, word(words, "platform")?);
    let name = text(words, "name")?;
    let version = text(words, "version")?;
    let arch = text(words, "architecture")?;
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c);
    if !name.bytes().all(plain) {
        return Err(format!("`{name}` is not the name of a Debian package"));
    }
    let mark = text(words, "mark")?
        .parse()
        .map_err(|()| "the mark is neither `auto` nor `manual`".to_owned())?;
    let archive = ArchiveName::new(text(words, "archive")?);
    let size = word(words, "size")?;
    let digest: Digest = word(words, "digest")?;
    let path = text(words, "path")?;
    let unsafe_path = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if unsafe_path {
        return Err(format!("path `{path}` leaves its archive"));
    }
    let pin = DebPin {
        name: name.into(),
        version: version.into(),
        arch: arch.into(),
        mark,
        archive,
        size,
        digest,
        path: path.into(),
    };
    Ok((key, pin))
}

fn text<'a>(words: &mut impl Iterator<Item = &'a str>, what: &str) -> Result<&'a str, String> {
    words.next().filter(|word| !word.is_empty()).ok_or_else(|| format!("the {what} is missing"))
}

fn word<'a, T: FromStr<Err: std::fmt::Display>>(
    words: &mut impl Iterator<Item = &'a str>,
    what: &str,
) -> Result<T, String> {
    text(words, what)?.parse().map_err(|error| format!("the {what} is wrong: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Expected, Mark};

    fn sample() -> Lock {
        let pin = |name: &str| DebPin {
            name: name.into(),
            version: "1:2.3-4+b1".into(),
            arch: "amd64".into(),
            mark: Mark::Auto,
            archive: ArchiveName::new("debian"),
            size: 1234,
            digest: Digest::of(name.as_bytes()),
            path: format!("pool/main/{name}.deb").into(),
        };
        let mut lock = Lock::default();
        let date = "2026-11-21T09:15:44Z".parse().unwrap();
        lock.releases.insert((ArchiveName::new("debian"), "trixie".to_owned()), date);
        let request = Digest::of(b"request");
        let locked = LayerLock { request, debs: vec![pin("a"), pin("b")] };
        lock.layers.insert(("debian".parse().unwrap(), Platform::Amd64), locked);
        let image = ImageLock { key: Key(Digest::of(b"key")), image: Digest::of(b"image") };
        lock.images.insert(("base".parse().unwrap(), Platform::Amd64), image);
        lock
    }

    fn parse(text: &str) -> Result<Lock, LockError> {
        Lock::parse(Path::new("sbx.lock"), text)
    }

    #[test]
    fn a_lock_is_read_as_it_is_written() {
        let lock = sample();
        assert_eq!(parse(&lock.to_text()).unwrap(), lock);
    }

    #[test]
    fn lines_may_come_in_any_order_after_a_merge() {
        let text = sample().to_text();
        let mut lines: Vec<&str> = text.lines().skip(1).collect();
        lines.reverse();
        assert_eq!(parse(&format!("{FORMAT}\n{}\n", lines.join("\n"))).unwrap(), sample());
    }

    #[test]
    fn edited_locks_are_refused_with_the_line() {
        let text = sample().to_text();
        let refused =
            |from: &str, to: &str| parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        insta::assert_snapshot!(refused("sha256:", "sha1:"), @"sbx.lock:2: the digest is wrong: `sha1:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb` is not a sha256 digest (expected `sha256:` and 64 lower-case hex digits)");
        insta::assert_snapshot!(refused("deb debian", "<<<<<<< HEAD\ndeb debian"), @"sbx.lock:2: has an unresolved merge conflict");
        insta::assert_snapshot!(refused("pool/main/a.deb", "../../etc"), @"sbx.lock:2: path `../../etc` leaves its archive");
        insta::assert_snapshot!(refused("sbx-lock 1", "sbx-lock 9"), @"sbx.lock: begins with `sbx-lock 9`, expected `sbx-lock 1`");
        let image = text.lines().find(|line| line.starts_with("image ")).unwrap();
        insta::assert_snapshot!(refused(image, &format!("{image}\n{image}")), @"sbx.lock:5: an image of the sandbox is recorded twice");
        insta::assert_snapshot!(refused(" b ", " a "), @"sbx.lock:1: layer `debian` for linux/amd64 pins `a` twice, at 1:2.3-4+b1 and 1:2.3-4+b1");
    }

    #[test]
    fn an_image_is_expected_of_its_key_alone() {
        let mut lock = sample();
        let (name, platform) = ("base".parse().unwrap(), Platform::Amd64);
        let (key, other) = (Key(Digest::of(b"key")), Key(Digest::of(b"other")));
        let image = Expected::Image(Digest::of(b"image"));
        assert_eq!(lock.expected(&name, platform, &key), image);
        assert_eq!(lock.expected(&name, platform, &other), Expected::Outdated);
        assert_eq!(lock.expected(&name, Platform::Arm64, &key), Expected::Nothing);
        lock.retain_images(|_, _| Some(key));
        assert_eq!(lock.expected(&name, platform, &key), image);
        lock.retain_images(|_, _| Some(other));
        assert_eq!(lock.expected(&name, platform, &key), Expected::Nothing);
    }

    #[test]
    fn three_thousand_pins_parse_in_milliseconds() {
        let mut lock = sample();
        let layer = lock.layers.values_mut().next().unwrap();
        let pin = layer.debs[0].clone();
        layer.debs =
            (0..3000).map(|n| DebPin { name: format!("p{n:04}").into(), ..pin.clone() }).collect();
        let text = lock.to_text();
        let took = (0..20).map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(parse(&text).unwrap(), lock);
            start.elapsed()
        });
        // the aim is 5 ms; a loaded machine gets ten times that, in the best of several tries
        let best = took.min().unwrap();
        assert!(best.as_millis() < 50, "{best:?}");
    }
}
