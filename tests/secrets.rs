//! Whom a password, a token or a form with one is shown to: the registry that it is for, and whoever that
//! names to give tokens. No host that it sends to is one of them, whatever that demands, and nobody else is
//! whose address npm was told a credential for.

use crate::push_faults::{client, tar};
use crate::support::depot::Depot;
use crate::support::http::{Authority, Fault, Request, Server};
use crate::support::project::{Outcome, Project};
use sbx::digest::Digest;
use sbx::fetch::MirrorMap;
use sbx::oci::{Keychain, Registry};

use super::from::{image, project, serve};

/// A host that demands to know who one is, and gives tokens itself.
fn curious(scheme: &str) -> Server {
    let other = Server::start();
    let realm = format!("{scheme} realm=\"{}\",service=\"s\"", other.url("/token"));
    other.put("/token", br#"{"token":"fremd"}"#.to_vec());
    for path in ["/blob", "/token-away"] {
        other.always(path, Fault::Challenge(realm.clone()));
    }
    other
}

#[track_caller]
fn saw_nothing(other: &Server) {
    let seen = other.requests();
    assert!(seen.iter().all(|one| one.header("authorization").is_none()), "{seen:?}");
    assert!(seen.iter().all(|one| one.path() != "/token"), "{seen:?}");
}

/// Ways to be known at a registry.
fn logins(host: &str) -> [String; 2] {
    [r#"{"auth":"bWU6Z2VoZWlt"}"#, r#"{"identitytoken":"geheim"}"#]
        .map(|login| format!("{{\"auths\":{{\"{host}\":{login}}}}}"))
}

#[test]
fn storage_behind_a_registry_may_demand_nothing() {
    for scheme in ["Bearer", "Basic"] {
        let image = image();
        let (server, reference) = serve(&image);
        let other = curious(scheme);
        let realm = format!("Bearer realm=\"{}\",service=\"s\"", server.url("/token"));
        server.put("/token", br#"{"token":"eigen"}"#.to_vec());
        let path = format!("/v2/a/blobs/{}", Digest::of(&image.layers[0].0));
        server.always(&path, Fault::Redirect(other.url("/blob").to_string()));
        for login in logins(&server.address().to_string()) {
            server.script("/v2/a/manifests/1", [Fault::Challenge(realm.clone())]);
            let project = project(&reference, "").file(".docker/config.json", &login);
            project.sbx(&["build", "s"]).fails(3, &["sends to http", "/blob, which answers 401"]);
            assert!(server.hits("/token") > 0 && other.hits("/blob") > 0);
            saw_nothing(&other);
        }
    }
}

#[test]
fn whoever_gives_tokens_cannot_send_a_form_elsewhere() {
    let image = image();
    let (server, reference) = serve(&image);
    let other = curious("Bearer");
    let realm = format!("Bearer realm=\"{}\"", server.url("/token"));
    server.always("/v2/a/manifests/1", Fault::Challenge(realm));
    for status in [302, 307, 308] {
        let away = vec![("Location", other.url("/token-away").to_string())];
        server.always("/token", Fault::Answer(status, away));
        let [password, identity] = logins(&server.address().to_string());
        let project = project(&reference, "").file(".docker/config.json", &identity);
        project.sbx(&["build", "s"]).fails(3, &["redirects what is sent to it"]);
        assert_eq!(other.total_hits(), 0, "{status}: a form is for whom it was written");
        // a question goes on, and leaves the password behind
        project.write(".docker/config.json", &password);
        project.sbx(&["build", "s"]).fails(3, &["/token-away, which answers 401"]);
        assert!(other.hits("/token-away") > 0);
        saw_nothing(&other);
        other.forget_requests();
    }
}

/// A project with a small image.
fn small() -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"l\" { file \"/a\" content=\"a\"; }\nsandbox \"s\" { layers \"l\"; }\n",
    );
    project.build();
    project
}

#[test]
fn a_session_at_another_host_may_demand_nothing() {
    let project = small();
    let (depot, other) = (Depot::start(), Depot::start());
    depot.guard("geheim");
    other.guard("fremd");
    depot.lead_uploads_to(&format!("http://{}", other.host));
    for login in logins(&depot.host) {
        project.write(".docker/config.json", &login);
        let reference = format!("{}/a:1", depot.host);
        let said = format!("sends to http://{}/v2/a/blobs/uploads/", other.host);
        project.sbx(&["push", "s", &reference]).fails(3, &[&said, "which answers 401"]);
        let asked = other.asked();
        assert!(asked.iter().any(|one| one.method == "PUT" || one.method == "PATCH"), "{asked:?}");
        let leaks = asked.iter().filter(|one| one.authorization.is_some() || one.path == "/token");
        assert_eq!(leaks.count(), 0, "{asked:?}");
    }
}

#[test]
fn what_goes_up_over_tls_goes_nowhere_without() {
    let project = small();
    let authority = Authority::new();
    let (server, plain) = (Server::start_tls(&authority), Server::start());
    let at = server.address();
    project.write(&format!(".config/containers/certs.d/{at}/ca.crt"), &authority.pem);
    let session = plain.url("/v2/a/blobs/uploads/1").to_string();
    server.always("/v2/a/blobs/uploads/", Fault::Answer(202, vec![("Location", session)]));
    let reference = format!("{at}/a:1");
    let said =
        ["is reached over https, and sends what is uploaded to http://", "X-Forwarded-Proto"];
    project.sbx(&["push", "s", &reference]).fails(3, &said);
    assert_eq!(plain.total_hits(), 0);
}

/// A line of `.npmrc` for a host, and what nobody but npm's registry is to see of it.
fn npm_token(host: &str) -> String {
    format!("//{host}/:_authToken=geheim\n")
}

#[test]
fn npms_token_is_for_what_is_npms() {
    let (server, reference) = serve(&image());
    let tar = tar("x", b"x");
    let digest = Digest::of(&tar);
    server.put("/x.tar", tar);
    let from = server.url("/x.tar");
    let archive = format!("archive \"{from}\" digest=\"{digest}\" into=\"/srv/x\";");
    let host = server.address().to_string();
    let project = project(&reference, &archive).file(".npmrc", &npm_token(&host));
    ask(&server, &project).success();
    project.build();
    assert!(server.hits("/x.tar") > 0 && server.hits("/token") > 0);
    let seen = server.requests();
    let leak = |one: &&Request| one.header("authorization").is_some_and(|it| it.contains("geheim"));
    assert!(!seen.iter().any(|one| leak(&one)), "{seen:?}");
}

#[test]
fn a_registry_leads_npms_token_nowhere() {
    let project = small();
    let (depot, npm) = (Depot::start(), Depot::start());
    npm.guard("fremd");
    depot.lead_uploads_to(&format!("http://{}", npm.host));
    project.write(".npmrc", &[&depot.host, &npm.host].map(|host| npm_token(host)).concat());
    let reference = format!("{}/a:1", depot.host);
    project.sbx(&["push", "s", &reference]).fails(3, &["which answers 401"]);
    for asked in [depot.asked(), npm.asked()] {
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|one| one.authorization.is_none()), "{asked:?}");
    }
}

