//! Where each field of a message is, written down from `README.md` and not from our own encoder.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Bytes,
    Scalar,
    Point,
    /// How many bytes or elements follow, as a varint.
    Length,
    /// A party's index.
    Party,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) holds: Holds,
}

/// The fields of a message. Those that come many times are one group, so that none drowns in the others.
pub(super) struct Layout {
    pub(super) groups: Vec<Vec<Field>>,
    /// Bytes of the whole message.
    pub(super) length: usize,
}

/// Elements of the lists that `README.md` names.
const REPETITIONS: usize = 64;
const ENCRYPTION_PROOFS: usize = 256;
const ROWS: usize = 256;
const ROW: usize = 78;
const CHECK: usize = 26;
const WIDTHS: usize = 4;
const BATCH: usize = 416;

impl Layout {
    pub(super) fn kg1() -> Self {
        Self::framed(|ruler| {
            ruler.bytes(32);
            ruler.scalar();
        })
    }

    pub(super) fn kg1_reply() -> Self {
        Self::framed(|ruler| {
            ruler.bytes(32);
            ruler.scalar();
            ruler.commitments();
        })
    }

    pub(super) fn kg2() -> Self {
        Self::framed(|ruler| {
            ruler.commitments();
            ruler.openings();
            ruler.bytes(32);
        })
    }

    pub(super) fn kg2_reply() -> Self {
        Self::framed(|ruler| {
            ruler.openings();
            ruler.first();
        })
    }

    /// kg3, and the answer to sg1.
    pub(super) fn first_and_second() -> Self {
        Self::framed(|ruler| {
            ruler.first();
            ruler.second();
        })
    }

    /// sg2, and the answer to kg3.
    pub(super) fn second_and_last() -> Self {
        Self::framed(|ruler| {
            ruler.second();
            ruler.scalar();
            ruler.scalar();
        })
    }

    pub(super) fn sg1() -> Self {
        Self::framed(|ruler| {
            ruler.bytes(32);
            ruler.first();
        })
    }

    fn framed(body: impl FnOnce(&mut Ruler)) -> Self {
        let mut ruler = Ruler::default();
        ruler.bytes(1);
        ruler.bytes(1);
        ruler.bytes(32);
        ruler.parties();
        body(&mut ruler);
        Self {
            groups: ruler.groups,
            length: ruler.at,
        }
    }
}

/// Measures fields in their order.
#[derive(Default)]
struct Ruler {
    at: usize,
    groups: Vec<Vec<Field>>,
    /// The group of the next field, inside a list whose elements have groups already.
    next: Option<usize>,
}

impl Ruler {
    fn field(&mut self, length: usize, holds: Holds) {
        let field = Field {
            start: self.at,
            length,
            holds,
        };
        let known = self.next.and_then(|next| self.groups.get_mut(next));
        match known {
            Some(group) => group.push(field),
            None => self.groups.push(vec![field]),
        }
        self.next = self.next.map(|next| next + 1);
        self.at += length;
    }

    fn bytes(&mut self, length: usize) {
        self.field(length, Holds::Bytes);
    }

    /// A length as a varint.
    fn count(&mut self, elements: usize) {
        let bits = usize::BITS - elements.leading_zeros();
        let bytes = usize::try_from(bits.div_ceil(7)).expect("few bits");
        self.field(bytes, Holds::Length);
    }

    fn string(&mut self, length: usize) {
        self.count(length);
        self.bytes(length);
    }

    fn scalar(&mut self) {
        self.field(1, Holds::Length);
        self.field(32, Holds::Scalar);
    }

    fn point(&mut self) {
        self.field(1, Holds::Length);
        self.field(33, Holds::Point);
    }

    fn parties(&mut self) {
        self.field(1, Holds::Party);
        self.field(1, Holds::Party);
    }

    /// Elements of one form: each field of theirs is one group.
    fn times(&mut self, count: usize, element: impl Fn(&mut Self)) {
        let outer = self.next;
        let first = outer.unwrap_or(self.groups.len());
        for number in 0..count {
            self.next = if number == 0 { outer } else { Some(first) };
            element(self);
        }
        self.next = outer.and(self.next);
    }

    fn commitments(&mut self) {
        for _ in 0..3 {
            self.bytes(32);
        }
    }

    fn openings(&mut self) {
        self.proof();
        self.bytes(32);
        self.string(64);
        self.setup();
        self.bytes(32);
        self.string(64);
    }

    fn proof(&mut self) {
        self.point();
        self.count(REPETITIONS);
        self.times(REPETITIONS, Self::point);
        self.count(REPETITIONS);
        self.times(REPETITIONS, |ruler| {
            ruler.string(4);
            ruler.scalar();
        });
    }

    fn setup(&mut self) {
        self.parties();
        self.proof();
        self.scalar();
        self.count(ENCRYPTION_PROOFS);
        self.times(ENCRYPTION_PROOFS, Self::encryption_proof);
        self.bytes(32);
    }

    fn encryption_proof(&mut self) {
        for _ in 0..2 {
            for _ in 0..4 {
                self.point();
            }
            self.scalar();
        }
        for _ in 0..4 {
            self.point();
        }
        self.scalar();
        self.scalar();
    }

    fn first(&mut self) {
        self.parties();
        for _ in 0..3 {
            self.bytes(32);
        }
        self.count(ROWS * ROW);
        self.times(ROWS, |ruler| ruler.bytes(ROW));
        self.bytes(CHECK);
        self.count(ROWS);
        self.times(ROWS, |ruler| ruler.bytes(CHECK));
    }

    fn second(&mut self) {
        self.parties();
        self.bytes(32);
        self.point();
        self.point();
        self.scalar();
        self.point();
        self.point();
        self.string(64);
        self.count(WIDTHS);
        self.times(WIDTHS, |ruler| {
            ruler.count(BATCH);
            ruler.times(BATCH, Self::scalar);
        });
        self.bytes(32);
        self.bytes(32);
        for _ in 0..2 {
            self.count(2);
            self.times(2, Self::scalar);
        }
    }
}
