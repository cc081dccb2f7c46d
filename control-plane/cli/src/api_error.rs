//! What an operator is told when the API refuses or cannot be reached: the violations, and what to do next.

use std::{error::Error, io};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::failure::{Failure, chain};

/// The connection could not be opened.
pub(crate) fn cannot_connect(api: &str, error: &tonic::transport::Error) -> Failure {
    let failure = Failure::failed(format!(
        "cannot connect to the API at {api}: {}",
        innermost(error)
    ));
    let hint = match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => {
            "is `qrelay up` running? If it listens elsewhere, set QRELAY_API (or --api)"
        }
        _ if chain(error).contains("certificate") => {
            "if an authority of your own signed the API's certificate, name it with --ca-bundle (QRELAY_CA_BUNDLE)"
        }
        _ => "check QRELAY_API (or --api): http:// or https://, host and port",
    };
    failure.hint(hint)
}

/// The last reason: those above it are names of layers of the library.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

/// The API answered with an error.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let violations: Vec<String> = details
            .bad_request()
            .into_iter()
            .flat_map(|bad| &bad.field_violations)
            .map(|violation| match violation.field.as_str() {
                "" => violation.description.clone(),
                field => format!("{field}: {}", violation.description),
            })
            .collect();
        let quotas = details
            .quota_failure()
            .into_iter()
            .flat_map(|quota| &quota.violations);
        let quotas: Vec<String> = quotas
            .map(|violation| format!("{}: {}", violation.subject, violation.description))
            .collect();
        let hint = hint(&status, &violations);
        let message = match status.message() {
            "" => name(status.code()).to_owned(),
            message => format!("{message} ({})", name(status.code())),
        };
        let message = match status.source() {
            Some(error) => format!("the connection to the API broke: {}", innermost(error)),
            None => message,
        };
        let failure = Failure::failed(message).details(violations).details(quotas);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn hint(status: &Status, violations: &[String]) -> Option<String> {
    let text = match status.code() {
        Code::InvalidArgument
            if violations
                .iter()
                .any(|violation| violation.starts_with("tenant_id")) =>
        {
            "with the admin key, name the tenant: --tenant ten_… or QRELAY_TENANT"
        }
        Code::InvalidArgument
            if violations
                .iter()
                .any(|violation| violation.starts_with("url: is refused")) =>
        {
            "webhooks go to public https servers; for development, `qrelay up --dangerous-allow-target 127.0.0.0/8`"
        }
        Code::Unauthenticated => "QRELAY_KEY (or --key-file) must hold a key that is not revoked or expired",
        Code::PermissionDenied if status.message().contains("admin key") => {
            "set QRELAY_KEY (or --key-file) to the admin key"
        }
        Code::PermissionDenied => "this needs a key with the role read_write, or the admin key",
        Code::NotFound => "check the id; with the admin key, check --tenant too",
        Code::Aborted => "somebody else changed it: get it again and repeat with the new etag",
        Code::ResourceExhausted => {
            let pause = status.get_details_retry_info().and_then(|info| info.retry_delay);
            return pause.map(|pause| format!("try again in {}", humantime::format_duration(pause)));
        }
        Code::DeadlineExceeded => "no answer in time; it may have happened nevertheless",
        Code::Unavailable => {
            "the server is not ready or went away: is `qrelay up` running where QRELAY_API (or --api) points? Try again, and see its log"
        }
        Code::Unimplemented => "the server does not know this call: is it older than this command?",
        Code::Unknown | Code::Internal if is_protocol_error(status) => {
            "what answers there does not speak gRPC: QRELAY_API must name the API's port (7070), with https:// if it has TLS"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// Whether the peer spoke something else than gRPC.
fn is_protocol_error(status: &Status) -> bool {
    status.source().is_some()
        || status.message().contains("h2 protocol error")
        || status.message().contains("content-type")
}

/// The code's name in `google.rpc.Code`, as REST shows it.
pub(crate) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    fn told(status: Status) -> String {
        let mut text = Vec::new();
        Failure::from(status).write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_violation_of_a_refused_request_is_named() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("code.destination_url", "must be an absolute URL");
        details.add_bad_request_violation("tenant_id", "is required with the admin key");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
        insta::assert_snapshot!(told(status), @r"
        error: 2 fields are wrong (INVALID_ARGUMENT)
          - code.destination_url: must be an absolute URL
          - tenant_id: is required with the admin key
        hint: with the admin key, name the tenant: --tenant ten_… or QRELAY_TENANT
        ");
    }

    #[test]
    fn a_throttled_caller_is_told_when_to_come_back() {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::ResourceExhausted, "too many requests", details);
        assert!(told(status).contains("try again in 3s"));
    }

    #[test]
    fn an_error_without_details_still_says_what_to_do() {
        assert!(told(Status::unauthenticated("no such key")).contains("QRELAY_KEY"));
        assert!(told(Status::new(Code::Internal, "")).contains("INTERNAL"));
    }
}
