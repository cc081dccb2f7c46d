//! Conversions: what a caller may report, and which scan or code it is about. How it is recorded once is for
//! [`recorder`].

mod recorder;

use std::{sync::Arc, time::Duration};

use prost::Message;
use qrelay_proto::v1;
use qrelay_store::{
    id::EventId,
    limits,
    model::{Code, Host, ShortLink, Tenant},
    record::{ConversionRecord, ConvertedScan, Record},
};
use sha2::{Digest, Sha256};
use tonic::Status;

pub(crate) use self::recorder::Recorder;
use self::recorder::{RecordError, Recorded, Report};
use crate::{
    api::Api,
    caller::Caller,
    code_fields, events, field,
    refusal::{self, Violations},
    wire,
};

/// CreateConversion.
pub(crate) async fn create(
    api: &Arc<Api>,
    caller: &Caller,
    request: v1::CreateConversionRequest,
) -> Result<v1::Conversion, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let mut given = request.conversion.unwrap_or_default();
    given.currency.make_ascii_uppercase();
    let mut violations = Violations::default();
    check(&given, &mut violations);
    let properties = code_fields::object("properties", given.properties.as_ref(), &mut violations);
    violations.finish()?;
    let (code, scan) = subject(api, &tenant, &given).await?;
    let known = |text: &String| (!text.is_empty()).then(|| text.clone().into());
    let record = ConversionRecord {
        tenant: tenant.id,
        code: code.id,
        code_version: code.version,
        at: api.now(),
        external_id: given.external_id.clone().into(),
        value: known(&given.value),
        currency: known(&given.currency),
        properties: serde_json::Value::Object(properties).to_string().into(),
        scan,
    };
    let report = Report {
        record,
        body_hash: body_hash(given),
        partition: tenant.partition(code.id),
    };
    let recorded = api.conversions.record(report).await.map_err(refused)?;
    show(api, recorded).await
}

/// What must be the same for a report to be the same: all that a caller can set.
fn body_hash(given: v1::Conversion) -> [u8; 32] {
    let settable = v1::Conversion {
        id: String::new(),
        code_id: String::new(),
        created_at: None,
        tenant_id: String::new(),
        ..given
    };
    Sha256::digest(settable.encode_to_vec()).into()
}

fn check(given: &v1::Conversion, violations: &mut Violations) {
    field::required_line(
        violations,
        "external_id",
        &given.external_id,
        limits::REFERENCE_CHARS_MAX,
    );
    match (given.event_id.is_empty(), given.short_id.is_empty()) {
        (true, true) => violations.add("event_id", "or short_id is required"),
        (false, false) => violations.add("short_id", "must not be given together with event_id"),
        _ => {}
    }
    if !given.value.is_empty() && !is_decimal(&given.value) {
        violations.add(
            "value",
            "must be a decimal number such as 49.90, without leading zeros or an exponent, with at most 18 digits \
             before the point and 9 after",
        );
    }
    let letters = given.currency.bytes().filter(u8::is_ascii_uppercase).count();
    if !given.currency.is_empty() && (letters, given.currency.len()) != (3, 3) {
        violations.add("currency", "must be three letters, such as EUR");
    }
    if !given.currency.is_empty() && given.value.is_empty() {
        violations.add("currency", "needs a value");
    }
}

/// `-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,9})?`: JSON's numbers without exponents, as long as a 64-bit integer in billionths.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    digits(whole, 18)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|fraction| digits(fraction, 9))
}

