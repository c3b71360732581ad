//! The words of the product as types: ids, lifecycles and values. No IO.

pub mod ban;
pub mod environment;
pub mod freeze;
pub mod ids;
pub mod key;
pub mod profile;
pub mod rate;
pub mod session;

pub use ban::{Ban, ChainHead, OtSetup};
pub use environment::{EnvironmentId, EnvironmentKind};
pub use freeze::{Freeze, FreezeScope, PlacedBy, Reason, Target};
pub use ids::{
    DecisionId, DeviceKeyId, EnrolmentId, IdempotencyKey, InstanceId, InstanceTag, OperationId,
    OwnerId, ProfileId, RotationId, SessionId, TenantId, TransactionId,
};
pub use key::{Generation, KeyState, Phase, Rotation, Suspicion};
pub use profile::{DeviceName, ProfileName, ProfileState};
pub use rate::{RateClass, RateSubject};
pub use session::{SessionKind, SessionState};
