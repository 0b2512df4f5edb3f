//! The way to a server: redirects, credentials, certificates, proxies, and none at all.

use std::fs;

use sbx::blame::Blame;
use sbx::fetch::{Client, ClientConfig, FetchError, Headers, ProxyConfig};
use url::Url;

use super::{Home, bytes, fetch, quick, told};
use crate::support::http::{Authority, Fault, Server};

#[test]
fn redirects_are_followed_but_not_in_circles() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/5", bytes());
    for at in 0..5 {
        server.always(&format!("/{at}"), Fault::Redirect(format!("/{}", at + 1)));
    }
    server.always("/loop", Fault::Redirect("/loop".to_owned()));
    let want = home.want(&bytes(), [server.url("/0")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    let error = fetch(quick(), &home.want(b"other", [server.url("/loop")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: http://127.0.0.1:PORT/loop redirects more than 5 times");
    assert_eq!(server.hits("/loop"), 6);
}

#[test]
fn credentials_reach_their_own_host_and_no_message() {
    let (private, other, home) = (Server::start(), Server::start(), Home::new());
    let url = |path: &str| {
        let mut url = private.url(path);
        url.set_username("me").unwrap();
        url.set_password(Some("secret")).unwrap();
        url.set_query(Some("token=secret"));
        url
    };
    private.put("/tool.deb", bytes());
    private
        .always("/away.deb", Fault::Redirect(other.url_at("localhost", "/away.deb").to_string()));
    fetch(quick(), &home.want(&bytes(), [url("/tool.deb")])).unwrap();
    assert_eq!(private.requests()[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));

    let heard = fetch(quick(), &home.want(b"away", [url("/away.deb")])).unwrap_err();
    assert!(private.requests()[1].header("authorization").is_some());
    assert_eq!(other.requests()[0].header("authorization"), None);
    let dead = {
        let gone = Server::start();
        Url::parse(&format!("http://me:secret@127.0.0.1:{}/x?t=secret", gone.address().port()))
            .unwrap()
    };
    let unreachable = fetch(quick(), &home.want(b"dead", [dead])).unwrap_err();
    private.always("/cut.deb", Fault::Drop);
    let broken = fetch(quick(), &home.want(b"cut", [url("/cut.deb")])).unwrap_err();
    for error in [heard, unreachable, broken] {
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn offline_refuses_the_network_and_names_the_way_out() {
    let (server, home) = (Server::start(), Home::new());
    let offline = ClientConfig { offline: true, ..quick() };
    let error =
        fetch(offline.clone(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
    insta::assert_snapshot!(error, @"package `tool` 1.0 is not in the store, and `--offline` refuses the network");
    assert_eq!(
        error.help(),
        Some("run `sbx fetch` where there is a network, or `sbx vendor` there and `--mirror` here")
    );
    let client = Client::new(offline);
    let urls = [server.url("/InRelease")];
    assert!(matches!(client.get("release", &urls, 10), Err(FetchError::Offline { .. })));
    let asks = [("release".to_owned(), urls.to_vec())];
    assert!(matches!(
        &client.get_all(&asks, &Headers::default(), 10)[0],
        Err(FetchError::Offline { .. })
    ));
    assert_eq!(server.connections(), 0);
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_named_and_only_then() {
    let authority = Authority::new();
    let (server, home) = (Server::start_tls(&authority), Home::new());
    server.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    let error = fetch(quick(), &want).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("SSL_CERT_FILE")));
    assert_eq!(server.connections(), 1, "a certificate does not get better by asking again");

    let pem = home.0.path().join("company.pem");
    fs::write(&pem, &authority.pem).unwrap();
    let trusting = ClientConfig { certificates: vec![pem], ..quick() };
    assert_eq!(fetch(trusting.clone(), &want).unwrap(), bytes());

    let plain = Server::start();
    server.always("/down.deb", Fault::Redirect(plain.url("/down.deb").to_string()));
    let error = fetch(trusting, &home.want(b"down", [server.url("/down.deb")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: https://127.0.0.1:PORT/down.deb redirects from https to http");
    assert_eq!(plain.total_hits(), 0);
}

#[test]
fn bad_certificate_files_are_the_users_to_mend() {
    let (server, home) = (Server::start(), Home::new());
    let path = home.0.path().join("bad.pem");
    for content in [
        None,
        Some("no pem"),
        Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(text) = content {
            fs::write(&path, text).unwrap();
        }
        let config = ClientConfig { certificates: vec![path.clone()], ..quick() };
        let error = fetch(config, &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
        assert!(error.to_string().contains("bad.pem"), "{content:?}: {error}");
        assert_eq!(error.blame(), Blame::Input, "{content:?}");
    }
}

#[test]
fn a_machine_without_authorities_still_speaks_http() {
    const INNER: &str = "fetch::what_is_fetched_has_its_bytes_and_leaves_no_part";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", INNER])
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn proxies_carry_what_they_are_named_for() {
    let authority = Authority::new();
    let (proxy, secure, home) = (Server::start(), Server::start_tls(&authority), Home::new());
    proxy.put("/debian/tool.deb", bytes());
    secure.put("/tool.deb", "over tls");
    proxy.tunnel_to(secure.address());
    let pem = home.0.path().join("company.pem");
    fs::write(&pem, &authority.pem).unwrap();
    let mut address = proxy.url("/");
    address.set_username("me").unwrap();
    address.set_password(Some("secret")).unwrap();
    let variables = [("all_proxy", address.as_str()), ("no_proxy", "direct.example.org")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let proxies = ProxyConfig::from_variables(variables.into_iter()).unwrap();
    let config = ClientConfig { proxies, certificates: vec![pem], ..quick() };

    let plain = Url::parse("http://archive.example.org/debian/tool.deb").unwrap();
    assert_eq!(fetch(config.clone(), &home.want(&bytes(), [plain.clone()])).unwrap(), bytes());
    assert_eq!(proxy.requests()[0].target, plain.as_str());
    assert_eq!(proxy.requests()[0].header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));

    let tunnelled = secure.url_at("secure.example.org", "/tool.deb");
    assert_eq!(fetch(config.clone(), &home.want(b"over tls", [tunnelled])).unwrap(), b"over tls");
    assert_eq!(proxy.requests()[1].method, "CONNECT");
    assert_eq!(secure.requests()[0].header("proxy-authorization"), None);

    // this machine is reached without, by whatever name
    let direct = Server::start();
    direct.put("/tool.deb", "direct");
    for name in ["127.0.0.1", "localhost"] {
        let home = Home::new();
        let want = home.want(b"direct", [direct.url_at(name, "/tool.deb")]);
        fetch(config.clone(), &want).unwrap();
    }
    assert_eq!((proxy.total_hits(), direct.total_hits()), (2, 2));
}

#[test]
fn a_proxy_that_cannot_be_reached_is_named() {
    let home = Home::new();
    let gone = Server::start().address();
    let address = format!("http://me:secret@{gone}");
    let variables = [("all_proxy".to_owned(), address)];
    let proxies = ProxyConfig::from_variables(variables.into_iter()).unwrap();
    for scheme in ["http", "https"] {
        let url = Url::parse(&format!("{scheme}://archive.example.org/tool.deb")).unwrap();
        let config = ClientConfig { proxies: proxies.clone(), ..quick() };
        let error = fetch(config, &home.want(&bytes(), [url])).unwrap_err().to_string();
        let said = format!(
            "{scheme}://archive.example.org/tool.deb cannot be reached: through proxy http://{gone}/: "
        );
        assert!(error.contains(&said) && !error.contains("secret"), "{error}");
    }
}
