//! Which events of the types that it subscribes to an endpoint wants.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{id::CodeId, model::Code, record::Classification};

/// Conditions that must all hold; an empty one asks nothing, and one about what an event does not have neither.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Of these codes.
    pub codes: BTreeSet<CodeId>,
    /// Scans that were classified so.
    pub classifications: BTreeSet<Classification>,
    /// Scans by people.
    pub humans_only: bool,
    /// Of codes with one of these tags.
    pub tags: BTreeSet<String>,
    /// Of codes with one of these campaigns.
    pub campaigns: BTreeSet<String>,
    /// For which this holds; empty if nothing is asked.
    pub expression: String,
}

impl Filter {
    /// Whether an event of this code, if it is of one, and classified so, if it is a scan, passes.
    pub fn passes(&self, code: Option<CodeId>, classification: Option<Classification>) -> bool {
        let of_code = self.codes.is_empty() || code.is_none_or(|code| self.codes.contains(&code));
        let of_class = classification.is_none_or(|class| {
            (self.classifications.is_empty() || self.classifications.contains(&class))
                && !(self.humans_only && class.is_bot())
        });
        of_code && of_class
    }

    /// Whether it asks for more than [`Filter::passes`] is given.
    pub fn needs_code(&self) -> bool {
        !(self.tags.is_empty() && self.campaigns.is_empty() && self.expression.is_empty())
    }

    /// Whether an event of this code, as it stood then, passes what asks for the code.
    pub fn passes_code(&self, code: &Code) -> bool {
        let tagged = self.tags.is_empty() || code.tags.iter().any(|tag| self.tags.contains(tag));
        tagged && (self.campaigns.is_empty() || self.campaigns.contains(&code.campaign_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: CodeId = CodeId::from_bytes([1; 10]);
    const OTHER: CodeId = CodeId::from_bytes([2; 10]);

    #[test]
    fn everything_passes_a_filter_that_asks_nothing() {
        let filter: Filter = serde_json::from_str("{}").unwrap();
        for class in Classification::ALL {
            assert!(filter.passes(Some(CODE), Some(class)));
        }
        assert!(filter.passes(Some(CODE), None) && filter.passes(None, None));
    }

    #[test]
    fn all_conditions_hold_that_the_event_can_be_asked_about() {
        let filter = Filter {
            codes: [CODE].into(),
            classifications: [Classification::Human, Classification::Preview].into(),
            ..Filter::default()
        };
        assert!(filter.passes(Some(CODE), Some(Classification::Preview)));
        assert!(!filter.passes(Some(CODE), Some(Classification::Crawler)));
        assert!(!filter.passes(Some(OTHER), Some(Classification::Human)));
        assert!(filter.passes(Some(CODE), None), "only scans are classified");
        assert!(!filter.passes(Some(OTHER), None));
        assert!(filter.passes(None, None));
        let humans = Filter {
            humans_only: true,
            ..filter
        };
        assert!(humans.passes(Some(CODE), Some(Classification::Human)));
        assert!(!humans.passes(Some(CODE), Some(Classification::Preview)));
        assert!(humans.passes(Some(CODE), None));
    }
}
