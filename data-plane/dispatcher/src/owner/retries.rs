//! Retries that a tenant asks for: deliveries that are sent again now, within their endpoint's limits.
//!
//! The command stays pending until a checkpoint holds the delivery as it was asked for, or a later attempt stands in the
//! attempt log: so a crash at any moment repeats the wish, and none is lost. Until the next attempt is recorded the
//! delivery's last row says that one follows.

use qrelay_store::{
    id::CommandId,
    store::{AttemptRow, CommandResult, DeliveryStatus},
};

use super::actor::Actor;
use crate::ledger::recall::{Recall, Recalled};

impl Actor {
    /// `last`: the delivery's last row; `after`: the last attempt that the caller knew of.
    pub(super) fn take_retry(&mut self, command: CommandId, last: Option<AttemptRow>, after: u32) {
        let Some(last) = last else {
            return self.refuse(command, "the delivery is no longer kept");
        };
        if last.number > after {
            // Before a crash, or by the schedule just now.
            return self.finish_command(command, CommandResult::Taken);
        }
        let at = self.shard.moment();
        let recalled = Recalled {
            event: last.event,
            event_type: last.event_type,
            attempts: last.number,
            first_at: last.first_at,
        };
        match self.ledger.recall(last.endpoint, recalled, at) {
            // The next look at the commands finds it again.
            Recall::Busy => {
                self.known_commands.remove(&command);
            }
            Recall::NoRoom => {
                tracing::warn!(endpoint = %last.endpoint, "a retry was refused: too many deliveries wait for the endpoint");
                self.refuse(command, "too many deliveries wait for the endpoint");
            }
            Recall::Taken { revision, follows } => {
                let wish = (last.endpoint, last.event, revision);
                self.retries.insert(command, wish);
                if follows {
                    self.add_row(AttemptRow {
                        status: DeliveryStatus::Retrying,
                        next_attempt_at: Some(at.wall),
                        ..last
                    });
                }
                self.save_soon();
                self.finish_kept_retries();
            }
        }
    }

    /// Finishes the commands whose wish outlives a crash.
    pub(super) fn finish_kept_retries(&mut self) {
        let ledger = &self.ledger;
        let kept = self
            .retries
            .iter()
            .filter(|(_, (endpoint, event, revision))| ledger.keeps_recall(*endpoint, *event, *revision));
        for command in kept.map(|(command, _)| *command).collect::<Vec<_>>() {
            self.retries.remove(&command);
            self.finish_command(command, CommandResult::Taken);
        }
    }
}
