//! Package URLs (purl-spec): how other programs know a package.

use packageurl::PackageUrl;

use super::ReportError;
use crate::digest::Digest;
use crate::fetch::defaults;
use crate::lock::{BasePin, Source};

/// What a package URL says beside the package: where Debian's come from, where an archive lies.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// `debian-13`, or a codename.
    pub(super) distro: Option<String>,
    /// Address of an archive, or of a repository that is not Debian's.
    pub(super) url: Option<String>,
    /// A Debian source package that is called otherwise, by which vulnerabilities are known.
    pub(super) upstream: Option<String>,
}

/// The package URL of a source.
pub(super) fn purl(source: &Source<'_>, origin: &Origin) -> Result<String, ReportError> {
    build(source, origin).map_err(|_| ReportError::Name(source.label()))
}

fn build(source: &Source<'_>, origin: &Origin) -> packageurl::Result<String> {
    let mut purl;
    match source {
        Source::Deb(pin) => {
            purl = PackageUrl::new("deb", pin.name.to_string())?;
            let archive = pin.archive.as_str();
            let is_debian = defaults::debian_url(archive).is_some();
            let vendor = if is_debian { "debian" } else { archive };
            purl.with_namespace(vendor.to_owned())?.with_version(pin.version.to_string())?;
            purl.add_qualifier("arch", pin.arch.to_string())?;
            if let Some(distro) = &origin.distro {
                purl.add_qualifier("distro", distro.clone())?;
            }
            if let Some(url) = &origin.url {
                purl.add_qualifier("repository_url", url.clone())?;
            }
            if let Some(upstream) = &origin.upstream {
                purl.add_qualifier("upstream", upstream.clone())?;
            }
        }
        Source::Npm(pin) => {
            purl = npm(&pin.name, &pin.version)?;
            if let Some(url) = &origin.url {
                purl.add_qualifier("vcs_url", url.clone())?;
            }
        }
        Source::Wheel(pin) => {
            purl = PackageUrl::new("pypi", pin.name.to_string())?;
            purl.with_version(pin.version.to_string())?;
            purl.add_qualifier("file_name", pin.file_name.to_string())?;
        }
        // a layer is no image: its own digest names it
        Source::BaseLayer(pin) => {
            purl = oci(&pin.image, &pin.digest)?;
        }
        Source::Git(pin) => {
            purl = PackageUrl::new("generic", pin.name.to_string())?;
            purl.with_version(pin.commit.to_string())?;
            if let Some(url) = &origin.url {
                purl.add_qualifier("vcs_url", format!("git+{url}@{}", pin.commit))?;
            }
        }
        Source::Archive(pin) => {
            purl = PackageUrl::new("generic", pin.name.to_string())?;
            purl.add_qualifier("checksum", pin.digest.to_string())?;
            if let Some(url) = &origin.url {
                purl.add_qualifier("download_url", url.clone())?;
            }
        }
    }
    Ok(purl.to_string())
}

/// What has a digest of an image's name.
fn oci(image: &str, digest: &Digest) -> packageurl::Result<PackageUrl<'static>> {
    let image = image.strip_prefix("oci:").unwrap_or(image);
    let name = image.rsplit('/').next().and_then(|name| name.split(['@', ':']).next());
    let mut purl = PackageUrl::new("oci", name.unwrap_or_default().to_owned())?;
    purl.with_version(digest.to_string())?;
    Ok(purl)
}

/// The package URL of the image that a base is; `repository` is where a registry has it.
pub(super) fn base_image(
    pin: &BasePin,
    arch: &str,
    repository: Option<&str>,
) -> packageurl::Result<String> {
    let mut purl = oci(&pin.name, &pin.manifest)?;
    purl.add_qualifier("arch", arch.to_owned())?;
    if let Some(repository) = repository {
        purl.add_qualifier("repository_url", repository.to_owned())?;
    }
    Ok(purl.to_string())
}

/// The package URL of a program that is in no ecosystem.
pub(super) fn program(name: &str, version: &str) -> packageurl::Result<String> {
    let mut purl = PackageUrl::new("generic", name.to_owned())?;
    purl.with_version(version.to_owned())?;
    Ok(purl.to_string())
}

