//! The API's routes: one endpoint, one file.

use std::sync::Arc;

use axum::extract::FromRef;
use axum::{Extension, Router, middleware};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::instance;
use super::observe::observe;
use super::{quota, rates};
use crate::domain::InstanceTag;
use crate::identity::owner::OwnerVerifier;
use crate::limits::InForce;
use crate::service::create_profile::CreateProfile;
use crate::service::devices::Devices;
use crate::service::freeze::Freezing;
use crate::service::identity_document::ShowIdentity;
use crate::service::prepare_transaction::PrepareTransaction;
use crate::service::show::Show;
use crate::service::sign::Sign;
use crate::service::two_factor::TwoFactor;
use crate::service::unfreeze::Unfreezing;
use crate::telemetry::metrics::Metrics;

#[cfg(fuzzing)]
pub mod fuzz_tests;
mod mpc;
mod profiles;

/// The largest body of a route that takes no MPC message.
const SMALL: usize = 32 * 1024;

/// The use cases behind the API.
#[derive(Clone)]
pub struct Api {
    /// `POST /api/v2/profiles`.
    pub create_profile: Arc<CreateProfile>,
    /// `POST /api/v1/profiles/{id}/transactions`.
    pub prepare_transaction: Arc<PrepareTransaction>,
    /// `POST /api/v1/mpc/sign`.
    pub sign: Arc<Sign>,
    /// The reading routes.
    pub show: Arc<Show>,
    /// `/api/v1/profiles/{id}/devices`.
    pub devices: Arc<Devices>,
    /// `POST /api/v1/profiles/{id}/freeze`.
    pub freezing: Arc<Freezing>,
    /// `POST /api/v1/profiles/{id}/unfreeze`.
    pub unfreezing: Arc<Unfreezing>,
    /// `/api/v1/profiles/{id}/2fa`.
    pub two_factor: Arc<TwoFactor>,
    /// `GET /api/v1/mpc/identity`.
    pub identity: Arc<ShowIdentity>,
    /// The limits whose use is told in answers.
    pub limits: Arc<InForce>,
    /// Owner proofs.
    pub verifier: Arc<OwnerVerifier>,
    /// What the outside sees of this process.
    pub instance: InstanceTag,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Every route, with its description.
pub(super) fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(profiles::create::handle))
        .routes(routes!(profiles::show::handle))
        .routes(routes!(profiles::show::handle_v1))
        .routes(routes!(
            profiles::prepare_transaction::handle,
            profiles::transactions::handle
        ))
        .routes(routes!(
            profiles::devices::enrol::handle,
            profiles::devices::list::handle
        ))
        .routes(routes!(profiles::devices::revoke::handle))
        .routes(routes!(profiles::freeze::handle))
        .routes(routes!(profiles::unfreeze::handle))
        .routes(routes!(
            profiles::two_factor::enrol::handle,
            profiles::two_factor::show::handle
        ))
        .routes(routes!(profiles::two_factor::activate::handle))
        .routes(routes!(profiles::two_factor::cancel::handle))
        .routes(routes!(mpc::sign::handle))
        .routes(routes!(mpc::session::handle))
        .routes(routes!(mpc::identity::handle))
}

/// The API.
pub fn router(api: Api) -> Router {
    Router::from(described())
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::no_method())
        .layer(Extension(Arc::clone(&api.verifier)))
        .layer(middleware::from_fn_with_state(
            (Arc::clone(&api.limits), Arc::clone(&api.metrics)),
            rates::tell,
        ))
        .layer(middleware::from_fn(quota::admit))
        .layer(middleware::from_fn_with_state(
            api.instance.clone(),
            instance::sign,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api.metrics),
            observe,
        ))
        .with_state(api)
}

/// A handler names the one use case it needs.
macro_rules! use_cases {
    ($($field:ident: $type:ty),+ $(,)?) => {$(
        impl FromRef<Api> for Arc<$type> {
            fn from_ref(api: &Api) -> Self {
                Arc::clone(&api.$field)
            }
        }
    )+};
}

use_cases! {
    create_profile: CreateProfile,
    prepare_transaction: PrepareTransaction,
    sign: Sign,
    devices: Devices,
    freezing: Freezing,
    unfreezing: Unfreezing,
    two_factor: TwoFactor,
    show: Show,
    identity: ShowIdentity,
}
