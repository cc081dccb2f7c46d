//! Rules of the log.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;

use super::samples::{P, Q, at, batch, registered, writer_row};
use crate::{
    id::{Seq, WriterId},
    store::{Batch, Heads, SharedStore, StoreError},
};

const ALL: usize = usize::MAX;
const END: Seq = Seq::new(1 << 40);

async fn append(store: &SharedStore, writer: WriterId, seqs: &[u64]) {
    for seq in seqs {
        store.append(batch(P, writer, *seq)).await.unwrap();
    }
}

fn seqs(batches: &[Batch]) -> Vec<u64> {
    batches.iter().map(|batch| batch.seq.as_u64()).collect()
}

pub async fn a_batch_is_read_back_as_it_was_appended(store: &SharedStore) {
    let writer = registered(store).await;
    let mut large = batch(P, writer, 2);
    large.body = Bytes::from(
        (0..=255)
            .cycle()
            .take(crate::limits::BATCH_BYTES_MAX + 100)
            .collect::<Vec<u8>>(),
    );
    let wanted = vec![batch(P, writer, 1), large];
    for batch in &wanted {
        store.append(batch.clone()).await.unwrap();
    }
    assert_eq!(
        store.read(P, writer, Seq::ZERO, Seq::new(2), ALL).await.unwrap(),
        wanted
    );
    assert_eq!(
        store.read(P, writer, Seq::new(1), END, ALL).await.unwrap(),
        wanted[1..]
    );
    assert_eq!(
        store.read(P, writer, Seq::ZERO, Seq::new(1), ALL).await.unwrap(),
        wanted[..1]
    );
    assert_eq!(
        store
            .read(P, writer, Seq::new(2), Seq::new(1), ALL)
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        store.batch(P, writer, Seq::new(2)).await.unwrap().as_ref(),
        Some(&wanted[1])
    );
    assert_eq!(store.batch(P, writer, Seq::new(3)).await.unwrap(), None);
}

pub async fn repeating_a_batch_is_harmless(store: &SharedStore) {
    let writer = registered(store).await;
    append(store, writer, &[1, 1, 2, 1, 2]).await;
    let read = store.read(P, writer, Seq::ZERO, END, ALL).await.unwrap();
    assert_eq!(read, [batch(P, writer, 1), batch(P, writer, 2)]);
}

pub async fn another_batch_under_the_same_key_is_refused_and_changes_nothing(store: &SharedStore) {
    let writer = registered(store).await;
    append(store, writer, &[1]).await;
    let (mut body, mut count, mut time) = (batch(P, writer, 1), batch(P, writer, 1), batch(P, writer, 1));
    body.body = Bytes::from_static(b"other");
    count.count += 1;
    time.last_at = at(77);
    for other in [body, count, time] {
        let error = store.append(other).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    }
    assert_eq!(
        store.batch(P, writer, Seq::new(1)).await.unwrap(),
        Some(batch(P, writer, 1))
    );
}

pub async fn reading_stops_before_a_missing_batch(store: &SharedStore) {
    let writer = registered(store).await;
    append(store, writer, &[1, 2, 4, 7]).await;
    assert_eq!(
        seqs(&store.read(P, writer, Seq::ZERO, END, ALL).await.unwrap()),
        [1, 2]
    );
    assert_eq!(store.read(P, writer, Seq::new(2), END, ALL).await.unwrap(), []);
    assert_eq!(
        seqs(&store.read(P, writer, Seq::new(3), END, ALL).await.unwrap()),
        [4]
    );
    append(store, writer, &[3]).await;
    assert_eq!(
        seqs(&store.read(P, writer, Seq::ZERO, END, ALL).await.unwrap()),
        [1, 2, 3, 4]
    );
    let next = |after, through| store.next_seq(P, writer, Seq::new(after), Seq::new(through));
    for (after, through, found) in [
        (0, 9, Some(1)),
        (0, 1, Some(1)),
        (4, 9, Some(7)),
        (4, 7, Some(7)),
        (4, 6, None),
        (7, 9, None),
        (4, 4, None),
    ] {
        let next = next(after, through).await.unwrap();
        assert_eq!(next, found.map(Seq::new), "above {after} through {through}");
    }
    // Over several of a backend's segments.
    append(store, writer, &[3000]).await;
    for (through, found) in [(2999, None), (3000, Some(3000)), (9000, Some(3000))] {
        let next = next(7, through).await.unwrap();
        assert_eq!(next, found.map(Seq::new), "through {through}");
    }
}

