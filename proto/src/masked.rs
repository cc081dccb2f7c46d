//! `Debug` for the messages that hold a secret: it says whether there is one, never which.

use std::fmt;

use crate::v1::{ApiKey, Endpoint, PreviewEndpointResponse, RotateSecretRequest, TlsClient};

/// Stands for a secret.
struct Masked;

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

macro_rules! masked {
    ($message:ident, $secret:ident => $shown:expr, $($field:ident)*) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Names every field, so that a new one does not compile before it is added here.
                let Self { $secret, $($field),* } = self;
                let mut shown = f.debug_struct(stringify!($message));
                $(shown.field(stringify!($field), $field);)*
                let show: fn(&_) -> Option<Masked> = $shown;
                shown.field(stringify!($secret), &show($secret)).finish()
            }
        }
    };
}

masked!(ApiKey, key => |key: &Option<String>| key.as_ref().map(|_| Masked),
    id tenant_id role name expires_at last_used_at created_at);
masked!(Endpoint, secret => |secret: &Option<String>| secret.as_ref().map(|_| Masked),
    id url description events status consecutive_failures retry_schedule max_concurrency backlog etag created_at
    updated_at tenant_id rate_limit failure signature public_key filter payload preset ordering tls_client resume);
masked!(PreviewEndpointResponse, secret => |secret: &Option<String>| secret.as_ref().map(|_| Masked),
    event_type headers body public_key);
masked!(RotateSecretRequest, secret => |secret: &String| (!secret.is_empty()).then_some(Masked),
    id tenant_id overlap immediate);
masked!(TlsClient, key => |key: &String| (!key.is_empty()).then_some(Masked),
    cert subject expires_at);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_that_there_is_a_secret_and_not_which() {
        let endpoint = Endpoint {
            id: "ep_1".into(),
            secret: Some("whsec_x".into()),
            ..Default::default()
        };
        let create = crate::v1::CreateEndpointRequest {
            endpoint: Some(endpoint),
            ..Default::default()
        };
        let key = ApiKey {
            key: Some("qrk_x".into()),
            ..Default::default()
        };
        let rotate = RotateSecretRequest {
            secret: "whsec_x".into(),
            ..Default::default()
        };
        let shown = format!("{create:?} {key:?} {rotate:?}");
        assert!(
            shown.contains("ep_1") && shown.matches("Some(***)").count() == 3,
            "{shown}"
        );
        assert!(!shown.contains("whsec_") && !shown.contains("qrk_"), "{shown}");
        assert!(format!("{:?}", ApiKey::default()).contains("key: None"));
    }
}
