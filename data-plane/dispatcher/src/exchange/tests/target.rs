//! The target is judged at every send, and the connection leads where the judged answer says.

use super::*;

fn port_of(receiver: &Receiver) -> u16 {
    receiver.address.port()
}

#[tokio::test]
async fn a_private_address_is_blocked_before_anything_is_connected() {
    let receiver = Receiver::answering(OK).await;
    let targets = Targets::new(TargetPolicy::default(), Arc::new(SystemResolver::from_system()));
    let exchanger = Exchanger::new(Config::default(), targets).unwrap();
    for url in [
        format!("https://{}/", receiver.address),
        format!("https://[::ffff:127.0.0.1]:{}/", port_of(&receiver)),
        format!("https://2130706433:{}/", port_of(&receiver)),
        format!("https://localhost:{}/", port_of(&receiver)),
        format!("http://{}/", receiver.address),
        "https://hook.test:22/".to_owned(),
    ] {
        let outcome = attempt(&exchanger, url.clone()).await;
        assert_eq!(
            (outcome.class(), outcome.fault()),
            (ErrorClass::Blocked, Some(Fault::Receiver)),
            "{url}"
        );
        assert!(outcome.begun_at.is_none());
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_turns_private_is_blocked_even_with_a_kept_connection() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = scripted(loopback(), &[&["127.0.0.1"], &["127.0.0.1"], &["10.0.0.1"]]);
    let url = format!("http://hook.test:{}/", port_of(&receiver));
    assert!(attempt(&exchanger, url.clone()).await.is_success());
    assert!(attempt(&exchanger, url.clone()).await.reused);
    let outcome = attempt(&exchanger, url).await;
    assert_eq!(outcome.class(), ErrorClass::Blocked, "{outcome:?}");
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn mixed_answers_are_blocked() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = scripted(loopback(), &[&["127.0.0.1", "169.254.169.254"]]);
    let outcome = attempt(&exchanger, format!("http://hook.test:{}/", port_of(&receiver))).await;
    assert_eq!(outcome.class(), ErrorClass::Blocked);
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_kept_connection_to_an_address_that_left_the_name_is_not_used() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = scripted(loopback(), &[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://hook.test:{}/", port_of(&receiver));
    assert!(attempt(&exchanger, url.clone()).await.is_success());
    // Nobody listens on 127.0.0.2.
    let outcome = attempt(&exchanger, url).await;
    assert_eq!(outcome.class(), ErrorClass::Refused, "{outcome:?}");
    assert_eq!(exchanger.idle_connections(), 0);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = scripted(loopback(), &[&["127.0.0.2", "127.0.0.3", "127.0.0.1"]]);
    let outcome = attempt(&exchanger, format!("http://hook.test:{}/", port_of(&receiver))).await;
    assert!(outcome.is_success(), "{outcome:?}");
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure_of_the_receiver() {
    let exchanger = scripted(loopback(), &[]);
    let outcome = attempt(&exchanger, "https://hook.test/").await;
    assert_eq!(
        (outcome.class(), outcome.fault()),
        (ErrorClass::Dns, Some(Fault::Receiver))
    );
    assert_eq!(outcome.error(), "the host name has no address");
}

#[tokio::test]
async fn whatever_path_the_policy_lets_through_can_be_sent() {
    let receiver = Receiver::answering(OK).await;
    let exchanger = exchanger();
    let odd: String = (0x21_u8..0x7f)
        .map(char::from)
        .filter(|c| !matches!(c, '#' | '?' | '\\'))
        .collect();
    let url = format!("http://{}/{odd}é%zz?{odd}é%zz", receiver.address);
    let outcome = attempt(&exchanger, url).await;
    assert!(outcome.is_success(), "{outcome:?}");
}
