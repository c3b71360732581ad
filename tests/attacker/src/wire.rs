//! Section 3 of `mpc/README.md`: frames and messages, as bytes in named fields.
//!
//! Nothing here knows what a field may hold: points and scalars are bytes, and a test puts into them what it likes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A scalar, big-endian.
pub type Scalar = [u8; 32];
/// A point, SEC1: 33 bytes, and only the identity has another length.
pub type Point = Vec<u8>;

/// The identity, as SEC1 has it.
#[must_use]
pub fn identity() -> Point {
    vec![0]
}

/// The group's generator: a point that is nobody's share and nobody's nonce.
#[must_use]
pub fn generator() -> Point {
    use k256::elliptic_curve::group::GroupEncoding;
    k256::AffinePoint::GENERATOR.to_bytes().to_vec()
}

/// Takes the last of a list away.
pub fn shorten<T>(list: &mut Vec<T>) {
    list.truncate(list.len().saturating_sub(1));
}

/// A plaintext with its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// 1.
    pub version: u8,
    /// kg1 1, kg2 2, kg3 3, sg1 4, sg2 5.
    pub kind: u8,
    /// Session id.
    pub sid: [u8; 32],
    /// Sender's index.
    pub from: u8,
    /// Receiver's index.
    pub to: u8,
    /// The message.
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame of the wallet.
    #[must_use]
    pub fn of_wallet(kind: u8, sid: [u8; 32], body: &impl Message) -> Self {
        Self {
            version: 1,
            kind,
            sid,
            from: 1,
            to: 2,
            body: body.bytes(),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let header = [
            &[self.version, self.kind],
            &self.sid[..],
            &[self.from, self.to],
        ]
        .concat();
        [header, self.body.clone()].concat()
    }

    /// Splits the header off.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let (header, body) = bytes.split_first_chunk::<36>().expect("a header");
        let [version, kind, sid @ .., from, to] = *header;
        Self {
            version,
            kind,
            sid,
            from,
            to,
            body: body.to_vec(),
        }
    }
}

/// A message, or a part of one.
pub trait Message: Sized {
    /// Writes its fields.
    fn write(&self, out: &mut Writer);

    /// Reads its fields.
    fn read(from: &mut Reader<'_>) -> Self;

    /// All its bytes.
    #[must_use]
    fn bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        self.write(&mut out);
        out.0
    }

    /// Reads a message that has nothing after it.
    #[must_use]
    fn parse(bytes: &[u8]) -> Self {
        let mut from = Reader(bytes);
        let message = Self::read(&mut from);
        assert!(from.0.is_empty(), "{} bytes are left", from.0.len());
        message
    }

    /// As the engine has it. The engine's own encoding of its messages is that of the page.
    ///
    /// # Panics
    /// If a field holds what the engine does not read.
    #[must_use]
    fn to_engine<T: DeserializeOwned>(&self) -> T {
        postcard::from_bytes(&self.bytes()).expect("the engine reads it")
    }

    /// From the engine's.
    #[must_use]
    fn of_engine<T: Serialize>(value: &T) -> Self {
        Self::parse(&postcard::to_allocvec(value).expect("the engine writes it"))
    }
}

/// Bytes of a message in the making.
pub struct Writer(Vec<u8>);

impl Writer {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.0
                .push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        self.0.push(u8::try_from(length).expect("seven bits"));
    }

    fn string(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    fn strings<S: AsRef<[u8]>>(&mut self, list: &[S]) {
        self.length(list.len());
        for bytes in list {
            self.string(bytes.as_ref());
        }
    }
}

/// Bytes of a message that are still to be read.
pub struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("more bytes");
        self.0 = rest;
        *bytes
    }

    fn length(&mut self) -> usize {
        let mut length = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte();
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        length
    }

    fn string(&mut self) -> Vec<u8> {
        let length = self.length();
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes.to_vec()
    }

    fn fixed<const N: usize>(&mut self) -> [u8; N] {
        self.string().try_into().expect("a string of this length")
    }

    fn strings<const N: usize>(&mut self) -> Vec<[u8; N]> {
        (0..self.length()).map(|_| self.fixed()).collect()
    }
}

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
