//! gRPC's framing of messages in a body (one byte of flags, four of length, the message), as one process calls
//! itself: never compressed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const PREFIX_BYTES: usize = 5;

/// What a peer's body cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a message of {bytes} bytes is larger than the limit")]
    TooLarge { bytes: usize },
    #[error("a message is compressed, which was not asked for")]
    Compressed,
    #[error("the body ended inside a message")]
    CutOff,
}

/// A message with its prefix.
pub(crate) fn encode(message: &impl prost::Message) -> Result<Bytes, FrameError> {
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes).map_err(|_| FrameError::TooLarge { bytes })?;
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + bytes);
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(&message.encode_to_vec());
    Ok(frame.freeze())
}

/// Cuts a body into messages as its bytes arrive.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    message_bytes_max: usize,
}

impl Decoder {
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            message_bytes_max,
        }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message, if it has arrived. Refused by its prefix, before it is held.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [flags, length @ ..] = *prefix;
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if flags != 0 {
            return Err(FrameError::Compressed);
        }
        if bytes > self.message_bytes_max {
            return Err(FrameError::TooLarge { bytes });
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }

    /// Nothing may be left when the body ends.
    pub(crate) fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(FrameError::CutOff)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let body = [
            encode(&"one".to_owned()).expect("small"),
            encode(&String::new()).expect("small"),
        ]
        .concat();
        let mut decoder = Decoder::new(100);
        let mut messages = Vec::new();
        for byte in &body {
            decoder.push(&[*byte]);
            while let Some(message) = decoder.next().expect("well-formed") {
                messages.push(message);
            }
        }
        assert_eq!(messages, [Bytes::from_static(b"\x0a\x03one"), Bytes::new()]);
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn a_large_compressed_or_cut_off_message_is_refused() {
        let decoded = |body: &[u8]| {
            let mut decoder = Decoder::new(100);
            decoder.push(body);
            decoder
                .next()
                .and_then(|message| decoder.finish().map(|()| message))
        };
        assert_eq!(
            decoded(&[0, 0, 0, 0, 101]),
            Err(FrameError::TooLarge { bytes: 101 })
        );
        assert_eq!(
            decoded(&[0, 255, 255, 255, 255]),
            Err(FrameError::TooLarge { bytes: 0xffff_ffff })
        );
        assert_eq!(decoded(&[1, 0, 0, 0, 0]), Err(FrameError::Compressed));
        assert_eq!(decoded(&[0, 0, 0, 0, 2, 7]), Err(FrameError::CutOff));
        assert_eq!(decoded(&[0, 0]), Err(FrameError::CutOff));
    }
}
