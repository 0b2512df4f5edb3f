//! The manifest around what several say of one Key.
//!
//! Teams that do not trust each other may share a repository, and their entries lie under the same tag. So
//! each adds his envelope to those that are there, and keeps the blobs that they name. Few fit: who comes
//! after that has the eldest stranger's go. An envelope that is of something else, or of nothing, is not
//! kept, nor one that nobody signed beside one that somebody did: who takes that takes the other, too.

use serde_json::{Map, Value, json};

use super::entry::{Entry, EntryError, Part, STATEMENT, TYPE, Trust, Vouched};
use crate::media;
use crate::oci::empty_config;
use crate::platform::Platform;
use crate::report::sign::{Envelope, PrivateKey, PublicKey};
use crate::store::{Key, Voucher};

/// Most envelopes of a manifest.
const MOST: usize = 8;
/// Largest envelope, of which no good one has a quarter.
const LARGEST: usize = 16 << 10;

/// What lies under the tag of a Key.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// In the order in which they came.
    envelopes: Vec<Envelope>,
}

impl Said {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let damaged = |reason: &dyn std::fmt::Display| EntryError::Damaged(reason.to_string());
        let manifest: Value = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        let texts = (0..MOST).filter_map(|at| manifest["annotations"][annotation(at)].as_str());
        let mut texts = texts.filter(|text| text.len() <= LARGEST).peekable();
        if texts.peek().is_none() {
            return Err(damaged(&"it says nothing of a layer"));
        }
        let parsed = texts.map(|text| Envelope::parse(text.as_bytes()));
        let (good, bad): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
        let envelopes: Vec<Envelope> = good.into_iter().flatten().collect();
        match bad.into_iter().find_map(Result::err).filter(|_| envelopes.is_empty()) {
            Some(error) => Err(damaged(&error)),
            None => Ok(Said { envelopes }),
        }
    }

    /// What those say who are believed, or why there is nothing.
    pub(super) fn believed(
        &self,
        key: &Key,
        platform: Platform,
        trust: &Trust,
    ) -> Result<Vec<Vouched>, EntryError> {
        let read = |envelope: &Envelope| read(envelope, key, platform, trust);
        let (good, bad): (Vec<_>, Vec<_>) =
            self.envelopes.iter().map(read).partition(Result::is_ok);
        let good: Vec<Vouched> = good.into_iter().flatten().collect();
        if !good.is_empty() {
            return Ok(good);
        }
        // what is wrong with whom one believes says more than that there are others
        let weight = |error: &EntryError| match error {
            EntryError::Unsigned => 0,
            EntryError::Stranger => 1,
            _ => 2,
        };
        let worst = bad.into_iter().filter_map(Result::err).max_by_key(weight);
        Err(worst.unwrap_or(EntryError::Unsigned))
    }

    /// What a machine has said before that signs with this key: where there is none, that of anybody.
    pub(super) fn own(
        &self,
        key: &Key,
        platform: Platform,
        signer: Option<&PublicKey>,
    ) -> Option<Entry> {
        let trust =
            Trust { keys: signer.cloned().into_iter().collect(), everybody: signer.is_none() };
        Some(self.believed(key, platform, &trust).ok()?.swap_remove(0).entry)
    }

    /// The manifest with what a machine says beside what others did, but for what was refused.
    pub(super) fn with(
        self,
        own: &Entry,
        signer: Option<&PrivateKey>,
        refused: &[Entry],
    ) -> Manifest {
        let public = signer.map(PrivateKey::public);
        let everybody = Trust { keys: Vec::new(), everybody: true };
        let mut kept = Vec::new();
        for envelope in self.envelopes {
            let is_own = public.as_ref().is_some_and(|key| envelope.open(key, TYPE).is_ok());
            if is_own || !envelope.is_signed() {
                continue;
            }
            match read(&envelope, &own.key, own.platform, &everybody) {
                Ok(Vouched { entry, .. }) if !refused.contains(&entry) => {
                    kept.push((envelope, entry));
                }
                _ => {}
            }
        }
        let strangers = kept.split_off(kept.len().saturating_sub(MOST - 1));
        Manifest::new(own, signer, &strangers)
    }
}

fn annotation(at: usize) -> String {
    if at == 0 { STATEMENT.to_owned() } else { format!("{STATEMENT}.{at}") }
}

