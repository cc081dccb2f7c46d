//! `qrelay tail`: follows events as they are recorded, over broken connections and restarts of the server.
//!
//! Each answer carries a token; after a break the stream goes on from the last one, so nothing is missed and at
//! most the event after it is repeated.

use std::{io::Write as _, time::Duration};

use qrelay_proto::v1;
use serde_json::Value;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::event::EventFilterArgs;
use crate::{
    api_error,
    escape::printable,
    failure::Failure,
    output::Output,
    session::{ConnectArgs, Session, TenantArgs},
    shape,
};

/// The first pause before connecting again; it doubles up to [`PAUSE_MAX`], so that a server that comes back is
/// found soon and one that is away is not pestered.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    filter: EventFilterArgs,
    /// Where to go on: a token that an earlier `qrelay tail --json` printed; from now on, if not given
    #[arg(long, default_value = "", value_name = "TOKEN", hide_default_value = true)]
    resume_token: String,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let mut request = v1::StreamEventsRequest {
        tenant_id: args.tenant.tenant,
        r#type: args.filter.event_type,
        code_id: args.filter.code_id,
        resume_token: args.resume_token,
        ..Default::default()
    };
    // The first connection must succeed: a wrong address is the caller's to mend.
    let mut session = Session::open(&args.connect).await?;
    let mut pause = PAUSE_MIN;
    loop {
        let (broken, progressed) = follow(&session, &mut request, &mut out).await?;
        if progressed {
            pause = PAUSE_MIN;
        }
        say(&format!("{}; connecting again", printable(&broken)));
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if let Ok(opened) = Session::open(&args.connect).await {
                session = opened;
                break;
            }
        }
    }
}

/// Follows one stream until it breaks: why, and whether anything came.
async fn follow(
    session: &Session,
    request: &mut v1::StreamEventsRequest,
    out: &mut Output,
) -> Result<(String, bool), Failure> {
    let mut progressed = false;
    let opened = session.events().stream_events(request.clone()).await;
    let mut stream = match opened {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok((transient(status)?, progressed)),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                progressed = true;
                show(&message, out)?;
                if !message.resume_token.is_empty() {
                    request.resume_token = message.resume_token;
                }
            }
            Ok(None) => return Ok(("the server ended the stream".to_owned(), progressed)),
            Err(status) => return Ok((transient(status)?, progressed)),
        }
    }
}

/// What may be over soon is a reason to connect again; everything else is an error.
fn transient(status: Status) -> Result<String, Failure> {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted => Ok(format!(
            "the stream broke ({}: {})",
            api_error::name(status.code()),
            status.message()
        )),
        _ => Err(status.into()),
    }
}

fn show(message: &v1::StreamEventsResponse, out: &mut Output) -> Result<(), Failure> {
    if message.event.is_none() {
        return Ok(());
    }
    let object = shape::json(message);
    Ok(out.row(&object, &line(&object["event"]))?)
}

/// An event in one line: when, what, its id, and what tells scans apart.
pub(crate) fn line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map(|text| printable(text).into_owned());
    let data = &event["data"];
    let mut words = Vec::new();
    for field in ["created_at", "type", "id"] {
        words.extend(text(&event[field]));
    }
    for field in [
        "short_id",
        "classification",
        "country",
        "device_type",
        "browser_family",
    ] {
        words.extend(text(&data[field]).filter(|word| !word.is_empty()));
    }
    if let Some(destination) = text(&data["destination_url"]) {
        words.push(format!("→ {destination}"));
    }
    words.join("  ")
}

/// To the person, beside the events.
fn say(line: &str) {
    // With standard error gone there is nobody left to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, capture::Captured};

    fn message() -> v1::StreamEventsResponse {
        let data = r#"{"short_id":"k7m2p9qx","classification":"human","country":null,"destination_url":"https://example.com/\u001b[2J"}"#;
        v1::StreamEventsResponse {
            event: Some(v1::Event {
                r#type: "scan.created".to_owned(),
                id: "evt_1".to_owned(),
                created_at: Some(prost_types::Timestamp {
                    seconds: 1_772_548_338,
                    nanos: 492_000_000,
                }),
                data: Some(shape::object(data).unwrap()),
            }),
            resume_token: "tok".to_owned(),
        }
    }

    #[test]
    fn an_event_is_a_line_for_people_and_an_object_with_its_token_for_programs() {
        let (text, json) = (Captured::default(), Captured::default());
        show(&message(), &mut text.output(Format::Text { width: 80 })).unwrap();
        show(&message(), &mut json.output(Format::Json)).unwrap();
        insta::assert_snapshot!(
            text.text(),
            @r"2026-03-03T14:32:18.492Z  scan.created  evt_1  k7m2p9qx  human  → https://example.com/\u{1b}[2J"
        );
        let object: Value = serde_json::from_str(&json.text()).unwrap();
        assert_eq!(
            (&object["resume_token"], &object["event"]["id"]),
            (&"tok".into(), &"evt_1".into())
        );
    }

    #[test]
    fn a_message_that_only_moves_the_token_prints_nothing() {
        let captured = Captured::default();
        let message = v1::StreamEventsResponse {
            event: None,
            resume_token: "tok".to_owned(),
        };
        show(&message, &mut captured.output(Format::Json)).unwrap();
        assert_eq!(captured.text(), "");
    }

    #[test]
    fn a_revoked_key_ends_the_command_and_a_restarting_server_does_not() {
        assert!(transient(Status::unauthenticated("revoked")).is_err());
        assert!(transient(Status::invalid_argument("bad token")).is_err());
        assert!(transient(Status::unavailable("restarting")).is_ok());
    }
}
