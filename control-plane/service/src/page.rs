//! Pages: their size, and tokens that say where the next one begins.
//!
//! A token is base64url of the position (JSON), encrypted and bound to RPC, tenant and filter: positions hold
//! numbers of the shared log, which are nobody's business. A token that was made for another list, or by somebody
//! else, is INVALID_ARGUMENT. Tokens do not expire; a rotated master key ends them once its line is gone.

use data_encoding::BASE64URL_NOPAD;
use prost::Message;
use qrelay_store::{
    id::TenantId,
    limits,
    seal::{Derived, Sealer},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::refusal::Violations;

/// The longest token that is looked at: a stream's token holds a cursor per writer.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// Makes and reads tokens.
#[derive(Debug)]
pub(crate) struct Tokens(Derived);

/// What a token is bound to.
#[derive(Clone, Debug)]
pub(crate) struct Bound(Vec<u8>);

impl Bound {
    /// The list of `rpc` for a tenant (none for lists across tenants), with this filter: any bytes that say
    /// which rows belong to it.
    pub(crate) fn new(rpc: &'static str, tenant: Option<TenantId>, filter: &[u8]) -> Self {
        let tenant = tenant.map_or([0; 10], |tenant| *tenant.as_bytes());
        let mut bound = format!("{rpc}\0").into_bytes();
        bound.extend_from_slice(&tenant);
        bound.extend_from_slice(filter);
        Self(bound)
    }

    /// The same, with a request as the filter: the caller clears page size and token before.
    pub(crate) fn to_request(rpc: &'static str, tenant: Option<TenantId>, request: &impl Message) -> Self {
        Self::new(rpc, tenant, &request.encode_to_vec())
    }
}

impl Tokens {
    pub(crate) fn new(sealer: &Sealer) -> Self {
        Self(sealer.derive("page tokens"))
    }

    /// The token for a position.
    pub(crate) fn token(&self, bound: &Bound, position: &impl Serialize) -> String {
        let position = serde_json::to_vec(position).expect("invariant: positions are plain values");
        BASE64URL_NOPAD.encode(&self.0.encrypt(&bound.0, &position))
    }

    /// The position in a token; none for an empty one. Notes a violation under `field` when it is not ours.
    pub(crate) fn position<P: DeserializeOwned>(
        &self,
        bound: &Bound,
        token: &str,
        field: &str,
        violations: &mut Violations,
    ) -> Option<P> {
        if token.is_empty() {
            return None;
        }
        let position = self.read(bound, token);
        if position.is_none() {
            let rule = match field {
                "resume_token" => {
                    "is not a token that this stream gave out for the same tenant and filters (over REST also the header Last-Event-ID)"
                }
                _ => "is not a token that this list gave out for the same tenant and filters",
            };
            violations.add(field, rule);
        }
        position
    }

    fn read<P: DeserializeOwned>(&self, bound: &Bound, token: &str) -> Option<P> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let position = self.0.decrypt(&bound.0, &bytes)?;
        serde_json::from_slice(&position).ok()
    }
}

/// How many rows a page has.
pub(crate) fn size(page_size: i32, violations: &mut Violations) -> usize {
    let default = usize::try_from(limits::PAGE_SIZE_DEFAULT).expect("invariant: u32 fits into usize");
    match u32::try_from(page_size) {
        Ok(0) => default,
        Ok(size) if size <= limits::PAGE_SIZE_MAX => usize::try_from(size).unwrap_or(default),
        _ => {
            violations.add(
                "page_size",
                format!("must be a whole number from 1 to {}", limits::PAGE_SIZE_MAX),
            );
            default
        }
    }
}

