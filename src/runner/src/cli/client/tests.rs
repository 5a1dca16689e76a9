//! The client against hand-written answers, cut at every place.

use super::*;
use std::io::Read;
use std::os::unix::net::UnixListener;

/// A server that answers one connection with `answer`, written piece by piece, and gives back the request.
fn answering(pieces: Vec<Vec<u8>>) -> (tempfile::TempDir, Client, std::thread::JoinHandle<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 64 * 1024];
        let count = stream.read(&mut request).unwrap();
        request.truncate(count);
        for piece in pieces {
            // A client that has all it needs does not wait for the rest.
            if stream.write_all(&piece).is_err() {
                break;
            }
        }
        request
    });
    let host = Host { environment: Default::default(), ..Host::default() };
    let client = Client::of(&host, Some(&path));
    (dir, client, server)
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\n\r\n";

#[test]
fn answers_are_read_however_they_are_cut() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]".to_vec();
    let to_end = b"HTTP/1.1 200 OK\r\n\r\n[1,2]".to_vec();
    for whole in [length, to_end, CHUNKED.to_vec()] {
        for cut in 1..whole.len() {
            let (_dir, client, server) = answering(vec![whole[..cut].to_vec(), whole[cut..].to_vec()]);
            let answer: Vec<u32> = client.get("/x").unwrap();
            assert_eq!(answer, [1, 2]);
            server.join().unwrap();
        }
    }
}

#[test]
fn an_answer_that_stops_early_is_an_error() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]".to_vec();
    for whole in [length, CHUNKED[..CHUNKED.len() - 2].to_vec()] {
        for cut in 1..whole.len() {
            let (_dir, client, server) = answering(vec![whole[..cut].to_vec()]);
            let error = client.get::<Vec<u32>>("/x").unwrap_err();
            assert!(matches!(error, ClientError::Broken { .. }), "{cut}: {error:?}");
            assert_eq!(crate::cli::fail::Failure::from(error).code(), 2);
            server.join().unwrap();
        }
    }
}

#[test]
fn requests_are_whole_messages() {
    let (_dir, client, server) = answering(vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()]);
    client.post::<()>("/api/v1/pause", &serde_json::json!({"reason": "é"})).unwrap();
    let request = String::from_utf8(server.join().unwrap()).unwrap();
    assert!(request.starts_with("POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\n"), "{request}");
    assert!(request.contains("Content-Length: 15\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"reason\":\"é\"}"), "{request}");
}

#[test]
fn nonsense_is_refused() {
    for answer in [
        &b"hello\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}",
    ] {
        let (_dir, client, server) = answering(vec![answer.to_vec()]);
        let error = client.get::<serde_json::Value>("/x").unwrap_err();
        assert!(matches!(error, ClientError::Garbled { .. }), "{error:?}");
        server.join().unwrap();
    }
}

#[test]
fn problems_have_exit_codes() {
    for (status, code) in [(400, 3), (404, 1), (409, 1), (413, 3), (422, 3), (500, 1), (503, 2), (507, 2)] {
        let body =
            format!(r#"{{"type":"about:blank","title":"T","status":{status},"detail":"why","field":"timeout"}}"#);
        let answer = format!("HTTP/1.1 {status} X\r\nRetry-After: 5\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (_dir, client, server) = answering(vec![answer.into_bytes()]);
        let error = client.get::<()>("/x").unwrap_err();
        assert_eq!(error.to_string(), "timeout: why (try again in 5 s)");
        assert_eq!(crate::cli::fail::Failure::from(error).code(), code, "{status}");
        server.join().unwrap();
    }
    let (_dir, client, server) = answering(vec![b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\noops".to_vec()]);
    assert_eq!(client.get::<()>("/x").unwrap_err().to_string(), "oops");
    server.join().unwrap();
}

#[test]
fn nobody_there_names_what_was_tried_and_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host {
        environment: [("XDG_STATE_HOME".to_owned(), dir.path().to_string_lossy().into_owned())].into(),
        ..Host::default()
    };
    let error = Client::of(&host, None).connect().unwrap_err();
    let text = error.to_string();
    if Path::new("/run/ci-runner/api.sock").exists() {
        return;
    }
    assert!(text.contains("/run/ci-runner/api.sock: there is no socket"), "{text}");
    assert!(text.contains("ci-runner/run/api.sock"), "{text}");
    assert!(text.contains("systemctl start ci-runner") && text.contains("ci-runner daemon"), "{text}");
    assert_eq!(crate::cli::fail::Failure::from(error).code(), 2);
    let long = Client::of(&host, Some(Path::new(&format!("/{}", "x".repeat(200))))).connect().unwrap_err();
    assert!(long.to_string().contains("201 bytes, and a socket's path has at most 107"), "{long}");
    assert_eq!(crate::cli::fail::Failure::from(long).code(), 3, "it will never work");
}

#[test]
fn queries_are_encoded() {
    assert_eq!(with_query("/x", &[]), "/x");
    assert_eq!(with_query("/x", &[("a", "b c&d".into()), ("é", "ü".into())]), "/x?a=b%20c%26d&é=%C3%BC");
}
