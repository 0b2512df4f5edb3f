//! Packages that a lock of npm's names without their digest, as some versions of npm wrote them: the
//! registry says the digest of that very version, once, and it is pinned from then on.

use super::places::below;
use super::registry::{MissingError, Release};
use super::{Ask, SolveError, Solver};
use crate::digest::Integrity;
use crate::fetch::{FetchError, Headers, Login};
use crate::npm::{Origin, Placed};

/// Largest document of one version.
const DOCUMENT: u64 = 16 << 20;

impl Solver<'_> {
    /// Asks the registries of a project's directory for the digests that are missing.
    pub(super) fn complete_digests(
        &self,
        ask: &Ask<'_>,
        dir: &str,
        packages: &mut [Placed],
    ) -> Result<(), SolveError> {
        let mut packages: Vec<&mut Placed> =
            packages.iter_mut().filter(|one| is_unknown(one)).collect();
        if packages.is_empty() {
            return Ok(());
        }
        let layer = &ask.layer.name;
        let count = packages.len();
        self.progress.noted(&format!(
            "layer `{layer}`: {count} packages of the lock have no `integrity`: the registry's is taken"
        ));
        let asks = packages.iter().map(|one| {
            let path = format!("{}/{}", one.name, one.version);
            let label = format!("npm package `{} {}`", one.name, one.version);
            let registry = self.mirrors.npm_place(dir, one.name.as_str());
            (label, below(registry, &path).into_iter().collect())
        });
        let headers = Headers { login: Login::Npm, ..Headers::default() };
        let answers = self.client.get_all(&asks.collect::<Vec<_>>(), &headers, DOCUMENT);
        for (one, answer) in packages.iter_mut().zip(answers) {
            let release = match answer {
                Ok(document) => serde_json::from_slice(&document.bytes).ok(),
                // not every mirror answers for one version
                Err(error) if error.is_gone() => None,
                Err(error) => return Err(FetchError::into(error)),
            };
            let found = match release {
                Some(release) => digest(&release),
                None => self.digest_of(ask, dir, one)?,
            };
            let missing = || self.missing(ask, one, Vec::new());
            one.integrity = Some(found.ok_or_else(missing)?);
        }
        Ok(())
    }

    /// Out of the document of all versions.
    fn digest_of(
        &self,
        ask: &Ask<'_>,
        dir: &str,
        one: &Placed,
    ) -> Result<Option<Integrity>, SolveError> {
        let document = self.npm_document(dir, one.name.as_str())?;
        let document = document.ok_or_else(|| SolveError::Missing {
            layer: ask.layer.name.clone(),
            source: MissingError::Package { package: one.name.to_string() },
        })?;
        let release = document.versions.get(&one.version);
        let release = release.ok_or_else(|| self.missing(ask, one, document.seen(None)))?;
        Ok(digest(release))
    }

    fn missing(&self, ask: &Ask<'_>, one: &Placed, found: Vec<String>) -> SolveError {
        let (package, wanted) = (one.name.to_string(), one.version.clone());
        let source = MissingError::Version { package, wanted, day: None, found };
        SolveError::Missing { layer: ask.layer.name.clone(), source }
    }
}

/// Whether a registry has to say which bytes a package is.
fn is_unknown(one: &Placed) -> bool {
    one.integrity.is_none() && matches!(one.origin, Origin::Registry(_))
}

/// What a registry says of a version's bytes.
pub(super) fn digest(release: &Release) -> Option<Integrity> {
    let said = release.dist.integrity.as_deref().and_then(Integrity::parse_sri);
    // its oldest packages have nothing better
    let old = || release.dist.shasum.as_ref().and_then(|hex| format!("sha1:{hex}").parse().ok());
    said.or_else(old)
}
