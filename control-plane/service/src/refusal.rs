//! How errors look: one place makes every status, with `google.rpc` details that say which field and why.
//!
//! The public message and what goes into the log are separate: a store's error text never reaches a caller.
//! Over REST the transcoder turns the same status into HTTP.

use std::{collections::HashMap, time::Duration};

use qrelay_store::{StoreError, store::ChangeError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// The `domain` of every `ErrorInfo`.
const DOMAIN: &str = "qrelay";
/// What of a caller's own text is repeated to it.
const ECHO_CHARS_MAX: usize = 100;
/// Findings told at once: nobody mends more in one go, and an error must fit into gRPC's trailers (8 KiB).
const VIOLATIONS_MAX: usize = 20;

/// Collects everything that is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes that `field` is wrong. `description` goes on from the field's name: "must be …".
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(FieldViolation::new(field, description));
        }
    }

    /// Whether nothing was found so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what another request's judgement found, each field under the name that it has here.
    pub(crate) fn take(&mut self, others: Self, name: impl Fn(&str) -> String) {
        for other in others.0 {
            self.add(name(&other.field), other.description);
        }
    }

    /// The refusal, if anything was found.
    pub(crate) fn finish(self) -> Result<(), Status> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        let more = match self.0.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let message = format!("{} {}{more}", first.field, first.description);
        Err(Status::with_error_details(
            Code::InvalidArgument,
            message,
            ErrorDetails::with_bad_request(self.0),
        ))
    }

    /// The refusal for one finding.
    pub(crate) fn one(field: &str, description: &str) -> Status {
        let mut violations = Self::default();
        violations.add(field, description);
        violations
            .finish()
            .expect_err("invariant: one finding is a refusal")
    }
}

/// NOT_FOUND: it does not exist, or is another tenant's. `kind` is the resource's message name.
pub(crate) fn not_found(kind: &str, id: &str) -> Status {
    let id = echo(id);
    let message = format!("there is no {} `{id}`", kind.to_lowercase());
    Status::with_error_details(Code::NotFound, message, resource(kind, id))
}

/// NOT_FOUND, where an event that was there may have gone with age.
pub(crate) fn event_not_kept(id: &str) -> Status {
    let id = echo(id);
    let message = format!("there is no event `{id}`, or it is no longer kept");
    Status::with_error_details(Code::NotFound, message, resource("Event", id))
}

/// ALREADY_EXISTS: something has this name already.
pub(crate) fn exists(kind: &str, name: &str, message: &str) -> Status {
    Status::with_error_details(Code::AlreadyExists, message, resource(kind, echo(name)))
}

fn resource(kind: &str, name: String) -> ErrorDetails {
    ErrorDetails::with_resource_info(format!("qrelay.v1.{kind}"), name, "", "")
}

/// UNAUTHENTICATED.
pub(crate) fn unauthenticated(message: &str) -> Status {
    reason(Code::Unauthenticated, "UNAUTHENTICATED", message)
}

/// PERMISSION_DENIED, with the reason as a constant.
pub(crate) fn denied(code: &str, message: &str) -> Status {
    reason(Code::PermissionDenied, code, message)
}

/// FAILED_PRECONDITION, with the reason as a constant.
pub(crate) fn precondition(code: &str, message: &str) -> Status {
    reason(Code::FailedPrecondition, code, message)
}

/// DEADLINE_EXCEEDED: nothing is known of the outcome, with the reason as a constant.
pub(crate) fn unfinished(code: &str, message: &str) -> Status {
    reason(Code::DeadlineExceeded, code, message)
}

/// ABORTED: somebody else was faster.
pub(crate) fn conflict() -> Status {
    reason(
        Code::Aborted,
        "ETAG_MISMATCH",
        "somebody else changed it; read it again and repeat",
    )
}

/// RESOURCE_EXHAUSTED: come again after `delay`.
pub(crate) fn too_fast(code: &str, message: &str, delay: Duration) -> Status {
    later(Code::ResourceExhausted, code, message, delay)
}

/// UNAVAILABLE: come again after `delay`.
pub(crate) fn unavailable(code: &str, message: &str, delay: Duration) -> Status {
    later(Code::Unavailable, code, message, delay)
}

fn later(status: Code, code: &str, message: &str, delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(code, DOMAIN, HashMap::new());
    details.set_retry_info(Some(delay));
    Status::with_error_details(status, message, details)
}

fn reason(status: Code, code: &str, message: &str) -> Status {
    Status::with_error_details(
        status,
        message,
        ErrorDetails::with_error_info(code, DOMAIN, HashMap::new()),
    )
}

/// RESOURCE_EXHAUSTED: there are as many `things` as there may be. `code` names the limit.
pub(crate) fn limit_reached(code: &str, subject: &str, things: &str, max: u64) -> Status {
    let message = format!("there are {max} {things} already, which is the limit");
    let mut details = ErrorDetails::with_error_info(code, DOMAIN, HashMap::new());
    details.add_quota_failure_violation(subject, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// What the store's failure means for a caller.
pub(crate) fn store(error: StoreError) -> Status {
    tracing::error!(%error, "the store failed");
    match error {
        StoreError::Unavailable(_) => unavailable(
            "STORE_UNAVAILABLE",
            "the store is not available just now; nothing is known of the outcome, repeat the call",
            Duration::from_secs(1),
        ),
        StoreError::Corrupt(_) => Status::internal("what is stored cannot be read"),
    }
}

/// What a refused change means for a caller, where the caller has no answer of its own.
pub(crate) fn change(error: ChangeError) -> Status {
    match error {
        ChangeError::Conflict => conflict(),
        ChangeError::RequestReused => reason(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "this request_id was used for another request in the last 24 hours",
        ),
        ChangeError::Store(error) => store(error),
        ChangeError::Exists => Status::already_exists("it exists already"),
        ChangeError::LimitReached(max) => limit_reached("LIMIT_REACHED", "tenant", "of them", max),
    }
}

/// A caller's own text, cut and without control characters.
fn echo(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(ECHO_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_findings_are_told_at_once_and_bounded() {
        let mut violations = Violations::default();
        assert!(violations.is_empty());
        for at in 0..100 {
            violations.add(format!("tags[{at}]"), "must not be empty");
        }
        let status = violations.finish().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "tags[0] must not be empty (and 19 more)");
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations.len(),
            VIOLATIONS_MAX
        );
    }

    #[test]
    fn a_stores_error_text_stays_inside() {
        let status = store(StoreError::Unavailable("/var/lib/qrelay: disk full".into()));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!format!("{status:?}").contains("/var/lib"));
        assert!(
            !store(StoreError::Corrupt("page 7".into()))
                .message()
                .contains("page 7")
        );
    }

    #[test]
    fn what_a_caller_wrote_comes_back_cut_and_harmless() {
        let status = not_found("Code", &format!("\u{1b}[2J{}", "x".repeat(5000)));
        assert!(status.message().len() < 200);
        assert!(!status.message().contains('\u{1b}'));
    }
}