/// Asks for the tag's manifest anew, which the registry gives to whoever has a token of it.
fn ask(server: &Server, project: &Project) -> Outcome {
    let realm = format!("Bearer realm=\"{}\"", server.url("/token"));
    server.put("/token", br#"{"token":"eigen"}"#.to_vec());
    server.script("/v2/a/manifests/1", [Fault::Challenge(realm)]);
    project.sbx(&["lock", "--update", "base"])
}

#[test]
fn who_logged_in_to_a_namespace_is_known_there_alone() {
    let (server, reference) = serve(&image());
    let host = server.address();
    let namespaces = format!(
        "{{\"auths\":{{\"{host}/other\":{{\"auth\":\"eDp5\"}},\"{host}/a\":{{\"auth\":\"bWU6Z2VoZWlt\"}}}}}}"
    );
    let project = project(&reference, "").file(".docker/config.json", &namespaces);
    ask(&server, &project).success();
    let shown = || {
        let asked = server.requests().into_iter().rfind(|one| one.path() == "/token").unwrap();
        asked.header("authorization").map(str::to_owned)
    };
    assert_eq!(shown().as_deref(), Some("Basic bWU6Z2VoZWlt"));
    let other = format!("{{\"auths\":{{\"{host}/other\":{{\"auth\":\"eDp5\"}}}}}}");
    project.write(".docker/config.json", &other);
    server.forget_requests();
    ask(&server, &project).success();
    assert_eq!(shown(), None);
}

#[test]
fn podmans_login_is_found_without_a_runtime_directory() {
    let (server, reference) = serve(&image());
    let host = server.address();
    let login = |auth: &str| format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{auth}\"}}}}}}");
    let project = project(&reference, "")
        .file("auth.json", &login("bWU6Z2VoZWlt"))
        .file("other.json", &login("eDp5"))
        .file(".docker/config.json", &login("eDp5"));
    server.put("/token", br#"{"token":"eigen"}"#.to_vec());
    let shown = |runtime: &str| {
        server.forget_requests();
        let realm = format!("Bearer realm=\"{}\"", server.url("/token"));
        server.script("/v2/a/manifests/1", [Fault::Challenge(realm)]);
        let run =
            project.run(&["lock", "--update", "base"]).env("XDG_RUNTIME_DIR", runtime).mounts(
                "mount -t tmpfs tmpfs /run; mkdir -p /run/containers/0 /run/user/containers; \
             cp auth.json /run/containers/0; cp other.json /run/user/containers/auth.json",
            );
        run.outcome().success();
        let asked = server.requests().into_iter().find(|one| one.path() == "/token").unwrap();
        asked.header("authorization").map(str::to_owned)
    };
    assert_eq!(shown("").as_deref(), Some("Basic bWU6Z2VoZWlt"));
    assert_eq!(shown("/run/user").as_deref(), Some("Basic eDp5"), "one place or the other");
}

#[test]
fn a_mirrors_refusal_is_told_as_the_mirrors() {
    let server = Server::start();
    let at = server.address();
    let demand = Fault::Challenge("Basic realm=\"inside\"".to_owned());
    server.always("/v2/library/debian/manifests/13", demand);
    let project = small().var("SBX_MIRROR_DOCKER", server.url("/").as_str());
    let told = project.sbx(&["pull", "debian:13"]);
    let said = [
        format!("image `debian:13`: {at} does not let strangers have it"),
        format!("docker login {at}`"),
    ];
    told.fails(3, &[&said[0], &said[1]]);
}

#[test]
fn an_odd_file_of_logins_holds_up_nobody_and_a_damaged_one_whoever_asks() {
    let (server, reference) = serve(&image());
    let project = project(&reference, "");
    for odd in ["", "{\"auths\":null,\"credHelpers\":null}", "{\"auths\":{\"x\":null}}"] {
        project.write(".docker/config.json", odd);
        ask(&server, &project).success();
    }
    project.write(".docker/config.json", "{\"auths\": geheim");
    project.sbx(&["show", "s"]).success();
    let told = ask(&server, &project)
        .fails(1, &["config.json is no configuration of registries: line 1, column"]);
    assert!(!told.stderr.contains("geheim"), "{}", told.stderr);
}

#[test]
fn a_registry_on_this_machine_that_speaks_tls_is_told_how() {
    let server = Server::start_tls(&Authority::new());
    let reference = format!("{}/a:1", server.address()).parse().unwrap();
    let (client, keychain, mirrors) = (client(), Keychain::default(), MirrorMap::default());
    let registry = Registry::new(&client, &keychain, &mirrors, &reference).unwrap();
    let error = registry.manifest("1").unwrap_err();
    let help = error.help().unwrap_or_default();
    assert!(help.contains("containers/certs.d/HOST[:PORT]/"), "{error}: {help}");
}