/// The code that a report is about, in the version that its scan led to, and the scan.
async fn subject(
    api: &Api,
    tenant: &Tenant,
    given: &v1::Conversion,
) -> Result<(Arc<Code>, Option<ConvertedScan<'static>>), Status> {
    if given.event_id.is_empty() {
        return Ok((code(api, tenant, &given.short_id).await?, None));
    }
    let missing = || refusal::event_not_kept(&given.event_id);
    let id: EventId = given.event_id.parse().map_err(|_| missing())?;
    let address = api.store.install().ids.event_address(id);
    let record = events::record_at(&api.store, address)
        .await
        .map_err(refusal::store)?;
    let record = record.filter(|record| record.head().is_some_and(|head| head.tenant == tenant.id));
    let Some(Record::Scan(scan)) = record else {
        // A conversion, or an event that is no record: a change of the configuration or of an endpoint's health.
        let renderer = events::Renderer::new(Arc::clone(&api.store));
        let event = renderer
            .event_at(address, tenant.id)
            .await
            .map_err(refusal::store)?;
        return Err(event.map_or_else(missing, |_| Violations::one("event_id", "must be a scan's event")));
    };
    let code = api.store.code_version(scan.code, scan.code_version).await;
    let code = code.map_err(refusal::store)?.ok_or_else(missing)?;
    Ok((code, Some(ConvertedScan::of(address, scan))))
}

/// The tenant's code with a short id, as scans find it: as written, or in lower case.
async fn code(api: &Api, tenant: &Tenant, short_id: &str) -> Result<Arc<Code>, Status> {
    for short_id in [short_id.to_owned(), short_id.to_ascii_lowercase()] {
        let link = ShortLink {
            host: Host::default(),
            short_id,
        };
        if let Some(found) = api.store.code_by_link(&link).await.map_err(refusal::store)? {
            return match found.tenant == tenant.id {
                true => Ok(found),
                false => Err(refusal::not_found("Code", &link.short_id)),
            };
        }
    }
    Err(refusal::not_found("Code", short_id))
}

async fn show(api: &Api, recorded: Recorded) -> Result<v1::Conversion, Status> {
    let (record, ids) = (recorded.record, &api.store.install().ids);
    let code = api.store.code_version(record.code, record.code_version).await;
    let code = code.map_err(refusal::store)?;
    let properties = serde_json::from_str(&record.properties).unwrap_or_default();
    let text = |text: Option<std::borrow::Cow<'_, str>>| text.map_or_else(String::new, Into::into);
    Ok(v1::Conversion {
        id: ids.event_id(recorded.event).to_string(),
        external_id: record.external_id.into_owned(),
        event_id: record
            .scan
            .map_or_else(String::new, |scan| ids.event_id(scan.address).to_string()),
        short_id: code.map_or_else(String::new, |code| code.link.short_id.clone()),
        value: text(record.value),
        currency: text(record.currency),
        properties: Some(wire::to_struct(&properties)),
        code_id: record.code.to_string(),
        created_at: Some(wire::time(record.at)),
        tenant_id: record.tenant.to_string(),
    })
}

fn refused(error: RecordError) -> Status {
    let later = |code, message| refusal::unavailable(code, message, Duration::from_secs(1));
    match error {
        RecordError::Exists => refusal::exists(
            "Conversion",
            "",
            "another conversion was reported with this external_id",
        ),
        RecordError::UnderWay => later(
            "CONVERSION_UNDER_WAY",
            "an earlier report of this conversion is being recorded; repeat the call",
        ),
        RecordError::TooMany => later("CONVERSIONS_UNDER_WAY", "too many conversions are being recorded"),
        RecordError::Append(error) => {
            tracing::warn!(%error, "a conversion is not known to be recorded");
            later(
                "LOG_UNAVAILABLE",
                "the log does not take events just now; nothing is known of the outcome, repeat the call",
            )
        }
        RecordError::Store(error) => refusal::store(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decimal_numbers_of_bounded_length() {
        for good in ["0", "49.90", "-49.9", "0.5", "999999999999999999.999999999", "-0"] {
            assert!(is_decimal(good), "{good}");
        }
        for bad in [
            "",
            "-",
            ".",
            ".5",
            "5.",
            "1e3",
            "+1",
            "1,5",
            "007",
            "00",
            "--1",
            " 1",
            "1 ",
            "NaN",
            "1.2.3",
            "٣",
            "1000000000000000000",
            "0.1234567890",
        ] {
            assert!(!is_decimal(bad), "{bad}");
        }
    }
}
