//! What a person sees of the demo, on standard output; nothing when the summary is asked for as JSON.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use secrecy::ExposeSecret;
use serde_json::Value;

use super::{
    ledger::Summary,
    receiver::{Receiver, Webhook},
    setup::Stage,
};
use crate::{escape::printable, failure::Failure, operator::tail, qr};

/// Webhooks printed while scans are made: enough to see what they are, few enough to read.
const FIRST_WEBHOOKS: u64 = 5;

/// Where it is shown.
pub(crate) struct Show {
    to: Mutex<Box<dyn Write + Send>>,
    ink: qr::Ink,
}

impl Show {
    /// On standard output.
    pub(crate) fn stdout() -> Self {
        let ink = if io::stdout().is_terminal() {
            qr::Ink::Colours
        } else {
            qr::Ink::Blocks
        };
        Self {
            to: Mutex::new(Box::new(io::stdout())),
            ink,
        }
    }

    /// Nowhere.
    pub(crate) fn silent() -> Self {
        Self {
            to: Mutex::new(Box::new(io::sink())),
            ink: qr::Ink::Blocks,
        }
    }

    /// The short link, its QR, and what can be tried.
    pub(crate) fn opening(&self, stage: &Stage, scans: Option<u64>) -> Result<(), Failure> {
        let url = printable(&stage.code.url);
        let drawing = qr::draw(&stage.code.url, self.ink)
            .map_err(|error| Failure::because("cannot draw the code", &error))?;
        self.say(&format!(
            "{drawing}\n{url}\n→ {}\n",
            printable(&stage.code.destination_url)
        ))?;
        match scans {
            Some(count) => self.say(&format!("{count} scans; the first webhooks:\n")),
            None => self.say(&try_this(stage)),
        }
    }

    /// Every webhook as it arrives, at most so many.
    pub(crate) async fn webhooks(&self, mut receiver: Receiver, count: u64) -> Result<(), Failure> {
        self.print(&mut receiver, count).await
    }

    /// The first few.
    pub(crate) async fn first_webhooks(&self, receiver: &mut Receiver) -> Result<(), Failure> {
        self.print(receiver, FIRST_WEBHOOKS).await
    }

    async fn print(&self, receiver: &mut Receiver, count: u64) -> Result<(), Failure> {
        let mut printed = 0;
        while printed < count {
            let Some(webhook) = receiver.webhooks.recv().await else {
                break;
            };
            self.say(&line(&webhook))?;
            printed += 1;
        }
        Ok(())
    }

    /// The result.
    pub(crate) fn summary(&self, summary: &Summary) -> Result<(), Failure> {
        self.say(&summary_text(summary))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(to, "{text}")?;
        Ok(to.flush()?)
    }
}

/// The summary for programs.
pub(crate) fn json(summary: &Value) -> Result<(), Failure> {
    let mut to = io::stdout();
    writeln!(to, "{summary}")?;
    Ok(to.flush()?)
}

fn line(webhook: &Webhook) -> String {
    let again = if webhook.repeated { "  (again)" } else { "" };
    format!("✓ verified  {}{again}", tail::line(&webhook.event))
}

fn try_this(stage: &Stage) -> String {
    let (api, ops, key) = (
        stage.addresses.api,
        stage.addresses.ops,
        stage.key.expose_secret(),
    );
    let (url, code) = (printable(&stage.code.url), printable(&stage.code.id));
    let auth = format!("-H 'Authorization: Bearer {key}'");
    format!(
        "Scan it, or paste:\n\n  \
         curl -i '{url}'\n\n\
         Lead it elsewhere, and scan again:\n\n  \
         curl -X PATCH {auth} -H 'Content-Type: application/json' -d '{{\"destination_url\":\"https://example.org/\"}}' 'http://{api}/v1/codes/{code}'\n\n\
         What was recorded, the API, and the metrics:\n\n  \
         curl {auth} 'http://{api}/v1/events'\n  \
         curl 'http://{api}/openapi.json'\n  \
         curl 'http://{ops}/metrics'\n\n\
         Every webhook appears here once its signature is verified. Ctrl-C ends the demo and removes its data.\n"
    )
}

fn summary_text(summary: &Summary) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"));
    format!(
        "\nscans       {}\nanswered    {}\nrecorded    {}\ndelivered   {}\nduplicates  {}\nlost        {}\n\
         scan to webhook  p50 {}, p99 {}\nelapsed     {} s",
        summary.scans,
        summary.answered,
        summary.recorded,
        summary.delivered,
        summary.duplicates,
        summary.lost,
        ms(summary.p50_ms),
        ms(summary.p99_ms),
        summary.elapsed_s,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_every_figure() {
        let summary = Summary {
            scans: 10,
            answered: 9,
            recorded: 9,
            delivered: 8,
            duplicates: 1,
            lost: 1,
            p50_ms: Some(4.2),
            p99_ms: None,
            elapsed_s: 0.3,
        };
        insta::assert_snapshot!(summary_text(&summary), @r"

        scans       10
        answered    9
        recorded    9
        delivered   8
        duplicates  1
        lost        1
        scan to webhook  p50 4.2 ms, p99 -
        elapsed     0.3 s
        ");
    }

    #[test]
    fn a_webhook_is_a_line_without_control_characters() {
        let event = serde_json::json!({"id": "evt_1", "type": "scan.created", "data": {"destination_url": "\u{1b}[2J"}});
        let line = line(&Webhook {
            event,
            repeated: true,
        });
        assert_eq!(line, "✓ verified  scan.created  evt_1  → \\u{1b}[2J  (again)");
    }
}
