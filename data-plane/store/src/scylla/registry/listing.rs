//! Lists, newest first, and what they are filtered by.
//!
//! Each entry names a row. Entries are written after their row, with its version as timestamp: whichever comes late, the
//! later version's stays. A reader judges each row that an entry leads to: an entry that the row would not have is stale.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{serialize::row::SerializeRow, statement::prepared::PreparedStatement};
use serde::{Deserialize, Serialize};

use super::{
    super::{OpenError, session::Cql},
    Configuration,
    row::{id_text, parse},
};
use crate::{
    clock::Timestamp,
    id::{EndpointId, PartitionId, TenantId},
    limits,
    model::{Code, CodeStatus, Resource, ResourceId, ResourceKind, TenantStatus},
    store::{CodeFilter, CodePage, Page, PageKey, Result},
};

/// A place in a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    list: List,
    at: i64,
    id: String,
}

/// A list: one CQL partition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct List {
    /// A kind and whose, or `home` and which.
    name: String,
    /// What its rows have in common beside, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    facet: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
}

impl List {
    /// All live rows of a kind: of a tenant, or of the install.
    pub(super) fn of(kind: ResourceKind, tenant: Option<TenantId>) -> Self {
        let owner = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        Self {
            name: format!("{} {owner}", kind.as_str()),
            facet: String::new(),
            value: String::new(),
        }
    }

    /// All live endpoints of a home.
    fn of_home(home: PartitionId) -> Self {
        Self {
            name: format!("home {}", home.as_u16()),
            facet: String::new(),
            value: String::new(),
        }
    }

    fn with(&self, facet: &str, value: &str) -> Self {
        Self {
            name: self.name.clone(),
            facet: facet.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// The shortest list that holds all codes of a filter.
fn list_of_codes(tenant: TenantId, filter: &CodeFilter) -> List {
    let all = List::of(ResourceKind::Code, Some(tenant));
    let facets = [
        ("short_id", &filter.short_id),
        ("external_id", &filter.external_id),
        ("tag", &filter.tag),
        ("campaign_id", &filter.campaign_id),
    ];
    // Codes without a value are in no list of that facet.
    let given = facets.into_iter().find_map(|(facet, value)| {
        value
            .as_deref()
            .filter(|value| !value.is_empty())
            .map(|value| (facet, value))
    });
    given.map_or_else(|| all.clone(), |(facet, value)| all.with(facet, value))
}

fn passes(code: &Code, filter: &CodeFilter) -> bool {
    let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    same(&filter.short_id, &code.link.short_id)
        && same(&filter.campaign_id, &code.campaign_id)
        && same(&filter.external_id, &code.external_id)
        && filter.tag.as_ref().is_none_or(|tag| code.tags.contains(tag))
}

/// Whether a row is counted and listed.
pub(super) fn is_live(resource: &Resource) -> bool {
    match resource {
        Resource::Tenant(row) => row.status != TenantStatus::Deleted,
        Resource::ApiKey(row) => !row.revoked,
        Resource::Code(row) => row.status != CodeStatus::Deleted,
        Resource::Endpoint(row) => !row.deleted,
    }
}

/// Where a row is listed.
pub(super) fn entries(resource: &Resource) -> BTreeSet<Entry> {
    if !is_live(resource) {
        return BTreeSet::new();
    }
    let kind = resource.id().kind();
    let (tenant, at) = match resource {
        Resource::Tenant(row) => (None, row.created_at),
        Resource::ApiKey(row) => (Some(row.tenant), row.created_at),
        Resource::Code(row) => (Some(row.tenant), row.created_at),
        Resource::Endpoint(row) => (Some(row.tenant), row.created_at),
    };
    let list = List::of(kind, tenant);
    let mut lists = vec![(list.clone(), at.as_millis())];
    match resource {
        Resource::Code(code) => {
            let facets = [
                ("short_id", &code.link.short_id),
                ("external_id", &code.external_id),
                ("campaign_id", &code.campaign_id),
            ];
            let tags = code.tags.iter().map(|tag| ("tag", tag));
            let filled = facets
                .into_iter()
                .chain(tags)
                .filter(|(_, value)| !value.is_empty());
            lists.extend(filled.map(|(facet, value)| (list.with(facet, value), at.as_millis())));
        }
        // In order of id alone.
        Resource::Endpoint(endpoint) => lists.push((List::of_home(endpoint.home), 0)),
        Resource::Tenant(_) | Resource::ApiKey(_) => {}
    }
    let id = id_text(resource.id());
    lists
        .into_iter()
        .map(|(list, at)| Entry {
            list,
            at,
            id: id.clone(),
        })
        .collect()
}

/// A stored row of a kind.
pub(super) fn parse_resource(kind: ResourceKind, document: &str) -> Result<Resource> {
    Ok(match kind {
        ResourceKind::Tenant => Resource::Tenant(parse(document)?),
        ResourceKind::ApiKey => Resource::ApiKey(parse(document)?),
        ResourceKind::Code => Resource::Code(Box::new(parse(document)?)),
        ResourceKind::Endpoint => Resource::Endpoint(Box::new(parse(document)?)),
    })
}

#[derive(Debug)]
pub(super) struct Statements {
    put: PreparedStatement,
    delete: PreparedStatement,
    below: PreparedStatement,
    above: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            put: cql
                .prepare(
                    "INSERT INTO listing (list, facet, value, created_at, id) VALUES (?, ?, ?, ?, ?)
                     USING TIMESTAMP ?",
                )
                .await?,
            delete: cql
                .prepare(
                    "DELETE FROM listing USING TIMESTAMP ? WHERE list = ? AND facet = ? AND value = ?
                     AND created_at = ? AND id = ?",
                )
                .await?,
            below: cql
                .prepare(
                    "SELECT created_at, id FROM listing WHERE list = ? AND facet = ? AND value = ?
                     AND (created_at, id) < (?, ?) LIMIT ?",
                )
                .await?,
            above: cql
                .prepare(
                    "SELECT created_at, id FROM listing WHERE list = ? AND facet = ? AND value = ?
                     AND (created_at, id) > (?, ?) ORDER BY created_at ASC, id ASC LIMIT ?",
                )
                .await?,
        })
    }
}

