//! Section 3 of `mpc/README.md`: frames and messages, as bytes in named fields.
//!
//! Nothing here knows what a field may hold: points and scalars are bytes, and a test puts into them what it likes.

mod messages;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use messages::{
    Closing, Commitments, First, Fragment, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3,
    Last, Openings, Proof, ROW, Second, Setup, Sign1, Sign1Reply,
};

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
