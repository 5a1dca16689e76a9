//! An HTTPS notifier and a peer with a certificate of its own authority: told where the certificate is right, and nowhere else.

use crate::notices::{host, submit};
use crate::skipped;
use crate::support::{Host, PATIENCE, wait_for};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};

/// An authority `ca.pem`, another one `other.pem`, and `cert.pem` with `key.pem` for localhost, signed by the first. False: there is
/// no openssl.
fn certificates(dir: &Path) -> bool {
    let config = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = ci-runner-test\n\
                  [ca]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = keyCertSign\n\
                  [host]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:localhost\n";
    fs::write(dir.join("openssl.cnf"), config).unwrap();
    let openssl = |words: &str| {
        let made = Command::new("openssl").args(words.split(' ')).current_dir(dir).output();
        made.is_ok_and(|output| output.status.success())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";
    openssl(&format!("req -x509 {key} -days 2 -extensions ca -keyout ca-key.pem -out ca.pem"))
        && openssl(&format!("req -x509 {key} -days 2 -extensions ca -keyout other-key.pem -out other.pem"))
        && openssl(&format!("req -new {key} -keyout key.pem -out request.pem"))
        && openssl(
            "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile openssl.cnf \
             -extensions host -out cert.pem",
        )
}

/// A peer that takes whatever comes over TLS, and tells bodies: its port.
fn peer(dir: &Path) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let chain = vec![CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(versions.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut reader = BufReader::new(rustls::StreamOwned::new(session, stream));
            let mut head = String::new();
            // A client that does not like the certificate hangs up.
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let Some(length) = length.and_then(|length| length.parse().ok()) else { continue };
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            reader.get_mut().conn.send_close_notify();
            let _ = reader.get_mut().flush();
            if tell.send(String::from_utf8(body).unwrap()).is_err() {
                return;
            }
        }
    });
    (port, told)
}

/// What `notify test` says; empty where it was delivered.
fn test(host: &Host, name: &str) -> String {
    let done = host.run_cli(&["notify", "test", name]);
    if done.status.success() { String::new() } else { String::from_utf8_lossy(&done.stderr).into_owned() }
}

#[test]
fn only_a_peer_whose_certificate_is_trusted_and_right_is_told() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()) {
        skipped::tell("only_a_peer_whose_certificate_is_trusted_and_right_is_told", "openssl is not installed");
        return;
    }
    let (port, told) = peer(dir.path());
    let path = |name: &str| dir.path().join(name);
    let mut host = host(|_| {
        let http = |name: &str, url: &str, more: &str| {
            format!("[notifiers.{name}]\nkind = \"http\"\nurl = \"{url}\"\ntimeout = \"10s\"\n{more}\n")
        };
        let url = format!("https://localhost:{port}/hook?key=pathsecret");
        let ca = |name: &str| format!("ca_file = {:?}", path(name));
        [
            http("good", &url, &ca("ca.pem")),
            http("system", &url, ""),
            http("other", &url, &ca("other.pem")),
            http("replaced", &url, &ca("replaced.pem")),
            // The certificate is for the name, not for the address.
            http("address", &format!("https://127.0.0.1:{port}/"), &ca("ca.pem")),
            // Its authority is trusted, but nothing speaks TLS there.
            http("plain", &url.replace("https:", "http:"), ""),
        ]
        .concat()
    });
    assert_eq!(test(&host, "good"), "");
    let body = told.recv_timeout(PATIENCE).unwrap();
    assert!(body.contains("notifier.test"), "{body}");
    for (name, why) in [
        ("system", "certificate"),
        ("other", "certificate"),
        ("address", "certificate"),
        ("replaced", "cannot read certificates from"),
        ("plain", "localhost"),
    ] {
        let said = test(&host, name);
        assert!(said.contains(why) && !said.contains("pathsecret"), "{name}: {said:?}");
    }
    assert!(told.try_recv().is_err(), "somebody was told without a right certificate");

    // Certificates are read at each try: a job's notice that could not be told is, once they are right.
    fs::copy(path("other.pem"), path("replaced.pem")).unwrap();
    let id = submit(&host, json!({ "shell": "true", "notify": ["replaced"] }));
    wait_for("a try that fails", || {
        let all = host.get("/api/v1/notifiers");
        let replaced = all.as_array().unwrap().iter().find(|notifier| notifier["name"] == "replaced")?.clone();
        (replaced["counts"]["failed"].as_u64() > Some(0)).then_some(())
    });
    fs::copy(path("ca.pem"), path("replaced.pem")).unwrap();
    let body = told.recv_timeout(PATIENCE).unwrap();
    let event: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("job.ended"), &json!(id)));
    assert!(!host.daemon_log().contains("pathsecret"));

    // The system's certificates are those that SSL_CERT_FILE names, as for other programs.
    host.stop();
    host.env = vec![("SSL_CERT_FILE".to_owned(), path("ca.pem").display().to_string())];
    host.start();
    assert_eq!(test(&host, "system"), "");
    assert!(told.recv_timeout(PATIENCE).unwrap().contains("notifier.test"));
}