fn read(
    envelope: &Envelope,
    key: &Key,
    platform: Platform,
    trust: &Trust,
) -> Result<Vouched, EntryError> {
    let damaged = |reason: &dyn std::fmt::Display| EntryError::Damaged(reason.to_string());
    let open = |key: &PublicKey| Some((envelope.open(key, TYPE).ok()?, Voucher::Key(key.id())));
    let (statement, voucher) = match trust.keys.iter().find_map(open) {
        Some(opened) => opened,
        None if trust.everybody => {
            let statement = envelope.open_unverified(TYPE).map_err(|error| damaged(&error))?;
            (statement, Voucher::Nobody)
        }
        None if envelope.is_signed() => return Err(EntryError::Stranger),
        None => return Err(EntryError::Unsigned),
    };
    let entry: Entry = serde_json::from_slice(&statement).map_err(|error| damaged(&error))?;
    entry.check(key, platform)?;
    Ok(Vouched { entry, voucher })
}

/// A manifest to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) bytes: Vec<u8>,
    /// Whether others say something in it.
    pub(super) has_strangers: bool,
}

impl Manifest {
    fn new(own: &Entry, signer: Option<&PrivateKey>, strangers: &[(Envelope, Entry)]) -> Self {
        let statement = serde_json::to_vec(own).expect("an entry has string keys only");
        let envelope = match signer {
            Some(key) => Envelope::sign(key, TYPE, &statement),
            None => Envelope::bare(TYPE, &statement),
        };
        let envelopes = strangers.iter().map(|(envelope, _)| envelope).chain([&envelope]);
        let annotations: Map<String, Value> = envelopes
            .enumerate()
            .map(|(at, envelope)| {
                let text = String::from_utf8(envelope.to_bytes()).expect("an envelope is JSON");
                (annotation(at), text.into())
            })
            .collect();
        let mut parts: Vec<&Part> = Vec::new();
        for entry in [own].into_iter().chain(strangers.iter().map(|(_, entry)| entry)) {
            let named = [&entry.layer, &entry.listing].into_iter().chain(&entry.facts);
            for part in named {
                if !parts.iter().any(|known| known.digest == part.digest) {
                    parts.push(part);
                }
            }
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "artifactType": TYPE,
            "config": empty_config(),
            "layers": parts,
            "annotations": annotations,
        });
        let bytes = manifest.to_string().into_bytes();
        Manifest { bytes, has_strangers: !strangers.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{FACTS, LISTING, tag};
    use super::*;
    use crate::digest::Digest;

    fn entry() -> Entry {
        let part = |media_type: &str| Part {
            media_type: media_type.to_owned(),
            digest: Digest::of(b"part"),
            size: 4,
        };
        Entry {
            key: Key(Digest::of(b"key")),
            platform: Platform::Amd64,
            diff_id: Digest::of(b"tar"),
            size: 3,
            form: "gzip-3".to_owned(),
            layer: part("application/vnd.oci.image.layer.v1.tar+gzip"),
            listing: part(LISTING),
            facts: Some(part(FACTS)),
        }
    }

    fn read(bytes: &[u8], trust: &Trust) -> Result<Vouched, EntryError> {
        let said = Said::parse(bytes)?;
        Ok(said.believed(&entry().key, Platform::Amd64, trust)?.swap_remove(0))
    }

    fn written(entry: &Entry, key: Option<&PrivateKey>) -> Vec<u8> {
        Said::default().with(entry, key, &[]).bytes
    }

    fn key(number: u8) -> PrivateKey {
        let key = p256::SecretKey::from_slice(&[number; 32]).unwrap();
        let pem = p256::pkcs8::EncodePrivateKey::to_pkcs8_pem(&key, Default::default()).unwrap();
        PrivateKey::parse(&pem, None).unwrap()
    }

    fn trusting(keys: &[&PrivateKey], everybody: bool) -> Trust {
        Trust { keys: keys.iter().map(|key| key.public()).collect(), everybody }
    }

    #[test]
    fn an_entry_is_taken_from_whom_one_trusts() {
        let (own, other) = (key(7), key(8));
        let signed = written(&entry(), Some(&own));
        let vouched = read(&signed, &trusting(&[&other, &own], false)).unwrap();
        assert_eq!((vouched.entry, vouched.voucher), (entry(), Voucher::Key(own.public().id())));
        let stranger = read(&signed, &trusting(&[&other], false));
        assert!(matches!(stranger, Err(EntryError::Stranger)));
        let bare = written(&entry(), None);
        assert!(matches!(read(&bare, &trusting(&[&own], false)), Err(EntryError::Unsigned)));
        for bytes in [&signed, &bare] {
            assert_eq!(read(bytes, &trusting(&[], true)).unwrap().voucher, Voucher::Nobody);
        }
    }

    #[test]
    fn an_entry_says_what_it_is_of_and_what_it_may_cost() {
        let own = key(7);
        let told = |change: fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            read(&written(&entry, Some(&own)), &trusting(&[&own], false)).unwrap_err()
        };
        assert!(matches!(told(|one| one.key = Key(Digest::of(b"x"))), EntryError::Other(_)));
        assert!(matches!(told(|one| one.platform = Platform::Arm64), EntryError::Other(_)));
        assert!(matches!(told(|one| one.size = 1 << 40), EntryError::Size { .. }));
        assert!(matches!(told(|one| one.listing.size = 1 << 30), EntryError::Size { .. }));
        let facts = told(|one| one.facts.as_mut().unwrap().size = 1 << 30);
        assert!(matches!(facts, EntryError::Facts));
        let other = told(|one| one.listing.media_type = "text/plain".to_owned());
        assert!(matches!(other, EntryError::Damaged(_)));
    }

