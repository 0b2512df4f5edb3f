//! Editable installs (PEP 660), for projects that `[project]` describes whole: what an installation
//! writes beside a source that stays where it is. No build program runs; the source is found through
//! a path file, which Python reads at its start.

use super::entry_points;
use super::name::ProjectName;
use super::record::{self, Line};
use super::wheel::{Body, INSTALLER, Installed, Place, WheelError, made};
use crate::decl::Editable;

/// Everything that its installation has, RECORD last.
pub fn install_editable(editable: &Editable, place: &Place) -> Result<Vec<Installed>, WheelError> {
    let project: ProjectName = editable
        .name
        .parse()
        .map_err(|_| WheelError::Layout(format!("no project's name, `{}`", editable.name)))?;
    let stem = format!("{}-{}", project.in_files(), editable.version.replace('-', "_"));
    let info = format!("{}/{stem}.dist-info", place.packages);
    let points = entry_points::parse(&editable.entry_points).map_err(WheelError::EntryPoint)?;
    let origin = serde_json::json!({
        "url": format!("file://{}", editable.dir), "dir_info": {"editable": true},
    });
    let wheel = "Wheel-Version: 1.0\nGenerator: sbx\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let mut texts = vec![
        (format!("{}/__editable__.{stem}.pth", place.packages), format!("{}\n", editable.root)),
        (format!("{info}/INSTALLER"), INSTALLER.to_owned()),
        (format!("{info}/METADATA"), metadata(editable)),
        (format!("{info}/REQUESTED"), String::new()),
        (format!("{info}/WHEEL"), wheel.to_owned()),
        (format!("{info}/direct_url.json"), origin.to_string()),
    ];
    if !editable.entry_points.is_empty() {
        texts.push((format!("{info}/entry_points.txt"), editable.entry_points.clone()));
    }
    let texts = texts.into_iter().map(|(below, text)| (below, text, 0o644));
    let scripts = points
        .iter()
        .map(|point| (format!("bin/{}", point.name), point.script(&place.python), 0o755));
    let mut files = Vec::new();
    let mut lines = Vec::new();
    for (below, text, mode) in texts.chain(scripts) {
        let path = place.prefix.join(below.as_bytes())?;
        let (file, line) = made(path, place.recorded(&below), text.into_bytes(), mode);
        files.push(file);
        lines.push(line);
    }
    let own = format!("{info}/RECORD");
    lines.push(Line { path: place.recorded(&own), hash: String::new(), size: String::new() });
    let text = record::write(lines).into_bytes();
    let (path, size) = (place.prefix.join(own.as_bytes())?, text.len() as u64);
    files.push(Installed { path, mode: 0o644, size, body: Body::Text(text) });
    Ok(files)
}

fn metadata(editable: &Editable) -> String {
    let mut text =
        format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n", editable.name, editable.version);
    if let Some(wanted) = &editable.requires_python {
        text += &format!("Requires-Python: {wanted}\n");
    }
    for requirement in &editable.requires {
        text += &format!("Requires-Dist: {requirement}\n");
    }
    for (extra, requires) in &editable.extras {
        text += &format!("Provides-Extra: {extra}\n");
        for requirement in requires {
            text += &match requirement.split_once(';') {
                None => format!("Requires-Dist: {requirement}; extra == '{extra}'\n"),
                Some((bare, marker)) => {
                    format!("Requires-Dist: {bare}; ({}) and extra == '{extra}'\n", marker.trim())
                }
            };
        }
    }
    text
}
