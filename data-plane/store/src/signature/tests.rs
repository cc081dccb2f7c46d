//! Known answers for every scheme, computed with other libraries, and what must hold for any secrets.

use ed25519_dalek::Verifier as _;
use proptest::prelude::*;

use super::*;

/// The specification's example, which its reference libraries test with too.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// A caller's own text.
const OWN: &str = "customer-own-secret";
const MESSAGE: Message<'static> = Message {
    id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
    delivery: "dlv_1",
    event: "scan.created",
    timestamp_s: 1_614_265_330,
    body: br#"{"test": 2432232314}"#,
};
const STANDARD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn of(scheme: SignatureScheme) -> Signature {
    Signature {
        scheme,
        ..Signature::default()
    }
}

fn signer(scheme: SignatureScheme, secrets: &[&[u8]]) -> Result<Signer, SignatureError> {
    let secrets: Vec<SecretSlice<u8>> = secrets.iter().map(|secret| secret.to_vec().into()).collect();
    Signer::new(&of(scheme), &secrets)
}

fn value(headers: &[(HeaderName, HeaderValue)], name: &str) -> String {
    let (_, value) = headers.iter().find(|(header, _)| header == name).unwrap();
    value.to_str().unwrap().to_owned()
}

fn signed(scheme: SignatureScheme, secrets: &[&[u8]]) -> String {
    let name = of(scheme).header().unwrap().to_ascii_lowercase();
    value(&signer(scheme, secrets).unwrap().headers(MESSAGE), &name)
}

fn decoded() -> Vec<u8> {
    BASE64
        .decode(SECRET.trim_start_matches("whsec_").as_bytes())
        .unwrap()
}

