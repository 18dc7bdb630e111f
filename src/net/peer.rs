//! Whose the other end of a connection is, asked of the kernel.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::IPPROTO_TCP;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Room for the kernel's answer, in bytes.
const ANSWER: usize = 4096;

/// Asks about the network that the calling thread is in when this is made.
#[derive(Debug)]
pub(super) struct Peers(OwnedFd);

impl Peers {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?))
    }

    /// The account of the program whose socket is at `from`, connected with `to`, as this process's namespace numbers it.
    pub(super) fn account(&self, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<u32> {
        let mut socket_id = SocketId::new_v4();
        (socket_id.source_address, socket_id.source_port) = ((*from.ip()).into(), from.port());
        (socket_id.destination_address, socket_id.destination_port) = ((*to.ip()).into(), to.port());
        socket_id.cookie = [0xff; 8];
        let request = InetRequest {
            family: nix::libc::AF_INET as u8,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER];
        let n = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&buffer[..n]).map_err(io::Error::other)?;
        match answer.payload {
            // Of one that its program has closed already nothing is known, and the answer has root's number.
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) if found.header.inode == 0 => {
                Err(io::Error::other("it is closed"))
            }
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => Ok(found.header.uid),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("the kernel answers something else")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address else { panic!("{address}") };
        address
    }

    #[test]
    fn a_connection_is_its_program_s_account_s() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (from, to) = (v4(client.local_addr().unwrap()), v4(listener.local_addr().unwrap()));
        let peers = Peers::open().unwrap();
        assert_eq!(peers.account(from, to).unwrap(), nix::unistd::geteuid().as_raw());
        let nobody = SocketAddrV4::new(*from.ip(), 1);
        assert!(peers.account(nobody, to).is_err(), "there is no such connection");
        assert_eq!(peers.account(from, to).unwrap(), nix::unistd::geteuid().as_raw(), "and it can be asked again");
        // One that says what it wants and is gone before anybody looks.
        let mut client = client;
        io::Write::write_all(&mut client, b"DELETE /").unwrap();
        drop(client);
        assert!(peers.account(from, to).is_err(), "nobody's word is taken for what nobody has any more");
    }
}
