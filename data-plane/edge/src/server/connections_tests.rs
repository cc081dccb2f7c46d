//! Tests of the connection table: deadlines on a paused clock, and who makes room when places run out.

use super::*;
use futures::FutureExt;

const TIMES: ConnectionTimes = ConnectionTimes {
    head: Duration::from_secs(5),
    idle: Duration::from_secs(60),
    write: Duration::from_secs(5),
    linger: Duration::from_secs(1),
};

fn connections(max: usize) -> Connections {
    Connections::new(max, TIMES, Arc::new(Measures::register()))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn is_cut(place: &Place) -> bool {
    place.connection().order().now_or_never() == Some(Order::Cut)
}

async fn pass(table: &Connections, time: Duration) {
    tokio::time::advance(time).await;
    table.sweep();
}

#[tokio::test(start_paused = true)]
async fn a_head_must_end_in_time_however_its_bytes_trickle() {
    let table = Arc::new(connections(10));
    let place = table.admit(address("192.0.2.1")).unwrap();
    for _ in 0..4 {
        place.connection().on_bytes_read();
        pass(&table, Duration::from_secs(1)).await;
        assert!(!is_cut(&place));
    }
    pass(&table, Duration::from_secs(2)).await;
    assert!(is_cut(&place));
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_no_deadline_here_and_an_idle_connection_a_long_one() {
    let table = Arc::new(connections(10));
    let place = table.admit(address("192.0.2.1")).unwrap();
    assert!(!place.connection().on_request(false));
    pass(&table, Duration::from_secs(600)).await;
    assert!(!is_cut(&place));
    place.connection().on_flushed();
    pass(&table, Duration::from_secs(59)).await;
    assert!(!is_cut(&place));
    pass(&table, Duration::from_secs(2)).await;
    assert!(is_cut(&place));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_cut_though_it_takes_a_little_each_second() {
    let table = Arc::new(connections(10));
    let place = table.admit(address("192.0.2.1")).unwrap();
    assert!(!place.connection().on_request(false));
    for _ in 0..6 {
        place.connection().on_write_blocked();
        assert!(!is_cut(&place));
        pass(&table, Duration::from_secs(1)).await;
    }
    assert!(is_cut(&place));
}

#[tokio::test]
async fn when_connections_run_out_the_busiest_prefix_loses_its_idle_ones_first() {
    let table = Arc::new(connections(8));
    let quiet = table.admit(address("198.51.100.1")).unwrap();
    let busy: Vec<_> = (1..8)
        .map(|i| table.admit(address(&format!("203.0.113.{i}"))).unwrap())
        .collect();
    busy[0].connection().on_request(false);
    let newcomer = table.admit(address("192.0.2.1")).expect("an idle one makes room");
    assert!(!is_cut(&busy[0]), "it is being answered");
    assert!(is_cut(&busy[1]), "the oldest idle one of the busiest prefix");
    assert!(!is_cut(&quiet) && !is_cut(&newcomer));
    assert!(table.len() <= 8);
}

#[tokio::test]
async fn when_all_are_being_answered_a_newcomer_is_refused() {
    let table = Arc::new(connections(2));
    let first = table.admit(address("192.0.2.1")).unwrap();
    let second = table.admit(address("192.0.2.2")).unwrap();
    first.connection().on_request(false);
    second.connection().on_request(false);
    assert!(table.admit(address("198.51.100.1")).is_none());
    drop(first);
    assert!(table.admit(address("198.51.100.1")).is_some());
    drop(second);
}

#[tokio::test]
async fn places_are_given_back_once_even_after_eviction() {
    let table = Arc::new(connections(4));
    let places: Vec<_> = (0..40)
        .map(|_| table.admit(address("192.0.2.1")).unwrap())
        .collect();
    assert!(table.len() <= 4);
    drop(places);
    assert_eq!(table.len(), 0);
    assert!(table.lock().by_prefix.is_empty());
}

#[test]
fn only_a_client_that_may_still_be_sending_is_lingered_for() {
    let clock = connections(1).clock;
    let asked = Connection::new(clock.clone());
    asked.on_request(false);
    asked.on_flushed();
    assert!(!asked.on_shutdown());
    let hostile = Connection::new(clock.clone());
    assert!(hostile.on_shutdown());
    let posting = Connection::new(clock);
    posting.on_request(true);
    posting.on_flushed();
    assert!(posting.on_shutdown());
}