pub async fn a_read_is_bounded_in_bytes_but_brings_at_least_one_batch(store: &SharedStore) {
    let writer = registered(store).await;
    append(store, writer, &[1, 2, 3]).await;
    let bytes = batch(P, writer, 1).body.len();
    for (max, wanted) in [(0, 1), (1, 1), (2 * bytes, 2), (2 * bytes + 1, 2), (3 * bytes, 3)] {
        let read = store.read(P, writer, Seq::ZERO, END, max).await.unwrap();
        assert_eq!(read.len(), wanted, "at most {max} bytes");
    }
}

pub async fn a_tail_ends_before_the_first_missing_batch(store: &SharedStore) {
    let writer = registered(store).await;
    let tail = |after| store.tail(P, writer, Seq::new(after));
    assert_eq!(tail(0).await.unwrap(), Seq::ZERO);
    append(store, writer, &[1, 2, 3, 5]).await;
    for (after, end) in [(0, 3), (2, 3), (3, 3), (4, 5), (5, 5), (9, 9)] {
        assert_eq!(tail(after).await.unwrap(), Seq::new(end), "after {after}");
    }
}

pub async fn partitions_and_writers_are_apart(store: &SharedStore) {
    let (one, two) = (registered(store).await, registered(store).await);
    store.append(batch(P, one, 1)).await.unwrap();
    store.append(batch(Q, one, 1)).await.unwrap();
    store.append(batch(P, two, 1)).await.unwrap();
    for (partition, writer) in [(P, one), (Q, one), (P, two)] {
        let read = store.read(partition, writer, Seq::ZERO, END, ALL).await.unwrap();
        assert_eq!(read, [batch(partition, writer, 1)]);
    }
    assert_eq!(store.read(Q, two, Seq::ZERO, END, ALL).await.unwrap(), []);
    assert_eq!(store.tail(Q, two, Seq::ZERO).await.unwrap(), Seq::ZERO);
}

fn heads(p: u64, q: u64) -> Heads {
    [(P, Seq::new(p)), (Q, Seq::new(q))].into()
}

pub async fn heads_never_move_back(store: &SharedStore) {
    let writer = registered(store).await;
    store.publish_heads(writer, 1, &heads(5, 1)).await.unwrap();
    store.publish_heads(writer, 2, &heads(4, 2)).await.unwrap();
    store.publish_heads(writer, 3, &Heads::new()).await.unwrap();
    let [row] = &store.writers().await.unwrap()[..] else {
        panic!("one writer was registered")
    };
    assert_eq!((row.beat, &row.heads), (3, &heads(5, 2)));
    // Registering again, because the answer was lost, does not put it back.
    store.register_writer(&writer_row(writer)).await.unwrap();
    assert_eq!(&store.writers().await.unwrap()[0].heads, &heads(5, 2));
}

pub async fn the_first_close_of_a_writer_wins(store: &SharedStore) {
    let (one, two) = (registered(store).await, registered(store).await);
    store.close_writer(one, &heads(5, 1)).await.unwrap();
    store.close_writer(one, &heads(5, 1)).await.unwrap();
    store.close_writer(one, &heads(9, 9)).await.unwrap();
    let rows = store.writers().await.unwrap();
    assert!(rows.is_sorted_by_key(|row| row.writer));
    let closed = |writer| {
        rows.iter()
            .find(|row| row.writer == writer)
            .unwrap()
            .closed
            .clone()
    };
    assert_eq!(closed(one), Some(heads(5, 1)));
    assert_eq!(closed(two), None);
}

