//! Files that are not what was written: cut off anywhere, or with any bit flipped.

use std::os::unix::fs::FileExt;

use super::*;

/// A segment with three batches: its bytes, and where each ends.
async fn three(writer: WriterId) -> (TempDir, PathBuf, Vec<u8>, Vec<usize>) {
    let dir = in_memory_dir();
    let journal = begun(config(&dir), writer).await;
    let mut ends = vec![FILE_HEADER_BYTES];
    for seq in 1..=3 {
        let position = journal.write(batch(P, writer, seq)).await.unwrap();
        ends.push(usize::try_from(position.offset).unwrap() + position.bytes());
    }
    drop(journal);
    let path = dir.path().join(segment_name(first_of(writer)));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), ends[3]);
    (dir, path, bytes, ends)
}

fn first_of(writer: WriterId) -> SegmentKey {
    SegmentKey { writer, segment: 1 }
}

fn seqs(found: &[Found]) -> Vec<u64> {
    found.iter().map(|found| found.seq.as_u64()).collect()
}

#[tokio::test]
async fn a_file_that_a_crash_cut_off_anywhere_keeps_all_that_was_whole() {
    let writer = WriterId::random();
    let (_dir, _path, bytes, ends) = three(writer).await;
    for length in 0..=bytes.len() {
        let scanned = scan::scan_bytes(&bytes[..length], &[], first_of(writer));
        let whole = ends[1..].iter().filter(|end| **end <= length).count();
        assert_eq!(seqs(&scanned.found), [1, 2, 3][..whole], "cut to {length}");
        let clean = ends.contains(&length);
        let torn = matches!(scanned.troubles[..], [Trouble::Torn { .. }]);
        assert!(torn != clean && scanned.troubles.len() <= 1, "cut to {length}");
        assert!(!scanned.is_damaged(), "what a crash does is no damage");
        // The same, with what some file systems put there instead.
        let mut zeros = bytes[..length].to_vec();
        zeros.resize(length + 100, 0);
        let found = scan::scan_bytes(&zeros, &[], first_of(writer)).found;
        assert_eq!(seqs(&found), [1, 2, 3][..whole], "zeros from {length}");
    }
}

#[tokio::test]
async fn any_flipped_bit_is_noticed_and_costs_no_more_than_the_batch_it_is_in() {
    let writer = WriterId::random();
    let (_dir, _path, bytes, ends) = three(writer).await;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let scanned = scan::scan_bytes(&flipped, &[], first_of(writer));
            let hit = ends.iter().filter(|end| **end <= at).count();
            let left: Vec<u64> = [1, 2, 3]
                .into_iter()
                .filter(|seq| usize::try_from(*seq).unwrap() != hit)
                .collect();
            assert_eq!(seqs(&scanned.found), left, "byte {at}, bit {bit}");
            assert!(scanned.is_damaged(), "byte {at}, bit {bit}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_is_named_like_a_segment_keeps_nothing_from_being_shipped() {
    let writer = WriterId::random();
    let (dir, _path, _bytes, _ends) = three(writer).await;
    let segment = SegmentKey { writer, segment: 7 };
    fs::create_dir(dir.path().join(segment_name(segment))).unwrap();
    let seqs = |batches: Vec<Batch>| batches.iter().map(|batch| batch.seq.as_u64()).collect::<Vec<_>>();
    assert_eq!(seqs(recovered(&dir).await), [1, 2, 3]);
}

#[tokio::test]
async fn a_damaged_file_is_shipped_as_far_as_it_goes_and_kept_aside() {
    let writer = WriterId::random();
    let (dir, path, _bytes, ends) = three(writer).await;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"!", u64::try_from(ends[1] + 50).unwrap())
        .unwrap();
    let journal = Journal::open(config(&dir)).unwrap();
    let dead = journal.left().remove(0);
    let left = journal.recover(&dead).await.unwrap();
    assert_eq!(left.last, Heads::from([(P, Seq::new(3))]));
    let lost = [Trouble::Damaged {
        offset: u64::try_from(ends[1]).unwrap(),
        bytes: u64::try_from(ends[2] - ends[1]).unwrap(),
        batch: Some((P, Seq::new(2))),
    }];
    assert_eq!(left.troubles, lost);
    let positions: Vec<_> = left.waiting[&P].iter().copied().collect();
    assert_eq!(positions.len(), 2);
    journal.resolve(positions).await;
    journal.end(writer).await.unwrap();
    drop(journal);
    let aside = path.with_extension(DAMAGED);
    assert!(aside.exists() && !path.exists());
    // It is looked at by people, not by the next start; its number is not used again.
    let journal = begun(config(&dir), writer).await;
    assert!(journal.left().is_empty());
    assert_eq!(journal.write(batch(P, writer, 1)).await.unwrap().segment, 2);
}

#[tokio::test]
async fn a_batch_that_rots_before_it_is_shipped_is_told_from_the_others() {
    let (dir, writer) = (in_memory_dir(), WriterId::random());
    let journal = begun(config(&dir), writer).await;
    let mut positions = Vec::new();
    for seq in 1..=3 {
        positions.push(journal.write(batch(P, writer, seq)).await.unwrap());
    }
    let path = dir.path().join(segment_name(first_of(writer)));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"!", u64::from(positions[1].offset) + 50)
        .unwrap();
    let read = journal.read(writer, positions.clone()).await.unwrap();
    assert_eq!(read, [Some(batch(P, writer, 1)), None, Some(batch(P, writer, 3))]);
    journal.resolve(positions).await;
    journal.end(writer).await.unwrap();
    assert!(path.with_extension(DAMAGED).exists());
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_refused_and_left_alone() {
    let writer = WriterId::random();
    let (dir, path, mut bytes, _ends) = three(writer).await;
    bytes[8..10].copy_from_slice(&2_u16.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..22]);
    bytes[22..26].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = Journal::open(config(&dir)).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn another_files_bytes_are_no_batches_of_this_one() {
    let writer = WriterId::random();
    let (_dir, _path, bytes, _ends) = three(writer).await;
    for key in [
        SegmentKey { writer, segment: 2 },
        first_of(WriterId::from_u64(writer.as_u64() ^ 1)),
    ] {
        assert!(scan::scan_bytes(&bytes, &[], key).found.is_empty(), "{key:?}");
    }
}
