//! Tokens: asked for once by all who wait for one, again when they end, and shown in the words of whoever
//! gives them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::deb::Member;
use crate::support::depot::Depot;
use crate::support::http::{Fault, Server};
use crate::support::oci::Image;
use crate::support::project::Project;
use sbx::digest::Digest;

use super::from::serve;

/// Demands a token that this server gives.
fn challenge(server: &Server) -> Fault {
    Fault::Challenge(format!("Bearer realm=\"{}\",service=\"s\"", server.url("/token")))
}

fn pull(reference: &str) -> crate::support::project::Outcome {
    Project::new().file("sandboxes.kdl", "").sbx(&["pull", reference])
}

#[test]
fn a_pull_outlives_its_tokens_as_long_as_something_comes() {
    let layer = |image: Image, name: &str| image.layer(&[Member::file(name, name)]);
    let image = ["a", "b", "c", "d"].into_iter().fold(Image::new(), layer);
    let (server, reference) = serve(&image);
    server.put("/token", br#"{"token":"eigen"}"#.to_vec());
    let path = |at: usize| format!("/v2/a/blobs/{}", Digest::of(&image.layers[at].0));
    for at in 0..4 {
        server.script(&path(at), vec![challenge(&server); at]);
    }
    pull(&reference).success();
    assert_eq!(server.hits("/token"), 3);
    // whoever gets no further is not asked for ever
    server.forget_requests();
    server.always(&path(3), challenge(&server));
    pull(&reference).fails(3, &["does not let strangers have it"]);
    assert_eq!((server.hits("/token"), server.hits(&path(3))), (1, 2));
}

#[test]
fn a_token_that_ends_on_the_way_is_asked_for_once_and_silently() {
    let names: Vec<String> = (0..30).map(|number| format!("l{number}")).collect();
    let layer =
        |name: &String| format!("layer \"{name}\" {{ file \"/{name}\" content=\"{name}\"; }}\n");
    let layers: String = names.iter().map(layer).collect();
    let all: String = names.iter().map(|name| format!(" \"{name}\"")).collect();
    let project = Project::new()
        .file("sandboxes.kdl", &format!("{layers}sandbox \"s\" {{ layers{all}; }}\n"))
        .file(".docker/config.json", "{\"credsStore\":\"counting\"}");
    let dir = project.dir.path().display();
    project.write(
        "docker-credential-counting",
        &format!("#!/bin/sh\ncat >/dev/null; echo >>{dir}/runs; echo '{{\"Username\":\"me\",\"Secret\":\"geheim\"}}'\n"),
    );
    let helper = project.dir.path().join("docker-credential-counting");
    fs::set_permissions(helper, fs::Permissions::from_mode(0o755)).unwrap();
    project.build();
    let depot = Depot::start();
    depot.guard_for(20);
    let path = format!("{dir}:{}", std::env::var("PATH").unwrap());
    let reference = format!("{}/a:1", depot.host);
    let pushed = project.run(&["push", "s", &reference]).env("PATH", &path).outcome().success();
    assert!(!pushed.stderr.contains("does not let"), "{}", pushed.stderr);
    assert_eq!(project.read("runs").lines().count(), 1, "a helper is asked once");
    let (tokens, all) = (depot.count("GET", "/token"), depot.asked().len());
    assert!((3..=all / 20 + 2).contains(&tokens), "{tokens} tokens for {all} requests");
}

#[test]
fn a_token_may_go_by_either_of_its_names() {
    let (server, reference) = serve(&Image::new().layer(&[Member::file("a", "a")]));
    for given in [
        r#"{"token":"","access_token":"eigen"}"#,
        r#"{"token":null,"access_token":"eigen"}"#,
        r#"{"token":"eigen","access_token":"x"}"#,
    ] {
        server.forget_requests();
        server.put("/token", given.as_bytes());
        server.script("/v2/a/manifests/1", [challenge(&server)]);
        pull(&reference).success();
        let shown = server
            .requests()
            .into_iter()
            .filter_map(|one| one.headers.get("authorization").cloned());
        assert!(shown.into_iter().all(|one| one == "Bearer eigen"), "{given}");
    }
    server.put("/token", r#"{"token":"","access_token":""}"#.as_bytes());
    server.script("/v2/a/manifests/1", [challenge(&server)]);
    pull(&reference).fails(3, &["asks for what nobody understands"]);
}
