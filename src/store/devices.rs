//! Device keys: who may speak for an owner, from when and until when.

use countersign_mpc::owner_proof::{Algorithm, PublicKey};

use super::engine::{Columns, Row, values};
use super::{Reads, StoreError, Tx, time};
use crate::clock::Timestamp;
use crate::domain::{DeviceKeyId, OwnerId, TenantId};

/// An enrolled device key. It may act from `active_at` until it is revoked.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// The thumbprint of the key.
    pub device_key_id: DeviceKeyId,
    /// The owner it speaks for.
    pub owner_id: OwnerId,
    /// The key.
    pub public_key: PublicKey,
    /// What its owner calls it.
    pub name: String,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// From when it may act.
    pub active_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl DeviceRow {
    fn read(row: &mut Columns) -> Result<Self, StoreError> {
        let device_key_id = row.parsed("device_key_id", DeviceKeyId::parse)?;
        let owner_id = row.parsed("owner_id", OwnerId::parse)?;
        let algorithm = row.named("algorithm", Algorithm::named)?;
        let public_key = PublicKey::from_stored(algorithm, &row.bytes("public_key")?);
        Ok(Self {
            device_key_id,
            owner_id,
            public_key: public_key.map_err(|_| StoreError::Corrupt {
                table: "devices",
                column: "public_key",
            })?,
            name: row.text("name")?,
            created_at: time(row.int("created_at")?),
            active_at: time(row.int("active_at")?),
            revoked_at: row.int_or_null("revoked_at")?.map(time),
        })
    }

    fn read_whole(row: Row) -> Result<Self, StoreError> {
        Self::read(&mut row.of("devices"))
    }
}

/// Who a gateway says an owner is: a user of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The issuer.
    pub issuer: String,
    /// Its user.
    pub subject: String,
}

/// A device that signed a request.
pub struct Signer {
    /// The device.
    pub device: DeviceRow,
    /// Whom its owner is bound to.
    pub subject: Option<Subject>,
    /// Whether the nonce of the request is spent.
    pub spent: bool,
}

/// The device with this key id in this tenant, revoked or not, and what is known of a nonce of its.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn signer(
    reads: &mut impl Reads,
    tenant: &TenantId,
    key: &DeviceKeyId,
    nonce: &[u8; 16],
) -> Result<Option<Signer>, StoreError> {
    let row = reads
        .query_one(
            "SELECT devices.device_key_id, devices.owner_id, devices.algorithm, devices.public_key, devices.name, \
             devices.created_at, devices.active_at, devices.revoked_at, owners.issuer, owners.subject, \
             (SELECT COUNT(*) FROM request_nonces WHERE request_nonces.device_key_id = $2 AND nonce = $3) \
             FROM devices JOIN owners ON owners.owner_id = devices.owner_id \
             WHERE devices.tenant = $1 AND devices.device_key_id = $2",
            values![tenant.as_str(), key.as_str(), nonce],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("devices");
        Ok(Signer {
            device: DeviceRow::read(&mut row)?,
            subject: subject(&mut row)?,
            spent: row.int("spent")? > 0,
        })
    })
    .transpose()
}

fn subject(row: &mut Columns) -> Result<Option<Subject>, StoreError> {
    let (issuer, subject) = (row.text_or_null("issuer")?, row.text_or_null("subject")?);
    Ok(issuer
        .zip(subject)
        .map(|(issuer, subject)| Subject { issuer, subject }))
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT device_key_id, owner_id, algorithm, public_key, name, created_at, active_at, \
             revoked_at FROM devices WHERE ",
            $condition
        )
    };
}

/// The device with this key id in this tenant, revoked or not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    tenant: &TenantId,
    key: &DeviceKeyId,
) -> Result<Option<DeviceRow>, StoreError> {
    let row = reads
        .query_one(
            select!("tenant = $1 AND device_key_id = $2"),
            values![tenant.as_str(), key.as_str()],
        )
        .await?;
    row.map(DeviceRow::read_whole).transpose()
}

/// The devices of an owner that are not revoked, all of them, in the order in which they were enrolled. What is decided
/// about devices is decided by these.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn standing(
    reads: &mut impl Reads,
    owner: OwnerId,
) -> Result<Vec<DeviceRow>, StoreError> {
    let rows = reads
        .query(
            select!("owner_id = $1 AND revoked_at IS NULL ORDER BY created_at, device_key_id"),
            values![owner.to_string()],
        )
        .await?;
    rows.into_iter().map(DeviceRow::read_whole).collect()
}

/// The hundred devices of an owner that were revoked last, the latest first: for people only.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn revoked(reads: &mut impl Reads, owner: OwnerId) -> Result<Vec<DeviceRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "owner_id = $1 AND revoked_at IS NOT NULL \
                 ORDER BY revoked_at DESC, device_key_id LIMIT 100"
            ),
            values![owner.to_string()],
        )
        .await?;
    rows.into_iter().map(DeviceRow::read_whole).collect()
}

/// Whether a device is enrolled and not revoked. It then stays so until the transaction ends: its revocation waits, and
/// sees all that the transaction did.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn hold(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    key: &DeviceKeyId,
) -> Result<bool, StoreError> {
    let sql = tx.standing_device();
    let row = tx
        .query_one(sql, values![tenant.as_str(), key.as_str()])
        .await?;
    Ok(row.is_some())
}

/// Whom an owner is bound to.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn subject_of(
    reads: &mut impl Reads,
    owner: OwnerId,
) -> Result<Option<Subject>, StoreError> {
    let row = reads
        .query_one(
            "SELECT issuer, subject FROM owners WHERE owner_id = $1",
            values![owner.to_string()],
        )
        .await?;
    row.map_or(Ok(None), |row| subject(&mut row.of("owners")))
}

/// Adds an owner.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert_owner(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    owner: OwnerId,
    subject: Option<&Subject>,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO owners (owner_id, tenant, issuer, subject, created_at) VALUES ($1, $2, $3, $4, $5)",
        values![
            owner.to_string(),
            tenant.as_str(),
            subject.map(|subject| subject.issuer.clone()),
            subject.map(|subject| subject.subject.clone()),
            now
        ],
    )
    .await?;
    Ok(())
}

/// Binds an owner who is not bound yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn bind_owner(
    tx: &mut Tx<'_>,
    owner: OwnerId,
    subject: &Subject,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "UPDATE owners SET issuer = $2, subject = $3 WHERE owner_id = $1 AND issuer IS NULL",
        values![
            owner.to_string(),
            subject.issuer.as_str(),
            subject.subject.as_str()
        ],
    )
    .await
}

/// Enrols a device key.
///
/// # Errors
/// [`StoreError`] when the database fails or the key is enrolled already.
pub async fn insert(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    device: &DeviceRow,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO devices (tenant, device_key_id, owner_id, algorithm, public_key, name, created_at, \
         active_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        values![
            tenant.as_str(),
            device.device_key_id.as_str(),
            device.owner_id.to_string(),
            device.public_key.algorithm().as_str(),
            device.public_key.as_bytes(),
            device.name.as_str(),
            device.created_at.as_micros(),
            device.active_at.as_micros(),
            device.revoked_at.map(Timestamp::as_micros)
        ],
    )
    .await?;
    Ok(())
}

/// Revokes a device; false if it is revoked already.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn revoke(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    key: &DeviceKeyId,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE devices SET revoked_at = $3 \
         WHERE tenant = $1 AND device_key_id = $2 AND revoked_at IS NULL",
        values![tenant.as_str(), key.as_str(), now],
    )
    .await
}
