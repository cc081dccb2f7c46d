//! The judge of every backend: one test per rule of [`crate::store`], and random operations against a model with
//! crashes in between.
//!
//! A backend's tests implement [`Fixture`] and call [`crate::conformance_tests`], which makes a `#[tokio::test]` of
//! each rule. The tests say nothing about how a backend works; what only one backend does is tested beside it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "each test is named after its rule, and a failed expectation fails it"
)]

pub mod attempts;
pub mod commands;
pub mod config;
pub mod conversions;
pub mod leases;
pub mod lists;
pub mod log;
pub mod model;
pub mod registry;
pub mod samples;

use futures::Future;

use crate::store::SharedStore;

/// An empty store of a backend, which can be opened again.
pub trait Fixture: Send {
    /// How many random histories are played: enough to meet every pair of operations, in about two seconds where a store
    /// is opened and answers in no time.
    const HISTORIES: u32 = 48;

    /// Makes an empty store.
    fn open() -> impl Future<Output = Self> + Send;

    /// The store.
    fn store(&self) -> SharedStore;

    /// Ends the store in an orderly way and opens what it left.
    fn restart(self) -> impl Future<Output = Self> + Send;

    /// Takes what would be left if the machine's power failed now, and opens that. Calls may be under way: what was
    /// acknowledged before this is called must be there.
    fn crash(self) -> impl Future<Output = Self> + Send;
}

/// Makes a test of each rule: `conformance_tests!(MyFixture);`
///
/// `conformance_tests!(MyFixture, #[ignore = "needs it"], log leases);` gives each test an attribute, and takes the
/// rules of these traits only (`model` is the random operations).
#[macro_export]
macro_rules! conformance_tests {
    ($fixture:ty) => {
        $crate::conformance_tests!(
            @all $fixture, [], log config registry lists leases attempts commands conversions model
        );
    };
    ($fixture:ty, # $attribute:tt, $($module:ident)*) => {
        $crate::conformance_tests!(@all $fixture, [# $attribute], $($module)*);
    };
    (@all $fixture:ty, $attributes:tt, $($module:ident)*) => {
        $($crate::conformance_tests!(@ $module $fixture, $attributes);)*
    };
    (@ log $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, log {
            a_batch_is_read_back_as_it_was_appended,
            repeating_a_batch_is_harmless,
            another_batch_under_the_same_key_is_refused_and_changes_nothing,
            reading_stops_before_a_missing_batch,
            a_read_is_bounded_in_bytes_but_brings_at_least_one_batch,
            a_tail_ends_before_the_first_missing_batch,
            partitions_and_writers_are_apart,
            heads_never_move_back,
            the_first_close_of_a_writer_wins,
            a_fence_is_of_one_writer_and_for_good,
            a_writer_that_was_not_registered_cannot_publish,
            batches_are_paged_backwards_without_repeats,
            batches_are_paged_forwards_from_any_time,
            concurrent_appends_are_all_stored,
        });
    };
    (@ config $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, config {
            changes_are_numbered_without_gaps_in_one_order,
            a_change_is_hinted_at_after_it_is_stored,
            events_of_a_tenant_are_paged_backwards,
            each_change_of_a_health_is_announced_once_and_only_what_is_new,
            a_health_is_announced_once_by_concurrent_callers,
            a_deleted_endpoint_has_no_health_to_announce,
        });
    };
    (@ registry $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, registry {
            what_was_created_is_found,
            every_version_of_a_code_stays,
            a_change_of_another_version_is_a_conflict,
            of_concurrent_changes_one_wins,
            a_repeated_change_is_made_once,
            an_id_is_used_once,
            a_short_link_belongs_to_its_code_for_ever,
            no_spelling_of_a_lower_case_link_passes_to_another_tenant,
            short_links_are_case_sensitive_and_by_host,
            a_repeated_request_creates_once,
            of_concurrent_requests_with_one_id_one_is_carried_out,
            a_request_id_with_another_body_is_refused,
            an_expired_request_id_is_forgotten,
            a_limit_is_kept_by_concurrent_creates,
            a_deleted_row_makes_room,
            secrets_are_kept_replaced_and_cleared_with_their_endpoint,
            a_rotation_keeps_the_newest_secret_until_its_hour_and_no_older_one,
            a_refused_change_touches_nothing,
            the_last_use_of_a_key_moves_forward_only,
            claimed_partitions_follow_one_another_and_know_what_came_before_them,
            of_concurrent_claims_of_partitions_each_gets_its_own,
            no_more_partitions_are_claimed_than_an_install_may_have,
        });
    };
    (@ lists $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, lists {
            lists_are_newest_first_and_pages_neither_repeat_nor_skip,
            a_page_says_where_the_next_one_begins_while_there_is_one,
            deleted_rows_are_found_but_not_listed,
            codes_are_filtered_by_every_field_given,
            a_changed_code_moves_between_filters,
            endpoints_are_listed_by_home,
            a_tenants_rows_are_its_own,
        });
    };
    (@ leases $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, leases {
            a_lease_is_claimed_only_as_expected,
            of_concurrent_claims_one_applies,
            a_save_moves_the_beat_and_the_rows_together,
            a_save_under_another_fence_changes_nothing,
            a_save_of_the_largest_size_is_kept_whole,
            a_released_lease_keeps_its_checkpoint,
            usage_is_summed_over_partitions,
            usage_counts_in_partitions_of_a_tenants_own,
            a_chunk_never_changes,
            rows_of_a_kind_are_found_by_what_their_ids_begin_with,
            members_are_listed_until_they_leave,
        });
    };
    (@ attempts $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, attempts {
            a_delivery_is_listed_with_its_last_attempt,
            deliveries_are_paged_newest_first,
            a_repeated_attempt_is_recorded_once,
            a_delivery_without_attempts_counts_none,
            deliveries_are_found_by_status_type_code_and_time,
            one_look_at_a_long_delivery_log_is_bounded,
            what_became_of_a_batch_is_found_without_repeats,
        });
    };
    (@ commands $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, commands {
            pending_commands_come_oldest_first_until_they_are_finished,
            every_kind_of_command_and_result_is_kept_as_it_was,
            the_first_result_of_a_command_wins,
            a_repeated_command_is_put_down_once,
            too_many_pending_commands_are_refused,
            commands_and_results_are_hinted_at,
        });
    };
    (@ conversions $fixture:ty, $attributes:tt) => {
        $crate::conformance_tests!(@tests $fixture, $attributes, conversions {
            of_concurrent_claims_of_a_conversion_one_is_made,
            conversions_are_apart_by_tenant_and_external_id,
            an_unfinished_conversion_is_taken_from_the_writer_that_had_it_only,
            a_finished_conversion_keeps_its_first_address,
        });
    };
    (@ model $fixture:ty, [$($attribute:tt)*]) => {
        #[test]
        $($attribute)*
        fn random_operations_with_faults_and_crashes_agree_with_the_model() {
            $crate::conformance::model::random_operations_agree::<$fixture>();
        }
    };
    (@tests $fixture:ty, $attributes:tt, $module:ident { $($name:ident,)* }) => {
        mod $module {
            use super::*;

            $($crate::conformance_tests!(@test $fixture, $attributes, $module, $name);)*
        }
    };
    (@test $fixture:ty, [$($attribute:tt)*], $module:ident, $name:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $name() {
            let fixture = <$fixture as $crate::conformance::Fixture>::open().await;
            let store = $crate::conformance::Fixture::store(&fixture);
            $crate::conformance::$module::$name(&store).await;
        }
    };
}
