//! The two mTLS listeners: wallets' requests through the gateway, and operators.

pub mod code;
pub mod deadline;
pub mod error;
pub mod extract;
pub mod instance;
pub mod observe;
pub mod openapi;
pub mod operator;
pub mod quota;
pub mod rates;
pub mod routes;
pub mod serve;
pub mod sign_response;
pub mod tls;
