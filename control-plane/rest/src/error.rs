//! Why a transcoder cannot be built, and why a REST request was refused before any handler saw it.

use std::fmt;

/// A descriptor set that cannot be served as it stands. Found at start, so that nothing is served by halves.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The bytes are no usable `FileDescriptorSet`.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// The set lacks `google.api.http`, so nothing says which URL means which RPC.
    #[error("the descriptor set lacks google/api/annotations.proto: compile it with its imports")]
    NoHttpOption,
    /// [`Config::services`](crate::Config::services) names a service that is not there.
    #[error("unknown service {0}")]
    UnknownService(String),
    /// [`Config::depth_max`](crate::Config::depth_max) is out of its range.
    #[error("depth_max is {0}, it must be 1 to 32")]
    Depth(usize),
    /// A `google.api.http` option that is not supported or does not fit its RPC.
    #[error("{method}: {reason}")]
    Rule {
        /// Full name of the RPC.
        method: String,
        /// What is wrong with its option.
        reason: String,
    },
    /// Two RPCs want the same requests.
    #[error("{first} and {second} both want {verb} {template}")]
    Ambiguous {
        /// Full name of one RPC.
        first: String,
        /// Full name of the other one.
        second: String,
        /// The HTTP method.
        verb: String,
        /// The template of the second one.
        template: String,
    },
}

/// One thing wrong with a request, at one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field as the caller wrote it: a path in the body (`privacy.ip`, `tags[2]`), a query parameter, or a
    /// variable of the URL.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// A REST request that does not become an RPC.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// 404: no RPC has this URL.
    #[error("nothing is at this path")]
    NotFound,
    /// 405: the URL exists for other methods only.
    #[error("the method is not allowed here, allowed are {allow}")]
    MethodNotAllowed {
        /// Value of the header `Allow`.
        allow: String,
    },
    /// 400: the path or the query is not percent-encoded UTF-8.
    #[error("malformed percent-encoding in the {0}")]
    MalformedUri(&'static str),
    /// 413: the body is larger than the limit.
    #[error("the body is larger than {bytes_max} bytes")]
    BodyTooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// 408: the body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// 400: the connection failed in the middle of the body.
    #[error("the body was cut off")]
    BodyCutOff,
    /// 415: a body that is not plain JSON in UTF-8.
    #[error("{0}")]
    MediaType(&'static str),
    /// 400: the body is not JSON.
    #[error("the body is not valid JSON: {0}")]
    Syntax(String),
    /// 400: the request's parts do not fit the request message.
    #[error("{}", summary(.0, *.1))]
    Invalid(Vec<Violation>, usize),
}

fn summary(violations: &[Violation], more: usize) -> String {
    let rest = violations.len().saturating_sub(1) + more;
    match (violations.first(), rest) {
        (None, _) => "invalid request".to_owned(),
        (Some(first), 0) => first.to_string(),
        (Some(first), rest) => format!("{first} (and {rest} more)"),
    }
}

/// Collects violations, so that a caller learns of all of them at once; bounded, because they are answered.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    list: Vec<Violation>,
    more: usize,
}

impl Violations {
    /// A page of faults is enough to fix a client; more would let a small request make a large answer.
    const LISTED_MAX: usize = 32;
    /// A name from the request is repeated in the answer, up to here.
    const NAME_CHARS_MAX: usize = 200;

    pub(crate) fn add(&mut self, field: impl fmt::Display, description: impl Into<String>) {
        if self.list.len() == Self::LISTED_MAX {
            self.more += 1;
            return;
        }
        let mut field = field.to_string();
        if let Some((cut, _)) = field.char_indices().nth(Self::NAME_CHARS_MAX) {
            field.truncate(cut);
            field.push('…');
        }
        self.list.push(Violation {
            field,
            description: description.into(),
        });
    }

    pub(crate) fn into_result(self) -> Result<(), RequestError> {
        if self.list.is_empty() {
            Ok(())
        } else {
            Err(RequestError::Invalid(self.list, self.more))
        }
    }

    #[cfg(test)]
    pub(crate) fn list(&self) -> &[Violation] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_and_size_of_reported_violations_is_bounded() {
        let mut violations = Violations::default();
        for _ in 0..1_000 {
            violations.add("é".repeat(5_000), "no such field");
        }
        let error = violations.into_result().expect_err("there are violations");
        let RequestError::Invalid(list, more) = &error else {
            panic!("{error:?}")
        };
        assert_eq!((list.len(), *more), (32, 968));
        assert!(
            list.iter()
                .all(|violation| violation.field.chars().count() == 201)
        );
        assert!(error.to_string().ends_with("(and 999 more)"), "{error}");
    }
}
