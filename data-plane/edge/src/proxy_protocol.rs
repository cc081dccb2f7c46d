//! The PROXY protocol, versions 1 and 2: a load balancer says in front of the first request whose connection
//! it passes on (HAProxy's `doc/proxy-protocol.txt`).
//!
//! It frames the header and leaves its meaning to the crate `ppp`. Invariants: when the protocol is on, the
//! header is required of every connection, never sniffed for; at most [`HEADER_BYTES_MAX`] bytes are held;
//! nothing behind the header is lost. The time limit is the connection's (headers), which the caller keeps.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A version 1 header with its CRLF, bytes (specification §2.1).
const V1_BYTES_MAX: usize = 107;

/// The fixed part of a version 2 header, bytes (specification §2.2).
const V2_FIXED_BYTES: usize = 16;

/// The longest header accepted, bytes: addresses plus the extensions that cloud load balancers send.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;

/// Why there is no usable header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The connection ended inside the header, or could not be read.
    #[error("the connection ended inside the PROXY header")]
    Read(#[source] std::io::Error),
    /// The first bytes are no PROXY header.
    #[error("the connection does not start with a PROXY header")]
    Missing,
    /// It is longer than the limit.
    #[error("the PROXY header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
    /// It is not well-formed.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// What a header said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address; `None` when the balancer speaks for itself (health checks) or does not know.
    pub source: Option<IpAddr>,
    /// How many bytes the header took.
    pub len: usize,
}

/// Parses the header at the beginning of `input`: `Ok(None)` when more bytes are needed.
///
/// # Errors
/// When the bytes cannot become a header any more.
pub fn parse(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    match input.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(input),
        Some(b'\r') => parse_v2(input),
        Some(_) => Err(ProxyHeaderError::Missing),
    }
}

fn parse_v1(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let start = ppp::v1::PROTOCOL_PREFIX.as_bytes();
    let shared = input.len().min(start.len());
    if input[..shared] != start[..shared] {
        return Err(ProxyHeaderError::Missing);
    }
    let window = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() >= V1_BYTES_MAX {
            Err(ProxyHeaderError::Malformed)
        } else {
            Ok(None)
        };
    };
    let len = end + 2;
    let header = ppp::v1::Header::try_from(&input[..len]).map_err(|_| ProxyHeaderError::Malformed)?;
    let source = match header.addresses {
        ppp::v1::Addresses::Tcp4(pair) => Some(IpAddr::V4(pair.source_address)),
        ppp::v1::Addresses::Tcp6(pair) => Some(IpAddr::V6(pair.source_address)),
        ppp::v1::Addresses::Unknown => None,
    };
    Ok(Some(ProxyHeader { source, len }))
}

fn parse_v2(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let start = ppp::v2::PROTOCOL_PREFIX;
    let shared = input.len().min(start.len());
    if input[..shared] != start[..shared] {
        return Err(ProxyHeaderError::Missing);
    }
    if input.len() < V2_FIXED_BYTES {
        return Ok(None);
    }
    let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([input[14], input[15]]));
    if len > HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    if input.len() < len {
        return Ok(None);
    }
    let header = ppp::v2::Header::try_from(&input[..len]).map_err(|_| ProxyHeaderError::Malformed)?;
    let source = match (header.command, header.addresses) {
        (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv4(pair)) => Some(IpAddr::V4(pair.source_address)),
        (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv6(pair)) => Some(IpAddr::V6(pair.source_address)),
        (ppp::v2::Command::Proxy | ppp::v2::Command::Local, _) => None,
    };
    Ok(Some(ProxyHeader { source, len }))
}

