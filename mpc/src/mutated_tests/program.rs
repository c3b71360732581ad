//! Altering a message as a few bytes say: which field, and what becomes of it.

use k256::elliptic_curve::PrimeField;
use k256::elliptic_curve::group::GroupEncoding;
use k256::{ProjectivePoint, Scalar};

use super::layout::{Field, Holds, Layout};

/// Most alterations of one message.
const STEPS: usize = 8;
/// The order of the group, as a scalar that is one too large.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];
/// The prime of the field, as a coordinate that is one too large.
const PRIME: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xfc, 0x2f,
];

/// The program; zeros follow its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = u16::from_be_bytes([self.byte(), self.byte()]);
        usize::from(number).checked_rem(bound).unwrap_or(0)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn field(&mut self, layout: &Layout) -> Field {
        let group = usize::from(self.byte()).checked_rem(layout.groups.len());
        let group = group.and_then(|group| layout.groups.get(group));
        let group = group.expect("a message has fields");
        let number = self.below(group.len());
        *group.get(number).expect("a group has fields")
    }
}

/// `honest` altered as `program` says; `other` is an honest message of the same type in another session.
pub(super) fn alter(honest: &[u8], other: &[u8], layout: &Layout, program: &[u8]) -> Vec<u8> {
    let mut input = Input(program);
    let mut altered = honest.to_vec();
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&mut altered, other, layout, &mut input);
    }
    altered
}

fn step(message: &mut Vec<u8>, other: &[u8], layout: &Layout, input: &mut Input<'_>) {
    let kind = input.byte() % 16;
    let field = input.field(layout);
    let end = message.len();
    // An earlier step may have shortened the message.
    let place = field.start.min(end)..(field.start + field.length).min(end);
    match kind {
        0 => {
            let at = place.start + input.below(field.length);
            let bit = input.byte() % 8;
            if let Some(byte) = message.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => {
            let at = place.start + input.below(field.length);
            let value = input.byte();
            if let Some(byte) = message.get_mut(at) {
                *byte = value;
            }
        }
        2 => message.truncate(place.start),
        3 => drop(message.drain(place)),
        4 => {
            let twice = message.get(place.clone()).unwrap_or_default().to_vec();
            drop(message.splice(place.start..place.start, twice));
        }
        5 => {
            let more = usize::from(input.byte());
            message.extend(input.bytes(more));
        }
        6 => {
            let length = input.below(70_000);
            message.resize(end + length, input.byte());
        }
        7 => {
            let length = usize::from(input.byte());
            drop(message.splice(place, input.bytes(length)));
        }
        // What another session said there; and all of what it said, under this session's header.
        8 | 9 => {
            let theirs = other.get(place.clone()).unwrap_or_default().to_vec();
            drop(message.splice(place, theirs));
        }
        10 => {
            let header = message.len().min(36);
            message.truncate(header);
            message.extend_from_slice(other.get(36..).unwrap_or_default());
        }
        // What stands in another field.
        11 => {
            let from = input.field(layout);
            let from = from.start.min(end)..(from.start + from.length).min(end);
            let theirs = message.get(from).unwrap_or_default().to_vec();
            drop(message.splice(place, theirs));
        }
        _ => {
            let present = message.get(place.clone()).unwrap_or_default().to_vec();
            drop(message.splice(place, value(field, &present, input)));
        }
    }
}

/// A value that means something where it stands.
fn value(field: Field, present: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let which = input.byte();
    match field.holds {
        Holds::Party => vec![match which % 6 {
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 3,
            _ => input.byte(),
        }],
        Holds::Length => length(which, present, input),
        Holds::Scalar => scalar(which, present, input).to_vec(),
        Holds::Point => point(which, present, input),
        Holds::Bytes => match which % 4 {
            0 => vec![0; field.length],
            1 => vec![0xff; field.length],
            2 => present.iter().map(|byte| !byte).collect(),
            _ => input.bytes(field.length),
        },
    }
}

fn length(which: u8, present: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    match which % 6 {
        0 => vec![0],
        1 => vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        2 => vec![0xff, 0xff, 0xff, 0x7f],
        // The same number, one byte longer.
        3 => {
            let mut padded = present.to_vec();
            if let Some(last) = padded.last_mut() {
                *last |= 0x80;
            }
            padded.push(0);
            padded
        }
        4 => {
            let mut next = present.to_vec();
            if let Some(first) = next.first_mut() {
                *first = (*first & 0x80) | (first.wrapping_add(1) & 0x7f);
            }
            next
        }
        _ => vec![input.byte(), input.byte()],
    }
}

fn scalar(which: u8, present: &[u8], input: &mut Input<'_>) -> [u8; 32] {
    let present: [u8; 32] = present.try_into().unwrap_or([1; 32]);
    let known = Option::<Scalar>::from(Scalar::from_repr(present.into())).unwrap_or(Scalar::ONE);
    let valid = match which % 9 {
        0 => Scalar::ZERO,
        1 => Scalar::ONE,
        2 => -Scalar::ONE,
        3 => known + Scalar::ONE,
        4 => -known,
        5 => known + known,
        6 => Scalar::from(u64::from(input.byte())),
        7 => return ORDER,
        _ => {
            let mut bytes = [0; 32];
            bytes.copy_from_slice(&input.bytes(32));
            return bytes;
        }
    };
    valid.to_bytes().into()
}

fn point(which: u8, present: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let compressed = |point: ProjectivePoint| point.to_affine().to_bytes().to_vec();
    let tagged = |tag: u8, x: &[u8]| [&[tag], x].concat();
    let x = present.get(1..).unwrap_or_default();
    match which % 9 {
        0 => compressed(ProjectivePoint::GENERATOR),
        1 => compressed(ProjectivePoint::GENERATOR * Scalar::from(u64::from(input.byte()) + 1)),
        // Its negative.
        2 => tagged(present.first().copied().unwrap_or(2) ^ 1, x),
        // The identity, and what may pass for it.
        3 => compressed(ProjectivePoint::IDENTITY),
        4 => vec![0; 33],
        5 => tagged(input.byte(), x),
        6 => tagged(2, &PRIME),
        7 => tagged(2, &[0xff; 32]),
        _ => tagged(2 + (input.byte() & 1), &input.bytes(32)),
    }
}
