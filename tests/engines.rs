//! Which engine `load` and `run --launcher docker` speak to: the one that `docker` itself would.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::support::docker::Engine;
use crate::support::http::{Authority, Server};
use crate::support::project::Project;
use sbx::digest::Digest;
use serde_json::{Value, json};

fn project() -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"l\" { file \"/a\" content=\"a\"; }\n\
         sandbox \"s\" { layers \"l\"; command \"/a\"; reference \"tests/engines:1\"; }\n",
    );
    project.build();
    project
}

/// Makes a context of docker's the current one.
fn choose_context(project: &Project, name: &str, host: &str) {
    let id = Digest::of(name.as_bytes()).hex();
    let meta = json!({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}});
    project.write(&format!(".docker/contexts/meta/{id}/meta.json"), &meta.to_string());
    project.write(".docker/config.json", &json!({"currentContext": name}).to_string());
}

#[test]
fn the_engine_is_the_one_that_docker_speaks_to() {
    let project = project();
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start(home.path());
    let load = |more: &[(&str, &str)]| {
        let run = project.run(&["load", "s"]);
        more.iter().fold(run, |run, (name, value)| run.env(name, value)).outcome()
    };
    let loaded = load(&[("DOCKER_HOST", engine.host())]).success().says("loaded into docker");
    assert_eq!(loaded.answer(), "tests/engines:1", "for `docker run`");
    let names = ["image", "inspect", "--format", "{{.Id}}", "tests/engines:1"];
    engine.docker(&names);
    let gone = || drop(engine.docker(&["rmi", "tests/engines:1"]));

    // an ordinary user's own, where the machine has none
    gone();
    let run = project.run(&["load", "s"]).mounts("mount -t tmpfs tmpfs /run");
    run.env("XDG_RUNTIME_DIR", home.path().to_str().unwrap()).outcome().success();
    engine.docker(&names);

    choose_context(&project, "near", engine.host());
    gone();
    load(&[]).success();
    engine.docker(&names);
    // the file does not run, but the engine of the context was asked to
    let started = project.sbx(&["run", "--launcher", "docker", "s"]);
    started.fails(126, &["/a"]);

    // what was chosen and does not answer is not taken for another
    let none = [("DOCKER_HOST", "unix:///none.sock")];
    load(&none).fails(3, &["does not answer at unix:///none.sock, which `DOCKER_HOST` names"]);
    choose_context(&project, "away", "unix:///none.sock");
    load(&[]).fails(3, &["unix:///none.sock, which docker's context `away` names"]);
    load(&[("DOCKER_CONTEXT", "near")]).success();
    choose_context(&project, "far", "ssh://me@build.example.org");
    let texts = ["docker's context `far` names docker's engine at `ssh://me@", "`unix://PATH`"];
    load(&[]).fails(1, &texts);
    project.sbx(&["run", "--launcher", "docker", "s"]).fails(1, &texts);
    load(&[("DOCKER_CONTEXT", "nowhere")]).fails(1, &["context `nowhere` is not among those of"]);
}

#[test]
fn an_engine_behind_tls_shows_who_it_is() {
    let project = project();
    let authority = Authority::new();
    let server = Server::start_tls(&authority);
    let said = project.sbx(&["--json", "build", "s"]).success().stdout;
    let built: Value = serde_json::from_str(&said).unwrap();
    server.put("/info", br#"{"DriverStatus":[]}"#.as_slice());
    let known = json!({"Id": built["image"]}).to_string();
    server.put("/images/tests/engines:1/json", known.as_bytes());
    let host = server.url("").as_str().trim_end_matches('/').replace("https://", "tcp://");
    let load = || {
        let run = project.run(&["--json", "load", "s"]).env("DOCKER_HOST", &host);
        let certificates = project.dir.path().join("certificates");
        run.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", certificates.to_str().unwrap())
    };
    fs::create_dir(project.dir.path().join("certificates")).unwrap();
    load().outcome().fails(3, &["certificate"]);
    project.write("certificates/ca.pem", &authority.pem);
    let said = load().outcome().success().stdout;
    assert!(said.contains("\"way\":\"there\""), "{said}");
    // as docker has it, an authority that is named is the only one
    project.write("machine.pem", &authority.pem);
    let trusted = project.dir.path().join("machine.pem");
    let by_machine = || load().env("SSL_CERT_FILE", trusted.to_str().unwrap()).outcome();
    project.write("certificates/ca.pem", &Authority::new().pem);
    by_machine().fails(3, &["certificate"]);
    fs::remove_file(project.dir.path().join("certificates/ca.pem")).unwrap();
    by_machine().success();
}

#[test]
fn an_engine_that_hangs_is_not_waited_for() {
    let project = project();
    let socket = project.dir.path().join("docker.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let host = format!("unix://{}", socket.display());
    let began = Instant::now();
    let load = project.run(&["load", "s"]).env("DOCKER_HOST", &host).outcome();
    let said = format!("does not answer at {host}, which `DOCKER_HOST` names: no byte for 10s");
    load.fails(3, &[&said]);
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// Docker on containerd's store that does not reach this machine's loopback.
#[derive(Default)]
struct Apart {
    created: Vec<String>,
    loaded: Bytes,
}

impl Apart {
    /// What the index of the layout names that came.
    fn manifest(&self) -> String {
        let text = String::from_utf8_lossy(&self.loaded);
        let (_, digest) = text.split_once("\"digest\":\"").unwrap();
        digest.split('"').next().unwrap().to_owned()
    }

    async fn answer(state: Arc<Mutex<Self>>, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let mut state = state.lock().unwrap();
        match &*path {
            "/info" => json!({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]})
                .to_string()
                .into_response(),
            "/images/create" => {
                state.created.push(query);
                (StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"connection refused"}"#)
                    .into_response()
            }
            "/images/load" => {
                state.loaded = body;
                "{}".into_response()
            }
            "/images/tests/engines:1/json" if !state.loaded.is_empty() => {
                json!({"Id": state.manifest()}).to_string().into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

#[test]
fn an_engine_that_does_not_reach_this_machine_gets_all_of_an_image() {
    let project = project();
    let state = Arc::new(Mutex::new(Apart::default()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let shared = Arc::clone(&state);
    let answer = move |request| Apart::answer(Arc::clone(&shared), request);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, Router::new().fallback(answer)).await
    });
    let outcome = project.run(&["--json", "load", "s"]).env("DOCKER_HOST", &host).outcome();
    let outcome = outcome.success().says("does not reach this machine: it gets the whole image");
    assert!(outcome.stdout.contains("\"way\":\"archive\""), "{}", outcome.stdout);
    let state = state.lock().unwrap();
    assert_eq!(state.created.len(), 1);
    assert!(state.created[0].ends_with("&tag=1&platform=linux%2Famd64"), "{:?}", state.created);
    let text = String::from_utf8_lossy(&state.loaded);
    assert!(text.contains("\"io.containerd.image.name\":\"docker.io/tests/engines:1\""));
    assert!(text.contains("oci-layout"));
}
