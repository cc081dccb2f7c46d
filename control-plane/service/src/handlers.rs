//! Which function carries out which RPC. The role was checked in front ([`crate::access`]); handlers check the
//! tenant, the fields, and everything else.

use std::sync::Arc;

use qrelay_proto::v1::{
    self, code_service_server::CodeService, conversion_service_server::ConversionService,
    endpoint_service_server::EndpointService, event_service_server::EventService,
    replay_service_server::ReplayService, tenant_service_server::TenantService,
};
use tonic::{Request, Response, Status};

use crate::{
    api::Api, api_keys, caller::Caller, codes, conversions, deliveries, endpoint_preview, endpoint_test,
    endpoints, events, refusal, replays, streams, tenants, usage,
};

/// The services.
#[derive(Clone)]
pub(crate) struct Handlers(pub(crate) Arc<Api>);

impl Handlers {
    fn take<T>(&self, request: Request<T>) -> Result<(&Arc<Api>, Arc<Caller>, T), Status> {
        let (_, extensions, message) = request.into_parts();
        let caller = extensions.get::<Arc<Caller>>().cloned();
        let caller = caller.ok_or_else(|| refusal::unauthenticated("no key was checked"))?;
        Ok((&self.0, caller, message))
    }
}

macro_rules! serve {
    ($service:ident { $($rpc:ident: $request:ty => $answer:ty = $handler:path,)* } $($more:item)*) => {
        #[tonic::async_trait]
        impl $service for Handlers {
            $(async fn $rpc(&self, request: Request<$request>) -> Result<Response<$answer>, Status> {
                let (api, caller, message) = self.take(request)?;
                Box::pin($handler(api, &caller, message)).await.map(Response::new)
            })*
            $($more)*
        }
    };
}

serve!(TenantService {
    create_tenant: v1::CreateTenantRequest => v1::Tenant = tenants::create,
    list_tenants: v1::ListTenantsRequest => v1::ListTenantsResponse = tenants::list,
    get_tenant: v1::GetTenantRequest => v1::Tenant = tenants::read,
    update_tenant: v1::UpdateTenantRequest => v1::Tenant = tenants::update,
    delete_tenant: v1::DeleteTenantRequest => () = tenants::delete,
    get_usage: v1::GetUsageRequest => v1::Usage = usage::read,
    create_api_key: v1::CreateApiKeyRequest => v1::ApiKey = api_keys::create,
    list_api_keys: v1::ListApiKeysRequest => v1::ListApiKeysResponse = api_keys::list,
    delete_api_key: v1::DeleteApiKeyRequest => () = api_keys::delete,
});

serve!(CodeService {
    create_code: v1::CreateCodeRequest => v1::Code = codes::create,
    list_codes: v1::ListCodesRequest => v1::ListCodesResponse = codes::list,
    get_code: v1::GetCodeRequest => v1::Code = codes::read,
    update_code: v1::UpdateCodeRequest => v1::Code = codes::update,
    delete_code: v1::DeleteCodeRequest => () = codes::delete,
});

serve!(EndpointService {
    create_endpoint: v1::CreateEndpointRequest => v1::Endpoint = endpoints::create,
    list_endpoints: v1::ListEndpointsRequest => v1::ListEndpointsResponse = endpoints::list,
    get_endpoint: v1::GetEndpointRequest => v1::Endpoint = endpoints::read,
    update_endpoint: v1::UpdateEndpointRequest => v1::Endpoint = endpoints::update,
    delete_endpoint: v1::DeleteEndpointRequest => () = endpoints::delete,
    test_endpoint: v1::TestEndpointRequest => v1::TestEndpointResponse = endpoint_test::run,
    preview_endpoint: v1::PreviewEndpointRequest => v1::PreviewEndpointResponse = endpoint_preview::show,
    rotate_secret: v1::RotateSecretRequest => v1::Endpoint = endpoints::rotate,
    list_deliveries: v1::ListDeliveriesRequest => v1::ListDeliveriesResponse = deliveries::list,
    get_delivery: v1::GetDeliveryRequest => v1::Delivery = deliveries::read,
    retry_delivery: v1::RetryDeliveryRequest => v1::Delivery = deliveries::retry,
});

serve!(ConversionService {
    create_conversion: v1::CreateConversionRequest => v1::Conversion = conversions::create,
});

serve!(ReplayService {
    create_replay: v1::CreateReplayRequest => v1::Replay = replays::create,
    list_replays: v1::ListReplaysRequest => v1::ListReplaysResponse = replays::list,
    get_replay: v1::GetReplayRequest => v1::Replay = replays::read,
    cancel_replay: v1::CancelReplayRequest => v1::Replay = replays::cancel,
});

serve!(EventService {
    list_events: v1::ListEventsRequest => v1::ListEventsResponse = events::list,
    get_event: v1::GetEventRequest => v1::Event = events::read,
    stream_events: v1::StreamEventsRequest => streams::EventStream = streams::open,
}
    type StreamEventsStream = streams::EventStream;
);
