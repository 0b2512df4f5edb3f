//! The two documents of an image.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::digest::Digest;
use crate::entry::EPOCH;
use crate::media;
use crate::plan::ImageSpec;
use crate::store::{LayerRecord, Packed};

use super::deflate::Form;
use super::twin::Twin;

const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer of an image, with what its history tells.
#[derive(Clone, Debug)]
pub struct ImageLayer {
    pub record: LayerRecord,
    /// The recipe, for people: `debian trixie: curl git nginx`.
    pub created_by: String,
    /// The layer's name and Key.
    pub comment: String,
}

#[derive(Serialize)]
struct Config<'a> {
    created: String,
    architecture: &'a str,
    os: &'a str,
    config: Process<'a>,
    rootfs: RootFs,
    history: Vec<History<'a>>,
}

/// OCI image-spec, config, `config`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    working_dir: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<&'a str>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

#[derive(Serialize)]
struct History<'a> {
    created: String,
    created_by: &'a str,
    comment: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
}

/// The format's epoch (RFC 3339): when everything was made.
pub(super) fn created() -> String {
    Timestamp::from_second(EPOCH).map(|time| time.to_string()).unwrap_or_default()
}

/// The image's config as it is stored.
pub(super) fn config(spec: &ImageSpec, layers: &[ImageLayer]) -> Vec<u8> {
    let ports =
        spec.ports.iter().map(|port| (format!("{}/{}", port.number, port.protocol), Empty {}));
    let history = |layer| {
        let ImageLayer { created_by, comment, .. }: &ImageLayer = layer;
        History { created: created(), created_by, comment }
    };
    let config = Config {
        created: created(),
        architecture: spec.platform.architecture(),
        os: "linux",
        config: Process {
            user: &spec.user,
            exposed_ports: ports.collect(),
            volumes: spec.volumes.iter().map(|path| (path.as_str(), Empty {})).collect(),
            env: spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint: &spec.entrypoint,
            cmd: &spec.command,
            working_dir: &spec.workdir,
            labels: &spec.labels,
            stop_signal: spec.stop_signal.as_deref(),
        },
        rootfs: RootFs {
            r#type: "layers",
            diff_ids: layers.iter().map(|layer| layer.record.diff_id).collect(),
        },
        history: layers.iter().map(history).collect(),
    };
    serde_json::to_vec(&config).expect("the config has string keys only")
}

/// The layout manifest as it is stored: layers uncompressed, but for those of a base.
pub(super) fn manifest(
    spec: &ImageSpec,
    layers: &[ImageLayer],
    image: Digest,
    image_size: u64,
) -> Vec<u8> {
    let mut descriptors = Vec::with_capacity(layers.len());
    for ImageLayer { record, .. } in layers {
        let (digest, size) = (record.diff_id, record.size);
        let plain = Descriptor { media_type: MEDIA_LAYER, digest, size };
        descriptors.push(as_stored(record).unwrap_or(plain));
    }
    write_manifest(spec, descriptors, image, image_size)
}

/// A layer that stays as somebody else stored it.
fn as_stored(record: &LayerRecord) -> Option<Descriptor<'_>> {
    let packed = record.packed.as_ref()?;
    let Packed { digest, size, media_type } = packed;
    Some(Descriptor { media_type, digest: *digest, size: *size })
}

/// The manifest that registries get: layers as their twins, but for those of a base.
pub(super) fn compressed_manifest(
    spec: &ImageSpec,
    layers: &[(&LayerRecord, Option<Twin>)],
    form: Form,
    image: Digest,
    image_size: u64,
) -> Vec<u8> {
    let mut descriptors = Vec::with_capacity(layers.len());
    for (record, twin) in layers {
        let twin = twin.as_ref().map(|twin| {
            let Twin { digest, size } = *twin;
            Descriptor { media_type: form.media_type(), digest, size }
        });
        descriptors.extend(twin.or_else(|| as_stored(record)));
    }
    write_manifest(spec, descriptors, image, image_size)
}

fn write_manifest(
    spec: &ImageSpec,
    layers: Vec<Descriptor<'_>>,
    image: Digest,
    image_size: u64,
) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::MANIFEST,
        config: Descriptor { media_type: media::CONFIG, digest: image, size: image_size },
        layers,
        annotations: &spec.annotations,
    };
    serde_json::to_vec(&manifest).expect("the manifest has string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Port;
    use crate::platform::Platform;
    use crate::store::Stamp;

    #[test]
    fn the_documents_are_written_in_one_order() {
        let spec = ImageSpec {
            platform: Platform::Amd64,
            env: vec![("PATH".into(), "/bin".into()), ("A".into(), "1".into())],
            entrypoint: vec![],
            command: vec!["/boot.sh".into()],
            workdir: "/workspace".into(),
            user: String::new(),
            volumes: vec![],
            ports: vec![Port { number: 80, protocol: "tcp" }],
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            stop_signal: Some("SIGTERM".into()),
            annotations: BTreeMap::from([("org.opencontainers.image.title".into(), "base".into())]),
        };
        let stamp = Stamp { size: 3, mtime: 0, ctime: 0, inode: 0 };
        let record = LayerRecord {
            diff_id: Digest::of(b"tar"),
            packed: None,
            size: 3,
            listing: None,
            stamp,
            vouchers: Default::default(),
        };
        let layer = ImageLayer { record, created_by: "files".into(), comment: "app".into() };
        let layers = [layer];
        let config = config(&spec, &layers);
        insta::assert_snapshot!(String::from_utf8(config.clone()).unwrap(), @r#"{"created":"2025-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin","A=1"],"Cmd":["/boot.sh"],"WorkingDir":"/workspace","Labels":{"a":"1","b":"2"},"StopSignal":"SIGTERM"},"rootfs":{"type":"layers","diff_ids":["sha256:90aebae315675cbf04612de4f7d5874850f48e0b8dd82becbeaa47ca93f5ebfb"]},"history":[{"created":"2025-01-01T00:00:00Z","created_by":"files","comment":"app"}]}"#);
        let manifest = manifest(&spec, &layers, Digest::of(&config), config.len() as u64);
        insta::assert_snapshot!(String::from_utf8(manifest).unwrap(), @r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:d8bea4b8ba9d59459704e571996ebc0370d59c29a906132ae5196f6a77fbb165","size":429},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:90aebae315675cbf04612de4f7d5874850f48e0b8dd82becbeaa47ca93f5ebfb","size":3}],"annotations":{"org.opencontainers.image.title":"base"}}"#);
    }
}