/// Reads the header off a connection. Returns the client's address (the peer's when the balancer names none)
/// and the bytes that were read beyond the header.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    peer: SocketAddr,
) -> Result<(IpAddr, Bytes), ProxyHeaderError> {
    let mut buffer = BytesMut::with_capacity(512);
    loop {
        if let Some(header) = parse(&buffer)? {
            buffer.advance(header.len);
            return Ok((header.source.unwrap_or(peer.ip()).to_canonical(), buffer.freeze()));
        }
        if buffer.len() >= HEADER_BYTES_MAX {
            return Err(ProxyHeaderError::TooLong);
        }
        let read = stream
            .read_buf(&mut buffer)
            .await
            .map_err(ProxyHeaderError::Read)?;
        if read == 0 {
            return Err(ProxyHeaderError::Read(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn peer() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    async fn read_all(bytes: &[u8]) -> Result<(IpAddr, Bytes), ProxyHeaderError> {
        // One byte at a time: the worst a network may do.
        let mut stream = tokio_test_stream(bytes);
        read(&mut stream, peer()).await
    }

    fn tokio_test_stream(bytes: &[u8]) -> impl AsyncRead + Unpin + use<'_> {
        struct Trickle<'a>(&'a [u8]);
        impl AsyncRead for Trickle<'_> {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                if let Some((first, rest)) = self.0.split_first() {
                    buffer.put_slice(&[*first]);
                    self.0 = rest;
                }
                std::task::Poll::Ready(Ok(()))
            }
        }
        Trickle(bytes)
    }

    #[tokio::test]
    async fn both_versions_name_the_client() {
        let mut v2_ipv6 = [0u8; 36];
        v2_ipv6[..2].copy_from_slice(&[0x20, 0x01]);
        v2_ipv6[15] = 7;
        let mut with_extension = vec![203, 0, 113, 9, 127, 0, 0, 1, 0, 80, 1, 187];
        with_extension.extend([0x03, 0, 4, 1, 2, 3, 4]);
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (
                b"PROXY TCP4 203.0.113.9 127.0.0.1 80 443\r\n".to_vec(),
                "203.0.113.9",
            ),
            (b"PROXY TCP6 2001:db8::7 ::1 80 443\r\n".to_vec(), "2001:db8::7"),
            (
                b"PROXY TCP6 ::ffff:203.0.113.9 ::1 80 443\r\n".to_vec(),
                "203.0.113.9",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
            (
                v2(1, 0x11, &[203, 0, 113, 9, 127, 0, 0, 1, 0, 80, 1, 187]),
                "203.0.113.9",
            ),
            (v2(1, 0x11, &with_extension), "203.0.113.9"),
            (v2(1, 0x21, &v2_ipv6), "2001::7"),
            (v2(0, 0x00, &[]), "127.0.0.1"),
            (
                v2(0, 0x11, &[203, 0, 113, 9, 127, 0, 0, 1, 0, 80, 1, 187]),
                "127.0.0.1",
            ),
        ];
        for (bytes, expected) in cases {
            let (address, rest) = read_all(&bytes).await.unwrap();
            assert_eq!(address, expected.parse::<IpAddr>().unwrap(), "{bytes:?}");
            assert!(rest.is_empty());
        }
    }

    #[tokio::test]
    async fn what_follows_the_header_is_kept() {
        let bytes = b"PROXY TCP4 203.0.113.9 127.0.0.1 80 443\r\nGET / HTTP/1.1\r\n".to_vec();
        let (_, rest) = read(&mut &bytes[..], peer()).await.unwrap();
        assert_eq!(&rest[..], b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test]
    async fn a_connection_without_a_header_is_refused() {
        let long = vec![b'x'; HEADER_BYTES_MAX * 2];
        let mut huge_v2 = V2_SIGNATURE.to_vec();
        huge_v2.extend([0x21, 0x11, 0xff, 0xff]);
        let mut endless_v1 = b"PROXY TCP4 ".to_vec();
        endless_v1.extend([b'1'; 200]);
        let hostile: Vec<&[u8]> = vec![
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PUT / HTTP/1.1\r\n",
            b"PROXY",
            b"PROXY TCP4 1.2.3.4\r\n",
            b"PROXY TCP4 1.2.3.4 999.1.1.1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.1.1.1 1 99999\r\n",
            b"PROXY TCP9 \xff\xfe\r\n",
            b"\r\n\r\n\0\r\nQUIX\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01\x01",
            &huge_v2,
            &endless_v1,
            &long,
        ];
        for bytes in hostile {
            assert!(read_all(bytes).await.is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic_and_within_the_limit(bytes: Vec<u8>) {
            if let Ok(Some(header)) = parse(&bytes) {
                proptest::prop_assert!(header.len <= bytes.len() && header.len <= HEADER_BYTES_MAX);
            }
            let mut signed = V2_SIGNATURE.to_vec();
            signed.extend(&bytes);
            if let Ok(Some(header)) = parse(&signed) {
                proptest::prop_assert!(header.len <= signed.len());
            }
        }
    }
}
