//! Submodules: where `.gitmodules` says that they are, and whether they may be fetched from there.
//! A repository that somebody else wrote decides these addresses, so they lead to no place of this
//! machine, and over no plainer a channel, unless their repository was reached so itself.

use std::collections::BTreeMap;

use super::error::GitError;
use super::program::Program;
use crate::decl::{GitUrl, Reach};

/// Addresses by path, as a `.gitmodules` says them.
pub(super) fn read(program: &Program, text: &[u8]) -> Result<BTreeMap<Vec<u8>, String>, GitError> {
    let arguments = ["config", "--no-includes", "--file", "-", "--null", "--list"];
    let listed = program.run(&arguments, text)?;
    let mut paths: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut urls: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for setting in listed.split(|byte| *byte == 0) {
        let Some(end) = setting.iter().position(|byte| *byte == b'\n') else { continue };
        let (key, value) = (&setting[..end], &setting[end + 1..]);
        let Some(key) = key.strip_prefix(b"submodule.") else { continue };
        if let Some(name) = key.strip_suffix(b".path") {
            paths.insert(name.to_vec(), value.to_vec());
        } else if let Some(name) = key.strip_suffix(b".url") {
            urls.insert(name.to_vec(), String::from_utf8_lossy(value).into_owned());
        }
    }
    let found = paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?)));
    Ok(found.collect())
}

/// The address that a submodule of a repository is fetched from.
pub(super) fn address(above: &GitUrl, text: &str) -> Result<GitUrl, String> {
    let url = above.resolve(text).map_err(|reason| format!("cannot be fetched: {reason}"))?;
    let fits = match (url.reach(), above.reach()) {
        (Reach::Secured, _) => true,
        (Reach::Plain | Reach::Local | Reach::Other, _) => url.reach() == above.reach(),
    };
    match fits {
        true => Ok(url),
        false => Err(format!("is at `{url}`, which a repository of {above} may not send to")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_repository_leads_to_no_place_of_this_machine() {
        let address = |above: &str, text: &str| address(&above.parse().unwrap(), text);
        let far = "https://h.example.org/a/b.git";
        assert_eq!(address(far, "../c.git").unwrap().secret(), "https://h.example.org/a/c.git");
        for bad in ["file:///etc", "/srv/x", "http://h/x", "ext::sh -c x", "-u./x", "foo://x"] {
            assert!(address(far, bad).is_err(), "{bad}");
        }
        assert!(address("/srv/a", "file:///srv/b").is_ok());
        assert!(address("/srv/a", "http://h/x").is_err());
    }
}
