//! One table from gRPC's codes to HTTP's status and the name that errors carry.

use http::StatusCode;
use tonic::Code;

/// The HTTP status of a code, as Google's APIs map them (`google/rpc/code.proto`). CANCELLED has none of its own
/// there but 499, which nginx coined.
pub fn http_status(code: Code) -> StatusCode {
    row(code).0
}

/// The code's name in `google.rpc.Code`.
pub(crate) fn name(code: Code) -> &'static str {
    row(code).1
}

fn row(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Ok => (StatusCode::OK, "OK"),
        Code::Cancelled => (
            StatusCode::from_u16(499).expect("invariant: 499 is a three-digit status"),
            "CANCELLED",
        ),
        Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
        Code::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
        Code::Aborted => (StatusCode::CONFLICT, "ABORTED"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "OUT_OF_RANGE"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "DATA_LOSS"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_http_status_and_name() {
        let rows: Vec<String> = (0..17)
            .map(Code::from)
            .map(|code| format!("{} {}", http_status(code).as_u16(), name(code)))
            .collect();
        assert_eq!(
            rows,
            [
                "200 OK",
                "499 CANCELLED",
                "500 UNKNOWN",
                "400 INVALID_ARGUMENT",
                "504 DEADLINE_EXCEEDED",
                "404 NOT_FOUND",
                "409 ALREADY_EXISTS",
                "403 PERMISSION_DENIED",
                "429 RESOURCE_EXHAUSTED",
                "400 FAILED_PRECONDITION",
                "409 ABORTED",
                "400 OUT_OF_RANGE",
                "501 UNIMPLEMENTED",
                "500 INTERNAL",
                "503 UNAVAILABLE",
                "500 DATA_LOSS",
                "401 UNAUTHENTICATED",
            ]
        );
    }
}
