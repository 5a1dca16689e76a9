//! Packets: how messages and descriptors get in and out of a SEQPACKET socket, for both ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix,
};
use serde::Serialize;

use crate::protocol::PACKET_BYTES_MAX;

/// A `start` brings at most two descriptors; there is room for one more, so that too many are noticed.
const DESCRIPTORS_MAX: usize = 3;

/// What a read came to.
pub(crate) enum Received {
    /// A packet of so many bytes.
    Packet(usize, Vec<OwnedFd>),
    /// Nothing is there now.
    Nothing,
    /// The peer has gone.
    Closed,
    /// A packet that breaks the rules, and how.
    Malformed(&'static str),
}

/// Reads one packet without waiting, into a buffer of [`PACKET_BYTES_MAX`].
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Received {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Received::Nothing,
            Err(_) => return Received::Closed,
            Ok(got) => break got,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Received::Malformed("a packet is longer than 32768 bytes");
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Received::Malformed("a packet brings too many descriptors, or there is no room for more here");
    }
    if got.bytes == 0 { Received::Closed } else { Received::Packet(got.bytes, fds) }
}

/// Sends one packet without waiting.
pub(crate) fn send(socket: impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(packet)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Puts messages into as few packets as hold them. A message that no packet can hold is an error.
pub(crate) fn pack<T: Serialize>(messages: &[T]) -> io::Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let mut packet: Vec<u8> = Vec::new();
    for message in messages {
        let start = packet.len();
        packet.push(if start == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut packet, message)?;
        if packet.len() >= PACKET_BYTES_MAX {
            let mut alone = packet.split_off(start);
            if alone.len() >= PACKET_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long for a packet"));
            }
            alone[0] = b'[';
            packet.push(b']');
            packets.push(std::mem::replace(&mut packet, alone));
        }
    }
    if !packet.is_empty() {
        packet.push(b']');
        packets.push(packet);
    }
    Ok(packets)
}

/// The address of a socket file. Where the path is too long for one (107 bytes), it goes through a descriptor of its
/// directory, which must be kept until the address has been used.
pub(crate) fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok((address, None));
    }
    let (dir, name) = match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => (dir, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_full_but_never_too_full() {
        let messages: Vec<String> = (0..5000).map(|i| "x".repeat(i % 300)).collect();
        let packets = pack(&messages).expect("packs");
        let mut back: Vec<String> = Vec::new();
        for packet in &packets {
            assert!(packet.len() <= PACKET_BYTES_MAX);
            back.extend(serde_json::from_slice::<Vec<String>>(packet).expect("parses"));
        }
        assert_eq!(back, messages);
        assert!(packets.len() < 5000 * 155 / PACKET_BYTES_MAX + 3);
        assert!(pack(&["x".repeat(PACKET_BYTES_MAX)]).is_err());
        assert!(pack::<String>(&[]).expect("packs").is_empty());
        let just_fits = ["x".repeat(PACKET_BYTES_MAX - 4), "y".to_owned()];
        let lengths: Vec<usize> = pack(&just_fits).expect("packs").iter().map(Vec::len).collect();
        assert_eq!(lengths, [PACKET_BYTES_MAX, 5]);
    }
}