/// A position in a list.
type Place = (i64, String);

/// Where a page begins.
fn beginning(page: &Page) -> Place {
    match &page.after {
        Some(after) => (after.created_at.as_millis(), after.id.clone()),
        None => (i64::MAX, String::new()),
    }
}

/// How far a walk goes.
struct Bounds {
    /// Rows that it finds.
    rows: usize,
    /// Entries that it looks at.
    entries: usize,
}

impl Bounds {
    /// So many rows: nearly every entry leads to one.
    fn rows(rows: usize) -> Self {
        Self {
            rows,
            entries: usize::MAX,
        }
    }
}

impl Configuration {
    /// Lists a row where it came to be with a version, and not where it went from.
    pub(super) async fn list(&self, put: &[Entry], drop: &[Entry], version: u64) -> Result<()> {
        let version = version.cast_signed();
        let puts: Vec<_> = put
            .iter()
            .map(|entry| {
                let List { name, facet, value } = &entry.list;
                let values = (name, facet, value, entry.at, &entry.id, version);
                self.steps.write(&self.listing.put, values)
            })
            .collect();
        let drops: Vec<_> = drop
            .iter()
            .map(|entry| {
                let List { name, facet, value } = &entry.list;
                let values = (version, name, facet, value, entry.at, &entry.id);
                self.steps.write(&self.listing.delete, values)
            })
            .collect();
        let side_by_side = limits::CQL_LIST_READS;
        stream::iter(puts)
            .buffer_unordered(side_by_side)
            .try_collect::<()>()
            .await?;
        stream::iter(drops)
            .buffer_unordered(side_by_side)
            .try_collect()
            .await
    }

    /// Live rows of a list that `wanted` takes, strictly below the page's beginning, newest first.
    async fn page<T: Send>(
        &self,
        kind: ResourceKind,
        list: &List,
        page: &Page,
        wanted: impl Fn(Resource) -> Option<T> + Sync,
    ) -> Result<Vec<T>> {
        let bounds = Bounds::rows(page.limit);
        let (rows, _) = self
            .walk(&self.listing.below, (kind, list), beginning(page), bounds, wanted)
            .await?;
        Ok(rows)
    }

