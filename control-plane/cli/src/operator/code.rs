//! `qrelay code`: what is printed, and where it leads.

use clap::{Subcommand, ValueEnum};
use qrelay_proto::v1::{self, code_service_client::CodeServiceClient};

use super::{EtagArgs, Mask, PageArgs, RequestArgs, json_object};
use crate::{
    escape::printable,
    failure::Failure,
    output::{Column, Output},
    qr,
    session::{Authorized, ConnectArgs, Session, TenantArgs, call},
};

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("URL", "url"),
    ("STATUS", "status"),
    ("NAME", "name"),
    ("DESTINATION", "destination_url"),
    ("CREATED", "created_at"),
];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a code
    Create(Box<Create>),
    /// List codes, newest first
    List(List),
    /// Show one code
    Get {
        /// The code's id or short id
        id: String,
    },
    /// Draw a code in the terminal
    Show {
        /// The code's id or short id
        id: String,
    },
    /// Change a code; every edge knows within a second
    Update(Box<Update>),
    /// Delete a code: it answers 410 for good
    Delete {
        /// The code's id
        id: String,
        #[command(flatten)]
        etag: EtagArgs,
    },
}

#[derive(clap::Args, Debug)]
struct Create {
    /// Where a scan leads
    destination_url: String,
    /// What is printed, [A-Za-z0-9_-]{1,64}; made if not given
    #[arg(long, default_value = "", hide_default_value = true)]
    short_id: String,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(clap::Args, Debug)]
struct List {
    /// Only the code with this short id
    #[arg(long, default_value = "", hide_default_value = true)]
    short_id: String,
    /// Only codes with this tag
    #[arg(long, default_value = "", hide_default_value = true)]
    tag: String,
    /// Only codes of this campaign
    #[arg(long, default_value = "", hide_default_value = true)]
    campaign_id: String,
    /// Only codes with this external id
    #[arg(long, default_value = "", hide_default_value = true)]
    external_id: String,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(clap::Args, Debug)]
struct Update {
    /// The code's id
    id: String,
    /// Where a scan leads
    #[arg(long)]
    destination_url: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// Take all tags away
    #[arg(long, conflicts_with = "tag")]
    no_tags: bool,
    #[command(flatten)]
    etag: EtagArgs,
}

impl Create {
    fn into_request(mut self, tenant_id: String) -> v1::CreateCodeRequest {
        let tags = self.fields.given_tags();
        let (code, _) = self.fields.into_code(Some(self.destination_url), tags);
        let code = Some(v1::Code {
            short_id: self.short_id,
            ..code
        });
        v1::CreateCodeRequest {
            code,
            request_id: self.request.request_id,
            tenant_id,
        }
    }
}

impl List {
    fn into_request(self, tenant_id: String) -> v1::ListCodesRequest {
        v1::ListCodesRequest {
            page_size: self.page.page_size,
            page_token: self.page.page_token,
            tenant_id,
            short_id: self.short_id,
            tag: self.tag,
            campaign_id: self.campaign_id,
            external_id: self.external_id,
        }
    }
}

impl Update {
    fn into_request(mut self, tenant_id: String) -> Result<v1::UpdateCodeRequest, Failure> {
        let tags = if self.no_tags {
            Some(Vec::new())
        } else {
            self.fields.given_tags()
        };
        let (code, mask) = self.fields.into_code(self.destination_url, tags);
        let code = Some(v1::Code {
            etag: self.etag.etag,
            ..code
        });
        Ok(v1::UpdateCodeRequest {
            id: self.id,
            code,
            update_mask: Some(mask.finish()?),
            tenant_id,
        })
    }
}

#[derive(clap::Args, Debug, Default)]
struct Fields {
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// Whether it redirects
    #[arg(long)]
    status: Option<Status>,
    /// A tag; may be given several times, and replaces all tags
    #[arg(long)]
    tag: Vec<String>,
    /// Your campaign
    #[arg(long)]
    campaign_id: Option<String>,
    /// Your owner of this code
    #[arg(long)]
    owner_id: Option<String>,
    /// Your own id of this code
    #[arg(long)]
    external_id: Option<String>,
    /// A JSON object that is sent along with every event
    #[arg(long, value_parser = json_object, value_name = "JSON")]
    metadata: Option<prost_types::Struct>,
    /// Whom it was printed for: a JSON object
    #[arg(long, value_parser = json_object, value_name = "JSON")]
    recipient: Option<prost_types::Struct>,
    /// The query parameter in which redirects carry their event's id, such as qr_eid; "" for none
    #[arg(long, value_name = "NAME")]
    conversion_param: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Active,
    /// It answers 404
    Paused,
    /// It answers 410 (admin key)
    Blocked,
}

