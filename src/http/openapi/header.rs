//! Request headers that only some routes take, for `params(…)`. Those of every signed request are added by the parent.

use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, PartialSchema};

use super::text;

macro_rules! headers {
    ($($(#[doc = $doc:literal])+ $type:ident: $name:literal, $schema:ty, $required:ident;)+) => {$(
        $(#[doc = $doc])+
        pub enum $type {}

        impl IntoParams for $type {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                let header = ParameterBuilder::new()
                    .name($name)
                    .parameter_in(ParameterIn::Header)
                    .required(Required::$required)
                    .description(Some(concat!($($doc),+).trim_start()))
                    .schema(Some(<$schema>::schema()));
                vec![header.build()]
            }
        }
    )+};
}

headers! {
    /// The session, by which the gateway finds the instance that holds its state. Nobody trusts it.
    Session: "MPC-Session", text::SessionId, False;
    /// Chosen by the client for each new request, and bound to its owner, its route and its body: the same request may
    /// be sent again with it, signed anew.
    IdempotencyKey: "Idempotency-Key", text::IdempotencyKey, True;
    /// As everywhere; required in the first request only.
    FirstIdempotencyKey: "Idempotency-Key", text::IdempotencyKey, False;
    /// As everywhere, but not required: this request is told apart by its session and its body as well.
    OptionalIdempotencyKey: "Idempotency-Key", text::IdempotencyKey, False;
}