    /// Goes through a list, some entries at a time, until there are rows enough or it has looked at entries enough; and
    /// then the last of these, if there are more.
    async fn walk<T: Send>(
        &self,
        statement: &PreparedStatement,
        (kind, list): (ResourceKind, &List),
        mut from: Place,
        mut bounds: Bounds,
        wanted: impl Fn(Resource) -> Option<T> + Sync,
    ) -> Result<(Vec<T>, Option<Place>)> {
        let mut all = Vec::new();
        while all.len() < bounds.rows {
            let now = (bounds.rows - all.len()).clamp(16, 1000).min(bounds.entries);
            let (name, facet, value) = (&list.name, &list.facet, &list.value);
            // One more says whether there is more.
            let most = i32::try_from(now + 1).unwrap_or(i32::MAX);
            let values = (name, facet, value, from.0, &from.1, most);
            let mut places = self.places(statement, values).await?;
            let more = places.len() > now;
            places.truncate(now);
            let Some(last) = places.last() else { break };
            from = last.clone();
            bounds.entries -= places.len();
            let rows: Vec<Option<Resource>> = stream::iter(places)
                .map(|place| self.listed(kind, list, place))
                .buffered(limits::CQL_LIST_READS)
                .try_collect()
                .await?;
            all.extend(rows.into_iter().flatten().filter_map(&wanted));
            if !more {
                break;
            }
            if bounds.entries == 0 {
                all.truncate(bounds.rows);
                return Ok((all, Some(from)));
            }
        }
        all.truncate(bounds.rows);
        Ok((all, None))
    }

    async fn places(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<Vec<Place>> {
        self.steps.rows(statement, values).await
    }

    /// The row behind an entry, unless the entry is stale.
    async fn listed(&self, kind: ResourceKind, list: &List, (at, id): Place) -> Result<Option<Resource>> {
        let Some(row) = self.look(resource_id(kind, &id)?).await? else {
            return Ok(None);
        };
        let resource = parse_resource(kind, &row.1)?;
        let entry = Entry {
            list: list.clone(),
            at,
            id,
        };
        Ok(entries(&resource).contains(&entry).then_some(resource))
    }

    /// A page of a tenant's (or the install's) live rows.
    pub(in super::super) async fn list_all<T: Send>(
        &self,
        kind: ResourceKind,
        tenant: Option<TenantId>,
        page: &Page,
        wanted: impl Fn(Resource) -> Option<T> + Sync,
    ) -> Result<Vec<T>> {
        self.page(kind, &List::of(kind, tenant), page, wanted).await
    }

    /// A page of a tenant's live codes.
    pub(in super::super) async fn list_codes(
        &self,
        tenant: TenantId,
        filter: &CodeFilter,
        page: &Page,
    ) -> Result<CodePage> {
        let list = list_of_codes(tenant, filter);
        let bounds = Bounds {
            // One more says whether there is more.
            rows: page.limit.saturating_add(1),
            entries: limits::CODES_SCANNED_MAX,
        };
        let wanted = |resource| match resource {
            Resource::Code(code) if passes(&code, filter) => Some(std::sync::Arc::new(*code)),
            _ => None,
        };
        let (statement, kind) = (&self.listing.below, ResourceKind::Code);
        let (codes, stopped) = self
            .walk(statement, (kind, &list), beginning(page), bounds, wanted)
            .await?;
        let page = CodePage::cut(codes, page.limit);
        let stopped = stopped.map(|(at, id)| PageKey {
            created_at: Timestamp::from_millis(at),
            id,
        });
        Ok(CodePage {
            next: page.next.or(stopped),
            ..page
        })
    }

    /// Live endpoints of a home in order of id.
    pub(in super::super) async fn list_home<T: Send>(
        &self,
        home: PartitionId,
        after: Option<EndpointId>,
        limit: usize,
        wanted: impl Fn(Resource) -> Option<T> + Sync,
    ) -> Result<Vec<T>> {
        let from = (0, after.map(|after| after.to_string()).unwrap_or_default());
        let list = List::of_home(home);
        let (statement, of) = (&self.listing.above, (ResourceKind::Endpoint, &list));
        let (rows, _) = self
            .walk(statement, of, from, Bounds::rows(limit), wanted)
            .await?;
        Ok(rows)
    }
}

fn resource_id(kind: ResourceKind, id: &str) -> Result<ResourceId> {
    use super::claims::parse_id;
    Ok(match kind {
        ResourceKind::Tenant => ResourceId::Tenant(parse_id(id)?),
        ResourceKind::ApiKey => ResourceId::ApiKey(parse_id(id)?),
        ResourceKind::Code => ResourceId::Code(parse_id(id)?),
        ResourceKind::Endpoint => ResourceId::Endpoint(parse_id(id)?),
    })
}
