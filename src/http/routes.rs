//! The API's routes: one endpoint, one file.

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Extension, Router, middleware};

use super::error::ApiError;
use super::instance;
use super::observe::observe;
use crate::domain::InstanceTag;
use crate::identity::owner::OwnerVerifier;
use crate::service::create_profile::CreateProfile;
use crate::service::identity_document::ShowIdentity;
use crate::service::prepare_transaction::PrepareTransaction;
use crate::service::show::Show;
use crate::service::sign::Sign;
use crate::telemetry::metrics::Metrics;

mod mpc;
mod profiles;

/// The largest body of a route that takes no MPC message.
const SMALL: usize = 32 * 1024;

/// The use cases behind the API.
pub struct Api {
    /// `POST /api/v2/profiles`.
    pub create_profile: Arc<CreateProfile>,
    /// `POST /api/v1/profiles/{id}/transactions`.
    pub prepare_transaction: Arc<PrepareTransaction>,
    /// `POST /api/v1/mpc/sign`.
    pub sign: Arc<Sign>,
    /// The reading routes.
    pub show: Arc<Show>,
    /// `GET /api/v1/mpc/identity`.
    pub identity: Arc<ShowIdentity>,
    /// Owner proofs.
    pub verifier: Arc<OwnerVerifier>,
    /// What the outside sees of this process.
    pub instance: InstanceTag,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// The API.
pub fn router(api: Api) -> Router {
    Router::new()
        .route(
            "/api/v2/profiles",
            post(profiles::create::handle).with_state(api.create_profile),
        )
        .route(
            "/api/v2/profiles/{id}",
            get(profiles::show::handle).with_state(Arc::clone(&api.show)),
        )
        .route(
            "/api/v1/profiles/{id}/transactions",
            post(profiles::prepare_transaction::handle).with_state(api.prepare_transaction),
        )
        .route(
            "/api/v1/mpc/sign",
            post(mpc::sign::handle).with_state(api.sign),
        )
        .route(
            "/api/v1/mpc/sessions/{id}",
            get(mpc::session::handle).with_state(api.show),
        )
        .route(
            "/api/v1/mpc/identity",
            get(mpc::identity::handle).with_state(api.identity),
        )
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::no_method())
        .layer(Extension(api.verifier))
        .layer(middleware::from_fn_with_state(api.instance, instance::sign))
        .layer(middleware::from_fn_with_state(api.metrics, observe))
}
