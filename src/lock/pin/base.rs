//! Bases: images of others that layers stand on.

use serde::Serialize;

use super::Words;
use crate::digest::Digest;
use crate::oci::{Image, ImageLayer, Packing};

/// An image on one platform. Which registry has it, the declaration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BasePin {
    /// Its name without a registry.
    pub name: Box<str>,
    pub manifest: Digest,
    /// Bytes.
    pub manifest_size: u64,
    pub config: Digest,
    pub config_size: u64,
}

/// A layer of a base, reused as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BaseLayerPin {
    /// Its place, counted from the bottom.
    pub at: u32,
    /// The base's name.
    pub image: Box<str>,
    /// Of the layer as it is stored.
    pub digest: Digest,
    /// Bytes, likewise.
    pub size: u64,
    pub packing: Packing,
    /// Of its tar.
    pub diff_id: Digest,
    /// The digest, for people.
    #[serde(skip)]
    pub short: Box<str>,
}

/// What else is known of a base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum BasePart {
    /// A setting that images inherit: `env`, `cmd`, `user`, …; and its words.
    Config { setting: Box<str>, words: Vec<Box<str>> },
    /// A Debian package that it has, and its source package where that is called otherwise.
    Deb { name: Box<str>, version: Box<str>, arch: Box<str>, upstream: Option<Box<str>> },
    /// Its dpkg's status file, and the release that it is of.
    Dpkg { release: Box<str>, status: Digest },
}

impl BasePin {
    pub fn new(name: &str, image: &Image) -> Self {
        BasePin {
            name: name.into(),
            manifest: image.manifest,
            manifest_size: image.manifest_size,
            config: image.config,
            config_size: image.config_size,
        }
    }

    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.manifest.short())
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(&self.name).push(self.manifest).push(self.manifest_size);
        words.push(self.config).push(self.config_size);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        Ok(BasePin {
            name: Words::next(words, "name")?.into(),
            manifest: Words::parse(words, "digest")?,
            manifest_size: Words::parse(words, "size")?,
            config: Words::parse(words, "digest of the config")?,
            config_size: Words::parse(words, "size of the config")?,
        })
    }
}

impl BaseLayerPin {
    pub fn new(at: u32, image: &str, layer: &ImageLayer) -> Self {
        let ImageLayer { digest, size, packing, diff_id } = *layer;
        let short = digest.short().into();
        BaseLayerPin { at, image: image.into(), digest, size, packing, diff_id, short }
    }

    pub fn label(&self) -> String {
        format!("{} {}", self.image, self.short)
    }

    pub(super) fn write(&self, words: &mut Words) {
        // so that lines of a lock are sorted as the layers are
        words.push(format!("{:03}", self.at)).push(&self.image).push(self.digest);
        words.push(self.size).push(self.packing).push(self.diff_id);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let at = Words::parse(words, "place")?;
        let image: String = Words::next(words, "name")?;
        let layer = ImageLayer {
            digest: Words::parse(words, "digest")?,
            size: Words::parse(words, "size")?,
            packing: Words::parse(words, "media type")?,
            diff_id: Words::parse(words, "digest of the tar")?,
        };
        Ok(BaseLayerPin::new(at, &image, &layer))
    }
}

impl BasePart {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            BasePart::Config { .. } => "base-config",
            BasePart::Deb { .. } => "base-deb",
            BasePart::Dpkg { .. } => "base-dpkg",
        }
    }

    pub fn label(&self) -> String {
        match self {
            BasePart::Config { setting, words } => format!("{setting} {}", words.join(" ")),
            BasePart::Deb { name, version, .. } => format!("{name} {version}"),
            BasePart::Dpkg { release, .. } => format!("packages of {release}"),
        }
    }

    pub(super) fn write(&self, words: &mut Words) {
        match self {
            BasePart::Config { setting, words: all } => {
                words.push(setting);
                for word in all {
                    words.push(word);
                }
            }
            BasePart::Deb { name, version, arch, upstream } => {
                words.push(name).push(version).push(arch);
                if let Some(upstream) = upstream {
                    words.push(upstream);
                }
            }
            BasePart::Dpkg { release, status } => {
                words.push(release).push(status);
            }
        }
    }

    pub(super) fn parse<'a>(
        kind: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        match kind {
            "base-config" => {
                let setting = Words::next(words, "setting")?.into();
                let mut all = Vec::new();
                for word in words {
                    all.push(Words::next(&mut Some(word).into_iter(), "word")?.into());
                }
                Ok(BasePart::Config { setting, words: all })
            }
            "base-deb" => Ok(BasePart::Deb {
                name: Words::next(words, "name")?.into(),
                version: Words::next(words, "version")?.into(),
                arch: Words::next(words, "architecture")?.into(),
                upstream: match words.next() {
                    Some(word) => Some(Words::next(&mut Some(word).into_iter(), "source")?.into()),
                    None => None,
                },
            }),
            _ => Ok(BasePart::Dpkg {
                release: Words::next(words, "release")?.into(),
                status: Words::parse(words, "digest")?,
            }),
        }
    }
}
