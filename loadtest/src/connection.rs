//! One client connection, as cheap as it can be: the generator shares the machine with what it measures.
//!
//! Sends requests that were made before, and reads answers framed by `content-length`. No pipelining.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An answer's head may not be larger than this, nor its body: redirects and small pages are below 2 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Header fields in an answer, at most.
const HEADERS_MAX: usize = 64;

/// What is kept of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Whether the server will take another request on this connection.
    pub stays_open: bool,
    /// The value of `x-qrelay-scan`: the id of the event that the scan made.
    pub scan: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection could not be opened.
    #[error("connect")]
    Connect,
    /// It was closed or reset before the whole answer was read.
    #[error("closed")]
    Closed,
    /// What came is no HTTP/1 answer with a `content-length`, or too large.
    #[error("malformed")]
    Malformed,
    /// Not within the time limit.
    #[error("timeout")]
    Timeout,
}

/// An open connection with its read buffer.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

struct Head {
    answer: Answer,
    head_bytes: usize,
    body_bytes: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(2048),
        })
    }

    /// Sends `request` and reads the answer. After an error the connection is of no use.
    ///
    /// # Errors
    /// [`Failure::Closed`] and [`Failure::Malformed`].
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        self.stream
            .write_all(request)
            .await
            .map_err(|_| Failure::Closed)?;
        self.buffer.clear();
        let head = loop {
            self.read_more().await?;
            if let Some(head) = parse(&self.buffer)? {
                break head;
            }
        };
        let whole = head.head_bytes.saturating_add(head.body_bytes);
        if whole > ANSWER_BYTES_MAX {
            return Err(Failure::Malformed);
        }
        while self.buffer.len() < whole {
            self.read_more().await?;
        }
        // More than the answer would be the answer to something that was not asked.
        if self.buffer.len() > whole {
            Err(Failure::Malformed)
        } else {
            Ok(head.answer)
        }
    }

    async fn read_more(&mut self) -> Result<(), Failure> {
        if self.buffer.len() >= ANSWER_BYTES_MAX {
            return Err(Failure::Malformed);
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(Failure::Closed),
            Ok(_) => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed),
    };
    let status = response.code.ok_or(Failure::Malformed)?;
    let mut answer = Answer {
        status,
        stays_open: response.version == Some(1),
        scan: None,
    };
    let mut body_bytes = None;
    for field in response.headers {
        let value = str::from_utf8(field.value).map_err(|_| Failure::Malformed)?;
        if field.name.eq_ignore_ascii_case("content-length") {
            body_bytes = Some(value.parse().map_err(|_| Failure::Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            answer.stays_open = !value.eq_ignore_ascii_case("close");
        } else if field.name.eq_ignore_ascii_case("x-qrelay-scan") {
            answer.scan = Some(value.to_owned());
        }
    }
    let body_bytes = body_bytes.ok_or(Failure::Malformed)?;
    Ok(Some(Head {
        answer,
        head_bytes,
        body_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_waited_for() {
        let text =
            b"HTTP/1.1 302 Found\r\nlocation: /x\r\nX-Qrelay-Scan: evt_1\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..text.len() - 3 {
            assert!(matches!(parse(&text[..cut]), Ok(None)), "cut at {cut}");
        }
        let head = parse(text).unwrap().unwrap();
        assert_eq!(
            head.answer,
            Answer {
                status: 302,
                stays_open: true,
                scan: Some("evt_1".into())
            }
        );
        assert_eq!((head.head_bytes, head.body_bytes), (text.len() - 3, 3));
    }

    #[test]
    fn a_closing_answer_says_so() {
        let close = parse(b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(!close.answer.stays_open);
        let old = parse(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(!old.answer.stays_open);
    }

    #[test]
    fn an_answer_of_unknown_length_is_refused() {
        let unframed = b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n";
        assert!(matches!(parse(unframed), Err(Failure::Malformed)));
        assert!(matches!(parse(b"SSH-2.0-x\r\n"), Err(Failure::Malformed)));
    }
}