/// The package URL of a Debian package that a base has.
pub(super) fn base_deb(
    name: &str,
    version: &str,
    arch: &str,
    distro: Option<&str>,
    upstream: Option<&str>,
) -> packageurl::Result<String> {
    let mut purl = PackageUrl::new("deb", name.to_owned())?;
    purl.with_namespace("debian")?.with_version(version.to_owned())?;
    purl.add_qualifier("arch", arch.to_owned())?;
    for (name, value) in [("distro", distro), ("upstream", upstream)] {
        if let Some(value) = value {
            purl.add_qualifier(name, value.to_owned())?;
        }
    }
    Ok(purl.to_string())
}

/// The package URL of a package of npm's, which may be bundled in another.
pub(super) fn npm(name: &str, version: &str) -> packageurl::Result<PackageUrl<'static>> {
    let (scope, base) = match name.split_once('/') {
        Some((scope, base)) => (Some(scope), base),
        None => (None, name),
    };
    let mut purl = PackageUrl::new("npm", base.to_owned())?;
    if let Some(scope) = scope {
        purl.with_namespace(scope.to_owned())?;
    }
    purl.with_version(version.to_owned())?;
    Ok(purl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{ArchiveName, ArchivePin, DebPin, Mark, WheelPin};

    fn deb(name: &str, version: &str, archive: &str) -> DebPin {
        DebPin {
            name: name.into(),
            version: version.into(),
            arch: "amd64".into(),
            mark: Mark::Auto,
            archive: ArchiveName::new(archive),
            size: 1,
            digest: Digest::of(b""),
            path: "".into(),
        }
    }

    fn shown(source: &Source<'_>, distro: &str, url: &str) -> String {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        purl(source, &Origin { distro: text(distro), url: text(url), upstream: None }).unwrap()
    }

    #[test]
    fn debian_packages_have_their_archive_architecture_and_distribution() {
        let pin = deb("libstdc++6", "1:14.2.0-19+b1~x", "debian-security");
        insta::assert_snapshot!(shown(&Source::Deb(&pin), "debian-13", ""), @"pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1~x?arch=amd64&distro=debian-13");
        let pin = deb("tool", "1", "debian-tools");
        assert!(shown(&Source::Deb(&pin), "debian-13", "").starts_with("pkg:deb/debian-tools/"));
        let pin = deb("tool", "1", "acme");
        insta::assert_snapshot!(shown(&Source::Deb(&pin), "trixie", "https://apt.example.org/acme"), @"pkg:deb/acme/tool@1?arch=amd64&distro=trixie&repository_url=https:%2F%2Fapt.example.org%2Facme");
    }

    #[test]
    fn scopes_of_npm_are_namespaces() {
        insta::assert_snapshot!(npm("@scope/name", "1.0.0-rc.1+b").unwrap(), @"pkg:npm/%40scope/name@1.0.0-rc.1%2Bb");
        insta::assert_snapshot!(npm("left-pad", "1.3.0").unwrap(), @"pkg:npm/left-pad@1.3.0");
    }

    #[test]
    fn wheels_and_archives_say_which_file() {
        let wheel = WheelPin {
            name: "typing-extensions".into(),
            version: "4.12".into(),
            file_name: "typing_extensions-4.12-py3-none-any.whl".into(),
            size: None,
            digest: Digest::of(b""),
            path: "".into(),
        };
        insta::assert_snapshot!(shown(&Source::Wheel(&wheel), "", ""), @"pkg:pypi/typing-extensions@4.12?file_name=typing_extensions-4.12-py3-none-any.whl");
        let archive = ArchivePin { name: "a b.tgz".into(), size: 1, digest: Digest::of(b"") };
        insta::assert_snapshot!(shown(&Source::Archive(&archive), "", "https://example.org/a b.tgz"), @"pkg:generic/a%20b.tgz?checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855&download_url=https:%2F%2Fexample.org%2Fa%20b.tgz");
    }
}
