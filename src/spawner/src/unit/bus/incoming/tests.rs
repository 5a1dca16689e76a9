//! Who is heard, and what is kept meanwhile.

use super::super::value::Body;
use super::*;

const PEER: &str = ":1.1";

/// A message as the bus delivers it.
pub(crate) struct Sent<'a> {
    pub(crate) kind: u8,
    pub(crate) sender: &'a str,
    pub(crate) answers: u32,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) body: Body,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        let (path, interface, member) = ("/x", "i.f", "Changed");
        Self { kind: SIGNAL, sender: PEER, answers: 0, path, interface, member, signature: "", body: Body::default() }
    }
}

impl Sent<'_> {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut message = Body::default();
        for byte in [b'l', self.kind, 0, 1] {
            message.byte(byte);
        }
        message.u32(u32::try_from(self.body.bytes.len()).expect("short"));
        message.u32(77);
        let texts = [(1, "o", self.path), (2, "s", self.interface), (3, "s", self.member), (7, "s", self.sender)];
        message.array(8, |message| {
            let field = super::super::field;
            for (code, kind, text) in texts {
                field(message, code, kind);
                message.string(text);
            }
            field(message, 5, "u");
            message.u32(self.answers);
            field(message, 8, "g");
            message.signature(self.signature);
        });
        message.align(8);
        message.bytes.extend_from_slice(&self.body.bytes);
        message.bytes
    }
}

fn number(number: u64) -> Body {
    let mut body = Body::default();
    body.u64(number);
    body
}

fn genuine() -> Vec<u8> {
    Sent { signature: "t", body: number(5), ..Sent::default() }.bytes()
}

/// Everything that is heard, fed in pieces.
fn heard(incoming: &mut Incoming, bytes: &[u8], piece: usize) -> Vec<Message> {
    let mut heard = Vec::new();
    for piece in bytes.chunks(piece) {
        incoming.feed(piece);
        while let Some(message) = incoming.next(Some(PEER)).expect("a message") {
            heard.push(message);
        }
    }
    heard
}

/// The genuine signal that follows is heard, and nothing else.
fn check_passed_over(what: &str, hostile: &[u8]) {
    for piece in [7, 64 * 1024] {
        let mut incoming = Incoming::default();
        let all = [hostile, &genuine()].concat();
        let heard = heard(&mut incoming, &all, piece);
        let [Message::Signal { sender: Sender::Peer, path, member, body }] = &heard[..] else {
            panic!("{what}: {heard:?}")
        };
        assert_eq!((path.as_str(), member.as_str(), body[0].number()), ("/x", "i.f.Changed", Some(5)), "{what}");
    }
}

/// The same layout in the other byte order: only the lengths matter, the rest is never read.
fn big_endian(mut message: Vec<u8>) -> Vec<u8> {
    message[0] = b'B';
    for at in [4, 8, 12] {
        message[at..at + 4].reverse();
    }
    message
}

#[test]
fn what_is_of_nobody_we_know_is_passed_over_and_what_follows_is_heard() {
    check_passed_over("nothing", &[]);
    for sender in [":1.11", ":1", "", "org.freedesktop.DBus.x", "org.freedesktop.systemd1"] {
        check_passed_over(sender, &Sent { sender, signature: "t", body: number(6), ..Sent::default() }.bytes());
    }
    for kind in [METHOD_RETURN, ERROR] {
        check_passed_over("an answer", &Sent { sender: ":1.11", kind, answers: 1, ..Sent::default() }.bytes());
    }
    check_passed_over("a call", &Sent { kind: 1, ..Sent::default() }.bytes());
    check_passed_over(
        "a body that does not fit",
        &Sent { signature: "tt", body: number(6), ..Sent::default() }.bytes(),
    );
    let path = format!("/{}", "a".repeat(HEADER_BYTES_MAX));
    check_passed_over("a long header", &Sent { path: &path, ..Sent::default() }.bytes());
    for (sender, body) in [(":1.11", 0_u64), (PEER, 5)] {
        let message = Sent { sender, signature: "t", body: number(body), ..Sent::default() }.bytes();
        check_passed_over("the other byte order", &big_endian(message));
    }
}

#[test]
fn before_a_peer_is_named_only_the_bus_is_heard() {
    let mut incoming = Incoming::default();
    incoming.feed(&genuine());
    incoming.feed(&Sent { sender: BUS, ..Sent::default() }.bytes());
    let message = incoming.next(None).expect("messages");
    assert!(matches!(message, Some(Message::Signal { sender: Sender::Bus, .. })), "{message:?}");
    assert!(incoming.next(None).expect("no more").is_none());
}

#[test]
fn what_is_too_long_streams_by_and_an_answer_that_is_says_so() {
    const LENGTH: usize = 17 * 1024 * 1024;
    for (sender, kind) in [(":1.11", SIGNAL), (PEER, SIGNAL), (PEER, METHOD_RETURN)] {
        let mut body = Body::default();
        body.array(1, |body| body.bytes.resize(LENGTH, 0));
        let long = Sent { sender, kind, answers: 3, signature: "ay", body, ..Sent::default() }.bytes();
        let mut incoming = Incoming::default();
        let mut most = 0;
        let mut all = Vec::new();
        for piece in [long, genuine()].concat().chunks(64 * 1024) {
            incoming.feed(piece);
            while let Some(message) = incoming.next(Some(PEER)).expect("a message") {
                all.push(message);
            }
            most = most.max(incoming.room());
        }
        assert!(most <= 256 * 1024, "{most} bytes were kept of a message that nobody reads");
        let refusals = all.iter().filter(|message| matches!(message, Message::Error { serial: 3, .. })).count();
        assert_eq!((all.len(), refusals), if kind == SIGNAL { (1, 0) } else { (2, 1) }, "{all:?}");
    }
}

/// Short enough to be kept if it were of the peer.
#[test]
fn fifteen_megabytes_of_a_stranger_are_not_kept() {
    let mut body = Body::default();
    body.array(1, |body| body.bytes.resize(15 * 1024 * 1024, 0));
    let mut incoming = Incoming::default();
    for piece in (Sent { sender: ":1.11", signature: "ay", body, ..Sent::default() }).bytes().chunks(64 * 1024) {
        incoming.feed(piece);
        assert!(incoming.next(Some(PEER)).expect("a message").is_none());
        assert!(incoming.room() <= 256 * 1024, "{}", incoming.room());
    }
    assert_eq!(heard(&mut incoming, &genuine(), 9).len(), 1);
}

#[test]
fn what_is_no_message_is_an_error() {
    let long = Sent { signature: "t", body: number(6), ..Sent::default() }.bytes();
    let version = [&long[..3], &[2], &long[4..]].concat();
    let length = [&long[..4], &[0xff; 4], &long[8..]].concat();
    for bytes in [b"what is this, now?".as_slice(), &version, &length] {
        let mut incoming = Incoming::default();
        incoming.feed(bytes);
        assert!(incoming.next(Some(PEER)).is_err());
    }
}
