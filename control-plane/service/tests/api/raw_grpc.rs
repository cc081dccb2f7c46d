//! gRPC calls with bytes for messages, for RPCs that are known by their descriptor only.

use bytes::{Buf, BufMut};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

/// The status of a call. A stream's is that of its opening.
pub(crate) async fn call(channel: Channel, path: &str, key: &str, message: Vec<u8>) -> Status {
    let mut request = Request::new(tokio_stream::once(message));
    if !key.is_empty() {
        let value = MetadataValue::try_from(format!("Bearer {key}")).expect("keys are visible ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = Grpc::new(channel);
    client.ready().await.expect("the server is there");
    let streams = path.contains("/Stream");
    let path = path.parse().expect("an RPC's path");
    let answered = client.streaming(request, path, Raw).await;
    match answered {
        Err(status) => status,
        Ok(_) if streams => Status::ok(""),
        Ok(response) => {
            let mut stream = response.into_inner();
            match stream.message().await {
                Ok(_) => stream.trailers().await.err().unwrap_or_else(|| Status::ok("")),
                Err(status) => status,
            }
        }
    }
}
