//! What a tenant used in a month.

use qrelay_proto::v1;
use qrelay_store::checkpoint::UsageCounts;
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    refusal::{self, Violations},
    wire,
};

/// GetUsage.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetUsageRequest,
) -> Result<v1::Usage, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let month = if request.month.is_empty() {
        api.now().month()
    } else {
        request.month
    };
    if !is_month(&month) {
        return Err(Violations::one("month", "must be YYYY-MM, such as 2026-05"));
    }
    let counts = api.store.usage(tenant.id, &month).await.map_err(refusal::store)?;
    Ok(show(tenant.id.to_string(), month, &counts))
}

fn is_month(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else {
        return false;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    year.len() == 4
        && month.len() == 2
        && digits(year)
        && digits(month)
        && (1..=12).contains(&month.parse::<u8>().unwrap_or(0))
        && year >= "1970"
}

fn show(tenant_id: String, month: String, counts: &UsageCounts) -> v1::Usage {
    // In the order of `Classification::ALL`.
    let [human, preview, prefetch, crawler, scanner, tool, head] = counts.scans.map(wire::count);
    v1::Usage {
        tenant_id,
        month,
        scans: wire::count(counts.scans.iter().sum()),
        scans_by_class: Some(v1::ScansByClass {
            human,
            preview,
            prefetch,
            crawler,
            scanner,
            tool,
            head,
        }),
        events: wire::count(counts.events),
        deliveries: wire::count(counts.deliveries),
    }
}

#[cfg(test)]
mod tests {
    use qrelay_store::record::Classification;

    use super::*;

    #[test]
    fn months_are_four_digits_and_two() {
        for (text, fits) in [
            ("2026-05", true),
            ("1970-01", true),
            ("2026-13", false),
            ("2026-00", false),
            ("2026-5", false),
            ("26-05", false),
            ("1969-12", false),
            ("2026-05-01", false),
            ("+026-05", false),
            ("", false),
        ] {
            assert_eq!(is_month(text), fits, "{text}");
        }
    }

    #[test]
    fn each_class_lands_in_its_own_field() {
        let mut counts = UsageCounts::default();
        for (times, class) in (1..).zip(Classification::ALL) {
            (0..times).for_each(|_| counts.count_scan(class));
        }
        let usage = show("ten_x".into(), "2026-05".into(), &counts);
        let by = usage.scans_by_class.unwrap();
        let fields = [
            by.human,
            by.preview,
            by.prefetch,
            by.crawler,
            by.scanner,
            by.tool,
            by.head,
        ];
        assert_eq!(fields, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((usage.scans, usage.events), (28, 28));
    }
}
