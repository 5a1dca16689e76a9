//! A scraper: one request, one answer with a length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.head);
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn read(stream: &mut impl Read, head_only: bool) -> Self {
        Self::finish(stream, Vec::new(), head_only)
    }

    /// When so much was read already.
    pub fn read_after(stream: &mut impl Read, first: &[u8]) -> Self {
        Self::finish(stream, first.to_vec(), false)
    }

    fn finish(stream: &mut impl Read, mut bytes: Vec<u8>, head_only: bool) -> Self {
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => bytes.push(byte[0]),
                other => panic!("no head: {other:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        let head = String::from_utf8(bytes).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head, body: Vec::new() };
        let length: usize = answer.header("content-length").parse().unwrap();
        if !head_only {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body).unwrap();
        }
        answer
    }
}

/// Asks on a connection that stays.
pub fn ask(stream: &mut (impl Read + Write), method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    Answer::read(stream, method == "HEAD")
}

/// One scrape on a connection of its own.
pub fn get(address: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    ask(&mut TcpStream::connect(address).unwrap(), "GET", "/metrics", headers)
}
