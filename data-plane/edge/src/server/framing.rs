//! Finds request heads that declare two lengths, which hyper answers as if they had but one.
//!
//! A head with both `Content-Length` and `Transfer-Encoding` is how one request is smuggled inside another
//! (RFC 9112 §6.1). hyper drops the length before anybody sees it, so the bytes are looked at on their way to it:
//! only the beginning of each line, whatever the pieces in which they come. hyper judges everything else of a head.
//! Invariant: heads are counted as hyper counts them up to the first request with a body, behind which nothing
//! is taken for a request.

/// The names looked for, with their colons. No space may stand before a colon: hyper refuses such a head.
const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

/// Looks at a connection's bytes as they come.
#[derive(Debug, Default)]
pub(crate) struct FramingWatch {
    /// The beginning of the line under way, and how much of it is known.
    line: [u8; TRANSFER_ENCODING.len()],
    line_bytes: usize,
    /// Lines of the head under way: empty ones before its first line do not count.
    lines: usize,
    has_length: bool,
    has_encoding: bool,
    /// Heads that have ended.
    heads: u64,
}

impl FramingWatch {
    /// The next bytes. Returns the place (from 0) of a head with two lengths that ended in them: the first one,
    /// since that request ends its connection.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) -> Option<u64> {
        let mut found = None;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            let ended = if self.line_bytes == 0 {
                self.end_line(line)
            } else {
                self.keep(line);
                let (line, bytes) = (self.line, self.line_bytes);
                self.end_line(&line[..bytes])
            };
            found = found.or(ended);
            bytes = after;
        }
        self.keep(bytes);
        found
    }

    fn keep(&mut self, part: &[u8]) {
        let free = &mut self.line[self.line_bytes..];
        let take = part.len().min(free.len());
        free[..take].copy_from_slice(&part[..take]);
        self.line_bytes += take;
    }

    /// `line`: its beginning, if not all of it.
    fn end_line(&mut self, line: &[u8]) -> Option<u64> {
        self.line_bytes = 0;
        if !matches!(line, b"" | b"\r") {
            self.lines += 1;
            // The request line cannot pass for a header: no method has a colon.
            self.has_length |= begins_with(line, CONTENT_LENGTH);
            self.has_encoding |= begins_with(line, TRANSFER_ENCODING);
            return None;
        }
        if self.lines == 0 {
            return None;
        }
        let place = self.heads;
        let conflicting = self.has_length && self.has_encoding;
        (self.lines, self.has_length, self.has_encoding) = (0, false, false);
        self.heads += 1;
        conflicting.then_some(place)
    }
}

fn begins_with(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /b HTTP/1.1\r\ncontent-LENGTH:3\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_head_with_one_length_or_none_is_not_found() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: Content-Length: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        ] {
            assert_eq!(FramingWatch::default().see(head.as_bytes()), None, "{head}");
        }
    }

    #[test]
    fn a_head_with_both_is_found_with_bare_line_feeds_too() {
        let head = b"GET / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 3\n\n";
        assert_eq!(FramingWatch::default().see(head), Some(0));
    }

    proptest! {
        #[test]
        fn it_is_found_however_the_bytes_are_cut(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(BOTH.len())).collect();
            cuts.sort_unstable();
            let (mut watch, mut at, mut found) = (FramingWatch::default(), 0, Vec::new());
            for cut in cuts.into_iter().chain([BOTH.len()]) {
                found.extend(watch.see(&BOTH[at..cut]));
                at = cut;
            }
            prop_assert_eq!(found, [1]);
        }
    }
}
