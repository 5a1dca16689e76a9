//! TLS, users and tokens. The certificate is made by openssl's program, where it is installed.

use crate::client::{Answer, ask, get};
use crate::skipped;
use crate::{daemon, settings};
use ci_runner::exporter::Exporter;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const FEW: &str = "[metrics]\ncollectors = [\"uname\"]\n";

#[test]
fn who_does_not_know_the_secret_sees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokens"), "t0ken\n").unwrap();
    std::fs::write(dir.path().join("users"), "ann:secret\n").unwrap();
    let path = dir.path().display();
    let text = format!("{FEW}bearer_file = \"{path}/tokens\"\nbasic_file = \"{path}/users\"\n");
    let exporter = Exporter::start(settings(dir.path(), &text), daemon()).unwrap();
    let address = exporter.address().unwrap();
    for headers in [&[][..], &[("Authorization", "Bearer other")], &[("Authorization", "Basic YW5uOg==")]] {
        let answer = get(address, headers);
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, "Basic realm=\"ci-runner\""),
            "{headers:?}"
        );
        assert!(!String::from_utf8_lossy(&answer.body).contains("ci_runner"));
    }
    for value in ["Bearer t0ken", "Basic YW5uOnNlY3JldA=="] {
        assert!(get(address, &[("Authorization", value)]).text().contains("ci_runner_up 1\n"), "{value}");
    }
    exporter.stop();
}

#[test]
fn a_missing_secret_keeps_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{FEW}bearer_file = \"{}/none\"\n", dir.path().display());
    let refused = Exporter::start(settings(dir.path(), &text), daemon()).err().map(|error| format!("{error:#}"));
    assert!(refused.as_ref().is_some_and(|text| text.contains("none")), "{refused:?}");
}

fn certificate(dir: &Path) -> bool {
    let config = "[req]\ndistinguished_name = dn\nx509_extensions = v3\nprompt = no\n[dn]\nCN = localhost\n\
                  [v3]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:localhost\n";
    std::fs::write(dir.join("openssl.cnf"), config).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-config", "openssl.cnf", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output();
    made.is_ok_and(|output| output.status.success())
}

#[test]
fn scrapes_go_over_tls_and_plain_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    if !certificate(dir.path()) {
        skipped::tell("scrapes_go_over_tls_and_plain_ones_do_not", "openssl is not installed");
        return;
    }
    let path = dir.path().display();
    let text = format!("{FEW}tls_certificate = \"{path}/cert.pem\"\ntls_key = \"{path}/key.pem\"\n");
    let exporter = Exporter::start(settings(dir.path(), &text), daemon()).unwrap();
    let address = exporter.address().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.path().join("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    for _ in 0..2 {
        assert!(ask(&mut stream, "GET", "/metrics", &[]).text().contains("ci_runner_up 1\n"));
    }
    let plain = std::panic::catch_unwind(|| get(address, &[]));
    assert!(plain.is_err(), "plain HTTP gets no answer: {plain:?}");
    exporter.stop();
}

/// A page that made its own name point to 127.0.0.1 still says that name; an address, `localhost` and configured names are ours.
#[test]
fn a_name_that_somebody_made_point_here_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), "[http]\nhosts = [\"ci.example\"]\n[metrics]\ncollectors = [\"uname\"]\n");
    let exporter = Exporter::start(settings, daemon()).unwrap();
    let address = exporter.address().unwrap();
    let status = |head: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\n{head}\r\n").unwrap();
        Answer::read(&mut stream, false).status
    };
    for (head, expected) in [
        ("Host: evil.example\r\n", 421),
        ("Host: 127.0.0.1.evil.example:9100\r\n", 421),
        ("Host: CI.example:9100\r\n", 200),
        ("Host: 127.0.0.1:9100\r\n", 200),
        ("Host: localhost\r\n", 200),
        ("", 200),
    ] {
        assert_eq!(status(head), expected, "{head:?}");
    }
    exporter.stop();
}