    #[test]
    fn what_is_changed_after_it_was_signed_is_worth_nothing() {
        let own = key(7);
        let signed = String::from_utf8(written(&entry(), Some(&own))).unwrap();
        let trust = trusting(&[&own], false);
        let value: Value = serde_json::from_str(&signed).unwrap();
        let mut envelope: Value =
            serde_json::from_str(value["annotations"][STATEMENT].as_str().unwrap()).unwrap();
        let other = Entry { diff_id: Digest::of(b"other"), ..entry() };
        envelope["payload"] = json!(base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            serde_json::to_vec(&other).unwrap()
        ));
        let mut forged = value.clone();
        forged["annotations"][STATEMENT] = json!(envelope.to_string());
        let forged = read(forged.to_string().as_bytes(), &trust);
        assert!(matches!(forged, Err(EntryError::Stranger)), "{forged:?}");
        for odd in ["", "{}", "[]", &signed[..signed.len() / 2]] {
            assert!(matches!(read(odd.as_bytes(), &trust), Err(EntryError::Damaged(_))), "{odd}");
        }
        assert!(tag(&entry().key, Platform::Amd64).len() <= 128);
    }

    #[test]
    fn several_say_something_and_none_takes_the_words_of_another_away() {
        let keys: Vec<PrivateKey> = (1..=10).map(key).collect();
        let part = |name: &str| Part { digest: Digest::of(name.as_bytes()), ..entry().layer };
        let of = |at: usize| Entry { layer: part(&at.to_string()), ..entry() };
        let mut manifest = Said::default().with(&entry(), None, &[]);
        for (at, key) in keys.iter().enumerate() {
            manifest = Said::parse(&manifest.bytes).unwrap().with(&of(at), Some(key), &[]);
        }
        // few fit, and the one that nobody signed went first
        let said = || Said::parse(&manifest.bytes).unwrap();
        for (at, key) in keys.iter().enumerate() {
            let found = read(&manifest.bytes, &trusting(&[key], false)).map(|one| one.entry);
            assert_eq!(found.ok(), (at >= 2).then(|| of(at)), "{at}");
        }
        let value: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        assert_eq!(value["layers"].as_array().unwrap().len(), MOST + 2 - 1, "{value}");
        // who says the same again changes nothing, nor who signs nothing
        assert_eq!(said().with(&of(9), Some(&keys[9]), &[]), manifest);
        assert_eq!(said().own(&entry().key, Platform::Amd64, None), Some(of(2)));
        assert_eq!(said().own(&entry().key, Platform::Amd64, Some(&keys[0].public())), None);
        // what was refused goes, and what is of another Key
        let less = said().with(&of(9), Some(&keys[9]), &[of(8), of(7)]);
        let less = Said::parse(&less.bytes).unwrap();
        let of_both = trusting(&[&keys[8], &keys[6]], false);
        let left = less.believed(&entry().key, Platform::Amd64, &of_both).unwrap();
        assert_eq!(left.into_iter().map(|one| one.entry).collect::<Vec<_>>(), [of(6)]);
        let other = Entry { key: Key(Digest::of(b"other")), ..entry() };
        assert!(!said().with(&other, Some(&keys[9]), &[]).has_strangers);
    }
}
