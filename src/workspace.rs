//! Where a command runs: the project, the store, the network, opened once. The only place that
//! reads the environment, the clock and the home directory.

mod ahead;
mod place;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use etcetera::BaseStrategy;
use jiff::Timestamp;

use sbx::build::run::Vault;
use sbx::decl::{
    Ask, MirrorPlace, Project, Recipe, Sandbox, SecretSource, SourceMirror, no_project,
    read_project,
};
use sbx::fetch::{
    Client, ClientConfig, Hearer, IndexSettings, MirrorMap, NpmSettings, ProxyConfig, Settings,
    SourceRegistry, parse_cap,
};
use sbx::jail::{IdMap, Jail};
use sbx::lock::solve::lock_path;
use sbx::lock::{Lock, Source};
use sbx::oci::{Depository, Keychain};
use sbx::platform::Platform;
use sbx::store::{Cap, Claimant, Stamp, Store};

pub use self::place::{check_named_store, find_root, find_store, open_store, store_path};

use self::ahead::Ahead;
use self::place::root_without_project;
use crate::failure::{Failure, Outcome};

/// Arguments of every verb.
#[derive(Args, Clone)]
pub struct Global {
    /// Directory of the project (default: this one, or the nearest above with `sandboxes.kdl`)
    #[arg(long, global = true, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Directory of the store (default: `SBX_CACHE`, or `cache/` of the project)
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// How much of the disk the store may take: a size, or a share (`40GiB`, `30%`)
    #[arg(long, global = true, value_name = "SIZE|PERCENT", value_parser = parse_cap)]
    pub cap: Option<Cap>,
    /// Refuse the network
    #[arg(long, global = true)]
    pub offline: bool,
    /// Look for sources here first: what `sbx vendor` wrote, a directory, its address, or `oci://…`
    #[arg(long, global = true, value_name = "DIR|URL", env = "SBX_MIRROR")]
    pub mirror: Vec<MirrorPlace>,
    /// Answer in JSON on stdout, a line for each answer
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but the answer and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How many processors to use (default: all)
    #[arg(long, short, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Who hears of requests that are made again
    #[arg(skip)]
    pub hearer: Hearer,
}

/// A project and what it is built with.
pub struct Workspace {
    pub project: Project,
    pub store: Store,
    pub client: Client,
    pub mirrors: MirrorMap,
    pub keychain: Keychain,
    pub jail: Jail,
    pub vault: HostVault,
    pub now: Timestamp,
    ahead: Ahead,
}

/// Secrets of build steps: variables of this process, files of this machine.
pub struct HostVault {
    root: PathBuf,
}

impl Vault for HostVault {
    fn read(&self, source: &SecretSource) -> Result<Vec<u8>, String> {
        match source {
            SecretSource::Variable(name) => match std::env::var_os(name) {
                Some(value) => Ok(value.into_encoded_bytes()),
                None => Err(format!("variable `{name}` is not set")),
            },
            SecretSource::File(path) => {
                let full = self.root.join(path);
                std::fs::read(&full).map_err(|error| format!("{}: {error}", full.display()))
            }
        }
    }
}

/// One image that is asked for.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub sandbox: &'a Sandbox,
    pub platform: Platform,
}

impl Workspace {
    pub fn open(global: &Global) -> Outcome<Self> {
        let root = find_root(global)?;
        let ahead = Ahead::start(lock_path(&root));
        Self::of(global, read_project(&root)?, ahead)
    }

    /// For who names an image by its reference: a store that is named will do without a project.
    pub fn open_for_reference(global: &Global) -> Outcome<Self> {
        let Some(root) = root_without_project(global)? else { return Self::open(global) };
        let ahead = Ahead::start(lock_path(&root));
        Self::of(global, no_project(&root), ahead)
    }