impl Fields {
    fn into_code(self, destination_url: Option<String>, tags: Option<Vec<String>>) -> (v1::Code, Mask) {
        let mut mask = Mask::default();
        let status = self.status.map(|status| match status {
            Status::Active => v1::CodeStatus::Active,
            Status::Paused => v1::CodeStatus::Paused,
            Status::Blocked => v1::CodeStatus::Blocked,
        });
        let code = v1::Code {
            name: mask.take("name", self.name),
            destination_url: mask.take("destination_url", destination_url),
            status: mask.take("status", status).into(),
            tags: mask.take("tags", tags),
            campaign_id: mask.take("campaign_id", self.campaign_id),
            owner_id: mask.take("owner_id", self.owner_id),
            external_id: mask.take("external_id", self.external_id),
            metadata: self
                .metadata
                .map(|metadata| mask.take("metadata", Some(metadata))),
            recipient: self
                .recipient
                .map(|recipient| mask.take("recipient", Some(recipient))),
            conversion_param: mask.take("conversion_param", self.conversion_param),
            ..v1::Code::default()
        };
        (code, mask)
    }

    fn given_tags(&mut self) -> Option<Vec<String>> {
        (!self.tag.is_empty()).then(|| std::mem::take(&mut self.tag))
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    act(args.action, args.tenant.tenant, &session, &mut out).await
}

async fn act(action: Action, tenant_id: String, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut codes = session.codes();
    match action {
        Action::Create(create) => {
            let request = create.into_request(tenant_id);
            out.one(codes.create_code(call(request)).await?.get_ref())?;
        }
        Action::List(list) => {
            let request = list.into_request(tenant_id);
            out.page(codes.list_codes(call(request)).await?.get_ref(), &COLUMNS)?;
        }
        Action::Get { id } => out.one(&find(&mut codes, id, tenant_id).await?)?,
        Action::Show { id } => show(&find(&mut codes, id, tenant_id).await?, out)?,
        Action::Update(update) => {
            let request = update.into_request(tenant_id)?;
            out.one(codes.update_code(call(request)).await?.get_ref())?;
        }
        Action::Delete { id, etag } => {
            let said = format!("deleted {id}");
            codes
                .delete_code(call(v1::DeleteCodeRequest {
                    id,
                    tenant_id,
                    etag: etag.etag,
                }))
                .await?;
            out.done(&said)?;
        }
    }
    Ok(())
}

/// The code with this id, or else with this short id, which is what people see on a printed code.
async fn find(
    codes: &mut CodeServiceClient<Authorized>,
    id: String,
    tenant_id: String,
) -> Result<v1::Code, Failure> {
    let by_id = v1::GetCodeRequest {
        id: id.clone(),
        tenant_id: tenant_id.clone(),
    };
    let unknown = match codes.get_code(call(by_id)).await {
        Ok(code) => return Ok(code.into_inner()),
        Err(status) if status.code() == tonic::Code::NotFound => status,
        Err(status) => return Err(status.into()),
    };
    let by_short_id = v1::ListCodesRequest {
        short_id: id.clone(),
        tenant_id,
        page_size: 1,
        ..v1::ListCodesRequest::default()
    };
    let found = codes.list_codes(call(by_short_id)).await?.into_inner().codes;
    // Short ids are never given out twice: there is one at most. No filter at all would have found any code.
    found.into_iter().find(|code| code.short_id == id).ok_or_else(|| {
        Failure::from(unknown).hint(
            "no code has this id or short id: `qrelay code list` shows both; with the admin key, check --tenant too",
        )
    })
}

fn show(code: &v1::Code, out: &mut Output) -> Result<(), Failure> {
    if !out.is_text() {
        return Ok(out.one(code)?);
    }
    let drawing =
        qr::draw(&code.url, qr::Ink::Colours).map_err(|error| Failure::because("cannot draw it", &error))?;
    for line in drawing.lines() {
        out.say(line)?;
    }
    out.say(&format!(
        "{}\n→ {}",
        printable(&code.url),
        printable(&code.destination_url)
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, capture::Captured};

    #[test]
    fn tags_are_replaced_cleared_or_left_alone() {
        let with = |tags: Option<Vec<String>>| Fields::default().into_code(None, tags).1.0;
        assert_eq!(with(Some(vec!["a".to_owned()])), ["tags"]);
        assert_eq!(with(Some(Vec::new())), ["tags"]);
        assert!(with(None).is_empty());
    }

    #[test]
    fn a_drawn_code_is_followed_by_its_link() {
        let captured = Captured::default();
        let code = v1::Code {
            url: "http://127.0.0.1:8080/k7m2p9qx".to_owned(),
            destination_url: "https://example.com/\u{1b}".to_owned(),
            ..v1::Code::default()
        };
        show(&code, &mut captured.output(Format::Text { width: 80 })).unwrap();
        let text = captured.text();
        assert!(
            text.contains('█')
                && text.ends_with("http://127.0.0.1:8080/k7m2p9qx\n→ https://example.com/\\u{1b}\n"),
            "{text}"
        );
    }
}
