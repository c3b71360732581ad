//! The messages and their parts, in the order in which their fields travel.

use super::{Message, Point, Reader, Scalar, Writer};

/// T1: the party is committed to its nonce point; its oblivious-transfer extension.
#[derive(Clone, PartialEq, Eq)]
pub struct First {
    /// Sender's index.
    pub sender: u8,
    /// Receiver's index.
    pub receiver: u8,
    /// Binds the message to its session.
    pub session_binding: [u8; 32],
    /// To the nonce point.
    pub commitment: [u8; 32],
    /// Of this extension.
    pub nonce: [u8; 32],
    /// 256 rows of 78 bytes.
    pub u: Vec<u8>,
    /// Check value.
    pub x: [u8; 26],
    /// Check values, one for each row.
    pub t: Vec<[u8; 26]>,
}

/// Bytes of a row of [`First::u`].
pub const ROW: usize = 78;

impl Message for First {
    fn write(&self, out: &mut Writer) {
        out.raw(&[self.sender, self.receiver]);
        out.raw(&self.session_binding);
        out.raw(&self.commitment);
        out.raw(&self.nonce);
        out.string(&self.u);
        out.raw(&self.x);
        out.length(self.t.len());
        for value in &self.t {
            out.raw(value);
        }
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            sender: from.byte(),
            receiver: from.byte(),
            session_binding: from.array(),
            commitment: from.array(),
            nonce: from.array(),
            u: from.string(),
            x: from.array(),
            t: (0..from.length()).map(|_| from.array()).collect(),
        }
    }
}

/// T2: the party opens its nonce point; its multiplication.
#[derive(Clone, PartialEq, Eq)]
pub struct Second {
    /// Sender's index.
    pub sender: u8,
    /// Receiver's index.
    pub receiver: u8,
    /// Binds the message to its session.
    pub session_binding: [u8; 32],
    /// Check point.
    pub gamma_u: Point,
    /// Check point.
    pub gamma_v: Point,
    /// Correction of the mask.
    pub psi: Scalar,
    /// The sender's public share.
    pub public_share: Point,
    /// The sender's nonce point.
    pub instance_point: Point,
    /// Opens the commitment to it.
    pub salt: Vec<u8>,
    /// 4 times 416.
    pub tau: Vec<Vec<Scalar>>,
    /// Of this extension.
    pub extension_salt: [u8; 32],
    /// Check value.
    pub verify_r: [u8; 32],
    /// 2.
    pub verify_u: Vec<Scalar>,
    /// 2.
    pub gamma: Vec<Scalar>,
}

impl Message for Second {
    fn write(&self, out: &mut Writer) {
        out.raw(&[self.sender, self.receiver]);
        out.raw(&self.session_binding);
        out.string(&self.gamma_u);
        out.string(&self.gamma_v);
        out.string(&self.psi);
        out.string(&self.public_share);
        out.string(&self.instance_point);
        out.string(&self.salt);
        out.length(self.tau.len());
        for row in &self.tau {
            out.strings(row);
        }
        out.raw(&self.extension_salt);
        out.raw(&self.verify_r);
        out.strings(&self.verify_u);
        out.strings(&self.gamma);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            sender: from.byte(),
            receiver: from.byte(),
            session_binding: from.array(),
            gamma_u: from.string(),
            gamma_v: from.string(),
            psi: from.fixed(),
            public_share: from.string(),
            instance_point: from.string(),
            salt: from.string(),
            tau: (0..from.length()).map(|_| from.strings()).collect(),
            extension_salt: from.array(),
            verify_r: from.array(),
            verify_u: from.strings(),
            gamma: from.strings(),
        }
    }
}

/// The party's part of the signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Last {
    /// Denominator.
    pub u: Scalar,
    /// Numerator.
    pub w: Scalar,
}

impl Message for Last {
    fn write(&self, out: &mut Writer) {
        out.string(&self.u);
        out.string(&self.w);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            u: from.fixed(),
            w: from.fixed(),
        }
    }
}

/// What a party commits to in a key generation.
#[derive(Clone, PartialEq, Eq)]
pub struct Commitments {
    /// To the proof of its key share.
    pub key: [u8; 32],
    /// To its zero-share seed.
    pub zero_share: [u8; 32],
    /// To its chain code.
    pub chain_code: [u8; 32],
}

impl Message for Commitments {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.key);
        out.raw(&self.zero_share);
        out.raw(&self.chain_code);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            key: from.array(),
            zero_share: from.array(),
            chain_code: from.array(),
        }
    }
}