    fn of(global: &Global, project: Project, ahead: Ahead) -> Outcome<Self> {
        let root = project.root.clone();
        let settings = read_settings(&root, &project)?;
        let store = Store::open(&store_path(global, &root)?)?;
        let store = store.with_cap(global.cap.or(settings.store_cap));
        if let Some(jobs) = settings.jobs.filter(|_| global.jobs.is_none()) {
            // the first to say so counts, and nothing has been computed yet
            let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs);
            pool.build_global().unwrap_or_default();
        }
        let usual = ClientConfig::default();
        let (keychain, mirrors) = (read_keychain(), source_mirrors(global, &project)?);
        let config = ClientConfig {
            registries: depositories(&mirrors, &keychain, &settings.mirrors),
            offline: global.offline,
            parallel: settings.downloads.unwrap_or(usual.parallel),
            certificates: settings.certificates,
            plain_http: settings.plain_http,
            proxies: settings.proxies,
            credentials: settings.credentials,
            host_certificates: certificate_dirs(),
            mirrors,
            hearer: global.hearer.clone(),
            ..usual
        };
        let program = own_program()?;
        Ok(Workspace {
            project,
            store,
            client: Client::new(config),
            mirrors: settings.mirrors,
            keychain,
            jail: Jail { program, emulator: None },
            vault: HostVault { root },
            now: Timestamp::try_from(SystemTime::now()).unwrap_or_default(),
            ahead,
        })
    }

    pub fn lock_path(&self) -> PathBuf {
        lock_path(&self.project.root)
    }

    pub fn read_lock(&self) -> Outcome<Lock> {
        let path = self.lock_path();
        Ok(self.ahead.take(&path).unwrap_or_else(|| Lock::read(&path))?)
    }

    /// Tells the store what this project's lock needs.
    pub fn register(&self, lock: &Lock) -> Outcome {
        let claimant = Claimant { project: &self.project.name, root: &self.project.root };
        let sources = || lock.sources(|_, _| true).iter().map(Source::integrity).collect();
        Ok(self.store.register(&claimant, Stamp::at(&self.lock_path()), sources)?)
    }

    /// The sandboxes that names or globs mean, for the platforms asked for.
    pub fn targets(
        &self,
        names: &[String],
        all: bool,
        platforms: &[Platform],
    ) -> Outcome<Vec<Target<'_>>> {
        let sandboxes = self.select(names, all)?;
        let platforms = if platforms.is_empty() { self.host_first() } else { platforms.to_vec() };
        if let Some(strange) =
            platforms.iter().find(|platform| !self.project.platforms.contains(platform))
        {
            let message = format!("the project is not declared for {strange}");
            return Err(Failure::input(message).with_help("add it to `platforms` in `project`"));
        }
        let pairs = sandboxes.into_iter().flat_map(|sandbox| {
            platforms.iter().map(move |platform| Target { sandbox, platform: *platform })
        });
        Ok(pairs.collect())
    }

    /// The one sandbox that a name means, for a platform or for this machine's.
    pub fn target(&self, name: &str, platform: Option<Platform>) -> Outcome<Target<'_>> {
        let platforms: Vec<Platform> = platform.into_iter().collect();
        let targets = self.targets(&[name.to_owned()], false, &platforms)?;
        match targets.as_slice() {
            [target] => Ok(*target),
            _ => Err(Failure::input(format!("`{name}` means several images"))
                .with_help("name one sandbox, and one platform with `--platform`")),
        }
    }

    /// What is built when no platform is named: this machine's, if the project has it.
    fn host_first(&self) -> Vec<Platform> {
        let host = Platform::host();
        if self.project.platforms.contains(&host) {
            vec![host]
        } else {
            self.project.platforms.clone()
        }
    }

    fn select(&self, names: &[String], all: bool) -> Outcome<Vec<&Sandbox>> {
        let sandboxes = &self.project.sandboxes;
        if all {
            return Ok(sandboxes.values().collect());
        }
        if names.is_empty() {
            let known: Vec<_> = sandboxes.keys().map(|name| name.as_str()).collect();
            let message = "name a sandbox, or say `--all`";
            return Err(
                Failure::input(message).with_help(format!("there are: {}", known.join(", ")))
            );
        }
        let mut chosen: Vec<&Sandbox> = Vec::new();
        for name in names {
            let glob = globset::Glob::new(name)
                .map_err(|error| Failure::input(format!("`{name}` is no pattern: {error}")))?
                .compile_matcher();
            let found: Vec<&Sandbox> =
                sandboxes.values().filter(|sandbox| glob.is_match(sandbox.name.as_str())).collect();
            if found.is_empty() {
                return Err(self.unknown(name));
            }
            chosen.extend(found);
        }
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        chosen.dedup_by(|a, b| a.name == b.name);
        Ok(chosen)
    }

    fn unknown(&self, name: &str) -> Failure {
        let known = || self.project.sandboxes.keys().map(|name| name.as_str());
        let failure = Failure::input(format!("there is no sandbox `{name}`"));
        match sbx::decl::nearest(name, known()) {
            Some(near) => failure.with_help(format!("did you mean `{near}`?")),
            None => {
                failure.with_help(format!("there are: {}", known().collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

/// Where sources may lie under their digests: what the command says, then what the project says.
fn source_mirrors(global: &Global, project: &Project) -> Outcome<Vec<SourceMirror>> {
    let absolute = |place: &MirrorPlace| match place {
        MirrorPlace::Dir(dir) => {
            let full = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            if full.is_dir() {
                return Ok(SourceMirror { place: MirrorPlace::Dir(full), ask: Ask::First });
            }
            let failure = Failure::input(format!("mirror `{}` is no directory", dir.display()));
            Err(failure.with_help("`sbx vendor` makes one"))
        }
        MirrorPlace::Url(_) | MirrorPlace::Registry(_) => {
            Ok(SourceMirror { place: place.clone(), ask: Ask::First })
        }
    };
    let mut mirrors = global.mirror.iter().map(absolute).collect::<Outcome<Vec<_>>>()?;
    mirrors.extend(project.mirrors.iter().cloned().map(|mut mirror| {
        if let MirrorPlace::Dir(dir) = &mut mirror.place {
            *dir = project.root.join(&dir);
        }
        mirror
    }));
    Ok(mirrors)
}

/// Those of some mirrors that are repositories of registries.
fn depositories(
    mirrors: &[SourceMirror],
    keychain: &Keychain,
    hosts: &MirrorMap,
) -> Vec<Arc<dyn SourceRegistry>> {
    let one = |mirror: &SourceMirror| match &mirror.place {
        MirrorPlace::Registry(reference) => {
            let (reference, keychain, hosts) = (reference.clone(), keychain.clone(), hosts.clone());
            let depository = Depository::new(reference, mirror.ask, keychain, hosts);
            Some(Arc::new(depository) as Arc<dyn SourceRegistry>)
        }
        MirrorPlace::Dir(_) | MirrorPlace::Url(_) => None,
    };
    mirrors.iter().filter_map(one).collect()
}

/// What the environment says of the network, then what `settings.kdl` in the configuration
/// directory says. (`SSL_CERT_FILE` and `SSL_CERT_DIR` are the TLS library's own to read.)
fn read_settings(root: &Path, project: &Project) -> Outcome<Settings> {
    let input = |error: &dyn std::fmt::Display| Failure::input(error.to_string());
    let variables = || {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text)
    };
    let mirrors = MirrorMap::from_variables(variables()).map_err(|error| input(&error))?;
    let proxies = ProxyConfig::from_variables(variables()).map_err(|error| input(&error))?;
    let file = read_settings_file()?;
    let indexes = index_settings(variables().collect()).read().map_err(|error| input(&error))?;
    let npm = npm_settings(variables().collect(), root, project);
    let (registries, credentials) = npm.read().map_err(|error| input(&error))?;
    let mirrors = mirrors.or(file.mirrors).with_indexes(indexes).with_registries(registries);
    let credentials = mirrors.known_by(credentials);
    Ok(Settings { mirrors, proxies: proxies.or(file.proxies), credentials, ..file })
}

/// What this machine and the project's directories tell npm of registries. A file that cannot be read
/// says nothing.
fn npm_settings(variables: Vec<(String, String)>, root: &Path, project: &Project) -> NpmSettings {
    let named =
        variables.iter().find(|(name, _)| name.eq_ignore_ascii_case("npm_config_userconfig"));
    let named = named.map(|(_, path)| PathBuf::from(path));
    let home = || Some(etcetera::choose_base_strategy().ok()?.home_dir().join(".npmrc"));
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let recipes = project.layers.values().flat_map(|layer| &layer.recipes);
    let dirs = recipes.filter_map(|recipe| match recipe {
        Recipe::Npm(npm) => Some(npm.project.as_str()),
        _ => None,
    });
    let project = |dir: &str| Some((dir.to_owned(), read(root.join(dir).join(".npmrc"))?));
    NpmSettings {
        user: named.or_else(home).and_then(read),
        projects: dirs.chain([""]).filter_map(project).collect(),
        variables,
    }
}

/// What this machine tells pip and uv of indexes. A file that cannot be read says nothing.
fn index_settings(variables: Vec<(String, String)>) -> IndexSettings {
    let base = etcetera::choose_base_strategy().ok();
    let find = |name: &str| {
        variables.iter().find(|(known, _)| known == name).map(|(_, value)| PathBuf::from(value))
    };
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let config = |name: &str| base.as_ref().map(|base| base.config_dir().join(name));
    let home = |name: &str| base.as_ref().map(|base| base.home_dir().join(name));
    let own = [find("PIP_CONFIG_FILE"), config("pip/pip.conf"), home(".pip/pip.conf")];
    let all = own.into_iter().flatten().chain([PathBuf::from("/etc/pip.conf")]);
    IndexSettings {
        uv: find("UV_CONFIG_FILE").or_else(|| config("uv/uv.toml")).and_then(read),
        pip: all.filter_map(read).collect(),
        netrc: find("NETRC").or_else(|| home(".netrc")).and_then(read),
        variables,
    }
}

/// Where docker, podman and skopeo look for certificates of registries.
fn certificate_dirs() -> Vec<PathBuf> {
    let own = etcetera::choose_base_strategy().ok();
    let own = own.iter().flat_map(|base| {
        ["containers/certs.d", "docker/certs.d"].map(|name| base.config_dir().join(name))
    });
    own.chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
}

/// Where docker keeps what people have told it.
pub fn docker_config() -> Option<PathBuf> {
    let own = || Some(etcetera::choose_base_strategy().ok()?.home_dir().join(".docker"));
    std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(own)
}

/// Who one is at registries: what `podman login` and `docker login` wrote, where podman and skopeo look for
/// it and in their order (containers-auth.json(5)).
fn read_keychain() -> Keychain {
    let base = etcetera::choose_base_strategy().ok();
    let dir =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let docker = docker_config().map(|dir| dir.join("config.json"));
    let runtime = dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    // where a session has no directory of its own, as with `sudo` and in containers
    let user = rustix::process::getuid().as_raw();
    let runtime = runtime.unwrap_or_else(|| format!("/run/containers/{user}/auth.json").into());
    let config = base.as_ref().map(|base| base.config_dir().join("containers/auth.json"));
    let paths = [dir("REGISTRY_AUTH_FILE"), Some(runtime), config, docker];
    // a file that cannot be read says nothing
    let read =
        |path: PathBuf| Some((path.display().to_string(), std::fs::read_to_string(&path).ok()?));
    let files: Vec<_> = paths.into_iter().flatten().filter_map(read).collect();
    Keychain::parse(&files)
}

/// `SBX_CACHE`.
fn store_variable() -> Option<PathBuf> {
    std::env::var_os("SBX_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn read_settings_file() -> Outcome<Settings> {
    let Ok(base) = etcetera::choose_base_strategy() else { return Ok(Settings::default()) };
    let path = base.config_dir().join("sbx/settings.kdl");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Settings::parse(&path, &text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(Failure::world(format!("{}: {error}", path.display()))),
    }
}

/// Nanoseconds since 1970.
pub fn now_nanos() -> i64 {
    sbx::build::local::nanos(SystemTime::now())
}

/// What opens a key file that a password protects.
pub fn key_password() -> Option<Vec<u8>> {
    std::env::var_os("COSIGN_PASSWORD").map(OsString::into_encoded_bytes)
}

/// This program's arguments, to start it anew.
pub fn own_arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// Directories of PATH.
pub fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Where instances are: `SBX_STATE`, or a place of the machine's for root and of the user's for
/// others.
pub fn state_path() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("SBX_STATE").filter(|value| !value.is_empty()) {
        return std::path::absolute(&path).map_err(|error| {
            Failure::world(format!("{}: {error}", PathBuf::from(path).display()))
        });
    }
    // root of a user namespace is a user all the same
    let map =
        IdMap::current().map_err(|error| Failure::world(format!("/proc/self/uid_map: {error}")))?;
    if rustix::process::geteuid().is_root() && map == IdMap::Identity {
        return Ok(PathBuf::from("/var/lib/sbx/instances"));
    }
    let base = etcetera::choose_base_strategy().map_err(|error| {
        Failure::world(error.to_string()).with_help("name a directory with `SBX_STATE`")
    })?;
    let state = base.state_dir().unwrap_or_else(|| base.home_dir().join(".local/state"));
    Ok(state.join("sbx/instances"))
}

/// The list of registered types: `SBX_REGISTRY`, or beside the instances.
pub fn registry_path() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("SBX_REGISTRY").filter(|value| !value.is_empty()) {
        return std::path::absolute(&path).map_err(|error| {
            Failure::world(format!("{}: {error}", PathBuf::from(path).display()))
        });
    }
    let state = state_path()?;
    let moved = std::env::var_os("SBX_STATE").is_some_and(|value| !value.is_empty());
    let name = match (moved, state.file_name()) {
        (true, Some(name)) => format!("{}.registry.json", name.to_string_lossy()),
        _ => "registry.json".to_owned(),
    };
    Ok(state.with_file_name(name))
}

/// Random bytes in hexadecimal.
pub fn random_hex(bytes: usize) -> Outcome<String> {
    let mut random = vec![0; bytes];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::world(format!("random bytes: {error}")))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A variable of this machine.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// This program's own file.
pub fn own_program() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|error| {
        Failure::world(format!("this program's own file cannot be found: {error}"))
    })
}