pub async fn a_fence_is_of_one_writer_and_for_good(store: &SharedStore) {
    let (one, two) = (registered(store).await, registered(store).await);
    assert!(!store.is_fenced(one).await.unwrap());
    store.fence_writer(one).await.unwrap();
    store.fence_writer(one).await.unwrap();
    // It may not know of it yet.
    store.append(batch(P, one, 1)).await.unwrap();
    store.publish_heads(one, 1, &heads(1, 1)).await.unwrap();
    store.register_writer(&writer_row(one)).await.unwrap();
    assert!(store.is_fenced(one).await.unwrap());
    store.close_writer(one, &heads(1, 0)).await.unwrap();
    assert!(store.is_fenced(one).await.unwrap());
    assert!(!store.is_fenced(two).await.unwrap());
    assert!(!store.is_fenced(WriterId::random()).await.unwrap());
}

pub async fn a_writer_that_was_not_registered_cannot_publish(store: &SharedStore) {
    let stranger = WriterId::random();
    assert!(store.publish_heads(stranger, 1, &heads(1, 1)).await.is_err());
    assert!(store.close_writer(stranger, &heads(1, 1)).await.is_err());
    assert_eq!(store.writers().await.unwrap(), []);
}

pub async fn batches_are_paged_backwards_without_repeats(store: &SharedStore) {
    let (one, two) = (registered(store).await, registered(store).await);
    for seq in 1..=4 {
        for writer in [one, two] {
            let mut batch = batch(P, writer, seq);
            // Times that clash and go back.
            batch.last_at = at([0, 5, 5, 3, 5][usize::try_from(seq).unwrap()]);
            store.append(batch).await.unwrap();
        }
    }
    store.append(batch(Q, one, 1)).await.unwrap();
    let all = store.batches_before(P, None, 100).await.unwrap();
    assert_eq!(all.len(), 8);
    let key = |batch: &Batch| (batch.last_at, batch.writer, batch.seq);
    assert!(all.is_sorted_by(|newer, older| key(newer) > key(older)));
    let mut paged = Vec::new();
    while let page = store.batches_before(P, paged.last().map(key), 3).await.unwrap()
        && !page.is_empty()
    {
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

pub async fn batches_are_paged_forwards_from_any_time(store: &SharedStore) {
    let writers = [registered(store).await, registered(store).await];
    for writer in writers {
        append(store, writer, &[1, 2, 3, 4]).await;
    }
    let key = |batch: &Batch| (batch.last_at, batch.writer, batch.seq);
    let begin = (at(0), WriterId::from_u64(0), Seq::ZERO);
    let all = store.batches_after(P, begin, 100).await.unwrap();
    assert_eq!(all.len(), 8);
    assert!(all.is_sorted_by(|older, newer| key(older) < key(newer)));
    let mut backwards = store.batches_before(P, None, 100).await.unwrap();
    backwards.reverse();
    assert_eq!(all, backwards);
    let mut paged = Vec::new();
    while let page = store
        .batches_after(P, paged.last().map_or(begin, key), 3)
        .await
        .unwrap()
        && !page.is_empty()
    {
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // The third batches end at this time: they and what is later are found.
    let late = (at(4), WriterId::from_u64(0), Seq::ZERO);
    assert_eq!(store.batches_after(P, late, 100).await.unwrap(), all[4..]);
    assert_eq!(store.batches_after(Q, begin, 100).await.unwrap(), []);
}

pub async fn concurrent_appends_are_all_stored(store: &SharedStore) {
    let writers = [registered(store).await, registered(store).await];
    let places: BTreeSet<_> = (1..=40_u64)
        .flat_map(|seq| [(P, writers[0], seq), (Q, writers[0], seq), (P, writers[1], seq)])
        .collect();
    let appends = places.iter().map(|(p, w, seq)| store.append(batch(*p, *w, *seq)));
    for outcome in join_all(appends).await {
        outcome.unwrap();
    }
    for (partition, writer, seq) in places {
        let stored = store.batch(partition, writer, Seq::new(seq)).await.unwrap();
        assert_eq!(stored, Some(batch(partition, writer, seq)));
    }
}