/// A proof of knowledge of a discrete logarithm.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    /// What is proven.
    pub point: Point,
    /// 64.
    pub commitments: Vec<Point>,
    /// 64 times a challenge, of 4 bytes, and its response.
    pub answers: Vec<(Vec<u8>, Scalar)>,
}

impl Message for Proof {
    fn write(&self, out: &mut Writer) {
        out.string(&self.point);
        out.strings(&self.commitments);
        out.length(self.answers.len());
        for (challenge, response) in &self.answers {
            out.string(challenge);
            out.string(response);
        }
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            point: from.string(),
            commitments: (0..from.length()).map(|_| from.string()).collect(),
            answers: (0..from.length())
                .map(|_| (from.string(), from.fixed()))
                .collect(),
        }
    }
}

/// The base oblivious transfers of a pair.
#[derive(Clone, PartialEq, Eq)]
pub struct Setup {
    /// Sender's index.
    pub sender: u8,
    /// Receiver's index.
    pub receiver: u8,
    /// Of the sender's transfer key.
    pub proof: Proof,
    /// Of the public gadgets.
    pub nonce: Scalar,
    /// 256 encryption proofs, which nobody needs to look into.
    pub encryption: Vec<[u8; 540]>,
    /// Of the transfers.
    pub seed: [u8; 32],
}

impl Message for Setup {
    fn write(&self, out: &mut Writer) {
        out.raw(&[self.sender, self.receiver]);
        self.proof.write(out);
        out.string(&self.nonce);
        out.length(self.encryption.len());
        for proof in &self.encryption {
            out.raw(proof);
        }
        out.raw(&self.seed);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            sender: from.byte(),
            receiver: from.byte(),
            proof: Proof::read(from),
            nonce: from.fixed(),
            encryption: (0..from.length()).map(|_| from.array()).collect(),
            seed: from.array(),
        }
    }
}

/// What opens [`Commitments`], and the base oblivious transfers.
#[derive(Clone, PartialEq, Eq)]
pub struct Openings {
    /// Proof of the key share.
    pub key: Proof,
    /// Zero-share seed.
    pub zero_share_seed: [u8; 32],
    /// Its salt.
    pub zero_share_salt: Vec<u8>,
    /// The base oblivious transfers.
    pub setup: Setup,
    /// Chain code.
    pub chain_code: [u8; 32],
    /// Its salt.
    pub chain_code_salt: Vec<u8>,
}

impl Message for Openings {
    fn write(&self, out: &mut Writer) {
        self.key.write(out);
        out.raw(&self.zero_share_seed);
        out.string(&self.zero_share_salt);
        self.setup.write(out);
        out.raw(&self.chain_code);
        out.string(&self.chain_code_salt);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            key: Proof::read(from),
            zero_share_seed: from.array(),
            zero_share_salt: from.string(),
            setup: Setup::read(from),
            chain_code: from.array(),
            chain_code_salt: from.string(),
        }
    }
}

impl Message for [u8; 32] {
    fn write(&self, out: &mut Writer) {
        out.raw(self);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        from.array()
    }
}

/// A scalar with its length before it, as lists and single ones are written.
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment(pub Scalar);

impl Message for Fragment {
    fn write(&self, out: &mut Writer) {
        out.string(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self(from.fixed())
    }
}

impl<A: Message, B: Message> Message for (A, B) {
    fn write(&self, out: &mut Writer) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        (A::read(from), B::read(from))
    }
}

impl<A: Message, B: Message, C: Message> Message for (A, B, C) {
    fn write(&self, out: &mut Writer) {
        self.0.write(out);
        self.1.write(out);
        self.2.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        (A::read(from), B::read(from), C::read(from))
    }
}

/// kg1: clientNonce, fragment.
pub type Keygen1 = ([u8; 32], Fragment);
/// Its answer: serverNonce, fragment, commitments.
pub type Keygen1Reply = ([u8; 32], Fragment, Commitments);
/// kg2: commitments, openings, canaryNonce.
pub type Keygen2 = (Commitments, Openings, [u8; 32]);
/// Its answer: openings, T1.
pub type Keygen2Reply = (Openings, First);
/// kg3: T1, T2.
pub type Keygen3 = (First, Second);
/// Its answer, and sg2: T2, last.
pub type Closing = (Second, Last);
/// sg1: clientNonce, T1.
pub type Sign1 = ([u8; 32], First);
/// Its answer: T1, T2.
pub type Sign1Reply = (First, Second);
