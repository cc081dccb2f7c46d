//! Hints as the contract between processes has them.

use prost::Message;
use qrelay_proto::internal as proto;
use qrelay_store::{
    hints::Tidings,
    id::{PartitionId, Seq, WriterId},
    limits::PEER_HEADS_MAX,
};

/// What a peer sent is no hint of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed hints")]
pub(crate) struct Malformed;

/// Encodes. Of more commands than fit, the rest is left to be found.
pub(crate) fn encode(tidings: &Tidings) -> Vec<u8> {
    let heads = tidings
        .heads
        .iter()
        .map(|((partition, writer), seq)| proto::Head {
            partition: partition.as_u16().into(),
            writer: writer.as_u64(),
            seq: seq.as_u64(),
        });
    let commands = tidings.commands.iter().map(|partition| partition.as_u16().into());
    let hints = proto::Hints {
        heads: heads.collect(),
        command_partitions: commands.take(PEER_HEADS_MAX).collect(),
        configuration: tidings.config,
    };
    hints.encode_to_vec()
}

/// Decodes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Tidings, Malformed> {
    let hints = proto::Hints::decode(bytes).map_err(|_| Malformed)?;
    let head = |head: &proto::Head| {
        let key = (partition(head.partition)?, WriterId::from_u64(head.writer));
        (key.1.as_u64() == head.writer)
            .then_some((key, Seq::new(head.seq)))
            .ok_or(Malformed)
    };
    Ok(Tidings {
        heads: hints.heads.iter().map(head).collect::<Result<_, _>>()?,
        commands: hints
            .command_partitions
            .into_iter()
            .map(partition)
            .collect::<Result<_, _>>()?,
        config: hints.configuration,
    })
}

/// A partition's number.
pub(crate) fn partition(number: u32) -> Result<PartitionId, Malformed> {
    u16::try_from(number).map(PartitionId::new).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use qrelay_store::limits::PEER_MESSAGE_BYTES_MAX;

    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let tidings = Tidings {
            heads: BTreeMap::from([((PartitionId::new(3), WriterId::from_u64(9)), Seq::new(70))]),
            commands: BTreeSet::from([PartitionId::new(u16::MAX)]),
            config: true,
        };
        assert_eq!(decode(&encode(&tidings)), Ok(tidings));
        assert_eq!(decode(&[]), Ok(Tidings::default()));
    }

    #[test]
    fn what_no_process_of_ours_says_is_refused() {
        assert_eq!(decode(b"\xff\xff\xff"), Err(Malformed));
        for (partition, writer) in [(65_536, 1), (1, 1 << 48)] {
            let head = proto::Head {
                partition,
                writer,
                seq: 1,
            };
            let hints = proto::Hints {
                heads: vec![head],
                ..proto::Hints::default()
            };
            assert_eq!(decode(&hints.encode_to_vec()), Err(Malformed));
        }
    }

    #[test]
    fn the_largest_message_is_taken() {
        let last = u64::try_from(PEER_HEADS_MAX).unwrap();
        let heads = (0..last).map(|n| {
            let key = (PartitionId::new(u16::MAX), WriterId::from_u64(u64::MAX - n));
            (key, Seq::new(u64::MAX))
        });
        let tidings = Tidings {
            heads: heads.collect(),
            commands: (0..u16::MAX).map(PartitionId::new).collect(),
            config: true,
        };
        assert!(encode(&tidings).len() < PEER_MESSAGE_BYTES_MAX / 2);
    }
}
