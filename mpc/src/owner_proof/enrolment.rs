//! What a new device signs so that an enrolled one may vouch for it: that it holds its key, for this one profile.

use super::{DeviceKey, PublicKey};
use crate::lp::Lp;

/// Longest time from the making of an enrolment to its end, in seconds: it travels by hand.
pub const MAX_ENROLMENT: i64 = 24 * 3600;

/// The statement of a new device.
#[derive(Clone, Copy, Debug)]
pub struct Enrolment<'a> {
    /// The environment.
    pub environment_id: &'a [u8; 32],
    /// The tenant.
    pub tenant: &'a str,
    /// The profile through which it is enrolled; the device then speaks for the profile's owner.
    pub profile_id: &'a str,
    /// What its owner calls the device.
    pub name: &'a str,
    /// Fresh.
    pub nonce: &'a [u8; 16],
    /// Unix seconds after which the statement is void.
    pub expires: u64,
}

impl Enrolment<'_> {
    /// The signature of the new device.
    #[must_use]
    pub fn sign(&self, device: &DeviceKey) -> [u8; 64] {
        device.sign(&self.statement(&device.public_key()))
    }

    /// What `key` signs: `LP("device-enrol/1", environment, tenant, profile, name, thumbprint, nonce, expires)`. It is no
    /// signature base of a request: that begins with a quotation mark.
    #[must_use]
    pub fn statement(&self, key: &PublicKey) -> Vec<u8> {
        Lp::new("device-enrol/1")
            .bytes(self.environment_id)
            .str(self.tenant)
            .str(self.profile_id)
            .str(self.name)
            .str(&key.thumbprint())
            .bytes(self.nonce)
            .u64(self.expires)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::Enrolment;
    use crate::owner_proof::{Algorithm, DeviceKey};

    const ENROLMENT: Enrolment<'_> = Enrolment {
        environment_id: &[1; 32],
        tenant: "default",
        profile_id: "profile",
        name: "phone",
        nonce: &[5; 16],
        expires: 1_795_338_000,
    };

    #[test]
    fn s4_an_enrolment_holds_for_every_one_of_its_parts() {
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let device = DeviceKey::from_bytes(algorithm, &[3; 32]).unwrap();
            let other = DeviceKey::from_bytes(algorithm, &[4; 32])
                .unwrap()
                .public_key();
            let (key, signature) = (device.public_key(), ENROLMENT.sign(&device));
            let holds =
                |enrolment: Enrolment<'_>| key.verify(&enrolment.statement(&key), &signature);
            assert!(holds(ENROLMENT));
            assert!(!key.verify(&ENROLMENT.statement(&other), &signature));
            assert!(!other.verify(&ENROLMENT.statement(&other), &signature));
            for altered in [
                Enrolment {
                    environment_id: &[2; 32],
                    ..ENROLMENT
                },
                Enrolment {
                    tenant: "other",
                    ..ENROLMENT
                },
                Enrolment {
                    profile_id: "profild",
                    ..ENROLMENT
                },
                Enrolment {
                    name: "phones",
                    ..ENROLMENT
                },
                Enrolment {
                    nonce: &[6; 16],
                    ..ENROLMENT
                },
                Enrolment {
                    expires: 1_795_338_001,
                    ..ENROLMENT
                },
                // The same letters, cut elsewhere.
                Enrolment {
                    tenant: "defaultp",
                    profile_id: "rofile",
                    ..ENROLMENT
                },
            ] {
                assert!(!holds(altered), "{altered:?}");
            }
        }
    }
}
