//! `sbx show`: a sandbox's configuration, layers and sizes.

use clap::Args;
use serde::Serialize;

use sbx::digest::Digest;
use sbx::plan::{ImageSpec, Work};
use sbx::platform::Platform;

use super::Global;
use super::build::plan_target;
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct ShowArguments {
    /// Name of a sandbox
    name: String,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

#[derive(Serialize)]
struct Answer {
    sandbox: String,
    reference: String,
    /// The image's id, if it is built.
    image: Option<Digest>,
    config: ImageSpec,
    /// Variables of the host's that it takes at launch.
    env_from_host: Vec<String>,
    layers: Vec<ShownLayer>,
}

#[derive(Serialize)]
struct ShownLayer {
    name: String,
    title: String,
    /// Packages that it brings.
    packages: usize,
    /// Bytes to fetch for it.
    sources: u64,
    /// Bytes of its tar, if it is built.
    size: Option<u64>,
}

pub fn run(global: &Global, arguments: &ShowArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let platforms: Vec<Platform> = arguments.platform.into_iter().collect();
    let lock = workspace.read_lock()?;
    for target in workspace.targets(std::slice::from_ref(&arguments.name), false, &platforms)? {
        let plan = plan_target(&workspace, target, &lock)?;
        let image = workspace.store.find_image(&plan.key)?;
        let mut layers = Vec::new();
        for step in &plan.steps {
            let pins = match &step.work {
                Work::Content(work) => work.pins.as_slice(),
                _ => &[],
            };
            let mut damaged =
                |digest: &Digest| ui.say(&format!("note: layer {digest} of the store is damaged"));
            let record = workspace.store.find_layer(&step.key, &mut damaged)?;
            layers.push(ShownLayer {
                name: step.layer.to_string(),
                title: step.title.clone(),
                packages: pins.len(),
                sources: pins.iter().map(|pin| pin.size).sum(),
                size: record.map(|record| record.size),
            });
        }
        let host_vars = workspace.project.host_vars(target.sandbox, target.platform);
        let answer = Answer {
            sandbox: target.sandbox.name.to_string(),
            reference: workspace.project.reference_of(target.sandbox),
            image: image.map(|record| record.image),
            config: plan.spec,
            env_from_host: host_vars.into_iter().map(|var| var.name).collect(),
            layers,
        };
        ui.answer(&answer, || text(&answer));
    }
    Ok(())
}

fn text(answer: &Answer) -> String {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let image = answer.image.map_or("not built".to_owned(), |image| image.to_string());
    let mut lines = vec![
        format!("{} ({})", answer.sandbox, answer.config.platform),
        format!("image      {image}"),
        format!("reference  {}", answer.reference),
        format!("command    {}", answer.config.command.join(" ")),
        format!("workdir    {}", answer.config.workdir),
    ];
    lines
        .extend(answer.config.env.iter().map(|(name, value)| format!("env        {name}={value}")));
    lines.extend(answer.env_from_host.iter().map(|name| format!("env        {name} of the host")));
    lines.extend(
        answer
            .config
            .ports
            .iter()
            .map(|port| format!("port       {}/{}", port.number, port.protocol)),
    );
    for layer in &answer.layers {
        let size = layer.size.map_or("not built".to_owned(), megabytes);
        let packages = if layer.packages > 0 {
            format!(", {} packages", layer.packages)
        } else {
            String::new()
        };
        lines.push(format!("layer      {:14} {size:>12}  {}{packages}", layer.name, layer.title));
    }
    lines.join("\n")
}