#[test]
fn the_specifications_example_is_signed_as_it_says() {
    let headers = signer(SignatureScheme::Standard, &[&decoded()])
        .unwrap()
        .headers(MESSAGE);
    assert_eq!(value(&headers, "webhook-signature"), STANDARD);
    assert_eq!(value(&headers, "webhook-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek");
    assert_eq!(value(&headers, "webhook-timestamp"), "1614265330");
    assert_eq!(headers.len(), 3);
}

#[test]
fn ed25519_signs_the_same_content_as_other_libraries_do() {
    let key = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let key = BASE64.decode(key.as_bytes()).unwrap();
    assert_eq!(
        signed(SignatureScheme::StandardEd25519, &[&key[..32]]),
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    );
    assert_eq!(
        signer(SignatureScheme::StandardEd25519, &[&key]).unwrap_err(),
        SignatureError::MalformedSecret,
        "a seed has 32 bytes"
    );
}

#[test]
fn schemes_keyed_by_text_sign_with_the_whole_text_prefix_included() {
    let (secret, own) = (SECRET.as_bytes(), OWN.as_bytes());
    assert_eq!(
        signed(SignatureScheme::Timestamped, &[secret]),
        "t=1614265330,v1=2e37df5d4a028c51a7f3133d64ae1e300d2c2c900f1b1d49d4369ad2530f8964"
    );
    assert_eq!(
        signed(SignatureScheme::Sha256Timestamp, &[own]),
        "sha256=fd7477a30e999cdc940bbc2d51969f0faec9eb9ed7c201e6596ca1732d4785d6"
    );
    assert_eq!(
        signed(SignatureScheme::HexBody, &[secret]),
        "80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c"
    );
    assert_eq!(
        signed(SignatureScheme::HexBody, &[own]),
        "b912d48c063a40465e8897dbb1b6efb5f719b59d0cac9d90d5ed0a62c53455a4"
    );
}

#[test]
fn headers_go_out_under_the_names_that_are_set_and_no_others() {
    let signature = Signature {
        scheme: SignatureScheme::Sha256Timestamp,
        header: Some("X-Scribeless-Signature".into()),
        timestamp_header: Some("X-Scribeless-Timestamp".into()),
        event_header: Some("X-Scribeless-Event".into()),
        delivery_header: Some("X-Scribeless-Delivery".into()),
    };
    let signer = Signer::new(&signature, &[OWN.as_bytes().to_vec().into()]).unwrap();
    let headers = signer.headers(MESSAGE);
    assert_eq!(headers.len(), 4);
    assert!(value(&headers, "x-scribeless-signature").starts_with("sha256="));
    assert_eq!(value(&headers, "x-scribeless-timestamp"), "1614265330");
    assert_eq!(value(&headers, "x-scribeless-event"), "scan.created");
    assert_eq!(value(&headers, "x-scribeless-delivery"), "dlv_1");
    assert_eq!(
        super::Signer::new(&of(SignatureScheme::None), &[])
            .unwrap()
            .headers(MESSAGE),
        []
    );
    let malformed = Signature {
        event_header: Some("X Event".into()),
        ..signature
    };
    assert_eq!(
        Signer::new(&malformed, &[OWN.as_bytes().to_vec().into()]).unwrap_err(),
        SignatureError::HeaderName
    );
}

#[test]
fn hmac_sha256_matches_rfc_4231() {
    let digest = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
    assert_eq!(
        HEXLOWER.encode(&digest),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[test]
fn any_change_of_id_time_or_body_changes_the_signature() {
    let signer = signer(SignatureScheme::Standard, &[&decoded()]).unwrap();
    let signature = |message| value(&signer.headers(message), "webhook-signature");
    let original = signature(MESSAGE);
    for changed in [
        Message {
            id: "msg_q",
            ..MESSAGE
        },
        Message {
            timestamp_s: 1_614_265_331,
            ..MESSAGE
        },
        Message { body: b"", ..MESSAGE },
    ] {
        assert_ne!(original, signature(changed));
    }
}

#[test]
fn what_is_no_secret_makes_no_signer() {
    let refused = |secrets: &[&[u8]]| signer(SignatureScheme::Standard, secrets).unwrap_err();
    assert_eq!(refused(&[b""]), SignatureError::MalformedSecret);
    assert_eq!(refused(&[]), SignatureError::SecretCount);
    let many = [b"x".as_slice(); SECRETS_PER_ENDPOINT_MAX + 1];
    assert_eq!(refused(&many), SignatureError::SecretCount);
}

#[test]
fn debug_output_holds_no_key() {
    for scheme in [SignatureScheme::Standard, SignatureScheme::StandardEd25519] {
        let text = format!("{:?}", signer(scheme, &[&[49; 32]]).unwrap());
        assert!(text.contains("REDACTED"), "{text}");
        assert!(!text.contains("49, 49"), "{text}");
    }
}

proptest! {
    /// Every valid secret signs, the newest first, where one header can say so; else the newest alone does.
    #[test]
    fn every_valid_secret_signs_as_if_it_were_alone(
        new in proptest::collection::vec(any::<u8>(), 32),
        old in proptest::collection::vec(any::<u8>(), 32),
        body: Vec<u8>,
    ) {
        let message = Message { body: &body, ..MESSAGE };
        let signed = |scheme: SignatureScheme, secrets: &[&[u8]]| {
            let name = of(scheme).header().unwrap().to_ascii_lowercase();
            value(&signer(scheme, secrets).unwrap().headers(message), &name)
        };
        for scheme in [SignatureScheme::Standard, SignatureScheme::StandardEd25519] {
            let both = signed(scheme, &[&new, &old]);
            let expected = format!("{} {}", signed(scheme, &[&new]), signed(scheme, &[&old]));
            prop_assert_eq!(both, expected);
        }
        let both = signed(SignatureScheme::Timestamped, &[&new, &old]);
        let alone = signed(SignatureScheme::Timestamped, &[&old]);
        let (_, alone) = alone.split_once(',').unwrap();
        prop_assert_eq!(both, format!("{},{alone}", signed(SignatureScheme::Timestamped, &[&new])));
        for scheme in [SignatureScheme::Sha256Timestamp, SignatureScheme::HexBody] {
            prop_assert_eq!(signed(scheme, &[&new, &old]), signed(scheme, &[&new]));
        }
    }

    #[test]
    fn an_ed25519_signature_verifies_with_the_public_key(seed: [u8; 32], body: Vec<u8>) {
        let message = Message { body: &body, ..MESSAGE };
        let headers = signer(SignatureScheme::StandardEd25519, &[&seed]).unwrap().headers(message);
        let written = value(&headers, "webhook-signature");
        let bytes = BASE64.decode(written.strip_prefix("v1a,").unwrap().as_bytes()).unwrap();
        let content = [b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.".as_slice(), &body].concat();
        let public = SigningKey::from_bytes(&seed).verifying_key();
        prop_assert!(public.verify(&content, &bytes.as_slice().try_into().unwrap()).is_ok());
    }
}
