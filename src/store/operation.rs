//! What a durable operation is: its key, its work inside a transaction, and the transaction.

use super::engine::{Connection, Row, Value};
use super::{AuditRecord, CommitError, StoreError, time};
use crate::clock::{self, Timestamp};
use crate::domain::{DeviceKeyId, OperationId, OwnerId, ProfileId, RateSubject, Target, TenantId};

/// What an operation concerns. Operations with the same key exclude each other and run in the order in
/// which they were handed over; whatever an operation reads and then relies on belongs to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(Option<i64>);

impl Key {
    /// Nothing that another operation changes.
    pub const NONE: Self = Self(None);
    /// The keys and settings of the whole environment.
    pub const ENVIRONMENT: Self = Self(Some(1));
    /// The audit chain.
    pub const CHAIN: Self = Self(Some(2));
    /// Rows that nobody asks for any more.
    pub const RETENTION: Self = Self(Some(3));
    /// The list of bans.
    pub const BANS: Self = Self(Some(4));
    /// Spending limits that add up what several profiles spend.
    pub const SPENDING: Self = Self(Some(5));
    /// What looks at freezes of more than one profile. Odd, and [`Key::NONE`] counts as even: of the two lanes that
    /// freezes have to themselves, one places them and the other waits for what looked before.
    pub const FREEZES: Self = Self(Some(7));

    /// A profile with its key, sessions and transactions.
    #[must_use]
    pub fn profile(id: ProfileId) -> Self {
        Self::hash(&[&id.to_string()])
    }

    /// An owner with their devices.
    #[must_use]
    pub fn owner(id: OwnerId) -> Self {
        Self::hash(&["owner", &id.to_string()])
    }

    /// The log of a subject's requests.
    #[must_use]
    pub fn rate(subject: RateSubject) -> Self {
        match subject {
            RateSubject::Profile(id) => Self::profile(id),
            RateSubject::Owner(id) => Self::owner(id),
            RateSubject::User(_) => Self::hash(&[&subject.to_text()]),
        }
    }

    /// The freezes of a target.
    #[must_use]
    pub fn freeze(target: &Target) -> Self {
        Self::hash(&["freeze", &target.to_string()])
    }

    /// A device that has no profile yet.
    #[must_use]
    pub fn device(tenant: &TenantId, device: &DeviceKeyId) -> Self {
        Self::hash(&[tenant.as_str(), device.as_str()])
    }

    /// The same in every process. Two things with one number only wait for each other.
    fn hash(parts: &[&str]) -> Self {
        // FNV-1a.
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Some(hash.cast_signed()))
    }

    pub(super) const fn number(self) -> Option<i64> {
        self.0
    }

    pub(super) fn lane(self, lanes: usize) -> usize {
        let number = self.0.unwrap_or_default().cast_unsigned();
        let lanes = u64::try_from(lanes).unwrap_or(1).max(1);
        usize::try_from(number % lanes).unwrap_or_default()
    }
}

/// One durable state change with its audit record.
pub trait Operation: Send + 'static {
    /// What the operation returns once it is committed.
    type Output: Send + 'static;
    /// Why it may refuse, having looked at the rows.
    type Refusal: Send + 'static;

    /// What it concerns.
    fn key(&self) -> Key;

    /// What else it concerns. It excludes operations on that too; in which order they run is not said.
    fn also(&self) -> Key {
        Key::NONE
    }

    /// What it only looks at, and what stays as it is until its end: it excludes operations on that, and not
    /// others that look at it too.
    fn looks_at(&self) -> Key {
        Key::NONE
    }

    /// Reads and writes rows inside the transaction. SQL only: no HSM, no RPC, no policy engine. It may
    /// be called again after a try that left nothing behind.
    ///
    /// # Errors
    /// [`CommitError::Refused`] rolls everything back.
    fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(Self::Output, AuditRecord), CommitError<Self::Refusal>>> + Send;
}

/// A change that is no state of anything, so it leaves no record: chaining records, looking again later.
pub(crate) trait Upkeep: Send + 'static {
    /// What it returns once it is committed.
    type Output: Send + 'static;

    /// What it concerns.
    fn key(&self) -> Key;

    /// Reads and writes rows inside the transaction; may be called again.
    fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

/// Something that rows can be read through: the transaction of an operation, or a [`Reader`].
pub trait Reads: Send {
    /// The rows of a query.
    #[doc(hidden)]
    fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// The first row of a query.
    #[doc(hidden)]
    fn query_one(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send {
        async move { Ok(self.query(sql, values).await?.into_iter().next()) }
    }
}

/// The transaction of one durable operation.
pub struct Tx<'a> {
    connection: &'a mut Connection,
    operation_id: OperationId,
    now: Timestamp,
    changed: bool,
}

impl<'a> Tx<'a> {
    pub(super) const fn new(
        connection: &'a mut Connection,
        operation_id: OperationId,
        now: Timestamp,
    ) -> Self {
        Self {
            connection,
            operation_id,
            now,
            changed: false,
        }
    }

    /// Whether any row was changed.
    pub(super) const fn changed(&self) -> bool {
        self.changed
    }

    /// The id of the operation, which is also the id of its audit record.
    #[must_use]
    pub const fn operation_id(&self) -> OperationId {
        self.operation_id
    }

    /// The time of the operation: every row it writes carries this one.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The query of [`super::devices::hold`].
    pub(super) const fn standing_device(&self) -> &'static str {
        self.connection.standing_device()
    }

    /// The time of the database server, which all processes of it share; ours where there is no server.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn server_clock(&mut self) -> Result<Timestamp, StoreError> {
        let theirs = self.connection.server_clock().await?;
        Ok(theirs.map_or_else(clock::now, time))
    }

    /// Changes rows; how many.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        let rows = self.connection.execute(sql, values).await?;
        self.changed |= rows > 0;
        Ok(rows)
    }

    /// Changes at most one row; whether it did.
    pub(super) async fn execute_one(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<bool, StoreError> {
        Ok(self.execute(sql, values).await? == 1)
    }
}

impl Reads for Tx<'_> {
    async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query(sql, values).await?)
    }
}
