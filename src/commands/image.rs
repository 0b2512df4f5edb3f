//! Images of the store by what people call them: a sandbox that is built, or a reference that was pulled.

use sbx::platform::Platform;
use sbx::reference::{Reference, ReferenceError};
use sbx::store::ImageRecord;

use super::Global;
use super::build::plan_target;
use crate::failure::{Failure, Outcome};
use crate::workspace::Workspace;

/// An image of the store.
pub struct Found {
    pub record: ImageRecord,
    pub platform: Platform,
    /// The name it goes by, `name` or `name:tag`.
    pub reference: String,
}

/// What names no sandbox, but an image at a registry.
pub fn as_reference(name: &str) -> Option<Outcome<Reference>> {
    name.contains(['/', ':', '@'])
        .then(|| name.parse::<Reference>().map_err(|error| Failure::input(error.to_string())))
}

/// Where an image is, by whatever it is called.
pub fn open_for(global: &Global, name: &str) -> Outcome<Workspace> {
    match as_reference(name) {
        Some(_) => Workspace::open_for_reference(global),
        None => Workspace::open(global),
    }
}

/// What an image is to be called: digests name images that are there, and give no names.
pub fn parse_name(text: &str) -> Result<Reference, String> {
    let reference: Reference = text.parse().map_err(|error: ReferenceError| error.to_string())?;
    match reference.digest() {
        None => Ok(reference),
        Some(_) => Err(format!("`{text}` has a digest, and no image can be called so: name a tag")),
    }
}

/// The image, held for as long as this command runs.
pub fn find_image(workspace: &Workspace, name: &str, platform: Option<Platform>) -> Outcome<Found> {
    if let Some(reference) = as_reference(name) {
        return find_pulled(workspace, &reference?, platform);
    }
    let target = workspace.target(name, platform)?;
    let plan = plan_target(workspace, target, &workspace.read_lock()?)?;
    let name = &target.sandbox.name;
    let record = workspace.store.use_image(&plan.key)?.ok_or_else(|| {
        Failure::input(format!("`{name}` is not built as it is declared now")).with_help(
            match platform {
                Some(platform) => format!("run `sbx build {name} --platform {platform}`"),
                None => format!("run `sbx build {name}`"),
            },
        )
    })?;
    let reference = workspace.project.reference_of(target.sandbox);
    if reference.contains('@') {
        let message = format!("`{name}` is declared as `{reference}`, which has a digest");
        return Err(Failure::input(message).with_help("let its `reference` have a tag"));
    }
    Ok(Found { record, platform: target.platform, reference })
}

/// The image that was pulled by a reference.
pub fn find_pulled(
    workspace: &Workspace,
    reference: &Reference,
    platform: Option<Platform>,
) -> Outcome<Found> {
    let wanted = platform.unwrap_or(Platform::host());
    let find = |platform| workspace.store.use_pulled(&reference.to_string(), platform);
    let Some(record) = find(wanted)? else {
        let mut message = format!("`{reference}` for {wanted} is not in the store");
        for other in Platform::ALL.into_iter().filter(|other| *other != wanted) {
            if find(other)?.is_some() {
                message = format!("{message}, which has it for {other}");
            }
        }
        let help = format!("run `sbx pull {reference} --platform {wanted}`");
        return Err(Failure::input(message).with_help(help));
    };
    let registry = reference.registry().map(|host| format!("{host}/")).unwrap_or_default();
    // one that was asked for by its digest has that in place of a tag, and moves nobody's tag
    let tag = match reference.digest() {
        Some(digest) => digest.hex(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    };
    let reference = format!("{registry}{}:{tag}", reference.repository());
    Ok(Found { record, platform: wanted, reference })
}