/// A page made of rows: cut by count and bytes, with the token of its last row if more follow.
///
/// `rows` holds one more than `size` where there is more.
pub(crate) fn cut<R, M: Message>(
    rows: Vec<R>,
    size: usize,
    show: impl Fn(&R) -> M,
    token: impl Fn(&R) -> String,
) -> (Vec<M>, String) {
    let (mut shown, mut bytes, count) = (Vec::new(), 0, rows.len());
    let mut last = None;
    for row in rows.into_iter().take(size) {
        let message = show(&row);
        bytes += message.encoded_len();
        if bytes > limits::API_PAGE_BYTES_MAX && !shown.is_empty() {
            break;
        }
        shown.push(message);
        last = Some(row);
    }
    let more = shown.len() < count;
    let next = last.filter(|_| more).map_or_else(String::new, |row| token(&row));
    (shown, next)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use qrelay_store::seal::MasterKeys;
    use tonic::Status;

    use super::*;

    fn tokens(byte: u8) -> Tokens {
        let key = data_encoding::BASE64.encode(&[byte; 32]);
        Tokens::new(&Sealer::new(Arc::new(MasterKeys::from_env_text(&key).unwrap())))
    }

    fn read(tokens: &Tokens, bound: &Bound, token: &str) -> Result<Option<u64>, Status> {
        let mut violations = Violations::default();
        let position = tokens.position(bound, token, "page_token", &mut violations);
        violations.finish().map(|()| position)
    }

    #[test]
    fn a_token_works_for_its_own_list_only() {
        let (ours, tenant) = (tokens(1), TenantId::from_bytes([1; 10]));
        let bound = Bound::new("ListCodes", Some(tenant), b"tag=a");
        let token = ours.token(&bound, &7_u64);
        assert_eq!(read(&ours, &bound, &token).unwrap(), Some(7));
        assert_eq!(read(&ours, &bound, "").unwrap(), None);
        for other in [
            Bound::new("ListEvents", Some(tenant), b"tag=a"),
            Bound::new("ListCodes", None, b"tag=a"),
            Bound::new("ListCodes", Some(TenantId::from_bytes([2; 10])), b"tag=a"),
            Bound::new("ListCodes", Some(tenant), b"tag=b"),
        ] {
            assert!(read(&ours, &other, &token).is_err());
        }
        assert!(read(&tokens(2), &bound, &token).is_err());
    }

    #[test]
    fn sizes_beyond_the_limit_are_refused() {
        for (given, expected) in [
            (0, Some(50)),
            (1, Some(1)),
            (500, Some(500)),
            (501, None),
            (-1, None),
        ] {
            let mut violations = Violations::default();
            let taken = size(given, &mut violations);
            assert_eq!(violations.is_empty().then_some(taken), expected, "{given}");
        }
    }

    #[test]
    fn a_page_of_large_rows_ends_early_but_never_empty() {
        let large = qrelay_proto::v1::Code {
            name: "x".repeat(limits::API_PAGE_BYTES_MAX),
            ..Default::default()
        };
        let (page, token) = cut(vec![1, 2, 3], 2, |_| large.clone(), ToString::to_string);
        assert_eq!((page.len(), token.as_str()), (1, "1"));
        let small = qrelay_proto::v1::Code::default();
        let (page, token) = cut(vec![1, 2, 3], 2, |_| small.clone(), ToString::to_string);
        assert_eq!((page.len(), token.as_str()), (2, "2"));
        let (page, token) = cut(vec![1, 2], 2, |_| small.clone(), ToString::to_string);
        assert_eq!((page.len(), token.as_str()), (2, ""));
    }

    proptest! {
        #[test]
        fn a_changed_or_made_up_token_is_refused_without_panic(at: prop::sample::Index, text in "[A-Za-z0-9_-]{0,80}") {
            let (ours, bound) = (tokens(1), Bound::new("ListCodes", None, b""));
            let mut token = ours.token(&bound, &7_u64).into_bytes();
            let at = at.index(token.len() - 1);
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            prop_assert!(read(&ours, &bound, &String::from_utf8(token).unwrap()).is_err());
            prop_assert!(text.is_empty() || read(&ours, &bound, &text).is_err());
        }
    }
}
