//! Lists of codes: what one page may cost.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use qrelay_store::{
    conformance::{
        Fixture as _,
        samples::{at, create},
    },
    id::CodeId,
    limits::CODES_SCANNED_MAX,
    store::{CodeFilter, CodePage, Page, Registry as _},
};

use super::{
    Cluster,
    cluster::session,
    crashes::{new_code, of_code},
};

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_page_of_a_filter_that_few_codes_pass_looks_at_so_many_and_says_where_to_go_on() {
    let cluster = Cluster::open().await;
    let store = &cluster.store;
    let code = new_code();
    store.change(create(of_code(&code))).await.unwrap();
    // Newer codes with the same tag, of which nothing but their entries is left: they pass as little as others would.
    let session = &session().await;
    let insert = format!(
        "INSERT INTO {}.listing (list, facet, value, created_at, id) VALUES (?, 'tag', ?, ?, ?)",
        cluster.keyspace.name
    );
    let insert = &session.prepare(insert).await.unwrap();
    let (list, tag) = (&format!("code {}", code.tenant), &code.tags[0]);
    let newer = i64::try_from(CODES_SCANNED_MAX).unwrap();
    stream::iter(1..=newer)
        .map(|number| async move {
            let values = (list, tag, at(number).as_millis(), CodeId::random().to_string());
            session.execute_unpaged(insert, values).await
        })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let both = CodeFilter {
        tag: Some(tag.clone()),
        campaign_id: Some(code.campaign_id.clone()),
        ..CodeFilter::default()
    };
    for filter in [
        both.clone(),
        CodeFilter {
            campaign_id: None,
            ..both
        },
    ] {
        let before = store.statements();
        let mut page = Page {
            after: None,
            limit: 50,
        };
        let CodePage { codes, next } = store.codes(code.tenant, &filter, &page).await.unwrap();
        assert_eq!(codes, []);
        page.after = next;
        assert!(page.after.is_some(), "there is more");
        let cost = store.statements() - before;
        let most = u64::try_from(CODES_SCANNED_MAX + CODES_SCANNED_MAX / 16).unwrap();
        assert!(cost <= most, "{cost} statements");
        let CodePage { codes, next } = store.codes(code.tenant, &filter, &page).await.unwrap();
        assert_eq!(codes.len(), 1);
        assert_eq!((&*codes[0], next), (&code, None));
    }
}
